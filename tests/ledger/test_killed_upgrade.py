"""An upgrade that is killed at any moment: the next program completes it, and all data is there."""

import subprocess
import sys
from pathlib import Path

# As many as the scripts of four versions send, at least.
STATEMENTS_MIN = 25


def test_given_an_upgrade_killed_at_any_statement_when_opened_again_then_it_completes_and_all_is_there(
    empty_url: str,
) -> None:
    """In one transaction: whoever comes next finds the old ledger or the new one."""
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.ledger.killed_upgrades", empty_url],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= STATEMENTS_MIN
