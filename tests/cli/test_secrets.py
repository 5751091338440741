"""Nothing that signs in is printed, logged or told to programs, whatever setting it is in and whatever goes wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.errors import HIDDEN, QUOTED_MAX, StocktakeError, quoted, redact
from stocktake.settings.table import rows
from tests.cli.program import Program

CANARY = "c4nary/s3cret@x"
QUOTED = "c4nary%2Fs3cret%40x"
SCHEMES = ("postgresql", "sqlite", "http", "https", "rabbit", "qemu+ssh", "test")
# Nobody is there, or it is no address at all.
PLACES = ("127.0.0.1:1", "127.0.0.1:none", "nowhere.invalid:1,127.0.0.1:1")
COMMANDS = (
    ["doctor"],
    ["refresh"],
    ["nodes"],
    ["config", "show"],
    ["config", "check"],
    ["agent", "--once"],
    ["fit", "--vcpus", "1"],
)
PLUGIN = {"auth_url": f"http://u:{QUOTED}@127.0.0.1:1/v3", "username": "u", "password": CANARY, "project_name": "p"}


def values(name: str, hide: str) -> Iterator[dict[str, str]]:
    """Give settings in which this one holds something secret."""
    if hide == "secret":
        yield {name: CANARY, "server.url": "http://127.0.0.1:1"}
    elif hide == "options":
        section = name.partition(".")[0]
        for plugin in ("v3password", "admin_token", "nonsense"):
            given = {**PLUGIN, "token": CANARY} if plugin != "v3password" else PLUGIN
            yield {f"{section}.auth_type": plugin, **{f"{name}.{option}": value for option, value in given.items()}}
    else:
        for scheme in SCHEMES:
            for place in PLACES:
                yield {name: f"{scheme}://user:{QUOTED}@{place}/x?sslmode=disable&sslpassword={QUOTED}"}
        yield {name: f"host=127.0.0.1 user=u password={CANARY}"}


MODES = {
    "placement": {"placement.mode": "remote"},
    "ironic": {"compute_driver": "ironic"},
    "libvirt": {"compute_driver": "libvirt"},
    "notifications": {"notifications.enabled": "true"},
}


@pytest.mark.parametrize("name", [row.name for row in rows().values() if row.hide])
def test_given_a_secret_in_a_setting_when_anything_fails_then_it_is_nowhere_in_the_output(
    tmp_path: Path, name: str
) -> None:
    tried = 0
    for number, settings in enumerate(values(name, rows()[name].hide)):
        program = Program(tmp_path)
        program.settings = {**MODES.get(name.partition(".")[0], {}), **settings}
        # All commands say what a part says; where it is reached, two of them show how it is said.
        for command in COMMANDS if number == 0 else COMMANDS[:2]:
            for flags in (["-vv"], ["--json", "--log-json"]):
                result = program.run(*command[:1], *command[1:], *flags)
                for form in (CANARY, QUOTED, "c4nary"):
                    assert form not in result.out + result.err, (settings, command, flags, result)
                tried += 1
    assert tried >= 2 * len(COMMANDS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://u:p@w@host/db now", "at postgresql://u:***@host/db now"),
        ("https://abcdef@host/ said", "https://***@host/ said"),
        ("dsn user=u password=abc sslpassword='x y'", "dsn user=u password=*** sslpassword='*** y'"),
        ('{"password": "abc", "name": "n"}', '{"password": "***", "name": "n"}'),
        ("{'X-Auth-Token': 'gAAAA'}", "{'X-Auth-Token': '***'}"),
        ("X-Auth-Token: gAAAA", "X-Auth-Token: ***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("token stk_abc-DEF is unknown", "token stk_*** is unknown"),
        ("http://host:8778/placement", "http://host:8778/placement"),
        ("mail a@b.c, the password is wrong: no token", "mail a@b.c, the password is wrong: no token"),
    ],
)
def test_given_text_with_a_secret_then_it_alone_is_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
    error = StocktakeError(text, where=text, remedy=text)
    assert (error.what, error.where, error.remedy, error.args) == (shown, shown, shown, (shown,))
    assert HIDDEN in shown or shown == text


def test_given_what_a_server_says_then_it_is_one_line_and_not_more_than_anybody_reads() -> None:
    assert quoted(" a\n b ") == "a b"
    assert len(quoted("x" * 10_000)) == QUOTED_MAX
