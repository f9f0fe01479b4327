"""A corpus with planted faults of every kind among clean utterances."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from sft_speech.corpora.espeak import ESPEAK_RATE, Voice, speak
from sft_speech.corpora.synthetic import sentences_of

RATE = 16_000
SPEAKERS = {"train": ("anna", "bob", "cleo"), "test": ("dora", "emil")}
VOICES = {
    "anna": Voice("en-us", "Annie", 160),
    "bob": Voice("en-us", "Andy", 170),
    "cleo": Voice("en-gb-x-rp", "linda", 165),
    "dora": Voice("en-us", "steph", 165),
    "emil": Voice("en-gb-x-rp", "zac", 170),
}


@dataclass
class Planted:
    """A folder with the splits train and test, and the ids of its faults by the key of the expected finding."""

    folder: Path
    faults: dict[str, set[str]] = field(default_factory=dict)
    swapped: set[str] = field(default_factory=set)

    @property
    def faulty(self) -> set[str]:
        return set().union(*self.faults.values())


def spoken(sentence: str, speaker: str, seed: int) -> np.ndarray:
    """Return a sentence by a speaker, with some noise."""
    waveform = soxr.resample(speak(sentence, VOICES[speaker]), ESPEAK_RATE, RATE)
    hiss = np.random.default_rng(seed).normal(0, 0.002, len(waveform))
    return (0.4 * waveform / np.abs(waveform).max() + hiss).astype(np.float32)


class Builder:
    """Writes utterances and keeps their rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
        self.samples: dict[str, np.ndarray] = {}
        self.sentences = {split: iter(sentences_of(f"{split}-demo")) for split in self.rows}

    def sentence(self, split: str) -> str:
        return next(line for line in self.sentences[split] if len(line.split()) >= 5)

    def add(self, split, id, text=None, speaker=None, samples=None, rate=RATE, suffix="wav", spoken_as=None) -> None:
        text = self.sentence(split) if text is None else text
        speaker = speaker or SPEAKERS[split][len(self.rows[split]) % len(SPEAKERS[split])]
        number = sum(map(len, self.rows.values()))
        samples = spoken(spoken_as or text, speaker, number) if samples is None else samples
        self.samples[id] = samples
        path = self.folder / split / f"clip-{number:03d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        # As integers: libsndfile rounds floats differently for each format.
        soundfile.write(path, samples if suffix == "ogg" else np.rint(32767 * samples).astype(np.int16), rate)
        self.rows[split].append({"id": id, "file_name": path.name, "text": text, "speaker": speaker})

    def path(self, split: str, id: str) -> Path:
        return self.folder / split / next(row["file_name"] for row in self.rows[split] if row["id"] == id)

    def write(self) -> None:
        for split, rows in self.rows.items():
            with open(self.folder / split / "metadata.csv", "w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, ["id", "file_name", "text", "speaker"])
                table.writeheader()
                table.writerows(rows)


@pytest.fixture(scope="session")
def build() -> type[Builder]:
    """The class that makes another corpus."""
    return Builder


@pytest.fixture(scope="session")
def clean(tmp_path_factory) -> Path:
    """The corpus without faults, in two splits."""
    builder = Builder(tmp_path_factory.mktemp("clean") / "corpus")
    plain_rows(builder)
    builder.write()
    return builder.folder


def plain_rows(builder: Builder) -> None:
    for split, count in (("train", 60), ("test", 20)):
        for number in range(count):
            builder.add(split, f"{split}-{number:02d}")


@pytest.fixture(scope="session")
def planted(tmp_path_factory) -> Planted:
    """The same corpus with faults of every kind."""
    found = Planted(tmp_path_factory.mktemp("planted") / "corpus")
    builder = Builder(found.folder)
    plain_rows(builder)
    _plant_sound(builder, found.faults)
    _plant_text(builder, found.faults)
    _plant_twice(builder, found.faults)
    pairs = [("train-10", "train-21"), ("train-32", "train-43"), ("test-04", "test-15")]
    for one, other in pairs:
        rows = [row for rows in builder.rows.values() for row in rows if row["id"] in (one, other)]
        rows[0]["text"], rows[1]["text"] = rows[1]["text"], rows[0]["text"]
        found.swapped |= {one, other}
    builder.write()
    _plant_files(builder, found.faults)
    return found


def _plant_sound(builder: Builder, faults: dict[str, set[str]]) -> None:
    loud = spoken(text := builder.sentence("train"), "anna", 1)
    builder.add("train", "clipped", text, "anna", np.clip(6 * loud, -1, 1))
    text = builder.sentence("train")
    speech = spoken(text, "bob", 2)
    gap = np.zeros(int(1.5 * len(speech)), np.float32)
    builder.add("train", "gappy", text, "bob", np.concatenate([speech, gap]))
    builder.add("train", "faint", text := builder.sentence("train"), "cleo", spoken(text, "cleo", 3) * 0.004)
    builder.add("train", "offset", text := builder.sentence("train"), "anna", spoken(text, "anna", 4) + 0.1)
    text = builder.sentence("train")
    left = spoken(text, "anna", 5)
    builder.add("train", "stereo", text, "anna", np.stack([left, left], 1))
    text = builder.sentence("train")
    left = spoken(text, "bob", 6)
    builder.add("train", "upside-down", text, "bob", np.stack([left, -0.98 * left], 1))
    text = builder.sentence("train")
    slow = soxr.resample(spoken(text, "bob", 7), RATE, 8000)
    builder.add("train", "telephone", text, "bob", slow, rate=8000)
    builder.add("train", "silent", None, "anna", np.zeros(2 * RATE, np.float32))
    faults |= {
        "clipping": {"clipped"},
        "mostly_silence": {"gappy"},
        "quiet": {"faint"},
        "dc_offset": {"offset"},
        "channels": {"stereo", "upside-down"},
        "cancelling_channels": {"upside-down"},
        "rare_rate": {"telephone"},
        "dropped_silent": {"silent"},
    }


def _plant_text(builder: Builder, faults: dict[str, set[str]]) -> None:
    builder.add("train", "empty", " ... ", spoken_as="this is said but nobody wrote it down")
    builder.add("test", "wordless", "?!", spoken_as="nobody wrote this down either")
    builder.add("train", "letter", "a", spoken_as="this is a longer sentence than that")
    builder.add("train", "clip-name-7", "clip-name-7", spoken_as="the name of the file is the text")
    builder.add("train", "null", "NULL", spoken_as="there was no value in the table")
    text = builder.sentence("train")
    builder.add("train", "half", text.split()[0], spoken_as=" ".join([text] * 4))
    builder.add("train", "dense", " ".join([builder.sentence("train") for _ in range(3)]), spoken_as="yes please")
    builder.add("train", "homoglyph", "the c\u0430t sat on the mat", spoken_as="the cat sat on the mat")
    builder.add(
        "train", "cyrillic", "they said \u043f\u0440\u0438\u0432\u0435\u0442 to us", spoken_as="they said hello to us"
    )
    builder.add("train", "invisible", "a word\u200b joiner\u202e is in here", spoken_as="a word joiner is in here")
    builder.add("train", "damaged", "we met in the cafÃ© at noon", spoken_as="we met in the cafe at noon")
    builder.add("train", "marked", "and then [laughter] he went home", spoken_as="and then he went home")
    builder.add("train", "digits", "platform 9 is closed & empty", spoken_as="platform nine is closed and empty")
    faults |= {
        "dropped_empty_transcript": {"empty", "wordless"},
        "one_letter": {"letter"},
        "transcript_is_name": {"clip-name-7"},
        "placeholder": {"null"},
        "pace": {"half", "letter", "null"},
        "dropped_more_labels_than_frames": {"dense"},
        "mixed_scripts": {"homoglyph"},
        "foreign_letters": {"homoglyph", "cyrillic"},
        "invisible_characters": {"invisible"},
        "damaged_encoding": {"damaged"},
        "markup": {"marked"},
        "folded_letters": set(),  # those of the damaged encoding
        "digits_and_symbols": {"digits", "clip-name-7"},
    }


def _plant_twice(builder: Builder, faults: dict[str, set[str]]) -> None:
    samples, texts = builder.samples, {row["id"]: row["text"] for row in builder.rows["train"]}
    padded = np.concatenate([np.zeros(500, np.float32), samples["train-05"]])
    builder.add("test", "leak", texts["train-05"], "dora", padded, suffix="flac")
    builder.add("train", "copy", texts["train-06"], "anna", samples["train-06"])
    builder.add("train", "copy-other-text", builder.sentence("train"), "bob", samples["train-07"])
    builder.add("test", "softer", texts["train-12"], "dora", 0.3 * samples["train-12"])
    builder.add("train", "lossy", texts["train-13"], "anna", samples["train-13"], suffix="ogg")
    builder.add("test", "same-text", texts["train-08"], "emil")
    builder.add("test", "same-speaker", None, "anna")
    builder.add("test", "train-09", None, "dora")  # an id of the training split
    builder.add("train", "twice")
    builder.add("train", "twice")
    faults |= {
        "audio_across_splits": {"leak"},
        "repeated_audio": {"copy"},
        "audio_with_two_transcripts": {"train-07", "copy-other-text"},
        "alike_audio": {"softer", "lossy"},
        "text_across_splits": {"leak", "softer", "same-text"},
        "speaker_across_splits": {"same-speaker"},
        "id_across_splits": {"train-09"},
        "duplicate_id": {"twice"},
    }


def _plant_files(builder: Builder, faults: dict[str, set[str]]) -> None:
    """Damage the files of clean rows."""
    builder.path("train", "train-50").unlink()
    whole = builder.path("train", "train-51").read_bytes()
    builder.path("train", "train-51").write_bytes(whole[: len(whole) // 2])
    builder.path("test", "test-10").write_bytes(b"this is no audio at all, whatever its name says")
    builder.path("test", "test-11").write_bytes(b"")
    soundfile.write(builder.folder / "train" / "unlisted.wav", np.full(RATE, 0.1, np.float32), RATE)
    faults |= {
        "dropped_missing_file": {"train-50"},
        "dropped_truncated": {"train-51"},
        "dropped_not_audio": {"test-10"},
        "dropped_empty": {"test-11"},
        "dropped_no_transcript": {"unlisted.wav"},
    }
