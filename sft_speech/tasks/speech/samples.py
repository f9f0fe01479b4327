"""Samples of a model in training: synthesized speech, spectrograms, attention."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import TrainerCallback, TrainingArguments

from sft_speech.corpora.report import file_stem
from sft_speech.tasks.speech.collator import SpeechCollator
from sft_speech.tasks.speech.data import Utterances
from sft_speech.tasks.speech.generator import Part, Speech, SpeechGenerator
from sft_speech.tasks.speech.loss import model_inputs
from sft_speech.text.counted import counted
from sft_speech.training.saving import preserved_rng

logger = logging.getLogger(__name__)

MAX_STRETCH, GRACE_SECONDS = 1.5, 1.0  # longest sample: so many times the recording, and a little more
BUDGET_SECONDS = 30.0  # of the samples of an evaluation: after it, no further sample is begun
INDEX = "samples.jsonl"  # a line per sample: evaluation, id, seconds, ending

MakeSpeech = Callable[[dict[str, Any]], Speech | None]  # of a row


class SpeechSamples(TrainerCallback):
    """Synthesizes and draws some utterances after each evaluation.

    Args:
        folder: gets NUMBER-ID.wav and NUMBER-ID.png; NUMBER is that of the evaluation.
        utterances: the utterances to show.
        collate: makes batches of them.
        generator: generator with the model in training.
        make: returns the speech for a row of the utterances; None if the row cannot be read.
        tracker: TensorBoard directory to which pictures and sound are added too, if any.
    """

    def __init__(
        self,
        folder: Path,
        utterances: Utterances,
        collate: SpeechCollator,
        generator: SpeechGenerator,
        make: MakeSpeech,
        tracker: str | None = None,
    ) -> None:
        self.folder, self.utterances, self.collate = folder, utterances, collate
        self.generator, self.make, self.tracker = generator, make, tracker
        taken = [path.name[:3] for path in folder.glob("???-*.wav")]  # by the run that is resumed
        self.number = max((int(number) for number in taken if number.isdigit()), default=0)

    def on_evaluate(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Write the samples; a failure is logged and does not end the training."""
        try:
            with preserved_rng(args.device):
                self.write()
        except (OSError, soundfile.LibsndfileError) as error:
            logger.warning("the samples could not be written (%s)", error)

    def write(self) -> None:
        """Synthesize and draw each utterance."""
        model: torch.nn.Module = self.generator.checkpoint.model
        training, self.generator.device = model.training, next(model.parameters()).device
        model.eval()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.number += 1
        began, written = time.monotonic(), list[Path]()
        for index, row in enumerate(self.utterances.rows):
            if index and time.monotonic() - began > BUDGET_SECONDS:
                left = len(self.utterances.rows) - index
                logger.warning("%s left out: the others took more than %.0f s", counted(left, "sample"), BUDGET_SECONDS)
                break
            written += self.write_one(model, index, row)
        model.train(training)
        if self.tracker is not None:
            track(written, self.tracker, self.number)

    def write_one(self, model: torch.nn.Module, index: int, row: dict[str, Any]) -> list[Path]:
        """Synthesize and draw an utterance; return the files."""
        stem = self.folder / f"{self.number:03d}-{file_stem(Path(row['id']).stem)}"
        written: list[Path] = []
        self.generator.max_seconds = MAX_STRETCH * row["seconds"] + GRACE_SECONDS
        speech = self.make(row)
        if speech is not None and len(speech.waveform):
            written.append(stem.with_suffix(".wav"))
            speech.save(written[-1])
            line = {"evaluation": self.number, "id": row["id"], "seconds": round(speech.seconds, 2)}
            with open(self.folder / INDEX, "a", encoding="utf-8") as file:
                file.write(json.dumps(line | {"ending": speech.ending}, ensure_ascii=False) + "\n")
        utterance = self.utterances[(0, index)]
        if utterance is not None:
            written.append(stem.with_suffix(".png"))
            part = speech.parts[0] if speech is not None and speech.parts else None
            draw(written[-1], row["text"] or row["id"], *self.predicted(model, utterance), part)
        return written

    def predicted(self, model: torch.nn.Module, utterance: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict an utterance with teacher forcing.

        Returns:
            target and predicted log-mels (T, M), and attention (T / reduction_factor, N), the mean over layers and
            heads; N encoder steps.
        """
        device = self.generator.device
        batch = {name: value.to(device) for name, value in self.collate([utterance]).items()}
        with torch.inference_mode(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            outputs = model(**model_inputs(batch), output_attentions=True)
        attention = torch.stack([layer[0] for layer in outputs.cross_attentions]).mean((0, 1))
        target, predicted = batch["labels"][0], outputs.spectrogram[0]
        return target.cpu().numpy(), predicted.float().cpu().numpy(), attention.float().cpu().numpy()


def track(files: list[Path], folder: str, number: int) -> None:
    """Add pictures and sound files to TensorBoard, under the number of the evaluation."""
    from matplotlib.image import imread
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as board:
        for file in files:
            name = f"samples/{file.stem.split('-', 1)[1]}"
            if file.suffix == ".png":
                board.add_image(name, imread(file)[..., :3], number, dataformats="HWC")
            else:
                waveform, rate = soundfile.read(file, dtype="float32")
                board.add_audio(name, torch.from_numpy(waveform)[None], number, rate)


def draw(
    path: Path, title: str, target: np.ndarray, predicted: np.ndarray, attention: np.ndarray, part: Part | None
) -> None:
    """Draw log-mels (T, M), on one scale, and attention (D, N) into a picture.

    Args:
        target, predicted, attention: of the recording, and of the model that is shown it frame by frame.
        part: what the model generates by itself, on the right; a line marks where it ends.
    """
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(3, 2, sharex="col")
    scale = {"origin": "lower", "aspect": "auto", "vmin": float(target.min()), "vmax": float(target.max())}
    steps = {"origin": "lower", "aspect": "auto", "vmin": 0.0}
    shown: list[tuple[Any, np.ndarray, str, dict[str, Any]]] = [
        (axes[0, 0], target, "recorded", scale),
        (axes[1, 0], predicted, "predicted from the recorded frames before", scale),
        (axes[2, 0], attention, "attention", steps),
    ]
    if part is not None:
        shown += [
            (axes[0, 1], part.spectrogram, "generated", scale),
            (axes[1, 1], part.attention, f"attention; {part.why}", steps),
        ]
    for axis, values, name, how in shown:
        mels = how is scale
        frames = len(values) if mels else len(values) * round(len(target) / max(len(attention), 1))
        image = axis.imshow(values.T, extent=(0, frames, 0, values.shape[1]), **how)
        axis.set(title=name, ylabel="mel band" if mels else "encoder step", xlabel="frame")
        figure.colorbar(image, ax=axis, label="log10" if mels else None)
    if part is not None:
        for axis in (axes[0, 1], axes[1, 1]):
            axis.axvline(len(part.spectrogram), color="red")
    for axis in axes.flat[[5] if part is not None else [1, 3, 5]]:
        axis.set_axis_off()
    figure.suptitle(title if len(title) <= 90 else title[:89] + "…")
    figure.savefig(path, dpi=80)
