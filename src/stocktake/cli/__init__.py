"""The command line. Invariant: a command asks, shows and exits; it decides nothing."""
