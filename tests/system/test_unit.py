"""The unit file under a real systemd, with all its restrictions: what a packager's users get."""

import re
from pathlib import Path

import pytest

from tests.servers.machine import boot, why_not

pytestmark = pytest.mark.system

WHY_NOT = why_not()
UNIT = Path(__file__).parents[2] / "packaging" / "stocktake-agent.service"
SCRIPT = """
    systemctl start stocktake-agent; echo "start=$?"
    systemctl show stocktake-agent -p SubState -p StatusText -p WatchdogUSec
    curl -s http://127.0.0.1:9809/healthz
    curl -s http://127.0.0.1:9809/metrics | grep ^stocktake_part_up
    grep -E "^(Uid|CapBnd|NoNewPrivs|Seccomp):" /proc/$(systemctl show stocktake-agent -p MainPID --value)/status
    systemctl reload stocktake-agent; echo "reload=$?"
    for try in $(seq 50); do
        [ "$(systemctl show stocktake-agent -p SubState --value)" = running ] && break
        sleep 0.1
    done
    journalctl --no-pager -u stocktake-agent | grep -c "the settings were read again"
    setpriv --reuid stocktake --regid stocktake --init-groups \
        env STOCKTAKE_STATE_PATH=/var/lib/stocktake /opt/stocktake/bin/stocktake doctor; echo "doctor=$?"
    systemctl stop stocktake-agent; echo "stop=$?"
    systemctl show stocktake-agent -p Result -p NRestarts -p ExecMainStatus
    stat -c "%U %a %n" /var/lib/stocktake
    ls /var/lib/stocktake
    echo "nonsense = 1" >/etc/stocktake/stocktake.toml
    systemctl start stocktake-agent; echo "wrong=$?"
    echo "wrong_state=$(systemctl show stocktake-agent -p SubState --value)"
    journalctl --no-pager -o cat -u stocktake-agent
"""
SETTINGS = 'compute_driver = "{driver}"\n[placement]\nmode = "embedded"\n'


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("driver", ["host", "libvirt"])
def test_given_the_unit_when_started_reloaded_and_stopped_by_systemd_then_everything_works_within_its_restrictions(
    tmp_path: Path, driver: str
) -> None:
    before = "systemctl start libvirtd.service\n" if driver == "libvirt" else ""
    units = {UNIT.name: UNIT.read_text()}
    said = boot(tmp_path, before + SCRIPT, units=units, settings=SETTINGS.format(driver=driver))
    told = dict(re.findall(r"^([\w]+)=(.*)$", said, re.MULTILINE))
    assert (told["start"], told["reload"], told["stop"]) == ("0", "0", "0"), said
    assert (told["SubState"], told["WatchdogUSec"]) == ("running", "5min"), said
    assert told["StatusText"].startswith("1 node"), said
    assert '"healthy":true' in said
    assert said.count('stocktake_part_up{part="') == said.count("} 1.0\n") == 4, said
    status = dict(re.findall(r"^(Uid|CapBnd|NoNewPrivs|Seccomp):\s+(\w+)", said, re.MULTILINE))
    assert status.pop("Uid") != "0"
    assert status == {"CapBnd": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}
    # Of this machine there may be something to warn of.
    assert told["doctor"] in {"0", "1"}, said
    assert "FAIL" not in said
    assert (told["Result"], told["NRestarts"], told["ExecMainStatus"]) == ("success", "0", "0"), said
    assert "stocktake 750 /var/lib/stocktake" in said
    assert re.search(r"^ledger\.db$", said, re.MULTILINE)
    assert (told["wrong"], told["wrong_state"]) == ("1", "failed"), "wrong settings are not tried again"
    assert "Traceback" not in said
    assert "Operation not permitted" not in said
