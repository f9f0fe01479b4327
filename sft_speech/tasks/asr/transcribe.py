"""Transcribe recordings of any length: files, or folders of them.

text: the transcript (after the path and a tab if there are several recordings). jsonl: one object per recording.
srt, vtt: subtitles; for several recordings -o is a folder. With --channel, each recording is a channel, whose name
follows the path. No file is overwritten. While a run over several recordings is unfinished, its output is in
FILE.parts, and --resume continues it, with any number of processes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sft_speech.audio.channels import MIX
from sft_speech.corpora.arguments import add_channel_argument
from sft_speech.errors import UserError, printable
from sft_speech.files import write_whole
from sft_speech.inference import shards
from sft_speech.inference.processes import Process, end_with_parent, launch
from sft_speech.inference.shards import Shards
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import add_dtype_argument, add_pickle_argument
from sft_speech.tasks.asr.ctc.decoding import add_decoding_arguments, decoding_of
from sft_speech.tasks.asr.generation import add_generation_arguments, generation_of
from sft_speech.tasks.asr.languages import add_language_arguments
from sft_speech.tasks.asr.sharded import HOW_TO_RESUME, failed_line, transcribe_missing, unfinished
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    from tqdm import tqdm

    from sft_speech.inference.channels import FileChannel
    from sft_speech.tasks.asr.recognizer import Span
    from sft_speech.tasks.asr.transcriber import Transcriber, Transcription

logger = logging.getLogger(__name__)

# Arguments that do not change what is written and may differ when a run is resumed. The recordings and the files of the
# model are compared separately.
_FREE = frozenset(
    "allow_pickle argv audio debug device dtype files_from max_batch_seconds num_processes output resume".split()
)
# File names may hold bytes that are not UTF-8: lines of text keep them, JSON escapes them so that it can be parsed.
_UNENCODABLE = {"text": "surrogateescape", "jsonl": "backslashreplace", "srt": "strict", "vtt": "strict"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech transcribe``."""
    parser.add_argument("model", metavar="MODEL", help="directory of a fine-tuned model, or its id on the Hub")
    parser.add_argument("audio", metavar="AUDIO", nargs="*", help="audio files, folders or lists of them; - is stdin")
    parser.add_argument("--files_from", metavar="LIST", help="more audio files: a path per line; - is stdin")
    add_channel_argument(parser, "split")
    parser.add_argument("--format", choices=("text", "jsonl", "srt", "vtt"), default="text", help="[text]")
    parser.add_argument(
        "--timestamps", choices=("word", "char"), help="jsonl: times of words or characters; srt, vtt: a cue for each"
    )
    add_output_argument(parser, "file, or directory for the subtitles of several [stdout]", metavar="FILE")
    parser.add_argument("--max_batch_seconds", type=float, metavar="S", help="padded audio per batch [by device]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_dtype_argument(parser)
    add_pickle_argument(parser)
    add_language_arguments(parser)
    add_decoding_arguments(parser)
    add_generation_arguments(parser)
    parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="processes, each on its own GPU [1]")
    parser.add_argument("--resume", action="store_true", help="continue an unfinished run, if there is one")


def main(args: argparse.Namespace) -> int | None:
    """Transcribe in the order given; write each transcript as soon as those before it are written."""
    if args.timestamps and args.format == "text":
        raise UserError("--timestamps with --format text", "plain text has no times", "add --format jsonl, srt or vtt")
    process = Process.this()
    if args.num_processes < 1:
        raise UserError(f"--num_processes {args.num_processes}", "nothing would run", "give 1 or more")
    if args.num_processes > 1 and process.world > 1:
        why = f"a launcher has already started {process.world} processes"
        raise UserError(f"--num_processes {args.num_processes}", why, "leave it out")
    decoding_of(args), generation_of(args)  # raise before anything is read
    if process.world > 1:
        end_with_parent()
    from sft_speech.inference.inputs import STDIN, given_audio

    if STDIN in args.audio and max(process.world, args.num_processes) > 1:
        raise UserError(STDIN, "only one process can read standard input", "give a list with --files_from -")
    listed = _listed(args.files_from, process)
    given = given_audio(args.audio)
    if not given and not listed:
        raise UserError("no AUDIO", "there is nothing to transcribe", "give files, folders or --files_from LIST")
    if isinstance(given[0] if given else None, Mapping):  # a recording from standard input
        if listed:
            raise UserError(f"{STDIN} and --files_from", "a recording from standard input has no name", "give it alone")
        if args.channel not in (None, MIX):
            raise UserError(f"{STDIN} --channel {args.channel}", "all of standard input is mixed", "give a file")
        return _to_stream(args, given, several=False)
    from sft_speech.inference.channels import recordings_of

    files = [path for path in given if isinstance(path, Path)] + listed
    recordings = recordings_of(files, args.channel or (None if process.main and args.num_processes == 1 else MIX))
    several = len(recordings) > 1 or bool(listed) or not Path(args.audio[0]).is_file()
    if several and args.format in ("srt", "vtt"):
        return _to_folder(args, recordings, listed, process)
    if several and args.output not in (None, "-") and (not Path(args.output).exists() or Path(args.output).is_file()):
        return _to_parts(args, recordings, listed, process)
    if args.num_processes > 1 or process.world > 1:
        raise UserError("several processes", "they need several recordings and one output", "give -o FILE")
    return _to_stream(args, [one.audio for one in recordings], several)


def _listed(given: str | None, process: Process) -> list[Path]:
    """Return the files of a list. They need not exist: missing ones are treated as unreadable."""
    if given is None:
        return []
    if given == "-" and process.world > 1:
        raise UserError("--files_from -", "only one process can read it", "give a file, or --num_processes")
    try:
        content = sys.stdin.buffer.read() if given == "-" else Path(given).read_bytes()
    except OSError as error:
        raise UserError(f"--files_from {given}", f"it cannot be read ({error.strerror})", "give a text file") from error
    from sft_speech.inference.inputs import listed

    list_file = Path(given)
    return listed(content, Path() if given == "-" else list_file.parent, given, list_file.suffix.lower())


def _transcriber(args: argparse.Namespace, process: Process) -> Transcriber:
    from sft_speech.tasks.asr.transcriber import Transcriber

    return Transcriber(
        args.model,
        device=process.device(args.device),
        max_batch_seconds=args.max_batch_seconds,
        decoding=decoding_of(args),
        allow_pickle=args.allow_pickle,
        generation=generation_of(args),
        times=bool(args.timestamps) or args.format in ("srt", "vtt"),
        target_lang=args.target_lang,
        dtype=args.dtype,
    )


def _to_stream(args: argparse.Namespace, audio: Sequence[Any], several: bool) -> int:
    """Write one recording to a new file, or any number of them to a stream of lines."""
    if args.output not in (None, "-") and Path(args.output).is_file():
        raise UserError(f"-o {args.output}", "it already exists", "remove it, or choose another name")
    with contextlib.ExitStack() as stack:
        transcriber = _transcriber(args, Process())
        stream = stack.enter_context(_output_stream(args.output, args.format))
        bar = stack.enter_context(progress_bar(shown=not stream.isatty()))
        read = 0
        for transcription in transcriber.stream(audio, progress=bar.update):
            read += not transcription.failed
            if transcription.failed and args.format != "jsonl":
                continue  # an empty transcript would look like silence; there was a warning
            text = _formatted(transcription, args.format, args.timestamps, several)
            stream.write(printable(text, lines=True) if stream.isatty() else text)
            stream.flush()
    return _report(read, len(audio))


def _to_folder(
    args: argparse.Namespace, files: Sequence[FileChannel], listed: Sequence[Path], process: Process
) -> int | None:
    """Write subtitles of several recordings, a file each; with --resume existing files are kept."""
    if args.output in (None, "-"):
        raise UserError("subtitles of several recordings", "each needs its own file", "name a folder with -o")
    folder = Path(args.output)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in _subtitle_names([file.named for file in files], args.audio, args.format)]
    if not args.resume and process.world == 1 and (there := [path for path in paths if path.exists()]):
        do = "keep existing files with --resume, or choose another folder"
        raise UserError(f"-o {folder}", f"{there[0].name} already exists", do)
    if args.num_processes > 1:
        if not _launch(args, listed):
            logger.error("%s is unfinished: %s", folder, HOW_TO_RESUME)
            return 1
        return int(not all(path.exists() for path in paths))
    missing = [n for n in range(process.rank, len(files), process.world) if not paths[n].exists()]
    if not missing:
        return None
    read = 0
    with progress_bar(shown=process.main) as bar:
        found = _transcriber(args, process).stream((files[n].audio for n in missing), progress=bar.update)
        for number, transcription in zip(missing, found, strict=True):
            if not transcription.failed:
                read += 1
                _write(paths[number], _formatted(transcription, args.format, args.timestamps, several=True))
    failed = _report(read, len(missing))
    return failed if process.world == 1 else None  # a launcher would terminate the processes that are still at work


def _to_parts(
    args: argparse.Namespace, files: Sequence[FileChannel], listed: Sequence[Path], process: Process
) -> int | None:
    """Write transcripts of several recordings into one file, by shards: see :mod:`sft_speech.inference.shards`."""
    output = Path(args.output)
    run = _begin_or_join(args, files, process)
    if run is None:
        _check_finished(output, len(files), args.format)
        return None
    if args.num_processes > 1:
        succeeded = _launch(args, listed)
        return int(not succeeded or _incomplete(args, len(files))) if output.exists() else unfinished(run)
    with progress_bar(shown=process.main) as bar:
        read = transcribe_missing(
            run,
            [file.audio for file in files],
            process,
            partial(_transcriber, args, process),
            partial(_line, args=args),
            failed_line if args.format == "jsonl" else lambda line: line == b"\n",
            bar.update,
        )
    failed = 0 if read is None else _report(read, len(files))
    return failed if process.world == 1 else None


def _begin_or_join(args: argparse.Namespace, files: Sequence[FileChannel], process: Process) -> Shards | None:
    """Return the run that this process works on; None if it is finished."""
    output = Path(args.output)
    settings = {name: value for name, value in vars(args).items() if name not in _FREE}
    settings["files of the model"] = shards.weights(args.model)
    settings["recordings"] = shards.fingerprint([str(file.named) for file in files])
    if not process.main:
        return shards.join(output, settings)
    with _writing(output):
        return shards.begin(output, settings, len(files), max(process.world, args.num_processes), args.resume)


def _check_finished(output: Path, recordings: int, format: str) -> None:
    """Check that a finished file, which is all that remains of its run, may belong to these recordings."""
    with open(output, "rb") as file:
        lines = sum(1 for _ in file)
    if lines > recordings or (format == "jsonl" and lines < recordings):
        given = counted(recordings, "recording is", "recordings are")
        why = f"{output} holds {counted(lines, 'transcript')}, {given} given"
        raise UserError("--resume", why, "choose another -o, or remove it to transcribe all of them again")
    logger.info("%s already exists: nothing is left to do", output)


def _launch(args: argparse.Namespace, listed: Sequence[Path]) -> bool:
    """Resume this command in several processes; return whether all of them succeeded."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as names:
        again = ["--num_processes", "1", "--resume"]  # argparse takes the last of repeated arguments
        if args.files_from == "-":
            names.writelines(os.fsencode(path) + b"\n" for path in listed)
            names.flush()
            again += ["--files_from", names.name]
        end = args.argv.index("--") if "--" in args.argv else len(args.argv)
        return launch([*args.argv[:end], *again, *args.argv[end:]], args.num_processes) == 0


def _incomplete(args: argparse.Namespace, recordings: int) -> bool:
    """Return whether a finished file lacks the transcript of a recording."""
    with open(args.output, "rb") as file:
        return sum(args.format != "jsonl" or not failed_line(line) for line in file) < recordings


def _report(read: int, recordings: int) -> int:
    """Log how many recordings could not be transcribed; return the exit code, 1 if there are any."""
    if not read:
        raise UserError(counted(recordings, "recording"), "none of them could be transcribed", "see the messages above")
    if read < recordings:
        logger.warning("%d of %s could not be transcribed", recordings - read, counted(recordings, "recording"))
    return int(read < recordings)


def _line(transcription: Transcription, args: argparse.Namespace) -> bytes:
    """Return the line of a recording; an empty one if it could not be read."""
    if transcription.failed and args.format != "jsonl":
        return b"\n"  # an empty transcript would look like silence; there was a warning
    text = _formatted(transcription, args.format, args.timestamps, several=True)
    return text.encode("utf-8", _UNENCODABLE[args.format])


def _formatted(transcription: Transcription, format: str, timestamps: str | None, several: bool) -> str:
    """Return the output for one recording."""
    from sft_speech.tasks.asr.subtitles import cues, single_cues, srt, vtt

    if format == "jsonl":
        return json.dumps(as_row(transcription, timestamps), ensure_ascii=False) + "\n"
    if format == "text":
        name = transcription.audio.replace("\n", "\\n")  # one line per recording, whatever its name
        labels = [name, transcription.channel] if transcription.channel else [name]
        return "\t".join([*labels, transcription.text]) + "\n" if several else transcription.text + "\n"
    spans = {"word": transcription.words, "char": transcription.characters}.get(timestamps or "")
    shown = single_cues(spans) if spans is not None else cues(transcription.words, transcription.seconds)
    return srt(shown) if format == "srt" else vtt(shown)


def as_row(transcription: Transcription, timestamps: str | None = None) -> dict[str, object]:
    """Return an object for JSONL: {audio, text, seconds}, channel, language, confidences, times of words or characters,
    the error.

    Args:
        timestamps: "word", "char" or None.
    """

    def timed(spans: Sequence[Span]) -> list[dict[str, object]]:
        return [{"text": one.text, "start": round(one.start, 3), "end": round(one.end, 3)} for one in spans]

    row: dict[str, object] = {"audio": transcription.audio, "text": transcription.text}
    row["seconds"] = round(transcription.seconds, 3)
    if transcription.channel:
        row["channel"] = transcription.channel
    if transcription.language:
        row["language"] = transcription.language
    if transcription.confidence is not None:
        row["confidence"] = round(transcription.confidence, 4)
    sure = [round(one, 3) for one in transcription.word_confidences]
    if timestamps == "word":
        row["words"] = [word | {"confidence": one} for word, one in zip(timed(transcription.words), sure, strict=True)]
    elif sure:
        row["word_confidences"] = sure
    if timestamps == "char":
        row["characters"] = timed(transcription.characters)
    if transcription.error:
        row["error"] = transcription.error
    return row


def _subtitle_names(files: Sequence[Path], given: Sequence[str], format: str) -> list[Path]:
    """Return paths in the output folder, as recordings are in theirs; ``a.wav.srt`` if two are named ``a``."""
    from sft_speech.inference.inputs import relative_names

    relative = relative_names(files, given)
    taken = Counter(path.with_suffix("") for path in relative)
    names = [
        path.with_suffix(f".{format}") if taken[path.with_suffix("")] == 1 else path.with_name(f"{path.name}.{format}")
        for path in relative
    ]
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        why = "their subtitles would have the same name"
        raise UserError(f"two recordings called {double[0].stem}", why, "transcribe them one by one")
    return names


@contextlib.contextmanager
def _output_stream(given: str | None, format: str) -> Iterator[TextIO]:
    if given is None or given == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors=_UNENCODABLE[format])
        yield sys.stdout
        return
    with _writing(Path(given)):  # closed below
        stream = open(given, "w", encoding="utf-8", errors=_UNENCODABLE[format])  # noqa: SIM115
    with stream:
        yield stream


def _write(path: Path, text: str) -> None:
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a disk error into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"-o {path}", f"it cannot be written ({error.strerror})", "choose another path") from error


def progress_bar(shown: bool) -> tqdm[Any]:
    """Return a progress bar, shown on a terminal unless transcripts are printed there."""
    from tqdm import tqdm

    layout = "{n:.0f} s of audio in {elapsed}, {rate_fmt}"
    return tqdm(unit="s", bar_format=layout, disable=None if shown else True, leave=False)
