"""Label a large collection: ``sft-speech pseudo-label`` as a file for ``accelerate launch``.

accelerate launch scripts/pseudo_label.py TEACHER --source SOURCE -o FILE.jsonl [--any_argument value]

The processes may run on several machines that share a disk.
"""

import sys

from sft_speech.cli import main

if __name__ == "__main__":
    sys.exit(main(["pseudo-label", *sys.argv[1:]]))
