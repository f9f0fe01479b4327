"""Selection of the rows that a checkpoint can be trained or evaluated on, with normalized transcripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, Unpack

import numpy as np
import pyarrow as pa

from sft_speech.corpora.report import OUTSIDE, CorpusReport
from sft_speech.corpora.rows import column_of, with_columns
from sft_speech.text.normalize import Normalized

if TYPE_CHECKING:
    import datasets

Reason = tuple[str, str]  # why a row cannot be used: a category, and details about this row

_BATCH = 10_000  # rows whose texts are Python strings at a time: these take several times the memory of Arrow's


class Rules(TypedDict):
    """The conditions under which an utterance is usable.

    Args:
        min_seconds, max_seconds: shorter and longer clips are left out.
        normalize: the checkpoint's transcript normalizer.
        max_missing_share: the largest share of a transcript's characters, without spaces, that the vocabulary may lack;
            if it lacks more, the rest is another text.
        encode: converts a transcript to its L label ids, if they have to fit frames.
        frames_of: converts an array of seconds to the model's numbers of frames T.
        why_unusable: returns why labels don't fit T frames, or None if they do; by default :func:`ctc_fits`.
        why_text: returns why a normalized transcript in a language cannot be used, or None if it can; the language is
            None if the corpus has no languages.
    """

    min_seconds: float
    max_seconds: float
    normalize: Callable[[str], Normalized]
    max_missing_share: float
    encode: NotRequired[Callable[[str], Sequence[int]]]
    frames_of: NotRequired[Callable[[np.ndarray], np.ndarray]]
    why_unusable: NotRequired[Callable[[Sequence[int], int], Reason | None] | None]
    why_text: NotRequired[Callable[[str, str | None], Reason | None]]


def select_usable(
    corpus: datasets.Dataset, split: str, report: CorpusReport, **rules: Unpack[Rules]
) -> datasets.Dataset:
    """Leave out the rows that cannot be used, and replace each ``text`` by its normalized form.

    Args:
        corpus: rows of :func:`~sft_speech.corpora.load_corpus`.
        split: name of these rows in the report.
        report: receives every row left out, the characters that the vocabulary lacks, and the number of rows kept.
        rules: see :class:`Rules`.

    Returns:
        the rows kept, in their order; no audio is touched.
    """
    ids, given = column_of(corpus, "id"), column_of(corpus, "text")
    seconds = column_of(corpus, "seconds").to_numpy()
    languages = column_of(corpus, "language") if "language" in corpus.column_names else pa.nulls(len(corpus))
    kept = np.zeros(len(corpus), bool)
    texts: list[pa.Array] = []
    missing: Counter[str] = Counter()
    for first in range(0, len(corpus), _BATCH):
        batch = slice(first, first + _BATCH)
        written: list[str] = []
        judged = _judged(given[batch].to_pylist(), languages[batch].to_pylist(), seconds[batch], rules)
        for row, (normalized, reason) in enumerate(judged, first):
            written.append(normalized.text)
            if normalized.missing:
                missing.update(normalized.missing)
            if normalized.folded or normalized.marks or normalized.unknown_marks:
                report.note(split, ids[row].as_py(), normalized)
            if reason is None:
                kept[row] = True
            else:
                report.drop(split, ids[row].as_py(), *reason)
        texts.append(pa.array(written, pa.string()))
    report.missing_characters(split, missing)
    report.keep(split, int(kept.sum()), float(seconds[kept].sum()))
    normalized_texts = pa.chunked_array(texts, pa.string())
    if normalized_texts != given:
        corpus = with_columns(corpus, pa.table({"text": normalized_texts}))
    del ids, given, texts, normalized_texts
    pa.default_memory_pool().release_unused()
    return corpus if kept.all() else corpus.select(np.flatnonzero(kept))


def judge(row: Mapping[str, Any], **rules: Unpack[Rules]) -> tuple[Normalized, Reason | None]:
    """Return a single row's transcript as the checkpoint writes it, and why the row cannot be used, if it cannot."""
    (judged,) = _judged([row["text"]], [row.get("language")], np.array([row["seconds"]]), rules)
    return judged


def _judged(
    texts: Sequence[str | None], languages: Sequence[str | None], seconds: np.ndarray, rules: Rules
) -> Iterator[tuple[Normalized, Reason | None]]:
    """Yield each transcript as the checkpoint writes it, and the first rule that it breaks."""
    why_text, why_unusable = rules.get("why_text"), rules.get("why_unusable") or ctc_fits
    frames = rules["frames_of"](seconds).tolist() if "frames_of" in rules else [0] * len(seconds)
    for text, language, length, available in zip(texts, languages, seconds.tolist(), frames, strict=True):
        normalized = rules["normalize"](text or "")
        reason = (
            length_reason(length, rules["min_seconds"], rules["max_seconds"], ": `sft-speech cut` cuts it")
            or _missing_reason(normalized, rules["max_missing_share"])
            or (why_text(normalized.text, language) if why_text else None)
        )
        if reason is None and "encode" in rules:
            reason = why_unusable(rules["encode"](normalized.text), int(available))
        yield normalized, reason


def length_reason(seconds: float, min_seconds: float, max_seconds: float, remedy: str = "") -> Reason | None:
    """Return why an utterance is too short or too long, if it is; ``remedy`` says what to do if it is too long."""
    if seconds < min_seconds:
        return "too short", f"{seconds:.3f} s, min_seconds is {min_seconds:g}"
    if seconds > max_seconds:
        return "too long", f"{seconds:.1f} s, max_seconds is {max_seconds:.4g}{remedy}"
    return None


def _missing_reason(normalized: Normalized, max_missing_share: float) -> Reason | None:
    lost = normalized.missing.total() if normalized.missing else 0
    if lost:
        written = len(normalized.text) - normalized.text.count(" ")
        if lost > max_missing_share * (lost + written):
            shown = "".join(character for character, _ in normalized.missing.most_common(10))
            return OUTSIDE, f"{lost} of {lost + written}: {shown}"
    return None if normalized.text.strip() else empty_reason(normalized)


def empty_reason(normalized: Normalized) -> Reason:
    """Return why a transcript is empty."""
    if any(map(str.isalpha, normalized.missing)):
        return OUTSIDE, "".join(character for character, _ in normalized.missing.most_common(10))
    return ("only signs of transcription", " ".join(normalized.marks)) if normalized.marks else ("empty transcript", "")


def ctc_fits(labels: Sequence[int], frames: int) -> Reason | None:
    """Return why CTC cannot align labels with frames, if it cannot: it needs a frame for each label, and one for a
    blank between equal neighbours, or else its loss is infinite.
    """
    if frames < 1:
        return "too short", "not one frame"
    needed = len(labels)
    if 2 * needed > frames:  # else there is room for a blank between any two
        needed += sum(left == right for left, right in pairwise(labels))
    if needed <= frames:
        return None
    return "more labels than frames", f"{needed} with blanks between repeats, {frames} frames"
