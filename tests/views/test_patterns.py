"""Patterns of names: a shell's, matched in steps that can be counted; and no regular expression is anybody else's."""

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stocktake
from stocktake.views.choosing import is_like

SIGNS = st.sampled_from(["a", "b", "-", "*", "?", "[ab]", "[!a]", "[a-c]", "[!a-b]", "[]a]", "[", "]", "[*]", "[ab"])
# Where a pattern is somebody's: it is matched where it was written, on text of five letters at most, and sent nowhere.
WRITTEN_HERE = {"settings/pci.py"}
USES = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}


@given(st.text("abc-]*[", max_size=8), st.lists(SIGNS, max_size=6).map("".join))
def test_given_any_pattern_when_matched_then_it_means_what_it_means_to_a_shell(text: str, pattern: str) -> None:
    assert is_like(text, pattern) is fnmatchcase(text, pattern)


@pytest.mark.parametrize("pattern", ["*a" * 2000 + "b", "[a]" * 2000 + "*b", "*" * 4000 + "b", "[" * 4000])
def test_given_a_pattern_that_means_no_good_when_matched_then_it_is_done_in_counted_steps(pattern: str) -> None:
    assert not is_like("a" * 4000, pattern)


def is_fixed(pattern: ast.expr) -> bool:
    """Say whether a pattern stands in the source: as text, as a constant of a module, or as words that are escaped."""
    if "re.escape" in ast.unparse(pattern):
        return True
    if isinstance(pattern, ast.JoinedStr):
        parts = [part.value for part in pattern.values if isinstance(part, ast.FormattedValue)]
        return all(map(is_fixed, parts))
    named = pattern.value if isinstance(pattern, ast.Attribute) else pattern
    return isinstance(pattern, ast.Constant) or (isinstance(named, ast.Name) and named.id.strip("_").isupper())


def test_given_the_source_when_looked_through_then_every_regular_expression_is_written_in_it() -> None:
    root = Path(stocktake.__file__).parent
    found, seen = [], 0
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                found += [f"{path}:{node.lineno} imports fnmatch"] if "fnmatch" in names else []
                found += [f"{path}:{node.lineno} from re"] if getattr(node, "module", None) == "re" else []
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "re" and node.func.attr in USES:
                seen += 1
                if not is_fixed(node.args[0]) and path.relative_to(root).as_posix() not in WRITTEN_HERE:
                    found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    assert found == []
    assert seen > 20
