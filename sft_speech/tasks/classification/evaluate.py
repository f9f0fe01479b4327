"""The evaluation of a classifier: accuracy, precision, recall and F1 of every class, and confusions."""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.corpora.arguments import evaluation_folder, rows_of_arguments
from sft_speech.corpora.report import file_stem, source_name
from sft_speech.errors import UserError
from sft_speech.metrics.intervals import Comparison, bootstrap_intervals, compare_rows, mean
from sft_speech.options.settings import read_yaml
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from sft_speech.tasks.classification.checkpoint import Checkpoint
    from sft_speech.tasks.classification.labels import Labels

logger = logging.getLogger(__name__)

TOP = 5
MISTAKES_SHOWN, CLASSES_SHOWN = 10, 60
MOST_WITH_INTERVALS = 200  # classes; memory and time of the bootstrap grow with them


@dataclass(frozen=True)
class Utterance:
    """An utterance and its classification; classes are ids.

    Args:
        expected, predicted: one class each, or any number of classes with several labels per clip.
        top: the most probable classes with their probabilities.
        loss: loss in nats.
    """

    id: str
    speaker: str
    seconds: float
    expected: tuple[int, ...]
    predicted: tuple[int, ...]
    top: tuple[tuple[int, float], ...]
    loss: float

    @property
    def right(self) -> bool:
        """Whether all its labels are right."""
        return self.expected == self.predicted

    def outcomes(self) -> list[tuple[int, int]]:
        """Return (class, 0) of a true positive, (class, 1) of a false positive, (class, 2) of a false negative."""
        missed = [(id, 2) for id in self.expected if id not in self.predicted]
        return [(id, int(id not in self.expected)) for id in self.predicted] + missed

    @property
    def confidence(self) -> float:
        """Probability of the most probable wrong class that was predicted; 0 if there is none."""
        return max((p for id, p in self.top if id in self.predicted and id not in self.expected), default=0.0)


@dataclass
class ClassificationResult:
    """The result of an evaluation; results of parts of a corpus can be merged.

    Args:
        labels: classes by their id.
        utterances: in the order of the corpus.
        failed: why the audio of an utterance could not be read, by its id; these are not counted.
    """

    labels: Labels
    utterances: list[Utterance] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def merge(cls, parts: Iterable[ClassificationResult]) -> ClassificationResult:
        """Return the result of a corpus from those of its parts."""
        first, *rest = parts
        whole = cls(first.labels, list(first.utterances), dict(first.failed))
        for part in rest:
            whole.utterances += part.utterances
            whole.failed |= part.failed
        return whole

    @property
    def classes(self) -> list[int]:
        """Classes that were expected or predicted; only these have figures."""
        return sorted({id for one in self.utterances for id in (*one.expected, *one.predicted)})

    @property
    def accuracy(self) -> float:
        """Share of the utterances whose labels are all right."""
        return _mean([one.right for one in self.utterances])

    @property
    def loss(self) -> float:
        """Mean loss of an utterance in nats."""
        return _mean([one.loss for one in self.utterances])

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that were expected or predicted."""
        return _mean(f1(self.counts()))

    def counts(self) -> np.ndarray:
        """Return true positives, false positives and false negatives (C, 3) of C classes."""
        found = Counter(pair for one in self.utterances for pair in one.outcomes())
        return np.array([[found[id, kind] for kind in range(3)] for id in self.classes]).reshape(-1, 3)

    def units(self) -> np.ndarray:
        """Return (N, 2 + 3 C) for a bootstrap over N utterances: 1 if right, 1, and its share of the counts."""
        places = {id: 2 + 3 * place for place, id in enumerate(self.classes)}
        found = np.zeros((len(self.utterances), 2 + 3 * len(places)))
        for row, one in zip(found, self.utterances, strict=True):
            row[:2] = one.right, 1
            for id, kind in one.outcomes():
                row[places[id] + kind] = 1
        return found

    def summary(self) -> dict[str, Any]:
        """Return the figures of SPLIT.json; null if undefined, or if there are very many classes."""
        counts = self.counts()
        few = len(counts) <= MOST_WITH_INTERVALS
        units = self.units() if few else np.array([[one.right, 1] for one in self.utterances], float)
        intervals = bootstrap_intervals(units, _rates, [one.speaker for one in self.utterances])
        bounds = [[_finite(one.low), _finite(one.high)] for one in intervals]
        classes: list[dict[str, Any]] = []
        for place, id in enumerate(self.classes):
            row = {"label": self.labels.names[id], "utterances": int(counts[place, [0, 2]].sum())}
            for number, (name, rate) in enumerate(RATES.items()):
                row[name] = float(rate(counts[place]))
                row[f"{name}_interval"] = bounds[2 + number * len(counts) + place] if few else None
            classes.append(row)
        return {
            "accuracy": _finite(self.accuracy),
            "accuracy_interval": bounds[0],
            "macro_f1": _finite(self.macro_f1),
            "macro_f1_interval": bounds[1] if few else None,
            "interval_over": intervals[0].over,
            "loss": _finite(self.loss),
            "utterances": len(self.utterances),
            "speakers": len({one.speaker for one in self.utterances if one.speaker}),
            "hours": sum(one.seconds for one in self.utterances) / 3600,
            "classes": classes,
            "confusion": self.confusion() if few else None,
            "failed": self.failed,
        }

    def confusion(self) -> dict[str, Any] | None:
        """Return how often each class (row) was predicted as each (column); None with several labels per clip."""
        if self.labels.multi:
            return None
        places = {id: place for place, id in enumerate(self.classes)}
        table = np.zeros((len(places), len(places)), int)
        for one in self.utterances:
            table[places[one.expected[0]], places[one.predicted[0]]] += 1
        return {"labels": [self.labels.names[id] for id in places], "counts": table.tolist()}

    def mistakes(self) -> list[Utterance]:
        """Return the utterances that are not all right, the most confident ones first."""
        wrong = [one for one in self.utterances if not one.right]
        return sorted(wrong, key=lambda one: -one.confidence)

    def compare(self, before: list[dict[str, Any]], metric: str) -> Comparison | None:
        """Return the paired difference of "accuracy" or "loss" to an earlier evaluation, from the lines of its
        SPLIT.jsonl; None if the utterances are not the same, or for another metric.
        """
        values: dict[str, Callable[[Mapping[str, Any]], float]] = {
            "accuracy": lambda row: row["expected"] == row["predicted"],
            "loss": lambda row: row["loss"],
        }
        if metric not in values:
            return None
        rows, speakers = [self._row(one) for one in self.utterances], [one.speaker for one in self.utterances]
        return compare_rows(rows, before, lambda row: (values[metric](row), 1), mean, speakers)

    def metrics(self) -> dict[str, float]:
        """Return the figures that a trainer logs."""
        figures = {"loss": self.loss, "accuracy": self.accuracy, "macro_f1": self.macro_f1}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def table(self, split: str = "") -> str:
        """Return the figures and the worst mistakes as text."""
        figures = self.summary()
        hours = f"{figures['hours']:.2f} h"
        lines = [
            f"{split}{': ' if split else ''}{counted(len(self.utterances), 'utterance')}, {hours}, loss {self.loss:.4f}"
        ]
        for name, heading in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
            low, high = (100 * (bound or 0) for bound in figures[f"{name}_interval"] or (0, 0))
            value, over = 100 * (figures[name] or 0), figures["interval_over"]
            lines.append(f"{heading} {value:6.2f} %  [{low:.2f}, {high:.2f}] over {over}")
        if self.failed:
            one, several = "utterance could not be read and is", "utterances could not be read and are"
            lines.append(f"{counted(len(self.failed), one, several)} not counted")
        classes = figures["classes"]
        width = max([5, *(len(row["label"]) for row in classes)])
        lines += ["", f"{'label':{width}}  utterances  precision  recall     F1"]
        for row in sorted(classes, key=lambda row: row["f1"])[:CLASSES_SHOWN]:
            percent = [f"{100 * row[name]:7.2f}" for name in RATES]
            lines.append(f"{row['label']:{width}}  {row['utterances']:10}  {'   '.join(percent)}")
        if len(classes) > CLASSES_SHOWN:
            lines.append(f"and {len(classes) - CLASSES_SHOWN} classes with a higher F1")
        wrong = self.mistakes()[:MISTAKES_SHOWN]
        if wrong:
            lines += ["", "worst mistakes"]
            lines += [
                f"{one.id}: {self._named(one.expected)} taken for {self._named(one.predicted)} ({one.confidence:.3f})"
                for one in wrong
            ]
        return "\n".join(lines)

    def save(self, folder: str | Path, split: str, source: str | None = None) -> Path:
        """Write SPLIT.json and SPLIT.jsonl and, for single labels, the confusion as SPLIT.csv and SPLIT.png.

        SPLIT.jsonl begins with the worst mistakes; correct utterances follow in the order of the corpus.

        Args:
            folder: directory, created if missing.
            source: source of the corpus, if it is not that of the run.

        Returns:
            The path of SPLIT.json.

        Raises:
            UserError: the folder cannot be written.
        """
        folder, name, confusion = Path(folder), file_stem(split), self.confusion()
        right = [one for one in self.utterances if one.right]
        lines = [json.dumps(self._row(one), ensure_ascii=False) + "\n" for one in (*self.mistakes(), *right)]
        figures = self.summary() | ({"source": source} if source else {})
        files = {
            f"{name}.jsonl": "".join(lines).encode(),
            f"{name}.json": (json.dumps(figures, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode(),
        }
        if confusion:
            from sft_speech.tasks.classification.picture import confusion_picture

            files[f"{name}.csv"] = _csv(confusion).encode()
            files[f"{name}.png"] = confusion_picture(confusion["labels"], np.array(confusion["counts"]))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                (folder / file).write_bytes(content)
        except OSError as error:
            why = f"it cannot be written ({error.strerror})"
            raise UserError(str(folder), why, "choose another --output") from error
        return folder / f"{name}.json"

    def _row(self, one: Utterance) -> dict[str, Any]:
        known = {"speaker": one.speaker} if one.speaker else {}
        return {
            "id": one.id,
            **known,
            "expected": self._named(one.expected),
            "predicted": self._named(one.predicted),
            "seconds": round(one.seconds, 3),
            "loss": round(one.loss, 4),
            "top": [[self.labels.names[id], round(p, 4)] for id, p in one.top],
        }

    def _named(self, ids: Iterable[int]) -> str:
        return "|".join(self.labels.names[id] for id in ids)


def f1(sums: np.ndarray) -> np.ndarray:
    """Return F1 from true positives, false positives and false negatives (..., 3); 0 if all are 0."""
    return 2 * sums[..., 0] / np.maximum(2 * sums[..., 0] + sums[..., 1] + sums[..., 2], 1)


RATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "precision": lambda sums: sums[..., 0] / np.maximum(sums[..., 0] + sums[..., 1], 1),
    "recall": lambda sums: sums[..., 0] / np.maximum(sums[..., 0] + sums[..., 2], 1),
    "f1": f1,
}


def _rates(sums: np.ndarray) -> np.ndarray:
    """Return accuracy, macro F1 and every rate of C classes, (R, 2 + 3 C), from R sums of :meth:`units`."""
    counts = sums[:, 2:].reshape(len(sums), (sums.shape[1] - 2) // 3, 3)
    means = sums[:, 0] / np.maximum(sums[:, 1], 1), f1(counts).sum(-1) / max(1, counts.shape[1])
    return np.hstack([np.stack(means, -1), *(rate(counts) for rate in RATES.values())])


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _csv(confusion: dict[str, Any]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["expected \\ predicted", *confusion["labels"]])
    table.writerows([label, *row] for label, row in zip(confusion["labels"], confusion["counts"], strict=True))
    return text.getvalue()


def evaluate_corpus(
    checkpoint: Checkpoint,
    rows: Dataset,
    *,
    max_batch_seconds: float | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[float], None] | None = None,
) -> ClassificationResult:
    """Classify every utterance of a corpus.

    Rows whose audio cannot be read are left out with a warning and named in the result.

    Args:
        rows: rows with labels of the model.
        max_batch_seconds, device, progress: see :func:`~sft_speech.tasks.classification.classifier.logits_of`.
    """
    from sft_speech.audio.read import AudioError
    from sft_speech.inference.clips import Recording
    from sft_speech.tasks.classification.classifier import logits_of, probabilities
    from sft_speech.tasks.classification.collator import targets
    from sft_speech.tasks.classification.loss import ClassificationCriterion

    labels, result = checkpoint.labels, ClassificationResult(checkpoint.labels)
    criterion = ClassificationCriterion(labels.multi)
    clips = (Recording(row["audio"], row["seconds"], row["start"], channel=row.get("channel")) for row in rows)
    found = logits_of(checkpoint, clips, max_batch_seconds=max_batch_seconds, device=device, progress=progress)
    for row, logits in zip(rows, found, strict=True):
        if isinstance(logits, AudioError):
            result.failed[row["id"]] = str(logits)
            logger.warning("%s is left out: %s", row["id"], logits)
            continue
        shares, expected = probabilities(logits, labels.multi), labels.encode(row["label"])
        order = np.argsort(-shares, kind="stable").tolist()
        result.utterances.append(
            Utterance(
                row["id"],
                row["speaker"] or "",
                row["seconds"],
                tuple(expected),
                tuple(np.flatnonzero(shares > 0.5).tolist() if labels.multi else order[:1]),
                tuple((id, float(shares[id])) for id in order[:TOP]),
                float(criterion.losses(logits[None], targets([expected], len(labels.names), labels.multi))[0]),
            )
        )
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech evaluate`` that only classifiers have."""
    parser.add_argument("--label_column", metavar="NAME", help="column of the label [the one of the model's run]")


def main(args: argparse.Namespace) -> None:
    """Evaluate a classifier, write the files, print the table."""
    from sft_speech.tasks.classification.classifier import Classifier
    from sft_speech.tasks.classification.labels import select_labelled

    rows, split, report = rows_of_arguments(args, label=args.label_column or label_column_of(args.model))
    classifier = Classifier(args.model, args.device, args.max_batch_seconds, args.allow_pickle, args.dtype)
    rows = select_labelled(rows, split, report, classifier.checkpoint.labels)
    if report.dropped(split):
        logger.warning("%s", report.table())
    result = evaluate_corpus(
        classifier.checkpoint, rows, max_batch_seconds=classifier.max_batch_seconds, device=classifier.device
    )
    if not result.utterances:
        raise UserError(f"{args.source} {split}", "none of its utterances could be evaluated", "see the messages above")
    written = result.save(evaluation_folder(args.model, args.output), split, source_name(args.source))
    print(result.table(split))
    print(f"\n{written.with_suffix('.jsonl')}\n{written}")


def label_column_of(model: str) -> str | None:
    """Return the column of labels that the run of a model used; None if it is not known."""
    file = Path(model) / "run.yaml"
    found = read_yaml(str(file), "settings of the run,").get("label_column") if file.is_file() else None
    return found if isinstance(found, str) else None
