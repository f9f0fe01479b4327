"""The loss of token-and-duration transducers (arXiv:2304.06795), summed and in float32, as the trainer needs it.

Legend: B batch, T frames, L labels, V entries of the vocabulary, D durations.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.loss.loss_tdt import tdt_loss

from sft_speech.tasks.asr.ctc.loss import IGNORED
from sft_speech.training.loss import WEIGHTS, LossOutput, weighted, weighted_count


def utterance_losses(
    model: torch.nn.Module, config: Any, given: dict[str, Any], frames: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Run a model and return the loss (B,) of every utterance, not divided by anything.

    Args:
        model: a transducer, which may be wrapped.
        config: its configuration.
        given: inputs of the model, or the output of its encoder.
        frames: (B,) frames of each utterance, without padding.
        labels: (B, L) padded with :data:`~sft_speech.tasks.asr.ctc.loss.IGNORED`.

    Returns:
        (B,), zero with zero gradient for an utterance that has no labels, or more than its frames can have.
    """
    own = labels != IGNORED
    start = labels.new_full((len(labels), 1), config.blank_token_id)
    previous = torch.cat([start, labels.masked_fill(~own, config.blank_token_id)], dim=1)
    logits = model(**given, decoder_input_ids=previous).logits  # (B, T, L + 1, V + D)
    losses = tdt_loss(
        logits[..., : config.vocab_size],
        logits[..., config.vocab_size :],
        labels.masked_fill(~own, 0),
        frames.clamp(max=logits.shape[1]),
        own.sum(-1),
        config.blank_token_id,
        list(config.durations),
        reduction="none",
    )
    return torch.where(own.any(-1) & losses.isfinite(), losses, 0.0)


class TdtCriterion:
    """The criterion of fine-tuning a transducer.

    Args:
        config: configuration of the model.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    def count(self, batch: dict[str, Any]) -> float:
        """Return the number of labels: the loss of a step is in nats per label, whatever the batch size."""
        return weighted_count((batch["labels"] != IGNORED).sum(-1), batch)

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        """Return the loss of a batch of :class:`~sft_speech.tasks.asr.ctc.collator.CTCCollator`."""
        apart = {"labels", "frames", "seconds", WEIGHTS}
        features = {name: value for name, value in batch.items() if name not in apart}
        losses = weighted(utterance_losses(model, self.config, features, batch["frames"], batch["labels"]), batch)
        return LossOutput(losses.sum(), {"seconds": batch["seconds"]}, losses.detach())

    def report(self, sums: dict[str, float]) -> dict[str, float]:
        """Return no further figures."""
        return {}
