"""Compare fine-tuning and recognition with Whisper with the plain recipe.

    python scripts/benchmark_whisper.py fine-tune --model WHISPER --source digits \\
        --train_split speaker=george,jackson,lucas:100 --test digits:speaker=nicolas:150 --steps 25
    python scripts/benchmark_whisper.py recognize --model WHISPER --source LibriSpeech --split dev-clean
    python scripts/benchmark_whisper.py long --model WHISPER --source chapter.opus --text chapter.txt \\
        --faster_whisper CTRANSLATE2 --faster_python venv/bin/python

fine-tune: the plain recipe is that of the Hugging Face course (`datasets.map` to log-mel frames of 30 s and labels,
`DataCollatorSpeechSeq2SeqWithPadding`, Seq2SeqTrainer); "ours" is `sft_speech.finetune` with `encoder_seconds` full and
auto. All get the same number of updates of about as many clips, the same learning rate and no dropout. Each saved model
is tested in plain use (transformers, 30 s) and in own-length use (ours). Recipe "before" tests the checkpoint.

recognize: the transcripts of ours are compared with those of `transformers.pipeline`, which searches with 5 beams.

long: one recording, by `Transcriber`, by the pipeline's long form, and by faster-whisper in int8 and float32.

Each recipe has its own process. Seconds are wall clock; CPU seconds are those of the process and its workers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarking import OUR_ENVIRONMENT, run_recipe

RECIPES = {
    "fine-tune": ("before", "plain", "full", "auto"),
    "recognize": ("pipeline", "ours, 5 beams", "ours", "ours, own length"),
    "long": ("pipeline", "ours", "ours, own length", "faster-whisper int8", "faster-whisper float32"),
}

HIDDEN = ("texts", "counts")  # ends of the names of figures that only --json has


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=RECIPES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", required=True, help="corpus; for long, a recording")
    parser.add_argument("--recipes", nargs="+", help="only these")
    parser.add_argument("--repeats", type=int, default=1, help="how often the recipes alternate")
    parser.add_argument("--language", help="of a multilingual checkpoint")
    parser.add_argument("--json", type=Path, help="append all figures to this file, a line for each run")
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    tuning = parser.add_argument_group("fine-tune")
    tuning.add_argument("--train_split")
    tuning.add_argument("--test", nargs="+", default=[], metavar="SOURCE:SPLIT")
    tuning.add_argument("--steps", type=int, default=25, help="number of updates")
    tuning.add_argument("--clips", type=int, default=16, help="in a batch")
    tuning.add_argument("--learning_rate", type=float, default=3e-5)
    tuning.add_argument("--lower_case", action="store_true", help="for transcripts in capitals")
    tuning.add_argument("--options", default="{}", help="further options of ours, as JSON")
    tuning.add_argument("--uses", nargs="+", default=["own", "plain"], choices=("own", "plain"))
    recognition = parser.add_argument_group("recognize")
    recognition.add_argument("--split")
    recognition.add_argument("--batch", type=int, default=1, help="clips in a batch of the pipeline")
    long = parser.add_argument_group("long")
    long.add_argument("--text", help="file of the transcript")
    long.add_argument("--faster_whisper", help="directory of the model in CTranslate2's layout")
    long.add_argument("--faster_python", help="a Python that has faster-whisper")
    return parser


def main() -> None:
    args = make_parser().parse_args()
    if args.recipe:
        import benchmark_whisper_recipes

        benchmark_whisper_recipes.measure(args)
        return
    given: list[str] = sys.argv[1:]
    first: list[str] = []  # transcripts of the first recipe
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(args.repeats):
            for number, recipe in enumerate(args.recipes or RECIPES[args.measure]):
                place = Path(folder, f"{repeat}-{number}")
                waiting = OUR_ENVIRONMENT if recipe in (*RECIPES["fine-tune"][2:], *RECIPES["recognize"][1:]) else {}
                figures = run_recipe(__file__, [*given, f"--recipe={recipe}"], place, place / "caches", **waiting)
                if args.measure == "recognize":
                    first = first or figures["texts"]
                    pairs = zip(figures["texts"], first, strict=True)
                    figures["equal"] = f"{sum(one == other for one, other in pairs)} of {len(figures['texts'])}"
                report(args, {"recipe": recipe, "repeat": repeat, **figures})


def report(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the figures of a run, and append them to the file with what was run."""
    shown = {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({name: value for name, value in shown.items() if not name.endswith(HIDDEN)}), flush=True)
    if args.json:
        asked = {name: str(value) for name, value in vars(args).items() if value not in (None, [])}
        with args.json.open("a") as file:
            file.write(json.dumps({**shown, "asked": asked}) + "\n")


if __name__ == "__main__":
    main()
