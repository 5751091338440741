"""What all tests share: the private servers."""

pytest_plugins = ["tests.servers.libvirtd", "tests.servers.placement"]
