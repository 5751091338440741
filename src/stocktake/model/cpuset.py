"""CPU sets as people write them: `0-3,^2,8`. Invariant: what `^` names is out, wherever it stands."""

import re
from collections.abc import Iterable

from stocktake.errors import InvalidData

# No machine has more; a typing error must not make a set of millions.
CPU_MAX = 65535
_SHOWN_MAX = 40
_RULE = re.compile(r"(\^?)\s*([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?", re.ASCII)


def parse_cpu_set(spec: str) -> frozenset[int]:
    """
    Read a CPU set: numbers and ranges, separated by commas; a leading `^` takes out (Nova's and libvirt's form).

    Raises:
        InvalidData: a rule that can't be read, a range that runs backwards, or a CPU over 65535.
    """
    taken: set[int] = set()
    left_out: set[int] = set()
    for rule in spec.split(","):
        bare = rule.strip()
        if not bare:
            continue
        found = _RULE.fullmatch(bare)
        if found is None:
            raise InvalidData(f"{bare[:_SHOWN_MAX]!r} is no CPU and no range of CPUs such as 0-3")
        low = int(found[2])
        high = int(found[3]) if found[3] else low
        if high < low:
            raise InvalidData(f"the range {bare!r} runs backwards")
        if high > CPU_MAX:
            raise InvalidData(f"{bare!r} names a CPU over {CPU_MAX}")
        (left_out if found[1] else taken).update(range(low, high + 1))
    return frozenset(taken - left_out)


def format_cpu_set(cpus: Iterable[int]) -> str:
    """Write CPUs as people do: `0-3,8`; empty for none."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
