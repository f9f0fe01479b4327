"""Cut long recordings at the ends of sentences: a manifest of segments to train on; no audio is written.

A recognizer hears each recording. Its words are aligned with those of the transcript, so that the end of a sentence in
the one has a time in the other, as LibriSpeech was cut out of chapters (Panayotov et al. 2015). Segments in which the
recognizer heard something else than the transcript says are left out.
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sft_speech.audio.read import quietest, samples_of
from sft_speech.errors import UserError
from sft_speech.options.settings import add_pickle_argument

if TYPE_CHECKING:
    from sft_speech.tasks.asr.transcriber import Span, Transcriber

logger = logging.getLogger(__name__)

# Characters that may be misheard on either side of the end of a sentence: what is farther apart is no place to cut.
SLACK = 10


@dataclass(frozen=True)
class Segment:
    """Sentences of a transcript, when they are said (seconds), and the CER of what the recognizer heard there."""

    text: str
    start: float
    end: float
    error_rate: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech cut``."""
    parser.add_argument("source", metavar="SOURCE", help="corpus of files: a folder or a manifest")
    parser.add_argument("--recognizer", metavar="MODEL", required=True, help="directory of a CTC model, or its Hub id")
    parser.add_argument("-o", "--output", metavar="FILE.csv", required=True, help="the manifest")
    parser.add_argument("--split", metavar="SPLIT", help="what to cut; several are joined by '+' [all rows]")
    parser.add_argument(
        "--max_seconds", type=float, default=15.0, help="shorter recordings stay, longer ones are cut [15]"
    )
    parser.add_argument(
        "--max_error_rate",
        type=float,
        default=0.3,
        help="CER of the recognizer above which a segment is left out [0.3]",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_pickle_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Cuts, writes the manifest, prints how much became of what."""
    output = Path(args.output)
    if output.suffix != ".csv" or output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"-o {output}", "it is to be a .csv in a folder that exists", "name another one")
    if output.resolve() == Path(args.source).resolve():
        raise UserError(f"-o {output}", "it is what is to be cut, and would be overwritten", "name another one")
    from sft_speech.corpora import load_corpus
    from sft_speech.tasks.asr.transcriber import Transcriber

    corpus = load_corpus(args.source, args.split)
    if any(audio["bytes"] is not None for audio in corpus["audio"]):
        raise UserError(args.source, "its audio lies within tables, a manifest names files", "unpack it into files")
    transcriber = Transcriber(args.recognizer, device=args.device, allow_pickle=args.allow_pickle)
    written = cut = left_out = too_long = 0
    unfinished = output.with_suffix(".unfinished")
    with open(unfinished, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("id", "audio", "text", "speaker", "start", "end"))
        for row, segments in cut_rows(transcriber, corpus, args.max_seconds):
            offset, path = row["start"] or 0.0, row["audio"]["path"]
            if segments is None:
                ends = ("", "") if row["start"] is None else (offset, offset + row["seconds"])
                table.writerow((row["id"], path, row["text"], row["speaker"], *ends))
                continue
            cut, left_out = cut + 1, left_out + (not segments)
            for number, segment in enumerate(segments):
                if segment.error_rate > args.max_error_rate:
                    logger.info("%s-%d left out: CER %.0f %%", row["id"], number, 100 * segment.error_rate)
                    left_out += 1
                    continue
                times = (f"{offset + time:.3f}" for time in (segment.start, segment.end))
                table.writerow((f"{row['id']}-{number}", path, segment.text, row["speaker"], *times))
                written, too_long = written + 1, too_long + (segment.end - segment.start > args.max_seconds)
    unfinished.replace(output)
    print(f"{len(corpus) - cut} recordings are short enough, {cut} were cut into {written} segments")
    print(f"{left_out} left out: a CER of the recognizer above {100 * args.max_error_rate:.0f} %, or nothing heard")
    if too_long:
        print(
            f"{too_long} segments are still longer than {args.max_seconds:g} s: no end of a sentence was found in them"
        )
    print(output)


def cut_rows(
    transcriber: Transcriber, corpus: Any, max_seconds: float
) -> Iterator[tuple[dict[str, Any], list[Segment] | None]]:
    """Every row of a corpus with its segments; None for those that are short enough, which aren't heard."""
    from sft_speech.audio import read as audio

    checkpoint = transcriber.checkpoint

    def spelt(text: str) -> str:
        return checkpoint.normalizer(text).text

    for row in corpus:
        if row["seconds"] <= max_seconds:
            yield row, None
            continue
        try:
            waveform = audio.read(row["audio"], checkpoint.rate, start=row["start"], seconds=row["seconds"])
        except audio.AudioError as error:
            logger.warning("%s left out: %s", row["id"], error)
            yield row, []
            continue
        heard = transcriber((waveform, checkpoint.rate))
        found = segments(row["text"], spelt, heard.characters, waveform, checkpoint.rate, max_seconds)
        if not found:
            logger.warning(
                "%s left out: %s", row["id"], "no letters in its transcript" if heard.text else "nothing heard"
            )
        yield row, found


class Place(NamedTuple):
    """Where to cut: in the recording, the transcript as it is spelt, and the characters heard."""

    seconds: float
    said: int
    heard: int


def segments(
    text: str,
    spelt: Callable[[str], str],
    heard: Sequence[Span],
    waveform: np.ndarray,
    rate: int,
    max_seconds: float,
) -> list[Segment]:
    """Cuts a recording at ends of sentences; consecutive ones stay together while they fit into ``max_seconds``.

    Args:
        text: its transcript.
        spelt: writes a text the way the recognizer does.
        heard: characters with their times, of the recognizer.
        waveform: (S,), S samples.
        rate: samples per second.
    """
    import jiwer

    from sft_speech.tasks.speech.text import sentences

    parts = [(sentence, letters) for sentence in sentences(text) if (letters := spelt(sentence))]
    said = " ".join(letters for _, letters in parts)
    times = [(span.start, span.end) for span in heard for _ in span.text]
    hypothesis = "".join(span.text for span in heard)
    if not said or not hypothesis:
        return []
    match = matches(said, hypothesis)
    places = [Place(0.0, 0, 0)]
    between: list[list[str]] = [[]]
    position = -1  # of the space before a sentence
    for sentence, letters in parts:
        if position > 0 and (place := _place(position, match, times, waveform, rate)):
            places.append(place)
            between.append([])
        between[-1].append(sentence)
        position += len(letters) + 1
    places.append(Place(len(waveform) / rate, len(said), len(hypothesis)))

    found: list[Segment] = []
    first = 0
    for last in range(1, len(places)):
        start, end = places[first], places[last]
        if last + 1 < len(places) and places[last + 1].seconds - start.seconds <= max_seconds:
            continue
        rate_of_errors = jiwer.cer(said[start.said : end.said].strip(), hypothesis[start.heard : end.heard].strip())
        within = " ".join(sentence for part in between[first:last] for sentence in part)
        found.append(Segment(within, start.seconds, end.seconds, float(rate_of_errors)))
        first = last
    return found


def matches(said: str, heard: str) -> np.ndarray:
    """(L,) for each of L characters said, the index of the one heard that it was aligned with and equals, else -1."""
    import jiwer

    found = np.full(len(said), -1)
    for chunk in jiwer.process_characters(said, heard).alignments[0]:
        if chunk.type == "equal":
            found[chunk.ref_start_idx : chunk.ref_end_idx] = np.arange(chunk.hyp_start_idx, chunk.hyp_end_idx)
    found[[character == " " for character in said]] = -1  # spaces are everywhere
    return found


def _place(
    position: int, match: np.ndarray, times: list[tuple[float, float]], waveform: np.ndarray, rate: int
) -> Place | None:
    """The quietest moment between the letters heard on either side of a position; None where they are far from it."""
    before, after = np.flatnonzero(match[:position] >= 0), np.flatnonzero(match[position:] >= 0)
    if not (before.size and after.size) or position - before[-1] > SLACK or after[0] > SLACK:
        return None
    left, right = int(match[before[-1]]), int(match[position + after[0]])
    low, high = samples_of(times[left][1], rate), samples_of(times[right][0], rate)
    return Place((low + quietest(waveform[low:high], rate)) / rate, position, left + 1)
