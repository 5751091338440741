"""
Signing in at an OpenStack service, by any keystoneauth1 plugin or none. Invariant: what is wrong names the setting to
change.

Placement and Ironic are met through this; how each of them is spoken to is theirs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stocktake.errors import SettingsError

if TYPE_CHECKING:
    from keystoneauth1.adapter import Adapter
    from requests.adapters import BaseAdapter

# These know no catalogue: they must be told where the service is.
_WITHOUT_CATALOGUE = ("none", "http_basic", "admin_token")


def read_plugin(
    auth_type: str | None, auth: Mapping[str, object], *, section: str, url: str | None, url_setting: str, service: str
) -> Any:
    """
    Make the authentication plugin that a section of the settings names.

    Args:
        auth_type: the name of any installed keystoneauth1 plugin; None or `noauth` is `none`.
        auth: that plugin's options.
        section: the section's name, and `url_setting` the name in it of the service's address, for errors.
        service: what a person calls the service.

    Raises:
        SettingsError: no such plugin, an option that it does not know, or one that it lacks.
    """
    where = f"{section}.{url_setting}"
    options = dict(auth)
    if not url and not auth_type:
        remedy = f"Set {where}, or {section}.auth_type and {section}.auth so that Keystone's catalogue has it."
        raise SettingsError(f"a remote {service} has to be found somehow", where=where, remedy=remedy)
    name = "none" if auth_type in (None, "noauth") else auth_type
    assert name is not None
    if name in _WITHOUT_CATALOGUE:
        if url:
            options.setdefault("endpoint", url)
        if "endpoint" not in options:
            what = f"plugin {name!r} has no catalogue to find {service} in"
            raise SettingsError(what, where=where, remedy=f"Set {where}.")
    return _loaded(name, options, section)


def open_adapter(
    plugin: Any,
    *,
    service_type: str,
    url: str | None,
    timeout_s: float,
    insecure: bool = False,
    cafile: Path | None = None,
    region_name: str | None = None,
    interface: str | None = None,
    mount: "tuple[str, BaseAdapter] | None" = None,
) -> "Adapter":
    """
    Open a session with a service; nothing is sent yet.

    Args:
        url: the service's address; None finds it in Keystone's catalogue.
        timeout_s: for one request.
        mount: a transport of our own for the addresses that begin so.
    """
    import requests
    from keystoneauth1 import adapter, session

    transport = None
    if mount is not None:
        transport = requests.Session()
        transport.mount(*mount)
    verify: bool | str = False if insecure else (str(cafile) if cafile else True)
    door = session.Session(auth=plugin, session=transport, timeout=timeout_s, verify=verify, user_agent="stocktake")
    keep = {"region_name": region_name, "interface": interface}
    chosen: dict[str, Any] = {key: value for key, value in keep.items() if value is not None}
    return adapter.Adapter(door, service_type=service_type, endpoint_override=url, **chosen)


def reason_of(error: Exception) -> str:
    """Give an error's words on one line, or its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _loaded(name: str, options: Mapping[str, object], section: str) -> Any:
    from keystoneauth1 import exceptions, loading

    try:
        loader: Any = loading.get_plugin_loader(name)
    except exceptions.NoMatchingPlugin as error:
        remedy = f"There are: {', '.join(sorted(loading.get_available_plugin_names()))}."
        raise SettingsError(f"there is no plugin {name!r}", where=f"{section}.auth_type", remedy=remedy) from error
    where = f"{section}.auth"
    known = {option.dest for option in loader.get_options()}
    given = {key.replace("-", "_"): value for key, value in options.items()}
    unknown = sorted(given.keys() - known)
    if unknown:
        what = f"plugin {name!r} has no option {', '.join(unknown)}"
        raise SettingsError(what, where=where, remedy=f"It knows: {', '.join(sorted(known))}.")
    try:
        return loader.load_from_options(**given)
    except (exceptions.MissingRequiredOptions, exceptions.OptionError) as error:
        raise SettingsError(reason_of(error), where=where, remedy="Add them to the settings.") from error
