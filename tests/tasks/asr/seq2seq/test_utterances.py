"""Targets with timestamps for segments of longer recordings."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.asr.loading import build
from sft_speech.tasks.asr.seq2seq.checkpoint import load_checkpoint
from sft_speech.tasks.asr.seq2seq.utterances import Seq2SeqUtterances
from sft_speech.training.rows import StoredRows

RATE = 16_000


@pytest.fixture
def rows(tmp_path):
    """A segment of 1.234 s, and a whole file."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 3 * RATE), RATE)
    audio = {"path": str(path), "bytes": None}
    segment = {"id": "a", "audio": audio, "text": "the a", "seconds": 1.234, "start": 0.5}
    return [segment, segment | {"id": "b", "seconds": 3.0, "start": None}]


@pytest.fixture(scope="module")
def transcripts(tiny_seq2seq):
    return load_checkpoint(tiny_seq2seq("whisper"), language="de").transcripts


def target(transcripts, utterance) -> list[str]:
    return transcripts.tokenizer.convert_ids_to_tokens(utterance["prefix"] + utterance["labels"])


START = ["<|startoftranscript|>", "<|de|>", "<|transcribe|>"]
TEXT = ["Ġthe", "Ġ", "a"]


def test_segments_have_timestamps_and_whole_files_have_none(rows, transcripts):
    utterances = Seq2SeqUtterances(rows, RATE, transcripts, timestamp_share=1.0)
    segment, file = (target(transcripts, utterances[(0, number)]) for number in range(2))
    assert segment == [*START, "<|0.00|>", *TEXT, "<|1.24|>", "<|endoftext|>"], "to 20 ms"
    assert file == [*START, "<|notimestamps|>", *TEXT, "<|endoftext|>"]
    without = Seq2SeqUtterances(rows, RATE, transcripts, timestamp_share=0.0)
    assert target(transcripts, without[(0, 0)]) == file


def test_the_end_is_that_of_the_augmented_audio(rows, transcripts):
    def slowed(waveform, rate, rng):
        return np.pad(waveform, (0, rate // 2))

    utterances = Seq2SeqUtterances(rows, RATE, transcripts, timestamp_share=1.0, augment=slowed)
    assert target(transcripts, utterances[(0, 0)])[-2] == "<|1.74|>"


def test_a_share_has_timestamps_drawn_for_each_epoch_and_utterance(rows, transcripts):
    utterances = Seq2SeqUtterances(rows[:1] * 20, RATE, transcripts, timestamp_share=0.25, seed=3)

    def timed(epoch: int) -> list[bool]:
        return ["<|0.00|>" in target(transcripts, utterances[(epoch, number)]) for number in range(20)]

    drawn = [timed(epoch) for epoch in range(10)]
    assert drawn[0] != drawn[1]
    assert drawn[0] == timed(0)
    assert 30 < sum(map(sum, drawn)) < 70, "a quarter of 200"


def test_noise_for_the_memory_check_needs_no_language(rows, tiny_seq2seq):
    several = load_checkpoint(tiny_seq2seq("whisper"), any_language=True).transcripts
    assert several.language is None
    made = Seq2SeqUtterances([], RATE, several, timestamp_share=0.5).made_of(rows[1], 0, 0)
    assert len(made["prefix"]) == 4


@pytest.mark.skipif("SFT_SPEECH_DATA" not in os.environ, reason="SFT_SPEECH_DATA is not set: no real speech here")
@pytest.mark.skipif(
    "SFT_SPEECH_WHISPER" not in os.environ, reason="SFT_SPEECH_WHISPER is not set: no real Whisper here"
)
def test_segments_of_a_real_chapter(tmp_path):
    """Every target ends with the length of its segment, and no timestamp is beyond 30 s."""
    (listed,) = Path(os.environ["SFT_SPEECH_DATA"], "longform").glob("*.segments.csv")
    recording, manifest = str(listed).replace(".segments.csv", ".opus"), tmp_path / "chapter.csv"
    with listed.open() as given, manifest.open("w", newline="") as file:
        table = csv.DictWriter(file, ["audio", "id", "start", "end", "text"])
        table.writeheader()
        segments = [{"audio": recording, **row} for row in csv.DictReader(given)]
        table.writerows(segments[:30])
        table.writerow(segments[0] | {"id": "long", "start": 10, "end": 45})
    model = os.environ["SFT_SPEECH_WHISPER"]
    config = FinetuneAsrConfig(model=model, source=str(manifest), output_dir="unused", timestamp_share=0.5)
    task, given = build(config), StoredRows(load_corpus(manifest))
    task.load(given)
    report = CorpusReport()
    usable = task.usable("train", given, report)
    dropped = {row.id: (row.reason, row.detail) for row in report.dropped("train")}
    assert dropped == {"long": ("too long", "35.0 s, max_seconds is 30: `sft-speech cut` cuts it")}
    dataset, counts = task.dataset(usable), Counter()
    for number, row in enumerate(usable.table):
        tokens = dataset[(0, number)]
        times = [(label - task.checkpoint.transcripts.first_timestamp) * 0.02 for label in tokens["labels"]]
        times = [time for time in times if time >= 0]
        counts[len(times)] += 1
        if times:
            assert times == pytest.approx([0.0, row["seconds"]], abs=0.0101)
            assert max(times) <= 30.0
            assert len(tokens["prefix"]) == 1
        text = task.checkpoint.transcripts.decode(tokens["labels"])
        assert text == re.sub(r"\s+", " ", row["text"])
    assert counts.keys() == {0, 2}
    assert counts[2] > 5
