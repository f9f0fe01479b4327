"""Mix the weights of a model with those of the checkpoint that it was fine-tuned from (WiSE-FT).

The mean forgets less than the fine-tuned model, and is often as good at the new task. `--share auto` evaluates the
shares 0, 0.1, ... 1 on the corpus, and takes the smallest that is as good as the best by one standard error. Choose on
an evaluation split, and test on another.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.corpora.arguments import add_corpus_arguments
from sft_speech.errors import UserError
from sft_speech.files import honour_umask, new_folder
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import add_pickle_argument

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from sft_speech.models.interpolate import Start
    from sft_speech.options.spec import Metric
    from sft_speech.training.interpolation import Point

logger = logging.getLogger(__name__)

RECORD, PICTURE = "interpolation.json", "interpolation.png"
SIZE = re.compile(r"(^d_model|_size|_dim|layers|attention_heads|^conv_kernel|^conv_stride|num_mel_bins)$")
NOT_SIZES = {"vocab_size", "classifier_proj_size", "output_hidden_size"}
WITHOUT_WEIGHTS = ("*.json", "*.model", "*.txt", "speakers.safetensors")  # files beside the weights
OF_A_RUN = {"all_results.json", "log_history.json", "corpus_report.json", "provenance.json", RECORD, "config.json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech interpolate``."""
    parser.add_argument("start", metavar="START", help="checkpoint that END was fine-tuned from: directory or Hub id")
    parser.add_argument("end", metavar="END", help="the fine-tuned model: directory or Hub id")
    add_output_argument(parser, "directory to make", required=True)
    parser.add_argument("--share", default="auto", metavar="S", help="share of END, 0 to 1; auto needs --source [auto]")
    add_corpus_arguments(parser, required=False)
    parser.add_argument("--label_column", metavar="NAME", help="column of the label, of classifiers")
    parser.add_argument(
        "--max_batch_seconds", type=float, default=100.0, metavar="S", help="padded audio per batch [100]"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_pickle_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Mix the models and print the share.

    Raises:
        UserError: the output exists, or the models cannot be mixed.
    """
    share = share_of(args)
    with new_folder(Path(args.output)) as part:
        from sft_speech.hub.plots import interpolation_plot
        from sft_speech.models.interpolate import Mixture, Start
        from sft_speech.models.load import quiet
        from sft_speech.tasks import task_of
        from sft_speech.training.interpolation import choose, curve_row, log, rule

        model, start_model, new = load_both(args.start, args.end, args.allow_pickle)
        with tempfile.TemporaryDirectory(dir=part) as folder:
            start = Start.save(start_model, Path(folder, "start.safetensors"), new)
            del start_model
            record: dict[str, Any] = {
                "start": args.start,
                "end": args.end,
                "share": share,
                "rule": "given",
                "curve": [],
            }
            spec = task_of(args.end)
            metric = spec.metrics[0]
            if share is None:
                points, metric = points_of(args, start)
                known = any(point.error is not None for point in points)
                record |= {"share": choose(points, metric.best).share, "rule": rule(metric.name, [], known)}
                record["curve"] = [curve_row(point, metric.name) for point in points]
            mixture = Mixture(model, start)
            mixture.set(record["share"])
        record |= {"metric": metric.name, "not_mixed": mixture.kept}
        log(record, metric)
        with quiet():
            model.save_pretrained(part)
        for file in files_beside(args.end):
            shutil.copyfile(file, part / file.name)
        (part / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if record["curve"]:
            (part / PICTURE).write_bytes(interpolation_plot(record, metric))
        honour_umask(part)
    print(f"{args.output}: {record['share']:g} of the weights of {args.end}, the rest of {args.start}")


def share_of(args: argparse.Namespace) -> float | None:
    """Return the share; None if it is to be chosen.

    Raises:
        UserError: it is none from 0 to 1, or there is no corpus to choose it on.
    """
    if args.share == "auto":
        if args.source is None:
            do = "add --source CORPUS --split SPLIT, or give a share such as --share 0.5"
            raise UserError("--share auto", "there is no corpus to choose it on", do)
        return None
    if args.source is not None:
        raise UserError(
            f"--share {args.share}", "a share that is given is not chosen on --source", "remove one of them"
        )
    try:
        share = float(args.share)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UserError(f"--share {args.share}", "it is no share", "use auto, or a number from 0 to 1")
    return share


def load_both(start: str, end: str, allow_pickle: bool) -> tuple[PreTrainedModel, PreTrainedModel, set[str]]:
    """Return the model, that of the start with the same names and shapes, and names of weights that are not mixed.

    Raises:
        UserError: one of them cannot be loaded, or they have other architectures or sizes.
    """
    from sft_speech.models.load import load_pretrained, read_config

    configs = read_config(start), read_config(end)
    check_alike(start, end, *configs)
    kind = model_class(end, configs[1])
    model, lacking = load_pretrained(kind, end, allow_pickle=allow_pickle)
    if lacking and not set(lacking) <= set(getattr(model, "all_tied_weights_keys", {})):
        raise UserError(end, f"it lacks the weight {lacking[0]}", "give a fine-tuned model")
    first, new = load_pretrained(kind, start, config=configs[1], allow_pickle=allow_pickle, new_head=True)
    found = set(new) - set(getattr(first, "all_tied_weights_keys", {}))
    if layers := sorted(name for name in found if re.search(r"\blayers\.\d", name)):
        why = f"{start} has no {layers[0]} of the same shape, so {end} was not fine-tuned from it"
        raise UserError(f"{start} and {end}", why, "give the checkpoint that it was fine-tuned from")
    if why := other_words(start, end, configs):
        kept = of_words(model)
        logger.warning("%s: weights of words or labels keep those of %s: %s", why, end, ", ".join(sorted(kept)))
        found |= kept
    return model, first, found


def check_alike(start: str, end: str, first: PreTrainedConfig, second: PreTrainedConfig) -> None:
    """Raise UserError if two models have other architectures or sizes."""
    do = f"give the checkpoint that {end} was fine-tuned from"
    if first.model_type != second.model_type:
        why = f"a {first.model_type} and a {second.model_type} have no weights in common"
        raise UserError(f"{start} and {end}", why, do)
    sizes = dict(sizes_of(first.to_dict()))
    for name, size in sizes_of(second.to_dict()):
        if sizes.get(name, size) != size:
            raise UserError(f"{start} and {end}", f"they differ in {name}, {sizes[name]} and {size}", do)


def sizes_of(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the sizes of a configuration and of those inside it."""
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("config"):
            yield from sizes_of(value, f"{name}.")
        elif SIZE.search(name) and name not in NOT_SIZES and isinstance(value, int | list | tuple):
            yield prefix + name, list(value) if isinstance(value, tuple) else value


def model_class(name: str, config: PreTrainedConfig) -> Any:
    """Return the class of a saved model.

    Raises:
        UserError: transformers has no such class.
    """
    import transformers

    kind = (config.architectures or ["no class"])[0]
    if not hasattr(transformers, kind):
        raise UserError(name, f"its config.json names {kind}", "give a model of transformers")
    return getattr(transformers, kind)


def other_words(start: str, end: str, configs: tuple[PreTrainedConfig, PreTrainedConfig]) -> str:
    """Return how the vocabularies or labels of two models differ; "" if they do not, or are not known."""
    from transformers import AutoTokenizer

    from sft_speech.models.load import quiet

    vocabularies: list[Mapping[Any, Any]] = []
    for name in (start, end):
        try:
            with quiet():
                vocabularies.append(AutoTokenizer.from_pretrained(name).get_vocab())
        except Exception:  # it has none; each kind of tokenizer raises errors of its own
            break
    if len(vocabularies) < 2 and any("Classification" in kind for kind in configs[1].architectures or []):
        vocabularies = [one.id2label or {} for one in configs]
    if len(vocabularies) < 2 or vocabularies[0] == vocabularies[1]:
        return ""
    first, second = vocabularies
    return f"{start} has another vocabulary than {end} ({len(first)} and {len(second)} entries)"


def of_words(model: PreTrainedModel) -> set[str]:
    """Return the names of the weights with a row for each word or label: the head, and embeddings of words."""
    from torch import nn

    from sft_speech.models.adapt import head_names

    size = getattr(model.config, "vocab_size", None)
    tables = {id(one.weight) for one in model.modules() if isinstance(one, nn.Embedding) and one.num_embeddings == size}
    return {name for name, one in model.named_parameters() if id(one) in tables} | head_names(model)


def points_of(args: argparse.Namespace, start: Start) -> tuple[list[Point], Metric]:
    """Return the figures of each share on the corpus, and their metric."""
    from sft_speech.corpora import load_corpus
    from sft_speech.corpora.report import CorpusReport
    from sft_speech.models.interpolate import Mixture
    from sft_speech.models.load import chosen_device
    from sft_speech.tasks import task_of
    from sft_speech.training.interpolation import search
    from sft_speech.training.rows import StoredRows

    spec, report = task_of(args.end), CorpusReport()
    same = "source source_config audio_column text_column speaker_column channel max_batch_seconds allow_pickle".split()
    options = {name: getattr(args, name) for name in same}
    options |= {"label_column": args.label_column} if args.label_column else {}
    config = spec.config(
        model=args.end, output_dir=args.output, eval_source=args.source, eval_split=args.split, **options
    )
    place = config.place("eval")
    rows = load_corpus(
        place.source,
        place.split,
        name="eval",
        config=place.config,
        columns=place.columns,
        channel=place.channel,
        report=report,
    )
    task = spec.build(config)
    task.load(StoredRows(rows))
    if not task.can_evaluate_at_start():
        raise UserError(
            f"--source {args.source}", f"its labels are not those of {args.end}", "give a split with them all"
        )
    usable = task.usable("eval", StoredRows(rows), report)
    report.check(config.max_dropped_share)
    task.begin({"train": usable, "eval": usable})
    model: Any = task.model
    model.to(chosen_device(args.device))
    metric = spec.metric(task.metric)
    points = search(task, metric, usable, {}, Mixture(model, start), lambda one: task.evaluate(one.table))
    return points, metric


def files_beside(model: str) -> list[Path]:
    """Return the files of a model beside its weights and their configuration: processor, tokenizer, voices."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model, allow_patterns=list(WITHOUT_WEIGHTS)))
    found = {file for pattern in WITHOUT_WEIGHTS for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in found if file.name not in OF_A_RUN and not file.name.endswith("index.json"))
