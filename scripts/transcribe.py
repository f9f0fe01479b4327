"""Transcribe a large collection: ``sft-speech transcribe`` as a file for ``accelerate launch``.

accelerate launch scripts/transcribe.py MODEL AUDIO... -o FILE [--any_argument value]

The processes may run on several machines that share a disk.
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["transcribe", *sys.argv[1:]]))
