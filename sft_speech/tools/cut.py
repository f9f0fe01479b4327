"""Cut long recordings at the ends of sentences into a manifest of segments to train on; no audio is written.

A recognizer transcribes each recording. Its text is aligned with the transcript, which gives the times of the ends of
sentences, as when LibriSpeech was cut from chapters (Panayotov et al. 2015). Segments whose transcript differs too much
from the hypothesis are left out.
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sft_speech.audio.channels import name_of
from sft_speech.audio.read import quietest
from sft_speech.audio.units import samples_of
from sft_speech.corpora.arguments import add_channel_argument
from sft_speech.errors import UserError
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import add_pickle_argument
from sft_speech.tasks.asr.generation import Generation
from sft_speech.tasks.asr.languages import add_language_arguments
from sft_speech.text.counted import counted
from sft_speech.text.unspelt import warn_of_unspelt

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.asr.recognizer import Span
    from sft_speech.tasks.asr.transcriber import Transcriber

logger = logging.getLogger(__name__)

# Largest number of misrecognized characters on either side of the end of a sentence; with more, no cut is made there.
SLACK = 10


@dataclass(frozen=True)
class Segment:
    """Consecutive sentences of a transcript, their start and end in seconds, and the CER of the hypothesis."""

    text: str
    start: float
    end: float
    error_rate: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech cut``."""
    parser.add_argument("source", metavar="SOURCE", help="corpus of audio files: a folder or a manifest")
    parser.add_argument("--recognizer", metavar="MODEL", required=True, help="directory of a recognizer, or its Hub id")
    add_output_argument(parser, "the manifest to write", metavar="FILE.csv", folder=False, required=True)
    parser.add_argument("--split", metavar="SPLIT", help="rows to cut; several splits are joined by '+' [all rows]")
    add_channel_argument(parser)
    parser.add_argument("--max_seconds", type=float, default=15.0, help="cut recordings that are longer [15]")
    parser.add_argument("--max_error_rate", type=float, default=0.3, help="leave out segments with a higher CER [0.3]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_language_arguments(parser)
    add_pickle_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Cut the recordings, write the manifest, print the counts."""
    output = Path(args.output)
    if output.suffix != ".csv" or output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"-o {output}", "it must be a .csv file in an existing folder", "choose another name")
    if output.resolve() == Path(args.source).resolve():
        raise UserError(f"-o {output}", "it is the source and would be overwritten", "choose another name")
    from sft_speech.corpora import load_corpus
    from sft_speech.tasks.asr.transcriber import Transcriber

    corpus = load_corpus(args.source, args.split, channel=args.channel)
    if any(audio["bytes"] is not None for audio in corpus["audio"]):
        raise UserError(args.source, "its audio is inside tables, but a manifest names files", "extract it into files")
    transcriber = Transcriber(
        args.recognizer,
        device=args.device,
        allow_pickle=args.allow_pickle,
        generation=Generation(language=args.language),
        target_lang=args.target_lang,
    )
    warn_of_unspelt(transcriber.checkpoint.normalizer, args.source, corpus["id"], corpus["text"])
    unfinished = output.with_suffix(".unfinished")
    with open(unfinished, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        channels = ("channel",) if "channel" in corpus.column_names else ()
        table.writerow(("id", "audio", "text", "speaker", "start", "end", *channels))
        counts = Counter[str]()
        for row, found in cut_rows(transcriber, corpus, args.max_seconds):
            if found is None:
                ends = ("", "") if row["start"] is None else (row["start"], row["start"] + row["seconds"])
                table.writerow((row["id"], row["audio"]["path"], row["text"], row["speaker"], *ends, *channel_of(row)))
            else:
                counts += Counter(cut=1, left_out=not found)
                counts += write_segments(table, row, found, args.max_seconds, args.max_error_rate)
    short = len(corpus) - counts["cut"]
    left_out = f"{counts['left_out']} left out, a CER above {100 * args.max_error_rate:g} % or nothing recognized"
    if not short and not counts["written"]:
        unfinished.unlink()
        do = "take a better --recognizer, or raise --max_error_rate"
        raise UserError(args.source, f"nothing is left of it: {left_out}", do)
    unfinished.replace(output)
    enough = counted(short, "recording is", "recordings are")
    done = counted(counts["cut"], "was", "were")
    print(f"{enough} short enough; {done} cut into {counted(counts['written'], 'segment')}")
    print(left_out)
    if long := counts["long"]:
        still = counted(long, "segment is", "segments are")
        print(f"{still} still longer than {args.max_seconds:g} s: no end of a sentence was recognized there")
    print(output)


def write_segments(
    table: Any, row: dict[str, Any], segments: list[Segment], max_seconds: float, max_error_rate: float
) -> Counter[str]:
    """Write the segments of a row to a CSV, except those above the error rate.

    Returns:
        The number of segments "written", "left_out", and "long" (written, but longer than ``max_seconds``).
    """
    counts, offset = Counter[str](), row["start"] or 0.0
    for number, segment in enumerate(segments):
        if segment.error_rate > max_error_rate:
            logger.info("%s-%d left out: CER %.0f %%", row["id"], number, 100 * segment.error_rate)
            counts["left_out"] += 1
            continue
        times = (f"{offset + time:.3f}" for time in (segment.start, segment.end))
        table.writerow(
            (f"{row['id']}-{number}", row["audio"]["path"], segment.text, row["speaker"], *times, *channel_of(row))
        )
        counts["written"] += 1
        counts["long"] += segment.end - segment.start > max_seconds
    return counts


def channel_of(row: dict[str, Any]) -> list[str]:
    """Return the name of a row's channel, "" for all; nothing if the corpus has no channels."""
    return ["" if row["channel"] is None else name_of(row["channel"])] if "channel" in row else []


def cut_rows(
    transcriber: Transcriber, corpus: Dataset, max_seconds: float
) -> Iterator[tuple[dict[str, Any], list[Segment] | None]]:
    """Yield each row of a corpus with its segments, or with None if it is short enough."""
    from sft_speech.audio import read as audio

    checkpoint = transcriber.checkpoint

    def normalize(text: str) -> str:
        return checkpoint.normalizer(text).text

    for row in corpus:
        if row["seconds"] <= max_seconds:
            yield row, None
            continue
        try:
            waveform = audio.read_row(row, checkpoint.rate)
        except audio.AudioError as error:
            logger.warning("%s left out: %s", row["id"], error)
            yield row, []
            continue
        result = transcriber((waveform, checkpoint.rate))
        found = segments(row["text"], normalize, result.characters, waveform, checkpoint.rate, max_seconds)
        if not found:
            why = "its transcript has no letters" if result.text else "nothing was recognized"
            logger.warning("%s left out: %s", row["id"], why)
        yield row, found


class Cut(NamedTuple):
    """A place to cut: seconds in the recording, and the number of reference and hypothesis characters before it."""

    seconds: float
    reference: int
    hypothesis: int


def segments(
    text: str,
    normalize: Callable[[str], str],
    spans: Sequence[Span],
    waveform: np.ndarray,
    rate: int,
    max_seconds: float,
) -> list[Segment]:
    """Cut a recording at ends of sentences, with as many sentences in a segment as fit into ``max_seconds``.

    Args:
        text: the transcript.
        normalize: returns a text in the spelling of the recognizer.
        spans: recognized characters with their times.
        waveform: (S,), S samples.
        rate: samples per second.
    """
    import jiwer

    from sft_speech.tasks.tts.text import sentences

    parts = [(sentence, letters) for sentence in sentences(text) if (letters := normalize(sentence))]
    reference = " ".join(letters for _, letters in parts)
    hypothesis = "".join(span.text for span in spans)
    if not reference or not hypothesis:
        return []
    cuts, between = _cuts(parts, reference, spans, waveform, rate)
    found: list[Segment] = []
    first = 0
    for last in range(1, len(cuts)):
        start, end = cuts[first], cuts[last]
        if last + 1 < len(cuts) and cuts[last + 1].seconds - start.seconds <= max_seconds:
            continue
        ours, theirs = reference[start.reference : end.reference], hypothesis[start.hypothesis : end.hypothesis]
        within = " ".join(sentence for part in between[first:last] for sentence in part)
        found.append(Segment(within, start.seconds, end.seconds, float(jiwer.cer(ours.strip(), theirs.strip()))))
        first = last
    return found


def _cuts(
    parts: list[tuple[str, str]], reference: str, spans: Sequence[Span], waveform: np.ndarray, rate: int
) -> tuple[list[Cut], list[list[str]]]:
    """Return the places to cut, including the start and end of the recording, and the sentences between them.

    Args:
        parts: sentences, each with its normalized text.
    """
    hypothesis = "".join(span.text for span in spans)
    match, times = matches(reference, hypothesis), [(span.start, span.end) for span in spans for _ in span.text]
    cuts, between = [Cut(0.0, 0, 0)], [list[str]()]
    position = -1  # of the space before a sentence
    for sentence, letters in parts:
        if position > 0 and (cut := _cut(position, match, times, waveform, rate)):
            cuts.append(cut)
            between.append([])
        between[-1].append(sentence)
        position += len(letters) + 1
    return [*cuts, Cut(len(waveform) / rate, len(reference), len(hypothesis))], between


def matches(reference: str, hypothesis: str) -> np.ndarray:
    """Return (L,): for each of L reference characters, the index of the aligned hypothesis character, or -1."""
    import jiwer

    found = np.full(len(reference), -1)
    for chunk in jiwer.process_characters(reference, hypothesis).alignments[0]:
        if chunk.type == "equal":
            found[chunk.ref_start_idx : chunk.ref_end_idx] = np.arange(chunk.hyp_start_idx, chunk.hyp_end_idx)
    found[[character == " " for character in reference]] = -1  # spaces match anywhere
    return found


def _cut(
    position: int, match: np.ndarray, times: list[tuple[float, float]], waveform: np.ndarray, rate: int
) -> Cut | None:
    """Return the quietest moment between the aligned letters around a position; None if they are too far from it."""
    before, after = np.flatnonzero(match[:position] >= 0), np.flatnonzero(match[position:] >= 0)
    if not (before.size and after.size) or position - before[-1] > SLACK or after[0] > SLACK:
        return None
    left, right = int(match[before[-1]]), int(match[position + after[0]])
    low, high = samples_of(times[left][1], rate), samples_of(times[right][0], rate)
    return Cut((low + quietest(waveform[low:high], rate)) / rate, position, left + 1)
