"""SpecAugment (Park et al. 2019, arXiv:1904.08779), drawn for each utterance in the loader's worker.

transformers draws while the model runs. It waits for the device to learn the lengths of the clips, rounds the number of
spans by one throw of the dice for a whole batch, and lets HuBERT's and SEW's spans fall on the padding as well. Here an
utterance's masks depend on (seed, epoch, utterance) and on nothing else: not on its batch, its process or an
interruption.

Legend: B batch, S samples, T frames of the encoder, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

TIME, FEATURES = "mask_time_indices", "mask_feature_indices"  # of a batch: (B, T) and (B, H), True where masked
Masks = tuple[np.ndarray, np.ndarray]  # (T,), (H,)


class SpecAugment:
    """The masks of utterances.

    Args:
        config: of the model; its ``mask_time_*`` and ``mask_feature_*``.
        frames: frames of the encoder by number of samples.
        seed: of the run.
    """

    def __init__(self, config: PreTrainedConfig, frames: Callable[[int], int], seed: int) -> None:
        self.frames, self.seed, self.size = frames, seed, int(config.hidden_size)
        self.settings = {
            axis: (
                getattr(config, f"mask_{axis}_prob"),
                getattr(config, f"mask_{axis}_length"),
                getattr(config, f"mask_{axis}_min_masks", 0),  # WavLM has none for features
            )
            for axis in ("time", "feature")
        }

    def __call__(self, samples: int, epoch: int, index: int) -> Masks:
        """Those of the utterance ``index`` of so many samples: (T,) and (H,), True where masked."""
        with numpy_seeded(self.seed, epoch, index):
            return self._drawn("time", max(int(self.frames(samples)), 1)), self._drawn("feature", self.size)

    def _drawn(self, axis: str, length: int) -> np.ndarray:
        share, span, least = self.settings[axis]
        if share <= 0 or length < span:  # transformers refuses what is shorter than a span
            return np.zeros(length, bool)
        return _compute_mask_indices((1, length), share, span, min_masks=least)[0]


def collated(masks: Sequence[Masks]) -> dict[str, Tensor]:
    """Of B utterances, as the model's forward takes them (:func:`take_given_masks`)."""
    time = torch.zeros((len(masks), max(len(own) for own, _ in masks)), dtype=torch.bool)
    for row, (own, _) in zip(time, masks, strict=True):
        row[: len(own)] = torch.from_numpy(own)
    return {TIME: time, FEATURES: torch.from_numpy(np.stack([features for _, features in masks]))}


def take_given_masks(model: PreTrainedModel) -> None:
    """Has a CTC model take masks as arguments of its forward, in place of drawing its own.

    Without them nothing is masked. Call it once; weights, configuration and what is saved stay as they are.
    """
    base: Any = model.base_model
    given: dict[str, Tensor | None] = {}

    def take(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given.update({name: kwargs.pop(name, None) for name in (TIME, FEATURES)})
        return args, kwargs

    def mask(hidden: Tensor, **_: Any) -> Tensor:
        time, features = given.get(TIME), given.get(FEATURES)
        if time is not None:
            # The model's own frames are more by those of the padding, fewer where a file was shorter than its header.
            time = torch.nn.functional.pad(time, (0, hidden.shape[1] - time.shape[1]))
            hidden = torch.where(time[..., None], base.masked_spec_embed.to(hidden.dtype), hidden)
        return hidden if features is None else hidden.masked_fill(features[:, None], 0)

    model.register_forward_pre_hook(take, with_kwargs=True)
    base._mask_hidden_states = mask


@contextmanager
def numpy_seeded(*seeds: int) -> Iterator[None]:
    """numpy's global random state, from which transformers draws masks, seeded and afterwards as it was."""
    state = np.random.get_state()
    np.random.seed(seeds)
    try:
        yield
    finally:
        np.random.set_state(state)
