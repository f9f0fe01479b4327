"""Write the corpus of the embedded recognizer: real and synthetic speech, decoded and augmented once.

python scripts/prepare_small.py --real data/LibriSpeech train-clean-100 --text SENTENCES --output data/small

The folder holds WAV files of 16 kHz and a ``metadata.csv`` whose column ``split`` names the parts: ``NAME-0`` has the
recordings as they are, ``NAME-1`` and further ones augmented versions of them (speed, vocal tract, spectrum, noise,
room), ``NAME-words`` one to three words of each recording, cut out by --aligner, and ``synthetic`` the voices of
espeak-ng that read sentences of --text. Each part is listed once it is complete, so that training can begin before the
others are; parts that are listed already are skipped. All draws depend on (seed, part, index) alone.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pretrain_small import RATE, SyntheticSpeech, normalize

COLUMNS = ["file_name", "text", "speaker", "split"]
LEAST_SURE = -1.0  # mean log-probability of the characters of words that are cut out
Clip = tuple[str, np.ndarray, str, str]  # name, waveform (S,), transcript, speaker


def recordings(corpora: list[list[str]], left_out: list[str], part: str, seed: int, augmented: bool) -> Iterator[Clip]:
    """Yield the clips of the corpora, without those of some speakers.

    Args:
        corpora: pairs of a source and a split; "" is all of it.
    """
    from sft_speech.audio import augment
    from sft_speech.audio.read import read_row
    from sft_speech.corpora import load_corpus
    from sft_speech.text.numbers import spell_numbers

    for source, split in corpora:
        for row in load_corpus(source, split or None):
            name = f"{row['id']}".replace("/", "_")
            if row["speaker"] in left_out or any(name.startswith(f"{one}-") for one in left_out):
                continue
            waveform = read_row(row, RATE)
            if augmented:
                rng = np.random.default_rng((seed, zlib.crc32(f"{part}/{name}".encode())))
                waveform = augment.standard(waveform, RATE, rng)
            yield name, waveform, normalize(spell_numbers(row["text"], "en")), row["speaker"]


def words(clips: Iterator[Clip], aligner: Path, seed: int) -> Iterator[Clip]:
    """Yield one to three words of each clip, where the aligner is sure of them."""
    import torch
    from torchaudio.functional import forced_align
    from transformers import AutoModelForCTC, AutoProcessor

    model, processor = AutoModelForCTC.from_pretrained(aligner).eval(), AutoProcessor.from_pretrained(aligner)
    for name, waveform, text, speaker in clips:
        labels = processor.tokenizer(text, return_tensors="pt").input_ids.int()
        with torch.inference_mode():
            features = processor(waveform, sampling_rate=RATE, return_tensors="pt").input_values
            scores = model(features).logits.log_softmax(-1)
        if len(text.split()) < 5 or scores.shape[1] < 2 * labels.shape[1]:
            continue
        path, sure = (one[0].numpy() for one in forced_align(scores, labels, blank=model.config.pad_token_id))
        spoken: list[list[int]] = [[]]  # frames of each word's characters
        boundary = processor.tokenizer.word_delimiter_token_id
        before = model.config.pad_token_id
        for frame, label in enumerate(path):
            if label == boundary != before:
                spoken.append([])
            elif label not in (boundary, model.config.pad_token_id):
                spoken[-1].append(frame)
            before = label
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        count = int(rng.integers(1, 4))
        first = int(rng.integers(1, len(spoken) - count))
        frames = [frame for word in spoken[first : first + count] for frame in word]
        if np.mean(sure[frames]) < LEAST_SURE:
            continue
        # A word ends half-way between its last character and the next word's first one.
        start, end = spoken[first - 1][-1] + frames[0], frames[-1] + spoken[first + count][0]
        ratio = len(waveform) / len(path) / 2
        piece = waveform[int(start * ratio) : int(end * ratio)]
        yield name, piece, " ".join(text.split()[first : first + count]), speaker


def synthetic(sentences: list[str], hours: float, seed: int) -> Iterator[Clip]:
    """Yield so many hours of synthetic speech."""
    speech = SyntheticSpeech(sentences, seed, Path(), recorded=False)
    index, left = 0, hours * 3600 * RATE
    while left > 0:
        waveform, text = speech[index]
        yield f"{index:06d}", waveform, text, "espeak-ng"
        index, left = index + 1, left - len(waveform)


def write_part(output: Path, part: str, clips: Iterator[Clip]) -> None:
    """Write the clips of a part, then list them in the table."""
    import soundfile

    (output / part).mkdir(parents=True, exist_ok=True)
    rows, seconds = [], 0.0
    for name, waveform, text, speaker in clips:
        loudest = max(1.0, float(np.abs(waveform).max(initial=0)) / 0.99)  # augmented clips may exceed 16 bits
        file = f"{part}/{name}.wav"
        soundfile.write(output / file, waveform / loudest, RATE, subtype="PCM_16")
        rows.append([file, text, speaker, part])
        seconds += len(waveform) / RATE
    table = output / "metadata.csv"
    new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([COLUMNS, *rows] if new else rows)
    print(f"{part}: {len(rows)} clips, {seconds / 3600:.2f} h", flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", nargs=2, action="append", default=[], metavar=("SOURCE", "SPLIT"))
    parser.add_argument("--name", default="real", help="of the parts made from --real [real]")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="SPEAKER")
    parser.add_argument("--versions", type=int, default=2, help="augmented versions of each recording [2]")
    parser.add_argument("--aligner", type=Path, metavar="MODEL", help="a CTC checkpoint that cuts words [no words]")
    parser.add_argument("--text", type=Path, help="a file with one sentence per line, or id|sentence")
    parser.add_argument("--synthetic-hours", type=float, default=4.0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the parts that are not there yet."""
    table, done = args.output / "metadata.csv", set()
    if table.exists():
        with table.open(newline="", encoding="utf-8") as lines:
            done = {row["split"] for row in csv.DictReader(lines)}
    for version in range(1 + args.versions):
        if args.real and (part := f"{args.name}-{version}") not in done:
            clips = recordings(args.real, args.leave_out, part, args.seed, augmented=version > 0)
            write_part(args.output, part, clips)
        if version == 0 and args.aligner and (part := f"{args.name}-words") not in done:
            clips = recordings(args.real, args.leave_out, part, args.seed, augmented=False)
            write_part(args.output, part, words(clips, args.aligner, args.seed))
        if version == 0 and args.text and "synthetic" not in done:
            lines = [normalize(line.split("|")[-1]) for line in args.text.read_text(encoding="utf-8").splitlines()]
            # every fiftieth sentence is left for tests, as in pretrain_small.py
            sentences = [line for number, line in enumerate(lines) if line and number % 50]
            write_part(args.output, "synthetic", synthetic(sentences, args.synthetic_hours, args.seed))


if __name__ == "__main__":
    main(make_parser().parse_args())
