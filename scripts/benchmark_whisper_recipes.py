"""The recipes of `benchmark_whisper.py`."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from benchmarking import clock, cpu_seconds, peak_memory

Transcribe: TypeAlias = Callable[[list[Any]], list[str]]
PLAIN_CLIPS = 8  # transcribed together in plain use
OF_THE_RUN = ("updates", "seconds_per_update", "peak_bytes", "trained_parameters", "parameters")


def measure(args: argparse.Namespace) -> None:
    """Run a recipe and write its figures to ``found.json``."""
    found = {"fine-tune": fine_tuned, "recognize": recognized, "long": long}[args.measure](args)
    (args.folder / "found.json").write_text(json.dumps(found))


def rows_of(given: str) -> Any:
    """Return the rows of ``SOURCE:SPLIT``."""
    from sft_speech.corpora import load_corpus

    source, _, split = given.partition(":")
    return load_corpus(source, split or None)


def waveforms(rows: Any, rate: int = 16000) -> Iterator[Any]:
    from sft_speech.audio.read import read

    for audio in rows["audio"]:
        yield read(audio["path"], rate)


# ---- fine-tuning


def fine_tuned(args: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune, and test the saved model."""
    watch = clock()
    folder, of_the_run = Path(args.model), {}
    if args.recipe != "before":
        folder = args.folder / "model"
        of_the_run = (plain_recipe if args.recipe == "plain" else ours)(args, folder, watch)
    found: dict[str, Any] = watch.found | of_the_run
    for test in args.test:
        rows = rows_of(test)
        for use in args.uses:
            began = time.time(), cpu_seconds()
            errors, texts = tested(folder, rows, use, args)
            name = f"{use} {Path(test.partition(':')[0]).name}:{test.partition(':')[2]}"
            found |= rates(name, errors, rows) | {f"{name} seconds": time.time() - began[0]}
            found |= {f"{name} cpu": cpu_seconds() - began[1], f"{name} texts": texts[:12]}
    return found


def rates(name: str, errors: list[Any], rows: Any) -> dict[str, Any]:
    """Return the WER in percent, its 95 % interval, and the errors and words of each clip, to compare recipes."""
    from sft_speech.metrics.words import interval, sum_errors

    limits = interval(errors, list(rows["speaker"]))
    counts = [(one.total, one.reference) for one in errors]
    shown = [round(100 * limits.low, 1), round(100 * limits.high, 1)]
    return {name: 100 * sum_errors(errors).rate, f"{name} interval": shown, f"{name} counts": counts}


def ours(args: argparse.Namespace, folder: Path, watch: Any) -> dict[str, Any]:
    """Fine-tune with ours; return the figures that the run itself gives."""
    from sft_speech import finetune, load_corpus
    from sft_speech.models.exact.whisper import SILENT_POSITIONS
    from sft_speech.tasks.asr.seq2seq.checkpoint import MARGIN_SECONDS

    seconds = load_corpus(args.source, args.train_split)["seconds"]
    computed = sum(seconds) / len(seconds) + MARGIN_SECONDS + SILENT_POSITIONS / 50 if args.recipe == "auto" else 30.0
    options: dict[str, Any] = {
        "max_batch_seconds": args.clips * computed + 0.5,
        "max_steps": args.steps,
        "learning_rate": args.learning_rate,
        "eval_steps": args.steps,
        "logging_steps": 5,
        "evaluate_before": False,
        "dataloader_num_workers": 0,
        "report_to": "none",
        "language": args.language,
        "lower_case": args.lower_case,
        "encoder_seconds": args.recipe,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "layerdrop": 0.0,
    }
    options |= {"source": args.source, "train_split": args.train_split, **json.loads(args.options)}
    figures = finetune(args.model, output_dir=folder, callbacks=[watch], **options).metrics
    return {name: figures[name] for name in OF_THE_RUN if name in figures}


def plain_recipe(args: argparse.Namespace, folder: Path, watch: Any) -> dict[str, Any]:
    import torch
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

    given = {"language": args.language, "task": "transcribe"} if args.language else {}
    processor: Any = WhisperProcessor.from_pretrained(args.model, **given)
    model: Any = WhisperForConditionalGeneration.from_pretrained(args.model, dropout=0.0)
    if args.language:
        model.generation_config.update(**given)

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        frames = [{"input_features": one["input_features"]} for one in features]
        batch = processor.feature_extractor.pad(frames, return_tensors="pt")
        padded = processor.tokenizer.pad([{"input_ids": one["labels"]} for one in features], return_tensors="pt")
        labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
        if (labels[:, 0] == model.config.decoder_start_token_id).all():
            labels = labels[:, 1:]
        batch["labels"] = labels
        return batch

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(args.folder / "run"),
        per_device_train_batch_size=args.clips,
        learning_rate=args.learning_rate,
        warmup_steps=0.1,  # a share
        max_steps=args.steps,
        save_strategy="no",
        logging_steps=5,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=mapped(args, processor),
        data_collator=collate,
        processing_class=processor.feature_extractor,
        callbacks=[watch],
    )
    trainer.train()
    trainer.save_model(str(folder))
    processor.save_pretrained(folder)
    return {}


def mapped(args: argparse.Namespace, processor: Any) -> Any:
    """Return rows of log-mel frames of 30 s and labels, on disk."""
    import datasets

    def examples() -> Iterable[dict[str, Any]]:
        rows = rows_of(f"{args.source}:{args.train_split}")
        for text, waveform in zip(rows["text"], waveforms(rows), strict=True):
            frames = processor.feature_extractor(waveform, sampling_rate=16000).input_features[0]
            text = text.lower() if args.lower_case else text
            yield {"input_features": frames, "labels": processor.tokenizer(text).input_ids}

    return datasets.Dataset.from_generator(examples)


def tested(folder: Path, rows: Any, use: str, args: argparse.Namespace) -> tuple[list[Any], list[str]]:
    """Return errors and transcripts of a model by our greedy search ("own") or that of transformers ("plain")."""
    from sft_speech import evaluate_corpus, load_checkpoint

    checkpoint: Any = load_checkpoint(folder)
    if args.language:
        from sft_speech.tasks.asr.generation import Generation

        checkpoint = checkpoint.with_generation(Generation(language=args.language))
    if use == "own":
        checkpoint.own_length = True
        result = evaluate_corpus(checkpoint, rows)
        texts = [(one.written or (one.reference, one.hypothesis))[1] for one in result.utterances]
        return [one.words for one in result.utterances], texts
    texts = plain_texts(folder, rows, args.language)
    return errors_of(checkpoint, rows["text"], texts), texts


def plain_texts(folder: Path, rows: Any, language: str | None) -> list[str]:
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    processor: Any = WhisperProcessor.from_pretrained(folder)
    model: Any = WhisperForConditionalGeneration.from_pretrained(folder)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    given = {"language": language, "task": "transcribe"} if language else {}
    texts: list[str] = []
    clips = waveforms(rows)
    while some := list(islice(clips, PLAIN_CLIPS)):
        frames = processor(some, sampling_rate=16000, return_tensors="pt").input_features.to(model.device)
        texts += processor.batch_decode(model.generate(frames, **given), skip_special_tokens=True)
    return texts


def error_rate(checkpoint: Any, references: list[str], hypotheses: list[str]) -> float:
    from sft_speech.metrics.words import sum_errors

    return sum_errors(errors_of(checkpoint, references, hypotheses)).rate


def errors_of(checkpoint: Any, references: list[str], hypotheses: list[str]) -> list[Any]:
    """Return the errors in words of each clip."""
    from sft_speech.metrics.words import word_errors
    from sft_speech.tasks.asr.recognizer import scoring_of

    scoring = scoring_of(checkpoint)
    right = [scoring.words(scoring.reference(text)) for text in references]
    found = [scoring.words(scoring.hypothesis(text)) for text in hypotheses]
    return word_errors(right, found)


# ---- recognition


def recognized(args: argparse.Namespace) -> dict[str, Any]:
    """Transcribe a split."""
    from sft_speech import load_checkpoint

    rows = rows_of(f"{args.source}:{args.split or ''}")
    clips = list(waveforms(rows))
    transcribe = pipeline_of(args) if args.recipe == "pipeline" else transcriber_of(args)
    transcribe(clips[:1])
    began = time.time(), cpu_seconds()
    texts = transcribe(clips)
    found = {"seconds": time.time() - began[0], "cpu": cpu_seconds() - began[1], "memory": peak_memory()}
    wer = error_rate(load_checkpoint(args.model, language=args.language), rows["text"], texts)
    return {"wer": 100 * wer, **found, "audio": sum(rows["seconds"]), "texts": texts}


def transcriber_of(args: argparse.Namespace) -> Transcribe:
    from sft_speech import Transcriber
    from sft_speech.tasks.asr.generation import Generation

    generation = Generation(language=args.language, num_beams=5 if args.recipe == "ours, 5 beams" else 1)
    transcriber = Transcriber(args.model, times=False, generation=generation)
    checkpoint: Any = transcriber.checkpoint
    checkpoint.own_length = args.recipe == "ours, own length"
    return lambda clips: [one.text for one in transcriber((clip, 16000) for clip in clips)]


def pipeline_of(args: argparse.Namespace, **options: Any) -> Transcribe:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline

    processor: Any = WhisperProcessor.from_pretrained(args.model)
    model = WhisperForConditionalGeneration.from_pretrained(args.model)
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    make: Any = pipeline
    recognizer = make("automatic-speech-recognition", model=model, **parts)
    if args.language:
        options["generate_kwargs"] = {"language": args.language, "task": "transcribe"}

    def transcribe(clips: list[Any]) -> list[str]:
        given = ({"raw": clip, "sampling_rate": 16000} for clip in clips)
        return [one["text"].strip() for one in recognizer(given, batch_size=args.batch, **options)]

    return transcribe


FASTER_WHISPER = """
import json, sys, time
from faster_whisper import WhisperModel
folder, kind, threads, recording, language = sys.argv[1:]
model = WhisperModel(folder, device="cpu", compute_type=kind, cpu_threads=int(threads))
began, before = time.time(), time.process_time()
segments, _ = model.transcribe(
    recording, language=language, beam_size=1, temperature=0.0, condition_on_previous_text=False
)
text = " ".join(segment.text.strip() for segment in segments)
print(json.dumps({"seconds": time.time() - began, "cpu": time.process_time() - before, "texts": [text]}))
"""


def long(args: argparse.Namespace) -> dict[str, Any]:
    """Transcribe one recording, read from its file."""
    import torch

    from sft_speech import load_checkpoint
    from sft_speech.audio.read import read

    if args.recipe.startswith("faster-whisper"):
        kind, threads = args.recipe.rpartition(" ")[2], str(torch.get_num_threads())
        given = [args.faster_whisper, kind, threads, args.source, args.language or "en"]
        command = [args.faster_python, "-c", FASTER_WHISPER, *given]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    else:
        own = args.recipe != "pipeline"
        transcribe = transcriber_of(args) if own else pipeline_of(args, return_timestamps=True)
        began = time.time(), cpu_seconds()
        texts = transcribe([read(args.source, 16000)])
        found = {"seconds": time.time() - began[0], "cpu": cpu_seconds() - began[1], "texts": texts}
    reference = Path(args.text).read_text()
    return {"wer": 100 * error_rate(load_checkpoint(args.model), [reference], found["texts"]), **found}
