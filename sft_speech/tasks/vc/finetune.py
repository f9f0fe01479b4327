"""Fine-tune a SpeechT5 to say recordings again in another voice.

accelerate launch scripts/finetune_vc.py --config configs/vc/FILE.yaml [--any_key value]
"""

from __future__ import annotations

from sft_speech.options.config import FinetuneVcConfig
from sft_speech.options.settings import finetune_verb

add_arguments, main = finetune_verb(FinetuneVcConfig, "sft_speech.tasks.vc.task")
