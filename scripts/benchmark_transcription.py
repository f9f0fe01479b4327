"""Compare transcription with `transformers.pipeline` at its best batch size, and with faster-whisper in int8.

    python scripts/benchmark_transcription.py --model sft_speech/assets/wav2vec2-small --source LibriSpeech \\
        --split dev-clean --repeats 5 [--size base]
    python scripts/benchmark_transcription.py --model WHISPER --source LibriSpeech --split dev-clean --seconds 8 \\
        --repeats 5 --faster_whisper CTRANSLATE2_FOLDER [--faster_python venv/bin/python]

The recipes alternate, each in its own process, which transcribes one clip before it is timed. With ``--seconds`` only
the clips of about this length are used. The pipeline runs at every batch size of PIPELINE_BATCHES; the fastest counts.
Ours is `Transcriber` with its defaults, and in float32; "own length" is without the silence after a clip, for Whisper.
The table has medians, with minimum and maximum in brackets, of seconds of audio per second and per CPU second, and the
ratio to the pipeline in each repeat. WER is under the model's default normalizer; with ``--size`` it means nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark_asr import PIPELINE_BATCHES, cell, random_weights, ratio
from benchmarking import OUR_ENVIRONMENT, cpu_seconds, run_recipe

Transcribe = Callable[[list[Any]], list[str]]

PIPELINE, OURS, FASTER = "pipeline", "ours", "faster-whisper int8"
FASTER_WHISPER = """
import json, os, sys, time
import numpy as np
from faster_whisper import WhisperModel
folder, clips, threads, language = sys.argv[1:]
model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=int(threads))
def text(clip):
    found, _ = model.transcribe(clip, language=language, beam_size=1, temperature=0.0, without_timestamps=True)
    return " ".join(one.text.strip() for one in found)
clips = list(np.load(clips).values())
text(clips[0])
began, before = time.perf_counter(), time.process_time()
texts = [text(clip) for clip in clips]
print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - before, "texts": texts}))
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", choices=("base", "large"), help="use a random wav2vec2 of this size")
    parser.add_argument("--source", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--clips", type=int, default=50, help="at most so many")
    parser.add_argument("--seconds", type=float, help="only clips from 0.75 to 1.25 times this length")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--faster_whisper", help="directory of the model in CTranslate2's layout")
    parser.add_argument("--faster_python", default=sys.executable, help="a Python that has faster-whisper [this one]")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = make_parser().parse_args()
    if args.recipe:
        measure(args)
        return
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory() as folder:
        given = sys.argv[1:]
        if args.size:
            given += ["--model", random_weights(args.model, args.size, Path(folder, "model"))]
        whisper = AutoConfig.from_pretrained(args.model).model_type == "whisper"
        recipes = [PIPELINE, OURS, f"{OURS}, float32", *([f"{OURS}, own length"] if whisper else [])]
        recipes += [FASTER] if args.faster_whisper else []
        found: dict[str, list[dict[str, Any]]] = {recipe: [] for recipe in recipes}
        for repeat in range(args.repeats):
            for number, recipe in enumerate(recipes):
                place = Path(folder, f"{repeat}-{number}")
                waiting = OUR_ENVIRONMENT if recipe.startswith(OURS) else {}
                run = [*given, f"--recipe={recipe}"]
                found[recipe].append(run_recipe(__file__, run, place, Path(folder, "caches"), **waiting))
                shown = {name: value for name, value in found[recipe][-1].items() if name != "texts"}
                print(f"{repeat + 1}: {recipe}: {json.dumps(shown)}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return a table of the recipes."""
    lines = ["| | audio s/s | audio s/CPU s | over pipeline | WER | texts as in float32 |", "| --- " * 6 + "|"]
    precise = found[f"{OURS}, float32"][0]["texts"]
    for recipe, runs in found.items():
        speeds = [cell([one[key] for one in runs]) for key in ("speed", "cpu_speed")]
        equal = sum(one == other for one, other in zip(runs[0]["texts"], precise, strict=True))
        figures = [ratio(runs, found[PIPELINE], "speed"), f"{runs[0]['wer']:.2f}", f"{equal} of {len(precise)}"]
        lines.append(f"| {recipe} | {' | '.join([*speeds, *figures])} |")
    best = sorted({one["batch"] for one in found[PIPELINE]})
    return "\n".join([*lines, f"\nThe pipeline was fastest at batch size {' or '.join(map(str, best))}."])


def measure(args: argparse.Namespace) -> None:
    """Transcribe the clips by a recipe, and write the figures to ``found.json``."""
    from benchmark_whisper_recipes import error_rate

    from sft_speech import load_checkpoint, load_corpus
    from sft_speech.audio.read import read

    rows: Any = load_corpus(args.source, args.split)
    if args.seconds:
        rows = rows.filter(lambda seconds: 0.75 <= seconds / args.seconds <= 1.25, input_columns="seconds")
    rows = rows.select(range(min(args.clips, len(rows))))
    checkpoint: Any = load_checkpoint(args.model)
    clips = [read(audio, checkpoint.rate) for audio in rows["audio"]]
    if args.recipe == FASTER:
        found = by_faster_whisper(args, clips)
    elif args.recipe == PIPELINE:
        found = min((timed(by_pipeline(args, size), clips) | {"batch": size} for size in PIPELINE_BATCHES), key=seconds)
    else:
        found = timed(by_ours(args, checkpoint), clips)
    audio = sum(map(len, clips)) / checkpoint.rate
    found |= {"speed": audio / found["seconds"], "cpu_speed": audio / found["cpu"]}
    found["wer"] = 100 * error_rate(checkpoint, rows["text"], found["texts"])
    (args.folder / "found.json").write_text(json.dumps(found))


def seconds(figures: dict[str, Any]) -> float:
    taken: float = figures["seconds"]
    return taken


def timed(transcribe: Transcribe, clips: list[Any]) -> dict[str, Any]:
    transcribe(clips[:1])
    began = time.perf_counter(), cpu_seconds()
    texts = transcribe(clips)
    return {"seconds": time.perf_counter() - began[0], "cpu": cpu_seconds() - began[1], "texts": texts}


def by_ours(args: argparse.Namespace, checkpoint: Any) -> Transcribe:
    from sft_speech import Transcriber

    if args.recipe.endswith("own length"):
        checkpoint.own_length = True
    dtype: Any = "float32" if args.recipe.endswith("float32") else "auto"
    transcriber = Transcriber(checkpoint, times=False, dtype=dtype)
    return lambda clips: [one.text for one in transcriber((clip, checkpoint.rate) for clip in clips)]


def by_pipeline(args: argparse.Namespace, batch: int) -> Transcribe:
    from transformers import AutoProcessor, pipeline

    make: Any = pipeline
    processor: Any = AutoProcessor.from_pretrained(args.model)
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    recognizer = make("automatic-speech-recognition", model=args.model, **parts)
    rate = processor.feature_extractor.sampling_rate

    def transcribe(clips: list[Any]) -> list[str]:
        given = ({"raw": clip, "sampling_rate": rate} for clip in clips)
        return [one["text"].strip() for one in recognizer(given, batch_size=batch)]

    return transcribe


def by_faster_whisper(args: argparse.Namespace, clips: list[Any]) -> dict[str, Any]:
    import numpy as np
    import torch

    file = args.folder / "clips.npz"
    np.savez(file, **{f"{number:04}": clip for number, clip in enumerate(clips)})
    given = [args.faster_whisper, str(file), str(torch.get_num_threads()), "en"]
    command = [args.faster_python, "-c", FASTER_WHISPER, *given]
    ended = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if ended.returncode:
        sys.exit(ended.stderr[-2000:])
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


if __name__ == "__main__":
    main()
