"""A Whisper whose encoder computes the seconds of each clip, and only a sketch of the silence after them.

Plain Whisper takes exactly 30 seconds: shorter clips are padded with silence, on which the encoder spends most of its
time. Limited to the clip's own positions it hardly works, because the model was trained with that silence. But steady
silence looks the same at every position, apart from the position's fixed sinusoid. So a few positions can stand for all
of it: dense right after the clip and then further and further apart. The logarithm of the number that each stands for
is added to its attention scores, in the encoder and from the decoder: to a softmax, one key with a bias of log(w) is
the same as w equal keys.

The results of a clip then hardly differ from those of plain use, and they do not depend on its neighbors in the batch.
`take_any_length` replaces submodules by ones that hold the same parameters under the same names, so that the saved
model is a plain Whisper. Without an attention mask it computes what a plain Whisper does.

Legend: B batch, F log-mel frames (100 a second), T positions of the encoder (50 a second), K positions that stand for
silence, L labels, H hidden size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperAttention, WhisperEncoder

SILENT_POSITIONS = 64


class Silence:
    """What the clips of the current forward pass see: their own positions, and those that stand for silence.

    A hook reads the attention mask, because it is an argument of the model: replacing the model would change the class
    that transformers saves and loads. The rest stays in place while the decoder generates token after token.

    Args:
        silent_positions: K; 0: the encoder ends with the clip.

    Attributes:
        mask: (B, F) for the next pass of the encoder; None: all of the input is encoded.
        bias: (B, T + K) added to the attention scores; None if there is nothing to add.
    """

    def __init__(self, silent_positions: int) -> None:
        self.silent_positions = silent_positions
        self.mask: Tensor | None = None
        self.bias: Tensor | None = None

    def read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the attention mask of the log-mel frames; a hook before the body of the model."""
        if kwargs.get("encoder_outputs") is None:
            self.mask = kwargs.get("attention_mask")

    def sampled(self, own: Tensor, all_positions: int) -> tuple[Tensor, Tensor]:
        """Sample the silence from position ``own`` (B,) to the last one.

        Returns:
            Positions (B, K), and how many positions (B, K) each stands for: 0 for some if there are fewer than K.
        """
        spread = torch.linspace(0, 1, self.silent_positions + 1, device=own.device)
        edges = own[:, None] + torch.expm1(spread * torch.log1p(all_positions - own)[:, None]).round().long()
        return (edges[:, :-1] + edges[:, 1:]) // 2, edges.diff()

    def attention(self, dtype: torch.dtype, rows: int) -> Tensor | None:
        """Return the bias as an additive mask (rows, 1, 1, T + K); rows is B times the beams of a clip."""
        if self.bias is None:
            return None
        added = self.bias.to(dtype).clamp(min=torch.finfo(dtype).min)[:, None, None]
        return added.repeat_interleave(rows // len(added), 0) if rows != len(added) else added


class AnyLengthEncoder(WhisperEncoder):
    """The encoder of a Whisper for clips of any length up to that of the model.

    Args:
        old: the encoder to replace, whose modules are taken over.
        silence: shared with the attention of the decoder.
    """

    def __init__(self, old: Any, silence: Silence) -> None:
        with torch.device("meta"):
            super().__init__(old.config)
        for name, module in old.named_children():
            setattr(self, name, module)
        self.silence = silence
        self.train(old.training)

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """Encode log-mel frames (B, mels, F).

        Args:
            attention_mask: (B, F) 1 for each clip's own frames. The last four of them, and the four after them, have to
                be silent. None: the one that the body of the model was given.

        Returns:
            The hidden states (B, T + K, H), of which a clip sees its own and those of silence; (B, F / 2, H) without a
            mask.
        """
        mask, self.silence.mask = self.silence.mask if attention_mask is None else attention_mask, None
        hidden = nn.functional.gelu(self.conv1(input_features))
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        places = self.embed_positions.weight
        if mask is None:
            self.silence.bias = None
            hidden = hidden + places
        else:
            hidden = self._with_silence(hidden, places, (mask.sum(-1) + 1) // 2)
        hidden = nn.functional.dropout(hidden, self.dropout, self.training)
        bias = self.silence.attention(hidden.dtype, len(hidden))
        for layer in self.layers:
            if self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop:
                continue
            hidden = layer(hidden, bias, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden))

    def _with_silence(self, hidden: Tensor, places: Tensor, own: Tensor) -> Tensor:
        """Return (B, T + K, H): the clips' frames (B, T, H) at their places, and the positions that stand for silence.

        Args:
            places: (positions of the model, H), the sinusoids.
            own: (B,) positions of each clip.
        """
        length = hidden.shape[1]
        steady = hidden[torch.arange(len(hidden), device=own.device), own.clamp(max=length - 1)]
        where, weights = self.silence.sampled(own, len(places))
        after = torch.arange(length, device=own.device) >= own[:, None]
        of_own = torch.zeros_like(after, dtype=torch.float32).masked_fill(after, -math.inf)
        self.silence.bias = torch.cat([of_own, weights.float().log()], 1)
        silent = steady[:, None] + places[where.clamp(max=len(places) - 1)]
        return torch.cat([hidden + places[:length], silent], 1)


class OwnAttention(WhisperAttention):
    """The attention of a decoder layer to what a clip sees of the encoder.

    Args:
        old: the attention to replace, whose modules are taken over.
        silence: shared with the encoder.
    """

    def __init__(self, old: Any, silence: Silence) -> None:
        with torch.device("meta"):
            super().__init__(
                old.embed_dim, old.num_heads, old.dropout, old.is_decoder, config=old.config, layer_idx=old.layer_idx
            )
        for name, module in old.named_children():
            setattr(self, name, module)
        self.silence = silence
        self.train(old.training)

    def forward(self, hidden_states: Tensor, key_value_states: Tensor, **kwargs: Any) -> Any:
        """Attend from (B, L, H) to the encoder's states (B, T, H)."""
        kwargs["attention_mask"] = self.silence.attention(hidden_states.dtype, len(hidden_states))
        return super().forward(hidden_states, key_value_states, **kwargs)


def take_any_length(model: PreTrainedModel, silent_positions: int = SILENT_POSITIONS) -> PreTrainedModel:
    """Make a Whisper take clips of any length, given the attention mask (B, F) of their log-mel frames.

    Args:
        silent_positions: positions that stand for the silence after a clip.
    """
    body: Any = model.base_model
    silence = Silence(silent_positions)
    body.register_forward_pre_hook(silence.read, with_kwargs=True)
    body.encoder = AnyLengthEncoder(body.encoder, silence)
    for layer in body.decoder.layers:
        layer.encoder_attn = OwnAttention(layer.encoder_attn, silence)
    return model
