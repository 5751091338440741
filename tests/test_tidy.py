"""The house style, as a test: what a reader may rely on, wherever he is dropped."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tools.metrics_page import metrics_page
from tools.reference import errors_page

from stocktake.agent.metrics.table import METRICS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "stocktake"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FUNCTION_LINES_MAX = 60
CODE = (".py", ".js", ".css", ".html")
CODE_ROOMS = ("src", "tests", "tools", "bench")
# Made by programs, or belonging to the machine: `make clean` removes the first.
NOT_OURS = {"run", "venv", "build", "dist", "node_modules", "__pycache__"}
# The core: rules without input and output, whose every branch is tested beside it.
CORE = (
    "accounting/**/*.py",
    "verify.py",
    "placement/desired.py",
    "placement/plan.py",
    "placement/desired_allocations.py",
)
BANNED_WORDS = {"update", "process", "handle", "handler", "manager", "utils", "util", "helper", "helpers"}
# name: the reason why it may have a banned word in it.
ALLOWED_NAMES = {
    "StderrHandler": "the library's word, logging.Handler",
    "process_bind_param": "SQLAlchemy calls it",
    "process_result_value": "SQLAlchemy calls it",
    "handle_starttag": "html.parser calls it",
    "in_process": "a process of the operating system",
    "handle_error": "socketserver calls it",
    "proxy_manager_for": "requests calls it",
}
# Protocols that repeat, typed, the names of something that is explained elsewhere.
MIRRORS = {
    "AnyClaims": "Claims",
    "Domain": "libvirt's virDomain",
    "NodeDevice": "libvirt's virNodeDevice",
    "StoragePool": "libvirt's virStoragePool",
    "Hypervisor": "libvirt's virConnect",
    "Section": "settings of the section `placement`",
}
# What lies directly in the package: who reads only this list can name the room of each step.
ROOMS = {
    "agent/", "refresh/", "audit.py", "drivers/", "verify.py", "accounting/", "report/", "ledger/", "placement/",
    "claims/", "views/", "cli/", "web/", "client/", "settings/", "model/",
    "errors.py", "clock.py", "telemetry.py", "plugins.py", "exchange/",
}  # fmt: skip
ROOMS_MAX = 22
# Modules that do the work of another step than their room's: the step, and why.
STEPS_ELSEWHERE = {
    "report/readback.py": "7b",  # It is step 7 that tells the scheduler.
}
# Words that only this project would understand, and what the field says (docs/glossary.md).
PRIVATE_WORDS = {
    "desk": "base",
    "door": "protocol, interface, socket",
    "doorkeeper": "Authenticator",
    "doors": "protocols, interfaces, sockets",
    "lapse": "claim_expiry",
    "lapsed": "expired",
    "law": "Invariant",
    "lawful": "allowed",
    "lawfully": "allowed",
    "laws": "Invariants",
    "standing": "snapshot",
    "patience": "retry",
    "promised": "allocated; a promise is what an instance, a claim or a migration holds",
    "sell": "allocate, report",
    "selling": "allocating, reporting",
    "sells": "allocates, reports",
    "sold": "allocated",
    "stranger": "unmanaged guest; of a consumer: unknown",
    "strangers": "unmanaged guests; of consumers: unknown",
    "vanished": "gone, orphan",
    "wire": "rpc",
}
PRIVATE_PHRASES = {
    "goes on doing": "keeps doing",
    "may be had by": "at most N per machine",
    "may be promised": "capacity",
    "no node is so": "No nodes match.",
    "nobody promised": "without an instance",
    "nobody's": "an orphan's, unmanaged, no one's",
}
# What holds a private word and is somebody else's term: the reason.
FIELD_TERMS = {
    "physical function": "PCI's name for the card behind virtual functions",
    "physical_network": "Neutron's name for the network behind a device",
    "physical network": "Neutron's, in prose",
}
PROSE = (".md", ".py", ".html", ".js", ".css", ".mako")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
NOTE = re.compile(r"\b(?:TO" r"DO|FIX" r"ME)\b(?!\(#\d+\))")

Defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def files(*suffixes: str, under: Path = ROOT) -> Iterator[Path]:
    """Give the project's files, whatever else lies in the directory."""
    for path in sorted(under.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part not in {".ci", ".gitignore"} for part in parts)
        if not hidden and not NOT_OURS & set(parts) and path.is_file() and path.suffix in (suffixes or (path.suffix,)):
            yield path


def code(*suffixes: str) -> Iterator[Path]:
    """Give the files of code."""
    for room in CODE_ROOMS:
        yield from files(*(suffixes or CODE), under=ROOT / room)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, node: Defined | ast.expr | None = None) -> str:
    line = f":{node.lineno}" if node else ""
    return f"{path.relative_to(ROOT)}{line}"


def defined(tree: ast.AST) -> Iterator[Defined]:
    """Give every function and class, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def public(body: list[ast.stmt]) -> Iterator[Defined]:
    """Give what others may use and must find explained: not what is private or inside a function."""
    for node in body:
        if not isinstance(node, Defined) or node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef) and node.name not in MIRRORS:
            told = ast.get_docstring(node) or ""
            # A property that its class explains under "Attributes:" is explained.
            yield from (member for member in public(node.body) if not (is_property(member) and member.name in told))


def is_property(node: Defined) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list)


def slug(heading: str) -> str:
    """Give the anchor that a heading has on the usual hosts of repositories."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(heading) for heading in HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8")))}


def rooms() -> set[str]:
    """Give what lies directly in the package: modules by name, packages with a slash."""
    modules = {path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    packages = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    return modules | packages


def test_given_any_function_then_it_fits_a_screen() -> None:
    long = {
        f"{place(path, node)} {node.name}": lines
        for path in code(".py")
        for node in defined(tree_of(path))
        if not isinstance(node, ast.ClassDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert not long, f"functions of more than {FUNCTION_LINES_MAX} lines"


def test_given_any_module_with_code_then_it_opens_with_what_it_is() -> None:
    # An empty __init__.py of a tests folder says nothing because it is nothing.
    bare = [
        place(path)
        for path in code(".py")
        if not ast.get_docstring(tree := tree_of(path)) and (tree.body or path.is_relative_to(PACKAGE))
    ]
    assert not bare, "modules without a docstring"


def test_given_anything_public_in_the_package_then_it_is_explained() -> None:
    silent = [
        f"{place(path, node)} {node.name}"
        for path in files(".py", under=PACKAGE)
        for node in public(tree_of(path).body)
        if not ast.get_docstring(node)
    ]
    assert not silent, "public names without a docstring"


def test_given_a_public_class_then_no_other_has_its_name() -> None:
    places: dict[str, list[str]] = {}
    for path in files(".py", under=PACKAGE):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(place(path, node))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize(
    "module",
    [
        path.relative_to(PACKAGE)
        for pattern in CORE
        for path in sorted(PACKAGE.glob(pattern))
        if path.name != "__init__.py"
    ],
    ids=str,
)
def test_given_a_module_of_the_core_then_it_has_a_test_twin(module: Path) -> None:
    twin = ROOT / "tests" / module.with_name(f"test_{module.name}")
    assert twin.is_file(), f"{module} is tested in {twin.relative_to(ROOT)}, which is not there"


def test_given_the_package_then_its_rooms_are_the_few_that_are_known() -> None:
    assert rooms() == ROOMS
    assert len(ROOMS) <= ROOMS_MAX


def test_given_the_map_then_it_shows_exactly_the_rooms_that_there_are() -> None:
    assert {room for _, room in mapped("ARCHITECTURE.md")} == rooms(), "ARCHITECTURE.md, section 'The rooms'"


def mapped(page: str) -> list[tuple[str, str]]:
    """Give step and room of each row of the page's table of rooms."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^\| *([0-9]?[a-z]?) *\| `([a-z_]+(?:\.py|/))` \|", text, re.MULTILINE)


def step_of(path: Path) -> str:
    """Give the step that a module's docstring opens with, if it names one."""
    opening = re.match(r"Step ([0-9][a-z]?)\b", ast.get_docstring(tree_of(path)) or "")
    return opening[1] if opening else ""


def test_given_the_map_then_its_steps_are_those_that_the_rooms_say() -> None:
    said = {room: step_of(PACKAGE / room / "__init__.py" if room.endswith("/") else PACKAGE / room) for room in rooms()}
    assert {room: step for step, room in mapped("ARCHITECTURE.md")} == said


def test_given_the_readme_then_its_steps_are_the_maps() -> None:
    assert mapped("README.md") == [(step, room) for step, room in mapped("ARCHITECTURE.md") if step]


def test_given_a_module_that_names_a_step_then_it_is_its_rooms() -> None:
    steps = {room.removesuffix("/"): step for step, room in mapped("ARCHITECTURE.md")}
    wrong = {
        name: step_of(path)
        for path in files(".py", under=PACKAGE)
        if (name := path.relative_to(PACKAGE).as_posix())
        and step_of(path) not in {"", STEPS_ELSEWHERE.get(name, steps.get(name.partition("/")[0], ""))}
        and "/" in name
    }
    assert not wrong


def test_given_any_text_then_it_speaks_the_words_of_the_field() -> None:
    pages = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
    pages += [*files(".md", under=ROOT / "docs"), *files(*PROSE, under=PACKAGE)]
    found = [
        f"{place(path)}:{number}: {word}"
        for path in pages
        if path.name != "glossary.md"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for word in private(line)
    ]
    assert not found, f"say instead: {PRIVATE_WORDS | PRIVATE_PHRASES}"


def private(line: str) -> list[str]:
    """Give the private words of a line, of its names (`snake_case`, `CamelCase`) and of its prose."""
    text = line.lower()
    for term in FIELD_TERMS:
        text = text.replace(term, "")
        line = re.sub(re.escape(term), "", line, flags=re.IGNORECASE)
    return [word for word in words(line) if word in PRIVATE_WORDS] + [one for one in PRIVATE_PHRASES if one in text]


def test_given_the_map_then_its_layers_are_those_that_are_checked() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = text.partition("## Layers")[2].partition("```text\n")[2].partition("\n```")[0].splitlines()
    assert drawn == PROJECT["tool"]["importlinter"]["contracts"][0]["layers"], "ARCHITECTURE.md and pyproject.toml"


def test_given_a_dependency_then_its_reason_is_written_down() -> None:
    page = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text(encoding="utf-8")
    extras = PROJECT["project"]["optional-dependencies"]
    listed = PROJECT["project"]["dependencies"] + extras["libvirt"] + extras["postgresql"] + extras["serve"]
    names = {re.split(r"[^\w-]", line)[0] for line in listed}
    assert [name for name in sorted(names) if name.lower() not in page.lower()] == []


def test_given_the_page_of_errors_then_it_is_what_the_code_says() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    assert page == errors_page(), "run `make docs`"


def test_given_the_errors_then_each_is_on_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    names = [node.name for node in tree_of(PACKAGE / "errors.py").body if isinstance(node, ast.ClassDef)]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_given_the_page_of_metrics_then_it_is_what_the_code_says() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert page == metrics_page(), "run `make docs`"
    assert [name for name in METRICS if f"`{name}`" not in page] == []


def test_given_a_host_then_only_verify_made_it() -> None:
    makers = {
        place(path)
        for path in files(".py", under=PACKAGE)
        if "Host" in imported(tree_of(path), "stocktake.model.hypervisor")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "Host")
            or (isinstance(node.func, ast.Attribute) and node.func.attr == "Host")
        )
    }
    assert makers == {"src/stocktake/verify.py"}


def imported(tree: ast.Module, module: str) -> set[str]:
    """Give the names taken from a module; all of `Host` if the module itself is taken."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == module:
            names |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and any(f"{node.module}.{name.name}" == module for name in node.names):
            names.add("Host")
        if isinstance(node, ast.Import) and any(name.name == module for name in node.names):
            names.add("Host")
    return names


def test_given_a_name_then_it_says_what_is_done() -> None:
    vague = [
        f"{place(path, node)} {node.name}"
        for path in code(".py")
        for node in defined(tree_of(path))
        if node.name not in ALLOWED_NAMES and BANNED_WORDS & set(words(node.name))
    ]
    modules = [place(path) for path in code(".py") if BANNED_WORDS & set(words(path.stem))]
    assert vague + modules == [], f"names with one of {sorted(BANNED_WORDS)}"


def words(name: str) -> list[str]:
    """Split `snake_case` and `CamelCase` into lower-case words; a test's name is a sentence and not looked at."""
    if name.startswith("test_"):
        return []
    return [word.lower() for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name)]


def test_given_a_note_to_oneself_then_it_names_its_issue() -> None:
    notes = [
        f"{place(path)}:{number}"
        for path in code()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if NOTE.search(line)
    ]
    assert not notes, "write it as TO" + "DO(#12), or do it"


def test_given_a_test_then_it_waits_for_events_and_not_for_time() -> None:
    sleepers = [
        place(path, node)
        for path in files(".py", under=ROOT / "tests")
        if not path.is_relative_to(ROOT / "tests" / "servers")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep"}
    ]
    assert not sleepers


def test_given_any_code_then_nothing_is_mocked_that_can_be_run() -> None:
    mocked = {
        place(path)
        for path in code(".py")
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unittest"))
        or (isinstance(node, ast.Import) and any(name.name.startswith(("unittest", "mock")) for name in node.names))
    }
    assert not mocked


def test_given_any_page_then_its_links_lead_somewhere() -> None:
    broken = [
        f"{place(page)}: {target}"
        for page in files(".md")
        for target in links(page)
        if not leads_somewhere(page, target)
    ]
    assert not broken


def links(page: Path) -> Iterator[str]:
    for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = match[1] or match[2]
        if not re.match(r"[a-z]+:", target):
            yield target


def leads_somewhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    there = page.parent / name if name else page
    return there.exists() and (not anchor or there.suffix != ".md" or anchor in anchors(there))


def test_given_any_page_that_names_a_module_then_it_is_there() -> None:
    missing = [
        f"{place(page)}: {name}"
        for page in files(".md")
        for name in re.findall(r"`((?:src/stocktake/|tests/|[a-z_]+/)[a-z_/]+\.py)`", page.read_text(encoding="utf-8"))
        if page.name != "CHANGELOG.md" and not name.startswith("nova/virt/")
        if not ((ROOT / name).is_file() or (PACKAGE / name).is_file())
    ]
    assert not missing


def test_given_a_decision_then_it_has_its_three_parts_and_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = sorted(folder.glob("[0-9]*.md"))
    assert pages, "decisions are written down"
    wrong = [
        page.name
        for page in pages
        if not {"context", "decision", "consequences"} <= anchors(page) or page.name not in index
    ]
    assert not wrong, "each has Context, Decision and Consequences, and is in docs/README.md"


def test_given_a_docstring_that_names_a_rule_then_the_rule_is_there() -> None:
    rules = anchors(ROOT / "docs" / "accounting.md")
    named = {
        (place(path), section)
        for path in code(".py")
        for section in re.findall(r'docs/accounting\.md, "([^"]+)"', path.read_text(encoding="utf-8"))
    }
    assert [pair for pair in sorted(named) if slug(pair[1]) not in rules] == []
