"""Recorded trees of /proc and /sys: machines that are not here."""

from collections.abc import Mapping
from pathlib import Path

FLAGS = "fpu sse sse2 pni ssse3 sse4_1 sse4_2 avx avx2 aes vmx avx512f avx512_vbmi2 sha_ni made_up"
BOOTED_S = 1_700_000_000


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write files under a root; their folders are made."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def two_cells(root: Path) -> Path:
    """
    Record a machine of two sockets with a cell each: 8 CPUs of 2 threads, CPU 7 offline, huge pages, PCI devices.

    Cell 0 has the even CPUs, cell 1 the odd ones, as many a vendor numbers them; a core is a CPU and the one 4 above.
    """
    write(root, _proc())
    write(root, {"sys/devices/system/cpu/online": "0-6\n", "sys/devices/system/cpu/possible": "0-7\n"})
    for cpu in range(7):
        folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = f"{cpu % 4},{cpu % 4 + 4}" if cpu % 4 != 3 else "3"
        facts = {"physical_package_id": cpu % 2, "core_id": cpu % 4 // 2, "thread_siblings_list": siblings}
        write(root, {f"{folder}/{name}": f"{fact}\n" for name, fact in facts.items()})
    (root / "sys/devices/system/cpu/cpufreq").mkdir()
    for node, cpus in ((0, "0,2,4,6"), (1, "1,3,5,7")):
        folder = f"sys/devices/system/node/node{node}"
        write(
            root,
            {
                f"{folder}/cpulist": f"{cpus}\n",
                f"{folder}/meminfo": f"Node {node} MemTotal:  {16 * 1024**2} kB\nNode {node} MemFree:   1024 kB\n",
                f"{folder}/hugepages/hugepages-2048kB/nr_hugepages": "512\n",
                f"{folder}/hugepages/hugepages-1048576kB/nr_hugepages": "2\n",
            },
        )
    write(root, {"sys/devices/system/node/online": "0-1\n"})
    _devices(root)
    return root


def _proc() -> dict[str, str]:
    cpus = "\n".join(
        f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon of the records\nflags\t\t: {FLAGS}\n"
        for cpu in range(7)
    )
    return {
        "proc/cpuinfo": cpus,
        "proc/meminfo": f"MemTotal:  {32 * 1024**2 + 1} kB\nMemFree:  {20 * 1024**2} kB\n"
        f"MemAvailable:  1 kB\nBuffers:  {1024**2} kB\nCached:  {3 * 1024**2} kB\nHugePages_Total:  1024\n",
        "proc/stat": f"cpu  1 2 3 4\nbtime {BOOTED_S}\n",
        "proc/uptime": "1234.56 99.00\n",
        "proc/sys/kernel/osrelease": "6.1.90-record\n",
    }


def _devices(root: Path) -> None:
    device(root, "0000:00:00.0", vendor="0x8086", product="0x1237", pci_class="0x060000", numa_node="-1")
    device(root, "0000:00:1c.0", vendor="0x8086", product="0x1238", pci_class="0x060400", numa_node="0")
    device(root, "0000:3b:00.0", vendor="0x10de", product="0x20b5", pci_class="0x030200", numa_node="0")
    device(root, "0000:81:00.0", vendor="0x8086", product="0x1528", pci_class="0x020000", numa_node="1")
    write(root, {"sys/bus/pci/devices/0000:81:00.0/sriov_totalvfs": "64\n"})
    device(root, "0000:81:00.1", vendor="0x8086", product="0x1528", pci_class="0x020000", numa_node="1")
    write(root, {"sys/bus/pci/devices/0000:81:00.1/sriov_totalvfs": "0\n"})
    device(root, "0000:81:10.0", vendor="0x8086", product="0x1515", pci_class="0x020000", numa_node="1")
    (root / "sys/bus/pci/devices/0000:81:10.0/physfn").symlink_to("../0000:81:00.0")
    device(root, "0000:ff:00.0", vendor="0x1af4", product="0x1041", pci_class="0x020000", numa_node="-1")


def device(root: Path, address: str, *, vendor: str, product: str, pci_class: str, numa_node: str) -> None:
    """Record one PCI device."""
    folder = f"sys/bus/pci/devices/{address}"
    facts = {"vendor": vendor, "device": product, "class": pci_class, "numa_node": numa_node}
    write(root, {f"{folder}/{name}": f"{fact}\n" for name, fact in facts.items()})


def arm_board(root: Path) -> Path:
    """Record a small arm64 board: no NUMA, no PCI bus, no /sys of CPUs."""
    write(
        root,
        {
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd aes crc32\nCPU implementer\t: 0x41\n\n"
            "processor\t: 1\n",
            "proc/meminfo": "MemTotal: 1048576 kB\nMemFree: 524288 kB\n",
        },
    )
    return root
