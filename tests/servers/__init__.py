"""Private servers for the tests: loopback only, on free ports, stopped by those who started them."""
