"""
The live view: a thread reads the ledger, pure functions make a picture of it, curses shows it.

fleet snapshot -> changes -> view -> frame -> terminal. Invariant: the ledger is read, nobody else is asked,
nothing is written.
"""
