"""
What types can't say of a setting: forms, ranges, and what must go together. Invariant: a check names no secret.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stocktake.errors import InvalidData
from stocktake.model.topology import format_cpu_set, parse_cpu_set
from stocktake.model.value import convert
from stocktake.settings.pci import read_alias, read_device_spec
from stocktake.settings.sections import FilterSchedulerSection, ReservedPages

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._:-]*[A-Za-z0-9_])?")
_LISTEN = re.compile(r"(\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_DATABASES = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")
_PORT_MAX = 65535
_RATIO_MAX = 1_000_000.0
_MULTIPLIER_MAX = 1e12
_PAGE_KB = {"": 1, "k": 1, "kb": 1, "kib": 1, "m": 1024, "mb": 1024, "mib": 1024}
_PAGE_KB |= {"g": 1024**2, "gb": 1024**2, "gib": 1024**2}


def read_pages(entry: object) -> ReservedPages:
    """
    Read one entry of `reserved_huge_pages`: a table, or Nova's text `node:0,size:2048,count:64`; sizes in KiB or units.

    Raises:
        InvalidData: what is wrong with it.
    """
    if isinstance(entry, str):
        pairs = [pair.partition(":") for pair in entry.split(",")]
        entry = {key.strip(): value.strip() for key, _colon, value in pairs}
    if not isinstance(entry, Mapping) or set(entry) != {"node", "size", "count"}:
        raise InvalidData("needs node, size and count")
    return convert(
        {"node": _whole(entry["node"]), "size_kb": _page_kb(entry["size"]), "count": _whole(entry["count"])},
        ReservedPages,
        where="",
    )


def _whole(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value, re.ASCII) else value


def _page_kb(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]{1,12})\s*([A-Za-z]*)", value, re.ASCII)
    scale = _PAGE_KB.get(found[2].lower()) if found else None
    if found is None or scale is None:
        raise InvalidData(f"size must be a number of KiB, or text such as 2MB or 1GB, not {value[:40]!r}")
    return int(found[1]) * scale


def read_ratios(given: object) -> object:
    """
    Read `filter_scheduler.metrics_weight_setting`: a table, or Nova's `name=ratio` pairs, in a list or with commas.

    Raises:
        InvalidData: a pair can't be read.
    """
    pairs = given.split(",") if isinstance(given, str) else given
    if not isinstance(pairs, (list, tuple)):
        return given
    return dict(_ratio_of(pair) for pair in pairs if pair != "")


def _ratio_of(pair: object) -> tuple[str, float]:
    name, _equals, ratio = str(pair).partition("=")
    try:
        return name.strip(), float(ratio)
    except ValueError as error:
        raise InvalidData(f"must be name=number, such as cpu.percent=-1.0, not {str(pair)[:40]!r}") from error


def _entries(read: Callable[[object], object]) -> Callable[[Any], object]:
    """Read each entry of a list; what is wrong with one says which."""

    def read_all(value: Any) -> object:
        entries = [value] if isinstance(value, Mapping) else value
        if not isinstance(entries, (list, tuple)):
            raise InvalidData("must be a list of tables")
        return [_numbered(read, number, entry) for number, entry in enumerate(entries, start=1)]

    return read_all


def _numbered(read: Callable[[object], object], number: int, entry: object) -> object:
    try:
        return read(entry)
    except InvalidData as error:
        raise InvalidData(f"entry {number}: {error.what}") from error


def _unset_if_zero(value: Any) -> object:
    return None if isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0 else value


def _unset_if_blank(value: Any) -> object:
    return None if isinstance(value, str) and not value.strip() else value


# Before the type is checked: forms that are read into ours.
FORMS: Mapping[str, Callable[[Any], object]] = {
    "reserved_huge_pages": _entries(read_pages),
    "pci.device_spec": _entries(read_device_spec),
    "pci.alias": _entries(read_alias),
    "filter_scheduler.metrics_weight_setting": read_ratios,
    "cpu_allocation_ratio": _unset_if_zero,
    "ram_allocation_ratio": _unset_if_zero,
    "disk_allocation_ratio": _unset_if_zero,
    "cpu_shared_set": _unset_if_blank,
    "cpu_dedicated_set": _unset_if_blank,
}


def _ratio(value: float) -> str:
    return "" if math.isfinite(value) and 0 < value <= _RATIO_MAX else f"must be a number above 0, not {value}"


def _multiplier(value: float) -> str:
    return "" if abs(value) <= _MULTIPLIER_MAX else f"must be a number from -1e12 to 1e12, not {value}"


def _first(check: Callable[[Any], str], values: Iterable[Any]) -> str:
    """Say what is wrong with the first of several values that is not right."""
    return next(filter(None, map(check, values)), "")


def _cpus(spec: str) -> str:
    try:
        return "" if parse_cpu_set(spec) else f"{spec!r} names no CPU; leave the setting out instead"
    except InvalidData as error:
        return error.what


def _ip(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return f"{value[:60]!r} is not an IP address"
    return ""


def _named(form: re.Pattern[str], what: str) -> Callable[[str], str]:
    return lambda value: "" if form.fullmatch(value) else f"{value[:60]!r} is not {what}"


_host = _named(_HOST, "a host name")
_plug_in = _named(_NAME, "the name of a plug-in")
_topic = _named(_NAME, "the name of a topic")


def _database(url: str) -> str:
    scheme, separator, _rest = url.partition("://")
    if not separator or scheme not in _DATABASES:
        # The URL may hold a password: only what stands before it is shown.
        told = f"scheme {scheme[:30]!r}" if separator else "no scheme"
        return f"has {told}; it must be a URL such as sqlite:////path/file.db or postgresql://user:password@host/name"
    return ""


def _http(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    return "" if sound else "must be a URL such as https://placement.example.org"


def parse_listen(value: str) -> tuple[str, int] | None:
    """
    Read where to listen: `address:port`, an IPv6 address in brackets; None for nowhere, which is empty.

    Raises:
        InvalidData: what is wrong with it.
    """
    if not value:
        return None
    found = _LISTEN.fullmatch(value)
    if found is None or int(found["port"]) > _PORT_MAX:
        raise InvalidData(f"must be address:port, such as 127.0.0.1:9809 or [::1]:9809, not {value[:60]!r}")
    return found["six"] or found["host"], int(found["port"])


def _listen(value: str) -> str:
    try:
        parse_listen(value)
    except InvalidData as error:
        return error.what
    return ""


def _uri(what: str) -> Callable[[str], str]:
    # It may hold a password: nothing of it is shown.
    return lambda value: "" if _SCHEME.match(value) else f"must be {what}"


def _token(token: str) -> str:
    sound = re.fullmatch(r"[!-~]{1,4096}", token)
    return "" if sound else "is not a token: it has a space or a character beyond ASCII"


def _in_the_clear(url: str | None) -> bool:
    """Say whether a URL crosses a network without TLS."""
    if url is None or urlsplit(url).scheme != "http":
        return False
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _topics(values: tuple[str, ...]) -> str:
    return _first(_topic, values) if values else "names no topic"


def _one_shard(value: str) -> str:
    return "" if value.strip() and "," not in value else "must name one shard; run an agent for each"


# After it: what is wrong with a value that is set, empty if nothing.
CHECKS: Mapping[str, Callable[[Any], str]] = {
    "host": _host,
    "my_ip": _ip,
    "compute_driver": _plug_in,
    "compute_monitors": lambda values: _first(_plug_in, values),
    **{f"{which}{what}_allocation_ratio": _ratio for which in ("", "initial_") for what in ("cpu", "ram", "disk")},
    "cpu_shared_set": _cpus,
    "cpu_dedicated_set": _cpus,
    "database.connection": _database,
    "database.replica_url": _database,
    "placement.connection": _database,
    "placement.url": _http,
    "libvirt.connection_uri": _uri("a URI such as qemu:///system"),
    "ironic.endpoint_override": _http,
    "ironic.shard": _one_shard,
    "fake.prefix": _host,
    "ledger": _http,
    "server.listen": lambda value: _listen(value) if value else "must say where, such as 127.0.0.1:8790",
    "server.url": _http,
    "server.token": _token,
    **{f"filter_scheduler.{name}": _multiplier for name in FilterSchedulerSection.__struct_fields__},
    "filter_scheduler.metrics_weight_setting": lambda ratios: _first(_multiplier, ratios.values()),
    "metrics.listen": _listen,
    "notifications.transport_url": _uri("a URL such as rabbit://user:password@host:5672/"),
    "notifications.topics": _topics,
    "notifications.versioned_notifications_topics": _topics,
    "notifications.control_exchange": _topic,
}


def check_together(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say which settings contradict each other: the one to change, and why. All values have passed alone."""
    shared, dedicated = values["cpu_shared_set"], values["cpu_dedicated_set"]
    if shared and dedicated:
        both = parse_cpu_set(shared) & parse_cpu_set(dedicated)
        if both:
            yield "cpu_dedicated_set", f"CPU {format_cpu_set(both)} is in cpu_shared_set too"
    if values["service_down_time"] <= values["report_interval"]:
        yield (
            "service_down_time",
            f"{values['service_down_time']} s must be longer than report_interval, {values['report_interval']} s",
        )
    if values["placement.mode"] == "remote":
        yield from _findable("placement.mode", "remote", "placement", "url", values)
    if values["compute_driver"] == "ironic":
        yield from _findable("compute_driver", "ironic", "ironic", "endpoint_override", values)
    yield from _check_server(values)
    pages = [(entry.node, entry.size_kb) for entry in values["reserved_huge_pages"]]
    if len(set(pages)) != len(pages):
        yield "reserved_huge_pages", "names a size of one node twice"


def _check_server(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("ledger", "server.url"):
        if values[name] is not None and "@" in urlsplit(values[name]).netloc:
            yield name, "has a user name in it: sign in with server.token instead"
        if _in_the_clear(values[name]) and not values["server.allow_insecure"]:
            yield name, "sends the token in the clear: use https, or set server.allow_insecure=true if it must be"
    if values["server.tls_key"] is not None and values["server.tls_cert"] is None:
        yield "server.tls_key", "needs server.tls_cert, the certificate that it belongs to"


def _findable(asks: str, what: str, section: str, url: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say what is missing to find an OpenStack service and sign in there."""
    if values[f"{section}.{url}"] is None and values[f"{section}.auth_type"] is None:
        yield asks, f"{what} needs {section}.{url}, or {section}.auth_type and {section}.auth to find it"
    if values[f"{section}.auth"] and values[f"{section}.auth_type"] is None:
        yield f"{section}.auth", f"needs {section}.auth_type, the name of the keystoneauth1 plugin"


def check(name: str, value: Any) -> str:
    """Say what is wrong with a setting's value, of its type; empty if nothing. An unset one is right."""
    if isinstance(value, Path):
        return "" if "\0" not in str(value) else "has a zero byte in it"
    return CHECKS[name](value) if name in CHECKS and value is not None else ""
