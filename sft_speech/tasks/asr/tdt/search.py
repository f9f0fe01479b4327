"""The greedy search of a token-and-duration transducer.

`ParakeetForTDT.generate` looks for the next token among tokens and durations together (transformers 5.24), and fails
where a duration has the larger logit. A model that never goes on is stopped by the length of its batch there.

Legend: B batch, T frames, N steps, H hidden size, V entries of the vocabulary, D durations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Steps(NamedTuple):
    """The steps of a search: of a clip's own, and others after its end."""

    tokens: Tensor  # (B, N), blanks included
    durations: Tensor  # (B, N) frames by which each step goes on
    probabilities: Tensor  # (B, N) of the tokens, among all tokens and the blank


def greedy(model: Any, encoded: Tensor, frames: Tensor) -> Steps:
    """Return the steps of the best token and the best duration each.

    A blank goes on by at least one frame, and so does the last of ``max_symbols_per_step`` tokens at one frame.

    Args:
        model: a transducer.
        encoded: (B, T, H) projected output of its encoder.
        frames: (B,) frames of each clip.
    """
    config, rows = model.config, torch.arange(len(encoded), device=encoded.device)
    durations = torch.tensor(config.durations, device=encoded.device)
    tokens = torch.full_like(rows, config.blank_token_id)
    predicted, state = _predicted(model, tokens, None)
    at, stayed, steps = torch.zeros_like(rows), torch.zeros_like(rows), []
    while bool((at < frames).any()):
        logits = model.joint(predicted, encoded[rows, at.clamp(max=encoded.shape[1] - 1), None])[:, 0]
        own = logits[:, : config.vocab_size].float().softmax(-1)
        tokens = logits[:, : config.vocab_size].argmax(-1)
        moves = durations[logits[:, config.vocab_size :].argmax(-1)]
        blank = tokens == config.blank_token_id
        stayed = torch.where(moves > 0, 0, stayed + 1)
        moves = torch.where(blank | (stayed >= model.max_symbols_per_step), moves.clamp(min=1), moves)
        stayed = torch.where(moves > 0, 0, stayed)
        steps.append((tokens, moves, own.gather(-1, tokens[:, None])[:, 0]))
        at = at + moves
        following, after = _predicted(model, tokens, state)
        predicted = torch.where(blank[:, None, None], predicted, following)
        state = tuple(torch.where(blank[:, None], old, new) for old, new in zip(state, after, strict=True))
    return Steps(*(torch.stack(values, dim=1) for values in zip(*steps, strict=True)))


def _predicted(model: Any, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Return the prediction network's output (B, 1, H) after tokens (B,), and its state."""
    output, state = model.decoder.lstm(model.decoder.embedding(tokens[:, None]), state)
    return model.decoder.decoder_projector(output), state
