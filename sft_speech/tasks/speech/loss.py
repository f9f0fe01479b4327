"""The loss of SpeechT5 on spectrograms, summed clip by clip, as the trainer wants it.

transformers averages each part over its own elements of the batch: mel values, frames, cells of the attention
matrices. Those shares change with the clips that share a batch. Here every clip has a loss of its own, equal to what
transformers gives for it alone, and a step is their mean weighted by frames, whatever the split into batches.

Legend: B batch, T mel frames, M mel bands, N encoder steps (text tokens, or frames of heard speech), D decoder steps =
T / reduction_factor, H attention heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from sft_speech.training.loss import LossOutput

IGNORED = -100.0  # padding of target spectrograms, as transformers has it
STOP_WEIGHT = 5.0  # of the one frame of a clip that is its last; transformers' and fairseq's SpeechT5


@dataclass(frozen=True)
class SpectrogramLosses:
    """The parts of the loss of B clips, each (B,) and not divided by anything, in float32.

    Args:
        before, after: absolute errors of the log-mels before and behind the postnet, per frame averaged over bands.
        stop: cross entropy of "this frame is the last one".
        guided: mean over a clip's attention matrices, times its frames; 0 where the model is not trained with it.
        frames: mel frames of each clip.
    """

    before: Tensor
    after: Tensor
    stop: Tensor
    guided: Tensor
    frames: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum for each clip, (B,)."""
        return self.before + self.after + self.stop + self.guided


def spectrogram_losses(
    config: PreTrainedConfig,
    *,
    before: Tensor,
    after: Tensor,
    stop_logits: Tensor,
    labels: Tensor,
    attentions: tuple[Tensor, ...],
    encoder_steps: Tensor,
) -> SpectrogramLosses:
    """The losses of every clip of a batch.

    Args:
        config: of the model; its ``guided_attention_loss_*`` and ``reduction_factor``.
        before, after: (B, T, M) predictions without and with the postnet.
        stop_logits: (B, T).
        labels: (B, T, M) log-mels; padded with :data:`IGNORED` to the longest clip, each clip's own frames a multiple
            of the reduction factor.
        attentions: of each decoder layer, (B, H, D, N); empty where guided attention is off.
        encoder_steps: (B,) text tokens of each clip, or frames of the speech that it is made of.
    """
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
    if attentions:
        heads = config.guided_attention_loss_num_heads
        matrices = torch.cat([layer[:, :heads] for layer in attentions], dim=1).float()
        guided = frames * guided_attention(
            matrices, frames // config.reduction_factor, encoder_steps, config.guided_attention_loss_sigma
        )
        guided = guided * config.guided_attention_loss_scale
    return SpectrogramLosses(errors(before), errors(after), (stop * own).sum(-1), guided, frames)


def guided_attention(matrices: Tensor, steps: Tensor, encoder_steps: Tensor, sigma: float) -> Tensor:
    """How far attention is from the diagonal (Tachibana et al. 2018, arXiv:1710.08969), a mean for every clip.

    Args:
        matrices: (B, H, D, N) attention weights.
        steps, encoder_steps: (B,) D and N of each clip.
        sigma: width of the diagonal, as a share of the clip.

    Returns:
        (B,), 0 on the diagonal, near 1 far from it.
    """
    _, heads, longest, widest = matrices.shape
    steps, encoder_steps = steps.clamp(min=1), encoder_steps.clamp(min=1)
    down = torch.arange(longest, device=matrices.device) / steps[:, None]  # (B, D), 1 and more behind the end
    along = torch.arange(widest, device=matrices.device) / encoder_steps[:, None]  # (B, N)
    away = 1 - torch.exp(-((along[:, None, :] - down[:, :, None]) ** 2) / (2 * sigma**2))
    own = (down[:, :, None] < 1) & (along[:, None, :] < 1)
    return (matrices * (away * own)[:, None]).sum((1, 2, 3)) / (heads * steps * encoder_steps)


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """The inputs of the model in a batch of :class:`~sft_speech.tasks.speech.collator.SpeechCollator`."""
    return {name: value for name, value in batch.items() if name not in ("labels", "seconds", "encoder_steps")}


class SpectrogramCriterion:
    """Fine-tuning of SpeechT5 with a speech decoder, as the trainer sees it.

    Args:
        model: not yet wrapped for several processes. A hook on its postnet keeps what transformers' output leaves out:
            the spectrogram before the postnet and the logits of stopping.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.config = model.config
        self.predicted: tuple[Tensor, Tensor, Tensor] | None = None
        postnet: Any = model.speech_decoder_postnet
        postnet.register_forward_hook(self._keep)

    def _keep(self, _module: torch.nn.Module, _args: Any, predicted: tuple[Tensor, Tensor, Tensor]) -> None:
        self.predicted = predicted

    def count(self, batch: dict[str, Any]) -> int:
        """Mel frames."""
        return int((batch["labels"][..., 0] != IGNORED).sum())

    def losses(self, model: torch.nn.Module, batch: dict[str, Any]) -> SpectrogramLosses:
        """Of every clip of a batch of :class:`~sft_speech.tasks.speech.collator.SpeechCollator`."""
        guided = bool(self.config.use_guided_attention_loss)
        outputs = model(**model_inputs(batch), output_attentions=guided)
        assert self.predicted is not None  # the model has a postnet, which is where the hook is
        (before, after, stop_logits), self.predicted = self.predicted, None
        return spectrogram_losses(
            self.config,
            before=before,
            after=after,
            stop_logits=stop_logits,
            labels=batch["labels"],
            attentions=outputs.cross_attentions if guided else (),
            encoder_steps=batch["encoder_steps"],
        )

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        """Of a batch of :class:`~sft_speech.tasks.speech.collator.SpeechCollator`."""
        losses = self.losses(model, batch)
        figures = {
            name: getattr(losses, name).sum().detach() for name in ("before", "after", "stop", "guided", "frames")
        }
        return LossOutput(losses.total.sum(), figures | {"seconds": batch["seconds"]})

    def report(self, sums: dict[str, float]) -> dict[str, float]:
        """The parts of the loss, each a mean over frames."""
        names = {
            "before": "mel_loss_before_postnet",
            "after": "mel_loss",
            "stop": "stop_loss",
            "guided": "attention_loss",
        }
        return {shown: sums[name] / max(sums["frames"], 1) for name, shown in names.items()}
