"""Pseudo-labels: a teacher transcribes recordings, filters leave some out, and a manifest to train on is written.

-o corpus.jsonl         the labels that are kept, a manifest: audio, text, start, end, language, confidence, weight, ...
corpus.rejected.jsonl   the others, with the reason
corpus.report.json      counts
corpus.report.png       errors over confidence, if the rows had transcripts
corpus.audio/           audio of kept labels that was inside tables
corpus.labels/          what the teachers wrote, a line per row: other filters need no new transcription

The transcription itself is that of ``sft-speech transcribe``, in shards, see :mod:`sft_speech.inference.shards`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.corpora.weights import CONFIDENCE, WEIGHT
from sft_speech.errors import UserError
from sft_speech.files import open_whole, write_whole
from sft_speech.inference import shards
from sft_speech.inference.processes import Process
from sft_speech.inference.shards import Shards
from sft_speech.tasks.asr.pseudo.filters import Filters, Judged, Label, judge
from sft_speech.tasks.asr.pseudo.report import Outcome
from sft_speech.tasks.asr.pseudo.rows import RowsToLabel, audio_file, manifest_row, rows_to_label
from sft_speech.tasks.asr.sharded import failed_line, transcribe_missing
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.asr.transcriber import Transcriber, Transcription

logger = logging.getLogger(__name__)

LONG_SECONDS = 30.0  # more than runs take as they are set up


@dataclass(frozen=True)
class Teacher:
    """A model that labels.

    Args:
        model: its directory, or its id on the Hub.
        options: further arguments of :class:`~sft_speech.tasks.asr.transcriber.Transcriber`.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return what its labels depend on, as JSON represents it."""
        free = ("device", "dtype", "max_batch_seconds", "allow_pickle")
        options = {name: str(value) for name, value in self.options.items() if name not in free}
        return {"model": self.model, "files of the model": shards.weights(self.model), **options}

    def load(self, device: str | None) -> Transcriber:
        from sft_speech.tasks.asr.transcriber import Transcriber

        return Transcriber(self.model, **{"times": False, **self.options, "device": device})


@dataclass(frozen=True)
class PseudoLabels:
    """What was written.

    Args:
        manifest: the labels that are kept.
        report: the content of the report file.
        table: the same as text.
    """

    manifest: Path
    report: dict[str, Any]
    table: str


def pseudo_label(
    teacher: str | Path | Teacher,
    source: str | Path | Dataset,
    output: str | Path,
    *,
    split: str | None = None,
    filters: Filters | None = None,
    second_teacher: str | Path | Teacher | None = None,
    weight: float | str = 1.0,
    ignore_text: bool = False,
    resume: bool = False,
    process: Process | None = None,
    processes: int | None = None,
    progress: Callable[[float], Any] | None = None,
    **corpus: Any,
) -> PseudoLabels | None:
    """Label recordings with a teacher, and write what passes the filters as a manifest.

    Args:
        teacher: a recognizer.
        source: a corpus, a folder of recordings, or rows of :func:`~sft_speech.corpora.load_corpus`.
        output: the manifest, ``*.jsonl``; the other files are beside it.
        split: part of the source.
        second_teacher: labels are compared with those of this recognizer too.
        weight: weight of the labels in the loss of a run; "confidence": that of each.
        ignore_text: label rows that have a transcript too.
        resume: continue an unfinished run, or filter again what a finished one has transcribed.
        process: this process, if several work on the same output; the one that finishes it writes the manifest.
        processes: how many will work on the output, launched by the caller; None: as many as do now.
        progress: called with the seconds of audio of each batch.
        corpus: further arguments of ``load_corpus``: columns, channel, config, name.

    Returns:
        What was written; None if other processes are still at work.

    Raises:
        UserError: the output exists, nothing is left to label, or no label passes the filters.
    """
    files, process, filters = Files(Path(output)), process or Process(), filters or Filters()
    check_weight(weight)
    if isinstance(source, str | Path) and files.manifest.resolve() == Path(source).resolve():
        raise UserError(f"-o {output}", "it is the source and would be overwritten", "choose another name")
    rows = rows_to_label(source, split, ignore_text, corpus)
    teachers = [as_teacher(one) for one in (teacher, second_teacher) if one is not None]
    work = Work(files, teachers, rows, process, max(process.world, processes or 1))
    if process.main:
        files.begin(teachers, rows, resume)
        work.begin()
        todo = ", all labelled already" if work.finished else " to label"
        logger.info("%s%s", counted(len(rows), "recording"), todo)
    if not work.finished:
        if work.world > process.world:
            return None  # the caller launches them
        if not work.transcribe(progress or ignored):
            return None
    return files.write(rows, teachers, filters, weight)


def ignored(seconds: float) -> None:
    """Take progress that nobody asked for."""


def as_teacher(given: str | Path | Teacher) -> Teacher:
    return given if isinstance(given, Teacher) else Teacher(str(given))


def check_weight(weight: float | str) -> None:
    """Check the weight of labels.

    Raises:
        UserError: it is neither a number above 0 nor "confidence".
    """
    if weight == CONFIDENCE or (isinstance(weight, int | float) and 0 < weight < float("inf")):
        return
    raise UserError(f"weight {weight}", "it is a factor on the loss", "give a number above 0, or confidence")


class Loaded:
    """A teacher that is loaded when it is needed, and the lines of its labels."""

    def __init__(self, teacher: Teacher, process: Process) -> None:
        self.teacher, self.process, self.language = teacher, process, ""

    def __call__(self) -> Transcriber:
        transcriber = self.teacher.load(self.process.device(self.teacher.options.get("device")))
        self.language = transcriber.checkpoint.language or ""
        return transcriber

    def line(self, found: Transcription) -> bytes:
        """Return what was written for a recording as a line of JSON."""
        label = Label(
            text=found.text,
            confidence=None if found.confidence is None else round(found.confidence, 4),
            seconds=round(found.seconds, 3),
            language=found.language or self.language,
            silent=found.silent,
            error=found.error,
        )
        kept = {name: value for name, value in dataclasses.asdict(label).items() if value not in (None, "", False)}
        return json.dumps({"text": "", "seconds": 0.0} | kept).encode() + b"\n"


class Work:
    """The transcription by T teachers.

    Args:
        world: number of processes that work on it.
    """

    def __init__(
        self, files: Files, teachers: Sequence[Teacher], rows: RowsToLabel, process: Process, world: int
    ) -> None:
        self.teachers, self.rows, self.process, self.world = teachers, rows, process, world
        self.paths = files.labels[: len(teachers)]
        self.settings = [one.settings() | {"recordings": rows.fingerprint()} for one in teachers]
        self.runs: list[Shards | None] = []
        self.finished = False

    def begin(self) -> None:
        """Begin the runs of all teachers, so that no process has to wait for this one at the second teacher."""
        for path, own in zip(self.paths, self.settings, strict=True):
            self.runs.append(shards.begin(path, own, len(self.rows), self.world, resume=True))
        self.finished = all(run is None for run in self.runs)

    def transcribe(self, progress: Callable[[float], Any]) -> bool:
        """Transcribe the share of this process; return whether it completed the labels of all teachers."""
        merged = False
        for number, teacher in enumerate(self.teachers):
            run = self.runs[number] if self.runs else shards.join(self.paths[number], self.settings[number])
            if run is None:
                continue
            loaded = Loaded(teacher, self.process)
            read = transcribe_missing(run, self.rows, self.process, loaded, loaded.line, failed_line, progress)
            merged |= read is not None
        return merged and all(path.exists() for path in self.paths)


@dataclass(frozen=True)
class Files:
    """The files of a run, beside the manifest."""

    manifest: Path

    def beside(self, suffix: str) -> Path:
        return self.manifest.with_name(f"{self.manifest.stem}.{suffix}")

    @property
    def labels(self) -> list[Path]:
        """The labels of the first and of the second teacher."""
        return [self.beside("labels") / name for name in ("teacher.jsonl", "second_teacher.jsonl")]

    def begin(self, teachers: Sequence[Teacher], rows: RowsToLabel, resume: bool) -> None:
        """Begin a run, or resume one.

        Raises:
            UserError: the manifest or labels exist and would be overwritten, or are those of another run.
        """
        shown, folder = f"-o {self.manifest}", self.labels[0].parent
        if self.manifest.suffix != ".jsonl" or not self.manifest.absolute().parent.is_dir():
            raise UserError(shown, "it must be a .jsonl file in an existing folder", "choose another name")
        if not resume:
            for path in (self.manifest, folder, self.beside("audio")):
                if path.exists():
                    do = "continue or filter again with --resume, or choose another name"
                    raise UserError(shown, f"{path.name} already exists", do)
        elif self.manifest.exists() and not folder.exists():
            raise UserError(shown, f"it exists, but not {folder.name}, what the teacher wrote", "choose another name")
        own = {f"teacher {number}": one.settings() for number, one in enumerate(teachers, 1)}
        settings = {"recordings": rows.fingerprint(), **own}
        file = folder / "run.json"
        if not file.exists():
            folder.mkdir(exist_ok=True)
            write_whole(file, json.dumps(settings, indent=2))
            return
        before = json.loads(file.read_bytes())
        differing = [name for name in settings if name in before and before[name] != settings[name]]
        if differing:
            why = f"the labels in {folder} were made with other {', '.join(differing)}"
            raise UserError(shown, why, "use the same again, or remove that folder")
        write_whole(file, json.dumps(before | settings, indent=2))

    def write(
        self,
        rows: RowsToLabel,
        teachers: Sequence[Teacher],
        filters: Filters,
        weight: float | str,
    ) -> PseudoLabels:
        """Filter the labels, and write the manifest, the rejected labels and the report.

        Raises:
            UserError: no label is kept.
        """
        labels = [read_labels(path, len(rows)) for path in self.labels[: len(teachers)]]
        judged = judge(filters, *labels)
        seconds, audio = rows.rows["seconds"][:], self.beside("audio")
        outcome = Outcome(judged, seconds, rows.rows["text"][:], rows.labelled, rows.dropped)
        with open_whole(self.manifest) as kept, open_whole(self.beside("rejected.jsonl")) as rejected:
            for number, (row, (label, why)) in enumerate(zip(rows.rows, judged, strict=True)):
                line = manifest_row(row, label)
                if why is None:
                    line["audio"] = str(audio_file(row, audio, number).absolute())
                    of_label = (label.confidence or 0.0) if weight == CONFIDENCE else weight
                    kept.write(as_line(line | {WEIGHT: of_label}))
                else:
                    rejected.write(as_line(line | {"reason": why[0], "detail": why[1]}))
        report = {
            "teachers": [one.model for one in teachers],
            "filters": dataclasses.asdict(filters),
            "weight": weight,
            **outcome.to_dict(),
        }
        write_whole(self.beside("report.json"), json.dumps(report, ensure_ascii=False, indent=1) + "\n")
        if picture := outcome.picture():
            with open_whole(self.beside("report.png")) as file:
                file.write(picture)
        if not report["kept"]["rows"]:
            self.manifest.unlink()
            given = f"{counted(len(rows), 'label')} of {teachers[0].model}"
            raise UserError(given, f"none passes the filters\n{outcome.table()}", "see the reasons above")
        warn_of_long(seconds, judged, self.manifest, teachers[0].model)
        return PseudoLabels(self.manifest, report, outcome.table())


def read_labels(path: Path, count: int) -> list[Label]:
    """Return the labels in a file.

    Raises:
        UserError: it does not have one for each of ``count`` rows.
    """
    with open(path, "rb") as lines:
        labels = [Label(**{"confidence": None, **json.loads(line)}) for line in lines]
    if len(labels) != count:
        why = f"it holds {counted(len(labels), 'label')} for {counted(count, 'row')}"
        raise UserError(str(path), why, "remove its folder to transcribe all of them again")
    return labels


def as_line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def warn_of_long(seconds: Sequence[float], judged: Sequence[Judged], manifest: Path, teacher: str) -> None:
    """Warn about recordings that are kept, but longer than most runs take."""
    long = sum(length > LONG_SECONDS for length, one in zip(seconds, judged, strict=True) if one.why is None)
    if long:
        what = counted(long, "recording is", "recordings are")
        words = ["cut", str(manifest), "--recognizer", teacher, "-o", str(manifest.with_suffix(".csv"))]
        how = shlex.join(["sft-speech", *words])
        logger.warning("%s longer than %g s; cut at the ends of sentences with: %s", what, LONG_SECONDS, how)
