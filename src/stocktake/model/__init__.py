"""The nouns: frozen values, with their units in their names. Law: nothing here asks, decides or changes anything."""
