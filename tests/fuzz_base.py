"""What all targets for fuzzing share: the limits of an input, a sound, and the reading of a corpus."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # no message may hold these
SECONDS = 10  # for one input of at most 64 KB; longer is a hang


class Target(NamedTuple):
    """A reader, and inputs to start from, at least one of which it accepts."""

    read: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]


@contextlib.contextmanager
def refusals(*also: type[Exception]) -> Iterator[None]:
    """Allow a reader to raise an error whose message is printable."""
    from sft_speech.errors import UserError

    try:
        yield
    except also:
        return
    except UserError as error:
        message = str(error)
    else:
        return
    assert not CONTROLS.search(message), ascii(message)
    assert len(message) < 20_000


@contextlib.contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TimeoutError in the main thread if the block takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@cache
def sound(format: str, subtype: str | None = None, seconds: float = 0.1) -> bytes:
    """Return an encoded file of noise."""
    import numpy as np
    import soundfile

    encoded = io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, int(seconds * 16_000))
    soundfile.write(encoded, samples, 16_000, subtype=subtype, format=format)
    return encoded.getvalue()


def corpus(source: Path, folder: Path, split: str | None = None, labels: bool = False) -> None:
    """Do everything that happens to a corpus before training."""
    from sft_speech.corpora import CorpusReport, load_corpus

    report = CorpusReport()
    with refusals():
        rows = load_corpus(
            source, split, report=report, cache_dir=folder / "cache", columns={"label": None} if labels else None
        )
        for row in rows:
            assert row["seconds"] > 0
            assert Path(row["audio"]["path"]).resolve().is_relative_to(folder.resolve())
    assert not CONTROLS.search(report.table())
    report.save(folder / "corpus_report.json")


def quiet() -> None:
    """Silence the warnings about broken files."""
    logging.getLogger("sft_speech").setLevel(logging.ERROR)
