"""Fine-tune a SpeechT5 to speak texts.

accelerate launch scripts/finetune_tts.py --config configs/tts/FILE.yaml [--any_key value]
"""

from __future__ import annotations

from sft_speech.options.config import FinetuneTtsConfig
from sft_speech.options.settings import finetune_verb

add_arguments, main = finetune_verb(FinetuneTtsConfig, "sft_speech.tasks.speech.task")
