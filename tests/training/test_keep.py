"""What a model keeps, as a table and as advice."""

from __future__ import annotations

import pytest

from sft_speech.metrics.change import Change
from sft_speech.metrics.intervals import Comparison, Interval
from sft_speech.options.spec import Metric
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.training.keep import advice, row_of, table

WER = Metric("wer", "WER %", scale=100)


def row(split: str, before: float, after: float, low: float, high: float, unmixed: float | None = None) -> dict:
    comparison = Comparison(after - before, Interval(low, high, "speakers"), 0.01, 0.02)
    return row_of(split, after, unmixed, Change(split, WER, before, after, comparison), "wer")


def test_the_table_is_literal():
    rows = [row("keep_libri_test", 0.169, 0.975, 0.75, 0.85), row("keep_ours", 0.2, 0.21, -0.01, 0.03)]
    assert table([*rows, row_of("keep_new", 0.5, None, None, "wer")], WER) == (
        "to keep          WER % before  after  difference\n"
        "keep_libri_test         16.90  97.50      +80.60  paired 95 % interval +75.00 to +85.00 over speakers, worse\n"
        "keep_ours               20.00  21.00       +1.00  paired 95 % interval -1.00 to +3.00 over speakers\n"
        "keep_new                    –  50.00           –"
    )
    assert table([row("keep_libri", 0.169, 0.18, -0.01, 0.03, unmixed=0.975)], WER) == (
        "to keep     WER % before  trained  after  difference\n"
        "keep_libri         16.90    97.50  18.00       +1.10  paired 95 % interval -1.00 to +3.00 over speakers"
    )


def test_a_row_has_all_figures():
    assert row("keep_libri", 0.5, 0.25, -0.5, -0.125, unmixed=0.125) == {
        "split": "keep_libri",
        "metric": "wer",
        "before": 0.5,
        "unmixed": 0.125,
        "after": 0.25,
        "difference": -0.25,
        "interval": [-0.5, -0.125],
        "interval_over": "speakers",
        "worse": False,
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {},
            "`interpolate: auto`, replay of such data through `sources`, `lora_rank: 8`, or fewer parts by `train`",
        ),
        (
            {"interpolate": 0.5},
            "replay of such data through `sources`, `lora_rank: 8`, or fewer parts by `train`",
        ),
    ],
)
def test_advice_leaves_out_what_the_run_does_already(values, expected):
    config = FinetuneAsrConfig(model="m", source="s", output_dir="o", **values)
    assert advice(config) == expected
