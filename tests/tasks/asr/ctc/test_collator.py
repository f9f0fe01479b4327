"""Rows in, exact tensors out."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from sft_speech.tasks.asr.ctc.collator import CTCCollator
from sft_speech.training.utterances import Utterances


class FourSamplesToAFrame:
    """What the collator needs of a checkpoint, at 100 samples per second."""

    rate = 100

    def frames(self, samples):
        return np.asarray(samples) // 4

    def encode(self, text):
        return [ord(character) - ord("A") + 1 for character in text]

    def features(self, waveforms):
        width = max(map(len, waveforms))
        values = [np.pad(waveform, (0, width - len(waveform))) for waveform in waveforms]
        return {"input_values": torch.from_numpy(np.stack(values))}


@pytest.fixture
def rows(tmp_path):
    """Two utterances, a segment, and one whose file is not audio."""
    for name, samples in (("a", [0.5] * 8), ("b", [0.25] * 12)):
        soundfile.write(tmp_path / f"{name}.wav", np.array(samples), 100, subtype="FLOAT")
    (tmp_path / "c.wav").write_text("no audio")

    def row(name: str, text: str, seconds: float, start: float | None = None) -> dict:
        audio = {"path": str(tmp_path / f"{name}.wav"), "bytes": None}
        return {"id": name, "audio": audio, "text": text, "seconds": seconds, "start": start}

    return [row("a", "AB", 0.08), row("b", "C", 0.12), row("b", "CC", 0.04, 0.08), row("c", "A", 0.04)]


def collate(rows, indices):
    checkpoint = FourSamplesToAFrame()
    utterances = Utterances(rows, checkpoint.rate, checkpoint.encode)
    return CTCCollator(checkpoint)([utterances[(0, index)] for index in indices])


def test_two_rows(rows):
    batch = collate(rows, [0, 1])
    assert batch["input_values"].tolist() == [[0.5] * 8 + [0.0] * 4, [0.25] * 12]
    assert batch["labels"].tolist() == [[1, 2], [3, -100]]
    assert batch["frames"].tolist() == [2, 3]
    assert batch["seconds"].item() == pytest.approx(0.2)


def test_padding_to_a_multiple(rows):
    utterances = [Utterances(rows, 100, FourSamplesToAFrame().encode)[(0, index)] for index in (0, 1)]
    batch = CTCCollator(FourSamplesToAFrame(), whole_seconds=0.05)(utterances)
    assert batch["input_values"].tolist() == [[0.5] * 8 + [0.0] * 7, [0.25] * 12 + [0.0] * 3]
    assert batch["frames"].tolist() == [2, 3]
    full = CTCCollator(FourSamplesToAFrame(), whole_seconds=0.05, max_batch_seconds=0.26)(utterances)
    assert full["input_values"].shape == (2, 13)
    over = CTCCollator(FourSamplesToAFrame(), whole_seconds=0.05, max_batch_seconds=0.2)(utterances)
    assert over["input_values"].shape == (2, 12)


def test_a_segment(rows):
    batch = collate(rows, [2])
    assert batch["input_values"].tolist() == [[0.25] * 4]
    assert batch["labels"].tolist() == [[3, 3]]


def test_weights_of_the_loss(rows):
    assert "weights" not in collate(rows, [0, 1])
    rows[0]["weight"], rows[1]["weight"], rows[3]["weight"] = 0.25, None, 3.0
    assert collate(rows, [1, 0, 3])["weights"].tolist() == [1.0, 0.25]  # one has none, and one cannot be read
    assert "weights" not in collate(rows, [3])


def test_unreadable_audio_is_left_out_with_a_warning(rows, caplog):
    batch = collate(rows, [3, 0])
    assert batch["labels"].tolist() == [[1, 2]]
    assert "utterance c left out" in caplog.text


def test_a_batch_of_which_nothing_can_be_read_has_no_loss(rows):
    batch = collate(rows, [3])
    assert batch["input_values"].tolist() == [[0.0] * 100]
    assert (batch["labels"] == -100).all()


def test_augmentation_is_that_of_the_epoch_and_the_utterance(rows):
    def louder(waveform, rate, rng):
        return waveform * np.float32(rng.uniform(1, 2))

    utterances = Utterances(rows, 100, FourSamplesToAFrame().encode, augment=louder, seed=1)
    first, again, later = (utterances[key]["waveform"][0] for key in ((0, 0), (0, 0), (1, 0)))
    assert first == again != later
