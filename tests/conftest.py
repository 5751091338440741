"""What all tests share: the private servers, and how hypothesis behaves on machines that are slow at times."""

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers.libvirtd", "tests.servers.placement", "tests.servers.rabbitmq"]

# How long a case takes is a matter for the benchmarks: a busy machine must not fail a property.
settings.register_profile("stocktake", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stocktake")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that wait for servers and guests: at the end they would keep a core waiting too."""
    items.sort(key=lambda item: item.path.parts[-2] not in {"system", "web", "pages"})
