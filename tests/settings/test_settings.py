"""Where settings come from, which source wins, what they are if nothing is given, and what may be shown of them."""

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from tools.settings_page import EXAMPLE, settings_page

from stocktake.errors import SettingsError
from stocktake.model.rules import Weights
from stocktake.model.value import plain
from stocktake.settings import ReservedPages, Settings, parse_listen, read_settings, redacted, rules, weights
from stocktake.settings.secrets import redact_url
from stocktake.settings.table import rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "settings.md"
NOWHERE = Path("/dev/null")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stocktake.toml"


def read(
    path: Path = NOWHERE, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Settings:
    return read_settings(path, environ or {}, flags or {})


def origin(settings: Settings, name: str) -> str:
    return next(shown.origin for shown in redacted(settings) if shown.name == name)


def test_given_nothing_then_every_setting_has_its_default() -> None:
    settings = read(environ={"HOME": "/home/ada"})
    assert settings.host == socket.gethostname()
    assert settings.my_ip
    assert settings.compute_driver == "auto"
    assert settings.reserved_host_memory_mb == 512
    assert settings.cpu_allocation_ratio is None
    assert settings.database.connection == f"sqlite:///{settings.state_path}/ledger.db"
    assert settings.placement.connection == f"sqlite:///{settings.state_path}/placement.db"
    assert settings.placement.mode == "embedded"
    assert settings.pci.report_in_placement is True
    assert {shown.origin for shown in redacted(settings)} == {"default"}


@pytest.mark.parametrize(
    ("root", "environ", "place"),
    [
        (True, {"XDG_STATE_HOME": "/s"}, "/var/lib/stocktake"),
        (False, {"XDG_STATE_HOME": "/s"}, "/s/stocktake"),
        (False, {"HOME": "/home/ada"}, "/home/ada/.local/state/stocktake"),
    ],
)
def test_given_a_user_then_state_is_kept_where_he_may_write(
    monkeypatch: pytest.MonkeyPatch, *, root: bool, environ: dict[str, str], place: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0 if root else 1000)
    assert read(environ=environ).state_path == Path(place)


def test_given_all_sources_then_flags_win_over_the_environment_and_that_over_the_file(file: Path) -> None:
    file.write_text(
        'host = "file"\nreport_interval = 5\n# a comment\nservice_down_time = 30\n[log]\nlevel = "error"\njson = true\n'
    )
    environ = {"STOCKTAKE_HOST": "variable", "STOCKTAKE_REPORT_INTERVAL": "6", "STOCKTAKE_LOG__LEVEL": "warning"}
    settings = read(file, environ, {"host": "flag"})
    assert (settings.host, settings.report_interval, settings.service_down_time) == ("flag", 6, 30)
    assert (settings.log.level, settings.log.json) == ("warning", True)
    assert origin(settings, "host") == "flag"
    assert origin(settings, "report_interval") == "environment STOCKTAKE_REPORT_INTERVAL"
    assert origin(settings, "service_down_time") == f"{file} line 4"
    assert origin(settings, "log.level") == "environment STOCKTAKE_LOG__LEVEL"
    assert origin(settings, "log.json") == f"{file} line 7"


def test_given_no_path_then_the_variable_names_the_file_and_else_the_user_has_one(tmp_path: Path) -> None:
    named, users = tmp_path / "named.toml", tmp_path / "stocktake" / "stocktake.toml"
    users.parent.mkdir()
    named.write_text('host = "named"')
    users.write_text('host = "users"')
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert read_settings(None, environ | {"STOCKTAKE_CONFIG": str(named)}, {}).host == "named"
    assert read_settings(None, environ, {}).host == "users"


def test_given_the_process_environment_then_it_is_read_only_if_no_other_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STOCKTAKE_HOST", "from-the-process")
    assert read_settings(NOWHERE).host == "from-the-process"
    assert read_settings(NOWHERE, {}).host == socket.gethostname()


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("STOCKTAKE_HOST", "10", "host", "10"),
        ("STOCKTAKE_HOST", '"quoted"', "host", "quoted"),
        ("STOCKTAKE_RESERVED_HOST_CPUS", "2", "reserved_host_cpus", 2),
        ("STOCKTAKE_CPU_ALLOCATION_RATIO", "4", "cpu_allocation_ratio", 4.0),
        ("STOCKTAKE_CPU_SHARED_SET", "3", "cpu_shared_set", "3"),
        ("STOCKTAKE_CPU_SHARED_SET", "0-3,^2", "cpu_shared_set", "0-3,^2"),
        ("STOCKTAKE_COMPUTE_MONITORS", "cpu", "compute_monitors", ["cpu"]),
        ("STOCKTAKE_COMPUTE_MONITORS", "cpu, other", "compute_monitors", ["cpu", "other"]),
        ("STOCKTAKE_NOTIFICATIONS__TOPICS", "theirs,ours", "notifications.topics", ["theirs", "ours"]),
        ("STOCKTAKE_COMPUTE_MONITORS", '["cpu"]', "compute_monitors", ["cpu"]),
        ("STOCKTAKE_LOG__JSON", "true", "log.json", True),
        ("STOCKTAKE_STATE_PATH", "/srv/x y", "state_path", "/srv/x y"),
        ("STOCKTAKE_PLACEMENT__AUTH", '{username = "ada"}', "placement.auth", {"username": "ada"}),
        ("STOCKTAKE_UPDATE_RESOURCES_INTERVAL", "-1", "update_resources_interval", -1),
        ("STOCKTAKE_FAKE__NODES", "", "fake.nodes", 10),
    ],
)
def test_given_a_variable_then_it_is_read_as_toml_if_it_is_some(
    variable: str, text: str, name: str, value: object
) -> None:
    settings = read(environ={variable: text})
    assert next(shown.value for shown in redacted(settings) if shown.name == name) == pytest.approx(value)


def test_given_options_one_by_one_then_they_lie_over_those_given_together(file: Path) -> None:
    file.write_text('[placement]\nauth_type = "password"\n[placement.auth]\nusername = "ada"\npassword = "one"\n')
    settings = read(file, {"STOCKTAKE_PLACEMENT__AUTH__PASSWORD": "0123"})
    assert settings.placement.auth == {"username": "ada", "password": "0123"}


@pytest.mark.parametrize("flags", [{"database.connection": "sqlite:///x"}, {"database": {"connection": "sqlite:///x"}}])
def test_given_flags_then_dotted_and_nested_names_are_the_same(flags: dict[str, object]) -> None:
    assert read(flags=flags).database.connection == "sqlite:///x"


def test_given_a_flag_of_none_then_it_is_not_given() -> None:
    assert origin(read(flags={"host": None}), "host") == "default"


@pytest.mark.parametrize(("given", "interval_s"), [(0, 60.0), (5, 5.0), (-1, None)])
def test_given_an_interval_then_zero_is_the_default_and_negative_is_off(given: int, interval_s: float | None) -> None:
    assert read(flags={"update_resources_interval": given}).refresh_interval_s == interval_s


@pytest.mark.parametrize("name", ["cpu_allocation_ratio", "ram_allocation_ratio", "disk_allocation_ratio"])
def test_given_a_ratio_of_zero_then_it_is_unset(name: str) -> None:
    assert getattr(read(flags={name: 0.0}), name) is None


def test_given_paths_then_they_are_absolute_and_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert read(flags={"state_path": "~/state"}).state_path == Path("/home/ada/state")
    assert read(flags={"state_path": "here"}).state_path == Path.cwd() / "here"


def test_given_settings_then_the_rules_have_theirs() -> None:
    settings = read(flags={"host": "h", "reserved_host_cpus": 3, "pci.device_spec": [{"vendor_id": "10de"}]})
    made = rules(settings)
    assert (made.host, made.reserved_host_cpus, made.reserved_host_memory_mb) == ("h", 3, 512)
    assert made.device_specs == settings.pci.device_spec
    assert made.report_pci is True


def test_given_no_settings_of_weighers_then_they_are_novas_defaults() -> None:
    assert weights(read()) == Weights()


@pytest.mark.parametrize(
    "given", ["cpu.percent=-1.0, x = 2", ["cpu.percent=-1.0", "x=2"], {"cpu.percent": -1.0, "x": 2}]
)
def test_given_metrics_to_weigh_by_then_novas_form_is_read_as_a_table_is(given: object) -> None:
    flags = {"filter_scheduler": {"metrics_weight_setting": given, "ram_weight_multiplier": -3}}
    made = weights(read(flags=flags))
    assert (made.metric_ratios, made.ram) == ({"cpu.percent": -1.0, "x": 2.0}, -3.0)


SECRETS = {
    "STOCKTAKE_DATABASE__CONNECTION": "postgresql://ada:hush@db/ledger",
    "STOCKTAKE_DATABASE__REPLICA_URL": "postgresql://ada:hu%40sh@db/ledger?sslpassword=hush&x=1",
    "STOCKTAKE_PLACEMENT__CONNECTION": "postgresql://ada:hu@sh@db/placement",
    "STOCKTAKE_PLACEMENT__AUTH__PASSWORD": "hush",
    "STOCKTAKE_PLACEMENT__AUTH__SOMETHING_NEW": "hush",
    "STOCKTAKE_PLACEMENT__AUTH__USERNAME": "ada",
    "STOCKTAKE_PLACEMENT__AUTH__AUTH_URL": "https://ada:hush@keystone",
    "STOCKTAKE_PLACEMENT__AUTH_TYPE": "password",
    "STOCKTAKE_SERVER__TOKEN": "stk_hush",
}


def test_given_secrets_then_nothing_that_shows_the_settings_has_them() -> None:
    settings = read(environ=SECRETS)
    assert settings.database.connection == "postgresql://ada:hush@db/ledger"
    shown = str(plain(redacted(settings)))
    for text in (shown, repr(settings), str(settings), repr(settings.database), repr(settings.placement)):
        assert "hush" not in text
        assert "hu@sh" not in text
        assert "hu%40" not in text
        assert "ada" in text
    assert "auth_url" in shown


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"STOCKTAKE_DATABASE__CONNECTION": "mysql://ada:hush@db/x"}, "scheme 'mysql'"),
        ({"STOCKTAKE_DATABASE__CONNECTION": "hush"}, "no scheme"),
        ({"STOCKTAKE_PLACEMENT__URL": "ftp://ada:hush@host"}, "must be a URL"),
        ({"STOCKTAKE_PLACEMENT__AUTH": "hush"}, "placement.auth"),
        ({"STOCKTAKE_PLACEMENT__AUTH": '{password = ["hush"]}'}, "placement.auth"),
        ({"STOCKTAKE_PLACEMENT__AUTH_PASSWORD": "hush"}, "unknown setting"),
        ({"STOCKTAKE_LIBVIRT__CONNECTION_URI": "hush"}, "must be a URI"),
        ({"STOCKTAKE_SERVER__TOKEN": "hush hush"}, "server.token: is not a token"),
        ({"STOCKTAKE_LEDGER": "https://ada:hush@host"}, "ledger: has a user name in it"),
    ],
)
def test_given_a_wrong_secret_then_the_error_does_not_have_it(environ: dict[str, str], part: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(environ=environ)
    assert part in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "hush" not in repr(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/lib/x.db", "sqlite:////var/lib/x.db"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p/q@r@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@x:p@h/d", "postgresql://u@x:***@h/d"),
        ("rabbit://u:p@h:1,v:q@i:2/x", "rabbit://u:***@i:2/x"),
        ("postgresql:///d?host=h&password=p;q=1", "postgresql:///d?host=h&password=***;q=1"),
        ("not a url", "not a url"),
    ],
)
def test_given_a_url_then_only_its_password_is_hidden(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_given_the_table_then_the_reference_is_current() -> None:
    remedy = "run: make docs"
    assert PAGE.read_text(encoding="utf-8") == settings_page(), remedy


def test_given_the_references_example_then_it_is_valid(file: Path) -> None:
    file.write_text(EXAMPLE)
    settings = read(file)
    assert settings.reserved_huge_pages == (ReservedPages(node=0, size_kb=1024**2, count=2),)
    assert [spec.resource_class for spec in settings.pci.device_spec] == ["PGPU", None]
    assert (settings.database.replica_url, settings.placement.url) == (None, None)


def test_given_no_route_then_the_address_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stocktake.settings.read._ANYWHERE", ("256.256.256.256", 9))
    assert read().my_ip == "127.0.0.1"


def test_given_the_table_then_every_setting_is_explained_in_a_sentence() -> None:
    for row in rows().values():
        assert row.text.endswith("."), row.name
        assert row.text[0].isupper() or row.text.startswith("`"), row.name


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", None),
        ("127.0.0.1:9809", ("127.0.0.1", 9809)),
        ("[::1]:0", ("::1", 0)),
        ("node-1.example.org:80", ("node-1.example.org", 80)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_given_a_place_to_listen_at_then_it_is_an_address_and_a_port(text: str, where: tuple[str, int] | None) -> None:
    assert parse_listen(text) == where
