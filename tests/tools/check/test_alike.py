"""Copies of a recording, and recordings that only look like copies."""

from __future__ import annotations

import numpy as np
import pytest

from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tools.check import alike, sound
from sft_speech.tools.check.rows import load_rows

RATE = 16_000


def bursts(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Return noise with the same envelope for every seed."""
    samples = round(seconds * RATE)
    course = 0.05 + 0.4 * np.interp(
        np.arange(samples), np.arange(0, samples + 1, 2000), [1, 0, 2, 0, 1, 0, 0, 2] * 2 + [1]
    )
    return (course * np.random.default_rng(seed).uniform(-1, 1, samples)).astype(np.float32)


@pytest.fixture
def measured(build, tmp_path):
    """Return a function that makes a corpus of recordings and returns its rows and measurements."""

    def measured(**recordings: np.ndarray):
        builder = build(tmp_path / "corpus")
        for number, (id, samples) in enumerate(recordings.items()):
            builder.add("train" if number % 2 == 0 else "test", id, f"text {number}", "anna", samples)
        builder.write()
        source = str(builder.folder)
        corpora = {split: (source, split) for split in ("train", "test")}
        rows = load_rows(
            FinetuneAsrConfig(model="none", source=source, output_dir="none"), corpora, ["train", "evaluation"]
        )
        return rows, sound.measure_rows(rows, np.arange(len(rows)))

    return measured


def test_the_same_envelope_is_a_candidate_but_not_a_copy(measured):
    rows, recordings = measured(one=bursts(0), other=bursts(1))
    assert alike.candidates(recordings) == [(0, 1)]
    assert alike.findings(rows, recordings) == []


def test_a_copy_is_found_at_another_level_upside_down_or_with_some_noise(measured):
    noisy = 0.5 * bursts(2) + np.random.default_rng(9).normal(0, 0.01, 2 * RATE).astype(np.float32)
    rows, recordings = measured(one=bursts(0), softer=-0.2 * bursts(0), other=bursts(2), noisy=noisy)
    (found,) = alike.findings(rows, recordings)
    assert (found.severity, sorted(case.id for case in found.cases)) == ("problem", ["noisy", "softer"])
    assert {case.split for case in found.cases} == {"test"}


def test_equal_samples_are_another_finding(measured):
    _, recordings = measured(one=bursts(0), same=bursts(0))
    assert alike.candidates(recordings) == []
