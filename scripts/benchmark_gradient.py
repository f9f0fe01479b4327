"""Compare the loss and the gradient of the same 16 clips under different splits of the batch, with the plain recipe.

    python scripts/benchmark_gradient.py --model WHISPER --source digits

A split is clips per batch x accumulation x processes; each is a run of one optimizer step. The plain recipe is that of
Hugging Face's guide to fine-tuning Whisper: `Seq2SeqTrainer`, features of 30 s, labels padded with -100. Ours is the
task of `sft-speech finetune-asr` with its defaults. Losses are in nats per label; the plain recipe also learns the
tokens before the text, and its encoder computes all of the 30 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPLITS = ((16, 1, 1), (4, 4, 1), (1, 16, 1), (4, 2, 2))
CLIPS = 16
RECIPES = {"ours": "ours", "plain": "plain Seq2SeqTrainer"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--language", help="for a multilingual model")
    parser.add_argument("--recipe", choices=tuple(RECIPES), help=argparse.SUPPRESS)
    parser.add_argument("--split", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.recipe:
        trainer = plain(args) if args.recipe == "plain" else ours(args)
        trainer.train()
        logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
        if trainer.is_world_process_zero():
            (args.folder / "found.json").write_text(json.dumps([logged["loss"], logged["grad_norm"]]))
        return
    found: dict[str, list[list[float]]] = {recipe: [] for recipe in RECIPES}
    for split in SPLITS:
        for recipe, measured in found.items():
            measured.append(run(recipe, *split))
            print(recipe, split, measured[-1], file=sys.stderr)
    print(table(found))


def run(recipe: str, clips: int, accumulation: int, processes: int) -> list[float]:
    """Return the loss and the gradient norm of a step in new processes."""
    with tempfile.TemporaryDirectory() as folder:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        own = ["--recipe", recipe, "--split", str(clips), str(accumulation), "--folder", folder]
        command = [sys.executable, *(launch if processes > 1 else []), __file__, *sys.argv[1:], *own]
        ended = subprocess.run(command, env=os.environ | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True)
        if ended.returncode:
            sys.exit(f"{' '.join(command)}: {ended.stderr[-2000:]}")
        return json.loads(Path(folder, "found.json").read_text())


def table(found: dict[str, list[list[float]]]) -> str:
    """Return a table of losses and norms, and of the largest relative difference from the first split."""
    heads = [f"{name}: {figure}" for name in RECIPES.values() for figure in ("loss", "gradient norm")]
    lines = [f"| clips x accumulation x processes | {' | '.join(heads)} |", "| --- " * (1 + len(heads)) + "|"]
    for number, split in enumerate(SPLITS):
        cells = [f"{figure:.7g}" for measured in found.values() for figure in measured[number]]
        lines.append(f"| {' x '.join(map(str, split))} | {' | '.join(cells)} |")
    largest = []
    for measured in found.values():
        for figure in range(2):
            first = measured[0][figure]
            largest.append(f"{max(abs(one[figure] / first - 1) for one in measured):.1e}")
    lines.append(f"| largest relative difference | {' | '.join(largest)} |")
    return "\n".join(lines)


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the training arguments of both recipes."""
    return {
        "output_dir": str(args.folder),
        "max_steps": 1,
        "gradient_accumulation_steps": args.split[1],
        "per_device_train_batch_size": args.split[0],
        "logging_steps": 1,
        "max_grad_norm": 1e9,
        "report_to": [],
        "save_strategy": "no",
        "remove_unused_columns": False,
        "use_cpu": True,
        "seed": 0,
    }


def rows_of(args: argparse.Namespace) -> Any:
    """Return 16 rows, spread over the corpus."""
    from sft_speech.corpora import load_corpus

    rows = load_corpus(args.source)
    return rows.select(range(0, len(rows), len(rows) // CLIPS)[:CLIPS])


def ours(args: argparse.Namespace) -> Any:
    from accelerate import PartialState
    from transformers import TrainingArguments

    from sft_speech.corpora import CorpusReport
    from sft_speech.tasks.asr.config import FinetuneAsrConfig
    from sft_speech.tasks.asr.loading import build
    from sft_speech.training.plan import BatchPlan
    from sft_speech.training.rows import StoredRows
    from sft_speech.training.trainer import ExactTrainer

    class Split(BatchPlan):
        def __iter__(self) -> Iterator[list[tuple[int, int]]]:
            size, world = args.split[0], PartialState().num_processes
            batches = [[(0, clip) for clip in range(first, first + size)] for first in range(0, CLIPS, size)]
            return iter(batches[PartialState().process_index :: world])

    config = FinetuneAsrConfig(
        model=args.model,
        source=args.source,
        output_dir=str(args.folder),
        language=args.language,
    )
    rows, task = StoredRows(rows_of(args)), build(config)
    task.load(rows)
    usable = task.usable("train", rows, CorpusReport())
    return ExactTrainer(
        model=task.model,
        args=TrainingArguments(**arguments(args)),
        train_dataset=task.dataset(usable),
        data_collator=task.collator(),
        criterion=task.criterion,
        plan=Split(usable.table["seconds"][:], 1e9, batches=args.split[1]),
    )


def plain(args: argparse.Namespace) -> Any:
    import datasets
    import torch
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, WhisperForConditionalGeneration, WhisperProcessor

    from sft_speech.audio.read import read

    processor: Any = WhisperProcessor.from_pretrained(args.model, language=args.language, task="transcribe")
    model: Any = WhisperForConditionalGeneration.from_pretrained(args.model)

    def prepared(row: dict[str, Any]) -> dict[str, Any]:
        features = processor.feature_extractor(read(row["audio"], 16_000), sampling_rate=16_000).input_features[0]
        return {"input_features": features, "labels": processor.tokenizer(row["text"]).input_ids}

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = processor.feature_extractor.pad(
            [{"input_features": row["input_features"]} for row in rows], return_tensors="pt"
        )
        labels = processor.tokenizer.pad([{"input_ids": row["labels"]} for row in rows], return_tensors="pt")
        ids = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
        if (ids[:, 0] == model.config.decoder_start_token_id).all().item():
            ids = ids[:, 1:]
        return {"input_features": batch["input_features"], "labels": ids}

    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(**arguments(args)),
        train_dataset=datasets.Dataset.from_list([prepared(row) for row in rows_of(args)]),
        data_collator=collate,
    )


if __name__ == "__main__":
    main()
