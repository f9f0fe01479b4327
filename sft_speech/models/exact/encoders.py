"""Padding that can't be heard: the logits of a clip don't depend on the clips beside it in the batch.

In plain transformers they do, in four places:

1. The group norm of the first convolution (``feat_extract_norm="group"``) takes its statistics over the padding too.
2. Convolutions over time inside the encoder see whatever the layers before them (a bias, a norm, the spread of the
   convolution before) put behind a clip's end, where a clip alone sees zeros: the positional stack of data2vec-audio,
   the depthwise convolutions of conformers, the strided adapters of wav2vec2 and wav2vec2-bert.
3. Batch norms in training mode mix the clips of a batch.
4. Without an attention mask, attention sees the padding. That one is the caller's: the mask is always to be given.

`make_padding_exact` mends the first three in a built model, once. It adds no parameter and no buffer, so the state dict
and the saved directory stay those of plain transformers; hooks and swapped classes live inside the module, so that
DDP, gradient checkpointing, autocast and deepcopy work as before.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sft_speech.models.exact.batch_norm import RunningBatchNorm
from sft_speech.models.exact.convolutions import use_matrix_products
from sft_speech.models.exact.lengths import ClipLengths, is_padded, silence_padding, use_own_frames

logger = logging.getLogger(__name__)

# Families whose logits were seen to be the same alone and in any batch (tests/asr/test_padding.py).
EXACT_FAMILIES = frozenset(
    {
        "wav2vec2",
        "hubert",
        "wavlm",
        "data2vec-audio",
        "wav2vec2-bert",
        "wav2vec2-conformer",
        "unispeech",
        "unispeech-sat",
    }
)


def make_padding_exact(model: PreTrainedModel) -> None:
    """Make the logits of a clip the same (to rounding) alone and in any batch.

    Call it once, on a model with a CTC head. The attention mask must then come with every batch, for group-norm
    checkpoints too.

    Args:
        model: a transformers CTC model; changed in place.
    """
    if model.config.model_type not in EXACT_FAMILIES:
        logger.warning(
            "%s isn't known to ignore padding: transcripts may change a little with the clips beside them in a batch",
            model.config.model_type,
        )
    base: Any = model.base_model
    lengths = ClipLengths()
    base.register_forward_pre_hook(lengths.read_input, with_kwargs=True)
    base.encoder.register_forward_pre_hook(lengths.read_frames, with_kwargs=True)
    if hasattr(base, "feature_extractor"):
        use_own_frames(base.feature_extractor.conv_layers[0], lengths)
        use_matrix_products(base.feature_extractor, lengths)
    for module in base.encoder.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = RunningBatchNorm
        elif is_padded(module):
            module.register_forward_pre_hook(partial(silence_padding, (), lengths))
    strided: tuple[nn.Conv1d, ...] = ()
    for layer in getattr(getattr(base, "adapter", None), "layers", []):
        convolutions = [module for module in layer.modules() if is_padded(module)]
        for convolution in convolutions:
            convolution.register_forward_pre_hook(partial(silence_padding, strided, lengths))
        strided = (
            *strided,
            convolutions[0],
        )  # those of a layer stand side by side and shorten alike
