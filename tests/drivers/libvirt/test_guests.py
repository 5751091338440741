"""Domain definitions to guests: each part on its own, and whatever is in them."""

from string import printable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.drivers.libvirt.guests import OFF, Definition, DefinitionCache, GuestDisk, read_definition
from stocktake.drivers.libvirt.numa import HostLayout
from tests.drivers.libvirt.documents import domain_document

LAYOUT = HostLayout(cell_by_cpu={0: 0, 1: 0}, cells=frozenset({0}), huge_kb=2048)

DISKS = """
<devices>
  <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a'/><target dev='vda'/></disk>
  <disk type='file'><source file='/b'/></disk>
  <disk type='file' device='disk'><driver name='qemu' type='raw'/></disk>
  <disk type='file' device='cdrom'><source file='/c.iso'/></disk>
  <disk type='file' device='floppy'><source file='/c.img'/></disk>
  <disk type='block' device='disk'><source dev='/dev/vg/d'/></disk>
  <disk type='network' device='disk'><source protocol='rbd' name='pool/e'/></disk>
  <disk type='volume' device='disk'><source pool='default' volume='f'/></disk>
  <disk type='block' device='lun'><source dev='/dev/sg'/></disk>
  <hostdev mode='subsystem' type='pci' managed='yes'>
    <source><address domain='0x0000' bus='0x81' slot='0x00' function='0x1'/></source>
    <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
  </hostdev>
  <hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>
  <interface type='hostdev'><source><address type='pci' bus='0x02' slot='0x1f' function='0x7'/></source></interface>
</devices>"""


@pytest.mark.parametrize(
    ("vcpu", "active", "vcpus"),
    [
        ("<vcpu>4</vcpu>", True, 4),
        ("<vcpu current='2'>4</vcpu>", True, 2),
        ("<vcpu current='2'>4</vcpu>", False, 4),
        (
            "<vcpu>4</vcpu><vcpus><vcpu id='0' enabled='yes'/><vcpu id='3'/><vcpu id='1' enabled='yes'/></vcpus>",
            True,
            2,
        ),
        ("<vcpu>4</vcpu><vcpus><vcpu id='0' enabled='yes'/></vcpus>", False, 4),
        ("", True, 1),
    ],
)
def test_an_active_guest_has_the_vcpus_plugged_in_and_an_inactive_one_all(
    vcpu: str,
    active: bool,  # noqa: FBT001 (a table's column)
    vcpus: int,
) -> None:
    definition = read_definition(domain_document("", vcpu=vcpu), active=active, layout=LAYOUT)
    assert (definition.vcpus, definition.troubles) == (vcpus, ())


def test_memory_is_the_most_it_may_have_rounded_up() -> None:
    inner = "<currentMemory unit='KiB'>1024</currentMemory>"
    assert read_definition(domain_document(inner), active=True, layout=LAYOUT).memory_mb == 1025


def test_only_local_file_disks_count_and_an_unstated_format_is_raw() -> None:
    definition = read_definition(domain_document(DISKS), active=True, layout=LAYOUT)
    assert definition.disks == (GuestDisk("/a", "qcow2"), GuestDisk("/b", "raw"))


def test_host_devices_and_network_functions_are_given_pci_devices() -> None:
    definition = read_definition(domain_document(DISKS), active=True, layout=LAYOUT)
    assert definition.pci_addresses == ("0000:02:1f.7", "0000:81:00.1")


def test_metadata_is_by_namespace_with_title_and_description() -> None:
    inner = (
        "<title> A title </title><description>What for</description>"
        "<metadata><a:note xmlns:a='urn:a'> plain </a:note><b:x xmlns:b='urn:b' k='1'><b:y>z</b:y></b:x></metadata>"
    )
    metadata = read_definition(domain_document(inner), active=True, layout=LAYOUT).metadata
    assert set(metadata) == {"title", "description", "urn:a", "urn:b"}
    assert (metadata["title"], metadata["description"], metadata["urn:a"]) == ("A title", "What for", "plain")
    assert "urn:b" in metadata["urn:b"]
    assert ">z<" in metadata["urn:b"]


def test_metadata_that_is_nested_too_deeply_is_its_own_trouble() -> None:
    deep = "<a:x xmlns:a='urn:a'>" + "<y>" * 5000 + "</y>" * 5000 + "</a:x>"
    definition = read_definition(domain_document(f"<metadata>{deep}</metadata>"), active=True, layout=LAYOUT)
    assert definition.troubles == ("metadata of urn:a is nested too deeply",)
    assert (definition.vcpus, definition.memory_mb) == (4, 1025)


def test_one_wrong_part_leaves_the_others() -> None:
    text = domain_document(
        "<cputune><vcpupin vcpu='0' cpuset='none'/></cputune>" + DISKS.replace("0x81", "zz"),
        memory="<memory unit='furlong'>1</memory>",
        vcpu="<vcpu>99999999</vcpu>",
    )
    definition = read_definition(text, active=True, layout=LAYOUT)
    assert (definition.vcpus, definition.memory_mb, definition.numa, definition.pci_addresses) == (0, 0, None, ())
    assert len(definition.disks) == 2
    assert [trouble.split(" ")[0] for trouble in definition.troubles] == ["vcpu", "memory", "bus"]


@pytest.mark.parametrize("text", ["", "rubbish", "<!DOCTYPE d [<!ENTITY x 'y'>]><domain>&x;</domain>"])
def test_a_document_that_is_rubbish_is_the_guest_s_own_trouble(text: str) -> None:
    definition = read_definition(text, active=True, layout=LAYOUT)
    assert (definition.vcpus, definition.memory_mb, len(definition.troubles)) == (0, 0, 1)


PIECES = st.sampled_from(
    ["0", "-1", "1e9", "9" * 30, "0x10", "KiB", "0-3,^1", "7-0", "", " ", "&#0;", "&x;", "<", "'", "\u0663"]
)


@given(
    st.lists(PIECES | st.text(alphabet=printable, max_size=12), min_size=8, max_size=8),
    st.booleans(),
)
def test_any_definition_is_read_or_its_trouble_told(parts: list[str], active: bool) -> None:  # noqa: FBT001
    vcpu, current, unit, memory, pin, nodeset, page, address = parts
    text = (
        f"<domain><vcpu current='{current}'>{vcpu}</vcpu><memory unit='{unit}'>{memory}</memory>"
        f"<cputune><vcpupin vcpu='0' cpuset='{pin}'/></cputune>"
        f"<numatune><memory nodeset='{nodeset}'/></numatune>"
        f"<memoryBacking><hugepages><page size='{page}'/></hugepages></memoryBacking>"
        f"<devices><hostdev type='pci'><source><address bus='{address}' slot='0' function='0'/></source></hostdev>"
        "</devices></domain>"
    )
    definition = read_definition(text, active=active, layout=LAYOUT)
    assert 0 <= definition.vcpus <= 65536
    assert 0 <= definition.memory_mb < 2**53
    assert definition.memory_mb or definition.troubles or "0" in memory


def read(cache: DefinitionCache, text: str, *, run: int = 3, layout: HostLayout = LAYOUT) -> Definition:
    return cache.read("u", text, name="name", run=run, layout=layout).definition


def test_a_definition_is_parsed_again_only_if_it_or_the_host_has_changed() -> None:
    cache = DefinitionCache()
    text = domain_document("")
    first = read(cache, text)
    assert read(cache, text) is first
    assert read(cache, domain_document("", vcpu="<vcpu>1</vcpu>")).vcpus == 1
    assert read(cache, text, run=OFF) is not first
    other = HostLayout(cell_by_cpu={}, cells=frozenset(), huge_kb=None)
    kept = read(cache, text, layout=other)
    assert read(cache, text, layout=other) is kept
    cache.keep_only(frozenset())
    assert read(cache, text, layout=other) is not kept


def test_what_is_kept_stands_for_a_guest_until_it_is_dropped_starts_ends_or_the_host_changes() -> None:
    cache = DefinitionCache()
    assert cache.kept("u", run=3, layout=LAYOUT) is None
    read(cache, domain_document(""))
    assert cache.kept("u", run=3, layout=LAYOUT) is not None
    assert cache.kept("u", run=4, layout=LAYOUT) is None
    assert cache.kept("u", run=OFF, layout=LAYOUT) is None
    assert cache.kept("u", run=3, layout=HostLayout(cell_by_cpu={}, cells=frozenset(), huge_kb=None)) is None
    cache.drop(["other", "u"])
    assert cache.kept("u", run=3, layout=LAYOUT) is None


def test_only_a_guest_that_is_not_what_stood_for_it_differs() -> None:
    cache = DefinitionCache()
    few, many = (domain_document("", vcpu=f"<vcpu>{count}</vcpu>") for count in (1, 2))
    read(cache, few)
    read(cache, few)
    # Another document that says the same of what counts.
    read(cache, few.replace("</domain>", "<on_crash>destroy</on_crash></domain>"))
    # Another run: its start was seen by its id.
    read(cache, many, run=4)
    cache.drop(["u"])
    read(cache, few, run=4)
    assert cache.differing == {}
    read(cache, many, run=4)
    assert cache.differing == {"u": "name"}
    cache.clear()
    assert cache.differing == {}
