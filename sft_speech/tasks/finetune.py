"""The verb that trains a model for a task, ``finetune-NAME``, and fine-tuning from Python."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sft_speech.errors import RESUMABLE, UserError
from sft_speech.inference.processes import Process, end_with_parent, launch
from sft_speech.options.config import IN_MEMORY
from sft_speech.options.keep import keep_places
from sft_speech.options.mixing import parts_of
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
        return f"{self.spec.act[0]} a model for {self.spec.summary}"

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        script = f"scripts/{self.spec.verb.replace('-', '_')}.py"
        return (
            f"{self.help.capitalize()}. On several GPUs: --num_processes N. On several machines, or with shards of a "
            f"model: accelerate launch --config_file configs/accelerate/FILE.yaml {script} ..."
        )

    def load(self) -> FinetuneVerb:
        return self

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add ``--config``, ``--num_processes`` and an argument for each option."""
        parser.add_argument("--num_processes", type=int, metavar="N", help="processes, each on its own GPU [1]")
        add_config_arguments(parser, self.spec.config)

    def main(self, args: argparse.Namespace) -> int:
        """Run the fine-tuning; return 0, :data:`RESUMABLE` if a signal stopped it, or the code of a failed process."""
        config = config_from_arguments(self.spec.config, args)
        if args.num_processes is not None and to_be_launched(args.num_processes):
            return launch(args.argv, args.num_processes)
        if args.num_processes is not None and args.num_processes > 1:
            end_with_parent()
        config.started_by(args.argv, args.config)
        from sft_speech.training.run import fine_tune

        return 0 if fine_tune(config, self.spec).finished else RESUMABLE


def to_be_launched(num_processes: int) -> bool:
    """Return whether processes are still to be started: in each of them, the same command finds the others.

    Raises:
        UserError: there are too few GPUs, or a launcher has started another number of processes.
    """
    given, world = f"--num_processes {num_processes}", Process.this().world
    if num_processes < 1 or world not in (1, num_processes):
        why = f"a launcher has already started {world} processes" if world > 1 else "nothing would run"
        raise UserError(given, why, "leave it out")
    if num_processes == world:
        return False
    import torch

    from sft_speech.training.start import on_cpu

    gpus = torch.cuda.device_count()
    if not on_cpu() and num_processes > gpus:
        do = f"give at most {gpus}" if gpus else "leave it out"
        raise UserError(given, f"each process needs its own GPU, and there are {gpus}", do)
    return True


def finetune(
    model: str | Path | PreTrainedModel,
    *,
    train: Corpus | Mapping[str, Corpus] | None = None,
    eval: Corpus | Mapping[str, Corpus] | None = None,
    test: Mapping[str, Corpus] | None = None,
    keep: Mapping[str, Corpus] | None = None,
    parts: Sequence[str] = (),
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
            bytes, arrays, decoded or not) and the column that the task learns. Several corpora are a mapping,
            ``{"digits": a, "news": b}``; tables of the option ``sources`` name them to give them shares:
            ``sources=[{"source": "digits", "weight": 3}, {"source": "news", "weight": 1}]``. Without it, every
            utterance comes once per epoch. None: ``source`` or ``sources`` names what is trained on, see the options.
        eval: rows that are evaluated during training and select the best checkpoint. Of a mapping with names of
            ``train``, each is evaluated alone, and the mean selects.
        test: rows that are evaluated at the end, by the name for their figures.
        keep: rows that the model should not get worse on, by name; they are evaluated before and after training. Other
            corpora are named by the option ``keep_splits``.
        parts: parts of the model to train, such as ``["head", "encoder.layers.8-"]``: the option ``train`` of a YAML
            file.
        output_dir: directory of the model and of everything about the run.
        task: "asr", "classification", "pretraining", "tts" or "vc".
        processor: processor of a loaded model.
        config: YAML file of options.
        callbacks: callbacks for the trainer.
        options: any YAML option, such as ``learning_rate=3e-5``; ``audio_column``, ``text_column``, ... name columns.

    Raises:
        UserError: the options, the model or the data cannot be used.
    """
    spec = spec_of(task)
    mixed, apart = by_name(train, "train"), by_name(eval, "eval")
    data = {"train": None if mixed else train, "eval": None if apart else eval, **(test or {})}
    rows: dict[str, Any] = {role: corpus for role, corpus in data.items() if corpus is not None}
    if (rows or apart or keep) and train is None:
        raise UserError("eval, test or keep without train", "there is nothing to train on", "pass train=")
    named = isinstance(model, str | Path)
    values = dict(options) | {"model": str(model) if named else IN_MEMORY, "output_dir": str(output_dir)}
    if parts:
        values["train"] = list(parts)
    if train is not None:
        if mixed:
            values["sources"] = tables_of_mix(mixed, values.get("sources"), apart)
        else:
            values |= {"source": IN_MEMORY, "train_split": "train"}
        values |= {"eval_split": "eval" if "eval" in rows else None}
        values |= {"test_splits": [role for role in rows if role not in ("train", "eval")]}
        values["keep_splits"] = [*options.get("keep_splits", []), *(keep or {})]
        values |= {"streaming": True} if are_streams(mixed.values() if mixed else [train]) else {}
    settings = load_config(spec.config, None if config is None else str(config), values)
    for role, place in keep_places(settings).items():
        if keep and place.source == IN_MEMORY and place.split is not None:
            rows[role] = keep[place.split]
    for part, name in zip(parts_of(settings) if mixed else [], mixed, strict=True):
        rows[f"train/{part.name}"] = mixed[name]
        if name in apart:
            rows[f"eval_{part.name}"] = apart[name]
    from sft_speech.training.corpora import Given
    from sft_speech.training.run import fine_tune

    with contextlib.nullcontext() if named else tempfile.TemporaryDirectory() as copy:
        if copy is not None:
            for loaded in filter(None, (model, processor)):
                loaded.save_pretrained(copy)
            settings.started_with(copy)
        return fine_tune(settings, spec, Given(rows, tuple(callbacks)))


def by_name(given: Any, role: str) -> dict[str, Corpus]:
    """Return several corpora by their names; {} if it is one corpus, which is no mapping.

    Raises:
        UserError: the mapping holds the splits of one corpus.
    """
    import datasets

    if isinstance(given, datasets.DatasetDict | datasets.IterableDatasetDict):
        why = f"it holds the splits {', '.join(map(str, given))}, and mixing them would train on all of them"
        raise UserError(
            f"dataset {role}", why, f'give one of them, such as {role}=dataset["{next(iter(given), role)}"]'
        )
    return dict(given) if isinstance(given, Mapping) else {}


def are_streams(given: Iterable[Any]) -> bool:
    """Return whether corpora are streams.

    Raises:
        UserError: some are, and others are not.
    """
    import datasets

    found = [isinstance(one, datasets.IterableDataset) for one in given]
    if any(found) and not all(found):
        why = "some are stored and others are streamed"
        raise UserError("train", why, "make all of them streams: dataset.to_iterable_dataset(num_shards=16)")
    return any(found)


def tables_of_mix(
    train: Mapping[str, Any], given: Sequence[Mapping[str, Any]] | None, eval: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the option ``sources`` for corpora in memory, in their order.

    Args:
        train: the corpora by name.
        given: the option from Python, whose ``source`` is such a name.
        eval: rows to evaluate, by the same names.

    Raises:
        UserError: a name is in one of them only.
    """
    tables = {str(one.get("source")): dict(one) for one in given or [{"source": name} for name in train]}
    for what, names in (("sources", tables), ("eval", eval)):
        for name in names:
            if name not in train:
                near = difflib.get_close_matches(name, train, 1) or list(train)
                raise UserError(f"{what}: {name}", "train has no corpus of this name", f"did you mean {near[0]}?")
    if missing := [name for name in train if name not in tables]:
        raise UserError(f"train: {missing[0]}", "sources has no table for it", "add one, or leave it out of train")
    more = {
        name: {"source": IN_MEMORY, "split": name} | ({"eval_split": "eval"} if name in eval else {}) for name in train
    }
    return [tables[name] | more[name] for name in train]
