"""The sections of a card on what a run kept and on its interpolation."""

from __future__ import annotations

from sft_speech.hub.forgetting import sections
from sft_speech.hub.plots import plots
from sft_speech.tasks.asr.spec import SPEC

KEPT = {"split": "keep_other_test", "metric": "wer", "before": 0.5, "unmixed": 0.75, "after": 0.25, "worse": False}
KEPT |= {"difference": -0.25, "interval": [-0.5, -0.125], "interval_over": "speakers"}
UNKNOWN = KEPT | {"split": "keep_mine", "before": None, "after": 0.75, "difference": None, "interval": None}
CURVE = [
    {"share": 0.0, "wer": 0.5, "difference": 0.375, "standard_error": 0.0625},
    {"share": 1.0, "wer": 0.125, "difference": 0.0, "standard_error": None},
]
MIXED = {"share": 0.5, "metric": "wer", "rule": "the smallest share", "curve": CURVE}
MIXED |= {"unmixed": {"eval_wer": 0.125}, "not_mixed": ["lm_head.weight"]}


def test_a_table_of_what_was_kept_is_literal():
    (heading, table) = sections({"keep": [KEPT, UNKNOWN]}, SPEC)
    assert heading == "## What it kept\n"
    assert table == (
        "| split | WER % before | without interpolation | after | difference |\n| --- | --- | --- | --- | --- |\n"
        "| other\\_test | 50.00 | 75.00 | 25.00 | -25.00 (-50.00 to -12.50) |\n"
        "| mine | – | 75.00 | 75.00 | – |\n\n"
        "In parentheses: paired 95 % bootstrap intervals over speakers. These splits selected nothing.\n"
    )
    plain = sections({"keep": [KEPT | {"unmixed": None, "interval": None}]}, SPEC)[1]
    assert plain.startswith("| split | WER % before | after | difference |")
    assert plain.endswith("| other\\_test | 50.00 | 25.00 | -25.00 |\n\nThese splits selected nothing.\n")


def test_the_lines_on_an_interpolation_are_literal():
    heading, *lines = sections({"interpolation": MIXED, "eval_wer": 0.15}, SPEC)
    assert heading == "## Interpolation\n"
    assert lines[0].endswith("with 0.5 of the latter (the smallest share).\n")
    assert lines[1] == "WER % on the evaluation split: 12.50 without interpolation, 15.00 with it.\n"
    assert lines[2].endswith("| 0.0 | 50.00 | 6.25 |\n| 1.0 | 12.50 | – |\n")
    assert lines[3] == "Not mixed, since they are new or of another shape at the start: lm\\_head.weight\n"
    given = MIXED | {"rule": "given", "curve": [], "not_mixed": [], "unmixed": {}}
    assert len(sections({"interpolation": given}, SPEC)) == 2


def test_a_run_without_either_has_no_section():
    assert sections({}, SPEC) == []


def test_the_curve_is_a_picture():
    assert plots([], SPEC, {"interpolation": MIXED})["plots/interpolation.png"].startswith(b"\x89PNG")
    assert plots([], SPEC, {"interpolation": MIXED | {"curve": []}}) == {}
