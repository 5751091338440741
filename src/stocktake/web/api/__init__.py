"""
`/v1`: one file for each noun. Invariant: what a terminal shows and what a program gets are worked out in one place.
"""
