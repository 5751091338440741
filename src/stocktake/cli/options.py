"""
The options that several commands share: a choice of nodes, a size, a time span, a flavor.

Invariant: each option of a flavor says what an extra spec of Nova's says; one that contradicts `--spec` is refused.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from stocktake.cli.session import Session
from stocktake.errors import InvalidInput, StocktakeError
from stocktake.model.workload import Flavor
from stocktake.views.choosing import Choice
from stocktake.views.quantities import Unit, read_size


def choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose nodes, as one argument `choice`; what they mean, `views.choosing` says."""

    @click.option(
        "--state",
        "states",
        metavar="STATE",
        multiple=True,
        help="Only nodes in this state; may be repeated: in any of them.",
    )
    @click.option(
        "--problem", "problems", metavar="CODE", multiple=True, help="Only nodes with this problem, 'any' or 'none'."
    )
    @click.option(
        "--trait",
        "traits",
        metavar="TRAIT",
        multiple=True,
        help="Only nodes with this trait; may be repeated: with all of them.",
    )
    @click.option("--name", metavar="PATTERN", help="Only nodes of this name or uuid, such as 'rack7-*'.")
    @click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most N nodes.")
    @click.option("--marker", metavar="NODE", help="Only the nodes after this one.")
    @wraps(command)
    def chosen(
        *args: Any,
        states: tuple[str, ...],
        problems: tuple[str, ...],
        traits: tuple[str, ...],
        name: str | None,
        limit: int | None,
        marker: str | None,
        **others: Any,
    ) -> Any:
        choice = Choice(states=states, problems=problems, traits=traits, name=name, limit=limit, marker=marker)
        return command(*args, choice=choice, **others)

    return chosen


F = TypeVar("F", bound=Callable[..., Any])


def size_option(*names: str, unit: Unit, **how: Any) -> Callable[[F], F]:
    """Make an option whose value is a size, in whole MiB or GiB; 0 if it is not given."""

    def read(_context: click.Context, _option: click.Parameter, text: str | None) -> int:
        try:
            return read_size(text, unit) if text is not None else 0
        except InvalidInput as error:
            raise click.BadParameter(error.what) from error

    return click.option(*names, callback=read, metavar="SIZE", **how)


_VCPUS_MAX = 65535

_OPTIONS = (
    click.option("--vcpus", type=click.IntRange(1, _VCPUS_MAX), required=True, metavar="N", help="vCPUs."),
    size_option("--memory", "memory_mb", unit="MiB", required=True, help="Memory: 8G, 512M, 8192 (MiB)."),
    size_option("--disk", "root_gb", unit="GiB", help="Root disk: 40G, 1T, 40 (GiB)."),
    size_option("--ephemeral", "ephemeral_gb", unit="GiB", help="Ephemeral disk, deleted with the instance."),
    size_option("--swap", "swap_mb", unit="MiB", help="Swap: 1G, 512 (MiB)."),
    click.option("--volume-backed", is_flag=True, help="The root disk is a volume and takes no disk of the node."),
    click.option("--numa", "numa_nodes", type=click.IntRange(1), metavar="N", help="Spread over N NUMA cells."),
    click.option(
        "--spec",
        "specs",
        multiple=True,
        metavar="KEY=VALUE",
        help="A Nova extra spec: --spec hw:cpu_policy=dedicated.",
    ),
    click.option("--trait", "required", multiple=True, metavar="TRAIT", help="The node must have this trait."),
    click.option("--forbid", "forbidden", multiple=True, metavar="TRAIT", help="The node must not have this trait."),
    click.option(
        "--pci", "devices", multiple=True, metavar="ALIAS:N", help="N PCI devices of an alias (settings: pci.alias)."
    ),
)


def flavor_options(command: F) -> F:
    """Give a command the options of a flavor; `flavor_of` takes all of them but `volume_backed`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def flavor_of(
    *,
    vcpus: int,
    memory_mb: int,
    root_gb: int = 0,
    ephemeral_gb: int = 0,
    swap_mb: int = 0,
    numa_nodes: int | None = None,
    specs: Sequence[str] = (),
    required: Sequence[str] = (),
    forbidden: Sequence[str] = (),
    devices: Sequence[str] = (),
) -> Flavor:
    """
    Make a flavor of the options.

    Raises:
        click.UsageError: a spec is not KEY=VALUE, or two options contradict each other.
    """
    extra: dict[str, str] = {}
    for pair in specs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise click.UsageError(f"--spec {pair!r} is not KEY=VALUE, such as hw:cpu_policy=dedicated.")
        _add(extra, key.strip(), value, f"--spec {pair}")
    if numa_nodes is not None:
        _add(extra, "hw:numa_nodes", str(numa_nodes), f"--numa {numa_nodes}")
    for name in required:
        _add(extra, f"trait:{name}", "required", f"--trait {name}")
    for name in forbidden:
        _add(extra, f"trait:{name}", "forbidden", f"--forbid {name}")
    if devices:
        asked = ",".join(pair if ":" in pair else f"{pair}:1" for pair in devices)
        _add(extra, "pci_passthrough:alias", asked, "--pci")
    return Flavor(
        vcpus=vcpus,
        memory_mb=memory_mb,
        root_gb=root_gb,
        ephemeral_gb=ephemeral_gb,
        swap_mb=swap_mb,
        extra_specs=extra,
    )


def _add(extra: dict[str, str], key: str, value: str, option: str) -> None:
    if extra.setdefault(key, value) != value:
        raise click.UsageError(f"{option} contradicts {key}={extra[key]}.")


def complete_node(context: click.Context, _option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a node's name from the ledger; nothing where it can't be read."""
    session = context.ensure_object(Session)
    try:
        names = [node.hypervisor_hostname for node in session.ledger.nodes()]
    except StocktakeError:
        return []
    finally:
        session.close()
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
