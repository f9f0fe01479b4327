"""Fine-tune a SpeechT5 to speak texts.

accelerate launch scripts/finetune_tts.py --config configs/tts/FILE.yaml [--any_key value]
"""

from __future__ import annotations

import argparse

from sft_speech.config import FinetuneTtsConfig, add_config_arguments, config_from_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, FinetuneTtsConfig)


def main(args: argparse.Namespace) -> int:
    config = config_from_arguments(FinetuneTtsConfig, args)
    from sft_speech.tts.run import run  # only once the configuration is known to make sense

    return run(config)
