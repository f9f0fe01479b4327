"""The description of a task for the command line, the model card, the tests and the tools."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sft_speech.options.config import FinetuneConfig
    from sft_speech.training.task import Task


@dataclass(frozen=True)
class Metric:
    """An evaluation metric. In ``evaluation/SPLIT.json`` its 95 % confidence interval is ``NAME_interval``.

    Args:
        name: its key, without ``eval_``.
        heading: heading of its column in tables.
        best: whether lower or higher is better.
        scale: factor for display, 100 for percent.
        indexed: whether the model card reports it to the Hub.
        curve: whether it is plotted over the optimizer steps.
    """

    name: str
    heading: str
    best: Literal["min", "max"] = "min"
    scale: float = 1.0
    indexed: bool = False
    curve: bool = False

    @property
    def title(self) -> str:
        """Its heading without the unit."""
        return self.heading.replace(self.unit, "")

    @property
    def unit(self) -> str:
        """The unit of values for display, after a space; "" if it has none."""
        return " %" if self.scale == 100 else ""

    def shown(self, value: float | None, sign: str = "") -> str:
        """Return a value or, with the sign "+", a difference as text, scaled and without a unit."""
        return "–" if value is None else f"{self.scale * value:{sign}{'.2f' if self.scale == 100 else '.4f'}}"


@dataclass(frozen=True)
class Verb:
    """A verb of ``sft-speech``.

    Args:
        module: name of a module with ``add_arguments(parser)`` and ``main(args)``; imported when the verb is called.
        help: one line of help.
    """

    module: str
    help: str

    def load(self) -> ModuleType:
        """Import the module."""
        return importlib.import_module(self.module)


@dataclass(frozen=True)
class Card:
    """A task's part of the model card.

    Args:
        tag: the Hub's name of the task, its ``pipeline_tag``.
        about: further tags.
        usage: lines of Python; NAME stands for the model.
        loss_unit: unit of the training loss.
        sections: further Markdown lines for the directory of a run.
        library: library that loads the model.
        relation: the Hub's name of the relation to the base, if the Hub should not guess.
        pictures: further pictures of a run, by file: a title, and labels by the figures of the log that are drawn.
    """

    tag: str
    about: tuple[str, ...]
    usage: str
    loss_unit: str
    sections: Callable[[Path], list[str]] = lambda folder: []
    library: str = "transformers"
    relation: str | None = None
    pictures: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskSpec:
    """The description of a task.

    Args:
        name: "asr", ...; its presets are in ``configs/NAME/``.
        summary: what the model does, a noun phrase.
        config: class of a run's options.
        build: makes the :class:`~sft_speech.training.task.Task` of a run; imports torch only when called.
        metrics: the metrics that an evaluation may have.
        architectures: suffixes of the class names in ``config.json`` of models that the task saves.
        card: its part of the model card.
        verbs: further verbs, by name.
        evaluate: module behind ``sft-speech evaluate`` for models of this task, with ``add_arguments(parser)`` for the
            options that only this task has and ``main(args)``; None if it has a verb of its own.
        own_models: values of ``model`` that the task builds itself; they are not on the Hub.
        own_verb: the verb that trains, if it is not ``finetune-NAME``; its script has the same name.
        act: what the verb does to a model, for help and card, and its participle.
    """

    name: str
    summary: str
    config: type[FinetuneConfig]
    build: Callable[[Any], Task[Any]]
    metrics: tuple[Metric, ...]
    architectures: tuple[str, ...]
    card: Card
    verbs: Mapping[str, Verb] = field(default_factory=dict)
    evaluate: str | None = None
    own_models: frozenset[str] = frozenset()
    own_verb: str | None = None
    act: tuple[str, str] = ("fine-tune", "fine-tuned")

    @property
    def verb(self) -> str:
        """The verb of ``sft-speech`` that trains."""
        return self.own_verb or f"finetune-{self.name}"

    def metric(self, name: str) -> Metric:
        """Return a metric by its name."""
        return next(metric for metric in self.metrics if metric.name == name)

    def recognizes(self, config: Mapping[str, Any]) -> bool:
        """Return whether a model with this content of ``config.json`` belongs to the task."""
        names = config.get("architectures") or []
        return any(name.endswith(self.architectures) for name in names)
