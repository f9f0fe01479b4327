"""Fine-tune a SpeechT5 for voice conversion: ``sft-speech finetune-vc`` as a file for ``accelerate launch``.

accelerate launch scripts/finetune_vc.py --config configs/vc/FILE.yaml [--any_key value]
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune-vc", *sys.argv[1:]]))
