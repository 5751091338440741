"""What is wrong with settings: all of it at once, where it is written, and what was probably meant."""

from pathlib import Path

import pytest

from stocktake.errors import SettingsError, exit_code
from stocktake.settings import read_settings


def refused(path: Path, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read_settings(path, environ or {}, flags or {})
    assert exit_code(caught.value) == 2
    assert "\n" not in str(caught.value)
    return caught.value


WRONG = [
    ("cpu_alocation_ratio = 1.0", 1, "unknown setting 'cpu_alocation_ratio' (did you mean cpu_allocation_ratio?)"),
    ("xyzzy = 1", 1, "unknown setting 'xyzzy'"),
    ("\nconnection = 'sqlite:///x'", 2, "did you mean database.connection?"),
    ("[databse]\nconnection = 'x'", 1, "unknown setting 'databse'"),
    ("[log]\nlevle = 'info'", 2, "unknown setting 'log.levle' (did you mean log.level?)"),
    ("log = 'info'", 1, "log is a section: write [log]"),
    ("reserved_host_memory_mb = -1", 1, "reserved_host_memory_mb: expected `int` >= 0: -1"),
    ("reserved_host_memory_mb = 1.5", 1, "reserved_host_memory_mb: expected `int`, got `float`: 1.5"),
    ("reserved_host_cpus = true", 1, "reserved_host_cpus: expected `int`, got `bool`"),
    ("reserved_host_disk_mb = '1G'", 1, "reserved_host_disk_mb: expected `int`, got `str`: '1G'"),
    ("reserved_host_disk_mb = 99999999999999999999", 1, "reserved_host_disk_mb"),
    ("cpu_allocation_ratio = -1.0", 1, "cpu_allocation_ratio: must be a number above 0, not -1.0"),
    ("ram_allocation_ratio = nan", 1, "ram_allocation_ratio: must be a number above 0, not nan"),
    ("disk_allocation_ratio = inf", 1, "disk_allocation_ratio: must be a number above 0, not inf"),
    ("initial_cpu_allocation_ratio = 0", 1, "initial_cpu_allocation_ratio: must be a number above 0, not 0.0"),
    ("update_resources_interval = '60'", 1, "update_resources_interval: expected `int`, got `str`"),
    ("report_interval = 0", 1, "report_interval: expected `int` >= 1"),
    ("report_interval = 90", 0, "service_down_time: 60 s must be longer than report_interval, 90 s"),
    ("driver_timeout_s = 0", 1, "driver_timeout_s"),
    ("driver_timeout_s = nan", 1, "driver_timeout_s"),
    ("[server]\nrate_per_s = inf", 2, "server.rate_per_s: expected `float` <= "),
    ("orphan_node_share_max = 1.5", 1, "orphan_node_share_max: expected `float` <= 1.0: 1.5"),
    ("adopt = 'always'", 1, "adopt: invalid enum value 'always'"),
    ("host = ''", 1, "host: '' is not a host name"),
    ("host = 'two words'", 1, "is not a host name"),
    ("my_ip = '10.0.0.256'", 1, "my_ip: '10.0.0.256' is not an IP address"),
    ("compute_driver = '../x'", 1, "is not the name of a plug-in"),
    ("compute_monitors = ['']", 1, "is not the name of a plug-in"),
    ("compute_monitors = 'cpu'", 1, "compute_monitors: expected `array`, got `str`"),
    ("cpu_shared_set = '0-3,x'", 1, "cpu_shared_set: 'x' is not a CPU"),
    ("cpu_shared_set = '3-0'", 1, "cpu_shared_set: the range '3-0' runs backwards"),
    ("cpu_dedicated_set = '0-999999'", 1, "names a CPU over 65535"),
    ("cpu_dedicated_set = '1,^1'", 1, "names no CPU"),
    ("cpu_shared_set = '0-3'\ncpu_dedicated_set = '2-5'", 2, "cpu_dedicated_set: CPU 2-3 is in cpu_shared_set too"),
    ("state_path = ''", 1, "state_path: expected a path"),
    ("state_path = '~nobody-of-this-name/x'", 1, "state_path: no such user's home: '~nobody-of-this-name/x'"),
    ("state_path = 5", 1, "state_path: expected a path"),
    ('state_path = "a\\u0000b"', 1, "has a zero byte in it"),
    ("reserved_huge_pages = ['node:0,size:2048']", 1, "reserved_huge_pages: entry 1: needs node, size and count"),
    (
        "reserved_huge_pages = ['node:0,size:2XB,count:1']",
        1,
        "entry 1: size must be a number of KiB, or text such as 2MB or 1GB, not '2XB'",
    ),
    ("reserved_huge_pages = ['node:x,size:4,count:1']", 1, "entry 1: Expected `int`, got `str` - at `$.node`"),
    ("ledger = 'stocktake.example.org'", 1, "ledger: must be a URL"),
    ("ledger = 'http://stocktake.example.org'", 1, "ledger: sends the token in the clear: use https"),
    ("[server]\nurl = 'http://192.0.2.1:8790'", 2, "server.url: sends the token in the clear"),
    ("reserved_huge_pages = 5", 1, "must be a list of tables"),
    ("reserved_huge_pages = ['node:0,size:4,count:1', 'node:0,size:4KB,count:2']", 1, "a size of one node twice"),
    ("[database]\nconnection = 'mysql://h/x'", 2, "database.connection: has scheme 'mysql'"),
    ("[placement]\nmode = 'remote'", 2, "placement.mode: remote needs placement.url"),
    ("[placement]\nurl = 'placement.example.org'", 2, "placement.url: must be a URL"),
    ("[placement]\nurl = 'http://host:x'", 2, "placement.url: must be a URL"),
    (
        "[metrics]\nlisten = '9809'",
        2,
        "metrics.listen: must be address:port, such as 127.0.0.1:9809 or [::1]:9809, not '9809'",
    ),
    (
        "[metrics]\nlisten = '127.0.0.1:98090'",
        2,
        "metrics.listen: must be address:port, such as 127.0.0.1:9809 or [::1]:9809, not '127.0.0.1:98090'",
    ),
    (
        "[metrics]\nlisten = '::1:9809'",
        2,
        "metrics.listen: must be address:port, such as 127.0.0.1:9809 or [::1]:9809, not '::1:9809'",
    ),
    ("[metrics]\nlisten = 'http://127.0.0.1:9809'", 2, "metrics.listen"),
    ("[metrics]\nhealthy_within_s = -1", 2, "metrics.healthy_within_s"),
    ("[placement]\nretries_max = -1", 2, "placement.retries_max"),
    ("[placement]\nmode='remote'\nurl='http://h'\n[placement.auth]\nusername='u'", 4, "needs placement.auth_type"),
    ("[notifications]\ntransport_url = 'bus'", 2, "notifications.transport_url: must be a URL"),
    ("[notifications]\ntopics = []", 2, "notifications.topics: names no topic"),
    (
        "[notifications]\ncontrol_exchange = 'a b'",
        2,
        "notifications.control_exchange: 'a b' is not the name of a topic",
    ),
    ("[libvirt]\nconnection_uri = 'qemu'", 2, "libvirt.connection_uri: must be a URI"),
    ("[fake]\nnodes = 1_000_000_000", 2, "fake.nodes"),
    (
        "[filter_scheduler]\nram_weight_multiplier = inf",
        2,
        "ram_weight_multiplier: must be a number from -1e12 to 1e12, not inf",
    ),
    ("[filter_scheduler]\npci_weight_multiplier = -1", 2, "pci_weight_multiplier: expected `float` >= 0.0"),
    (
        "[filter_scheduler]\nmetrics_weight_setting = 'cpu.percent'",
        2,
        "must be name=number, such as cpu.percent=-1.0, not 'cpu.percent'",
    ),
    (
        "[filter_scheduler]\nmetrics_weight_setting = ['a=nan']",
        2,
        "metrics_weight_setting: must be a number from -1e12 to 1e12, not nan",
    ),
    ("[filter_scheduler]\nmetrics_weight_setting = 5", 2, "metrics_weight_setting: expected `object`"),
    (
        "[pci]\ndevice_spec = [{vendor_id = 'xyz'}]",
        2,
        "pci.device_spec: entry 1: vendor_id must be a hexadecimal number or *, not 'xyz'",
    ),
    ("[[pci.device_spec]]\nvendor_id = '1'\n[[pci.device_spec]]\nvendorid = '1'", 1, "entry 2: unknown key 'vendorid'"),
    ("[[pci.alias]]\nname = 'a'", 1, "pci.alias: entry 1: needs vendor_id and product_id, or a resource_class"),
]


@pytest.mark.parametrize(("text", "line", "told"), WRONG)
def test_given_a_wrong_setting_then_the_error_says_where_and_what(
    tmp_path: Path, text: str, line: int, told: str
) -> None:
    path = tmp_path / "stocktake.toml"
    path.write_text(text)
    error = refused(path)
    assert told in str(error)
    assert error.where == (f"{path} line {line}" if line else "default")
    assert error.reasons == (str(error),)


def test_given_many_mistakes_then_all_are_told_at_once_each_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "stocktake.toml"
    path.write_text('adopt = "x"\n\n[log]\nlevel = "loud"\n')
    error = refused(path, {"STOCKTAKE_RESERVED_HOST_CPUS": "-2"}, {"orphan_node_share_max": 7})
    told = str(error)
    assert told.startswith("4 settings are wrong: ")
    assert len(error.reasons) == 4
    assert all(reason in told for reason in error.reasons)
    for part in (
        f"{path} line 1: adopt",
        f"{path} line 4: log.level",
        "environment STOCKTAKE_RESERVED_HOST_CPUS: reserved_host_cpus",
        "flag: orphan_node_share_max",
    ):
        assert part in told


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("STOCKTAKE_RESERVED_HOST_CPU", "did you mean STOCKTAKE_RESERVED_HOST_CPUS?"),
        ("STOCKTAKE_DATABASE_CONNECTION", "did you mean STOCKTAKE_DATABASE__CONNECTION?"),
        ("STOCKTAKE_CONNECTION", "did you mean STOCKTAKE_DATABASE__CONNECTION?"),
        ("STOCKTAKE_DATABASE", "database is a section"),
        ("STOCKTAKE_", "unknown setting 'STOCKTAKE_'"),
        ("STOCKTAKE___", "unknown setting"),
        ("STOCKTAKE_HOST__NAME", "unknown setting 'STOCKTAKE_HOST__NAME'"),
    ],
)
def test_given_an_unknown_variable_then_the_nearest_is_named(variable: str, told: str) -> None:
    error = refused(Path("/dev/null"), {variable: "1"})
    assert told in str(error)
    assert error.where == f"environment {variable}"


def test_given_no_such_file_then_the_error_says_how_to_name_another(tmp_path: Path) -> None:
    error = refused(tmp_path / "absent.toml")
    assert "absent.toml: can't be read: No such file or directory" in str(error)
    assert "--config" in error.remedy


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"host = \n", "is not TOML"),
        (b"host = 'a'\nhost = 'b'\n", "at line 2"),
        (b"host = '\xff'", "is not TOML"),
        (b"# " + b"x" * 300_000, "is larger than 256 KiB"),
        (b"x = " + b"[" * 5_000, "is not TOML"),
    ],
)
def test_given_a_file_that_is_no_toml_then_the_error_says_so(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "stocktake.toml"
    path.write_bytes(data)
    assert told in str(refused(path))


def test_given_values_over_many_lines_then_lines_are_still_right(tmp_path: Path) -> None:
    path = tmp_path / "stocktake.toml"
    path.write_text(
        'compute_driver = """\nhost = 1\nadopt"""\n'
        "compute_monitors = [\n  # adopt = 3\n  'cpu',\n]\r\n"
        "[pci]\ndevice_spec = [\n  {vendor_id = '8086'},\n]\n"
        "[placement.auth]\na.b = 1\n"
        '[log]\n"level" = "loud"\n'
    )
    told = str(refused(path))
    assert f"{path} line 1: compute_driver" in told
    assert f"{path} line 15: log.level" in told
    assert "placement.auth" in told


def test_given_a_statement_of_very_many_lines_then_reading_stays_quick(tmp_path: Path) -> None:
    path = tmp_path / "stocktake.toml"
    path.write_text("compute_monitors = [\n" + "'cpu',\n" * 20_000 + "]\nadopt = 'x'\n")
    assert "adopt: invalid enum value 'x'" in str(refused(path))


def test_given_a_relative_path_and_no_working_directory_then_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the working directory is gone" in str(refused(Path("/dev/null"), flags={"state_path": "here"}))


def test_given_options_that_are_none_then_single_ones_do_not_hide_it() -> None:
    environ = {"STOCKTAKE_PLACEMENT__AUTH": "5", "STOCKTAKE_PLACEMENT__AUTH__PASSWORD": "x"}
    assert "placement.auth: expected `object`, got `int`" in str(refused(Path("/dev/null"), environ))
