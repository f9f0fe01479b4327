"""The model card, made from the files that a run writes into its directory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from sft_speech.corpora.report import file_stem, source_name
from sft_speech.files import read_json
from sft_speech.hub import adapters, forgetting, markdown, provenance
from sft_speech.hub.base import origin, saved_language
from sft_speech.hub.cells import cell, decoding
from sft_speech.hub.data import Trained, data_table, trained_of_sources
from sft_speech.hub.plots import plots
from sft_speech.hub.published import on_hub, published, published_command
from sft_speech.models.language import read_card
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.keep import KEEP
from sft_speech.options.names import current
from sft_speech.options.settings import read_yaml
from sft_speech.options.spec import TaskSpec
from sft_speech.redact import redact
from sft_speech.text.codes import base_of, known_code

CARD = "README.md"
LOG = "log_history.json"
REPORT = "report.html"  # made by sft_speech.report
MARK = "<!-- written by sft_speech, {digest}: a card that was edited is not overwritten -->"
OWN = "checkpoint"  # the normalizer of recognizers with an alphabet of their own
HUB = {"push_to_hub", "hub_model_id", "hub_private", "hub_strategy"}  # options that the card leaves out


def write_card(
    folder: Path,
    spec: TaskSpec,
    repository: str | None = None,
    *,
    ask_hub: bool = False,
    all_evaluations: bool = False,
) -> bool:
    """Write README.md and plots/ of a finished run. A card that was edited by hand stays as it is.

    Args:
        repository: id on the Hub that the card gives the model; None: the name of the directory.
        ask_hub: look up the license of the base model on the Hub, not only in the local cache.
        all_evaluations: see :class:`Run`.

    Returns:
        Whether the card was written.

    Raises:
        UserError: the files of the run cannot be read.
    """
    card = folder / CARD
    if card.is_file() and not is_ours(card.read_text(encoding="utf-8", errors="replace")):
        return False
    run = Run(folder, spec, all_evaluations=all_evaluations)
    for name, content in card_files(run, repository, ask_hub=ask_hub).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return True


def is_ours(content: str) -> bool:
    """Return whether a card is unchanged since it was written."""
    body, _, mark = content.rstrip("\n").rpartition("\n")
    return mark.startswith(MARK.format(digest=_digest(body)).partition(":")[0])


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclasses.dataclass
class Run:
    """The directory of a run.

    Args:
        folder: the directory.
        spec: description of its task.
        model: checkpoint of an unfinished run; the figures in the directory then belong to other weights.
        log: entries of the trainer's log; None: read them from the directory.
        all_evaluations: show every evaluation in the directory, not only those of the splits that the run evaluated.

    Raises:
        UserError: a file cannot be read; raised by the properties.
    """

    folder: Path
    spec: TaskSpec
    model: Path | None = None
    log: list[dict[str, Any]] | None = None
    all_evaluations: bool = False

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Options that differ from their defaults, without those unknown to this version."""
        values = current(read_yaml(str(self.folder / "run.yaml"), "settings of the run,"))
        fields = {field.name: field for field in dataclasses.fields(self.spec.config)}
        return {
            key: value
            for key, value in values.items()
            if key in fields and value != _default(fields[key]) and key not in HUB
        }

    @cached_property
    def config(self) -> FinetuneConfig:
        return self.spec.config(**self.settings)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The figures of a finished run."""
        return read_json(self.folder / "all_results.json") if self.model is None else {}

    @cached_property
    def report(self) -> dict[str, Any]:
        return read_json(self.folder / "corpus_report.json")

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        return self.log if self.log is not None else read_json(self.folder / LOG).get("log_history", [])

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        return provenance.read(self.folder)

    @property
    def on_disk(self) -> frozenset[str]:
        """Options whose values named a file or folder when the run began."""
        return frozenset(key for start in self.starts for key in start.get("on_disk", []))

    def shown(self, key: str) -> str:
        """Return the value of an option, without the folders of a path."""
        return str(published(getattr(self.config, key), key in self.on_disk))

    def from_hub(self, key: str) -> str | None:
        """Return the value of an option if it is an id on the Hub."""
        value = getattr(self.config, key)
        own = key == "model" and value in self.spec.own_models
        return value if value and key not in self.on_disk and not own and on_hub(value) else None

    @cached_property
    def evaluation_files(self) -> dict[Path, dict[str, Any]]:
        """The figures of each evaluation to publish, by file; empty during training.

        An evaluation belongs to the run if it is of a split that run.yaml names, on the corpus of that split. Others
        were made later, perhaps on data that must not be disclosed, and need ``all_evaluations``.
        """
        if self.model is not None:
            return {}
        found = {path: read_json(path) for path in sorted((self.folder / "evaluation").glob("*.json"))}
        return {path: figures for path, figures in found.items() if self.all_evaluations or self.owns(path, figures)}

    @cached_property
    def splits(self) -> dict[str, tuple[str, str]]:
        """Corpus and split that the run evaluated, by the stem of the evaluation file."""
        config, roles = self.config, self.config.corpora
        return {
            file_stem(config.title(role)): (roles[role][0], roles[role][1] or role.removeprefix(KEEP))
            for role in config.reported
        }

    @cached_property
    def before(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The figures of the starting checkpoint, by split and corpus as :meth:`evaluations` names them."""
        found = {}
        for role in self.config.reported:
            keys = {metric.name: f"before_{role}_{metric.name}" for metric in self.spec.metrics}
            figures = {name: self.figures[key] for name, key in keys.items() if key in self.figures}
            stem = file_stem(self.config.title(role))
            saved = read_json(self.folder / "evaluation" / "before" / f"{stem}.json")
            if figures and "normalizer" in saved:
                figures["normalizer"] = saved["normalizer"]
            source, split = self.splits[stem]
            found[split, self.corpus(source)] = figures
        return found

    @cached_property
    def trained(self) -> list[Trained]:
        """The corpora that were trained on."""
        if self.config.sources:
            return trained_of_sources(self.config.sources, self.on_disk)
        source = self.config.source
        return [Trained(source, self.shown("source"), self.from_hub("source"), self.config.train_split or "all of it")]

    def corpus(self, source: str) -> str:
        """Return the name of a corpus of this run, without the folders of a path."""
        for key in ("eval_source", "source"):
            if source == getattr(self.config, key):
                return self.shown(key)
        known = {one.source: one.shown for one in self.trained}
        return known.get(source) or str(published(source, "keep_splits" in self.on_disk))

    def owns(self, path: Path, figures: dict[str, Any]) -> bool:
        """Return whether an evaluation file is of a split that the run evaluated."""
        source, _ = self.splits.get(path.stem, (None, None))
        return source is not None and figures.get("source") in (None, source, source_name(source))

    def evaluations(self) -> Iterator[tuple[str, str, str | None, dict[str, Any]]]:
        """Yield for each evaluation file its split, its corpus, the corpus's id on the Hub or None, and the figures."""
        keys = {self.config.source: "source", self.config.eval_source: "eval_source"}
        for path, figures in self.evaluation_files.items():
            if self.owns(path, figures):
                source, split = self.splits[path.stem]
                known = {one.source: one.on_the_hub for one in self.trained}
                public = on_hub(source) and "keep_splits" not in self.on_disk
                other = known.get(source, source if public else None)  # of sources or keep_splits
                yield split, self.corpus(source), self.from_hub(keys[source]) if source in keys else other, figures
            else:  # evaluated later, on another corpus
                source = figures.get("source", "")
                yield path.stem, str(published(source)), source if source and on_hub(source) else None, figures


def _default(field: Any) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def card_files(run: Run, repository: str | None = None, *, ask_hub: bool = False) -> dict[str, bytes]:
    """Return README.md and plots/*.png by name; see :func:`write_card` for the arguments."""
    name = repository or run.folder.resolve().name
    pictures = plots(run.history, run.spec, run.figures)
    found = pictures or {f"plots/{path.name}": b"" for path in sorted((run.folder / "plots").glob("*.png"))}
    parts = [
        f"---\n{metadata(run, name, ask_hub)}\n---\n",
        f"# {markdown.text(name.split('/')[-1])}\n",
        *opening(run),
        "## Figures\n",
        *figures_table(run),
        *forgetting.sections(run.figures, run.spec),
        "## Use\n",
        markdown.code(run.spec.card.usage.replace("NAME", json.dumps(name)), "python") + "\n",
        *run.spec.card.sections(run.folder),
        "## Data\n",
        data_table(run.report, run.config),
        "## Training\n",
        *[f"![{Path(file).stem.replace('_', ' ')}]({file})\n" for file in found],
        *training(run),
    ]
    content = redact("\n".join(parts))
    return {CARD: f"{content}\n{MARK.format(digest=_digest(content))}\n".encode(), **pictures}


def metadata(run: Run, name: str, ask_hub: bool) -> str:
    """Return the metadata that the Hub reads, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    spec, base = run.spec, run.from_hub("model") or origin(run.config.model)
    results = [
        EvalResult(
            task_type=spec.card.tag,
            dataset_type=on_the_hub or markdown.line(corpus or split),
            dataset_name=markdown.line(corpus or split),
            dataset_split=markdown.line(split),
            metric_type=metric.name,
            metric_name=metric.heading + under(figures),
            metric_value=round(metric.scale * figures[metric.name], 2),
        )
        for split, corpus, on_the_hub, figures in run.evaluations()
        for metric in spec.metrics
        if metric.indexed and figures.get(metric.name) is not None
    ]
    trained = [one.on_the_hub for one in run.trained]
    sources = dict.fromkeys(filter(None, [*trained, *(source for _, _, source, _ in run.evaluations())]))
    data = ModelCardData(
        model_name=name.split("/")[-1],
        base_model=base,
        datasets=list(sources) or None,
        language=language(run),
        license=run.config.license or base_license(run, ask_hub),
        library_name=spec.card.library,
        base_model_relation=spec.card.relation,
        pipeline_tag=spec.card.tag,
        tags=["speech", *spec.card.about, "sft_speech"],
        eval_results=results or None,
    )
    return str(data.to_yaml())


def under(figures: dict[str, Any]) -> str:
    """Return the name of a normalizer in parentheses; "" for that of the checkpoint itself."""
    name = figures.get("normalizer", OWN)
    return "" if name == OWN else f" ({name})"


def language(run: Run) -> str | None:
    """Return the code of the language that an option sets or that is saved with the model, without a country."""
    saved = run.config.language or saved_language(run.model or run.folder)
    code = saved or known_code(getattr(run.config, "target_lang", None) or "")
    return base_of(code) if code else None


def base_license(run: Run, ask_hub: bool) -> str | None:
    """Return the license in the card of the base model; None if it is not known."""
    base = run.from_hub("model")
    if base is None and not Path(run.config.model).is_dir():
        return None
    found = read_card(base or run.config.model, run.config.revision, ask_hub).get("license")
    return found if isinstance(found, str) else None


def opening(run: Run) -> list[str]:
    base = run.from_hub("model")
    model = f"[{markdown.text(base)}](https://huggingface.co/{base})" if base else markdown.text(run.shown("model"))
    if not base and (made_of := origin(run.config.model)):
        model += f", a model made of [{markdown.text(made_of)}](https://huggingface.co/{made_of}),"
    on = ", ".join(f"{markdown.text(one.shown)} ({markdown.text(one.split)})" for one in run.trained)
    lines = [f"{model} {run.spec.act[1]} for {run.spec.summary} on {on}.\n"]
    lines += adapters.about(run.folder, run.spec.card.relation is not None) if run.figures else []
    if not run.figures:
        step = run.history[-1]["step"] if run.history else 0
        lines.append(f"**Training is not finished**: this is the model after {step} steps.\n")
    return lines


def figures_table(run: Run) -> list[str]:
    """Return a table with a row per evaluation, and its caption."""
    found = list(run.evaluations())
    metrics = [one for one in run.spec.metrics if any(row[3].get(one.name) is not None for row in found)]
    if not metrics:
        return ["No split was evaluated.\n" if run.figures else "None yet.\n"]
    searched = any(figures.get("decoding", {}).get("search", "greedy") != "greedy" for *_, figures in found)
    normalized = any(figures.get("normalizer", OWN) != OWN for *_, figures in found)
    rows = [
        [
            split + note,
            corpus,
            figures.get("utterances", ""),
            f"{figures.get('hours', 0):.2f}",
            *(cell(shown, metric) for metric in metrics),
            *([shown.get("normalizer", "–")] if normalized else []),
            *([decoding(shown)] if searched else []),
        ]
        for split, corpus, _, figures in found
        for note, shown in ((" (before fine-tuning)", run.before.get((split, corpus))), ("", figures))
        if shown
    ]
    heads = ["split", "corpus", "utterances", "hours", *(metric.heading for metric in metrics)]
    over = {figures["interval_over"] for *_, figures in found if "interval_over" in figures}
    lines = [markdown.table(heads + ["normalizer"] * normalized + ["decoding"] * searched, rows) + "\n"]
    if any(f"{metric.name}_interval" in figures for metric in metrics for *_, figures in found):
        lines.append(
            f"In parentheses: 95 % bootstrap intervals{' over ' + ' or '.join(sorted(over)) if over else ''}.\n"
        )
    if loops := sum(figures.get("loops", 0) for *_, figures in found):
        lines.append(f"Hypotheses that were likely not spoken (loops, or text for silence): {loops}.\n")
    return lines


def training(run: Run) -> list[str]:
    """Return figures, command, options, hardware and versions."""
    lines, start = [], run.starts[-1] if run.starts else {}
    if run.figures:
        took = timedelta(seconds=round(run.figures.get("train_runtime", 0)))
        since = f" since the last of {len(run.starts)} starts" if len(run.starts) > 1 else ""
        loss = run.figures.get("train_loss")
        learned = "" if loss is None else f", train loss {loss:.4f} {run.spec.card.loss_unit}"
        lines.append(f"{run.figures.get('audio_hours', 0):.2f} h of audio{learned}, {took} (h:mm:ss){since}.\n")
    if start:
        if start["preset"]:
            lines.append(f"Preset: {markdown.text(start['preset'])}\n")
        if start["command"]:  # absent if started from Python
            command = shlex.join(["sft-speech", *published_command(start["command"], run.on_disk)])
            lines.append(markdown.code(command) + "\n")
    options = {key: published(value, key in run.on_disk) for key, value in run.settings.items()}
    lines.append("Options that differ from the defaults:\n")
    lines.append(markdown.code(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), "yaml") + "\n")
    if start:
        lines.append(". ".join(map(markdown.text, provenance.machine(start))) + ".\n")
    return lines
