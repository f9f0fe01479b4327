"""Padding that can't be heard: what SpeechT5 predicts for a clip doesn't depend on the clips beside it in the batch.

In plain transformers it does. In the postnet:

1. Its convolutions over time see whatever the decoder predicts behind a clip's end, where a clip alone sees zeros.
2. Its batch norms, in training mode, take their statistics over all clips and over the padding.

And where recordings are heard (voice conversion):

3. The group norm of the first convolution takes its statistics over the padding too.
4. The positional convolution sees what the layers before it put behind a clip's end.

The attention masks are the caller's to give; the decoder is causal.

Legend: B batch, S samples, T frames.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel, SpeechT5ForSpeechToSpeech

from sft_speech.models.exact.batch_norm import RunningBatchNorm
from sft_speech.models.exact.lengths import ClipLengths, silence_padding, use_own_frames


class SpokenLengths(ClipLengths):
    """The clips' own mel frames in the forward pass under way.

    ``generate_speech`` calls the postnet outside a forward pass: nothing is padded there, and nothing may be left over.
    """

    def __init__(self, reduction_factor: int) -> None:
        super().__init__()
        self.reduction_factor = reduction_factor

    def read_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model: read the decoder's mask (B, T / reduction_factor)."""
        mask = kwargs.get("decoder_attention_mask")
        self.frames = None if mask is None else mask.sum(-1) * self.reduction_factor

    def forget(self, *_: Any) -> None:
        """After the model."""
        self.frames = None


class HeardLengths(ClipLengths):
    """The clips' own samples, and frames of the encoder, in the forward pass under way."""

    def read_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the encoder's prenet: read the mask (B, S)."""
        super().read_input(module, args, kwargs)
        frames_of: Any = module._get_feat_extract_output_lengths
        self.frames = None if self.inputs is None else frames_of(self.inputs)


def make_padding_exact(model: PreTrainedModel) -> None:
    """Make predictions for a clip the same (to rounding) alone and in any batch, in training mode too.

    The batch norms keep the statistics of their pretraining. The state dict and the saved directory stay those of
    plain transformers. ``decoder_attention_mask`` must come with every batch, as a keyword.

    Args:
        model: SpeechT5 with a speech decoder, its encoder for texts or for speech; changed in place, once.
    """
    spoken = SpokenLengths(model.config.reduction_factor)
    model.register_forward_pre_hook(spoken.read_decoder, with_kwargs=True)
    model.register_forward_hook(spoken.forget, always_call=True)
    postnet: Any = model.speech_decoder_postnet
    for module in postnet.modules():
        if isinstance(module, nn.Conv1d):
            module.register_forward_pre_hook(partial(silence_padding, (), spoken))
        elif type(module) is nn.BatchNorm1d:
            module.__class__ = RunningBatchNorm
    if hears(model):
        base: Any = model.base_model
        prenet = base.encoder.prenet
        heard = HeardLengths()
        prenet.register_forward_pre_hook(heard.read_input, with_kwargs=True)
        use_own_frames(prenet.feature_encoder.conv_layers[0], heard)
        prenet.pos_conv_embed.conv.register_forward_pre_hook(partial(silence_padding, (), heard))


def hears(model: PreTrainedModel) -> bool:
    """Whether a SpeechT5 is given recordings, rather than texts."""
    return isinstance(model, SpeechT5ForSpeechToSpeech)
