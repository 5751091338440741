"""
Keep the books of compute hosts: what they have, what is allocated, what is free; and tell the scheduler.

The seven steps, each a room:

1. `agent` decides when.
2. `refresh` goes node by node.
3. `audit` asks the hypervisor and the monitors.
4. `drivers` answer for a kind of hypervisor.
5. `verify` believes, doubts or refuses what was said.
6. `accounting` adds up who uses what.
7. `report` saves the record (`ledger`) and makes the scheduler agree (`placement`).
"""

__version__ = "0.1.0"
