"""Samples of a model in training: synthesized speech, spectrograms, attention."""

from __future__ import annotations

import logging
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
from sft_speech.tasks.speech.generator import Speech, SpeechGenerator
from sft_speech.tasks.speech.loss import model_inputs
from sft_speech.training.saving import preserved_rng

logger = logging.getLogger(__name__)

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
        written: list[Path] = []
        for index, row in enumerate(self.utterances.rows):
            path = self.folder / f"{self.number:03d}-{file_stem(Path(row['id']).stem)}"
            speech = self.make(row)
            if speech is not None and len(speech.waveform):
                speech.save(path.with_suffix(".wav"))
                written.append(path.with_suffix(".wav"))
            utterance = self.utterances[(0, index)]
            if utterance is not None:
                draw(path.with_suffix(".png"), row["text"] or row["id"], *self.predicted(model, utterance))
                written.append(path.with_suffix(".png"))
        model.train(training)
        if self.tracker is not None:
            track(written, self.tracker, self.number)

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


def draw(path: Path, title: str, target: np.ndarray, predicted: np.ndarray, attention: np.ndarray) -> None:
    """Draw log-mels (T, M), on one scale, and attention (D, N) into a picture."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(8, 8), layout="constrained")
    axes = figure.subplots(3, 1)
    low, high = float(target.min()), float(target.max())
    for axis, mels, name in ((axes[0], target, "recorded"), (axes[1], predicted, "predicted")):
        shown = axis.imshow(mels.T, origin="lower", aspect="auto", vmin=low, vmax=high)
        axis.set(title=name, ylabel="mel band", xlabel="frame")
        figure.colorbar(shown, ax=axis, label="log10")
    shown = axes[2].imshow(attention.T, origin="lower", aspect="auto", vmin=0)
    axes[2].set(title="attention", ylabel="encoder step", xlabel="decoder step")
    figure.colorbar(shown, ax=axes[2])
    figure.suptitle(title if len(title) <= 90 else title[:89] + "…")
    figure.savefig(path, dpi=80)
