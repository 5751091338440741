"""The command line. Law: a command asks, shows and exits; it decides nothing."""
