"""The evaluation of a pre-trained model: its loss on held-out speech, and how many codes it uses."""

from __future__ import annotations

import argparse
import json
import logging
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sft_speech.corpora.arguments import evaluation_folder, rows_of_arguments
from sft_speech.corpora.report import file_stem, source_name
from sft_speech.errors import UserError
from sft_speech.metrics.intervals import Comparison, bootstrap_intervals, compare_rows, mean
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from sft_speech.tasks.pretraining.checkpoint import Checkpoint
    from sft_speech.tasks.pretraining.targets import Targets

logger = logging.getLogger(__name__)

SEED = 0  # of the masks and negatives of every evaluation, so that figures can be compared


@dataclass(frozen=True)
class Utterance:
    """An utterance and how well its masked frames are predicted.

    Args:
        masked: masked frames.
        loss: their contrastive loss in nats, summed.
        correct: how many of them are closer to their target than to all negatives.
    """

    id: str
    speaker: str
    seconds: float
    masked: int
    loss: float
    correct: int


@dataclass
class PretrainingResult:
    """The result of an evaluation; results of parts of a corpus can be merged.

    Args:
        diversity_weight: weight of the diversity loss in the loss.
        distribution: (G, V) sums of the probabilities of V codes in G groups over all masked frames.
        codes: (G, V) how often each code was used.
        utterances: in the order of the corpus.
        failed: why the audio of an utterance could not be read, by its id; these are not counted.
    """

    diversity_weight: float
    distribution: np.ndarray
    codes: np.ndarray
    utterances: list[Utterance] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def merge(cls, parts: Iterable[PretrainingResult]) -> PretrainingResult:
        """Return the result of a corpus from those of its parts."""
        given = list(parts)
        whole = cls(given[0].diversity_weight, *(sum(getattr(one, name) for one in given) for name in SUMS))
        for part in given:
            whole.utterances += part.utterances
            whole.failed |= part.failed
        return whole

    def metrics(self) -> dict[str, float]:
        """Return the figures that a trainer logs: without the penalty, which depends on no prediction."""
        masked = sum(one.masked for one in self.utterances)
        if not masked:
            return {}
        contrastive = sum(one.loss for one in self.utterances) / masked
        codes, distribution = (float(perplexities(getattr(self, name)).sum()) for name in ("codes", "distribution"))
        figures = {
            "loss": contrastive + self.diversity_weight * (1 - distribution / self.distribution.size),
            "contrastive_loss": contrastive,
            "accuracy": sum(one.correct for one in self.utterances) / masked,
            "code_perplexity": codes,
            "prob_perplexity": distribution,
        }
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def summary(self) -> dict[str, Any]:
        """Return the figures of SPLIT.json."""
        units = np.array([(one.loss, one.masked) for one in self.utterances], float).reshape(-1, 2)
        correct = np.array([(one.correct, one.masked) for one in self.utterances], float).reshape(-1, 2)
        speakers, found = [one.speaker for one in self.utterances], self.metrics()
        intervals: dict[str, Any] = {}
        for name, each in (("contrastive_loss", units), ("accuracy", correct)):
            if name in found:
                (interval,) = bootstrap_intervals(each, lambda sums: mean(sums)[:, None], speakers)
                intervals |= {f"{name}_interval": [interval.low, interval.high], "interval_over": interval.over}
        return {
            **found,
            **intervals,
            "codes": int(self.codes.size),
            "utterances": len(self.utterances),
            "speakers": len({one.speaker for one in self.utterances if one.speaker}),
            "hours": sum(one.seconds for one in self.utterances) / 3600,
            "failed": self.failed,
        }

    def compare(self, before: list[dict[str, Any]], metric: str) -> Comparison | None:
        """Return the paired difference of "accuracy" to an earlier evaluation, from the lines of its SPLIT.jsonl.

        None if the utterances are not the same, or for another metric: the loss is no mean over utterances.
        """
        if metric != "accuracy":
            return None
        rows, speakers = [row_of(one) for one in self.utterances], [one.speaker for one in self.utterances]
        return compare_rows(rows, before, lambda row: (row["correct"], row["masked"]), mean, speakers)

    def table(self, split: str = "") -> str:
        """Return the figures as text."""
        found, hours = self.metrics(), sum(one.seconds for one in self.utterances) / 3600
        lines = [f"{split}{': ' if split else ''}{counted(len(self.utterances), 'utterance')}, {hours:.2f} h"]
        if found:
            lines.append(
                f"loss {found['loss']:.4f}, contrastive loss {found['contrastive_loss']:.4f} nats per masked frame"
            )
            lines.append(
                f"accuracy {100 * found['accuracy']:.2f} %, perplexity of the codes {found['code_perplexity']:.1f} of "
                f"{self.codes.size}"
            )
        if self.failed:
            one, several = "utterance could not be read and is", "utterances could not be read and are"
            lines.append(f"{counted(len(self.failed), one, several)} not counted")
        return "\n".join(lines)

    def save(self, folder: str | Path, split: str, source: str | None = None) -> Path:
        """Write SPLIT.json and SPLIT.jsonl.

        Args:
            folder: directory, created if missing.
            source: source of the corpus, if it is not that of the run.

        Returns:
            The path of SPLIT.json.

        Raises:
            UserError: the folder cannot be written.
        """
        folder, name = Path(folder), file_stem(split)
        lines = [json.dumps(row_of(one), ensure_ascii=False) + "\n" for one in self.utterances]
        figures = self.summary() | ({"source": source} if source else {})
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
            (folder / f"{name}.json").write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")
        except OSError as error:
            why = f"it cannot be written ({error.strerror})"
            raise UserError(str(folder), why, "choose another --output") from error
        return folder / f"{name}.json"


SUMS = ("distribution", "codes")


def row_of(one: Utterance) -> dict[str, Any]:
    """Return the line of SPLIT.jsonl of an utterance."""
    known = {"speaker": one.speaker} if one.speaker else {}
    figures = {"masked": one.masked, "loss": round(one.loss, 4), "correct": one.correct}
    return {"id": one.id, **known, "seconds": round(one.seconds, 3), **figures}


def perplexities(distribution: np.ndarray) -> np.ndarray:
    """Return the perplexity (G,) of sums of probabilities (G, V)."""
    import torch

    from sft_speech.tasks.pretraining import loss

    return loss.perplexities(torch.as_tensor(distribution)).numpy()


@dataclass
class _Batch:
    pieces: list[tuple[int, dict[str, Any]]]  # with the number of the row that each is of
    inputs: dict[str, Any] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)  # by number of the row


def evaluate_corpus(
    checkpoint: Checkpoint,
    rows: Dataset,
    targets: Targets,
    *,
    max_seconds: float,
    max_batch_seconds: float = 100.0,
    diversity_weight: float = 0.1,
    device: torch.device | None = None,
) -> PretrainingResult:
    """Evaluate a model on all pieces of all utterances of a corpus.

    Masks and negatives depend on the ids of the utterances alone. Rows whose audio cannot be read are left out with a
    warning and named in the result.

    Args:
        rows: rows of a corpus.
        targets: draws the targets.
        max_seconds: longer recordings are cut into equal pieces of at most this.
        max_batch_seconds: padded seconds per batch.
        diversity_weight: weight of the diversity loss in the loss.
        device: device of the forward pass, to which the model is moved; None leaves the model where it is.
    """
    from sft_speech.inference.computing import computed

    model = checkpoint.model
    device = device or next(model.parameters()).device
    model.to(device)
    result = PretrainingResult(diversity_weight, np.zeros(targets.codes), np.zeros(targets.codes))
    sums = np.zeros((len(rows), 3))  # masked frames, loss, correct ones
    was_training = model.training
    model.eval()
    try:
        batches = batches_of(rows, max_seconds, max_batch_seconds)
        load, forward = partial(_load, checkpoint, targets), partial(_forward, device)
        for batch, found in computed(model, batches, load, forward, device):
            for number, error in batch.errors.items():
                result.failed[rows[number]["id"]] = error
            if found is None:
                continue
            np.add.at(sums, [number for number, _ in batch.pieces], found["each"].cpu().numpy())
            result.distribution += found["distribution"].cpu().numpy()
            result.codes += found["codes"].cpu().numpy()
    finally:
        model.train(was_training)
    for row, (masked, loss, correct) in zip(rows, sums.tolist(), strict=True):
        if row["id"] in result.failed:
            logger.warning("%s is left out: %s", row["id"], result.failed[row["id"]])
        else:
            own = (row["id"], row["speaker"] or "", row["seconds"])
            result.utterances.append(Utterance(*own, int(masked), loss, int(correct)))
    return result


def batches_of(rows: Dataset, max_seconds: float, max_batch_seconds: float) -> Iterator[_Batch]:
    """Yield the pieces of all rows in batches, the longest first."""
    from sft_speech.corpora.rows import column_of
    from sft_speech.inference.batching import sorted_batches
    from sft_speech.tasks.pretraining.pieces import piece_counts, piece_of, piece_seconds

    seconds = column_of(rows, "seconds").to_numpy()
    counts = piece_counts(seconds, max_seconds)
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
    for places in sorted_batches(piece_seconds(seconds, max_seconds)[owner], max_batch_seconds):
        yield _Batch(
            [(int(owner[one]), piece_of(rows[int(owner[one])], int(number[one]), max_seconds)) for one in places]
        )


def _load(checkpoint: Checkpoint, targets: Targets, batch: _Batch) -> _Batch:
    """Read the audio of a batch and draw its targets."""
    from sft_speech.audio.read import AudioError, read_row
    from sft_speech.tasks.pretraining.targets import PretrainingCollator

    read = []
    for number, row in batch.pieces:
        try:
            waveform = read_row(row, checkpoint.rate)
        except AudioError as error:
            batch.errors[number] = str(error)
            continue
        seeds = (SEED, zlib.crc32(row["id"].encode("utf-8", "surrogateescape")))
        read.append((number, row, {"waveform": waveform, **targets.draw(len(waveform), seeds, noisy=False)}))
    batch.pieces = [(number, row) for number, row, _ in read]
    if read:
        features = checkpoint.front_end.features
        collate = PretrainingCollator(features, targets.frames, checkpoint.rate, targets)
        batch.inputs = collate([utterance for _, _, utterance in read])
    return batch


def _forward(device: torch.device, model: torch.nn.Module, batch: _Batch) -> dict[str, Any] | None:
    """Return "each" (B, 3), masked frames, loss and correct ones of B pieces; "distribution" and "codes" (G, V)."""
    import torch

    from sft_speech.tasks.pretraining.loss import INPUTS, code_counts, contrastive

    if not batch.inputs:
        return None
    try:
        inputs = {name: value.to(device) for name, value in batch.inputs.items()}
        with torch.no_grad():
            found = model(**{name: inputs[name] for name in INPUTS})
            known, config = inputs["masked"] >= 0, cast(Any, model.config)
            predicted, quantized, codes = (found[name] for name in ("predicted", "quantized", "codes"))
            losses, right, _ = contrastive(
                predicted, quantized, codes, inputs["negatives"], config.contrastive_logits_temperature
            )
            each = torch.stack([known.sum(-1), (losses * known).sum(-1), (right & known).sum(-1)], -1)
            counts = code_counts(codes, known, found["distribution"].shape[-1])
            return {"each": each.double(), "distribution": found["distribution"].double(), "codes": counts}
    finally:
        batch.inputs = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech evaluate`` that only pre-trained models have: none."""


def main(args: argparse.Namespace) -> None:
    """Evaluate a pre-trained model, write the files, print the table."""
    from sft_speech.models.load import chosen_device
    from sft_speech.tasks.pretraining.checkpoint import load_pretrained_model

    rows, split, _ = rows_of_arguments(args, text=None)
    checkpoint = load_pretrained_model(args.model, args.allow_pickle)
    run = settings_of(args.model)
    result = evaluate_corpus(
        checkpoint,
        rows,
        checkpoint.targets(run["mask_time_prob"], run["mask_time_length"], run["num_negatives"]),
        max_seconds=run["max_seconds"],
        max_batch_seconds=args.max_batch_seconds or 100.0,
        diversity_weight=run["diversity_loss_weight"],
        device=chosen_device(args.device),
    )
    if not result.metrics():
        raise UserError(f"{args.source} {split}", "none of its utterances could be evaluated", "see the messages above")
    written = result.save(evaluation_folder(args.model, args.output), split, source_name(args.source))
    print(result.table(split))
    print(f"\n{written.with_suffix('.jsonl')}\n{written}")


USED = ("mask_time_prob", "mask_time_length", "num_negatives", "diversity_loss_weight", "max_seconds")


def settings_of(model: str) -> dict[str, Any]:
    """Return the settings that the figures of a model depend on: those of its run, or the defaults."""
    from sft_speech.options.settings import read_yaml
    from sft_speech.tasks.pretraining.config import PretrainConfig

    file = Path(model) / "run.yaml"
    found = read_yaml(str(file), "settings of the run,") if file.is_file() else {}
    return {name: found.get(name, getattr(PretrainConfig, name)) for name in USED}
