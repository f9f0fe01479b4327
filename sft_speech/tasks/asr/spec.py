"""The description of speech recognition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sft_speech.options.spec import Card, Metric, TaskSpec, Verb
from sft_speech.tasks.asr.config import FinetuneAsrConfig

if TYPE_CHECKING:
    from sft_speech.training.task import Task


def build(config: FinetuneAsrConfig) -> Task[FinetuneAsrConfig]:
    """Return the task of a run, by the architecture of its checkpoint."""
    from sft_speech.tasks.asr import loading

    return loading.build(config)


SPEC = TaskSpec(
    name="asr",
    summary="speech recognition",
    config=FinetuneAsrConfig,
    build=build,
    metrics=(
        Metric("wer", "WER %", scale=100, indexed=True, curve=True),
        Metric("wer_as_written", "WER as written %", scale=100, curve=True),
        Metric("wer_plain", "WER padded to 30 s %", scale=100),
        Metric("cer", "CER %", scale=100, indexed=True, curve=True),
        Metric("loss", "loss"),
    ),
    architectures=(
        "ForCTC",
        "ForTDT",
        "WhisperForConditionalGeneration",
        "MoonshineForConditionalGeneration",
        "MoonshineStreamingForConditionalGeneration",
        "Speech2TextForConditionalGeneration",
    ),
    card=Card(
        tag="automatic-speech-recognition",
        about=(),
        usage="""from transformers import pipeline

print(pipeline("automatic-speech-recognition", NAME)("speech.flac")["text"])""",
        loss_unit="nats per label",
    ),
    verbs={
        "transcribe": Verb("sft_speech.tasks.asr.transcribe", "transcribe recordings of any length"),
        "pseudo-label": Verb(
            "sft_speech.tasks.asr.pseudo.verb", "transcribe recordings for a student to be trained on"
        ),
        "build-lm": Verb("sft_speech.tasks.asr.ctc.build_lm", "make a language model of texts"),
        "tune-lm": Verb("sft_speech.tasks.asr.ctc.tune_lm", "find the weights of a language model"),
    },
    evaluate="sft_speech.tasks.asr.evaluate",
)
