"""Fine-tune a CTC model on transcribed speech.

accelerate launch scripts/finetune_asr.py --config configs/asr/FILE.yaml [--any_key value]
"""

from __future__ import annotations

from sft_speech.options.config import FinetuneAsrConfig
from sft_speech.options.settings import finetune_verb

add_arguments, main = finetune_verb(FinetuneAsrConfig, "sft_speech.tasks.asr.ctc.task")
