"""Fine-tuning of SpeechT5 against the plain recipe: seconds and bytes before step 1, speed, steps to the same loss.

    python scripts/benchmark_tts.py --model sft_speech/assets/speecht5-small --source demo-output/reader --steps 60

The plain recipe is that of the Hugging Face audio course, unit 6: `datasets.map` to spectrograms, a collator that pads
a batch of 4, 8 of them per update, `Seq2SeqTrainer` with its defaults; but for the learning rate, which is the same for
both, and gradient checkpointing, which only saves memory. Ours has as many seconds of audio per update, and the plain
recipe is given the voices that ours makes. Each runs in a process of its own with caches of its own; the loss of every
saved step is then measured by one and the same code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLIPS, ACCUMULATION = 4, 8  # of the course
SAVES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--train_split", default=":0.9")
    parser.add_argument("--eval_split", default="[0.9:]")
    parser.add_argument("--steps", type=int, default=60, help="updates")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--recipe", choices=("plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.recipe:
        {"plain": plain, "ours": ours}[args.recipe](args)
        return
    with tempfile.TemporaryDirectory() as folder:
        job, _ = prepared(args, Path(folder))
        job.checkpoint.speakers.save(Path(folder))
        found = {recipe: run(recipe, Path(folder, recipe)) for recipe in ("plain", "ours")}
        curves = {recipe: losses(Path(folder, recipe), args) for recipe in found}
    show(found, curves)


def run(recipe: str, folder: Path) -> dict[str, float]:
    """One recipe in a process of its own; what it noted down."""
    folder.mkdir()
    environment = os.environ | {"HF_HOME": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "cache")}
    environment |= {"STARTED": str(time.time()), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, *sys.argv[1:], "--recipe", recipe, "--folder", str(folder)]
    with open(folder / "log", "w") as log:
        ended = subprocess.run(command, env=environment, stdout=log, stderr=log)
    if ended.returncode:
        sys.exit(f"{recipe}: {(folder / 'log').read_text()[-2000:]}")
    return json.loads((folder / "found.json").read_text())


def written(folder: Path) -> int:
    """Bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def clock(folder: Path, seconds_of_step: Any) -> Any:
    """A callback that notes when step 1 begins, what was written by then, and how long the steps take."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.began = self.first = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                self.began = time.time()
                self.found = {"before": self.began - float(os.environ["STARTED"]), "bytes": written(folder)}
            elif state.global_step == 2:  # the first ones compile
                self.first = time.time()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.found["speed"] = seconds_of_step() * (state.global_step - 2) / (time.time() - self.first)
            (folder / "found.json").write_text(json.dumps(self.found))

    return Clock()


def rows_of(args: argparse.Namespace) -> Any:
    """Of the training split."""
    from sft_speech.corpora import load_corpus

    return load_corpus(args.source, args.train_split)


def settings(args: argparse.Namespace, folder: Path, model: str | None = None) -> Any:
    from sft_speech.config import FinetuneTtsConfig

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


def ours(args: argparse.Namespace) -> None:
    from sft_speech.training import run
    from sft_speech.tts.run import Synthesis

    training: Any = run
    build = training.build_trainer

    def watched(*given: Any) -> Any:
        trainer = build(*given)
        trainer.eval_dataset, trainer.args.eval_strategy = None, "no"  # measured afterwards, for both alike
        trainer.args.load_best_model_at_end = False
        batches = [[trainer.plan.seconds[index] for _, index in batch] for batch in trainer.plan]
        trainer.add_callback(clock(args.folder, lambda: sum(map(sum, batches)) / args.steps))
        return trainer

    training.build_trainer = watched
    config = settings(args, args.folder)
    training.fine_tune(config, Synthesis(config))


def plain(args: argparse.Namespace) -> None:
    """As the course has it."""
    import datasets
    import torch
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        SpeechT5FeatureExtractor,
        SpeechT5ForTextToSpeech,
        SpeechT5Processor,
        SpeechT5Tokenizer,
    )

    from sft_speech.tts.data import voice_name
    from sft_speech.tts.speakers import Speakers

    model = SpeechT5ForTextToSpeech.from_pretrained(args.model)
    extractor = SpeechT5FeatureExtractor.from_pretrained(args.model)
    processor = SpeechT5Processor(extractor, SpeechT5Tokenizer.from_pretrained(args.model))
    voices = Speakers.load(args.folder.parent, model.config.speaker_embedding_dim)
    rows = rows_of(args)
    paths, names = [audio["path"] for audio in rows["audio"]], [voice_name(speaker) for speaker in rows["speaker"]]
    listed = datasets.Dataset.from_dict({"audio": paths, "text": rows["text"], "voice": names})
    listed.to_csv(args.folder / "listed.csv")
    corpus: Any = datasets.load_dataset("csv", data_files=str(args.folder / "listed.csv"), split="train")

    def prepare(example: dict[str, Any]) -> dict[str, Any]:
        import librosa

        waveform, _ = librosa.load(example["audio"], sr=extractor.sampling_rate)
        made = processor(
            text=example["text"],
            audio_target=waveform,
            sampling_rate=extractor.sampling_rate,
            return_attention_mask=False,
        )
        return {
            "input_ids": made["input_ids"],
            "labels": made["labels"][0],
            "speaker_embeddings": voices[example["voice"]].numpy(),
        }

    corpus = corpus.map(prepare, remove_columns=corpus.column_names)

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

    mean = float(sum(rows["seconds"]) / len(rows))
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
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=corpus,
        data_collator=collate,
        callbacks=[clock(args.folder, lambda: mean * CLIPS * ACCUMULATION)],
    )
    trainer.train()


def prepared(args: argparse.Namespace, folder: Path, model: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Our job with the voices of the corpus, and its usable rows."""
    from sft_speech.corpora.report import CorpusReport
    from sft_speech.training.run import load_splits
    from sft_speech.tts.run import Synthesis

    config, report = settings(args, folder, model), CorpusReport()
    corpora, job = load_splits(config, report), Synthesis(config)
    job.load(corpora["train"])
    corpora = {name: job.usable(name, rows, report) for name, rows in corpora.items()}
    job.checkpoint.speakers = job.voices(corpora)
    return job, corpora


def losses(folder: Path, args: argparse.Namespace) -> dict[int, float]:
    """By step: the loss of held-out speech, as our evaluation measures it."""
    import shutil

    from sft_speech.tts.run import summary

    curve = {}
    for checkpoint in sorted((folder / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        for file in Path(args.model).iterdir():
            if file.is_file() and not (checkpoint / file.name).exists():
                shutil.copy(file, checkpoint)
        job, corpora = prepared(args, folder, model=str(checkpoint))
        curve[int(checkpoint.name.split("-")[1])] = summary(job.evaluate(corpora["eval"]))["loss"]
    return curve


def show(found: dict[str, dict[str, float]], curves: dict[str, dict[int, float]]) -> None:
    """A table, and after how many of our steps the plain recipe's last loss is reached."""
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
    print(f"\nthe plain recipe's loss after {last} updates is reached by ours after {reached}")


if __name__ == "__main__":
    main()
