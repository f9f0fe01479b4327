"""What is predicted of an utterance: its masked frames, the negatives of each, and the noise of the quantizer.

All are drawn from (seed, epoch, utterance): they depend neither on the batch nor on the process nor on interruptions.

Legend: B batch, T frames, M masked frames, K negatives, G groups of the codebook, V codes of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_speech.models.spec_augment import drawn_spans, numpy_seeded
from sft_speech.tasks.pretraining.pieces import piece_of
from sft_speech.training.plan import REPEAT
from sft_speech.training.utterances import Utterances

MASKS = 2  # spans that an utterance has at least, as the published checkpoints do


@dataclass(frozen=True)
class Targets:
    """Draws the targets of utterances.

    Args:
        frames: returns the frames of a number of samples.
        share: masked share of the frames, before overlaps.
        span: frames of a mask.
        negatives: K.
        codes: (G, V) of the quantizer.
    """

    frames: Callable[[int], int]
    share: float
    span: int
    negatives: int
    codes: tuple[int, int]

    def draw(self, samples: int, seeds: Sequence[int], noisy: bool = True) -> dict[str, np.ndarray]:
        """Draw the targets of an utterance with so many samples.

        Args:
            noisy: draw the noise of the quantizer too.

        Returns:
            "mask" (T,), True where masked; "negatives" (M, K), places among the masked frames; "noise" (M, G, V), from
            the standard Gumbel distribution. Too short an utterance has no masked frames.
        """
        frames = max(1, int(self.frames(samples)))
        with numpy_seeded(*seeds):
            mask = drawn_spans(frames, self.share, self.span, MASKS)
        rng, count = np.random.default_rng(tuple(seeds)), int(mask.sum())
        if count < 2:  # there is nothing to tell a target from
            mask, count = np.zeros(frames, bool), 0
        drawn = {"mask": mask, "negatives": negatives(count, self.negatives, rng)}
        return drawn | ({"noise": gumbel((count, *self.codes), rng)} if noisy else {})


def negatives(count: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Draw negatives (count, wanted) of masked frames: other masked frames of the utterance, uniformly.

    Sampling is with replacement, as in Baevski et al. 2020 (arXiv:2006.11477, section 3.2) and transformers.
    """
    if count < 2:
        return np.zeros((count, wanted), np.int64)
    drawn = rng.integers(0, count - 1, (count, wanted))
    return drawn + (drawn >= np.arange(count)[:, None])


def gumbel(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Draw from the standard Gumbel distribution: minus the logarithm of exponential numbers."""
    drawn = rng.standard_exponential(tuple(shape), dtype=np.float32)
    return -np.log(np.maximum(drawn, np.finfo(np.float32).tiny))


class Pieces(Utterances):
    """Pieces of recordings with their targets, by (epoch, index); the epoch tells which piece of the recording it is.

    Args:
        rows: usable rows of a corpus.
        rate: samples per second of the model.
        targets: draws the targets.
        max_seconds: the longest piece.
        seed: seed of the run.
    """

    def __init__(self, rows: Any, rate: int, targets: Targets, max_seconds: float, seed: int) -> None:
        super().__init__(rows, rate, encode=lambda text: (), seed=seed)
        self.targets, self.max_seconds = targets, max_seconds

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        epoch, index = key
        return self.made_of(piece_of(self.rows[index], epoch // REPEAT, self.max_seconds), epoch, index)

    def target(self, row: Any, waveform: np.ndarray, epoch: int, number: int) -> dict[str, Any]:
        """Return the targets of a piece."""
        return self.targets.draw(len(waveform), (self.seed, epoch, number))


class PretrainingCollator:
    """Pads utterances with their targets to a batch.

    Args:
        features: waveforms to the model's inputs.
        frames: samples to frames.
        rate: samples per second.
        negatives, codes: as in :class:`Targets`.
    """

    def __init__(self, features: Any, frames: Callable[[int], int], rate: int, targets: Targets) -> None:
        self.features, self.frames, self.rate, self.targets = features, frames, rate, targets

    def __call__(self, utterances: list[dict[str, Any] | None]) -> dict[str, Tensor]:
        """Return the batch.

        If no utterance could be read, the batch is a second of silence without masked frames, which keeps the processes
        in step.

        Returns:
            The inputs of the model; "mask" (B, T); "masked" (B, M), the masked frames, padded with -1; "negatives" (B,
            M, K); "noise" (B, M, G, V), if the utterances have it; "frames" (B,); and "seconds" () of audio.
        """
        read = [utterance for utterance in utterances if utterance is not None]
        if not read:
            nothing = self.targets.draw(0, (0,)) | {"waveform": np.zeros(self.rate, np.float32)}
            read = [nothing]
        masks = [np.flatnonzero(utterance["mask"]) for utterance in read]
        frames = torch.tensor([max(1, int(self.frames(len(utterance["waveform"])))) for utterance in read])
        mask = torch.zeros((len(read), int(frames.max())), dtype=torch.bool)
        for row, own in zip(mask, masks, strict=True):
            row[torch.from_numpy(own)] = True
        most = max(1, *(len(own) for own in masks), 1)
        batch = {
            **self.features([utterance["waveform"] for utterance in read]),
            "mask": mask,
            "masked": padded(masks, most, -1),
            "negatives": padded([utterance["negatives"] for utterance in read], most, 0),
            "frames": frames,
            "seconds": torch.tensor(sum(len(utterance["waveform"]) for utterance in read) / self.rate),
        }
        if "noise" in read[0]:
            batch["noise"] = padded([utterance["noise"] for utterance in read], most, 0)
        return batch


def padded(arrays: Sequence[np.ndarray], length: int, value: float) -> Tensor:
    """Return arrays (M, ...) of different lengths M as one tensor (B, length, ...)."""
    made = torch.full((len(arrays), length, *arrays[0].shape[1:]), value, dtype=torch.from_numpy(arrays[0]).dtype)
    for row, own in zip(made, arrays, strict=True):
        row[: len(own)] = torch.from_numpy(own)
    return made
