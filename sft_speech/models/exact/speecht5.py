"""Exact padding in SpeechT5: predictions for a clip do not depend on the other clips in its batch.

In plain transformers they do. In the postnet:

1. Its convolutions over time see whatever the decoder predicts past a clip's end, where a clip alone sees zeros.
2. Its batch norms, in training mode, take their statistics over all clips and over the padding.

And in the prenet of voice conversion, which encodes recordings:

3. The group norm of the first convolution takes its statistics over the padding too.
4. The positional convolution sees what the layers before it put past a clip's end.

The caller has to pass the attention masks; the decoder is causal.

Legend: B batch, S samples, T frames.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel, SpeechT5ForSpeechToSpeech

from sft_speech.models.exact.lengths import ClipConv1d, ClipLengths, replace
from sft_speech.models.exact.norms import use_own_frames, use_running_statistics


class DecoderLengths(ClipLengths):
    """The clips' own mel frames in the current forward pass.

    ``generate_speech`` calls the postnet outside a forward pass: nothing is padded there, so no lengths may remain.
    """

    def __init__(self, reduction_factor: int) -> None:
        super().__init__()
        self.reduction_factor = reduction_factor

    def read_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the decoder's mask (B, T / reduction_factor); a hook before the model."""
        mask = kwargs.get("decoder_attention_mask")
        self.frames = None if mask is None else mask.sum(-1) * self.reduction_factor

    def forget(self, *_: Any) -> None:
        """Forget the lengths; a hook after the model."""
        self.frames = None


class EncoderLengths(ClipLengths):
    """The clips' own samples and encoder frames in the current forward pass."""

    def read_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the mask (B, S); a hook before the encoder's prenet."""
        super().read_input(module, args, kwargs)
        frames_of: Any = module._get_feat_extract_output_lengths
        self.frames = None if self.inputs is None else frames_of(self.inputs)


def make_padding_exact(model: PreTrainedModel) -> PreTrainedModel:
    """Make the predictions for a clip the same (up to rounding) alone and in any batch, in training mode too.

    The batch norms keep the statistics of their pretraining. The state dict and the saved directory stay those of
    plain transformers. ``decoder_attention_mask`` must come with every batch, as a keyword.

    Args:
        model: SpeechT5 with a speech decoder, and an encoder of texts or of speech; changed in place. Call it once.
    """
    decoded = DecoderLengths(model.config.reduction_factor)
    model.register_forward_pre_hook(decoded.read_decoder, with_kwargs=True)
    model.register_forward_hook(decoded.forget, always_call=True)
    postnet: Any = model.speech_decoder_postnet
    for name, module in list(postnet.named_modules()):
        if isinstance(module, nn.Conv1d):
            replace(postnet, name, ClipConv1d(module, decoded))
    use_running_statistics(postnet)
    if takes_speech(model):
        base: Any = model.base_model
        prenet = base.encoder.prenet
        encoded = EncoderLengths()
        prenet.register_forward_pre_hook(encoded.read_input, with_kwargs=True)
        use_own_frames(prenet.feature_encoder, encoded)
        replace(prenet, "pos_conv_embed.conv", ClipConv1d(prenet.pos_conv_embed.conv, encoded))
    return model


def takes_speech(model: PreTrainedModel) -> bool:
    """Return whether a SpeechT5 takes recordings rather than texts."""
    return isinstance(model, SpeechT5ForSpeechToSpeech)
