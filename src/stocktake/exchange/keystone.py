"""
Signing in at an OpenStack service, by any keystoneauth1 plugin or none. Invariant: what is wrong names the setting to
change.

Placement and Ironic are met through this; how each of them is spoken to is theirs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stocktake.errors import SettingsError, quoted

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
        raise SettingsError(f"a remote {service} needs an address", where=where, remedy=remedy)
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
        timeout_s: for one request and all of its answer.
        mount: a transport of our own for the addresses that begin so.
    """
    import requests
    from keystoneauth1 import adapter, session

    from stocktake.exchange.adapter import BoundedAdapter

    transport = requests.Session()
    for prefix in ("http://", "https://"):
        transport.mount(prefix, BoundedAdapter())
    if mount is not None:
        transport.mount(*mount)
    verify: bool | str = False if insecure else (str(cafile) if cafile else True)
    started = session.Session(auth=plugin, session=transport, timeout=timeout_s, verify=verify, user_agent="stocktake")
    # keystoneauth1 takes a % for one of its own fields, %(project_id)s.
    override = url.replace("%", "%%") if url and "%(" not in url else url
    keep = {"region_name": region_name, "interface": interface}
    chosen: dict[str, Any] = {key: value for key, value in keep.items() if value is not None}
    return adapter.Adapter(started, service_type=service_type, endpoint_override=override, **chosen)


def reason_of(error: Exception) -> str:
    """Give an error's words on one line, or its kind if it has none."""
    return quoted(error) or type(error).__name__


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a request got no answer: what and where, what to do, and whether trying again later may help."""

    what: str
    where: str
    remedy: str
    away: bool = False


def trouble_of(
    error: Exception, plugin: Any, *, section: str, service: str, request: str, url_setting: str = "url"
) -> Trouble:
    """
    Say why keystoneauth1 got no answer: it signs in at Keystone by itself, so the trouble may be there.

    Args:
        error: what it raised, other than for an answer of the service's own.
        plugin: what signs in.
        section: the settings' section, for remedies.
        service: what a person calls the service that was to be asked, and `request` what was asked of it.
        url_setting: the setting, in the section, that has its address.
    """
    from keystoneauth1 import exceptions
    from requests import exceptions as transport

    from stocktake.exchange.adapter import ExchangeFailed

    auth_url = str(getattr(plugin, "auth_url", None) or "")
    asked = next((url for one in _chain(error) if (url := _url_of(one))), "")
    at_keystone = bool(auth_url) and asked.startswith(auth_url.removesuffix("/v3"))
    failed = next((one for one in _chain(error) if isinstance(one, ExchangeFailed)), None)
    if failed is not None:
        who, where = ("Keystone", auth_url) if at_keystone else (service, request)
        setting = f"{section}.auth.auth_url" if at_keystone else f"{section}.url"
        remedy = f"Check that {who} runs and that {setting} is right."
        return Trouble(f"{who}: {failed.what}", where, remedy, away=failed.again)
    if isinstance(error, exceptions.ConnectionError | transport.RequestException):
        if at_keystone:
            return _no_connection(error, section, who="Keystone", where=auth_url, setting=f"{section}.auth.auth_url")
        return _no_connection(error, section, who=service, where=request, setting=f"{section}.{url_setting}")
    if isinstance(error, exceptions.HttpError) and (error.http_status or 0) >= 500:
        remedy = "Check that Keystone runs; it is tried again at every refresh."
        return Trouble(f"Keystone answered {reason_of(error)}", auth_url or request, remedy, away=True)
    what, remedy = _refusal(error, plugin, section, service)
    return Trouble(what, auth_url or request, remedy)


def _refusal(error: Exception, plugin: Any, section: str, service: str) -> tuple[str, str]:
    """Say what is wrong with how one signs in, and what to do."""
    from keystoneauth1 import exceptions

    reason = reason_of(error)
    auth = f"{section}.auth"
    match error:
        case exceptions.DiscoveryFailure():
            what, remedy = f"there is no Keystone: {reason}", f"Check {auth}.auth_url; it mostly ends in /v3."
        case exceptions.HttpError():
            what = f"Keystone refused the sign-in{_of_user(plugin)}: {reason}"
            remedy = f"Check {auth}: {_what_to_check(plugin)}."
        case exceptions.EmptyCatalog():
            what = "Keystone gave an empty catalogue, as to a user who signs in without a project"
            remedy = f"Set {auth}.project_name and project_domain_name: {service} wants a role in a project."
        case exceptions.EndpointNotFound():
            what = f"Keystone's catalogue does not lead to {service}: {reason}"
            remedy = f"Check {section}.region_name and interface; `openstack catalog list` shows what there is."
        case exceptions.ClientException():
            what, remedy = reason, f"Check {section}.auth_type and {auth}."
        case _:
            # The file of certificates can't be read, say.
            what, remedy = reason, f"Check {section}.cafile."
    return what, remedy


def lacking(plugin: Any, client: "Adapter", *, section: str, service: str) -> str:
    """Say what to do about a 401 or 403 of a service's: who signed in, and which role is wanted of him."""
    if getattr(plugin, "auth_url", None) is None:
        return f"Check {section}.auth_type and {section}.auth: {service} needs a sign-in with the role `service`."
    access = plugin.get_access(client.session)
    if access.system_scoped:
        return (
            f"User {access.username} signed in for the whole system, and {service} wants a role in a project: set "
            f"{section}.auth.project_name and project_domain_name instead of system_scope."
        )
    roles = ", ".join(access.role_names)
    return (
        f"User {access.username} has in project {access.project_name} the roles: {roles}. {service} wants `service`: "
        f"`openstack role add --user {access.username} --project {access.project_name} service`."
    )


def _no_connection(error: Exception, section: str, *, who: str, where: str, setting: str) -> Trouble:
    import ssl

    root = list(_chain(error))[-1]
    if isinstance(root, ssl.SSLCertVerificationError):
        what = f"the certificate of {who} can't be trusted: {root.verify_message}"
        remedy = f"Set {section}.cafile to the file of the authority that signed it, or correct the name in {setting}."
        return Trouble(what, where, remedy, away=True)
    why = (isinstance(root, OSError) and root.strerror) or reason_of(root)
    remedy = f"Check that {who} runs and that {setting} is right; it is tried again at every refresh."
    return Trouble(f"no connection to {who}: {why}", where, remedy, away=True)


def _chain(error: BaseException) -> Iterator[Any]:
    """Give an error and what led to it, the first cause last."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _url_of(error: Any) -> str:
    request = getattr(error, "request", None)
    return str(getattr(request, "url", None) or "")


def _of_user(plugin: Any) -> str:
    """Name who was to be signed in, if it goes by names."""
    methods = getattr(plugin, "auth_methods", ())
    names = (getattr(plugin, "_username", None), *(getattr(method, "username", None) for method in methods))
    return next((f" of user {name}" for name in names if name), "")


def _what_to_check(plugin: Any) -> str:
    if "applicationcredential" in type(plugin).__name__.lower():
        return "application_credential_id and application_credential_secret, and that it has not expired"
    return "username, password and user_domain_name, and that the user has a role in the project"


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
