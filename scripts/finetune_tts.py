"""Fine-tune a SpeechT5 for speech synthesis.

accelerate launch scripts/finetune_tts.py --config configs/tts/FILE.yaml [--any_key value]

The same as ``sft-speech finetune-tts``, as a file for ``accelerate launch``.
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune-tts", *sys.argv[1:]]))
