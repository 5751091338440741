"""
Step 7b: what operators add to providers by provider.yaml. Invariant: only `CUSTOM_` names, and never what we report.

The files and their rules are Nova's (`provider_config_location`, schema 1.0); newer minor versions are read as far as
they are known. `$COMPUTE_NODE` stands for every node that no other entry names.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from stocktake.errors import InvalidData, SettingsError
from stocktake.model.problem import Problem
from stocktake.model.provider import Inventory
from stocktake.model.value import Value, convert
from stocktake.placement.names import is_custom

if TYPE_CHECKING:
    import yaml

FILE_BYTES_MAX = 1_000_000
# YAML aliases let a small file unfold to billions of nodes; this many are enough for any real one.
NODES_MAX = 100_000
EVERY_NODE = "$COMPUTE_NODE"
_UUID = "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$"
_INT_MAX = 2**31 - 1

_Name = Annotated[str, Meta(pattern="^[A-Z0-9_]{1,255}$")]
_Positive = Annotated[int, Meta(ge=1, le=_INT_MAX)]
_Uuid = Annotated[str, Meta(pattern=rf"{_UUID}|^\$COMPUTE_NODE$")]


class ProviderOverride(Value, frozen=True, kw_only=True):
    """What one entry adds to one provider; `source` is its file."""

    inventories: Mapping[str, Inventory]
    traits: frozenset[str]
    source: str


class Overrides(Value, frozen=True, kw_only=True):
    """
    All entries of all files.

    Attributes:
        by_id: by lower-case uuid or by name.
        every_node: for the nodes that no other entry names.
        warnings: what was ignored, a sentence each.
    """

    by_id: Mapping[str, ProviderOverride] = {}
    every_node: ProviderOverride | None = None
    warnings: tuple[str, ...] = ()


class NodeOverrides(Value, frozen=True, kw_only=True):
    """What is added to one node's root provider and, by uuid or name, to others that may be its children."""

    root: ProviderOverride | None = None
    others: Mapping[str, ProviderOverride] = {}
    problems: tuple[Problem, ...] = ()


class _Inventory(Struct, frozen=True, forbid_unknown_fields=True):
    total: _Positive
    reserved: Annotated[int, Meta(ge=0, le=_INT_MAX)] = 0
    min_unit: _Positive = 1
    max_unit: _Positive = _INT_MAX
    step_size: _Positive = 1
    allocation_ratio: Annotated[float, Meta(gt=0)] = 1.0


class _Id(Struct, frozen=True, forbid_unknown_fields=True):
    uuid: _Uuid | None = None
    name: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class _Inventories(Struct, frozen=True):
    additional: tuple[dict[_Name, _Inventory], ...] = ()


class _Traits(Struct, frozen=True):
    additional: tuple[_Name, ...] = ()


class _Provider(Struct, frozen=True):
    identification: _Id
    inventories: _Inventories = _Inventories()
    traits: _Traits = _Traits()


class _Version(Struct, frozen=True):
    schema_version: str


class _Head(Struct, frozen=True):
    meta: _Version


class _File(Struct, frozen=True):
    providers: tuple[_Provider, ...] = ()


def read_overrides(location: Path | str | None) -> Overrides:
    """
    Read every `*.yaml` of a directory, in the order of their names.

    A directory that is not there adds nothing, as in Nova; the warnings say so.

    Raises:
        SettingsError: a file can't be read or says something that the scheduler or the schema does not allow; says
            which file and where in it.
    """
    if not location:
        return Overrides()
    folder = Path(location)
    by_id: dict[str, ProviderOverride] = {}
    paths = sorted(folder.glob("*.yaml"))
    warnings = [] if paths else [f"{folder}: has no readable *.yaml: nothing is added to providers"]
    for path in paths:
        for ident, override in _read_file(path, warnings):
            if ident in by_id:
                what = f"provider {ident} is defined in {by_id[ident].source} already"
                raise SettingsError(what, where=str(path), remedy="Name each provider once.")
            by_id[ident] = override
    every_node = by_id.pop(EVERY_NODE, None)
    return Overrides(by_id=by_id, every_node=every_node, warnings=tuple(warnings))


def overrides_for(overrides: Overrides, name: str, uuid: str) -> NodeOverrides:
    """
    Pick what is added to one node; an entry that names it wins over `$COMPUTE_NODE`.

    One that is named both by uuid and by name gets what the uuid's entry says, and a problem.
    """
    by_uuid, by_name = overrides.by_id.get(uuid.lower()), overrides.by_id.get(name)
    problems: tuple[Problem, ...] = ()
    if by_uuid is not None and by_name is not None:
        text = f"provider {name} is named by uuid in {by_uuid.source} and by name in {by_name.source}: the first counts"
        problems = (Problem(code="override-twice", about=name, text=text, remedy="Remove one of the two entries."),)
    root = by_uuid or by_name or overrides.every_node
    return NodeOverrides(root=root, others=overrides.by_id, problems=problems)


def _read_file(path: Path, warnings: list[str]) -> Iterator[tuple[str, ProviderOverride]]:
    data = _load(path)
    try:
        version = convert(data, _Head, where=str(path)).meta.schema_version
        newer = _check_version(version, path)
        providers = convert(data, _File, where=str(path)).providers
    except InvalidData as error:
        remedy = "See the reference of provider.yaml; the version is a string, such as '1.0'."
        raise SettingsError(error.what, where=error.where, remedy=remedy) from error
    if newer:
        warnings.append(f"{path}: schema version {version} is newer than 1.0: what 1.0 does not have is ignored")
    for index, provider in enumerate(providers):
        ident = _ident(provider.identification, f"{path}: providers[{index}]")
        override = _override(provider, path, f"{path}: providers[{index}]")
        if override.traits or override.inventories:
            yield ident, override
        else:
            warnings.append(f"{path}: provider {ident} adds no inventories and no traits and is ignored")


def _check_version(version: str, path: Path) -> bool:
    """Refuse another major version than 1; say whether the minor one is newer than 0."""
    major, _, minor = version.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise SettingsError(f"schema_version {version!r} is not of the form '1.0'", where=str(path))
    if int(major) != 1:
        raise SettingsError(f"schema_version {version!r}: only major version 1 is known", where=str(path))
    return int(minor) > 0


def _ident(identification: _Id, where: str) -> str:
    if (identification.uuid is None) == (identification.name is None):
        raise SettingsError("identification needs exactly one of uuid and name", where=where)
    if identification.uuid is None:
        assert identification.name is not None
        return identification.name
    return identification.uuid if identification.uuid == EVERY_NODE else identification.uuid.lower()


def _override(provider: _Provider, path: Path, where: str) -> ProviderOverride:
    inventories: dict[str, Inventory] = {}
    for added in provider.inventories.additional:
        for name, said in added.items():
            if said.reserved > said.total:
                raise SettingsError(f"{name}: reserved {said.reserved} is above total {said.total}", where=where)
            inventories[name] = Inventory(
                total=said.total,
                reserved=said.reserved,
                min_unit=said.min_unit,
                max_unit=said.max_unit,
                step_size=said.step_size,
                allocation_ratio=said.allocation_ratio,
            )
    _check_custom("resource classes", inventories, where)
    _check_custom("traits", provider.traits.additional, where)
    return ProviderOverride(inventories=inventories, traits=frozenset(provider.traits.additional), source=path.name)


def _check_custom(kind: str, names: Iterable[str], where: str) -> None:
    wrong = sorted(name for name in names if not is_custom(name))
    if wrong:
        remedy = "Standard ones are the driver's to report."
        raise SettingsError(f"only CUSTOM_ {kind} may be added, not {', '.join(wrong)}", where=where, remedy=remedy)


def _load(path: Path) -> object:
    """Read one YAML document, bounded in size before and after its aliases unfold."""
    import yaml

    # Of a pipe nobody may ever write the end, and a device may have none.
    if not path.is_file():
        raise SettingsError("is no regular file", where=str(path), remedy="Put a file there, or take it away.")
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(f"can't be read: {error.strerror}", where=str(path)) from error
    if len(raw) > FILE_BYTES_MAX:
        raise SettingsError(f"is larger than {FILE_BYTES_MAX} bytes", where=str(path))
    try:
        loader = yaml.SafeLoader(raw)
        root = loader.get_single_node()
        if root is None:
            return None
        _weigh(root, {}, path)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise SettingsError(f"is not YAML: {' '.join(str(error).split())}", where=str(path)) from error
    except (RecursionError, ValueError) as error:
        raise SettingsError(f"can't be understood: {error}", where=str(path)) from error


def _weigh(node: "yaml.Node", known: dict[int, int | Literal["open"]], path: Path) -> int:
    """Count the nodes below one as if every alias were written out; each is walked once."""
    import yaml

    seen = known.get(id(node))
    if seen == "open":
        raise SettingsError("an alias contains itself", where=str(path))
    if isinstance(seen, int):
        return seen
    known[id(node)] = "open"
    total = 1
    if isinstance(node, yaml.CollectionNode):
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, path)
        total += sum(_weigh(child, known, path) for child in children)
    if total > NODES_MAX:
        raise SettingsError(f"unfolds to more than {NODES_MAX} nodes", where=str(path))
    known[id(node)] = total
    return total


def _check_keys(node: "yaml.MappingNode", path: Path) -> None:
    """Refuse a key that is there twice: YAML would take the last, and whoever reads the file perhaps the first."""
    seen: set[str] = set()
    for key, _value in node.value:
        if str(key.value) in seen:
            where = f"{path} line {key.start_mark.line + 1}"
            raise SettingsError(f"has the key {key.value[:60]!r} twice", where=where, remedy="Remove one of the two.")
        seen.add(str(key.value))
