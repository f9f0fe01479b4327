"""Numbers of things in messages: 1 utterance, 2 utterances."""

from __future__ import annotations


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number and what it counts: 1 utterance is, 2 utterances are.

    Args:
        one: what is counted, in the singular; a verb may follow.
        several: the same in the plural, if more changes than the end of ``one``.
    """
    plural = several or f"{one}{'es' if one.endswith(('ch', 'sh', 's', 'x')) else 's'}"
    return f"{number:,} {one if number == 1 else plural}"
