"""Fine-tune a classifier: ``sft-speech finetune-classification`` as a file for ``accelerate launch``.

accelerate launch scripts/finetune_classification.py --config configs/classification/FILE.yaml [--any_key value]
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune-classification", *sys.argv[1:]]))
