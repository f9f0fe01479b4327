"""Demo corpora spoken by espeak-ng: telephone calls in the layout of LibriSpeech, or one reader in that of LJSpeech.

Everyday sentences of our own (``assets/telephone_sentences.txt``), over a telephone line, in voices that the embedded
checkpoint was not trained on: it recognizes them badly and learns them in minutes. No voice and no sentence is in two
splits. A reader, for synthesis, reads all sentences, not over a telephone. The same seed and the same versions of the
libraries give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sft_speech.corpora.espeak import ESPEAK_RATE, Voice, speak
from sft_speech.errors import UserError
from sft_speech.options.parser import add_output_argument
from sft_speech.text.counted import counted

logger = logging.getLogger(__name__)

RATE = 16_000  # samples per second of the files, as in LibriSpeech
# Timbres (variants of espeak-ng) with their sex, for SPEAKERS.TXT. scripts/pretrain_small.py leaves them out.
TIMBRES = {
    "train-demo": {"Andy": "M", "Annie": "F", "Hugo": "M", "Jacky": "M", "Lee": "M", "Mario": "M", "adam": "M"},
    "dev-demo": {"linda": "F"},
    "test-demo": {"steph": "F", "zac": "M"},
}
HELD_OUT = tuple(variant for split in TIMBRES.values() for variant in split)
ACCENTS = ("en-us", "en-gb-x-rp")  # each timbre speaks both: two speakers
SHARE = {"train-demo": 1.0, "dev-demo": 1 / 12, "test-demo": 1 / 6}  # of the minutes asked for
STAMP = "synthetic.json"
PROCESSES = 2  # the same on every machine: it decides the order of the speakers, see record


@dataclass(frozen=True)
class Speaker:
    """A speaker of a split, with their sentences in order."""

    id: int
    split: str
    sex: str
    voice: Voice
    seconds: float
    sentences: tuple[str, ...]


def sentences_of(split: str) -> list[str]:
    """Return the sentences of a split: of every ten lines, two are for testing and one is for development."""
    lines = files("sft_speech").joinpath("assets/telephone_sentences.txt").read_text("utf-8").splitlines()
    tenths = {"train-demo": (0, 1, 2, 4, 6, 8, 9), "dev-demo": (5,), "test-demo": (3, 7)}[split]
    return [line for number, line in enumerate(lines) if number % 10 in tenths]


def cast(seed: int, minutes: float) -> list[Speaker]:
    """Draw the speakers: pace and pitch of their voices, and the sentences of each."""
    speakers: list[Speaker] = []
    for split, timbres in TIMBRES.items():
        rng = np.random.default_rng((seed, *split.encode()))
        order = rng.permutation(np.array(sentences_of(split)))
        count = len(timbres) * len(ACCENTS)
        for number, (variant, accent) in enumerate((v, a) for v in timbres for a in ACCENTS):
            voice = Voice(
                accent=accent,
                variant=variant,
                words_per_minute=int(rng.integers(145, 205)),
                pitch=int(rng.integers(35, 65)),
                pitch_range=int(rng.integers(35, 75)),
            )
            # Each speaker starts at a different place: no sentence is repeated before all have been used.
            rotated = np.roll(order, -number * len(order) // count)
            seconds = 60 * minutes * SHARE[split] / count
            speakers.append(
                Speaker(len(speakers) + 1, split, timbres[variant], voice, seconds, tuple(map(str, rotated)))
            )
    return speakers


def telephone(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Send a waveform over a telephone line: a room, noise, 300 to 3400 Hz, 8 bits on the mu-law curve (ITU-T G.711).

    Args:
        waveform: float32 (S,) at :data:`RATE`.
        rng: draws the room, the noise and the level.

    Returns:
        float32 waveform (S,) at :data:`RATE`, in [-1, 1].
    """
    from scipy.signal import butter, resample_poly, sosfilt

    from sft_speech.audio import augment

    waveform = augment.apply(waveform, RATE, rng, [(augment.reverberate, 0.5), (augment.add_noise, 0.9)])
    band = sosfilt(butter(4, (300, 3400), "bandpass", fs=RATE, output="sos"), waveform)
    line = resample_poly(band, 1, 2)  # a telephone exchange samples 8000 times per second
    line *= 10 ** (-rng.uniform(1, 15) / 20) / np.abs(line).max()
    mu = 255
    codes = np.round(np.sign(line) * np.log1p(mu * np.abs(line)) / np.log1p(mu) * 127)
    received = np.sign(codes) * np.expm1(np.abs(codes) / 127 * np.log1p(mu)) / mu
    return np.clip(resample_poly(received, 2, 1)[: len(waveform)], -1, 1).astype(np.float32)


def record(speakers: list[Speaker], seed: int, folder: Path) -> list[float]:
    """Write the files of ``speakers`` under ``folder`` and return the seconds of each.

    Call it once per process: espeak-ng's noise and flutter continue from one utterance to the next, so the
    bytes of an utterance depend on those before it.
    """
    return [_record(speaker, np.random.default_rng((seed, speaker.id)), folder) for speaker in speakers]


def _record(speaker: Speaker, rng: np.random.Generator, folder: Path) -> float:
    import soundfile
    import soxr

    chapter = folder / speaker.split / str(speaker.id) / "1"
    chapter.mkdir(parents=True)
    lines, total = [], 0.0
    for number, sentence in enumerate(speaker.sentences):
        if total >= speaker.seconds:
            break
        waveform = soxr.resample(speak(sentence, speaker.voice), ESPEAK_RATE, RATE)
        name = f"{speaker.id}-1-{number:04d}"
        soundfile.write(chapter / f"{name}.flac", telephone(waveform, rng), RATE, "PCM_16")
        lines.append(f"{name} {sentence.upper()}\n")
        total += len(waveform) / RATE
    (chapter / f"{speaker.id}-1.trans.txt").write_text("".join(lines), "utf-8")
    return total


def make_corpus(folder: str | Path, *, seed: int = 0, minutes: float = 18.0, reader: str | None = None) -> Path:
    """Make the corpus, unless the folder holds it already.

    Args:
        folder: a new one, or one that holds the same corpus.
        seed: another seed gives other voices (of the same timbres), another choice of sentences and other lines.
        minutes: minutes of training speech; a twelfth of them is added for development and a sixth for testing. With
            ``reader``: of speech in total.
        reader: timbre of a single voice, one of :data:`HELD_OUT`, instead of telephone calls.

    Returns:
        ``folder``, holding SPEAKERS.TXT and SUBSET/speaker/chapter/speaker-chapter-number.flac with their trans.txt;
        its subsets are ``train-demo``, ``dev-demo`` and ``test-demo``. With ``reader``: metadata.csv and
        wavs/number.wav.

    Raises:
        UserError: the folder holds something else, the minutes are out of range, or espeakng-loader is missing.
    """
    folder = Path(folder)
    if not 0.5 <= minutes <= 120:
        raise UserError(f"minutes: {minutes}", "the sentences make 0.5 to 120 minutes of training speech", "use 18")
    if reader is not None and reader not in HELD_OUT:
        raise UserError(f"reader: {reader}", "no such timbre", f"use one of {', '.join(HELD_OUT)}")
    settings: dict[str, Any] = {"seed": seed, "minutes": minutes} | ({"reader": reader} if reader else {})
    stamp = folder / STAMP
    if stamp.is_file() and json.loads(stamp.read_text())["settings"] == settings:
        logger.info("%s: the corpus exists already", folder)
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            str(folder), "it holds something other than this corpus", "name a new folder, or delete this one"
        )
    speak("hello", Voice())  # if espeak-ng is missing, this fails before anything is written
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        # A new process even for one reader, see record.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(PROCESSES, mp_context=context, max_tasks_per_child=1) as pool:
            if reader is not None:
                pool.submit(read_aloud, reader, minutes, seed, scratch).result()
            else:
                parts = [cast(seed, minutes)[first::PROCESSES] for first in range(PROCESSES)]
                seconds = list(pool.map(record, parts, [seed] * PROCESSES, [scratch] * PROCESSES))
                _describe(scratch, zip(chain(*parts), chain(*seconds), strict=True))
        made_by = "espeak-ng; sentences of sft_speech, Apache-2.0"
        (scratch / STAMP).write_text(json.dumps({"settings": settings, "made by": made_by}, indent=2) + "\n")
        scratch.chmod(0o755)  # a temporary folder is private
        if folder.exists():
            folder.rmdir()
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def read_aloud(reader: str, minutes: float, seed: int, folder: Path) -> None:
    """Write the recordings of one voice in the layout of LJSpeech. Call it once per process, see :func:`record`."""
    import soundfile
    import soxr

    rng, voice = np.random.default_rng((seed, *reader.encode())), Voice(ACCENTS[0], reader)
    sentences = rng.permutation(np.array([line for split in TIMBRES for line in sentences_of(split)]))
    (folder / "wavs").mkdir()
    lines, total = [], 0.0
    for number, sentence in enumerate(sentences):
        if total >= 60 * minutes:
            break
        waveform = soxr.resample(speak(str(sentence), voice), ESPEAK_RATE, RATE)
        soundfile.write(folder / "wavs" / f"{number:04d}.wav", waveform, RATE, "PCM_16")
        lines.append(f"{number:04d}|{sentence}|{sentence}.\n")
        total += len(waveform) / RATE
    (folder / "metadata.csv").write_text("".join(lines), "utf-8")


def _describe(folder: Path, seconds: Iterable[tuple[Speaker, float]]) -> None:
    """Write SPEAKERS.TXT in the form of LibriSpeech."""
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME\n"]
    for speaker, length in sorted(seconds, key=lambda pair: pair[0].id):
        lines.append(
            f"{speaker.id:<5}| {speaker.sex} | {speaker.split:<17}| {length / 60:<6.2f}| {speaker.voice.name}\n"
        )
    (folder / "SPEAKERS.TXT").write_text("".join(lines), "utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        help="a new folder; LibriSpeech layout, subsets train-demo, dev-demo, test-demo",
    )
    add_output_argument(parser, "the same as DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=18.0, help="minutes of training speech (default: %(default)s)")
    parser.add_argument("--reader", metavar="TIMBRE", help=f"one clean voice instead: {', '.join(HELD_OUT)}")


def main(args: argparse.Namespace) -> None:
    """Make the demo corpus: telephone calls spoken by espeak-ng."""
    if (args.folder is None) == (args.output is None):
        raise UserError("make-demo-corpus", "it needs one directory to write to", "give it once, as DIR or with -o")
    folder = make_corpus(Path(args.folder or args.output), seed=args.seed, minutes=args.minutes, reader=args.reader)
    if args.reader:
        print(f"{counted(len(list((folder / 'wavs').iterdir())), 'utterance')} by {args.reader}")
        return
    for split in TIMBRES:
        print(f"{split}: {counted(len(list((folder / split).glob('*/*/*.flac'))), 'utterance')}")
