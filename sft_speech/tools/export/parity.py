"""How far an exported model agrees with the original: outputs, results, figures, speed and size.

Both compute the same utterances on the CPU. The original is in plain use: a Whisper pads every clip to the length of
its encoder, as the exported one does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.inference.clips import Recording

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.asr.results import EvaluationResult

logger = logging.getLogger(__name__)

CLIPS = 8  # whose outputs are compared number by number
EXPECTED = 0.01  # more than rounding in float32 makes of the largest difference


def measured(task: str, original: Any, folder: Path, rows: Dataset, files: Sequence[str]) -> dict[str, Any]:
    """Return the report.

    Args:
        task: name of the task.
        original: the checkpoint that was exported.
        folder: directory of the exported model.
        files: patterns of the files that the exported model consists of.

    Raises:
        UserError: no utterance can be read.
    """
    exported = load(task, folder)
    if getattr(original, "own_length", False):
        original = replace(original, own_length=False)
    what, difference, largest = largest_difference(original, exported, rows)
    compare = of_recognizers if task == "asr" else of_classifiers
    found = compare(original, exported, rows)
    sizes = {"torch": 4 * original.model.num_parameters(), "exported": size(folder, files)}
    return {
        "utterances": len(rows),
        "largest_difference": difference,
        "largest_value": largest,
        "difference_of": what,
        **found,
        "megabytes": {name: round(count / 1e6, 2) for name, count in sizes.items()},
        "threads": torch.get_num_threads(),
    }


def load(task: str, folder: Path) -> Any:
    """Load the exported model."""
    if task == "asr":
        from sft_speech.tasks.asr.exported import load_exported

        return load_exported(folder)
    from sft_speech.tasks.classification.checkpoint import load_classifier

    return load_classifier(folder)


def size(folder: Path, files: Sequence[str]) -> int:
    """Return the bytes of files, given as patterns."""
    return sum(file.stat().st_size for pattern in files for file in folder.glob(pattern))


def largest_difference(original: Any, exported: Any, rows: Dataset) -> tuple[str, float, float]:
    """Compare what both models compute for the first clips, one by one.

    Returns:
        What was compared, the largest absolute difference, and the largest absolute value.

    Raises:
        UserError: no clip can be read.
    """
    difference = largest = 0.0
    read, what = 0, ""
    for row in rows.select(range(min(CLIPS, len(rows)))):
        try:
            clip = Recording(row["audio"], row["seconds"], row.get("start"), channel=row.get("channel"))
            waveform = clip.waveform(original.rate)
        except AudioError:
            continue
        features = original.front_end.features([waveform])
        what, ours = output(original.model, features)
        _, theirs = output(exported.model, features)
        difference = float(np.maximum(difference, float((ours - theirs).abs().max())))  # keeps NaN
        largest, read = max(largest, float(ours.abs().max())), read + 1
    if not read:
        raise UserError("the corpus", "none of its first recordings can be read", "give another --source")
    return what, difference, largest


@torch.no_grad()
def output(model: Any, features: Mapping[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
    """Return what a model computes for a clip, and what that is."""
    if model.config.model_type == "whisper" and hasattr(model, "get_encoder") and has_decoder(model):
        return "states of the encoder", model.get_encoder()(features["input_features"]).last_hidden_state.float()
    logits = model(**features).logits.float()
    return ("log-probabilities of frames", logits.log_softmax(-1)) if logits.ndim == 3 else ("logits", logits)


def has_decoder(model: Any) -> bool:
    """Return whether a Whisper writes text: a classifier has only the encoder."""
    return bool((model.config.architectures or [""])[0].endswith("ForConditionalGeneration"))


def of_recognizers(original: Any, exported: Any, rows: Dataset) -> dict[str, Any]:
    """Return how many transcripts are the same, and both word error rates with the interval of their difference."""
    first, second = (recognized(one, rows) for one in (original, exported))
    lines = [[one.row() for one in result.utterances] for result in (first, second)]
    found = second.compare(lines[0], "wer")
    return {
        "same": sum(one["hypothesis"] == other["hypothesis"] for one, other in zip(*lines, strict=True)),
        "compared": len(lines[0]),
        "metric": "wer",
        "normalizer": first.normalizer,
        "torch": {"value": first.wer, "interval": bounds(first.word_interval())},
        "exported": {"value": second.wer, "interval": bounds(second.word_interval())},
        "difference": None if found is None else {"value": found.difference, "interval": bounds(found.interval)},
        "seconds": first.seconds,
        "real_time_factor": {"torch": first.real_time_factor, "exported": second.real_time_factor},
        "cpu_real_time_factor": {
            "torch": first.cpu_time / first.seconds,
            "exported": second.cpu_time / second.seconds,
        },
    }


def recognized(checkpoint: Any, rows: Dataset) -> EvaluationResult:
    """Return the result of recognition without labels: their loss would be counted as time of the original only."""
    from sft_speech.tasks.asr.evaluate import scored
    from sft_speech.tasks.asr.recognizer import Clip, is_spaced, scoring_of
    from sft_speech.tasks.asr.results import EvaluationResult

    scoring = scoring_of(checkpoint, spaced=is_spaced(checkpoint, rows["text"]))
    result = EvaluationResult(normalizer=scoring.name, spaced=scoring.spaced)
    clips = (Clip(row["audio"], row["seconds"], row.get("start"), channel=row.get("channel")) for row in rows)
    began, cpu_began = time.perf_counter(), time.process_time()
    found = list(checkpoint.recognize(clips, device="cpu"))
    result.runtime, result.cpu_time = time.perf_counter() - began, time.process_time() - cpu_began
    for row, one in zip(rows, found, strict=True):
        if not isinstance(one, AudioError) and not one.problem:
            result.add(scored(scoring, row["id"], row["speaker"] or "", row["text"], one), one, 0)
    return result


def of_classifiers(original: Any, exported: Any, rows: Dataset) -> dict[str, Any]:
    """Return how many labels are the same, and both accuracies with the interval of their difference."""
    from sft_speech.metrics.intervals import bootstrap_interval, compare, mean
    from sft_speech.tasks.classification.evaluate import evaluate_corpus

    results, clocks = [], []
    for one in (original, exported):
        began, cpu = time.perf_counter(), time.process_time()
        results.append(evaluate_corpus(one, rows, device="cpu"))
        clocks.append((time.perf_counter() - began, time.process_time() - cpu))
    first, second = results
    units = [np.array([[one.right, 1] for one in result.utterances], float) for result in results]
    speakers = [one.speaker for one in first.utterances]
    seconds = sum(one.seconds for one in first.utterances)
    around = [bootstrap_interval(one, mean, speakers) for one in units]
    found = compare(units[1], units[0], mean, speakers)
    names = ("torch", "exported")
    return {
        "same": sum(a.predicted == b.predicted for a, b in zip(first.utterances, second.utterances, strict=True)),
        "compared": len(first.utterances),
        "metric": "accuracy",
        "torch": {"value": first.accuracy, "interval": bounds(around[0])},
        "exported": {"value": second.accuracy, "interval": bounds(around[1])},
        "difference": {"value": found.difference, "interval": bounds(found.interval)},
        "seconds": seconds,
        "real_time_factor": {name: wall / seconds for name, (wall, _) in zip(names, clocks, strict=True)},
        "cpu_real_time_factor": {name: cpu / seconds for name, (_, cpu) in zip(names, clocks, strict=True)},
    }


def bounds(interval: Any) -> list[float]:
    """Return both ends of an interval."""
    return [interval.low, interval.high]


def warn(report: Mapping[str, Any]) -> None:
    """Warn if a model in full precision differs by more than rounding."""
    expected = report["largest_difference"] <= EXPECTED * max(1.0, report["largest_value"])  # NaN is not
    if not report["int8"] and not expected:
        logger.warning(
            "the exported model differs by up to %.3g in its %s, more than rounding makes: check it before you use it",
            report["largest_difference"],
            report["difference_of"],
        )
