"""Fine-tune a SpeechT5 to say recordings again in another voice.

accelerate launch scripts/finetune_vc.py --config configs/vc/FILE.yaml [--any_key value]

The same as ``sft-speech finetune-vc``; a file of its own because ``accelerate launch`` takes one.
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune-vc", *sys.argv[1:]]))
