"""The weights of utterances in the training loss: a column of a corpus."""

from __future__ import annotations

import math

import pyarrow as pa

from sft_speech.errors import UserError

WEIGHT, CONFIDENCE = "weight", "confidence"  # columns of what `sft-speech pseudo-label` writes
_NAMED = 3  # rows in an error


def weights_of(values: pa.Array | pa.ChunkedArray, ids: pa.Array | pa.ChunkedArray, shown: str) -> pa.Array:
    """Return the weights (rows,) of a column of strings; an empty one is 1.

    Args:
        ids: (rows,) of the utterances.
        shown: the corpus, in errors.

    Raises:
        UserError: some are no finite numbers of 0 or more.
    """
    numbers = [_number(value) for value in values.to_pylist()]
    wrong = [row for row, number in enumerate(numbers) if number is None]
    if wrong:
        raise refusal(shown, [(ids[row].as_py(), values[row].as_py()) for row in wrong[:_NAMED]], len(wrong))
    return pa.array(numbers, pa.float64())


def weight_of(value: str, id: str, shown: str) -> float:
    """Return the weight of one row: see :func:`weights_of`."""
    number = _number(value)
    if number is None:
        raise refusal(shown, [(id, value)], 1)
    return number


def refusal(shown: str, first: list[tuple[str, str]], count: int) -> UserError:
    """Return the error about weights.

    Args:
        first: ids and weights of the first rows that are wrong.
        count: how many are.
    """
    rows = ", ".join(f"{id} ({value})" for id, value in first) + (", ..." if count > len(first) else "")
    why = f"{count:,} of its weights {'is not a number' if count == 1 else 'are not numbers'} of 0 or more: {rows}"
    return UserError(shown, why, "correct the column weight, or name another one with weight_column")


def _number(value: str | None) -> float | None:
    if not value:
        return 1.0
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None
