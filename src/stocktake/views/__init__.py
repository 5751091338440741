"""What is shown of the books, to people and programs alike. Invariant: nothing is written, nobody else is asked."""
