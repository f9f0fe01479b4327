"""Exact padding: the results of a clip do not depend on the other clips in its batch.

In plain transformers they do, in these places:

1. The group norm of the first convolution (``feat_extract_norm="group"``; Moonshine) takes its statistics over the
   padding too.
2. Convolutions over time inside the encoder see whatever the layers before them (a bias, a norm, the width of the
   convolution before) put past a clip's end, where a clip alone sees zeros: the positional stack of data2vec-audio,
   the depthwise convolutions of conformers, the strided adapters of wav2vec2 and wav2vec2-bert, the subsampler of
   Speech2Text.
3. Batch norms in training mode mix the clips of a batch.
4. Without an attention mask, attention sees the padding. The caller always has to pass the mask.
5. Moonshine counts frames at the end of a clip that see what follows it: see :mod:`sft_speech.models.exact.moonshine`.

`make_padding_exact` replaces the submodules concerned with ones that hold the same parameters under the same
names: the state dict and the saved directory stay those of plain transformers, and DDP, gradient checkpointing,
autocast and deepcopy work as before.

Conformers over log-mel frames (Parakeet, Lasr, Granite Speech) have only the third and the fourth: given the attention
mask, they set padding to zero before every convolution.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sft_speech.models.exact import moonshine
from sft_speech.models.exact.convolutions import with_matrix_products
from sft_speech.models.exact.lengths import ClipConv1d, ClipLengths, looks_ahead, replace
from sft_speech.models.exact.norms import use_own_frames, use_running_statistics
from sft_speech.models.families import FAMILIES, Leak, family_of

logger = logging.getLogger(__name__)


def make_padding_exact(model: PreTrainedModel) -> PreTrainedModel:
    """Make a clip's results the same (up to rounding) alone and in any batch, as far as the model's family allows.

    Call it once. The attention mask must then come with every batch, for group-norm checkpoints too.

    Args:
        model: an encoder with a head; changed in place.
    """
    family = family_of(model.config)
    if not family.exact and family.model_type in FAMILIES:
        logger.warning(
            "%s is not known to ignore padding: results may depend slightly on the other clips in a batch",
            family.model_type,
        )
    base = family.body_of(model)
    lengths = base.clip_lengths = ClipLengths()  # for callers that run parts of the model
    if family.leaks - {"batch norm"}:
        base.register_forward_pre_hook(lengths.read_input, with_kwargs=True)
        base.encoder.register_forward_pre_hook(lengths.read_frames, with_kwargs=True)
    for leak, close in CLOSED_BY.items():
        if leak in family.leaks:
            close(base, lengths)
    if (name := family.feature_encoder) and family.leaks:
        replace(base, name, with_matrix_products(base.get_submodule(name), lengths))
    return model


def _group_norm(base: Any, lengths: ClipLengths) -> None:
    use_own_frames(base.feature_extractor, lengths)


def _convolutions(base: Any, lengths: ClipLengths) -> None:
    for name, module in list(base.encoder.named_modules()):
        if looks_ahead(module):
            replace(base.encoder, name, ClipConv1d(module, lengths))


def _batch_norm(base: Any, lengths: ClipLengths) -> None:
    use_running_statistics(base)


def _adapter(base: Any, lengths: ClipLengths) -> None:
    strided: tuple[nn.Conv1d, ...] = ()
    for layer in getattr(getattr(base, "adapter", None), "layers", []):
        convolutions = {name: module for name, module in layer.named_modules() if looks_ahead(module)}
        for name, module in convolutions.items():
            replace(layer, name, ClipConv1d(module, lengths, strided))
        strided = (*strided, next(iter(convolutions.values())))  # a layer's convolutions are parallel and shorten alike


def _subsampler(base: Any, lengths: ClipLengths) -> None:
    """Close the strided convolutions of Speech2Text, over the frames that enter the encoder."""
    before: tuple[nn.Conv1d, ...] = ()
    for number, module in enumerate(list(base.encoder.conv.conv_layers)):
        replace(base.encoder.conv.conv_layers, str(number), ClipConv1d(module, lengths, before))
        before = (*before, module)


CLOSED_BY: dict[Leak, Callable[[Any, ClipLengths], None]] = {
    "group norm": _group_norm,
    "convolutions": _convolutions,
    "batch norm": _batch_norm,
    "adapter": _adapter,
    "stem": moonshine.close_stem,
    "blocks": moonshine.close_blocks,
    "subsampler": _subsampler,
}
