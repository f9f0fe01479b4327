"""A pytest plugin that reports the tests that passed only when pytest-rerunfailures ran them again."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the first failure of each such test, then list all of them with the last line of it."""
    stats = terminalreporter.stats
    failed = {report.nodeid for outcome in ("failed", "error") for report in stats.get(outcome, ())}
    first: dict[str, pytest.TestReport] = {}
    for report in stats.get("rerun", ()):
        if report.nodeid not in failed:
            first.setdefault(report.nodeid, report)
    if not first:
        return
    terminalreporter.write_sep("=", "flaky: passed only when run again", yellow=True, bold=True)
    for nodeid, report in first.items():
        for title, text in ((nodeid, report.longreprtext), *report.sections):
            terminalreporter.write_sep("-", title)
            terminalreporter.write_line(text)
    for nodeid, report in first.items():
        terminalreporter.write_line(f"FLAKY {nodeid}: {report.longreprtext.strip().splitlines()[-1]}")
