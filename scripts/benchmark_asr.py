"""Fine-tuning and transcription against the plain recipe: seconds and bytes before step 1, speed, memory.

    python scripts/benchmark_asr.py --model sft_speech/assets/wav2vec2-small --source LibriSpeech \\
        --train_split train-clean-100 --eval_split dev-clean --steps 30

The plain recipe is that of transformers' example for CTC: `datasets.map` to float arrays and labels, a collator that
pads random batches of 8 (or those of its `group_by_length`), the Trainer's defaults, `evaluate` imported.
Ours has as many seconds of audio per update. `--size base` or `large` takes random weights of that size with the
tokenizer of ``--model``. Each run is a process of its own with caches of its own; the recipes take turns ``--repeats``
times, and the table holds medians, with the lowest and the highest in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLIPS = 8  # per batch of the plain recipe
RECIPES = ("plain", "plain, group_by_length", "ours")
FIGURES = {
    "before": ("seconds before step 1", 1.0),
    "bytes": ("MB written before step 1", 1e-6),
    "padding": ("padding, % of a batch", 100.0),
    "speed": ("training, audio seconds per second", 1.0),
    "memory": ("peak memory, MB", 1e-6),
    "transcription": ("transcription, audio seconds per second", 1.0),
}
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", choices=("base", "large"), help="random weights of this size in place of the model's")
    parser.add_argument("--source", required=True)
    parser.add_argument("--train_split", default=":0.9")
    parser.add_argument("--eval_split", default="[0.9:]", help="is transcribed")
    parser.add_argument("--steps", type=int, default=30, help="updates")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--recipe", choices=RECIPES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = make_parser().parse_args()
    if args.recipe:
        ours(args) if args.recipe == "ours" else plain(args)
        return
    found: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in RECIPES}
    with tempfile.TemporaryDirectory() as folder:
        if args.size:
            args.model = random_weights(args.model, args.size, Path(folder, "model"))
        for repeat in range(args.repeats):
            for number, recipe in enumerate(RECIPES):
                found[recipe].append(run(args, recipe, Path(folder, f"{repeat}-{number}")))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    print(f"| | {' | '.join(RECIPES)} |\n| --- | --- | --- | --- |")
    for key, (name, scale) in FIGURES.items():
        cells = [cell([one[key] * scale for one in found[recipe] if key in one]) for recipe in RECIPES]
        print(f"| {name} | {' | '.join(cells)} |")


def cell(values: list[float]) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.1f} [{min(values):.1f}, {max(values):.1f}]"


def random_weights(model: str, size: str, folder: Path) -> str:
    """A directory of wav2vec2 in one of its published sizes, with the tokenizer and the rate of ``model``."""
    from transformers import AutoProcessor, Wav2Vec2Config, Wav2Vec2ForCTC, set_seed

    processor: Any = AutoProcessor.from_pretrained(model)
    set_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(processor.tokenizer),
        pad_token_id=processor.tokenizer.pad_token_id,
        **(LARGE if size == "large" else {}),
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def run(args: argparse.Namespace, recipe: str, folder: Path) -> dict[str, float]:
    """One recipe in a process of its own; what it noted down."""
    folder.mkdir()
    caches = {"HF_HOME": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "cache")}
    environment = os.environ | caches | {"HF_HUB_OFFLINE": "1", "STARTED": str(time.time())}
    if recipe == "ours":
        environment["OMP_WAIT_POLICY"] = "PASSIVE"  # as the command line sets it
    given = {"model": args.model, "source": args.source, "train_split": args.train_split}
    given |= {"eval_split": args.eval_split, "steps": args.steps, "recipe": recipe, "folder": folder}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in given.items())]
    with open(folder / "log", "w") as log:
        ended = subprocess.run(command, env=environment, stdout=log, stderr=log)
    if ended.returncode:
        sys.exit(f"{recipe}: {(folder / 'log').read_text()[-2000:]}")
    return json.loads((folder / "found.json").read_text())


def clock(folder: Path) -> Any:
    """A callback that notes when step 1 begins, what was written by then, and how long the steps take."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        found: dict[str, float]

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                self.found = {"before": time.time() - float(os.environ["STARTED"]), "bytes": written}
            elif state.global_step == 2:  # the first ones compile
                self.first = time.time()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.found["steps_per_second"] = (state.global_step - 2) / (time.time() - self.first)
            self.found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    return Clock()


def note(folder: Path, clock: Any, seconds: list[list[float]], transcribe: Any, heard: float) -> None:
    """Writes what was found: of the clock, of batches (seconds of clips), of transcribing ``heard`` seconds."""
    found = clock.found
    found["speed"] = found.pop("steps_per_second") * sum(map(sum, seconds)) / len(seconds)
    found["padding"] = 1 - sum(map(sum, seconds)) / sum(len(batch) * max(batch) for batch in seconds)
    began = time.time()
    transcribe()
    found["transcription"] = heard / (time.time() - began)
    (folder / "found.json").write_text(json.dumps(found))


def ours(args: argparse.Namespace) -> None:
    from sft_speech import Transcriber
    from sft_speech.asr.run import Recognition
    from sft_speech.config import FinetuneAsrConfig
    from sft_speech.corpora import load_corpus
    from sft_speech.training import run

    training: Any = run
    rows = load_corpus(args.source, args.train_split)
    mean = float(sum(rows["seconds"]) / len(rows))
    config = FinetuneAsrConfig(
        model=args.model,
        source=args.source,
        train_split=args.train_split,
        output_dir=str(args.folder / "run"),
        max_batch_seconds=max(CLIPS * mean, max(rows["seconds"])),
        update_seconds=CLIPS * mean,
        max_steps=args.steps,
        eval_steps=args.steps,
        report_to="none",
        dataloader_num_workers=1,
    )
    watch, build = clock(args.folder), training.build_trainer
    batches: list[list[float]] = []

    def watched(*given: Any) -> Any:
        trainer = build(*given)
        trainer.add_callback(watch)
        batches.extend([float(trainer.plan.seconds[index]) for _, index in batch] for batch in trainer.plan)
        return trainer

    training.build_trainer = watched
    training.fine_tune(config, Recognition(config))
    spoken = load_corpus(args.source, args.eval_split)
    paths = [audio["path"] for audio in spoken["audio"]]
    transcriber = Transcriber(str(args.folder / "run"))
    note(args.folder, watch, batches, lambda: transcriber(paths), sum(spoken["seconds"]))


def plain(args: argparse.Namespace) -> None:
    """As transformers' example for CTC has it."""
    import datasets
    import evaluate  # noqa: F401, as the example does
    import soundfile
    import torch
    from transformers import AutoModelForCTC, AutoProcessor, Trainer, TrainingArguments, pipeline

    from sft_speech.corpora import load_corpus

    rows = load_corpus(args.source, args.train_split)
    processor: Any = AutoProcessor.from_pretrained(args.model)
    model: Any = AutoModelForCTC.from_pretrained(args.model, ctc_loss_reduction="mean")
    model.freeze_feature_encoder()
    listed = datasets.Dataset.from_dict({"audio": [audio["path"] for audio in rows["audio"]], "text": rows["text"]})
    listed.to_csv(args.folder / "listed.csv")
    corpus: Any = datasets.load_dataset("csv", data_files=str(args.folder / "listed.csv"), split="train")

    def prepare(example: dict[str, Any]) -> dict[str, Any]:
        waveform, rate = soundfile.read(example["audio"], dtype="float32")
        values = processor(waveform, sampling_rate=rate).input_values[0]
        return {"input_values": values, "length": len(values), "labels": processor(text=example["text"]).input_ids}

    corpus = corpus.map(prepare, remove_columns=corpus.column_names)
    batches: list[list[float]] = []

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batches.append([len(one["input_values"]) / processor.feature_extractor.sampling_rate for one in features])
        padded = processor.pad([{"input_values": one["input_values"]} for one in features], return_tensors="pt")
        labels = processor.pad(labels=[{"input_ids": one["labels"]} for one in features], return_tensors="pt")
        padded["labels"] = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
        return padded

    watch = clock(args.folder)
    arguments = TrainingArguments(
        output_dir=str(args.folder / "run"),
        per_device_train_batch_size=CLIPS,
        train_sampling_strategy="group_by_length" if "group" in args.recipe else "random",
        max_steps=args.steps,
        save_strategy="no",
        remove_unused_columns=False,  # else the lengths are gone before they are asked for
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=corpus, data_collator=collate, callbacks=[watch])
    trainer.train()
    spoken = load_corpus(args.source, args.eval_split)
    paths = [audio["path"] for audio in spoken["audio"]]
    model.eval()
    make: Any = pipeline
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    say = make("automatic-speech-recognition", model=model, batch_size=CLIPS, **parts)

    def transcribe() -> None:  # arrays: of files it wants ffmpeg
        read = [soundfile.read(path, dtype="float32") for path in paths]
        say([{"raw": waveform, "sampling_rate": rate} for waveform, rate in read])

    note(args.folder, watch, batches, transcribe, sum(spoken["seconds"]))


if __name__ == "__main__":
    main()
