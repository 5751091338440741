"""Whatever is in the file, the environment or the flags: settings, or a SettingsError."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stocktake.errors import HIDDEN, SettingsError
from stocktake.settings import read_settings, redacted
from stocktake.settings.secrets import redact_url
from stocktake.settings.table import rows

NAMES = sorted(rows())
VARIABLES = ["STOCKTAKE_" + name.upper().replace(".", "__") for name in NAMES]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.dates() | st.binary(max_size=5)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
DEVICE = st.dictionaries(
    st.sampled_from(["vendor_id", "product_id", "address", "traits", "resource_class", "name", "numa_policy"]), VALUES
)


def attempt(path: Path, environ: dict[str, str], flags: dict[str, Any]) -> None:
    try:
        made = read_settings(path, environ, flags)
    except SettingsError:
        return
    assert len(redacted(made)) == len(NAMES)
    assert repr(made)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(VARIABLES) | TEXT.map("STOCKTAKE_".__add__), TEXT, max_size=4))
def test_given_any_environment_then_settings_or_a_settings_error(environ: dict[str, str]) -> None:
    environ.pop("STOCKTAKE_CONFIG", None)
    attempt(Path("/dev/null"), environ, {})


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(NAMES) | TEXT, VALUES | st.lists(DEVICE, max_size=2), max_size=4))
def test_given_any_flags_then_settings_or_a_settings_error(flags: dict[str, Any]) -> None:
    attempt(Path("/dev/null"), {}, flags)


LINES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(NAMES), TEXT).map(lambda pair: f"{pair[0]} = {pair[1]}"),
        st.tuples(st.sampled_from(NAMES), TEXT).map(lambda pair: f"{pair[0]} = '''{pair[1]}'''"),
        st.tuples(st.sampled_from(NAMES), st.integers() | st.floats()).map(lambda pair: f"{pair[0]} = {pair[1]}"),
        st.sampled_from(["[log]", "[[pci.device_spec]]", "[placement.auth]", "address = {bus = '('}", "[", '"""', "]"]),
        TEXT,
    ),
    max_size=8,
).map("\n".join)


@settings(deadline=None, max_examples=150)
@given(LINES | st.binary(max_size=60))
def test_given_any_file_then_settings_or_a_settings_error(content: str | bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "stocktake.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        attempt(path, {}, {})


@settings(deadline=None, max_examples=150)
@given(
    st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12),
)
def test_given_any_password_in_a_url_then_it_is_hidden(user: str, password: str) -> None:
    assert redact_url(f"postgresql://{user}:{password}@host/db") == f"postgresql://{user}:{HIDDEN}@host/db"
