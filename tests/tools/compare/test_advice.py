"""The recommendation in words, situation by situation, and the files that show it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import ACCURACY, classified, compared, finished, recognized
from markdown_it import MarkdownIt

from sft_speech.tools.compare.advice import advice, command
from sft_speech.tools.compare.judge import judge
from sft_speech.tools.compare.outcomes import Outcome
from sft_speech.tools.compare.report import document, summary, table_csv, write_report
from sft_speech.tools.compare.table import legend, table

HOSTILE = "<script>alert(1)</script> | *a*\n\u202eb"


def errors(share: float, size: int = 40, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).binomial(10, share, size).tolist()


def failed(name: str, why: str, status: str = "failed") -> Outcome:
    return Outcome(name, {}, Path("nowhere"), status, why, {}, [], 0, 0, 0, None, 0, None, None)


def test_two_that_cannot_be_told_apart_and_one_is_smaller(tmp_path):
    of_a, of_b = recognized([1] * 20 + [2] * 20, 10, 2), recognized([1] * 21 + [2] * 19, 10, 2)
    outcomes = [finished(tmp_path, "a", of_a, bytes=40_000_000), finished(tmp_path, "b", of_b, bytes=120_000_000)]
    found = judge(compared(outcomes))
    assert advice(found) == [
        "Take a: it can't be told apart from the best, b, on 40 utterances of 2 speakers, and is 3.0 times smaller "
        "(40.0 MB against 120.0 MB).",
        "b has WER 14.8 % [13.2, 16.2], a WER 15.0 % [13.5, 16.5]: difference of 0.3 points, 95 % interval 0.0 to 0.8, "
        "p = 0.74.",
        "To show that a difference of 0.3 points between b and a is real, about 270 more utterances of more speakers "
        "would be needed (four times out of five, going by the standard error of 0.2 points).",
        "2 speakers: too few to draw whole speakers, so intervals and p-values are for utterances of the same "
        "speakers, and too sure of themselves for others.",
        "dev both decided and gives these figures: the best of 2 on the same utterances looks better than it is. "
        "Set test_splits for a figure to report.",
    ]
    assert command(found) == f"sft-speech transcribe {outcomes[0].folder} speech.wav"
    assert summary(found).splitlines() == [
        advice(found)[0],
        *(f"- {line}" for line in advice(found)[1:]),
        command(found),
    ]


def test_a_clear_winner_with_a_test_split(tmp_path):
    outcomes = [
        finished(tmp_path, "good", recognized([1] * 40), test=recognized([2] * 40)),
        finished(tmp_path, "bad", recognized(errors(0.5)), test=recognized([1] * 40)),
    ]
    assert advice(judge(compared(outcomes, test=True))) == [
        "Take good: with WER 10.0 % [10.0, 10.0] it is better than every other candidate on 40 utterances. The next is "
        "bad with WER 51.2 % [45.8, 56.5] (difference of 41.2 points, 95 % interval 35.8 to 46.5, p < 0.001).",
        "The speakers are not known: utterances count as independent, which makes intervals too narrow.",
        "dev decided. good on splits that did not decide: test 20.0 % [20.0, 20.0].",
    ]


def test_nothing_beats_the_untrained_checkpoint(tmp_path):
    before = recognized([1] * 40)
    outcomes = [
        finished(tmp_path, name, recognized(errors(0.3, seed=seed)), before=before, settings={"model": "tiny.en"})
        for seed, name in enumerate("ab")
    ]
    found = judge(compared(outcomes))
    assert advice(found)[0].startswith(
        "Nothing beats the untrained checkpoint tiny.en: it has WER 10.0 % [10.0, 10.0], and the best candidate, "
    )
    assert advice(found)[0].endswith("Use it as it is.")
    assert command(found) == "sft-speech transcribe tiny.en speech.wav"
    assert found.chosen is None


def test_training_that_is_not_shown_to_help(tmp_path):
    lines, before = recognized([1] * 39 + [2]), recognized([1] * 38 + [2, 2])
    outcomes = [finished(tmp_path, "a", lines, before=before, settings={"model": "tiny.en"})]
    text = advice(judge(compared(outcomes)))
    assert text[0] == "Only a finished, with WER 10.2 % [10.0, 10.8]: there is nothing to compare it with."
    assert text[1].startswith("tiny.en had WER 10.5 % [10.0, 11.2] before training, and a can't be told apart from it")
    assert text[1].endswith("that training helps is not shown.")


def test_all_are_useless(tmp_path):
    outcomes = [finished(tmp_path, name, recognized([10 + n] * 40)) for n, name in enumerate("ab")]
    found = judge(compared(outcomes))
    assert advice(found)[0] == (
        "All candidates are useless: the best, a, has WER 100.0 % [100.0, 100.0]. Take none of them: look at the data "
        "(sft-speech check), train for longer, or start from another model."
    )
    assert command(found) == ""


def test_a_classifier_that_guesses_is_useless(tmp_path):
    guesses = (np.random.default_rng(0).random(60) < 0.5).tolist()
    outcome = finished(tmp_path, "a", classified(guesses), metric="accuracy")
    text = advice(judge(compared([outcome], ACCURACY)))[0]
    assert text.startswith("All candidates are useless: the best, a, has accuracy ")
    assert "and always answering the most frequent label has 50.0 %" in text


def test_a_smaller_one_that_is_more_than_a_standard_error_worse_is_not_taken(tmp_path):
    rng = np.random.default_rng(1)
    base = rng.integers(1, 5, 40)
    worse = base + rng.permutation([2] * 7 + [-1] * 6 + [0] * 27)
    found = judge(
        compared(
            [
                finished(tmp_path, "large", recognized(base.tolist()), bytes=90_000_000),
                finished(tmp_path, "small", recognized(worse.tolist()), bytes=30_000_000),
            ]
        )
    )
    versus = found.candidates[1].versus
    assert versus.p_value > 0.05
    assert versus.difference > versus.error
    text = advice(found)
    assert text[0].startswith("Take large: it has the lowest error, WER 25.5 % [22.0, 29.0]; ")
    assert text[0].endswith(
        "; small can't be told apart from it on 40 utterances, but within one standard error no other is clearly "
        "smaller, faster or cheaper to train."
    )
    assert text[1] == (
        "small is 3.0 times smaller (30.0 MB against 90.0 MB), and can't be told apart from the best either. It is not "
        f"taken because its figure is {100 * versus.difference:.1f} points worse, which is more than one standard "
        f"error ({100 * versus.error:.1f} points)."
    )


def test_of_equal_size_the_faster_then_the_cheaper_to_train_is_taken(tmp_path):
    same = {"bytes": 1000, "updates": 10}
    outcomes = [
        finished(tmp_path, "a", recognized([1] * 40), audio_seconds_per_second=10.0, seconds_per_update=1.0, **same),
        finished(tmp_path, "b", recognized([1] * 40), audio_seconds_per_second=50.0, seconds_per_update=9.0, **same),
        finished(tmp_path, "c", recognized([1] * 40), audio_seconds_per_second=48.0, seconds_per_update=3.0, **same),
    ]
    found = judge(compared(outcomes))
    assert found.chosen.name == "c"
    assert advice(found)[0] == (
        "Take c: it has the same figures as a on each of 40 utterances, WER 10.0 % [10.0, 10.0], and is 4.8 times "
        "faster in use (48 against 10 x real time)."
    )
    assert advice(found)[1] == "Nor can b be told apart from a."


def test_many_alike_are_counted(tmp_path):
    outcomes = [finished(tmp_path, f"c{n}", recognized(errors(0.2, seed=n))) for n in range(6)]
    found = judge(compared(outcomes))
    best = found.candidates[0].name
    assert advice(found)[0].startswith(f"Take {best}: it has the lowest error, WER ")
    assert advice(found)[0].endswith(
        "; 5 others can't be told apart from it on 40 utterances, but within one standard error no other is clearly "
        "smaller, faster or cheaper to train."
    )
    assert "5 candidates were compared with the best; their p-values are adjusted for that (Holm)." in advice(found)


def test_failed_and_dropped_ones_are_named(tmp_path):
    others = [failed("big", "CUDA out of memory"), failed("slow", "after round 1 at WER 41.0 %", "dropped")]
    found = judge(compared([*others, finished(tmp_path, "a", recognized([1] * 40))]))
    assert advice(found)[-2:] == [
        "big failed: CUDA out of memory.",
        "slow was dropped: after round 1 at WER 41.0 %.",
    ]
    many = [failed(f"slow{n}", "after round 1 at WER 41.0 %", "dropped") for n in range(3)]
    found = judge(compared([*many, finished(tmp_path, "b", recognized([1] * 40))]))
    assert advice(found)[-1] == "3 candidates were dropped on the way; the table says when."
    nothing = judge(compared(others[:1]))
    assert advice(nothing) == [
        "No candidate finished, so there is nothing to recommend.",
        "big failed: CUDA out of memory.",
    ]
    assert command(nothing) == ""


def test_without_figures_of_utterances_no_difference_is_claimed(tmp_path):
    outcomes = [
        replace(finished(tmp_path, name, []), figures={"eval_wer": wer}) for name, wer in (("a", 0.2), ("b", 0.1))
    ]
    assert advice(judge(compared(outcomes)))[0] == (
        "b has the best figure, WER 10.0 %. Whether that is chance is not known: there are no figures of "
        "single utterances."
    )


def test_the_table(tmp_path):
    costs: dict[str, Any] = {
        "trained_parameters": 1000,
        "parameters": 4000,
        "bytes": 16_000,
        "peak_bytes": 2_000_000_000,
    }
    costs |= {"seconds_per_update": 0.5, "updates": 300}
    outcomes = [
        finished(tmp_path, "a", recognized([1] * 40), test=recognized([2] * 40), **costs),
        finished(tmp_path, "b", recognized([5] * 40), test=recognized([2] * 40), audio_seconds_per_second=12.0),
        failed("c", "broken"),
    ]
    heads, rows = table(judge(compared(outcomes, test=True)))
    found = [dict(zip(heads, row, strict=True)) for row in rows]
    assert [one["candidate"] for one in found] == ["a", "b", "c"]
    assert {key: value for key, value in found[0].items() if value} == {
        "": "1",
        "candidate": "a",
        "status": "recommended",
        "WER %, dev": "10.0 [10.0, 10.0]",
        "WER %, test": "20.0 [20.0, 20.0]",
        "trained": "1 k (25 %)",
        "size": "16.0 kB",
        "peak memory": "2.0 GB",
        "s/update": "0.5",
        "updates": "300",
        "training": "2.5 min",
    }
    assert {key: value for key, value in found[1].items() if value} == {
        "": "2",
        "candidate": "b",
        "WER %, dev": "50.0 [50.0, 50.0]",
        "WER %, test": "20.0 [20.0, 20.0]",
        "difference": "40.0 [40.0 to 40.0]",
        "p": "< 0.001",
        "speed": "12 x",
    }
    assert {key: value for key, value in found[2].items() if value} == {"candidate": "c", "status": "failed: broken"}


def test_updates_that_are_the_same_for_all_are_below_the_table(tmp_path):
    outcomes = [finished(tmp_path, name, recognized([n] * 40), updates=1200) for n, name in enumerate("ab", 1)]
    found = judge(compared([*outcomes, failed("c", "broken")]))
    assert "updates" not in table(found)[0]
    assert legend(found).endswith("Every candidate was trained for 1,200 updates.")
    found = judge(compared([outcomes[0], replace(outcomes[1], updates=30)]))
    assert [row[table(found)[0].index("updates")] for row in table(found)[1]] == ["1,200", "30"]
    assert "updates" not in legend(found)


def test_times_of_the_processor_count_if_all_have_them(tmp_path):
    """The clock says that b is slower, because something else ran beside it."""
    same = {"bytes": 1000, "updates": 10, "parameters": 10, "architecture": "x"}
    outcomes = [
        finished(
            tmp_path, "a", recognized([1] * 40), seconds_per_update=1.0, cpu_seconds_per_update=2.0,
            audio_seconds_per_second=90.0, audio_seconds_per_cpu_second=20.0, **same,
        ),
        finished(
            tmp_path, "b", recognized([1] * 40), seconds_per_update=9.0, cpu_seconds_per_update=1.0,
            audio_seconds_per_second=30.0, audio_seconds_per_cpu_second=8.0, **same,
        ),
    ]  # fmt: skip
    found = judge(compared(outcomes))
    assert advice(found)[0] == (
        "Take b: it has the same figures as a on each of 40 utterances, WER 10.0 % [10.0, 10.0], and is 2.0 times "
        "cheaper to train (10 s against 20 s of CPU time)."
    )
    heads, rows = table(found)
    assert [dict(zip(heads, row, strict=True))["CPU s/update"] for row in rows] == ["2", "1"]
    assert [dict(zip(heads, row, strict=True))["speed"] for row in rows] == ["20 x", "20 x"]
    assert "seconds of audio per CPU second" in legend(found)
    by_clock = judge(compared([outcomes[0], replace(outcomes[1], cpu_seconds_per_update=None)]))
    assert by_clock.chosen.name == "a"
    assert [row[table(by_clock)[0].index("s/update")] for row in table(by_clock)[1]] == ["1", "9"]


def test_models_of_one_architecture_are_equally_fast(tmp_path):
    same = {"bytes": 1000, "updates": 10}
    outcomes = [
        finished(tmp_path, "a", recognized([1] * 40), audio_seconds_per_second=43.0, architecture="x", **same),
        finished(tmp_path, "b", recognized([1] * 40), audio_seconds_per_second=14.0, architecture="x", **same),
        finished(tmp_path, "c", recognized([1] * 40), audio_seconds_per_second=30.0, architecture="y", **same),
        finished(tmp_path, "d", recognized([1] * 40), architecture="y", **same),
    ]
    found = judge(compared(outcomes))
    assert [(one.name, one.speed) for one in found.candidates] == [("a", 43.0), ("b", 43.0), ("c", 30.0), ("d", 30.0)]
    assert found.chosen.name == "a"


@pytest.mark.parametrize(
    ("sizes", "gain"),
    [
        ((110, 100), "1.1 times smaller (100 B against 110 B)"),
        ((1060, 1040, 1000), "slightly smaller (1.0 kB against 1.1 kB)"),  # c, the smallest, has an error more
    ],
)
def test_a_candidate_that_is_hardly_smaller(tmp_path, sizes, gain):
    counts = ([1] * 40, [1] * 40, [1] * 39 + [2])
    outcomes = [
        finished(tmp_path, name, recognized(count), bytes=size)
        for name, count, size in zip("abc", counts, sizes, strict=False)
    ]
    found = judge(compared(outcomes))
    assert found.chosen.name == "b"
    assert advice(found)[0].endswith(f", and is {gain}.")


def test_no_error_does_not_mean_none_at_all(tmp_path):
    outcomes = [finished(tmp_path, name, recognized([n] * 60)) for n, name in enumerate("ab")]
    line = "No error in 60 utterances does not mean none at all: up to 5.0 % of others like these may have one (95 %)."
    assert line in advice(judge(compared(outcomes)))
    right = [finished(tmp_path, f"c{n}", classified([True] * 60), metric="accuracy") for n in range(2)]
    assert line in advice(judge(compared(right, ACCURACY)))
    assert not any("No error" in one for one in advice(judge(compared(outcomes[1:]))))


def test_speeds_below_real_time_are_told_apart(tmp_path):
    same = {"bytes": 1000, "updates": 10}
    outcomes = [
        finished(tmp_path, "a", recognized([1] * 40), audio_seconds_per_second=0.21, **same),
        finished(tmp_path, "b", recognized([1] * 40), audio_seconds_per_second=0.44, **same),
    ]
    assert "2.1 times faster in use (0.44 against 0.21 x real time)" in advice(judge(compared(outcomes)))[0]


def test_the_files(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    runs = tmp_path / "runs"
    runs.mkdir()
    outcomes = [
        finished(runs, name, recognized([n] * 40), settings={"lora_rank": 8 * n}, bytes=1000 * n)
        for n, name in ((1, "a"), (3, "b"))
    ]
    write_report(compared([*outcomes, failed("c", "broken")]), out)
    assert sorted(file.name for file in out.iterdir()) == [
        "compare.csv",
        "compare.html",
        "compare.md",
        "compare.png",
        "result.json",
    ]
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((out / "result.json").read_text())
    assert (result["recommended"], result["utterances"], result["interval_over"]) == ("a", 40, "utterances")
    assert [(one["name"], one["status"], one["rank"]) for one in result["candidates"]] == [
        ("a", "finished", 1),
        ("b", "finished", 2),
        ("c", "failed", None),
    ]
    rows = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    assert [(row["name"], row["eval_wer"], row["setting lora_rank"]) for row in rows[:2]] == [
        ("a", "0.1", "8"),
        ("b", "0.3", "24"),
    ]


def test_hostile_names_stay_text(tmp_path):
    outcomes = [
        finished(tmp_path, f"{HOSTILE}{n}", recognized([n] * 40), settings={HOSTILE: n % 2}) for n in range(1, 4)
    ]
    judgement = judge(compared([*outcomes, failed(HOSTILE, HOSTILE)]))
    html = MarkdownIt().enable("table").render(document(judgement))
    assert "<script" not in html
    assert "<em>" not in html
    assert html.count("<tr>") == 1 + 4 + 1 + 2  # no name adds a row
    rows = list(csv.reader(io.StringIO(table_csv(judgement))))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[1][rows[0].index("name")] == f"{HOSTILE}1"


def test_commands_quote_folders(tmp_path):
    folder = tmp_path / "it's; rm -rf"
    folder.mkdir()
    found = judge(compared([finished(folder, "a", recognized([1] * 40))]))
    assert command(found) == f"sft-speech transcribe '{tmp_path}/it'\"'\"'s; rm -rf/run0' speech.wav"
