"""
What must not be shown. Invariant: a value that could be a secret is hidden unless its name is known to be harmless.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from stocktake.errors import HIDDEN

_USER_INFO = re.compile(r"^([^:/?#]+://)(.*)@", re.DOTALL)
_QUERY_SECRET = re.compile(r"([?&;][^=&;]*(?:pass|secret|token|pwd|key)[^=&;]*=)[^&;]*", re.IGNORECASE)
_QUERY_VALUE = re.compile(r"([?&;][^=&;]*(?:pass|secret|token|pwd|key)[^=&;]*=)([^&;]*)", re.IGNORECASE)
_USER_PARTS = re.compile(r"(://|,)([^:/?#,]*):(.*?)(?=@)", re.DOTALL)
# A password that is the user's or the database's name hides nothing, and hiding it would hide those.
_URL_NAMES = re.compile(r"[^:/?#]+://([^:/?#@]*)(?::.*)?@([^:/?#@]*)(?::\d+)?(?:/([^?#]*))?.*", re.DOTALL)

# keystoneauth1's options that name somebody or something and prove nothing.
_HARMLESS = frozenset(
    {
        "auth_url",
        "username",
        "user_id",
        "user_name",
        "user_domain_id",
        "user_domain_name",
        "project_id",
        "project_name",
        "project_domain_id",
        "project_domain_name",
        "tenant_id",
        "tenant_name",
        "domain_id",
        "domain_name",
        "default_domain_id",
        "default_domain_name",
        "system_scope",
        "trust_id",
        "application_credential_id",
        "application_credential_name",
        "endpoint",
        "identity_provider",
        "protocol",
        "service_provider",
    }
)


def redact_url(url: str) -> str:
    """Hide the password of a URL and whatever in its query may be one; text that is no URL is kept."""

    def user_only(found: re.Match[str]) -> str:
        user, colon, _password = found[2].partition(":")
        return f"{found[1]}{user}:{HIDDEN}@" if colon else f"{found[1]}{user}@"

    return _QUERY_SECRET.sub(rf"\g<1>{HIDDEN}", _USER_INFO.sub(user_only, url))


def hidden(section: type[msgspec.Struct], name: str, value: Any) -> Any:
    """Give a setting's value as it may be shown."""
    kind = secrecy(section, name)
    if kind == "secret" and value is not None:
        return HIDDEN
    if kind == "url" and isinstance(value, str):
        return redact_url(value)
    if kind == "options" and isinstance(value, Mapping):
        return {key: _harmless(str(key), option) for key, option in value.items()}
    return value


def secrecy(section: type[msgspec.Struct], name: str) -> str:
    """Say how a setting is hidden: `secret`, `url`, `options`, or empty if it isn't."""
    kind = msgspec.structs.fields(section)
    found = next((field.type for field in kind if field.name == name), None)
    for meta in getattr(found, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.extra:
            return str(meta.extra.get("hide", ""))
    return ""


def secrets_in(kind: str, value: Any) -> Iterator[str]:
    """
    Give what is secret in a value, of whatever type somebody wrote it.

    Args:
        kind: how the setting is hidden; see `secrecy`.
    """
    match value:
        case Mapping():
            for key, inner in value.items():
                harmless = str(key).lower().replace("-", "_") in _HARMLESS
                if not harmless or "://" in str(inner):
                    yield from secrets_in("url" if harmless else "secret", inner)
        case str() if kind == "url":
            names = _URL_NAMES.fullmatch(value)
            public = {part for part in (names.groups() if names else ()) if part}
            found = [part[3] for part in _USER_PARTS.finditer(value)]
            found += [part[2] for part in _QUERY_VALUE.finditer(value)]
            found += [] if "://" in value else [value]
            yield from (one for one in found if one and one not in public)
        case str() | int() if kind:
            yield str(value)
        case _:
            pass


def _harmless(name: str, value: Any) -> Any:
    if name.lower().replace("-", "_") not in _HARMLESS:
        return HIDDEN
    return redact_url(value) if isinstance(value, str) else value
