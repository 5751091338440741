"""What `doctor` says of how one signs in at a real Keystone, for a Placement that asks it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.servers.keystone import ADMIN, READER, REGION, SERVICE, SYSTEM_ADMIN, Cloud, User
from tests.servers.placement import free_port


@dataclass(frozen=True, slots=True)
class Said:
    """What `doctor` says of Placement, and its exit code."""

    code: int
    text: str
    remedy: str


def examined(directory: Path, cloud: Cloud, user: User | None = SERVICE, /, **changes: object) -> Said:
    """Run `doctor` as this user; a change of None takes a setting away."""
    auth = {f"auth.{name}": value for name, value in cloud.keystone.auth_of(user).items()} if user else {}
    chosen = {"auth_type": "password", "cafile": cloud.cafile, "region_name": REGION, "interface": "internal"}
    given = {"mode": "remote", "retries_max": 0, **chosen, **auth, **changes}
    program = Program(directory)
    program.settings = {f"placement.{name}": str(value) for name, value in given.items() if value is not None}
    result = program.run("doctor", "--json")
    (check,) = (one for one in result.data if one["part"] == "placement")
    return Said(code=result.code, text=check["text"], remedy=check["remedy"])


@pytest.mark.parametrize("user", [SERVICE, ADMIN])
def test_given_a_role_that_placement_takes_when_examined_then_the_address_of_the_catalogue_is_shown(
    tmp_path: Path, cloud: Cloud, user: User
) -> None:
    said = examined(tmp_path, cloud, user)
    assert (said.code, said.text, said.remedy) == (0, f"remote at {cloud.placement.url}, version 1.39", "")


def test_given_an_application_credential_when_examined_then_it_is_enough(tmp_path: Path, cloud: Cloud) -> None:
    credential = {f"auth.{name}": value for name, value in cloud.keystone.application_credential_of(SERVICE).items()}
    said = examined(tmp_path, cloud, None, auth_type="v3applicationcredential", **credential)
    assert (said.code, said.text) == (0, f"remote at {cloud.placement.url}, version 1.39")

    wrong = {**credential, "auth.application_credential_secret": "another"}
    said = examined(tmp_path, cloud, None, auth_type="v3applicationcredential", **wrong)
    assert said.code == 1
    assert "Keystone refused the sign-in: " in said.text
    assert said.remedy == (
        "Check placement.auth: application_credential_id and application_credential_secret, and that it has not "
        "expired."
    )


def test_given_a_reader_when_examined_then_the_role_that_lacks_is_named(tmp_path: Path, cloud: Cloud) -> None:
    said = examined(tmp_path, cloud, READER)
    assert said.code == 1
    assert said.text == (
        f"GET {cloud.placement.url}/resource_providers?name=node-00000: refused with 403: Access was denied to this "
        "resource. Policy does not allow placement:resource_providers:list to be performed."
    )
    assert said.remedy == (
        "User reader has in project service the roles: reader. Placement wants `service`: "
        "`openstack role add --user reader --project service service`."
    )


def test_given_a_system_scope_when_examined_then_a_project_is_asked_for(tmp_path: Path, cloud: Cloud) -> None:
    said = examined(tmp_path, cloud, SYSTEM_ADMIN)
    assert said.code == 1
    assert "refused with 403: Access was denied to this resource. placement:resource_providers:list" in said.text
    assert said.remedy == (
        "User system-admin signed in for the whole system, and Placement wants a role in a project: set "
        "placement.auth.project_name and project_domain_name instead of system_scope."
    )


def test_given_no_project_when_examined_then_one_is_asked_for(tmp_path: Path, cloud: Cloud) -> None:
    said = examined(tmp_path, cloud, **{"auth.project_name": None, "auth.project_domain_id": None})
    assert (said.code, said.text) == (
        1,
        f"{cloud.keystone.auth_url}: Keystone gave an empty catalogue, as to a user who signs in without a project",
    )
    assert "Set placement.auth.project_name and project_domain_name" in said.remedy


@pytest.mark.parametrize(
    "wrong", [{"auth.password": "another"}, {"auth.username": "nobody"}, {"auth.project_name": "admin"}]
)
def test_given_keystone_refuses_when_examined_then_what_may_be_wrong_is_named(
    tmp_path: Path, cloud: Cloud, wrong: dict[str, object]
) -> None:
    # Keystone gives one answer to all three, on purpose.
    said = examined(tmp_path, cloud, **wrong)
    assert said.code == 1
    name = wrong.get("auth.username", SERVICE.name)
    assert said.text.startswith(f"{cloud.keystone.auth_url}: Keystone refused the sign-in of user {name}: ")
    assert "HTTP 401" in said.text
    assert said.remedy == (
        "Check placement.auth: username, password and user_domain_name, and that the user has a role in the project."
    )
    assert SERVICE.password not in said.text + said.remedy


def test_given_no_authority_when_examined_then_its_file_is_asked_for(tmp_path: Path, cloud: Cloud) -> None:
    said = examined(tmp_path, cloud, cafile=None)
    assert said.code == 3
    assert said.text.startswith(f"{cloud.keystone.auth_url}: the certificate of Keystone can't be trusted: ")
    assert said.remedy == (
        "Set placement.cafile to the file of the authority that signed it, or correct the name in "
        "placement.auth.auth_url."
    )

    said = examined(tmp_path, cloud, None, cafile=None, auth_type="none", url=cloud.placement.url)
    assert said.code == 3
    assert said.text.startswith(f"GET {cloud.placement.url}/: the certificate of Placement can't be trusted: ")
    assert said.remedy.endswith("or correct the name in placement.url.")


@pytest.mark.parametrize("by_url", [True, False])
def test_given_an_authority_that_is_not_there_when_examined_then_it_is_named(
    tmp_path: Path, cloud: Cloud, *, by_url: bool
) -> None:
    said = examined(tmp_path, cloud, cafile=tmp_path / "ca.pem", url=cloud.placement.url if by_url else None)
    assert said.code == 1
    assert f"{tmp_path}/ca.pem" in said.text
    assert said.remedy == "Check placement.cafile."


def test_given_keystone_is_away_when_examined_then_that_is_said_of_it(tmp_path: Path, cloud: Cloud) -> None:
    away = f"https://127.0.0.1:{free_port()}/v3"
    said = examined(tmp_path, cloud, **{"auth.auth_url": away})
    assert said == Said(
        code=3,
        text=f"{away}: no connection to Keystone: Connection refused",
        remedy="Check that Keystone runs and that placement.auth.auth_url is right; "
        "it is tried again at every refresh.",
    )


def test_given_placement_is_away_when_examined_then_that_is_said_of_it(tmp_path: Path, cloud: Cloud) -> None:
    away = f"https://127.0.0.1:{free_port()}"
    said = examined(tmp_path, cloud, url=away)
    assert said == Said(
        code=3,
        text=f"GET {away}/: no connection to Placement: Connection refused",
        remedy="Check that Placement runs and that placement.url is right; it is tried again at every refresh.",
    )


def test_given_another_address_than_keystones_when_examined_then_that_is_said(tmp_path: Path, cloud: Cloud) -> None:
    elsewhere = f"{cloud.keystone.url}/identity/v3"
    said = examined(tmp_path, cloud, **{"auth.auth_url": elsewhere})
    assert said.code == 1
    assert said.text.startswith(f"{elsewhere}: there is no Keystone: ")
    assert said.remedy == "Check placement.auth.auth_url; it mostly ends in /v3."


@pytest.mark.parametrize("wrong", [{"region_name": "Elsewhere"}, {"interface": "admin"}])
def test_given_the_catalogue_has_no_such_placement_when_examined_then_what_chose_it_is_named(
    tmp_path: Path, cloud: Cloud, wrong: dict[str, object]
) -> None:
    said = examined(tmp_path, cloud, **wrong)
    assert said.code == 1
    assert said.text.startswith(f"{cloud.keystone.auth_url}: Keystone's catalogue does not lead to Placement: ")
    assert "Check placement.region_name and interface" in said.remedy


def test_given_nobody_signs_in_when_examined_then_that_is_asked_for(tmp_path: Path, cloud: Cloud) -> None:
    said = examined(tmp_path, cloud, None, auth_type="none", url=cloud.placement.url)
    assert said.code == 1
    assert "refused with 401" in said.text
    assert said.remedy == (
        "Check placement.auth_type and placement.auth: Placement needs a sign-in with the role `service`."
    )
