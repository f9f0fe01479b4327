"""Processors of the logits of B clips, for ``generate``: each treats a clip as if it were alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor


class Suppressed(LogitsProcessor):
    """Never writes the tokens that a checkpoint's settings suppress.

    The processor of transformers searches the whole vocabulary for them in every step, a tenth of a small model's time.

    Args:
        given: tokens before the text.
        settings: those for generation: ``suppress_tokens``, and ``begin_suppress_tokens`` for the first of a text.
    """

    def __init__(self, given: int, settings: Any, device: torch.device) -> None:
        self.given = given
        self.always, self.first = (
            torch.tensor(getattr(settings, name, None) or [], dtype=torch.long, device=device)
            for name in ("suppress_tokens", "begin_suppress_tokens")
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.index_fill(1, self.always, -torch.inf)
        return scores.index_fill(1, self.first, -torch.inf) if input_ids.shape[1] == self.given else scores


class LengthBound(LogitsProcessor):
    """Ends the text of each clip at a number of tokens that speech of its length cannot exceed, which ends loops.

    Args:
        given: tokens before the text.
        bounds: (B,) most tokens of the text.
        end: the token that ends a text.
        beams: hypotheses of each clip.
    """

    def __init__(self, given: int, bounds: Tensor, end: int, beams: int = 1) -> None:
        self.given, self.bounds, self.end = given, bounds.repeat_interleave(beams), end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        over = input_ids.shape[1] - self.given >= self.bounds
        if over.any():
            scores = scores.masked_fill(over[:, None], -torch.inf)
            scores[over, self.end] = 0.0
        return scores


class Recorder(LogitsProcessor):
    """Records the log-probabilities of the tokens that are written, one hypothesis for each clip."""

    def __init__(self) -> None:
        self.before: list[Tensor] = []
        self.current: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._record(input_ids)
        self.current = scores.float().log_softmax(-1)
        return scores

    def _record(self, input_ids: Tensor) -> None:
        if self.current is not None:
            self.before.append(self.current.gather(1, input_ids[:, -1:]))

    def logprobs(self, sequences: Tensor) -> Tensor:
        """Return (B, N) log-probabilities of the N tokens at the end of the sequences, called once."""
        self._record(sequences)
        return torch.cat(self.before, 1)


class Sampling(LogitsProcessor):
    """Makes the best token a sample at a temperature, by noise (Gumbel 1954) that is the same for each clip.

    Sampling in ``generate`` draws for the whole batch: a clip's text would depend on its neighbors.
    """

    SEED = 0

    def __init__(self, temperature: float, device: torch.device) -> None:
        self.temperature = temperature
        self.generator = torch.Generator(device).manual_seed(self.SEED)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.empty(scores.shape[-1], device=scores.device).exponential_(generator=self.generator)
        return scores / self.temperature - noise.log()
