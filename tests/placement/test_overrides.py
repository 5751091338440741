"""provider.yaml: what is read, what is refused, and what a node gets of it."""

import os
import uuid
from pathlib import Path

import pytest

from stocktake.errors import SettingsError
from stocktake.model.provider import Inventory
from stocktake.placement.overrides import FILE_BYTES_MAX, overrides_for, read_overrides
from tests.placement.making import ROOT, stock

FULL = f"""
meta:
  schema_version: '1.0'
providers:
  - identification:
      uuid: {ROOT.upper()}
    inventories:
      additional:
        - CUSTOM_LICENCE:
            total: 22
            reserved: 2
            min_unit: 1
            max_unit: 10
            step_size: 2
            allocation_ratio: 1.5
        - CUSTOM_BARE:
            total: 5
    traits:
      additional:
        - CUSTOM_GOLD
  - identification:
      name: other-node
    traits:
      additional: [CUSTOM_SILVER]
  - identification:
      uuid: $COMPUTE_NODE
    traits:
      additional: [CUSTOM_ANY]
"""


def entry(ident: str = "name: n", body: str = "traits: {additional: [CUSTOM_A]}") -> str:
    return f"{{identification: {{{ident}}}, {body}}}"


def document(*entries: str, version: str = "'1.0'") -> str:
    return f"meta: {{schema_version: {version}}}\nproviders: [{', '.join(entries)}]\n"


def inventory(fields: str, name: str = "CUSTOM_A") -> str:
    return document(entry(body=f"inventories: {{additional: [{{{name}: {{{fields}}}}}]}}"))


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_given_a_full_file_when_read_then_each_node_gets_its_own(tmp_path: Path) -> None:
    overrides = read_overrides(write(tmp_path, a=FULL))
    own = overrides_for(overrides, "node-1", ROOT)
    assert own.root is not None
    assert own.root.inventories == {
        "CUSTOM_LICENCE": Inventory(total=22, reserved=2, min_unit=1, max_unit=10, step_size=2, allocation_ratio=1.5),
        # What is not said is Placement's default.
        "CUSTOM_BARE": stock(5, max_unit=2**31 - 1),
    }
    assert own.root.traits == {"CUSTOM_GOLD"}
    named = overrides_for(overrides, "other-node", str(uuid.uuid4())).root
    assert named is not None
    assert named.traits == {"CUSTOM_SILVER"}
    anyone = overrides_for(overrides, "third", str(uuid.uuid4()))
    assert anyone.root is not None
    assert anyone.root.traits == {"CUSTOM_ANY"}
    assert anyone.problems == ()
    assert overrides.warnings == ()


def test_given_a_node_named_by_uuid_and_by_name_when_asked_then_the_uuid_counts_and_it_is_a_problem(
    tmp_path: Path,
) -> None:
    one = document(entry(f"uuid: {ROOT}"))
    two = document(entry("name: node-1", "traits: {additional: [CUSTOM_B]}"))
    own = overrides_for(read_overrides(write(tmp_path, one=one, two=two)), "node-1", ROOT)
    assert own.root is not None
    assert own.root.traits == {"CUSTOM_A"}
    assert [problem.code for problem in own.problems] == ["override-twice"]
    assert "one.yaml" in own.problems[0].text
    assert "two.yaml" in own.problems[0].text


@pytest.mark.parametrize("location", [None, ""])
def test_given_no_location_when_read_then_nothing_is_added(location: str | None) -> None:
    overrides = read_overrides(location)
    assert overrides_for(overrides, "n", ROOT).root is None
    assert overrides.warnings == ()


def test_given_a_folder_without_files_when_read_then_nothing_is_added_and_a_warning_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("no: yaml")
    for folder in (tmp_path, tmp_path / "missing"):
        overrides = read_overrides(folder)
        assert overrides.by_id == {}
        assert str(folder) in overrides.warnings[0]


def test_given_a_newer_minor_version_when_read_then_what_is_unknown_is_ignored_with_a_warning(tmp_path: Path) -> None:
    text = (
        document(entry(body="traits: {additional: [CUSTOM_A], remove: [X]}, fresh: 1"), version="'1.7'") + "more: 1\n"
    )
    overrides = read_overrides(write(tmp_path, a=text))
    assert overrides.by_id["n"].traits == {"CUSTOM_A"}
    assert "1.7" in overrides.warnings[0]


def test_given_an_entry_that_adds_nothing_when_read_then_it_is_ignored_with_a_warning(tmp_path: Path) -> None:
    overrides = read_overrides(write(tmp_path, a=document(entry(body="traits: {}"))))
    assert overrides.by_id == {}
    assert "n adds no" in overrides.warnings[0]


def test_given_aliases_when_read_then_they_are_followed(tmp_path: Path) -> None:
    text = document(entry(body="traits: &t {additional: [CUSTOM_A]}"), entry("name: m", "traits: *t"))
    assert read_overrides(write(tmp_path, a=text)).by_id["m"].traits == {"CUSTOM_A"}


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "null"),
        ("[]", "Expected `object`"),
        ("meta: {}", "schema_version"),
        ("providers: []", "meta"),
        (document(version="1.0"), "Expected `str`"),
        (document(version="'2.0'"), "only major version 1"),
        (document(version="one"), "not of the form"),
        (document(version="'1.x'"), "not of the form"),
        (document("{}"), "identification"),
        (document("{identification: {}, traits: {additional: [CUSTOM_A]}}"), "exactly one of uuid and name"),
        (document(entry(f"name: n, uuid: {ROOT}")), "exactly one of uuid and name"),
        (document(entry("uuid: no")), r"providers\[0\].identification.uuid"),
        (document(entry("name: ''")), r"providers\[0\].identification.name"),
        (document(entry("id: 3")), "identification"),
        (document(entry(body="traits: {additional: [HW_CPU_X86_AVX]}")), "only CUSTOM_ traits.*HW_CPU_X86_AVX"),
        (document(entry(body="traits: {additional: [custom]}")), r"traits.additional\[0\]"),
        (document(entry(body="traits: {additional: CUSTOM_A}")), "Expected `array`"),
        (inventory("total: 5", "VCPU"), "only CUSTOM_ resource classes.*VCPU"),
        (inventory("total: 5", "custom"), "additional"),
        (inventory("reserved: 5"), "total"),
        (inventory("total: five"), "Expected `int`"),
        (inventory("total: 0"), ">= 1"),
        (inventory("total: 4294967296"), "<= 2147483647"),
        (inventory("total: 5, reserved: 6"), "reserved 6 is above total 5"),
        (inventory("total: 5, allocation_ratio: 0"), "> 0"),
        (inventory("total: 5, alocation_ratio: 1"), "alocation_ratio"),
        (document(entry(), entry()), "n is defined in a.yaml already"),
        (document(entry("uuid: $COMPUTE_NODE"), entry("uuid: $COMPUTE_NODE")), "COMPUTE_NODE is defined in a.yaml"),
        ("meta: {", "not YAML"),
        ("meta: !!python/object:os.system {}", "not YAML"),
        ("a: 2025-99-99", "can't be understood"),
        ("\x00", "not YAML"),
        (BOMB, "unfolds to more than"),
        (MERGES, "unfolds to more than"),
        ("&a [*a]", "contains itself"),
        ("[" * 5000, "can't be understood|not YAML"),
        ("# " + "x" * FILE_BYTES_MAX, "larger than"),
        (FULL + "\nproviders: []\n", "line 30: has the key 'providers' twice"),
        (document(entry(body="traits: {additional: []}, traits: {additional: [CUSTOM_A]}")), "key 'traits' twice"),
        (inventory("total: 1, total: 2"), "key 'total' twice"),
        (f"base: &b {{x: 1}}\n{document()}more: {{<<: *b, <<: *b}}\n", "key '<<' twice"),
    ],
)
def test_given_a_wrong_file_when_read_then_the_error_says_which_and_where(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        read_overrides(write(tmp_path, a=text))
    assert "a.yaml" in str(caught.value)


def test_given_two_files_when_one_provider_is_in_both_then_both_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"b\.yaml.*a\.yaml"):
        read_overrides(write(tmp_path, a=document(entry()), b=document(entry())))


def test_given_a_file_that_cant_be_read_when_read_then_the_error_names_it(tmp_path: Path) -> None:
    # No page of a process begins at 0.
    (tmp_path / "a.yaml").symlink_to("/proc/self/mem")
    with pytest.raises(SettingsError, match=r"a\.yaml: can't be read"):
        read_overrides(tmp_path)


@pytest.mark.parametrize("kind", ["a pipe", "a directory", "a device", "a link to a pipe", "a link to nothing"])
def test_given_something_that_is_no_file_when_read_then_nobody_waits_and_the_error_names_it(
    tmp_path: Path, kind: str
) -> None:
    path, other = tmp_path / "a.yaml", tmp_path / "other"
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
        case "a device":
            path.symlink_to("/dev/zero")
        case "a link to a pipe":
            os.mkfifo(other)
            path.symlink_to(other)
        case _:
            path.symlink_to(other)
    with pytest.raises(SettingsError, match=r"a\.yaml: is no regular file"):
        read_overrides(tmp_path)
