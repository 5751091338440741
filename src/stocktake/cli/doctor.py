"""
`doctor`: what is wrong here, and what to do. Invariant: one line a part, each with its remedy.
"""

import click

from stocktake.cli.options import Command
from stocktake.cli.session import Session

_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}
# Where the text begins, after mark and part.
_INDENT = 19


@click.command(
    "doctor",
    short_help="Check everything here, and say what to do.",
    cls=Command,
    example="""
    $ stocktake doctor
    $ stocktake --config /etc/stocktake/new.toml doctor
    $ stocktake doctor --json | jq -r '.data[] | select(.verdict != "ok") | .remedy'
    """,
)
@click.pass_obj
def doctor_command(session: Session) -> int:
    """Check everything this host needs, and say what to do.

    Settings, permissions, ledger, hypervisor, Placement, identity, clock, agent,
    nodes. Exit code 1 if something was found, 3 if something could not be
    reached.
    """
    from dataclasses import asdict

    from stocktake.cli.checks import Check, examine
    from stocktake.cli.screen import clean, screen_of, wrapped, write, write_json

    session.command = "doctor"
    screen = screen_of(session)
    checks: list[Check] = []
    for check in examine(session):
        checks.append(check)
        if session.json:
            continue
        mark, colour = _MARKS[check.verdict]
        remedy = f" -> {check.remedy}" if check.remedy else ""
        lines = wrapped(screen, clean(f"{check.text}{remedy}"), indent=_INDENT)
        write(screen, f"{screen.paint(mark, fg=colour)}  {check.part:<12} {lines[0]}")
        for line in lines[1:]:
            write(screen, f"{'':{_INDENT}}{line}")
    code = 3 if any(check.unreachable for check in checks) else int(any(check.verdict != "ok" for check in checks))
    if session.json:
        write_json(session, [asdict(check) for check in checks], exit_code=code)
    return code
