"""The channel of each row: from a column of its table or an option; and a warning about channels that are mixed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.audio.channels import MIX, cancel, differ, missing, name_of, number_of
from sft_speech.audio.read import Audio, AudioError, decode, probe

logger = logging.getLogger(__name__)

Choice = Literal["left", "right", "mix"]  # of the rows that name no channel; None mixes, with a warning if they differ

ALL = -1  # in arrays of channels: all of them, mixed
_SAMPLED = 20  # recordings whose channels are compared
_SAMPLED_SECONDS = 20.0  # from the middle of each


@dataclass(frozen=True)
class Channels:
    """How the channels of rows are chosen.

    Args:
        choice: for rows that name none.
        named: whether the user named the column of channels; otherwise a column of other things may have its name.
        shown: the source in warnings.
    """

    choice: Choice | None
    named: bool
    shown: str

    def of_value(self, value: str) -> int:
        """Return the number of the channel that a row names, or that was chosen for it.

        Raises:
            ValueError: it names no channel.
        """
        number = number_of(value)
        if number is None and self.choice not in (None, MIX):
            number = number_of(str(self.choice))
        return ALL if number is None else number

    def of_rows(self, values: pa.Array | pa.ChunkedArray | None, headers: pa.Table) -> tuple[np.ndarray, pa.Table]:
        """Return the channels (rows,) and the headers, in which rows without such a channel have a reason.

        Args:
            values: the column of channels as text, if there is one.
            headers: of each row, see :mod:`~sft_speech.corpora.headers`.
        """
        counts = np.where(headers["reason"].is_null().to_numpy(), headers["channels"].to_numpy(), 0)
        numbers = np.full(len(headers), ALL if values is not None else self.of_value(""))
        wrong = np.zeros(len(headers), bool)
        if values is not None:
            numbers, wrong = self._parsed(values, counts)
        absent = (counts > 0) & ~wrong & (numbers >= counts)
        if not (wrong & (counts > 0)).any() and not absent.any():
            return numbers, headers
        reasons, details = headers["reason"].to_pylist(), headers["detail"].to_pylist()
        for row in np.flatnonzero(wrong & (counts > 0)).tolist():
            reasons[row] = "no such channel"
            details[row] = f"{values[row].as_py()!r}: write 0 or left, 1 or right" if values is not None else ""
        for row in np.flatnonzero(absent).tolist():
            error = missing(int(numbers[row]), int(counts[row]))
            reasons[row], details[row] = error.reason, str(error)
        columns = {"reason": pa.array(reasons, pa.string()), "detail": pa.array(details, pa.string())}
        return numbers, pa.table({name: columns.get(name, headers[name]) for name in headers.column_names})

    def _parsed(self, values: pa.Array | pa.ChunkedArray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the channels of a column (rows,) and a mask of the values that name none."""
        distinct = pc.unique(values)
        places = pc.index_in(values, distinct).to_numpy(zero_copy_only=False)
        found, bad, digits = [], [], []
        for text in distinct.to_pylist():
            try:
                found.append(self.of_value(text or ""))
                bad.append(False)
            except (ValueError, OverflowError):
                found.append(ALL)
                bad.append(True)
            digits.append(any(character.isdigit() for character in text or ""))
        if any(bad) and not self.named:
            text = distinct[bad.index(True)].as_py()
            what = "%s: its column channel is not read as the channel of a recording: %r is none"
            logger.warning(what, self.shown, text)
            return np.full(len(values), self.of_value("")), np.zeros(len(values), bool)
        numbers, counted = np.array(found, int)[places], np.array(digits, bool)[places]
        return numbers - self._counts_from(numbers, counted, counts) * counted, np.array(bad, bool)[places]

    def _counts_from(self, numbers: np.ndarray, counted: np.ndarray, counts: np.ndarray) -> int:
        """Return 1 if the numbers of channels begin at 1, else 0: a number that its file hasn't shows it."""
        if not counted.any() or (numbers[counted] <= 0).any():
            return 0
        if (counted & (counts > 0) & (numbers >= counts)).any():
            return 1
        logger.warning("%s: channels are counted from 0, so that 1 is the right one; write left or right", self.shown)
        return 0

    def warn_of_mixing(self, mixed: Sequence[Audio]) -> None:
        """Warn if channels that are mixed differ or cancel each other, in a sample of recordings.

        Args:
            mixed: recordings with several channels.
        """
        if self.choice is None and len(mixed):
            warn_of_mixing(mixed, self.shown, "set channel to left or right, or give the table a column channel")


def warn_of_mixing(mixed: Sequence[Audio], shown: str, do: str) -> None:
    """Warn if channels that are mixed differ or cancel each other, in a sample of recordings.

    Args:
        mixed: recordings with several channels.
        shown: their source.
        do: what to do if each channel has a speaker of its own.
    """
    places = np.unique(np.linspace(0, len(mixed) - 1, _SAMPLED).round().astype(int)).tolist()
    different, cancelling = [], []
    for audio in (mixed[place] for place in places):
        try:
            start = max(0.0, (probe(audio).seconds - _SAMPLED_SECONDS) / 2)
            samples, _ = decode(audio, start, _SAMPLED_SECONDS) if start else decode(audio)
        except AudioError:
            continue
        if cancel(samples):
            cancelling.append(_shown(audio))
        elif differ(samples):
            different.append(_shown(audio))
    all_of = f"{len(mixed):,} recording{'s' * (len(mixed) > 1)} with several channels"
    sampled = all_of if len(places) == len(mixed) else f"{len(places):,} sampled of {all_of}"
    if different:
        what = "%s: in %d of %s, these differ (%s) and are mixed. If each has a speaker, %s; mix accepts this"
        logger.warning(what, shown, len(different), sampled, _listed(different), do)
    if cancelling:
        what = "%s: in %d of %s, these cancel each other (%s): the louder one is used"
        logger.warning(what, shown, len(cancelling), sampled, _listed(cancelling))


def _shown(audio: Audio) -> str:
    path = audio.get("path") if isinstance(audio, dict) else audio
    return str(path) if isinstance(path, str) else "a recording"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def nullable(numbers: np.ndarray) -> pa.Array:
    """Return channels (rows,) as a column of a corpus."""
    return pa.array(numbers, pa.int64(), mask=numbers == ALL)


def own_ids(ids: pa.Array | pa.ChunkedArray, numbers: np.ndarray) -> pa.Array | pa.ChunkedArray:
    """Return ids in which those that several rows have end in the rows' channels: ``call-1#left``."""
    if (numbers == ALL).all():
        return ids
    places = pc.index_in(ids, pc.unique(ids)).to_numpy(zero_copy_only=False)
    repeated = (np.bincount(places)[places] > 1) & (numbers != ALL)
    if not repeated.any():
        return ids
    names = pa.array(["" if number == ALL else name_of(number) for number in numbers.tolist()], pa.string())
    return pc.if_else(pa.array(repeated), pc.binary_join_element_wise(ids, names, "#"), ids)
