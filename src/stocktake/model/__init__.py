"""
The nouns: frozen values, with their units in their names. Invariant: nothing here asks, decides or changes anything.
"""
