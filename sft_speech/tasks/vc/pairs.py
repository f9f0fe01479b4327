"""Pairs of recordings of the same words by two voices: the source and the target of a conversion.

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
from sft_speech.tasks.speech.data import Utterances

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
    from sft_speech.tasks.speech.speakers import Speakers

# Recordings of the same words differ less in length; others have different words, or are truncated.
MAX_RATIO = 3.0


class Sources:
    """The recordings to convert, looked up by the id or text that they share with their targets.

    Args:
        rows: of a corpus.
        by: "id", or "text" for the same words, regardless of case and punctuation.
        among: indices of the rows to use; all by default.
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
        """Return whether any source has the id or the words of a target."""
        return self._key(target[self.by]) in self._found

    def partners(self, target: Mapping[str, Any], seconds: float) -> tuple[list[int], str]:
        """Return the indices of the sources of a target, longest first; if there are none, the reason.

        Args:
            target: with ``id``, ``text`` and ``speaker``.
            seconds: its length.
        """
        key = self._key(target[self.by])
        same = self._found.get(key, []) if key else []
        others = [index for index in same if not target["speaker"] or self.speakers[index] != target["speaker"]]
        alike = [index for index in others if 1 / MAX_RATIO <= self.seconds[index] / seconds <= MAX_RATIO]
        if alike:  # the first epoch takes the first source, so the largest batch comes early
            return sorted(alike, key=lambda index: -self.seconds[index]), ""
        if others:
            return [], f"{seconds:.1f} s, but its source has {self.seconds[others[0]]:.1f} s"
        return [], "only its own speaker has recorded it" if same else f"no source recording has this {self.by}"


def words_of(text: str) -> str:
    """Return the words of a text in any script, without case and punctuation."""
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
    """Select the targets that can be used and have a source.

    Args:
        targets: rows of a corpus.
        name: of the split, for the report.
        report: gets every dropped row with its reason, and what is kept.
        min_seconds, max_seconds: of targets; sources have at most ``max_seconds`` too.
        checkpoint: its model must have positions for the frames of both.

    Returns:
        The rows kept, with a column ``partners``: indices of rows of ``sources``.

    Raises:
        UserError: there are no pairs.
    """
    kept, partners = np.zeros(len(targets), bool), []
    columns = {column: targets[column][:] for column in ("id", "text", "speaker", "seconds")}
    known = False
    for row, (id, text, speaker, seconds) in enumerate(zip(*columns.values(), strict=True)):
        target = {"id": id, "text": text, "speaker": speaker}
        known = known or sources.known(target)
        own, why = sources.partners(target, seconds)
        own = [index for index in own if _fits(checkpoint, sources.seconds[index], max_seconds)]
        frames = int(checkpoint.frames(samples_of(seconds, checkpoint.rate)))
        reason = length_reason(seconds, min_seconds, max_seconds) or checkpoint.why_unusable(0, frames)
        if reason is None and not own:
            reason = "no pair", why or "its source is too short or too long"
        if reason is None:
            kept[row] = True
            partners.append(own)
        else:
            report.drop(name, id, *reason)
    report.keep(name, int(kept.sum()), float(np.array(columns["seconds"])[kept].sum()))
    if not known:
        first, other = columns[sources.by][0], sources.rows[0][sources.by]
        what = "ids" if sources.by == "id" else "transcripts"
        do = "check pair_by: id or text"
        raise UserError(name, f"it has no {what} in common with the source recordings ({first!r}, {other!r})", do)
    if not partners:
        raise UserError(name, f"no pair can be used\n{report.table()}", "see the reasons above")
    rows = targets if kept.all() else targets.select(np.flatnonzero(kept))
    return rows.add_column("partners", partners, new_fingerprint=new_fingerprint())


def _fits(checkpoint: SpeechCheckpoint, seconds: float, max_seconds: float) -> bool:
    """Return whether the encoder makes any frame of a source, and has positions for all of them."""
    steps = checkpoint.encoder_steps(int(samples_of(seconds, checkpoint.rate)))
    return seconds <= max_seconds and 1 <= steps <= checkpoint.config.max_speech_positions


class PairedUtterances(Utterances):
    """Sources and targets of conversions. If a target has several sources, each epoch takes the next one.

    Args:
        rows: targets, see :func:`select_pairs`.
        checkpoint, voices, trim_db: see :class:`~sft_speech.tasks.speech.data.Utterances`.
        sources: the recordings whose indices are in ``partners``.
    """

    def __init__(
        self, rows: Dataset, checkpoint: SpeechCheckpoint, voices: Speakers, trim_db: float | None, sources: Dataset
    ) -> None:
        super().__init__(rows, checkpoint, voices, trim_db)
        self.sources = sources

    def inputs(self, row: dict[str, Any], epoch: int) -> dict[str, Any] | None:
        waveform = self.source(row, epoch)
        if waveform is None:
            return None
        features = self.extractor(audio=waveform, sampling_rate=self.extractor.sampling_rate)
        return {"samples": np.asarray(features["input_values"][0], np.float32)}

    def source(self, row: dict[str, Any], epoch: int = 0) -> np.ndarray | None:
        """Return the source (S,) of a target in an epoch; None if it cannot be read."""
        own = row["partners"]
        return self.recording(self.sources[own[epoch % len(own)]])
