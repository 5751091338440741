"""
What reaches a terminal or a text log. Invariant: no text from outside can paint, move the cursor, turn the direction of
reading or begin a line.
"""

import re

# What `click.style` writes, and nothing else that begins with ESC.
_PAINT = re.compile(r"(\x1b\[[0-9;]*m)")


def clean(text: str) -> str:
    """Make control characters, marks of direction and ends of lines visible, as Python writes them: `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def clean_painted(text: str) -> str:
    """Clean a line of an answer, but keep our own paint: whatever was painted is clean."""
    if text.isprintable():
        return text
    return "".join(part if number % 2 else clean(part) for number, part in enumerate(_PAINT.split(text)))


def clean_lines(text: str) -> str:
    """Clean text of several lines, such as a traceback: each but the first is set in, so that none looks like ours."""
    first, *rest = text.split("\n")
    return "\n".join([clean(first), *(f"  {clean(line)}" for line in rest)])
