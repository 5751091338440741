"""The unit file: what systemd says of it, and that it is the one which the how-to shows."""

import re
import subprocess
import sys
from pathlib import Path

from stocktake.agent.health import silence_max_s
from stocktake.errors import IdentityError, SettingsError, exit_code
from stocktake.settings import read_settings

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "stocktake-agent.service"
PAGE = ROOT / "docs" / "howto" / "systemd.md"
# 0 is best, 10 is worst; without restrictions a service has 9.6.
EXPOSURE_MAX = 1.5
PROGRAM = "/opt/stocktake/bin/stocktake"


def option(name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(value)


def installed(folder: Path) -> Path:
    """Give the unit with a program that is there."""
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, str(Path(sys.executable).with_name("stocktake"))))
    return unit


def analyzed(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


def test_given_the_how_to_then_it_shows_the_unit_as_it_is() -> None:
    assert f"```ini\n{UNIT.read_text()}```" in PAGE.read_text()


def test_given_the_unit_when_verified_then_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    done = analyzed("verify", "--man=no", str(installed(tmp_path)))
    # What other units of the machine lack is not this one's fault.
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0, done.stderr


def test_given_the_unit_when_its_exposure_is_worked_out_then_it_is_what_the_how_to_says(tmp_path: Path) -> None:
    done = analyzed("security", "--offline=yes", "--no-pager", str(installed(tmp_path)))
    (exposure,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert float(exposure) <= EXPOSURE_MAX
    assert f"exposure level {EXPOSURE_MAX}" in PAGE.read_text()


def test_given_settings_that_need_no_change_when_a_step_takes_as_long_as_it_may_then_the_watchdog_still_waits() -> None:
    remote = {"placement": {"mode": "remote", "url": "http://p"}, "host": "alpha", "my_ip": "192.0.2.7"}
    assert silence_max_s(read_settings(None, {}, remote)) <= float(option("WatchdogSec"))
    assert float(option("TimeoutStartSec")) >= float(option("WatchdogSec"))


def test_given_errors_that_trying_again_does_not_mend_then_the_service_is_not_started_again() -> None:
    code = int(option("RestartPreventExitStatus"))
    assert {exit_code(IdentityError("x")), exit_code(SettingsError("x"))} == {code}
