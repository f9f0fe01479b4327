"""Fine-tune a CTC model on transcribed speech.

accelerate launch scripts/finetune_asr.py --config configs/asr/FILE.yaml [--any_key value]
"""

from __future__ import annotations

import argparse

from sft_speech.config import FinetuneAsrConfig, add_config_arguments, config_from_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, FinetuneAsrConfig)


def main(args: argparse.Namespace) -> int:
    config = config_from_arguments(FinetuneAsrConfig, args)
    from sft_speech.asr.run import run  # only once the configuration is known to make sense

    return run(config)
