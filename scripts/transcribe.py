"""Transcribe a large collection in several processes, on one machine or on several that share a disk.

accelerate launch scripts/transcribe.py MODEL AUDIO... -o FILE [--any_argument value]

The same as ``sft-speech transcribe``, as a file for ``accelerate launch``.
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["transcribe", *sys.argv[1:]]))
