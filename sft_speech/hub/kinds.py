"""The kinds of models, and what a card says of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sft_speech.options.config import FinetuneAsrConfig, FinetuneConfig, FinetuneTtsConfig, FinetuneVcConfig


@dataclass(frozen=True)
class Metric:
    """A figure of evaluation/SPLIT.json; its 95 % interval stands there as ``NAME_interval``.

    Args:
        heading: of its column.
        scale: what it is multiplied by to be shown.
        indexed: whether the Hub shows it.
    """

    name: str
    heading: str
    scale: float = 1.0
    indexed: bool = False


@dataclass(frozen=True)
class Kind:
    """What a card says of a kind of model.

    Args:
        config: of its runs.
        task: in words.
        tag: the Hub's name of the task.
        about: further tags.
        usage: lines of Python; NAME is the model.
        metrics: those that an evaluation may have.
        curves: what of the log is drawn over the steps, and in which unit: name of the figure without ``eval_``.
        loss: what the training loss is counted in.
    """

    config: type[FinetuneConfig]
    task: str
    tag: str
    about: str
    usage: str
    metrics: tuple[Metric, ...]
    curves: tuple[str, ...]
    loss: str


RECOGNITION = Kind(
    config=FinetuneAsrConfig,
    task="speech recognition (CTC)",
    tag="automatic-speech-recognition",
    about="ctc",
    usage="""from transformers import pipeline

print(pipeline("automatic-speech-recognition", NAME)("speech.flac")["text"])""",
    metrics=(Metric("wer", "WER %", 100, indexed=True), Metric("cer", "CER %", 100, indexed=True)),
    curves=("wer", "cer"),
    loss="nats per label",
)
SPEECH = (
    Metric("loss", "loss"),
    Metric("mel_loss", "mel L1 (log10)"),
    Metric("speech_mcd", "mel cepstral distortion, dB"),
    Metric("copy_mcd", "that of copy synthesis, dB"),
    Metric("speech_speaker_similarity", "cosine to the speaker"),
    Metric("speech_cer", "CER % of the judge", 100),
)
SYNTHESIS = Kind(
    config=FinetuneTtsConfig,
    task="speech synthesis",
    tag="text-to-speech",
    about="speecht5",
    usage="""from sft_speech import Synthesizer

Synthesizer(NAME, vocoder="microsoft/speecht5_hifigan")("How do you do?").save("hello.wav")""",
    metrics=SPEECH,
    curves=("mel_loss", "attention_loss"),
    loss="per mel frame",
)
CONVERSION = Kind(
    config=FinetuneVcConfig,
    task="voice conversion",
    tag="audio-to-audio",
    about="speecht5",
    usage="""from sft_speech import Converter

Converter(NAME, vocoder="microsoft/speecht5_hifigan")("speech.flac").save("converted.wav")""",
    metrics=SPEECH,
    curves=SYNTHESIS.curves,
    loss="per mel frame",
)
BY_ARCHITECTURE = {"SpeechT5ForTextToSpeech": SYNTHESIS, "SpeechT5ForSpeechToSpeech": CONVERSION}


def kind_of(model: Path) -> Kind:
    """What the model in a directory does, by its config.json."""
    architectures = json.loads((model / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    return BY_ARCHITECTURE.get(architectures[0], RECOGNITION)
