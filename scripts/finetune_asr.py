"""Fine-tune a CTC model: ``sft-speech finetune-asr`` as a file for ``accelerate launch``.

accelerate launch scripts/finetune_asr.py --config configs/asr/FILE.yaml [--any_key value]
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune-asr", *sys.argv[1:]]))
