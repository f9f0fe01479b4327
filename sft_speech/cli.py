"""The ``sft-speech VERB`` command. The verbs come from the tables ``tasks.TASKS`` and ``tools.TOOLS``."""

from __future__ import annotations

import argparse
import atexit
import difflib
import errno
import gc
import logging
import os
import sys
from collections.abc import Sequence

from sft_speech.errors import RESUMABLE, PrintableFormatter, UserError, printable
from sft_speech.options.parser import Parser
from sft_speech.options.spec import Verb
from sft_speech.redact import print_exception, redact, redact_record
from sft_speech.tasks import specs
from sft_speech.tasks.finetune import FinetuneVerb
from sft_speech.tools import TOOLS

EXIT_CODES = f"""exit codes: 0 success; 2 unusable input; {RESUMABLE} a signal stopped fine-tuning, which can be resumed
with --resume_from_checkpoint auto; 1 any other error, or some recordings to transcribe or classify could not be read.
`accelerate launch` turns every code but 0 into 1."""


def verbs() -> dict[str, Verb | FinetuneVerb]:
    """Return all verbs by name: those of the tasks, then the tools."""
    found: dict[str, Verb | FinetuneVerb] = {}
    for spec in specs():
        found |= {spec.verb: FinetuneVerb(spec), **spec.verbs}
    return found | TOOLS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Return one of :data:`EXIT_CODES`."""
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: list[str]) -> int:
    verb, known = argv[0] if argv else "--help", verbs()
    if verb in ("-h", "--help"):
        width = max(map(len, known))
        print("usage: sft-speech VERB [...]\n\nFine-tune pretrained speech models.\n\nverbs:")
        print("\n".join(f"  {name:{width}}  {one.help}" for name, one in known.items()))
        print("\nsft-speech VERB --help lists the arguments of a verb; --debug shows the traceback of an error.")
        print(f"\n{EXIT_CODES}")
        return 0
    if verb == "--version":
        from importlib.metadata import version

        print(version("sft_speech"))
        return 0
    if verb not in known:
        near = difflib.get_close_matches(verb, known, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        given = printable(redact(repr(verb)))
        print(f"sft-speech: no verb {given}; {meant}`sft-speech --help` lists them", file=sys.stderr)
        return 2
    # On a CPU, torch's threads spin while they wait, which takes the cores from the workers that decode audio: training
    # took twice as long on two cores. Without spinning they wake too late for the next operation of a small model. So
    # they spin for some microseconds. torch reads this at its first import, which comes later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    logging.getLogger("sft_speech").setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(redact_record)
    if sys.excepthook is sys.__excepthook__:  # torch replaces it, to name the process that failed
        sys.excepthook = print_exception
    # The interpreter's last garbage collections would visit all that was imported: 2 s on a slow core.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    module = known[verb].load()
    parser = Parser(prog=f"sft-speech {verb}", description=module.__doc__, allow_abbrev=False)
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse(argv[1:], argparse.Namespace(argv=argv))
    try:
        return module.main(args) or 0
    except UserError as error:
        if args.debug:
            raise
        print(parser.in_flags(str(error)), file=sys.stderr)
        return 2
    except OSError as error:
        if args.debug or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"{error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
