"""The description of voice conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sft_speech.options.spec import TaskSpec, Verb
from sft_speech.tasks.speech.spec import METRICS, speech_card
from sft_speech.tasks.vc.config import FinetuneVcConfig

if TYPE_CHECKING:
    from sft_speech.tasks.vc.task import Conversion


def build(config: FinetuneVcConfig) -> Conversion:
    """Return the task of a run."""
    from sft_speech.tasks.vc.task import Conversion

    return Conversion(config)


SPEC = TaskSpec(
    name="vc",
    summary="voice conversion",
    config=FinetuneVcConfig,
    build=build,
    metrics=METRICS,
    architectures=("ForSpeechToSpeech",),
    card=speech_card(
        tag="audio-to-audio",
        usage="""from sft_speech import VoiceConverter

VoiceConverter(NAME, vocoder="microsoft/speecht5_hifigan")("speech.flac").save("converted.wav")""",
    ),
    verbs={"convert": Verb("sft_speech.tasks.vc.convert", "convert recordings to another voice")},
)
