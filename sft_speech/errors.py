"""The one exception that users see."""

from __future__ import annotations


class UserError(Exception):
    """What the user gave can't work.

    Printed as one or two lines, with exit code 2 and no traceback (``--debug`` shows one).

    Args:
        given: what was given, as the user would name it.
        why: why it can't work.
        do: what to do about it.
    """

    def __init__(self, given: str, why: str, do: str) -> None:
        super().__init__(f"{given}: {why}.\n-> {do}")
        self.given, self.why, self.do = given, why, do
