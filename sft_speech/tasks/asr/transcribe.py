"""Transcribe recordings of any length: files, or folders of them.

text: the transcript (after its path and a tab, where there are several recordings). jsonl: one object per recording.
srt, vtt: subtitles; for several recordings -o is a folder. What several recordings gave is not overwritten. While it
is unfinished it lies in FILE.parts, and --resume goes on where it was, with any number of processes.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sft_speech.errors import UserError, printable
from sft_speech.files import write_whole
from sft_speech.inference import shards
from sft_speech.inference.processes import Process, end_with_parent, launch
from sft_speech.inference.shards import Shards
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import add_pickle_argument
from sft_speech.tasks.asr.ctc.decoding import add_decoding_arguments, decoding_of

if TYPE_CHECKING:
    from sft_speech.tasks.asr.transcriber import Span, Transcriber, Transcription

logger = logging.getLogger(__name__)

# Arguments that don't change what is written: a run may be gone on with under others. Its recordings and the files of
# its model are compared for themselves.
_FREE = frozenset(
    "allow_pickle argv audio debug device files_from max_batch_seconds num_processes output resume".split()
)
_GO_ON = "the same command with --resume goes on where it was"
# File names may hold bytes that are no UTF-8: a line of text has them as they are, JSON in a way that it can be read.
_UNENCODABLE = {"text": "surrogateescape", "jsonl": "backslashreplace", "srt": "strict", "vtt": "strict"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech transcribe``."""
    parser.add_argument("model", metavar="MODEL", help="directory of a fine-tuned model, or its id on the Hub")
    parser.add_argument("audio", metavar="AUDIO", nargs="*", help="audio files, or folders of them")
    parser.add_argument("--files_from", metavar="LIST", help="more audio files: a path per line; - is stdin")
    parser.add_argument("--format", choices=("text", "jsonl", "srt", "vtt"), default="text", help="[text]")
    parser.add_argument(
        "--timestamps", choices=("word", "char"), help="jsonl: times of words or characters; srt, vtt: a cue for each"
    )
    add_output_argument(parser, "file, or directory for the subtitles of several [stdout]", metavar="FILE")
    parser.add_argument("--max_batch_seconds", type=float, metavar="S", help="padded audio per batch [by device]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_pickle_argument(parser)
    add_decoding_arguments(parser)
    parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="each on a GPU of its own [1]")
    parser.add_argument("--resume", action="store_true", help="go on where an unfinished run was, if there is one")


def main(args: argparse.Namespace) -> int | None:
    """Transcribes in the order given, writing each transcript as soon as those before it are there."""
    if args.timestamps and args.format == "text":
        raise UserError("--timestamps with --format text", "plain text has no times", "add --format jsonl, srt or vtt")
    process = Process.this()
    if args.num_processes < 1 or (args.num_processes > 1 and process.world > 1):
        why = "give 1 or more" if args.num_processes < 1 else "leave it out: the launcher has it already"
        raise UserError(f"--num_processes {args.num_processes}", f"this is one of {process.world}", why)
    decoding_of(args)  # what can't work is said before anything begins
    if process.world > 1:
        end_with_parent()
    from sft_speech.tasks.asr.transcriber import find_audio

    listed = _listed(args.files_from, process)
    files = find_audio(args.audio) + listed
    if not files:
        raise UserError("no AUDIO", "there is nothing to transcribe", "give files, folders or --files_from LIST")
    several = len(files) > 1 or bool(listed) or Path(args.audio[0]).is_dir()
    if several and args.format in ("srt", "vtt"):
        return _to_folder(args, files, listed, process)
    if several and args.output not in (None, "-") and (not Path(args.output).exists() or Path(args.output).is_file()):
        return _to_parts(args, files, listed, process)
    if args.num_processes > 1 or process.world > 1:
        raise UserError("several processes", "they want several recordings, and one place to write to", "give -o FILE")
    _to_stream(args, files, several)
    return None


def _listed(given: str | None, process: Process) -> list[Path]:
    """The files of a list. None of them is looked for yet: those that are missing are like those that can't be read."""
    if given is None:
        return []
    if given == "-" and process.world > 1:
        raise UserError("--files_from -", "several processes can't read it", "give a file, or --num_processes")
    try:
        lines = (sys.stdin.buffer.read() if given == "-" else Path(given).read_bytes()).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"--files_from {given}", f"it can't be read ({error.strerror})", "give a text file") from error
    return [Path(os.fsdecode(line)) for line in lines.splitlines() if line]


def _transcriber(args: argparse.Namespace, process: Process) -> Transcriber:
    from sft_speech.tasks.asr.transcriber import Transcriber

    return Transcriber(
        args.model,
        device=process.device(args.device),
        max_batch_seconds=args.max_batch_seconds,
        decoding=decoding_of(args),
        allow_pickle=args.allow_pickle,
    )


def _to_stream(args: argparse.Namespace, files: Sequence[Path], several: bool) -> None:
    """One recording into a file, any number of them to wherever lines can go."""
    with contextlib.ExitStack() as stack:
        transcriber = _transcriber(args, Process())
        stream = stack.enter_context(_output_stream(args.output, args.format))
        bar = stack.enter_context(_progress_bar(shown=not stream.isatty()))
        heard = 0
        for transcription in transcriber.stream(files, progress=bar.update):
            heard += not transcription.failed
            if transcription.failed and args.format != "jsonl":
                continue  # an empty transcript would read as silence; the warning has told
            text = _formatted(transcription, args.format, args.timestamps, several)
            stream.write(printable(text, lines=True) if stream.isatty() else text)
            stream.flush()
    _report(heard, len(files))


def _to_folder(args: argparse.Namespace, files: Sequence[Path], listed: Sequence[Path], process: Process) -> int | None:
    """Subtitles of several recordings, each a file of its own; what is there already is kept."""
    folder = _output_folder(args.output)
    paths = [folder / name for name in _subtitle_names(files, args.audio, args.format)]
    if not args.resume and process.world == 1 and (there := [path for path in paths if path.exists()]):
        do = "keep what is there with --resume, or take another folder"
        raise UserError(f"-o {folder}", f"{there[0].name} is there already", do)
    if args.num_processes > 1:
        if not _launch(args, listed):
            logger.error("%s is unfinished: %s", folder, _GO_ON)
            return 1
        return None
    missing = [n for n in range(process.rank, len(files), process.world) if not paths[n].exists()]
    heard = 0
    with _progress_bar(shown=process.main) as bar:
        spoken = _transcriber(args, process).stream((files[n] for n in missing), progress=bar.update) if missing else ()
        for number, transcription in zip(missing, spoken, strict=True):
            if not transcription.failed:
                heard += 1
                _write(paths[number], _formatted(transcription, args.format, args.timestamps, several=True))
    if missing:
        _report(heard, len(missing))
    return None


def _to_parts(args: argparse.Namespace, files: Sequence[Path], listed: Sequence[Path], process: Process) -> int | None:
    """Transcripts of several recordings into one file, by way of parts: see :mod:`sft_speech.inference.shards`."""
    output = Path(args.output)
    run = _begun(args, files, process)
    if run is None:
        _check_finished(output, len(files), args.format)
        return None
    if args.num_processes > 1:
        well = _launch(args, listed)
        return (0 if well else 1) if output.exists() else _unfinished(run)
    try:
        missing = run.missing(process.rank, process.world)
        with _progress_bar(shown=process.main) as bar:
            blocks = (files[first:stop] for first, stop in missing)
            pools = _transcriber(args, process).pools(blocks, progress=bar.update) if missing else iter(())
            for first, stop in missing:
                while first < stop:
                    pool = next(pools)
                    run.write(first, [_line(transcription, args) for transcription in pool])
                    first += len(pool)
        heard = run.merge(_failed if args.format == "jsonl" else lambda line: line == b"\n")
    except BaseException as error:
        if isinstance(error, FileNotFoundError) and output.exists():
            return None  # another process has put the parts together meanwhile
        if process.world == 1:
            _unfinished(run)
        raise
    if heard is not None:
        _report(heard, len(files))
    return None


def _begun(args: argparse.Namespace, files: Sequence[Path], process: Process) -> Shards | None:
    """The run that this process works on; None where it is finished."""
    output = Path(args.output)
    settings = {name: value for name, value in vars(args).items() if name not in _FREE}
    settings["files of the model"] = shards.weights(args.model)
    settings["recordings"] = shards.fingerprint(list(map(str, files)))
    if not process.main:
        return shards.join(output, settings)
    try:
        world = max(process.world, args.num_processes)
        return shards.begin(output, settings, len(files), world, args.resume)
    except OSError as error:
        raise _unwritable(output, error) from error


def _check_finished(output: Path, recordings: int, format: str) -> None:
    """See that a finished file, which is all that is left of its run, can be that of these recordings."""
    with open(output, "rb") as file:
        lines = sum(1 for _ in file)
    if lines > recordings or (format == "jsonl" and lines < recordings):
        why = f"{output} holds {lines} transcripts, {recordings} recordings are given"
        raise UserError("--resume", why, "take another -o, or remove it to transcribe all of them anew")
    logger.info("%s is there already: nothing is left to do", output)


def _launch(args: argparse.Namespace, listed: Sequence[Path]) -> bool:
    """The same command in several processes, that go on with what was begun; whether all of them ended well."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as names:
        again = ["--num_processes", "1", "--resume"]  # of an argument given twice, the second holds
        if args.files_from == "-":
            names.writelines(os.fsencode(path) + b"\n" for path in listed)
            names.flush()
            again += ["--files_from", names.name]
        end = args.argv.index("--") if "--" in args.argv else len(args.argv)
        return launch([*args.argv[:end], *again, *args.argv[end:]], args.num_processes)


def _unfinished(run: Shards) -> int:
    """Says how to go on, where there is anything to go on with."""
    if run.empty:
        run.discard()
        logger.error("nothing was transcribed: see the messages above")
    else:
        logger.error("%s is unfinished: %s", run.output, _GO_ON)
    return 1


def _report(heard: int, recordings: int) -> None:
    if not heard:
        raise UserError(f"{recordings} recordings", "nothing of it could be transcribed", "see the messages above")
    if heard < recordings:
        logger.warning("%d of %d recordings could not be transcribed", recordings - heard, recordings)


def _line(transcription: Transcription, args: argparse.Namespace) -> bytes:
    """A line of its own for each recording, a bare one where there is nothing to write."""
    if transcription.failed and args.format != "jsonl":
        return b"\n"  # an empty transcript would read as silence; the warning has told
    text = _formatted(transcription, args.format, args.timestamps, several=True)
    return text.encode("utf-8", _UNENCODABLE[args.format])


def _failed(line: bytes) -> bool:
    """Whether a line of JSONL is that of a recording of which nothing could be heard."""
    return b'"error": ' in line and not json.loads(line)["seconds"]


def _formatted(transcription: Transcription, format: str, timestamps: str | None, several: bool) -> str:
    """What is written of one recording."""
    from sft_speech.tasks.asr.subtitles import cues, single_cues, srt, vtt

    if format == "jsonl":
        return json.dumps(as_row(transcription, timestamps), ensure_ascii=False) + "\n"
    if format == "text":
        name = transcription.audio.replace("\n", "\\n")  # a recording is a line, whatever its name
        return f"{name}\t{transcription.text}\n" if several else transcription.text + "\n"
    spans = {"word": transcription.words, "char": transcription.characters}.get(timestamps or "")
    shown = single_cues(spans) if spans is not None else cues(transcription.words, transcription.seconds)
    return srt(shown) if format == "srt" else vtt(shown)


def as_row(transcription: Transcription, timestamps: str | None = None) -> dict[str, Any]:
    """A line of JSONL: {audio, text, seconds}, with words or characters and their times, with an error.

    Args:
        timestamps: "word", "char" or None.
    """

    def timed(spans: Sequence[Span]) -> list[dict[str, Any]]:
        return [{"text": one.text, "start": round(one.start, 3), "end": round(one.end, 3)} for one in spans]

    row: dict[str, Any] = {"audio": transcription.audio, "text": transcription.text}
    row["seconds"] = round(transcription.seconds, 3)
    if timestamps == "word":
        row["words"] = timed(transcription.words)
    elif timestamps == "char":
        row["characters"] = timed(transcription.characters)
    if transcription.error:
        row["error"] = transcription.error
    return row


def _output_folder(given: str | None) -> Path:
    if given is None or given == "-":
        raise UserError("subtitles of several recordings", "each is a file of its own", "name a folder with -o")
    folder = Path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _subtitle_names(files: Sequence[Path], given: Sequence[str], format: str) -> list[Path]:
    """Paths under the output folder, as those of the recordings under theirs; ``a.wav.srt`` where two are ``a``."""
    roots = [Path(path) for path in given if Path(path).is_dir()]
    relative = []
    for file in files:
        root = next((root for root in roots if file.is_relative_to(root)), file.parent)
        relative.append(file.relative_to(root))
    taken = Counter(path.with_suffix("") for path in relative)
    names = [
        path.with_suffix(f".{format}") if taken[path.with_suffix("")] == 1 else path.with_name(f"{path.name}.{format}")
        for path in relative
    ]
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise UserError(f"two recordings called {double[0].stem}", "their subtitles would be one", "take one by one")
    return names


@contextlib.contextmanager
def _output_stream(given: str | None, format: str) -> Iterator[TextIO]:
    if given is None or given == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors=_UNENCODABLE[format])
        yield sys.stdout
        return
    try:
        # closed below; only opening it is the user's error
        stream = open(given, "w", encoding="utf-8", errors=_UNENCODABLE[format])  # noqa: SIM115
    except OSError as error:
        raise _unwritable(Path(given), error) from error
    with stream:
        yield stream


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"-o {path}", f"it can't be written ({error.strerror})", "choose another place")


def _progress_bar(shown: bool) -> Any:
    """A bar on a terminal; none where transcripts appear there themselves."""
    from tqdm import tqdm

    layout = "{n:.0f} s of audio in {elapsed}, {rate_fmt}"
    return tqdm(unit="s", bar_format=layout, disable=None if shown else True, leave=False)
