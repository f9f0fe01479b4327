"""Fine-tune a SpeechT5 for speech synthesis: ``sft-speech finetune-tts`` as a file for ``accelerate launch``.

accelerate launch scripts/finetune_tts.py --config configs/tts/FILE.yaml [--any_key value]
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune-tts", *sys.argv[1:]]))
