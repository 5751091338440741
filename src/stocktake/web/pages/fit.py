"""
`/fit`: where a machine would go, and why not elsewhere. Invariant: the question is in the address; nothing is
allocated.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta
from starlette.responses import Response

from stocktake.claims.candidates import candidates
from stocktake.errors import InvalidInput, NotFound
from stocktake.model.access import READERS
from stocktake.model.workload import Flavor
from stocktake.views.finding import find_node
from stocktake.views.fitting import FitAnswer, answer_of, wanted_of
from stocktake.views.quantities import Unit, read_size
from stocktake.web.calls import Call, Query, route
from stocktake.web.pages.frame import MEDIA, page, refused, refused_here

_VCPUS_MAX = 65535
Line = Annotated[str, Meta(pattern="^[^\\u0000]*$", max_length=255)]
Lines = Annotated[str, Meta(pattern="^[^\\u0000]*$", max_length=4096)]


class FitForm(Query, frozen=True, kw_only=True):
    """
    What stands in the form; empty is not asked for.

    Attributes:
        memory, disk, ephemeral, swap: sizes such as `8G`.
        spec: extra specs, `key=value`, a line each.
        trait, forbid, pci, node: names, with spaces or commas between them; devices are `alias:number`.
        pack: fill full nodes first, or spread; empty is as the settings say.
    """

    vcpus: Line = ""
    memory: Line = ""
    disk: Line = ""
    ephemeral: Line = ""
    swap: Line = ""
    volume_backed: Literal["", "yes"] = ""
    numa: Line = ""
    spec: Lines = ""
    trait: Lines = ""
    forbid: Lines = ""
    pci: Lines = ""
    node: Lines = ""
    pack: Literal["", "pack", "spread"] = ""

    @property
    def packs(self) -> bool | None:
        """Whether to fill full nodes first."""
        return {"pack": True, "spread": False}.get(self.pack)


def flavor_of(asked: FitForm) -> Flavor:
    """
    Read a flavor.

    Raises:
        InvalidInput: a field can't be read, or contradicts another; `where` names it.
    """
    extra: dict[str, str] = {}
    for field, key, value in _specs(asked):
        if extra.setdefault(key, value) != value:
            raise InvalidInput(f"{key}={value} contradicts {key}={extra[key]}", where=field)
    return Flavor(
        vcpus=_whole("vCPUs", asked.vcpus, _VCPUS_MAX),
        memory_mb=_size("memory", asked.memory, "MiB", needed=True),
        root_gb=_size("disk", asked.disk, "GiB"),
        ephemeral_gb=_size("second disk", asked.ephemeral, "GiB"),
        swap_mb=_size("swap", asked.swap, "MiB"),
        extra_specs=extra,
    )


def words(text: str) -> tuple[str, ...]:
    """Read names with spaces or commas between them."""
    return tuple(word for word in re.split(r"[\s,]+", text) if word)


def _specs(asked: FitForm) -> Iterator[tuple[str, str, str]]:
    """Read all that becomes an extra spec: the field, the key, the value."""
    for line in asked.spec.splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip():
            yield "extra specs", key.strip(), value.strip()
        elif line.strip():
            raise InvalidInput(f"{line.strip()[:60]!r} is not KEY=VALUE", where="extra specs")
    if asked.numa.strip():
        yield "NUMA cells", "hw:numa_nodes", str(_whole("NUMA cells", asked.numa, _VCPUS_MAX))
    yield from (("traits", f"trait:{name}", "required") for name in words(asked.trait))
    yield from (("traits to avoid", f"trait:{name}", "forbidden") for name in words(asked.forbid))
    devices = words(asked.pci)
    if devices:
        pairs = (one if ":" in one else f"{one}:1" for one in devices)
        yield "PCI devices", "pci_passthrough:alias", ",".join(pairs)


def _whole(field: str, text: str, most: int) -> int:
    stripped = text.strip()
    if not re.fullmatch("[0-9]{1,9}", stripped) or not 1 <= int(stripped) <= most:
        raise InvalidInput(f"{stripped[:40]!r} must be a whole number from 1 to {most:,}", where=field)
    return int(stripped)


def _size(field: str, text: str, unit: Unit, *, needed: bool = False) -> int:
    if not text.strip() and not needed:
        return 0
    try:
        return read_size(text, unit)
    except InvalidInput as error:
        raise InvalidInput(error.what, where=field) from error


# So many nodes are shown of those that fit, and of the others.
SHOWN_MAX = 200
_EMPTY = FitForm()


def fit(call: Call[FitForm, None]) -> Response:
    """Show the form, and the answer if something was asked."""
    asked = call.query
    common: dict[str, Any] = {"asked": asked, "shown_max": SHOWN_MAX}
    if asked == _EMPTY:
        return page(call, "fit.html", answer=None, error=None, **common)
    try:
        answer = _answer(call)
    except (InvalidInput, NotFound) as error:
        return refused_here(call, error, "fit.html", answer=None, **common)
    return page(call, "fit.html", answer=answer, error=None, **common)


def _answer(call: Call[FitForm, None]) -> FitAnswer:
    web, asked = call.web, call.query
    wanted = wanted_of(flavor_of(asked), web.settings, volume_backed=bool(asked.volume_backed))
    nodes = {find_node(web.ledger, name).uuid for name in words(asked.node)} or None
    found = candidates(web.ledger, web.settings, wanted, now=web.clock.now(), nodes=nodes, pack=asked.packs)
    return answer_of(wanted, found)


ROUTES = (route("GET", "/fit", fit, READERS, media=MEDIA, hidden=True, errors=refused),)
