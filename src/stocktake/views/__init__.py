"""What is shown of the books, to people and programs alike. Law: nothing is written, nobody else is asked."""
