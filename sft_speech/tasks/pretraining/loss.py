"""The loss of wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477, section 3.2), exact under any split of the batch.

Legend: B batch, M masked frames, K negatives, G groups of the codebook, V codes of a group, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sft_speech.training.loss import LossOutput


def contrastive(
    predicted: Tensor, quantized: Tensor, codes: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the prediction of every masked frame with its target and with those of its negatives.

    A negative with the codes of the target cannot be told from it and does not count, as in fairseq and transformers.

    Args:
        predicted, quantized: (B, M, D).
        codes: (B, M, G).
        negatives: (B, M, K) places among the M frames.
        temperature: divides the cosines.

    Returns:
        Losses in nats (B, M); whether the target is the closest (B, M); the number of negatives that do not count (B,
        M).
    """
    with torch.autocast(predicted.device.type, enabled=False):
        left, right = (functional.normalize(one.float(), dim=-1) for one in (predicted, quantized))
        cosines = left @ right.transpose(1, 2) / temperature  # (B, M, M)
        positive = cosines.diagonal(dim1=1, dim2=2)
        same = (gathered_codes(codes, negatives) == codes.unsqueeze(2)).all(-1)  # (B, M, K)
        others = cosines.gather(2, negatives).masked_fill(same, -torch.inf)
        losses = torch.cat([positive.unsqueeze(-1), others], -1).logsumexp(-1) - positive
    return losses, positive > others.amax(-1), same.sum(-1)


def gathered_codes(codes: Tensor, negatives: Tensor) -> Tensor:
    """Return the codes (B, M, K, G) of negatives (B, M, K)."""
    places = negatives.flatten(1).unsqueeze(-1).expand(-1, -1, codes.shape[-1])
    return codes.gather(1, places).unflatten(1, negatives.shape[1:])


def perplexities(distribution: Tensor) -> Tensor:
    """Return the perplexity (G,) of sums of probabilities (G, V); 1 if only one code is used."""
    shares = distribution / distribution.sum(-1, keepdim=True).clamp(min=1e-9)
    return torch.special.entr(shares).sum(-1).exp()


def diversity(distribution: Tensor) -> Tensor:
    """Return the diversity loss of sums of probabilities (G, V): 0 if all codes are used alike, below 1.

    It is that of fairseq and transformers: the share of the G x V codes by which the perplexities of the mean
    distribution fall short. The paper writes minus the entropy instead; both are smallest at the uniform distribution.
    """
    return 1 - perplexities(distribution).sum() / distribution.numel()


def diversity_slope(distribution: Tensor) -> Tensor:
    """Return the derivative (G, V) of the diversity loss with respect to the mean probabilities, up to a constant for
    each group, which does not matter because probabilities sum to one.
    """
    shares = distribution / distribution.sum(-1, keepdim=True).clamp(min=1e-9)
    logs = shares.clamp(min=torch.finfo(shares.dtype).tiny).log()
    return perplexities(distribution).unsqueeze(-1) * logs / distribution.numel()


@dataclass(frozen=True)
class Step:
    """Sums over all batches of an optimizer step, on all processes.

    Args:
        masked: masked frames.
        frames: frames.
        distribution: (G, V) sums of the probabilities of codes.
    """

    masked: Tensor
    frames: Tensor
    distribution: Tensor


class PretrainingCriterion:
    """Contrastive loss, diversity loss and penalty of features, in nats per masked frame of a step.

    The diversity loss is a function of the distribution of codes over the whole step, so it is no sum over utterances.
    Its gradient is: the distribution is found before the first batch, and every batch then adds the part of its own
    frames. This runs the convolutions once more if a step has several batches or processes.

    Args:
        temperature: divides the cosines.
        diversity_weight: weight of the diversity loss.
        feature_penalty: weight of the mean square of the convolutions' output.

    Attributes:
        gumbel_temperature: temperature of the quantizer, which falls during a run.
    """

    def __init__(self, temperature: float, diversity_weight: float, feature_penalty: float) -> None:
        self.temperature, self.diversity_weight, self.feature_penalty = temperature, diversity_weight, feature_penalty
        self.gumbel_temperature = 2.0
        self.step: Step | None = None  # None: the batch is all of the step

    def count(self, batch: dict[str, Any]) -> int:
        """Return the number of masked frames."""
        return int((batch["masked"] >= 0).sum())

    @torch.no_grad()
    def begin_step(
        self,
        model: torch.nn.Module,
        batches: list[dict[str, Any]],
        device: torch.device,
        summed: Callable[[Tensor], Tensor] | None,
    ) -> None:
        """Find the sums over the batches of a step.

        Args:
            model: the model in training.
            batches: those of this process, on the CPU.
            summed: sums a tensor over all processes; None if there is only this one.
        """
        self.step = None
        if summed is None and len(batches) == 1:
            return
        found = 0
        for batch in batches:
            inputs = {name: batch[name].to(device, non_blocking=True) for name in INPUTS}
            found = found + model(**inputs, only_distribution=True)["distribution"]
        counts = [sum(self.count(batch) for batch in batches), sum(int(batch["frames"].sum()) for batch in batches)]
        sums = torch.cat([torch.tensor(counts, device=device).double(), torch.as_tensor(found).double().flatten()])
        sums = sums if summed is None else summed(sums)
        self.step = Step(sums[0], sums[1], sums[2:].view_as(torch.as_tensor(found)).float())

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> LossOutput:
        """Return the loss of a batch of :class:`~sft_speech.tasks.pretraining.targets.PretrainingCollator`."""
        noise = {"noise": batch.get("noise"), "temperature": self.gumbel_temperature}
        found = model(**{name: batch[name] for name in INPUTS}, **noise)
        known = batch["masked"] >= 0
        losses, right, same = contrastive(
            found["predicted"], found["quantized"], found["codes"], batch["negatives"], self.temperature
        )
        each = (losses * known).sum(-1)
        own, count, frames = found["distribution"], known.sum(), batch["frames"].sum()
        step = self.step or Step(count, frames, own.detach())
        # Its value is this batch's share of the step's loss; its gradient is that of the step's loss.
        slope = (diversity_slope(step.distribution) * (own - own.detach())).sum()
        spread = self.diversity_weight * (diversity(step.distribution) * count + slope)
        penalty = self.feature_penalty * found["squares"] * step.masked / step.frames
        with torch.no_grad():
            figures = {
                "contrastive": each.sum(),
                "correct": (right & known).sum(),
                "same": (same * known).sum() / batch["negatives"].shape[-1],
                "masked": count,
                "squares": found["squares"].detach(),
                "frames": frames,
                "distribution": own.detach(),
                "codes": code_counts(found["codes"], known, own.shape[-1]),
                "seconds": batch["seconds"],
            }
        return LossOutput(each.sum() + spread + penalty, figures)

    def report(self, sums: dict[str, Any]) -> dict[str, float]:
        """Return the parts of the loss, accuracy, and the perplexity of the codes that were used and of their mean
        distribution, summed over the groups; ``same_negatives`` is the share of negatives with the codes of the target.
        """
        masked, frames = max(sums["masked"], 1), max(sums["frames"], 1)
        codes, distribution = torch.tensor(sums["codes"]), torch.tensor(sums["distribution"])
        return {
            "contrastive_loss": sums["contrastive"] / masked,
            "diversity_loss": float(diversity(distribution)),
            "feature_square": sums["squares"] / frames,
            "accuracy": sums["correct"] / masked,
            "same_negatives": sums["same"] / masked,
            "code_perplexity": float(perplexities(codes).sum()),
            "prob_perplexity": float(perplexities(distribution).sum()),
            "gumbel_temperature": self.gumbel_temperature,
        }


INPUTS = ("input_values", "attention_mask", "mask", "masked")


def code_counts(codes: Tensor, known: Tensor, size: int) -> Tensor:
    """Return how often each code (G, V) was used in the frames that are ``known`` (B, M), from codes (B, M, G)."""
    chosen = codes[known]  # (N, G)
    counts = torch.zeros((codes.shape[-1], size), dtype=torch.double, device=codes.device)
    return counts.scatter_add_(1, chosen.T, torch.ones_like(chosen.T, dtype=torch.double))
