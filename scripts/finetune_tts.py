"""Fine-tune a SpeechT5 to speak texts.

accelerate launch scripts/finetune_tts.py --config configs/tts/FILE.yaml [--any_key value]

The same as ``sft-speech finetune-tts``; a file of its own because ``accelerate launch`` takes one.
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune-tts", *sys.argv[1:]]))
