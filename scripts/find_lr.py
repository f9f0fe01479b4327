"""Find the learning rate of a run: ``sft-speech find-lr`` as a file for ``accelerate launch``.

accelerate launch scripts/find_lr.py --config configs/asr/FILE.yaml [--any_key value]
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["find-lr", *sys.argv[1:]]))
