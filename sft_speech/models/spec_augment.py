"""SpecAugment (Park et al. 2019, arXiv:1904.08779), drawn for each utterance in a data loader's worker.

transformers draws masks while the model runs: it waits for the device to report the lengths of the clips, rounds the
number of spans with one random number per batch, and lets spans of HuBERT and SEW fall on the padding too. Here the
masks of an utterance depend on (seed, epoch, utterance) alone: not on its batch, its process or an interruption.

Legend: B batch, S samples, T frames of the encoder or of the log-mel input, H channels of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from sft_speech.models.families import family_of

TIME, FEATURES = "mask_time_indices", "mask_feature_indices"  # of a batch: (B, T) and (B, H), True where masked
Masks = tuple[np.ndarray, np.ndarray]  # (T,), (H,)


class SpecAugment:
    """Draws the masks of utterances.

    Args:
        config: configuration of the model, with ``mask_time_*`` and ``mask_feature_*``.
        frames: returns the number T of frames that are masked for a number of samples.
        seed: seed of the run.
    """

    def __init__(self, config: Any, frames: Callable[[int], int], seed: int) -> None:
        family = family_of(config)
        hidden = family.spec_augment == "hidden"
        self.frames, self.seed = frames, seed
        self.size = int(config.hidden_size if hidden else family.extractor_options(config)["feature_size"])
        self.settings = {
            axis: (
                getattr(config, f"mask_{axis}_prob"),
                getattr(config, f"mask_{axis}_length"),
                getattr(config, f"mask_{axis}_min_masks", 0),  # WavLM has none for features
            )
            for axis in ("time", "feature")
        }

    def __call__(self, samples: int, epoch: int, index: int) -> Masks:
        """Draw the masks of utterance ``index`` with ``samples`` samples: (T,) and (H,), True where masked."""
        with numpy_seeded(self.seed, epoch, index):
            return self._drawn("time", max(int(self.frames(samples)), 1)), self._drawn("feature", self.size)

    def _drawn(self, axis: str, length: int) -> np.ndarray:
        return drawn_spans(length, *self.settings[axis])


def drawn_spans(length: int, share: float, span: int, least: int) -> np.ndarray:
    """Draw a mask (length,) of spans from numpy's global random state, True where masked.

    Args:
        share: masked share, before overlaps.
        span: length of a span.
        least: the fewest spans.
    """
    if share <= 0 or length < span:  # transformers rejects clips shorter than a span
        return np.zeros(length, bool)
    drawn: np.ndarray = _compute_mask_indices((1, length), share, span, min_masks=least)[0]
    return drawn


def collated(masks: Sequence[Masks]) -> dict[str, Tensor]:
    """Collate the masks of B utterances into arguments of the model (:func:`take_given_masks`)."""
    time = torch.zeros((len(masks), max(len(own) for own, _ in masks)), dtype=torch.bool)
    for row, (own, _) in zip(time, masks, strict=True):
        row[: len(own)] = torch.from_numpy(own)
    return {TIME: time, FEATURES: torch.from_numpy(np.stack([features for _, features in masks]))}


def take_given_masks(model: PreTrainedModel) -> None:
    """Make a model take masks as arguments of its forward pass, instead of drawing its own.

    Without them nothing is masked. A model that masks its log-mel input takes input that is already masked
    (`with_masks`). Call it once; weights, configuration and saved files do not change.
    """
    if family_of(model.config).spec_augment == "input":
        body: Any = model.base_model
        body._mask_input_features = lambda input_features, attention_mask=None: input_features
    else:
        GivenMasks(model)


def with_masks(inputs: dict[str, Tensor], masks: Sequence[Masks], time_axis: int | None = None) -> dict[str, Tensor]:
    """Return the inputs of a model with the masks of B utterances.

    Args:
        inputs: the model's inputs by name.
        masks: one pair per utterance; none if nothing is masked.
        time_axis: zero log-mel frames of "input_features", (B, H, T) or (B, T, H), as transformers does for Whisper;
            None: add the masks as arguments of the model.
    """
    if not masks:
        return inputs
    given = collated(masks)
    if time_axis is None:
        return inputs | given
    features = inputs["input_features"].movedim(time_axis, -1)
    time = torch.nn.functional.pad(given[TIME], (0, features.shape[-1] - given[TIME].shape[1]))
    masked = features.masked_fill(time[:, None], 0.0).masked_fill(given[FEATURES][..., None], 0.0)
    return inputs | {"input_features": masked.movedim(-1, time_axis)}


class GivenMasks:
    """Passes the masks of a forward pass from the arguments of the model to the place where it masks.

    This takes a hook, since they are arguments of the model itself: wrapping it in another class would change how it is
    saved.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.base: Any = family_of(model.config).body_of(model)
        self.given: dict[str, Tensor | None] = {}
        model.register_forward_pre_hook(self.take, with_kwargs=True)
        self.base._mask_hidden_states = self.mask

    def take(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Remove the masks from the arguments; a hook before the model."""
        self.given = {name: kwargs.pop(name, None) for name in (TIME, FEATURES)}
        return args, kwargs

    def mask(self, hidden: Tensor, **_: Any) -> Tensor:
        """Mask the frames (B, T, H) that enter the encoder."""
        time, features = self.given.get(TIME), self.given.get(FEATURES)
        if time is not None:
            # The model has more frames with padding, and fewer if a file is shorter than its header says.
            time = torch.nn.functional.pad(time, (0, hidden.shape[1] - time.shape[1]))
            hidden = torch.where(time[..., None], self.base.masked_spec_embed.to(hidden.dtype), hidden)
        return hidden if features is None else hidden.masked_fill(features[:, None], 0)


@contextmanager
def numpy_seeded(*seeds: int) -> Iterator[None]:
    """Seed numpy's global random state, from which transformers draws masks; restore it afterwards."""
    state = np.random.get_state()
    np.random.seed(seeds)
    try:
        yield
    finally:
        np.random.set_state(state)
