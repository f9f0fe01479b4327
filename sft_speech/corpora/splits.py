"""The grammar of ``split``, which selects the rows of a source that make a corpus."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.errors import UserError

# names of folders or files that are splits
SPLITS = frozenset("train training dev devel development val valid validation eval evaluation test testing".split())
_PART = re.compile(r"(?P<where>[^\[\]:]*)(?::(?P<share>[\d.]+)|\[(?P<lower>[\d.]*):(?P<upper>[\d.]*)\])?")


@dataclass(frozen=True)
class Part:
    """One term of a split.

    Args:
        name: a subset, or None for all rows.
        speakers: names of the speakers to select; empty means all.
        lower, upper: bounds of a range of rows, in an order that depends on their ids alone: fractions (float) or
            counts (int).
    """

    name: str | None = None
    speakers: tuple[str, ...] = ()
    lower: float = 0
    upper: float = 1.0

    @property
    def everything(self) -> bool:
        """Whether all rows of the subset are selected."""
        return not self.speakers and self.lower == 0 and isinstance(self.upper, float) and self.upper == 1

    def mask(self, ids: pa.ChunkedArray, speakers: pa.ChunkedArray) -> np.ndarray:
        """Return a mask (rows,) of the rows that are selected.

        Raises:
            UserError: no such speaker.
        """
        mask = np.ones(len(ids), bool)
        if self.speakers:
            known = pc.unique(speakers).to_pylist()
            for speaker in self.speakers:
                if speaker not in known:
                    raise unknown("speaker", speaker, known)
            mask = pc.is_in(speakers, pa.array(self.speakers, pa.string())).to_numpy(zero_copy_only=False)
        if self.lower == 0 and isinstance(self.upper, float) and self.upper == 1:
            return mask
        rows = np.flatnonzero(mask)
        ranked = rows[_shuffled(ids.take(pa.array(rows)).to_pylist())]
        chosen = np.zeros(len(ids), bool)
        chosen[ranked[_row(self.lower, len(rows)) : _row(self.upper, len(rows))]] = True
        return chosen


def parse_split(split: str | None) -> list[Part]:
    """Parse ``split`` into its terms, joined by ``+``.

    A term is the name of a subset with an optional range of rows: ``NAME``, ``NAME:0.1`` (a tenth of it), ``NAME:100``
    (100 rows of it), ``NAME[0.1:]`` (the other nine tenths). ``speaker=A,B`` instead of a name selects speakers;
    without either, all rows are selected, so that ``:0.9`` and ``[0.9:]`` split a folder in two. Ranges are spread over
    the corpus by a hash of the ids: they select the same rows wherever the corpus is stored.

    Raises:
        UserError: it doesn't follow this grammar.
    """
    if split is None:
        return [Part()]
    return [_parse_part(term.strip(), split) for term in split.split("+")]


def _parse_part(term: str, split: str) -> Part:
    found = _PART.fullmatch(term)
    try:
        if not term or found is None:
            raise ValueError("it is not of the form NAME, NAME:0.1, NAME[0.1:0.2] or speaker=A,B")
        lower = _bound(found["lower"] or "0")
        upper = _bound(found["share"] or found["upper"] or "1.0")
    except ValueError as error:
        raise UserError(
            f"split {split!r}", str(error), "e.g. train-clean-100+train-clean-360, :0.9, speaker=anna,bob"
        ) from error
    where = found["where"]
    if where.startswith("speaker="):
        speakers = tuple(name for name in where.removeprefix("speaker=").split(",") if name)
        if not speakers:
            raise UserError(f"split {split!r}", "no speaker is named", "e.g. speaker=anna,bob")
        return Part(None, speakers, lower, upper)
    return Part(where or None, (), lower, upper)


def _bound(number: str) -> float:
    """Return a count, or a fraction if it is written with a point."""
    if number.isdecimal():
        return int(number)
    value = float(number)
    if not 0 <= value <= 1:
        raise ValueError(f"{number} is not a fraction (0.0 to 1.0)")
    return value


def _row(bound: float, rows: int) -> int:
    return min(bound, rows) if isinstance(bound, int) else round(bound * rows)


def _shuffled(ids: list[str]) -> np.ndarray:
    """Return an order that looks random and depends on the ids alone."""
    hashes = [hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest() for id in ids]
    return np.argsort(np.array(hashes, "S8").view(">u8") if hashes else np.zeros(0, int), kind="stable")


def which_split(known: Sequence[str]) -> str:
    """Return how to name one of several splits: the one for training, if the names tell."""
    first = next((name for name in known if "train" in name), known[0])
    return f"say which: split={first} (or several, joined by +)"


def unknown(kind: str, name: str, known: Iterable[str], given: str | None = None) -> UserError:
    """Return the error for an unknown name, with the nearest known one as a suggestion."""
    choices = sorted(map(str, known))
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    shown = ", ".join(choices[:20]) + (f" and {len(choices) - 20} more" if len(choices) > 20 else "")
    do = (
        f"did you mean {near[0]!r}? There are: {shown}"
        if near
        else f"there are: {shown}"
        if choices
        else f"it has no {kind}s"
    )
    return UserError(given or f"{kind} {name!r}", f"there is no {kind} {name!r}", do)
