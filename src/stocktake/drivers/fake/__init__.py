"""Step 4, the driver `fake`: made-up nodes, from a file or a seed. Invariant: it fails only as its description says."""

from stocktake.drivers.fake.driver import FakeDriver, open_driver

__all__ = ["FakeDriver", "open_driver"]
