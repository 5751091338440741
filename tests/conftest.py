"""What all tests share: the private servers, and how hypothesis behaves on machines that are slow at times."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers.libvirtd", "tests.servers.placement", "tests.servers.rabbitmq"]

# How long a case takes is a matter for the benchmarks: a busy machine must not fail a property.
settings.register_profile("stocktake", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stocktake")
