"""The description of speech synthesis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sft_speech.options.spec import TaskSpec, Verb
from sft_speech.tasks.speech.spec import METRICS, speech_card
from sft_speech.tasks.tts.config import FinetuneTtsConfig

if TYPE_CHECKING:
    from sft_speech.tasks.tts.task import Synthesis


def build(config: FinetuneTtsConfig) -> Synthesis:
    """Return the task of a run."""
    from sft_speech.tasks.tts.task import Synthesis

    return Synthesis(config)


SPEC = TaskSpec(
    name="tts",
    summary="speech synthesis",
    config=FinetuneTtsConfig,
    build=build,
    metrics=METRICS,
    architectures=("ForTextToSpeech",),
    card=speech_card(
        tag="text-to-speech",
        usage="""from sft_speech import Synthesizer

Synthesizer(NAME, vocoder="microsoft/speecht5_hifigan")("How do you do?").save("hello.wav")""",
    ),
    verbs={"synthesize": Verb("sft_speech.tasks.tts.synthesize", "synthesize speech")},
)
