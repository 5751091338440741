"""What all tests share: the private servers, and how hypothesis behaves on machines that are slow at times."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

pytest_plugins = [
    "tests.servers.libvirtd",
    # Before Keystone's, which imports it.
    "tests.servers.placement",
    "tests.servers.keystone",
    "tests.servers.rabbitmq",
]

# How long a case takes is a matter for the benchmarks: a busy machine must not fail a property.
settings.register_profile("stocktake", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stocktake")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that wait for servers and guests: at the end they would keep a core waiting too."""
    items.sort(key=lambda item: item.path.parts[-2] not in {"system", "web", "pages"})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """
    Leave out of the coverage what tries very much, or what hypothesis draws.

    It would take twice as long, and what is covered must not depend on luck. pytest-cov's own `no_cover` does nothing
    in a worker, where two collectors are stacked: it stops the upper one only.
    """
    if not (item.get_closest_marker("unmeasured") or is_hypothesis_test(getattr(item, "obj", None))):
        return (yield)
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)
