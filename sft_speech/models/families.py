"""Model families: one row for each supported ``model_type`` of transformers.

Code that depends on the family looks it up here; a new family takes one more row in `FAMILIES`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

# "waveform": of any length; "blocks": of whole blocks of samples; "log-mel": as many frames as the clip has, and so do
# "normalized log-mel" (over the clip), "unpadded log-mel" (no frame reaches past the clip's ends), "stacked log-mel"
# (with their deltas, in pairs) and "filter banks" (Kaldi's, normalized over the clip); "spectrogram" (AST) and
# "whisper": a fixed number of frames, to which the feature extractor pads or cuts; "extracted": what the checkpoint's
# extractor makes.
Input = Literal[
    "waveform", "blocks", "log-mel", "normalized log-mel", "unpadded log-mel", "stacked log-mel", "filter banks",
    "spectrogram", "whisper", "extracted",
]  # fmt: skip
Recognizer = Literal["ctc", "seq2seq", "tdt"]
# Parts of a model that let a clip see the padding or its neighbors, see `sft_speech.models.exact`.
Leak = Literal[
    "group norm", "convolutions", "batch norm", "adapter", "stem", "blocks", "subsampler", "postnet", "prenet"
]

Stack = Literal["encoder", "decoder"]
STACKS: tuple[tuple[Stack, str], ...] = (("encoder", "layers"), ("decoder", "decoder_layers"))


class Layer(NamedTuple):
    """A layer: which of its stack, counted from the input, and the name of its module."""

    stack: Stack
    number: int
    module: str


def unless_group_norm(config: PreTrainedConfig) -> bool:
    """Return False for models with a group norm, of which the published ones were trained without a mask."""
    return getattr(config, "feat_extract_norm", "layer") != "group"


def always(config: PreTrainedConfig) -> bool:
    return True


def never(config: PreTrainedConfig) -> bool:
    return False


def _wav2vec2_options(config: PreTrainedConfig) -> dict[str, Any]:
    return {"do_normalize": True, "return_attention_mask": unless_group_norm(config)}


def _bert_options(config: PreTrainedConfig) -> dict[str, Any]:
    return {"padding_value": 1.0}


def _mel_options(config: Any) -> dict[str, Any]:
    return {"feature_size": config.encoder_config.num_mel_bins}


def _granite_options(config: Any) -> dict[str, Any]:
    return {"num_mel_bins": config.encoder_config.num_mel_bins}


def _whisper_options(config: Any) -> dict[str, Any]:
    return {"feature_size": config.num_mel_bins, "chunk_length": config.max_source_positions // 50}  # 20 ms each


def _moonshine_options(config: PreTrainedConfig) -> dict[str, Any]:
    return {"do_normalize": False, "return_attention_mask": True}


def _speech2text_options(config: Any) -> dict[str, Any]:
    return {"feature_size": config.input_feat_per_channel, "num_mel_bins": config.input_feat_per_channel}


def _ast_options(config: Any) -> dict[str, Any]:
    return {"num_mel_bins": config.num_mel_bins, "max_length": config.max_length}


def _own_convolutions(config: Any) -> tuple[Sequence[int], Sequence[int]]:
    return config.conv_kernel, config.conv_stride


def _moonshine_convolutions(config: PreTrainedConfig) -> tuple[Sequence[int], Sequence[int]]:
    return (127, 7, 3), (64, 3, 2)


def _streaming_convolutions(config: Any) -> tuple[Sequence[int], Sequence[int]]:
    encoder = config.encoder_config
    block = round(encoder.sample_rate * encoder.frame_ms / 1000)
    return (block, 1, 1), (block, 2, 2)  # padded on the left by their width


@dataclass(frozen=True)
class Family:
    """Properties of the models of one ``model_type``.

    The head is whatever a model has outside its body.

    Attributes:
        model_type: as in ``config.json``.
        tasks: the tasks that its models are trained for: "asr", "classification", "pretraining", "tts", "vc".
        recognizer: how its recognizers write text: a label for each frame ("ctc"), token by token ("seq2seq"), or
            tokens with durations ("tdt").
        input: kind of the model's input.
        extractor: class of its feature extractor.
        extractor_options: returns the options to build it for a checkpoint that has none.
        processor: class of the processor that is saved with a recognizer.
        processor_options: further arguments of that class.
        subwords: whether its published checkpoints have a vocabulary of subwords rather than characters.
        head: names of the modules that have a row for each entry of the vocabulary.
        body: name of the pretrained part in models whose ``base_model`` it is not.
        feature_encoder: name, within the body, of the convolutions over the waveform.
        convolutions: returns the kernels and strides of the convolutions over the waveform.
        layers: pattern for the names of weights in the encoder's layers; its group is the number of the layer.
        decoder_layers: the same for the decoder's.
        lora_targets: pattern for the names of the linear layers that get LoRA by default: attention and feed-forward
            (QLoRA, arXiv 2305.14314, section 4, and "LoRA Without Regret", Thinking Machines 2025, find that all of
            them are needed to match full fine-tuning).
        without_lora: pattern for the names of linear layers that cannot have it, because the module around them reads
            their weights instead of calling them.
        trained_with_mask: whether plain transformers should give a model of this configuration an attention mask.
        spec_augment: what SpecAugment masks: "hidden" frames, as in wav2vec 2.0, or the log-mel "input"; None: nothing.
        settings: names in its configuration of options that have other names there.
        leaks: parts to replace so that a clip does not depend on padding.
        exact: whether nothing leaks after that, as tests verify.
    """

    model_type: str
    tasks: frozenset[str]
    recognizer: Recognizer = "ctc"
    input: Input = "waveform"
    extractor: str = "Wav2Vec2FeatureExtractor"
    extractor_options: Callable[[PreTrainedConfig], dict[str, Any]] = _wav2vec2_options
    processor: str = "Wav2Vec2Processor"
    processor_options: Mapping[str, Any] = field(default_factory=dict)
    subwords: bool = False
    head: tuple[str, ...] = ("lm_head",)
    body: str | None = None
    feature_encoder: str | None = "feature_extractor"
    convolutions: Callable[[PreTrainedConfig], tuple[Sequence[int], Sequence[int]]] = _own_convolutions
    layers: str = r"\bencoder\.layers\.(\d+)\."
    decoder_layers: str = r"\bdecoder\.layers\.(\d+)\."
    # not the small adapters of MMS
    lora_targets: str = r"(?:en|de)coder\.layers?\.\d+\.(?!adapter_layer\.)"
    without_lora: str = r"\btdnn\.\d+\.kernel$"
    trained_with_mask: Callable[[PreTrainedConfig], bool] = unless_group_norm
    spec_augment: Literal["hidden", "input"] | None = "hidden"
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    leaks: frozenset[Leak] = frozenset()
    exact: bool = True

    def body_name(self, model: PreTrainedModel) -> str:
        """Return the name of the pretrained part in a model; "" for a model that has no head."""
        if model.base_model is not model:
            return str(model.base_model_prefix)
        return self.body if self.body and hasattr(model, self.body) else ""

    def body_of(self, model: PreTrainedModel) -> Any:
        """Return the pretrained part of a model: the model itself if it has no head."""
        return model.get_submodule(self.body_name(model))

    def feature_encoder_of(self, model: PreTrainedModel) -> nn.Module | None:
        """Return the convolutions over the waveform; None for a model that has none."""
        if self.feature_encoder is None:
            return None
        return dict(self.body_of(model).named_modules()).get(self.feature_encoder)

    def layer_of(self, name: str) -> Layer | None:
        """Return the layer that a weight belongs to; None outside the layers."""
        for stack, pattern in STACKS:
            match = re.search(getattr(self, pattern), name)
            if match:
                return Layer(stack, int(match[1]), name[: match.end() - 1])
        return None

    def stack_of(self, name: str) -> Stack:
        """Return whether a weight of the body belongs to the encoder or to the decoder."""
        return "decoder" if "decoder" in name.split(".") else "encoder"


def _wav2vec2(model_type: str, *leaks: Leak, tasks: frozenset[str] = frozenset(), **others: Any) -> Family:
    """Return the row of an encoder built like wav2vec 2.0: for recognition and classification, and further tasks."""
    return Family(model_type, frozenset({"asr", "classification"}) | tasks, leaks=frozenset(leaks), **others)


_PRETRAINING = frozenset({"pretraining"})  # transformers has a self-supervised loss


def _conformer(model_type: str, **others: Any) -> Family:
    """Return the row of a conformer over log-mel frames that masks all padding itself, given the attention mask."""
    options: dict[str, Any] = {
        "extractor_options": _mel_options,
        "subwords": True,
        "head": ("ctc_head",),
        "body": "encoder",
        "feature_encoder": None,
        "trained_with_mask": always,
        "spec_augment": None,
        "leaks": frozenset({"batch norm"}),
    }
    return Family(model_type, frozenset({"asr"}), **options | others)


_MOONSHINE: dict[str, Any] = {
    "tasks": frozenset({"asr"}),
    "recognizer": "seq2seq",
    "extractor_options": _moonshine_options,
    "feature_encoder": None,
    "trained_with_mask": always,
    "spec_augment": None,
}

FAMILIES: dict[str, Family] = {
    row.model_type: row
    for row in (
        _wav2vec2("wav2vec2", "group norm", "convolutions", "adapter", tasks=_PRETRAINING),
        _wav2vec2("hubert", "group norm", "convolutions", "batch norm"),
        _wav2vec2(
            "wavlm",
            "group norm",
            "convolutions",
            "adapter",
            lora_targets=r"\bencoder\.layers\.\d+\.feed_forward\.",
            without_lora=r"\battention\.[qkv]_proj$|\battention\.out_proj$|\btdnn\.\d+\.kernel$",
        ),
        _wav2vec2("data2vec-audio", "convolutions", "adapter"),
        _wav2vec2("wav2vec2-conformer", "group norm", "convolutions", "batch norm", "adapter", tasks=_PRETRAINING),
        _wav2vec2("unispeech", "group norm", "convolutions"),
        _wav2vec2("unispeech-sat", "group norm", "convolutions"),
        # Pooling before and upsampling after the layers mix frames across the end of a clip.
        _wav2vec2("sew", "group norm", "convolutions", exact=False),
        _wav2vec2("sew-d", "group norm", "convolutions", exact=False, layers=r"\bencoder\.encoder\.layer\.(\d+)\."),
        _wav2vec2(
            "wav2vec2-bert",
            "adapter",
            input="log-mel",
            extractor="SeamlessM4TFeatureExtractor",
            extractor_options=_bert_options,
            processor="Wav2Vec2BertProcessor",
            feature_encoder=None,
            trained_with_mask=always,
        ),
        _conformer(
            "parakeet_ctc",
            input="normalized log-mel",
            extractor="ParakeetFeatureExtractor",
            processor="ParakeetProcessor",
            processor_options={"decoder_type": "ctc"},
        ),
        _conformer(
            "parakeet_tdt",
            recognizer="tdt",
            input="normalized log-mel",
            extractor="ParakeetFeatureExtractor",
            processor="ParakeetProcessor",
            processor_options={"decoder_type": "tdt"},
            head=("decoder.embedding", "joint.head"),
        ),
        _conformer(
            "lasr_ctc",
            input="unpadded log-mel",
            extractor="LasrFeatureExtractor",
            processor="LasrProcessor",
        ),
        _conformer(
            "granite_speech5_ctc",
            input="stacked log-mel",
            extractor="GraniteSpeech5FeatureExtractor",
            extractor_options=_granite_options,
            processor="GraniteSpeech5Processor",
            # The head is also the encoder's, whose middle layer's posteriors go back into it.
            head=("ctc_head", "encoder.out", "encoder.out_mid"),
        ),
        Family(
            "whisper",
            frozenset({"asr", "classification"}),
            recognizer="seq2seq",
            input="whisper",
            extractor="WhisperFeatureExtractor",
            extractor_options=_whisper_options,
            processor="WhisperProcessor",
            body="encoder",
            feature_encoder=None,
            trained_with_mask=never,
            spec_augment="input",
            settings={"hidden_dropout": ("dropout",), "layerdrop": ("encoder_layerdrop", "decoder_layerdrop")},
        ),
        Family("moonshine", convolutions=_moonshine_convolutions, leaks=frozenset({"stem"}), **_MOONSHINE),
        Family(
            "moonshine_streaming",
            input="blocks",
            convolutions=_streaming_convolutions,
            leaks=frozenset({"blocks"}),
            **_MOONSHINE | {"processor": "MoonshineStreamingProcessor"},
        ),
        Family(
            "speech_to_text",
            frozenset({"asr"}),
            recognizer="seq2seq",
            input="filter banks",
            extractor="Speech2TextFeatureExtractor",
            extractor_options=_speech2text_options,
            processor="Speech2TextProcessor",
            feature_encoder=None,
            trained_with_mask=always,
            spec_augment="input",
            settings={"hidden_dropout": ("dropout",), "layerdrop": ("encoder_layerdrop", "decoder_layerdrop")},
            leaks=frozenset({"subsampler"}),
        ),
        Family(
            "audio-spectrogram-transformer",
            frozenset({"classification"}),
            input="spectrogram",
            extractor="ASTFeatureExtractor",
            extractor_options=_ast_options,
            feature_encoder=None,
            layers=r"\baudio_spectrogram_transformer\.layers\.(\d+)\.",
            lora_targets=r"\baudio_spectrogram_transformer\.layers\.\d+\.",
            trained_with_mask=never,
            spec_augment=None,
        ),
        Family(
            "speecht5",
            frozenset({"tts", "vc"}),
            extractor="SpeechT5FeatureExtractor",
            processor="SpeechT5Processor",
            feature_encoder="encoder.prenet.feature_encoder",
            layers=r"\bencoder\.wrapped_encoder\.layers\.(\d+)\.",
            decoder_layers=r"\bdecoder\.wrapped_decoder\.layers\.(\d+)\.",
            trained_with_mask=always,
            spec_augment=None,
            leaks=frozenset({"postnet", "prenet"}),
        ),
    )
}


def family_of(config: PreTrainedConfig) -> Family:
    """Return the row of a configuration; for an unknown family, a default row, with a warning the first time."""
    known = FAMILIES.get(config.model_type)
    return known or _unknown(config.model_type, hasattr(config, "conv_kernel"))


@cache  # one warning
def _unknown(model_type: str, on_waveforms: bool) -> Family:
    logger.warning(
        "%s is not a known family: it is used as its Auto class loads it. Not guaranteed: results independent of the "
        "other clips in a batch, a frozen feature encoder, learning rates per layer",
        model_type or "a model without a model_type",
    )
    return Family(
        model_type,
        frozenset({"asr", "classification"}),
        input="waveform" if on_waveforms else "extracted",
        extractor="Wav2Vec2FeatureExtractor" if on_waveforms else "FeatureExtractionMixin",
        spec_augment="hidden" if on_waveforms else None,
        exact=False,
    )
