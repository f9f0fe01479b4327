"""wav2vec 2.0 as it is pre-trained: targets and noise come with the batch, and only masked frames are quantized.

The weights, their names and the saved directory are those of plain transformers.

Legend: B batch, S samples, T frames, C channels of the convolutions, M masked frames, G groups of the codebook, V codes
of a group, D dimensions in which predictions and targets are compared.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sft_speech.models.families import family_of


class Pretraining:
    """The forward pass of pre-training, for a ``...ForPreTraining`` of transformers whose padding is exact.

    Attributes:
        feature_grad_mult: factor on the gradient of the convolutions.
    """

    config: Any
    quantizer: Any
    project_hid: Any
    project_q: Any
    dropout_features: Any
    feature_grad_mult: float = 1.0

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor,
        mask: Tensor,
        masked: Tensor,
        noise: Tensor | None = None,
        temperature: float = 1.0,
        only_distribution: bool = False,
    ) -> dict[str, Tensor]:
        """Predict the masked frames of a batch.

        Args:
            input_values, attention_mask: (B, S).
            mask: (B, T), True where masked.
            masked: (B, M) masked frames, padded with -1.
            noise: (B, M, G, V) Gumbel noise of the quantizer; None: the most probable codes are taken.
            temperature: of the Gumbel softmax.
            only_distribution: return only "distribution", and do not run the encoder.

        Returns:
            "predicted" and "quantized" (B, M, D); "codes" (B, M, G); "distribution" (G, V), the sum over masked frames
            of the probabilities of codes without noise; "squares" (), the sum over own frames of the mean square of the
            convolutions' output.
        """
        base = family_of(self.config).body_of(self)  # type: ignore[arg-type]
        base.clip_lengths.inputs = attention_mask.sum(-1)
        features = base.feature_extractor(input_values).transpose(1, 2)  # (B, T, C)
        if self.feature_grad_mult < 1:
            features = self.feature_grad_mult * features + (1 - self.feature_grad_mult) * features.detach()
        own = self._get_feature_vector_attention_mask(  # type: ignore[attr-defined]  # (B, T)
            features.shape[1], attention_mask, add_adapter=False
        ).bool()
        known, places = masked >= 0, masked.clamp(min=0).unsqueeze(-1)
        if only_distribution:
            normed = base.feature_projection.layer_norm(gathered(features, places))
            return {"distribution": self.distribution(self.code_logits(normed), known)}
        squares = (features.float().square().mean(-1) * own).sum()
        hidden, normed = base.feature_projection(features)
        mask = functional.pad(mask, (0, hidden.shape[1] - mask.shape[1]))
        hidden = torch.where(mask.unsqueeze(-1), base.masked_spec_embed.to(hidden.dtype), hidden)
        encoded = base.encoder(hidden, attention_mask=own).last_hidden_state
        logits = self.code_logits(self.dropout_features(gathered(normed, places)))
        codes, quantized = self.quantized(logits, noise, temperature)
        return {
            "predicted": self.project_hid(gathered(encoded, places)),
            "quantized": self.project_q(quantized),
            "codes": codes,
            "distribution": self.distribution(logits, known),
            "squares": squares,
        }

    def code_logits(self, features: Tensor) -> Tensor:
        """Return the logits (B, M, G, V) of codes from normalized features (B, M, C)."""
        logits = self.quantizer.weight_proj(features)
        return logits.float().unflatten(-1, (self.quantizer.num_groups, self.quantizer.num_vars))

    def distribution(self, logits: Tensor, known: Tensor) -> Tensor:
        """Return the sum (G, V) of the probabilities of codes over the frames that are ``known`` (B, M)."""
        return (logits.softmax(-1) * known[..., None, None]).sum((0, 1))

    def quantized(self, logits: Tensor, noise: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
        """Return codes (B, M, G) and their vectors (B, M, G x dimensions), with the straight-through gradient of the
        Gumbel softmax (Jang et al. 2016, arXiv:1611.01144) if there is noise.
        """
        soft = None if noise is None else ((logits + noise) / temperature).softmax(-1)
        codes = (logits if soft is None else soft).argmax(-1)
        chosen = functional.one_hot(codes, logits.shape[-1]).to(logits.dtype)
        if soft is not None:
            chosen = chosen - soft.detach() + soft
        codevectors = self.quantizer.codevectors.view(*logits.shape[-2:], -1)
        vectors = torch.einsum("bmgv,gvd->bmgd", chosen.to(codevectors.dtype), codevectors)
        return codes, vectors.flatten(2)


def gathered(frames: Tensor, places: Tensor) -> Tensor:
    """Return some frames (B, M, X) of all frames (B, T, X), by their places (B, M, 1)."""
    return frames.gather(1, places.expand(-1, -1, frames.shape[-1]))


@cache
def pretraining_class(plain: type) -> type:
    """Return a class of transformers with the forward pass of :class:`Pretraining`, saved under its own name."""
    return type(plain.__name__, (Pretraining, plain), {"__doc__": plain.__doc__})
