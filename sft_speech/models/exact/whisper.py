"""A Whisper whose encoder takes clips of any length, each as if it were alone.

Plain Whisper takes exactly 30 seconds: shorter clips are padded with silence, on which the encoder spends most of its
time. The positions of its encoder are fixed sinusoids, so that it can as well take the first positions only. Here every
clip in a batch has its own number of positions; neither the convolutions nor the attention of the encoder and of the
decoder see what comes after them.

`take_any_length` replaces submodules by ones that hold the same parameters under the same names, so that the saved
model is a plain Whisper. Without an attention mask it computes what a plain Whisper does.

Legend: B batch, F log-mel frames (100 a second), T positions of the encoder (50 a second), L labels, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperAttention, WhisperEncoder


class OwnPositions:
    """The clips' own numbers of positions in the current forward pass.

    A hook reads them, because they are an argument of the model: replacing it would change the class that transformers
    saves and loads. They stay in place while the decoder generates token after token.

    Attributes:
        own: (B,) positions of each clip; None if all clips have all of them.
    """

    def __init__(self) -> None:
        self.own: Tensor | None = None

    def read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the attention mask of the log-mel frames; a hook before the body of the model."""
        if kwargs.get("encoder_outputs") is None:
            self.set(kwargs.get("attention_mask"))

    def set(self, mask: Tensor | None) -> None:
        """Set the positions of the clips from the mask (B, F) of their log-mel frames."""
        self.own = None if mask is None else (mask.sum(-1) + 1) // 2

    def hidden(self, length: int, per_position: int = 1) -> Tensor | None:
        """Return (B, length) True after each clip's own positions; None if there is nothing to hide.

        Args:
            length: positions, or log-mel frames, of the padded batch.
            per_position: log-mel frames per position.
        """
        if self.own is None:
            return None
        return torch.arange(length, device=self.own.device) >= self.own[:, None] * per_position

    def mask(self, states: Tensor, rows: int) -> Tensor | None:
        """Return an additive attention mask (rows, 1, 1, T) for keys (B, T, H); rows is B times the beams of a clip."""
        hidden = self.hidden(states.shape[1])
        if hidden is None:
            return None
        added = torch.zeros(hidden.shape, dtype=states.dtype, device=states.device)
        added = added.masked_fill(hidden, torch.finfo(states.dtype).min)[:, None, None]
        return added.repeat_interleave(rows // len(added), 0) if rows != len(added) else added


class AnyLengthEncoder(WhisperEncoder):
    """The encoder of a Whisper for clips of any length up to that of the model.

    Args:
        old: the encoder to replace, whose modules are taken over.
        positions: the clips' own positions.
    """

    def __init__(self, old: Any, positions: OwnPositions) -> None:
        with torch.device("meta"):
            super().__init__(old.config)
        for name, module in old.named_children():
            setattr(self, name, module)
        self.positions = positions
        self.train(old.training)

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """Encode log-mel frames (B, mels, F).

        Args:
            attention_mask: (B, F) 1 for each clip's own frames; None: as the body of the model was given it.

        Returns:
            The hidden states (B, T, H), T = F / 2; arbitrary after a clip's own positions.
        """
        if attention_mask is not None:
            self.positions.set(attention_mask)
        hidden = self._own(input_features, 2)
        hidden = self._own(nn.functional.gelu(self.conv1(hidden)), 2)
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        if hidden.shape[1] > self.max_source_positions:
            raise ValueError(f"{hidden.shape[1]} positions, the encoder has {self.max_source_positions}")
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        hidden = nn.functional.dropout(hidden, self.dropout, self.training)
        mask = self.positions.mask(hidden, len(hidden))
        for layer in self.layers:
            if self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop:
                continue
            hidden = layer(hidden, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden))

    def _own(self, hidden: Tensor, per_position: int) -> Tensor:
        """Return (B, C, F) with zeros after each clip's own frames, as convolutions see a clip alone."""
        after = self.positions.hidden(hidden.shape[-1], per_position)
        return hidden if after is None else hidden.masked_fill(after[:, None], 0)


class OwnAttention(WhisperAttention):
    """The attention of a decoder layer to each clip's own positions.

    Args:
        old: the attention to replace, whose modules are taken over.
        positions: the clips' own positions.
    """

    def __init__(self, old: Any, positions: OwnPositions) -> None:
        with torch.device("meta"):
            super().__init__(
                old.embed_dim, old.num_heads, old.dropout, old.is_decoder, config=old.config, layer_idx=old.layer_idx
            )
        for name, module in old.named_children():
            setattr(self, name, module)
        self.positions = positions
        self.train(old.training)

    def forward(self, hidden_states: Tensor, key_value_states: Tensor, **kwargs: Any) -> Any:
        """Attend from (B, L, H) to the encoder's states (B, T, H)."""
        kwargs["attention_mask"] = self.positions.mask(key_value_states, len(hidden_states))
        return super().forward(hidden_states, key_value_states, **kwargs)


def take_any_length(model: PreTrainedModel) -> PreTrainedModel:
    """Make a Whisper take clips of any length, given the attention mask (B, F) of their log-mel frames."""
    body: Any = model.base_model
    positions = OwnPositions()
    body.register_forward_pre_hook(positions.read, with_kwargs=True)
    body.encoder = AnyLengthEncoder(body.encoder, positions)
    for layer in body.decoder.layers:
        layer.encoder_attn = OwnAttention(layer.encoder_attn, positions)
    return model
