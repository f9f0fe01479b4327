"""Numbers of things in messages: 1 utterance, 2 utterances."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """Return a number and what it counts, in the plural unless it is 1.

    Args:
        what: in the singular; its last word gets the plural: "usable row".
    """
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what}{'es' if what.endswith(('ch', 'sh', 's', 'x')) else 's'}"
