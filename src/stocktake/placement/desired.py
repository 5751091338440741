"""
Step 7b: a node's books to the provider tree that the scheduler should hold. Invariant: pure, and only names that are
ours.

Rules: docs/accounting.md, "Placement inventory of a node". Traits that others put on a provider are not named here.
"""

from functools import lru_cache

from stocktake.model.books import Tally
from stocktake.model.hypervisor import Host
from stocktake.model.problem import Problem
from stocktake.model.provider import Inventory, Provider, ProviderTree
from stocktake.model.rules import Rules
from stocktake.model.value import replace, shared
from stocktake.placement.capabilities import TRAIT_OF_CAPABILITY
from stocktake.placement.devices import device_providers
from stocktake.placement.names import is_custom, is_standard_class, is_trait
from stocktake.placement.overrides import NodeOverrides, ProviderOverride

COMPUTE_NODE = "COMPUTE_NODE"
DISABLED = "COMPUTE_STATUS_DISABLED"
NODE_CLASSES = frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB"})
NODE_TRAITS = frozenset(TRAIT_OF_CAPABILITY.values()) | {DISABLED}


def desired(
    host: Host, tally: Tally, rules: Rules, *, disabled: bool, overrides: NodeOverrides
) -> tuple[ProviderTree, tuple[Problem, ...]]:
    """
    Work out what the scheduler should hold of one node.

    Args:
        disabled: the node's service takes no new instances.
        overrides: what provider.yaml adds to this node.

    Returns:
        The tree, and what is inconsistent: reserves above totals, unknown traits, entries that can't be combined.
    """
    node = tally.node
    inventories, problems = _inventories(host, tally, rules) if host.inventories is None else _whole(host)
    traits, unknown = _traits(host, disabled=disabled)
    own_traits, own_classes = _own(node.owned_traits), shared(node.owned_classes | NODE_CLASSES)
    root = Provider(
        uuid=node.uuid,
        name=host.hypervisor_hostname,
        inventories=inventories,
        traits=traits,
        own_classes=own_classes,
        own_traits=own_traits,
        whole=frozenset() if host.inventories is None else frozenset(inventories),
    )
    found = [*problems, *unknown, *overrides.problems]
    children: tuple[Provider, ...] = ()
    if rules.report_pci:
        children, trouble = device_providers(root, tally.pci_devices, node.owned_classes, node.owned_traits)
        found += trouble
    providers = [_added(root, overrides.root, found)]
    for child in children:
        override = overrides.others.get(child.uuid) or overrides.others.get(child.name)
        providers.append(_added(child, override, found))
    return ProviderTree(providers=tuple(providers)), tuple(found)


def _inventories(host: Host, tally: Tally, rules: Rules) -> tuple[dict[str, Inventory], list[Problem]]:
    """Make the node's own classes; one whose total is 0 is left out, as Placement knows no such inventory."""
    node = tally.node
    vcpus, pcpus = _cpus(host)
    # A reserve of less than one GB takes a whole one: rounded up, as free disk must never be overstated.
    reserved_gb = -(-rules.reserved_host_disk_mb // 1024)
    # A ratio of 0 is unset, as in Nova.
    wanted = (
        ("VCPU", vcpus, rules.reserved_host_cpus, rules.cpu_allocation_ratio or None, node.cpu_allocation_ratio),
        ("PCPU", pcpus, 0, 1.0, 1.0),
        (
            "MEMORY_MB",
            host.memory_mb,
            rules.reserved_host_memory_mb,
            rules.ram_allocation_ratio or None,
            node.ram_allocation_ratio,
        ),
        ("DISK_GB", host.local_gb, reserved_gb, rules.disk_allocation_ratio or None, node.disk_allocation_ratio),
    )
    inventories: dict[str, Inventory] = {}
    problems: list[Problem] = []
    for name, total, reserved, configured, recorded in wanted:
        if total == 0:
            continue
        if reserved > total:
            problems.append(_reserved_above_total(name, reserved, total, host.node))
        inventories[name] = Inventory(
            total=total,
            # Placement refuses reserved > total; the problem says it.
            reserved=min(reserved, total),
            max_unit=total,
            allocation_ratio=recorded if configured is None else configured,
            ratio_is_initial=configured is None,
        )
    return inventories, problems


def _whole(host: Host) -> tuple[dict[str, Inventory], list[Problem]]:
    """Take what a node that is sold as a whole says it sells; a name that the scheduler can't know is left out."""
    said = host.inventories or {}
    inventories = {name: held for name, held in said.items() if is_standard_class(name) or is_custom(name)}
    problems = [_unknown_class(name, host.node) for name in sorted(said.keys() - inventories.keys())]
    return inventories, problems


def _unknown_class(name: str, node: str) -> Problem:
    return Problem(
        code="unknown-class",
        about=name,
        text=f"{node} is said to sell {name}, which is neither a standard resource class nor a custom one",
        remedy="Name it CUSTOM_..., in upper-case letters, digits and underscores.",
    )


def _cpus(host: Host) -> tuple[int, int]:
    """Count the shared and the dedicated CPUs; a host without a topology has only shared ones."""
    if host.numa_topology is None:
        return host.vcpus, host.pcpus or 0
    cells = host.numa_topology.cells
    shared: frozenset[int] = frozenset().union(*(cell.cpuset for cell in cells))
    dedicated: frozenset[int] = frozenset().union(*(cell.pcpuset for cell in cells))
    return len(shared), len(dedicated) if host.pcpus is None else host.pcpus


def _reserved_above_total(name: str, reserved: int, total: int, node: str) -> Problem:
    return Problem(
        code="reserved-above-total",
        about=f"{node} {name}",
        text=f"{reserved} {name} are reserved for the host, which has {total}: the scheduler is told that all are",
        remedy="Lower the reserve in the settings (reserved_host_*).",
    )


def _traits(host: Host, *, disabled: bool) -> tuple[frozenset[str], list[Problem]]:
    traits = frozenset().union(host.traits, _of_capabilities(host), {COMPUTE_NODE})
    unknown = sorted(name for name in traits if not is_trait(name))
    problems = [
        Problem(
            code="unknown-trait",
            about=name,
            text=f"the driver reports trait {name}, which is neither a standard one nor a well-formed CUSTOM_ one",
            remedy="A newer os-traits may know it; else its name has to start with CUSTOM_.",
        )
        for name in unknown
    ]
    return shared((traits - frozenset(unknown)) | ({DISABLED} if disabled else frozenset())), problems


def _of_capabilities(host: Host) -> frozenset[str]:
    return frozenset(
        TRAIT_OF_CAPABILITY[name] for name, able in host.capabilities.items() if able and name in TRAIT_OF_CAPABILITY
    )


# Ten thousand alike nodes share one set of names instead of holding ten thousand.
@lru_cache(maxsize=256)
def _own(owned: frozenset[str]) -> frozenset[str]:
    return owned | NODE_TRAITS


def _added(provider: Provider, override: ProviderOverride | None, problems: list[Problem]) -> Provider:
    """Add what provider.yaml says; a class that we report ourselves is not its to say."""
    if override is None:
        return provider
    taken = sorted(override.inventories.keys() & provider.inventories.keys())
    for name in taken:
        text = f"{override.source} adds {name} to {provider.name}, which has it from its devices already: left out"
        remedy = "Remove the class from the file, or give it another name."
        problems.append(Problem(code="override-class-taken", about=name, text=text, remedy=remedy))
    added = {name: said for name, said in override.inventories.items() if name not in taken}
    return replace(
        provider, inventories={**provider.inventories, **added}, traits=shared(provider.traits | override.traits)
    )
