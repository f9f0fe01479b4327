"""Transcribe recordings of any length: files, or folders of them.

text: the transcript (after its path and a tab, where there are several recordings). jsonl: one object per recording.
srt, vtt: subtitles; for several recordings -o is a folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sft_speech.asr.decoding import add_decoding_arguments, decoding_of
from sft_speech.errors import UserError

if TYPE_CHECKING:
    from sft_speech.asr.transcriber import Span, Transcription

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech transcribe``."""
    parser.add_argument("model", metavar="MODEL", help="directory of a fine-tuned model, or its id on the Hub")
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="audio files, or folders of them")
    parser.add_argument("--format", choices=("text", "jsonl", "srt", "vtt"), default="text", help="[text]")
    parser.add_argument(
        "--timestamps", choices=("word", "char"), help="jsonl: times of words or characters; srt, vtt: a cue for each"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="file, or folder for the subtitles of several [stdout]")
    parser.add_argument("--max_batch_seconds", type=float, metavar="S", help="padded audio per batch [by device]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_decoding_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Transcribes in the order given, writing each transcript as soon as those before it are there."""
    if args.timestamps and args.format == "text":
        raise UserError("--timestamps with --format text", "plain text has no times", "add --format jsonl, srt or vtt")
    from sft_speech.asr.transcriber import Transcriber, find_audio

    decoding = decoding_of(args)
    files = find_audio(args.audio)
    several = len(files) > 1 or Path(args.audio[0]).is_dir()
    subtitles = args.format in ("srt", "vtt")
    folder = _output_folder(args.output) if subtitles and several else None
    names = _subtitle_names(files, args.audio, args.format) if folder else []
    with contextlib.ExitStack() as stack:
        transcriber = Transcriber(
            args.model, device=args.device, max_batch_seconds=args.max_batch_seconds, decoding=decoding
        )
        stream = None if folder else stack.enter_context(_output_stream(args.output))
        bar = stack.enter_context(_progress_bar(shown=stream is None or not stream.isatty()))
        heard = 0
        for number, transcription in enumerate(transcriber.stream(files, progress=bar.update)):
            heard += not transcription.failed
            if transcription.failed and args.format != "jsonl":
                continue  # an empty transcript would read as silence; the warning has told
            text = _formatted(transcription, args.format, args.timestamps, several)
            if folder is not None:
                _write(folder / names[number], text)
            elif stream is not None:
                stream.write(text)
                stream.flush()
    if not heard:
        raise UserError(", ".join(args.audio), "nothing of it could be transcribed", "see the messages above")
    if heard < len(files):
        logger.warning("%d of %d recordings could not be transcribed", len(files) - heard, len(files))


def _formatted(transcription: Transcription, format: str, timestamps: str | None, several: bool) -> str:
    """What is written of one recording."""
    from sft_speech.asr.subtitles import cues, single_cues, srt, vtt

    if format == "jsonl":
        return json.dumps(as_row(transcription, timestamps), ensure_ascii=False) + "\n"
    if format == "text":
        return f"{transcription.audio}\t{transcription.text}\n" if several else transcription.text + "\n"
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
def _output_stream(given: str | None) -> Iterator[TextIO]:
    if given is None or given == "-":
        yield sys.stdout
        return
    try:
        stream = open(given, "w", encoding="utf-8")  # noqa: SIM115  closed below; only opening it is the user's error
    except OSError as error:
        raise _unwritable(Path(given), error) from error
    with stream:
        yield stream


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"-o {path}", f"it can't be written ({error.strerror})", "choose another place")


def _progress_bar(shown: bool) -> Any:
    """A bar on a terminal; none where transcripts appear there themselves."""
    from tqdm import tqdm

    layout = "{n:.0f} s of audio in {elapsed}, {rate_fmt}"
    return tqdm(unit="s", bar_format=layout, disable=None if shown else True, leave=False)
