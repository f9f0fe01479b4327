"""The report at the end of a run."""

from __future__ import annotations

import logging

from reported_runs import finished_run, line

from sft_speech.tasks import spec_of
from sft_speech.training.run import report_of_run


def test_a_report_that_fails_is_a_warning(tmp_path, caplog):
    folder = finished_run(tmp_path / "mine", [line("a", "x", "y")], [line("a", "x", "x")])
    (folder / "evaluation" / "test.jsonl").write_text("{")
    report_of_run(folder, spec_of("asr"), {})
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "the report of the run was not written" in record.getMessage()
    assert f"`sft-speech report {folder}`" in record.getMessage()
    assert not (folder / "report.html").exists()
