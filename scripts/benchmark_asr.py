"""Compare recognition with the plain recipe: start-up, disk, padding, speed and memory of training and inference.

    python scripts/benchmark_asr.py --model sft_speech/assets/wav2vec2-small --source LibriSpeech \\
        --train_split train-clean-100 --eval_split dev-clean --steps 20 [--size base]

The plain recipe (`benchmark_asr_recipes.py`) is the CTC example of transformers: `datasets.map` to float arrays and
labels, a collator that pads random batches of 8 (or those of `group_by_length`), the defaults of the Trainer,
`evaluate` imported; transcription by `transformers.pipeline` at its fastest batch size. Ours is `sft-speech
finetune-asr` with its defaults and as many seconds of audio per update. Both use the same checkpoint (with ``--size``,
random weights of that size), corpus and device. Each run has its own process. The recipes alternate ``--repeats``
times; the table has medians, with minimum and maximum in brackets. A cold start has no cache of `datasets` and no index
of headers; a warm one has both.

On a GPU, ``--bf16`` uses mixed precision for both recipes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarking import OUR_ENVIRONMENT, run_recipe

CLIPS = 8  # per batch of the plain recipe
PIPELINE_BATCHES = (1, 4, 8, 16)
RECIPES = ("plain", "plain, group_by_length", "ours")
FIGURES = {  # title and scale
    "before": ("seconds before step 1, cold", 1.0),
    "warm": ("seconds before step 1, warm", 1.0),
    "first": ("seconds to the end of step 1, cold", 1.0),
    "bytes": ("MB written before step 1", 1e-6),
    "padding": ("padding, % of a batch", 100.0),
    "loader": ("loader alone, audio seconds per second", 1.0),
    "speed": ("training, audio seconds per second", 1.0),
    "memory": ("peak memory of training, MB", 1e-6),
    "evaluation": ("evaluation, audio seconds per second", 1.0),
    "transcription": ("transcription, audio seconds per second", 1.0),
    "waiting": ("of a step: waiting for data, %", 100.0),
    "convolutions": ("of a step: convolutions, %", 100.0),
    "transformer": ("of a step: transformer, %", 100.0),
    "loss": ("of a step: head and loss, %", 100.0),
    "backward": ("of a step: backward pass, %", 100.0),
    "optimizer": ("of a step: optimizer, %", 100.0),
    "mfu": ("operations of a step over the device's rate of matrix products, %", 100.0),
    "idle": ("GPU idle in a step, %", 100.0),
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
    parser.add_argument("--size", choices=("base", "large"), help="use random weights of this size")
    parser.add_argument("--source", required=True)
    parser.add_argument("--train_split", default=":0.9")
    parser.add_argument("--eval_split", default="[0.9:]", help="split to evaluate and transcribe")
    parser.add_argument("--steps", type=int, default=20, help="number of updates")
    parser.add_argument("--profiled", type=int, default=3, help="further updates, timed part by part; 0: none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="mixed precision in both recipes")
    parser.add_argument("--only", choices=("start", "training", "transcription"), help="measure only this")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--recipe", choices=RECIPES, help=argparse.SUPPRESS)
    parser.add_argument("--mean", type=float, help=argparse.SUPPRESS)  # mean seconds of an utterance
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)  # end at step 1
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = make_parser().parse_args()
    if args.recipe:
        import benchmark_asr_recipes

        benchmark_asr_recipes.measure(args)
        return
    found: dict[str, list[dict[str, Any]]] = {recipe: [] for recipe in RECIPES}
    with tempfile.TemporaryDirectory() as folder:
        given = arguments(args, Path(folder))
        for repeat in range(args.repeats):
            for number, recipe in enumerate(RECIPES):
                place = Path(folder, f"{repeat}-{number}")
                waiting = OUR_ENVIRONMENT if recipe == "ours" else {}
                run = [*given, f"--recipe={recipe}"]
                figures = run_recipe(__file__, run, place / "cold", place / "caches", **waiting)
                if args.only != "transcription":
                    warm = run_recipe(__file__, [*run, "--warm"], place / "warm", place / "caches", **waiting)
                    figures["warm"] = warm["before"]
                found[recipe].append(figures)
                print(f"{repeat + 1}: {recipe}: {json.dumps(figures)}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


def arguments(args: argparse.Namespace, folder: Path) -> list[str]:
    """Return the arguments that all runs share."""
    from sft_speech.corpora import load_corpus

    seconds = load_corpus(args.source, args.train_split, cache_dir=folder / "mean")["seconds"]
    model = random_weights(args.model, args.size, folder / "model") if args.size else args.model
    values = {
        name: getattr(args, name) for name in ("source", "train_split", "eval_split", "steps", "profiled", "only")
    }
    values |= {"model": model, "mean": sum(seconds) / len(seconds)}
    given = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return [*given, "--bf16"] if args.bf16 else given


def random_weights(model: str, size: str, folder: Path) -> str:
    """Save a random wav2vec2 of a published size with the processor of ``model``, and return its directory."""
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


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return a table of medians, and of medians of the ratios within each repeat."""
    plain, grouped, ours = (found[recipe] for recipe in RECIPES)
    lines = [f"| | {' | '.join(RECIPES)} | ours / plain | ours / grouped |", "| --- " * 6 + "|"]
    for key, (name, scale) in FIGURES.items():
        if any(key in one for one in ours):
            cells = [cell([one[key] * scale for one in found[recipe] if key in one]) for recipe in RECIPES]
            lines.append(f"| {name} | {' | '.join([*cells, ratio(ours, plain, key), ratio(ours, grouped, key)])} |")
    if any("batch" in one for one in plain):
        best = sorted({one["batch"] for one in [*plain, *grouped] if "batch" in one})
        lines.append(f"\nThe pipeline was fastest at batch size {' or '.join(map(str, best))}.")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    if not values:
        return ""
    digits = 1 if statistics.median(values) < 1000 else 0
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} [{low}, {high}]"


def ratio(ours: list[dict[str, Any]], other: list[dict[str, Any]], key: str) -> str:
    pairs = [(one[key], two[key]) for one, two in zip(ours, other, strict=True) if key in one and two.get(key)]
    return f"{statistics.median(one / two for one, two in pairs):.2f}" if pairs else ""


if __name__ == "__main__":
    main()
