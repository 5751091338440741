"""
Step 6, what a flavor asks of the PCI devices: one extra spec read. Invariant: an alias that nobody defined is told.

The rules are Nova's (release 34, nova/pci/request.py: `_translate_alias_to_requests`): `alias:count` with commas
between. A name that is said twice adds up, as two requests do there. Where this differs: entries of one alias may be of
several device types, and a count of 0 asks for nothing (Nova: for a host that has such a device, and for none of them).
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from stocktake.accounting.fit.numa_request import pci_affinity
from stocktake.errors import InvalidData
from stocktake.model.pci import PciAlias, PciRequest
from stocktake.model.workload import Flavor

ALIAS = "pci_passthrough:alias"
_COUNT = re.compile(r"[0-9]{1,9}", re.ASCII)
_SHOWN_MAX = 40


def pci_requests(flavor: Flavor, aliases: Sequence[PciAlias]) -> tuple[PciRequest, ...]:
    """
    Read which devices a flavor asks for, in the order in which it first names the aliases.

    Args:
        aliases: the host's setting `pci.alias`; entries of one name are alternatives.

    Raises:
        InvalidData: the extra spec can't be read, names no alias of this host, or one whose entries disagree about
            numa_policy while the flavor names none; `where` names the spec.
    """
    affinity = pci_affinity(flavor)
    known: dict[str, list[PciAlias]] = {}
    for entry in aliases:
        # As Nova does, which takes the blanks off both sides.
        known.setdefault(entry.name.strip(), []).append(entry)
    requests: list[PciRequest] = []
    for alias, count in _counts(flavor.extra_specs).items():
        specs = known.get(alias)
        if specs is None:
            raise _unknown(alias, known)
        policies = sorted({entry.numa_policy for entry in specs})
        if affinity is None and len(policies) > 1:
            what = f"entries of the alias {_shown(alias)} disagree about numa_policy: {', '.join(policies)}"
            raise InvalidData(what, where=ALIAS, remedy="Give all of them the same in pci.alias.")
        if count:
            policy = affinity or specs[0].numa_policy
            requests.append(PciRequest(alias=alias, count=count, specs=tuple(specs), numa_policy=policy))
    return tuple(requests)


def _counts(specs: Mapping[str, str]) -> dict[str, int]:
    """Read how many devices of each alias are wanted."""
    counts: dict[str, int] = {}
    if ALIAS not in specs:
        return counts
    for wish in specs[ALIAS].split(","):
        alias, _colon, count = (part.strip() for part in wish.partition(":"))
        if not alias or not _COUNT.fullmatch(count):
            raise InvalidData(f"{_shown(wish)} is not an alias and a count, such as gpu:1", where=ALIAS)
        counts[alias] = counts.get(alias, 0) + int(count)
    return counts


def _unknown(alias: str, known: Mapping[str, object]) -> InvalidData:
    near = get_close_matches(alias, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    remedy = "Add it to pci.alias, or ask for another in the flavor."
    return InvalidData(f"this host has no alias {_shown(alias)}{hint}", where=ALIAS, remedy=remedy)


def _shown(said: str) -> str:
    return repr(said[:_SHOWN_MAX])
