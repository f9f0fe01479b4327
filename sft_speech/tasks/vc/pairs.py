"""Pairs of recordings that say the same in two voices: the model is given one and is to make the other of it.

Legend: S samples, T mel frames.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.audio.units import samples_of
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import new_fingerprint
from sft_speech.corpora.select import length_reason
from sft_speech.errors import UserError
from sft_speech.tasks.speech.data import SpokenUtterances

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
    from sft_speech.tasks.speech.speakers import Speakers

# People read the same at paces that differ by less; what is further apart says something else, or is cut.
UNLIKE = 3.0


class Sources:
    """The recordings to convert, found by what pairs them with their targets.

    Args:
        rows: of a corpus.
        by: "id", or "text": the same words, whatever their case and punctuation.
        among: indices of the rows that may be taken; all of them by default.
    """

    def __init__(self, rows: Dataset, by: str, among: Iterable[int] | None = None) -> None:
        self.rows, self.by = rows, by
        self.seconds, self.speakers = rows["seconds"][:], rows["speaker"][:]
        values = rows[by][:]
        found: dict[str, list[int]] = defaultdict(list)
        for index in range(len(rows)) if among is None else among:
            found[self._key(values[index])].append(index)
        self._found = dict(found)

    def _key(self, value: str) -> str:
        return value if self.by == "id" else words_of(value)

    def known(self, target: Mapping[str, Any]) -> bool:
        """Whether any recording has what would pair it with a target."""
        return self._key(target[self.by]) in self._found

    def partners(self, target: Mapping[str, Any], seconds: float) -> tuple[list[int], str]:
        """Of a target: the sources that may be converted into it, else why there are none.

        Args:
            target: its ``id``, ``text`` and ``speaker``.
            seconds: its length.
        """
        key = self._key(target[self.by])
        same = self._found.get(key, []) if key else []
        others = [index for index in same if not target["speaker"] or self.speakers[index] != target["speaker"]]
        alike = [index for index in others if 1 / UNLIKE <= self.seconds[index] / seconds <= UNLIKE]
        if alike:  # the longest first: the costliest batch is that of the first epoch
            return sorted(alike, key=lambda index: -self.seconds[index]), ""
        if others:
            return [], f"{seconds:.1f} s, and {self.seconds[others[0]]:.1f} s of what would become of it"
        return [], "only the same speaker says it" if same else f"no recording to convert has this {self.by}"


def words_of(text: str) -> str:
    """The words of a text in any script, whatever their case and punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text).split())


def select_pairs(
    targets: Dataset,
    sources: Sources,
    name: str,
    report: CorpusReport,
    *,
    min_seconds: float,
    max_seconds: float,
    checkpoint: SpeechCheckpoint,
) -> Dataset:
    """Leaves out targets that can't be used or have no partner.

    Args:
        targets: rows of a corpus.
        name: what the report calls them.
        report: gets every row left out, with its reason, and what is left.
        min_seconds, max_seconds: shorter and longer targets, and sources, are left out.
        checkpoint: has positions for so many frames.

    Returns:
        the rows kept, with a column ``partners``: indices of rows of ``sources``.

    Raises:
        UserError: there are no pairs at all.
    """
    kept, partners = np.zeros(len(targets), bool), []
    columns = {column: targets[column][:] for column in ("id", "text", "speaker", "seconds")}
    known = False
    for row, (id, text, speaker, seconds) in enumerate(zip(*columns.values(), strict=True)):
        target = {"id": id, "text": text, "speaker": speaker}
        known = known or sources.known(target)
        own, why = sources.partners(target, seconds)
        own = [index for index in own if _heard(checkpoint, sources.seconds[index], max_seconds)]
        frames = int(checkpoint.frames(samples_of(seconds, checkpoint.rate)))
        reason = length_reason(seconds, min_seconds, max_seconds) or checkpoint.unfit(0, frames)
        if reason is None and not own:
            reason = "no pair", why or "what would become of it is too long"
        if reason is None:
            kept[row] = True
            partners.append(own)
        else:
            report.drop(name, id, *reason)
    report.keep(name, int(kept.sum()), float(np.array(columns["seconds"])[kept].sum()))
    if not known:
        first, other = columns[sources.by][0], sources.rows[0][sources.by]
        what = "ids" if sources.by == "id" else "transcripts"
        do = "see pair_by: id or text"
        raise UserError(name, f"no {what} in common with the recordings to convert ({first!r}, {other!r})", do)
    if not partners:
        raise UserError(name, f"no pair can be used\n{report.table()}", "see the reasons above")
    rows = targets if kept.all() else targets.select(np.flatnonzero(kept))
    return rows.add_column("partners", partners, new_fingerprint=new_fingerprint())


def _heard(checkpoint: SpeechCheckpoint, seconds: float, max_seconds: float) -> bool:
    """Whether the encoder has positions for a recording, and a frame at all."""
    steps = checkpoint.encoder_steps(int(samples_of(seconds, checkpoint.rate)))
    return seconds <= max_seconds and 1 <= steps <= checkpoint.config.max_speech_positions


class PairedUtterances(SpokenUtterances):
    """Recordings and what they are to become.

    Where several recordings may become a target, each epoch takes the next one of them.

    Args:
        rows: targets, see :func:`select_pairs`.
        sources: the recordings that their ``partners`` are indices of.
    """

    def __init__(
        self,
        rows: Dataset,
        checkpoint: SpeechCheckpoint,
        voices: Speakers,
        trim_db: float | None,
        sources: Dataset,
    ) -> None:
        super().__init__(rows, checkpoint, voices, trim_db)
        self.sources = sources

    def given(self, key: tuple[int, int], row: dict[str, Any]) -> dict[str, Any] | None:
        waveform = self.source(row, epoch=key[0])
        return None if waveform is None else {"samples": self.heard(waveform)}

    def source(self, row: dict[str, Any], epoch: int = 0) -> np.ndarray | None:
        """The recording (S,) that becomes a target in an epoch; None where it can't be read."""
        own = row["partners"]
        return self.recording(self.sources[own[epoch % len(own)]])

    def heard(self, waveform: np.ndarray) -> np.ndarray:
        """A recording (S,) as the encoder takes it."""
        rate = self.extractor.sampling_rate
        return np.asarray(self.extractor(audio=waveform, sampling_rate=rate)["input_values"][0], np.float32)
