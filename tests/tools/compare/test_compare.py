"""The verb: its exit code and its options."""

from __future__ import annotations

from comparisons import WER, compared, finished, recognized

from sft_speech.tools.compare.compare import report
from sft_speech.tools.compare.outcomes import Comparison, Outcome


def test_exit_code_is_0_if_at_least_one_finished(tmp_path, capsys):
    failed = [Outcome(name, {}, tmp_path / name, "failed", "no memory") for name in "ab"]
    assert report(Comparison("asr", failed, WER, {"eval": "dev"}), tmp_path) == 1
    assert capsys.readouterr().out.startswith("No candidate finished, so there is nothing to recommend.")
    (tmp_path / "runs").mkdir()
    one = finished(tmp_path / "runs", "c", recognized([1, 0, 2]))
    assert report(compared([*failed, one]), tmp_path) == 0
