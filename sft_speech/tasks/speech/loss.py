"""The loss of SpeechT5 on spectrograms, as sums over utterances.

transformers averages each part over the elements of the batch: mel values, frames, cells of the attention matrices.
The weight of an utterance then depends on the others in its batch. Here each utterance has the loss that transformers
gives for it alone, and a step minimizes their mean weighted by frames, however they are split into batches.

Legend: B batch, T mel frames, M mel bands, N encoder steps (text tokens, or frames of a recording), D decoder steps =
T / reduction_factor, H attention heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from sft_speech.training.loss import LossOutput

IGNORED = -100.0  # padding of target spectrograms, as in transformers
STOP_WEIGHT = 5.0  # of the last frame of an utterance, as in transformers and fairseq
# Parts of the loss, and the names of their figures.
PARTS = {"before": "mel_loss_before_postnet", "after": "mel_loss", "stop": "stop_loss", "guided": "attention_loss"}


@dataclass(frozen=True)
class SpectrogramLosses:
    """The parts of the loss of B utterances, each (B,), sums over frames in float32.

    Args:
        before, after: absolute errors of the log-mels before and after the postnet, averaged over bands.
        stop: cross entropy of "this frame is the last one".
        guided: guided attention loss, times the frames; 0 if the model is trained without it.
        frames: number of mel frames.
    """

    before: Tensor
    after: Tensor
    stop: Tensor
    guided: Tensor
    frames: Tensor

    @property
    def total(self) -> Tensor:
        """The loss of each utterance, (B,)."""
        return self.before + self.after + self.stop + self.guided


def guided_attention(matrices: Tensor, steps: Tensor, encoder_steps: Tensor, sigma: float) -> Tensor:
    """Return the guided attention loss (Tachibana et al. 2018, arXiv:1710.08969) of each utterance.

    Args:
        matrices: (B, H, D, N) attention weights.
        steps, encoder_steps: (B,) D and N of each utterance.
        sigma: width of the diagonal, as a share of the utterance.

    Returns:
        (B,) means over cells of the attention weights times a penalty, 0 on the diagonal and near 1 far from it.
    """
    _, heads, longest, widest = matrices.shape
    steps, encoder_steps = steps.clamp(min=1), encoder_steps.clamp(min=1)
    down = torch.arange(longest, device=matrices.device) / steps[:, None]  # (B, D), 1 or more after the end
    along = torch.arange(widest, device=matrices.device) / encoder_steps[:, None]  # (B, N)
    away = 1 - torch.exp(-((along[:, None, :] - down[:, :, None]) ** 2) / (2 * sigma**2))
    own = (down[:, :, None] < 1) & (along[:, None, :] < 1)
    return (matrices * (away * own)[:, None]).sum((1, 2, 3)) / (heads * steps * encoder_steps)


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of the model in a batch of :class:`~sft_speech.tasks.speech.collator.SpeechCollator`."""
    return {name: value for name, value in batch.items() if name not in ("labels", "seconds", "encoder_steps")}


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the parts of the loss as means over frames, from sums by the names of :class:`SpectrogramLosses`."""
    return {name: sums[part] / max(sums["frames"], 1) for part, name in PARTS.items()}


class SpectrogramCriterion:
    """The loss of a SpeechT5 with a speech decoder, for the trainer.

    Args:
        model: the model, not wrapped for several processes. A hook on its postnet keeps what transformers' output
            leaves out: the spectrogram before the postnet and the stop logits.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.config = model.config
        self.predicted: tuple[Tensor, Tensor, Tensor] | None = None
        postnet: Any = model.speech_decoder_postnet
        postnet.register_forward_hook(self._keep)

    def _keep(self, _module: torch.nn.Module, _args: Any, predicted: tuple[Tensor, Tensor, Tensor]) -> None:
        self.predicted = predicted

    def count(self, batch: dict[str, Any]) -> int:
        """Return the number of mel frames."""
        return int((batch["labels"][..., 0] != IGNORED).sum())

    def losses(self, model: torch.nn.Module, batch: dict[str, Any]) -> SpectrogramLosses:
        """Return the losses of the utterances of a batch of the collator."""
        config, labels = self.config, batch["labels"]
        outputs = model(**model_inputs(batch), output_attentions=bool(config.use_guided_attention_loss))
        assert self.predicted is not None  # the hook has set it
        (before, after, stop_logits), self.predicted = self.predicted, None  # (B, T, M), (B, T, M), (B, T)
        own = labels[..., 0] != IGNORED  # (B, T)
        frames = own.sum(-1)
        targets = labels.masked_fill(~own[..., None], 0).float()

        def errors(predicted: Tensor) -> Tensor:
            return ((predicted.float() - targets).abs().mean(-1) * own).sum(-1)

        last = torch.arange(own.shape[1], device=own.device) == frames[:, None] - 1
        weight = torch.tensor(STOP_WEIGHT, device=own.device)
        stop = functional.binary_cross_entropy_with_logits(
            stop_logits.float(), last.float(), pos_weight=weight, reduction="none"
        )
        guided = torch.zeros(len(labels), device=own.device)
        if config.use_guided_attention_loss:
            heads, sigma = config.guided_attention_loss_num_heads, config.guided_attention_loss_sigma
            matrices = torch.cat([layer[:, :heads] for layer in outputs.cross_attentions], dim=1).float()
            steps = frames // config.reduction_factor
            guided = frames * guided_attention(matrices, steps, batch["encoder_steps"], sigma)
            guided = guided * config.guided_attention_loss_scale
        return SpectrogramLosses(errors(before), errors(after), (stop * own).sum(-1), guided, frames)

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        """Return the sum of the losses of a batch of the collator."""
        losses = self.losses(model, batch)
        figures = {name: getattr(losses, name).sum().detach() for name in (*PARTS, "frames")}
        return LossOutput(losses.total.sum(), figures | {"seconds": batch["seconds"]}, losses.total.detach())

    def report(self, sums: dict[str, float]) -> dict[str, float]:
        """Return the parts of the loss as means over frames."""
        return means(sums)
