"""The verb ``finetune-NAME`` of a task, and fine-tuning from Python."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sft_speech.errors import RESUMABLE, UserError
from sft_speech.options.config import IN_MEMORY
from sft_speech.options.keep import keep_places
from sft_speech.options.settings import add_config_arguments, config_from_arguments, load_config
from sft_speech.options.spec import TaskSpec
from sft_speech.tasks import spec_of

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel, TrainerCallback

    from sft_speech.training.run import FinetuneResult

    Corpus: TypeAlias = datasets.Dataset | datasets.IterableDataset


@dataclass(frozen=True)
class FinetuneVerb:
    """The verb that fine-tunes a model for a task."""

    spec: TaskSpec

    @property
    def help(self) -> str:
        return f"fine-tune a model for {self.spec.summary}"

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        script = f"scripts/finetune_{self.spec.name}.py --config configs/{self.spec.name}/FILE.yaml"
        return f"Fine-tune a model for {self.spec.summary}. On several GPUs: accelerate launch {script} [--key value]"

    def load(self) -> FinetuneVerb:
        return self

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add ``--config`` and an argument for each option."""
        add_config_arguments(parser, self.spec.config)

    def main(self, args: argparse.Namespace) -> int:
        """Run the fine-tuning; return 0, or :data:`RESUMABLE` if a signal stopped it."""
        config = config_from_arguments(self.spec.config, args)
        config.started_by(args.argv, args.config)
        from sft_speech.training.run import fine_tune

        return 0 if fine_tune(config, self.spec).finished else RESUMABLE


def finetune(
    model: str | Path | PreTrainedModel,
    *,
    train: Corpus | None = None,
    eval: Corpus | None = None,
    test: Mapping[str, Corpus] | None = None,
    keep: Mapping[str, Corpus] | None = None,
    output_dir: str | Path,
    task: str = "asr",
    processor: Any = None,
    config: str | Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **options: Any,
) -> FinetuneResult:
    """Fine-tune a pretrained model.

    Args:
        model: id on the Hub, directory, or loaded model, which is copied and stays unchanged.
        train: rows to train on: those of :func:`~sft_speech.load_corpus`, or any dataset with a column of audio (paths,
            bytes, arrays, decoded or not) and the column that the task learns. None: ``source`` names them, see
            the options.
        eval: rows that are evaluated during training and select the best checkpoint.
        test: rows that are evaluated at the end, by the name for their figures.
        keep: rows that the model should not get worse on, by name; they are evaluated before and after training. Other
            corpora are named by the option ``keep_splits``.
        output_dir: directory of the model and of everything about the run.
        task: "asr", "classification", "tts" or "vc".
        processor: processor of a loaded model.
        config: YAML file of options.
        callbacks: callbacks for the trainer.
        options: any YAML option, such as ``learning_rate=3e-5``; ``audio_column``, ``text_column``, ... name columns.

    Raises:
        UserError: the options, the model or the data cannot be used.
    """
    import datasets

    spec = spec_of(task)
    data = {"train": train, "eval": eval, **(test or {})}
    rows = {role: corpus for role, corpus in data.items() if corpus is not None}
    if (rows or keep) and train is None:
        raise UserError("eval, test or keep without train", "there is nothing to train on", "pass train=")
    named = isinstance(model, str | Path)
    values = dict(options) | {"model": str(model) if named else IN_MEMORY, "output_dir": str(output_dir)}
    if rows:
        values |= {"source": IN_MEMORY, "train_split": "train", "eval_split": "eval" if "eval" in rows else None}
        values |= {"test_splits": [role for role in rows if role not in ("train", "eval")]}
        values["keep_splits"] = [*options.get("keep_splits", []), *(keep or {})]
        values |= {"streaming": True} if isinstance(train, datasets.IterableDataset) else {}
    settings = load_config(spec.config, None if config is None else str(config), values)
    for role, place in keep_places(settings).items():
        if keep and place.source == IN_MEMORY and place.split is not None:
            rows[role] = keep[place.split]
    from sft_speech.training.corpora import Given
    from sft_speech.training.run import fine_tune

    with contextlib.nullcontext() if named else tempfile.TemporaryDirectory() as copy:
        if copy is not None:
            parts: tuple[Any, ...] = (model, processor)
            for part in filter(None, parts):
                part.save_pretrained(copy)
            settings.started_with(copy)
        return fine_tune(settings, spec, Given(rows, tuple(callbacks)))
