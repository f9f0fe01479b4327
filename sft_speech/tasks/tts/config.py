"""The options of fine-tuning for speech synthesis."""

from __future__ import annotations

import dataclasses

from sft_speech.options.settings import option
from sft_speech.tasks.speech.config import FinetuneSpeechConfig


@dataclasses.dataclass
class FinetuneTtsConfig(FinetuneSpeechConfig):
    """Options of fine-tuning SpeechT5 for text-to-speech."""

    new_characters: bool = option(False, "add letters of the transcripts that the tokenizer lacks, for a new language")
