"""The examples of docs/howto/claims.md do what the page says."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.cli.program import HOST, Program

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "howto" / "claims.md"
# Of the generated nodes one with cells.
NODE = "node-00002"


def block(language: str, number: int = 0) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(found[number])


@pytest.fixture
def host(tmp_path: Path) -> Program:
    """A host of three nodes, with nobody on them."""
    state = tmp_path / "state"
    state.mkdir()
    program = Program(state, nodes=3, settings={"fake.guests": "false"})
    assert program.run("refresh").code == 0
    return program


def tools(folder: Path, host: Program, *, fails: bool) -> dict[str, str]:
    """What the script finds in its path: the program with this host's settings, and somebody's way to build."""
    words = " ".join(f"'{word}'" for word in host.options)
    stub = f'#!/bin/sh\nexec {Path(sys.executable).with_name("stocktake")} {words} "$@"\n'
    build = f'#!/bin/sh\nprintf "%s\\n" "$*" >{folder / "built"}\nexit {int(fails)}\n'
    for name, text in {"stocktake": stub, "build-machine": build, "script": block("sh")}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("fails", [False, True])
def test_given_the_pages_script_then_the_machine_is_promised_exactly_if_it_was_built(
    host: Program, tmp_path: Path, *, fails: bool
) -> None:
    environ = tools(tmp_path, host, fails=fails)
    done = subprocess.run(
        [tmp_path / "script", "web-1", NODE], env=environ, capture_output=True, text=True, check=False
    )
    instances = host.run("instances", "--json").data
    assert (done.returncode, len(instances)) == ((1, 0) if fails else (0, 1)), done.stderr
    built = (tmp_path / "built").read_text().split()
    assert built[:2] == ["--on", NODE]
    if not fails:
        assert (built[3], instances[0]["vm_state"]) == (instances[0]["uuid"], "active")


@pytest.fixture
def page(host: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's Python, beside a settings file."""
    lines = [f'state_path = "{host.state}"', f'host = "{HOST}"', 'placement.mode = "none"']
    (tmp_path / "stocktake.toml").write_text("\n".join(lines))
    (tmp_path / "page.py").write_text(block("python"))
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("page", tmp_path / "page.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_given_the_pages_python_then_it_builds_with_cpus_of_its_own(host: Program, page: Any) -> None:
    built: list[tuple[str, dict[int, int]]] = []
    page.build_machine = lambda uuid, cpus: built.append((uuid, cpus))
    uuid = page.build("db-1", NODE)
    assert [one for one, _ in built] == [uuid]
    assert len(set(built[0][1].values())) == 2
    (instance,) = host.run("instances", "--json").data
    assert (instance["uuid"], instance["vm_state"]) == (uuid, "active")


def test_given_the_pages_python_when_the_build_fails_then_nothing_is_promised(host: Program, page: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no image")

    page.build_machine = fail
    with pytest.raises(RuntimeError, match="no image"):
        page.build("db-1", NODE)
    assert host.run("instances", "--json").data == []


def test_given_the_pages_python_when_there_is_no_room_then_it_says_how_much_is_missing(
    host: Program, page: Any
) -> None:
    assert page.take(NODE, 8192) is None
    assert page.take(NODE, 8192) == "MEMORY_MB: 8192 of 7680"
    assert len(host.run("instances", "--json").data) == 1
