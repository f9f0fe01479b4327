"""Fine-tune a classifier.

accelerate launch scripts/finetune_classification.py --config configs/classification/FILE.yaml [--any_key value]

The same as ``sft-speech finetune-classification``; a file of its own because ``accelerate launch`` takes one.
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune-classification", *sys.argv[1:]]))
