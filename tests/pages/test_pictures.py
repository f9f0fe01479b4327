"""Figures: what their axes and labels say."""

from __future__ import annotations

import numpy as np

from sft_speech.pages import pictures


def test_a_histogram_marks_an_open_last_bar():
    values = np.append(np.linspace(1, 2, 999), 90.0)
    assert "≥ 2</text>" in pictures.histogram("Duration", values, "seconds")
    assert "≥" not in pictures.histogram("Duration", np.full(9, 2.0), "seconds")


def test_a_value_far_above_the_others_does_not_flatten_the_curve():
    drawn = pictures.lines("WER", [("a", [0, 5, 10], [600.0, 10.0, 4.0])], "step")
    assert "↑ 600" in drawn
    assert ">15</text>" in drawn  # the end of the axis
    assert "↑" not in pictures.lines("WER", [("a", [0, 5, 10], [20.0, 10.0, 4.0])], "step")
