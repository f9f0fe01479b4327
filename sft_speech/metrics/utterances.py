"""What each utterance contributes to a metric, from the lines of evaluation/SPLIT.jsonl of every task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sft_speech.corpora.report import file_stem
from sft_speech.errors import UserError
from sft_speech.metrics.intervals import Statistic, mean
from sft_speech.metrics.words import rate_of
from sft_speech.text.counted import counted

Line = Mapping[str, Any]
Lines = dict[str, Line]  # by id
Unit = Callable[[Line], Sequence[float]]

SPEECH_LOSSES = ("before", "after", "stop", "guided")  # per mel frame; their sum is the loss


def _accuracy(line: Line) -> Sequence[float]:
    if "masked" in line:  # of pretraining, in masked frames
        return line["correct"], line["masked"]
    return line["expected"] == line["predicted"], 1


UNITS: dict[str, Unit] = {
    "wer": lambda line: (line["word_errors"], line["words"]),
    "cer": lambda line: (line["character_errors"], line["characters"]),
    "wer_as_written": lambda line: (line["word_errors_as_written"], line["words_as_written"]),
    "accuracy": _accuracy,
    "speech_mcd": lambda line: (line["speech"]["mcd"], 1),
    "speech_speaker_similarity": lambda line: (line["speech"]["speaker_similarity"], 1),
}
RATES = ("wer", "cer", "wer_as_written")


def read_lines(folder: Path, split: str) -> Lines:
    """Return the lines of a split's SPLIT.jsonl by id; none if the run did not write it.

    Raises:
        UserError: it cannot be read, or two lines have the same id.
    """
    file = folder / f"{file_stem(split)}.jsonl"
    if not file.is_file():
        return {}
    try:
        with open(file, encoding="utf-8") as rows:
            lines = [json.loads(row) for row in rows]
        found = {str(line["id"]): line for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"it is not what an evaluation writes ({type(error).__name__}: {error})"
        raise UserError(str(file), why, "repeat the evaluation: sft-speech evaluate") from error
    if len(found) != len(lines):
        raise UserError(str(file), "two of its lines have the same id", "give each utterance its own id")
    return found


def measured(lines: Sequence[Lines], metric: str) -> tuple[list[np.ndarray], Statistic] | None:
    """Return what each utterance contributes for each candidate, (N, K), and the statistic of their sums.

    Args:
        lines: one entry per candidate, with the same ids in the same order.

    Returns:
        None if the lines do not have what the metric needs; there is no interval then.
    """
    try:
        if metric == "macro_f1":
            return _of_classes(lines)
        unit = _loss if metric == "loss" else UNITS[metric]
        units = [np.array([unit(line) for line in one.values()], dtype=float) for one in lines]
    except (KeyError, TypeError, ValueError):
        return None
    return units, rate_of if metric in RATES else mean


def _loss(line: Line) -> Sequence[float]:
    if "frames" in line:
        return line["frames"] * sum(line[part] for part in SPEECH_LOSSES), line["frames"]
    return line["loss"], 1


def _of_classes(lines: Sequence[Lines]) -> tuple[list[np.ndarray], Statistic]:
    """Return true positives, false positives and false negatives of each class (N, 3 C), and the macro F1."""
    labels = {
        text
        for one in lines
        for line in one.values()
        for key in ("expected", "predicted")
        for text in _split(line[key])
    }
    places = {label: 3 * place for place, label in enumerate(sorted(labels))}
    units = []
    for one in lines:
        counts = np.zeros((len(one), 3 * len(places)))
        for row, line in zip(counts, one.values(), strict=True):
            expected, predicted = (set(_split(line[key])) for key in ("expected", "predicted"))
            for label in expected | predicted:
                row[places[label] + (0 if label in expected & predicted else 1 if label in predicted else 2)] = 1
        units.append(counts)
    return units, macro_f1


def _split(labels: str) -> list[str]:
    return [label for label in labels.split("|") if label]


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Return the mean F1 (R,) of the classes that occur, from sums (R, 3 C)."""
    hits, wrong, missed = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    whole = 2 * hits + wrong + missed
    scores: np.ndarray = (2 * hits / np.maximum(whole, 1)).sum(1) / np.maximum((whole > 0).sum(1), 1)
    return scores


def common(lines: Mapping[str, Lines], split: str, most_missing: float) -> tuple[dict[str, Lines], int]:
    """Return the lines of the utterances that every candidate evaluated, sorted by id, and how many others there are.

    Models with another vocabulary may leave out single utterances.

    Args:
        lines: by candidate.
        most_missing: share of all utterances that may be left out.

    Raises:
        UserError: the candidates were evaluated on different utterances.
    """
    every = set[str]().union(*lines.values())
    shared = every.intersection(*lines.values())
    first, *others = lines
    for name in others:
        both = lines[first].keys() & lines[name].keys()
        differ = [id for id in sorted(both) if _reference(lines[first][id]) != _reference(lines[name][id])]
        if len(every) - len(shared) > most_missing * len(every) and lines[first].keys() != lines[name].keys():
            counts = f"{len(lines[first])} and {len(lines[name])}, {len(both)} of them in both"
            why = f"they were evaluated on different utterances of {split} ({counts})"
            raise UserError(f"{first} and {name}", why, "evaluate both on the same split: sft-speech evaluate")
        if differ:
            why = f"{counted(len(differ), 'utterance')} of {split} with different labels, the first is {differ[0]}"
            raise UserError(f"{first} and {name}", why, "evaluate both on the same labels: sft-speech evaluate")
    ids = sorted(shared)
    return {name: {id: one[id] for id in ids} for name, one in lines.items()}, len(every) - len(shared)


def _reference(line: Line) -> object:
    """Return what must be the same for every candidate; transcripts may be cleaned in different ways."""
    return line.get("expected")


def speakers_of(lines: Sequence[Lines]) -> list[str]:
    """Return the speaker of each utterance, from whichever candidate has it; "" if none has."""
    ids = list(lines[0])
    return [next((str(one[id]["speaker"]) for one in lines if one[id].get("speaker")), "") for id in ids]


def rescored(lines: Mapping[str, Lines], names: Mapping[str, str]) -> tuple[dict[str, Lines], str]:
    """Count the errors of transcripts under one normalizer, if candidates were not scored alike.

    A recognizer with an alphabet of its own counts errors against references in this alphabet, a Whisper against
    normalized ones: their rates cannot be compared.

    Args:
        lines: by candidate, with the same ids.
        names: the normalizer of each candidate, as its SPLIT.json records it.

    Returns:
        The lines, and the name of the normalizer; "" if they were scored alike and are unchanged.
    """
    scored = [
        [(line.get("normalized_reference", line["reference"])) for line in one.values()] for one in lines.values()
    ]
    if len(set(names.values())) <= 1 and all(texts == scored[0] for texts in scored):
        return dict(lines), ""
    from sft_speech.metrics.words import character_errors, word_errors
    from sft_speech.text.scoring import make_scoring

    english = any(name.startswith("whisper") for name in names.values())
    spaced = not any("letters" in name for name in names.values())
    scoring = make_scoring("whisper" if english else "basic", None, str, {}, spaced=spaced)
    first = next(iter(lines.values()))
    references = [scoring.reference(str(line["reference"])) for line in first.values()]
    found: dict[str, Lines] = {}
    for candidate, one in lines.items():
        hypotheses = [scoring.hypothesis(str(line["hypothesis"])) for line in one.values()]
        words = word_errors([*map(scoring.words, references)], [*map(scoring.words, hypotheses)])
        characters = character_errors(references, hypotheses)
        found[candidate] = {
            id: {
                **line,
                "word_errors": of_words.total,
                "words": of_words.reference,
                "character_errors": of_characters.total,
                "characters": of_characters.reference,
            }
            for (id, line), of_words, of_characters in zip(one.items(), words, characters, strict=True)
        }
    return found, scoring.name
