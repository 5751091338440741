"""
Step 4, the host's guests: domain definitions into `Guest`. Invariant: a guest that can't be read is its own trouble
only.

One bulk call gives all guests with their states, one document each the rest: no guest's QEMU is asked anything. The
documents are kept until libvirt tells that they changed.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple, TypeVar
from xml.etree.ElementTree import Element, tostring

import libvirt

from stocktake.drivers.libvirt.connection import Domain, Hypervisor, is_lost, message_of
from stocktake.drivers.libvirt.devices import address_of
from stocktake.drivers.libvirt.disks import Image
from stocktake.drivers.libvirt.numa import HostLayout, guest_topology
from stocktake.drivers.libvirt.xml import number, read_xml, size_bytes, text_of
from stocktake.errors import InvalidData
from stocktake.model.hypervisor import Guest
from stocktake.model.topology import GuestTopology
from stocktake.model.value import Value

MIB = 1024**2
# What libvirt gives for the id of a domain that doesn't run.
OFF = -1
_TROUBLE_MAX = 500

T = TypeVar("T")

# virDomainState, in virsh's words without their spaces.
_STATES: Mapping[int, str] = {
    libvirt.VIR_DOMAIN_NOSTATE: "nostate",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "idle",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shutoff",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
_STARTING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)


class GuestDisk(NamedTuple):
    """One local file disk of a guest and the format that its definition states."""

    path: str
    image_format: str


class Definition(Value, frozen=True, kw_only=True):
    """What a guest's document says; `troubles` are the parts that could not be read, which count as nothing."""

    vcpus: int
    memory_mb: int
    disks: tuple[GuestDisk, ...]
    numa: GuestTopology | None
    pci_addresses: tuple[str, ...]
    metadata: Mapping[str, str]
    troubles: tuple[str, ...]


@dataclass(slots=True)
class Kept:
    """
    One guest as it was read.

    Attributes:
        run: the domain's id, another one each time it starts; -1 while it is off.
        asked: sizes of images that libvirtd was asked for, by path.
    """

    run: int
    text: str
    layout: HostLayout
    definition: Definition
    asked: dict[str, Image] = field(default_factory=dict)


class DefinitionCache:
    """
    What was read of guests: it stands for a guest until it is dropped, the guest starts or ends, or the host changes.

    Attributes:
        differing: names, by uuid, of guests that were read again and are not what stood for them.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self.differing: dict[str, str] = {}

    def kept(self, uuid: str, *, run: int, layout: HostLayout) -> Kept | None:
        """Give what stands for a guest; None if it has to be read."""
        kept = self._kept.get(uuid)
        return kept if kept is not None and kept.run == run and kept.layout is layout else None

    def read(self, uuid: str, text: str, *, name: str, run: int, layout: HostLayout) -> Kept:
        """Take a guest's document, and parse it unless it and the host are as they were."""
        before = self.kept(uuid, run=run, layout=layout)
        if before is not None and before.text == text:
            definition = before.definition
        else:
            definition = read_definition(text, active=run != OFF, layout=layout)
            if before is not None and before.definition != definition:
                self.differing[uuid] = name
        kept = self._kept[uuid] = Kept(run, text, layout, definition)
        return kept

    def drop(self, uuids: Iterable[str]) -> None:
        """Let nothing stand for these guests."""
        for uuid in uuids:
            self._kept.pop(uuid, None)

    def clear(self) -> None:
        """Let nothing stand for any guest."""
        self._kept.clear()
        self.differing.clear()

    def keep_only(self, uuids: Collection[str]) -> None:
        """Forget guests that are gone."""
        if len(self._kept) > len(uuids):
            self._kept = {uuid: kept for uuid, kept in self._kept.items() if uuid in uuids}


Measure = Callable[[Domain, GuestDisk, Kept], Image]


class Reading(NamedTuple):
    """All guests in the order of their uuids, their images, and how many of them are just starting."""

    guests: tuple[Guest, ...]
    images: tuple[Image, ...]
    starting: int


def read_guests(
    hypervisor: Hypervisor, cache: DefinitionCache, layout: HostLayout, measure: Measure, *, anew: bool
) -> Reading:
    """
    Read every guest, running or not. A guest that goes away in between is left out.

    Args:
        measure: reads one image; raises InvalidData where it can't be read.
        anew: read every document, whatever is kept.
    """
    guests: list[Guest] = []
    images: list[Image] = []
    starting = 0
    listed = sorted(((domain.UUIDString(), domain, state) for domain, state in _list(hypervisor)), key=itemgetter(0))
    for uuid, domain, (state, reason) in listed:
        run = domain.ID()
        kept = None if anew else cache.kept(uuid, run=run, layout=layout)
        kept = kept or _read(hypervisor, uuid, domain, cache, run=run, layout=layout)
        if kept is None:
            continue
        definition = kept.definition
        starting += (state, reason) == _STARTING
        own, unread = _measure(domain, kept, measure)
        images.extend(own)
        troubles = "; ".join((*definition.troubles, *unread))
        guests.append(
            Guest(
                uuid=uuid,
                name=domain.name(),
                state=_STATES.get(state, f"state {state}"),
                active=run != OFF,
                vcpus=definition.vcpus,
                memory_mb=definition.memory_mb,
                disk_mb=-(-sum({image.identity: image.virtual for image in own}.values()) // MIB),
                disk_paths=tuple(disk.path for disk in definition.disks),
                numa=definition.numa,
                pci_addresses=definition.pci_addresses,
                metadata=definition.metadata,
                trouble=troubles[:_TROUBLE_MAX] or None,
            )
        )
    cache.keep_only({guest.uuid for guest in guests})
    return Reading(tuple(guests), tuple(images), starting)


def _list(hypervisor: Hypervisor) -> list[tuple[Domain, tuple[int, int]]]:
    """List the domains with their states and the reasons for them."""
    try:
        listed = hypervisor.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        return [(domain, (domain.state()[0], domain.state()[1])) for domain in hypervisor.listAllDomains()]
    return [
        (domain, (stats.get("state.state", libvirt.VIR_DOMAIN_NOSTATE), stats.get("state.reason", 0)))
        for domain, stats in listed
    ]


def _read(
    hypervisor: Hypervisor, uuid: str, domain: Domain, cache: DefinitionCache, *, run: int, layout: HostLayout
) -> Kept | None:
    try:
        text = domain.XMLDesc()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        if is_lost(error, hypervisor):
            raise
        trouble = f"libvirt does not give its definition: {message_of(error)}"
        return Kept(run, "", layout, _unreadable(trouble))
    return cache.read(uuid, text, name=domain.name(), run=run, layout=layout)


def _measure(domain: Domain, kept: Kept, measure: Measure) -> tuple[list[Image], list[str]]:
    images: list[Image] = []
    unread: list[str] = []
    for disk in kept.definition.disks:
        try:
            images.append(measure(domain, disk, kept))
        except InvalidData as error:
            unread.append(error.what)
    return images, unread


def read_definition(text: str, *, active: bool, layout: HostLayout) -> Definition:
    """Read one domain document, each part on its own, so that what is wrong with one doesn't lose the others."""
    try:
        root = read_xml(text, where="")
    except InvalidData as error:
        return _unreadable(error.what)
    troubles: list[str] = []

    def attempt(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except InvalidData as error:
            troubles.append(error.what)
            return otherwise

    vcpus: frozenset[int] = attempt(lambda: _vcpus(root, active=active), frozenset[int]())
    memory = attempt(lambda: size_bytes(root.find("memory"), what="memory"), 0)
    return Definition(
        vcpus=len(vcpus),
        memory_mb=-(-memory // MIB),
        disks=tuple(_disks(root)),
        numa=attempt(lambda: guest_topology(root, vcpus, layout), None),
        pci_addresses=attempt(lambda: _pci_addresses(root), ()),
        metadata=attempt(lambda: _metadata(root), {}),
        troubles=tuple(troubles),
    )


def _unreadable(trouble: str) -> Definition:
    return Definition(vcpus=0, memory_mb=0, disks=(), numa=None, pci_addresses=(), metadata={}, troubles=(trouble,))


# No hypervisor of libvirt's gives a guest more; it keeps a wrong number from filling the memory.
_VCPUS_MAX = 65536


def _vcpus(root: Element, *, active: bool) -> frozenset[int]:
    """
    Read the ids of the vCPUs that a guest uses.

    An active guest uses those plugged in (`current`, or the list), an inactive one may start with all.
    """
    element = root.find("vcpu")
    # libvirt leaves nothing out; a document without the element means one vCPU, as its documentation says.
    count = 1 if element is None else number(element.text, what="vcpu")
    if element is not None and active:
        listed = root.findall("./vcpus/vcpu")
        if listed:
            plugged = [vcpu for vcpu in listed if vcpu.get("enabled") == "yes"]
            return frozenset(number(vcpu.get("id"), what="a vcpu's id") for vcpu in plugged)
        count = number(element.get("current", str(count)), what="vcpu's current")
    if count > _VCPUS_MAX:
        raise InvalidData(f"vcpu is {count}, more than {_VCPUS_MAX}")
    return frozenset(range(count))


def _disks(root: Element) -> list[GuestDisk]:
    """List the disks that are local files; not CD-ROMs, floppies, block devices and what comes over a network."""
    disks: list[GuestDisk] = []
    for disk in root.findall("./devices/disk"):
        source = disk.find("source")
        path = None if source is None else source.get("file")
        if disk.get("type") == "file" and disk.get("device", "disk") == "disk" and path:
            driver = disk.find("driver")
            # As in libvirt: an image whose format isn't stated is raw.
            disks.append(GuestDisk(path, "raw" if driver is None else driver.get("type", "raw")))
    return disks


def _pci_addresses(root: Element) -> tuple[str, ...]:
    """List the host devices given to the guest, network ones too, sorted."""
    given = [*root.findall("./devices/hostdev[@type='pci']"), *root.findall("./devices/interface[@type='hostdev']")]
    sources = [device.find("./source/address") for device in given]
    return tuple(sorted({address_of(source) for source in sources if source is not None}))


def _metadata(root: Element) -> dict[str, str]:
    """
    Read the metadata: namespace to what is in it, and `title` and `description` where given.

    An element with nothing but text gives that text, any other its XML.

    Raises:
        InvalidData: nested too deeply.
    """
    found = {key: text for key in ("title", "description") if (text := text_of(root, key))}
    for element in root.findall("./metadata/*"):
        namespace = element.tag.partition("}")[0].removeprefix("{")
        try:
            plain = len(element) == 0 and not element.attrib
            found[namespace] = (element.text or "").strip() if plain else tostring(element, encoding="unicode").strip()
        except RecursionError as error:
            raise InvalidData(f"metadata of {namespace} is nested too deeply") from error
    return found
