"""Pre-train a model on speech without transcripts: ``sft-speech pretrain`` as a file for ``accelerate launch``.

accelerate launch scripts/pretrain.py --config configs/pretraining/FILE.yaml [--any_key value]
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
