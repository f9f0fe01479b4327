"""Try a model out in the browser, or two side by side: microphone, files, texts.

The page shows what a recognizer writes (with times, confidence and subtitles) or the probabilities of a classifier's
labels, or it plays the speech of a synthesizer or voice converter. Only this machine can open it. To open it from
another one: ssh -L 7860:localhost:7860 THIS_MACHINE. It needs the extra demo-page.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading

from sft_speech.errors import UserError
from sft_speech.tasks.asr.languages import add_language_arguments
from sft_speech.tasks.speech.arguments import add_generator_arguments

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech demo``."""
    parser.add_argument("model", metavar="MODEL", help="directory of a fine-tuned model, or its id on the Hub")
    parser.add_argument("second", metavar="MODEL2", nargs="?", help="another one of the same task, to compare")
    parser.add_argument("--port", type=int, metavar="N", help="port of the page [the first free one from 7860 on]")
    help = "also open it to the internet for a week, through gradio's servers: everybody with the link can use it"
    parser.add_argument("--share", action="store_true", help=help)
    help = "longest recording that is computed [600]"
    parser.add_argument("--max_seconds", type=float, default=600.0, metavar="S", help=help)
    add_language_arguments(parser)
    add_generator_arguments(parser, speaker=True)


def main(args: argparse.Namespace) -> None:
    """Load the models, and serve the page until Ctrl-C.

    Raises:
        UserError: gradio is missing, a model cannot be used, or the port is taken.
    """
    if args.max_seconds <= 0:
        raise UserError(f"--max_seconds {args.max_seconds:g}", "no recording fits", "give a number above 0")
    if args.port is not None and not 0 < args.port < 65_536:
        raise UserError(f"--port {args.port}", "there is no such port", "give one from 1024 to 65535")
    from sft_speech.tools.demo.page import gradio, serving, temporary_folder

    gradio()  # before the models, which take longer to load
    from sft_speech.tools.demo.answers import load_models

    with temporary_folder() as folder:
        models = load_models([name for name in (args.model, args.second) if name is not None], args, folder)
        if args.share:
            logger.warning(
                "--share: gradio downloads and runs a program that opens a tunnel through its servers. For a week, or "
                "until you stop the page, everybody with the link can use the models on this machine, and recordings "
                "pass through those servers."
            )
        with serving(models, args.port, args.share) as address:
            print(address, flush=True)
            logger.info("open this address in a browser; Ctrl-C stops the page and removes what was uploaded")
            _wait()


def _wait() -> None:
    """Return after Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        logger.info("stopped")
