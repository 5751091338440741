"""
A machine of its own under a real systemd: this one's files, seen through an overlay that is thrown away.

It is a container of systemd-nspawn without a network, in a mount namespace of its own. Nothing of this machine is
changed, and no service of it is met: units, users and state are the container's. Needs root and leave to mount.

    said = boot(tmp_path, "systemctl start stocktake-agent", units={"stocktake-agent.service": text}, settings="")
"""

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import msgspec

BOOT_S = 120
ROOT = Path(__file__).resolve().parents[2]
_UNSHARED = ("unshare", "--mount", "--propagation", "private")

# The program with this one's interpreter and packages, wherever they are here.
_PROGRAM = """\
#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/source:/opt/packages
exec /opt/python/bin/python3 -c 'import sys; from stocktake.cli.main import main; sys.exit(main())' "$@"
"""
# Runs what the test wants, and ends the machine.
_UNIT = """\
[Unit]
DefaultDependencies=no
After=systemd-journald.service
[Service]
Type=oneshot
StandardOutput=file:/mnt/said
StandardError=file:/mnt/said
ExecStart=/bin/bash /mnt/script
ExecStopPost=/bin/systemctl poweroff --force
"""
# Control groups that systemd keeps its units in, of version 2 and of version 1.
_GROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
# $1: where; $2: a name for its control groups, or nothing; then nspawn and its words.
_OUTSIDE = f"""\
set -eu
if [ -n "$2" ]; then
    for top in {" ".join(_GROUPS)}; do
        [ -e $top/cgroup.procs ] || continue
        mkdir "$top/$2"
        echo $$ >"$top/$2/cgroup.procs"
    done
fi
cd "$1"; shift; shift
mount -t tmpfs tmpfs disk
mkdir disk/new disk/work disk/tree
mount -t overlay overlay -o lowerdir=/,upperdir=disk/new,workdir=disk/work disk/tree
chroot disk/tree useradd --system --home-dir /var/lib/stocktake --shell /usr/sbin/nologin --groups libvirt stocktake
mkdir -p disk/tree/opt/stocktake/bin disk/tree/etc/stocktake
cp etc/*.service disk/tree/etc/systemd/system/
cp etc/stocktake.toml disk/tree/etc/stocktake/
install -m 755 etc/program disk/tree/opt/stocktake/bin/stocktake
exec "$@"
"""


def why_not() -> str:
    """Say why there can be no such machine here; empty if there can."""
    if os.geteuid() != 0:
        return "only root may start a machine"
    if shutil.which("systemd-nspawn") is None:
        return "there is no systemd-nspawn"
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return "no leave to make control groups"
    tried = "mount -t tmpfs t /mnt && cd /mnt && mkdir a b c && mount -t overlay o -o lowerdir=/,upperdir=a,workdir=b c"
    done = subprocess.run([*_UNSHARED, "sh", "-c", tried], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"no leave to mount: {done.stderr.strip()}"


def boot(folder: Path, script: str, *, units: Mapping[str, str], settings: str) -> str:
    """
    Boot a machine, run a script in it, and end it.

    Args:
        folder: an empty one, for what belongs to the machine.
        units: unit files by name, put into /etc/systemd/system; the program is /opt/stocktake/bin/stocktake.
        settings: the settings file's text.

    Returns:
        What the script wrote.
    """
    (folder / "etc").mkdir()
    (folder / "disk").mkdir()
    (folder / "mnt").mkdir()
    for name, text in {**units, "script.service": _UNIT}.items():
        (folder / "etc" / name).write_text(text)
    (folder / "etc" / "stocktake.toml").write_text(settings)
    (folder / "etc" / "program").write_text(_PROGRAM)
    (folder / "mnt" / "script").write_text(textwrap.dedent(script))
    packages = Path(msgspec.__file__).parents[1]
    there = {sys.base_prefix: "/opt/python", str(packages): "/opt/packages", str(ROOT / "src"): "/opt/source"}
    command = ["systemd-nspawn", "--quiet", "--directory=disk/tree", "--register=no", "--private-network"]
    command += ["--link-journal=no", "--console=pipe", f"--bind={folder / 'mnt'}:/mnt"]
    command += [f"--bind-ro={outside}:{inside}" for outside, inside in there.items()]
    group = ""
    if not Path("/run/systemd/system").exists():
        # Nobody is here who could give it a scope: it takes control groups of its own.
        group = f"stocktake-{os.getpid()}"
        command.append("--keep-unit")
    command += ["--boot", "systemd.unit=script.service", "systemd.log_target=journal"]
    command = [*_UNSHARED, "sh", "-c", _OUTSIDE, "sh", str(folder), group, *command]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        told, _ = child.communicate(timeout=BOOT_S)
    finally:
        if child.poll() is None:
            # The first SIGTERM lets nspawn end what it started.
            child.terminate()
            child.communicate(timeout=150)
        _remove_groups(group)
    said = folder / "mnt" / "said"
    assert said.exists(), f"the machine did not come up: {told.decode(errors='replace')}"
    return said.read_text()


def _remove_groups(name: str) -> None:
    """Take away the empty control groups that a machine leaves."""
    for top in _GROUPS if name else ():
        for folder, _, _ in os.walk(Path(top, name), topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
