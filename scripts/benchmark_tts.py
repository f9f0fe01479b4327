"""Compare fine-tuning of SpeechT5 with the plain recipe: start-up, disk, speed, and steps to the same loss.

    python scripts/benchmark_tts.py --model sft_speech/assets/speecht5-small --source demo-output/reader --steps 60

The plain recipe is unit 6 of the Hugging Face audio course: `datasets.map` to spectrograms, a collator that pads
batches of 4, 8 batches per update, and `Seq2SeqTrainer` with its defaults, except for the learning rate (the same in
both recipes) and gradient checkpointing (off; it only saves memory). Ours has as many seconds of audio per update, and
the plain recipe gets our speaker embeddings. Each recipe has its own process and caches; the same code then measures
the loss of every checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarking import OUR_ENVIRONMENT, clock, run_recipe

CLIPS, ACCUMULATION = 4, 8  # as in the course
SAVES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--train_split", default=":0.9")
    parser.add_argument("--eval_split", default="[0.9:]")
    parser.add_argument("--steps", type=int, default=60, help="number of updates")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--recipe", choices=("plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.recipe:
        watch = clock(args.folder)
        seconds_of_step = {"plain": plain, "ours": ours}[args.recipe](args, watch)
        found = watch.found | {"speed": seconds_of_step * watch.found["steps_per_second"]}
        (args.folder / "found.json").write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        task, _ = prepared(args, Path(folder))
        task.checkpoint.speakers.save(Path(folder))
        found = {}
        for recipe in ("plain", "ours"):
            given, caches = [*sys.argv[1:], "--recipe", recipe], Path(folder, recipe, "cache")
            found[recipe] = run_recipe(__file__, given, Path(folder, recipe), caches, **OUR_ENVIRONMENT)
        curves = {recipe: losses(Path(folder, recipe), args) for recipe in found}
    show(found, curves)


def rows_of(args: argparse.Namespace) -> Any:
    """Return the rows of the training split."""
    from sft_speech.corpora import load_corpus

    return load_corpus(args.source, args.train_split)


def settings(args: argparse.Namespace, folder: Path, model: str | None = None) -> Any:
    """Return the options of our run."""
    from sft_speech.tasks.tts.config import FinetuneTtsConfig

    mean = float(sum(seconds := rows_of(args)["seconds"]) / len(seconds))
    return FinetuneTtsConfig(
        model=model or args.model,
        source=args.source,
        train_split=args.train_split,
        eval_split=args.eval_split,
        output_dir=str(folder / "run"),
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        max_steps=args.steps,
        update_seconds=mean * CLIPS * ACCUMULATION,
        max_batch_seconds=max(40.0, mean),
        eval_steps=args.steps // SAVES,
        save_total_limit=SAVES + 1,
        report_to="none",
        dataloader_num_workers=1,
        samples=0,
    )


def ours(args: argparse.Namespace, watch: Any) -> float:
    """Train with our recipe; return the seconds of audio per update."""
    from sft_speech.tasks.tts.spec import SPEC
    from sft_speech.training import run

    training: Any = run
    build, plans = training.build_trainer, []

    def watched(*given: Any) -> Any:
        trainer = build(*given)
        trainer.eval_dataset, trainer.args.eval_strategy = None, "no"  # both recipes are evaluated later
        trainer.args.load_best_model_at_end = False
        trainer.add_callback(watch)
        plans.append(trainer.plan)
        return trainer

    training.build_trainer = watched
    config = settings(args, args.folder)
    training.fine_tune(config, SPEC)
    return sum(float(plans[0].seconds[index]) for batch in plans[0] for _, index in batch) / args.steps


def plain(args: argparse.Namespace, watch: Any) -> float:
    """Train with the recipe of the course; return the seconds of audio per update."""
    import torch
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        SpeechT5FeatureExtractor,
        SpeechT5ForTextToSpeech,
        SpeechT5Processor,
        SpeechT5Tokenizer,
    )

    model = SpeechT5ForTextToSpeech.from_pretrained(args.model)
    extractor = SpeechT5FeatureExtractor.from_pretrained(args.model)
    processor = SpeechT5Processor(extractor, SpeechT5Tokenizer.from_pretrained(args.model))
    rows = rows_of(args)

    def collate(features: list[dict[str, Any]]) -> dict[str, Any]:
        batch = processor.pad(
            input_ids=[{"input_ids": one["input_ids"]} for one in features],
            labels=[{"input_values": one["labels"]} for one in features],
            return_tensors="pt",
        )
        batch["labels"] = batch["labels"].masked_fill(batch.decoder_attention_mask.unsqueeze(-1).ne(1), -100)
        del batch["decoder_attention_mask"]
        step = model.config.reduction_factor
        longest = max(len(one["labels"]) // step * step for one in features)
        batch["labels"] = batch["labels"][:, :longest]
        batch["speaker_embeddings"] = torch.tensor([one["speaker_embeddings"] for one in features])
        return batch

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(args.folder / "run"),
        per_device_train_batch_size=CLIPS,
        gradient_accumulation_steps=ACCUMULATION,
        learning_rate=args.learning_rate,
        warmup_steps=args.steps // 10,
        max_steps=args.steps,
        save_steps=args.steps // SAVES,
        report_to="none",
        label_names=["labels"],
        use_cpu=not torch.cuda.is_available(),
    )
    corpus = mapped(args, rows, processor, model.config.speaker_embedding_dim)
    Seq2SeqTrainer(model=model, args=arguments, train_dataset=corpus, data_collator=collate, callbacks=[watch]).train()
    return float(sum(rows["seconds"]) / len(rows)) * CLIPS * ACCUMULATION


def mapped(args: argparse.Namespace, rows: Any, processor: Any, size: int) -> Any:
    """Return rows of token ids, spectrograms and speaker embeddings of ``size`` dimensions."""
    import datasets

    from sft_speech.tasks.speech.data import voice_name
    from sft_speech.tasks.speech.speakers import Speakers

    voices, rate = Speakers.load(args.folder.parent, size), processor.feature_extractor.sampling_rate
    paths, names = [audio["path"] for audio in rows["audio"]], [voice_name(speaker) for speaker in rows["speaker"]]
    listed = datasets.Dataset.from_dict({"audio": paths, "text": rows["text"], "voice": names})
    listed.to_csv(args.folder / "listed.csv")
    corpus: Any = datasets.load_dataset("csv", data_files=str(args.folder / "listed.csv"), split="train")

    def prepare(example: dict[str, Any]) -> dict[str, Any]:
        import librosa

        waveform, _ = librosa.load(example["audio"], sr=rate)
        made = processor(text=example["text"], audio_target=waveform, sampling_rate=rate, return_attention_mask=False)
        return {
            "input_ids": made["input_ids"],
            "labels": made["labels"][0],
            "speaker_embeddings": voices[example["voice"]].numpy(),
        }

    return corpus.map(prepare, remove_columns=corpus.column_names)


def prepared(args: argparse.Namespace, folder: Path, model: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Return our task with the speaker embeddings of the corpus, and its usable rows."""
    from sft_speech.corpora.report import CorpusReport
    from sft_speech.tasks.tts.task import Synthesis
    from sft_speech.training.corpora import Given, load_splits

    config, report = settings(args, folder, model), CorpusReport()
    corpora, task = load_splits(config, report, Given()), Synthesis(config)
    task.load(corpora["train"])
    corpora = {name: task.usable(name, rows, report) for name, rows in corpora.items()}
    task.begin(corpora)
    return task, corpora


def losses(folder: Path, args: argparse.Namespace) -> dict[int, float]:
    """Return the held-out loss by step, from our evaluation."""
    import shutil

    curve = {}
    for checkpoint in sorted((folder / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        for file in Path(args.model).iterdir():
            if file.is_file() and not (checkpoint / file.name).exists():
                shutil.copy(file, checkpoint)
        task, corpora = prepared(args, folder, model=str(checkpoint))
        curve[int(checkpoint.name.split("-")[1])] = task.evaluate(corpora["eval"].table).metrics()["loss"]
    return curve


def show(found: dict[str, dict[str, float]], curves: dict[str, dict[int, float]]) -> None:
    """Print the table, and the number of our updates that reach the last loss of the plain recipe."""
    print("| | plain | ours | ratio |\n| --- | --- | --- | --- |")
    names = {"before": ("seconds before step 1", 1), "bytes": ("MB written before step 1", 1e-6)}
    names |= {"speed": ("audio seconds per second", 1)}
    for key, (name, scale) in names.items():
        left, right = (found[recipe][key] * scale for recipe in ("plain", "ours"))
        print(f"| {name} | {left:.2f} | {right:.2f} | {right / left:.2f} |")
    for step in curves["plain"]:
        left, right = (curves[recipe].get(step, float("nan")) for recipe in ("plain", "ours"))
        print(f"| held-out loss after {step} updates | {left:.4f} | {right:.4f} | {right / left:.2f} |")
    last, goal = list(curves["plain"].items())[-1]
    reached = next((step for step, loss in curves["ours"].items() if loss <= goal), None)
    print(f"\nours reaches the loss of the plain recipe after {last} updates at update {reached}")


if __name__ == "__main__":
    main()
