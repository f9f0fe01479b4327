"""Rows that a checkpoint can be trained or judged on, with their transcripts as it writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sft_speech.corpora.mapped import mapped
from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of, new_fingerprint
from sft_speech.text.normalize import Normalized

if TYPE_CHECKING:
    import datasets


def select_usable(
    corpus: datasets.Dataset,
    split: str,
    report: CorpusReport,
    *,
    min_seconds: float,
    max_seconds: float,
    normalize: Callable[[str], Normalized],
    encode: Callable[[str], Sequence[int]],
    frames_of: Callable[[np.ndarray], np.ndarray],
    max_missing_share: float,
    why_unusable: Callable[[Sequence[int], int], tuple[str, str] | None] | None = None,
) -> datasets.Dataset:
    """Leaves out what can't be used, with its reason, and replaces each ``text`` by its normalized form.

    Args:
        corpus: of :func:`~sft_speech.corpora.load_corpus`.
        split: what the report calls these rows.
        report: gets every row left out, the characters that the vocabulary lacks, and what is left.
        min_seconds, max_seconds: shorter and longer clips are left out.
        normalize: the checkpoint's transcript normalizer.
        encode: a transcript to its L label ids.
        frames_of: seconds to the model's T frames, for an array of them.
        max_missing_share: of a transcript's characters, spaces aside; with more of them missing the rest says
            something else.
        why_unusable: labels and T to a reason why they don't go together; None: CTC's, which needs a frame
            per label and a blank between equal neighbors: T >= L + repeats, else the loss is infinite.

    Returns:
        the rows kept, in their order; no audio is touched.
    """
    meta = pa.table({name: column_of(corpus, name) for name in ("id", "text", "seconds")})
    seconds = meta["seconds"].to_numpy()
    frames = frames_of(seconds)
    kept = np.zeros(len(corpus), bool)
    texts: list[pa.Array] = []
    missing: Counter[str] = Counter()
    row = 0
    for batch in meta.to_batches(max_chunksize=10_000):  # Python strings take several times the room of Arrow's
        written: list[str] = []
        available = frames[row : row + len(batch)].tolist()
        for id, given, length, room in zip(*(column.to_pylist() for column in batch), available, strict=True):
            normalized = normalize(given or "")
            written.append(normalized.text)
            if normalized.missing:
                missing.update(normalized.missing)
            reason = _reason(
                normalized, length, room, min_seconds, max_seconds, encode, max_missing_share, why_unusable
            )
            if reason is None:
                kept[row] = True
            else:
                report.drop(split, id, *reason)
            row += 1
        texts.append(pa.array(written, pa.string()))
    report.missing_characters(split, missing)
    report.keep(split, int(kept.sum()), float(seconds[kept].sum()))
    corpus = with_texts(corpus, pa.chunked_array(texts, pa.string()))
    del meta, texts
    pa.default_memory_pool().release_unused()
    return corpus if kept.all() else corpus.select(np.flatnonzero(kept))


def length_reason(seconds: float, min_seconds: float, max_seconds: float) -> tuple[str, str] | None:
    """Why an utterance is too short or too long, if it is."""
    if seconds < min_seconds:
        return "too short", f"{seconds:.3f} s, min_seconds is {min_seconds:g}"
    if seconds > max_seconds:
        return "too long", f"{seconds:.1f} s, max_seconds is {max_seconds:g}"
    return None


def judge(
    row: Mapping[str, Any],
    *,
    min_seconds: float,
    max_seconds: float,
    normalize: Callable[[str], Normalized],
    encode: Callable[[str], Sequence[int]],
    frames_of: Callable[[np.ndarray], np.ndarray],
    max_missing_share: float,
) -> tuple[Normalized, tuple[str, str] | None]:
    """The transcript of a single row as the checkpoint writes it, and why it can't be used, if it can't.

    Args:
        row: of a stream; the others are those of :func:`select_usable`.
    """
    normalized, seconds = normalize(row["text"] or ""), row["seconds"]
    frames = int(frames_of(np.array([seconds]))[0])
    return normalized, _reason(normalized, seconds, frames, min_seconds, max_seconds, encode, max_missing_share)


def _reason(
    normalized: Normalized,
    seconds: float,
    frames: int,
    min_seconds: float,
    max_seconds: float,
    encode: Callable[[str], Sequence[int]],
    max_missing_share: float,
    why_unusable: Callable[[Sequence[int], int], tuple[str, str] | None] | None = None,
) -> tuple[str, str] | None:
    """The rules, in the order in which they are asked: why an utterance can't be used, if it can't."""
    return (
        length_reason(seconds, min_seconds, max_seconds)
        or _missing_reason(normalized, max_missing_share)
        or (why_unusable or ctc_fits)(encode(normalized.text), frames)
    )


def _missing_reason(normalized: Normalized, max_missing_share: float) -> tuple[str, str] | None:
    lost = normalized.missing.total() if normalized.missing else 0
    if lost:
        said = len(normalized.text) - normalized.text.count(" ")
        if lost > max_missing_share * (lost + said):
            shown = "".join(character for character, _ in normalized.missing.most_common(10))
            return "characters outside the vocabulary", f"{lost} of {lost + said}: {shown}"
    return None if normalized.text.strip() else ("empty transcript", "")


def ctc_fits(labels: Sequence[int], frames: int) -> tuple[str, str] | None:
    """Why CTC can't align so many frames with labels, if it can't."""
    if frames < 1:
        return "too short", "not one frame"
    needed = len(labels)
    if 2 * needed > frames:  # else there is room for a blank between any two
        needed += sum(left == right for left, right in pairwise(labels))
    return (
        ("more labels than frames", f"{needed} with blanks between repeats, {frames} frames")
        if needed > frames
        else None
    )


def with_texts(corpus: datasets.Dataset, texts: pa.ChunkedArray) -> datasets.Dataset:
    """The same rows with other texts. ``Dataset.add_column`` would copy the audio of a corpus that leaves rows out;
    this doesn't.
    """
    import datasets

    if texts == column_of(corpus, "text"):
        return corpus
    if corpus._indices is not None:  # rows of the corpus to rows of the table below it
        places = np.full(corpus.data.num_rows, -1)
        places[corpus._indices.column(0).to_numpy()] = np.arange(len(corpus))
        texts = texts.take(pa.array(places, mask=places < 0)).fill_null("")
    column = mapped(pa.table([texts], ["text"]))
    table = datasets.table.concat_tables([corpus.data.drop(["text"]), column], axis=1)
    replaced = datasets.Dataset(
        table, corpus.info.copy(), corpus.split, indices_table=corpus._indices, fingerprint=new_fingerprint()
    )
    return replaced.select_columns(corpus.column_names)
