"""``python -m sft_speech VERB``, the same as ``sft-speech VERB``."""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main())
