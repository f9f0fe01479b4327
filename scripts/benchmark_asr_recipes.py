"""The recipes of `benchmark_asr.py`: the CTC example of transformers, and ours.

Each one trains and is then measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import benchmark_asr
from benchmarking import clock


class Trained(NamedTuple):
    """A trained recipe, to be measured.

    Args:
        trainer: the Trainer of transformers.
        batches: seconds of each clip, for each training batch.
        evaluate: evaluates the evaluation split.
        transcribe: transcribes it; returns the chosen batch size, if any, and the seconds it took.
    """

    trainer: Any
    batches: list[list[float]]
    evaluate: Callable[[], Any]
    transcribe: Callable[[], tuple[int | None, float]]


def measure(args: argparse.Namespace) -> None:
    """Train a recipe, measure it, and write the figures to ``found.json``."""
    watch = clock(
        args.folder, args.folder.parent / "caches", only_start=args.folder / "found.json" if args.warm else None
    )
    begin = None if args.only == "transcription" else watch
    recipe: Any = ours if args.recipe == "ours" else plain
    trained: Trained = recipe(args, begin)
    found = dict(watch.found)
    if found:
        steps = trained.batches[: args.steps]
        found["speed"] = found.pop("steps_per_second") * sum(map(sum, steps[2:])) / (len(steps) - 2)
        found["padding"] = 1 - sum(map(sum, steps)) / sum(len(batch) * max(batch) for batch in steps)
    if args.only in (None, "training"):
        found["loader"] = loader_alone(trained, args)
        if args.profiled:
            found |= parts_of_a_step(trained.trainer, args.profiled)
    if args.only in (None, "transcription"):
        seconds_of_audio = sum(evaluation_rows(args)["seconds"])
        began = time.perf_counter()
        trained.evaluate()
        found["evaluation"] = seconds_of_audio / (time.perf_counter() - began)
        batch, seconds = trained.transcribe()
        found["transcription"] = seconds_of_audio / seconds
        if batch is not None:
            found["batch"] = batch
    (args.folder / "found.json").write_text(json.dumps(found))


def evaluation_rows(args: argparse.Namespace) -> Any:
    from sft_speech.corpora import load_corpus

    return load_corpus(args.source, args.eval_split)


# ---- ours


def ours(args: argparse.Namespace, watch: Any) -> Trained:
    from sft_speech.tasks.asr.config import FinetuneAsrConfig
    from sft_speech.tasks.asr.spec import SPEC
    from sft_speech.training import run

    training: Any = run
    config = FinetuneAsrConfig(
        model=args.model,
        source=args.source,
        train_split=args.train_split,
        output_dir=str(args.folder / "run"),
        max_batch_seconds=max(benchmark_asr.CLIPS * args.mean, 30.0),
        update_seconds=benchmark_asr.CLIPS * args.mean,
        max_steps=args.steps if watch else 1,
        eval_steps=args.steps,
        bf16=args.bf16,
        report_to="none",
        mask_time_prob=0.05,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
    )
    build, trainers = training.build_trainer, []

    def watched(*given: Any) -> Any:
        trainers.append(build(*given))
        if watch:
            trainers[0].add_callback(watch)
        return trainers[0]

    training.build_trainer = watched
    training.fine_tune(config, SPEC)
    plan = trainers[0].plan
    batches = [[float(plan.seconds[index]) for _, index in batch] for batch in plan]

    def transcribe() -> tuple[None, float]:
        from sft_speech import Transcriber

        transcriber, paths = Transcriber(config.output_dir), [audio["path"] for audio in evaluation_rows(args)["audio"]]
        began = time.perf_counter()
        transcriber(paths)
        return None, time.perf_counter() - began

    def evaluate() -> Any:
        from sft_speech import evaluate_corpus, load_checkpoint

        return evaluate_corpus(load_checkpoint(config.output_dir), evaluation_rows(args)).summary()

    return Trained(trainers[0], batches, evaluate, transcribe)


# ---- the plain recipe


def plain(args: argparse.Namespace, watch: Any) -> Trained:
    import evaluate  # noqa: F401, imported as in the example
    import torch
    from transformers import AutoModelForCTC, AutoProcessor, Trainer, TrainingArguments

    processor: Any = AutoProcessor.from_pretrained(args.model)
    model: Any = AutoModelForCTC.from_pretrained(args.model, ctc_loss_reduction="mean")
    model.freeze_feature_encoder()
    batches: list[list[float]] = []

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batches.append([len(one["input_values"]) / processor.feature_extractor.sampling_rate for one in features])
        padded = processor.pad([{"input_values": one["input_values"]} for one in features], return_tensors="pt")
        labels = processor.pad(labels=[{"input_ids": one["labels"]} for one in features], return_tensors="pt")
        padded["labels"] = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
        return padded

    arguments = TrainingArguments(
        output_dir=str(args.folder / "run"),
        per_device_train_batch_size=benchmark_asr.CLIPS,
        per_device_eval_batch_size=benchmark_asr.CLIPS,
        train_sampling_strategy="group_by_length" if "group" in args.recipe else "random",
        max_steps=args.steps if watch else 1,
        save_strategy="no",
        remove_unused_columns=False,  # otherwise the lengths are removed before they are needed
        report_to="none",
        bf16=args.bf16,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer: Any = Trainer(
        model=model,
        args=arguments,
        train_dataset=mapped(args, processor, args.train_split),
        data_collator=collate,
        callbacks=[watch] if watch else [],
        preprocess_logits_for_metrics=lambda logits, _labels: logits.argmax(-1),
        compute_metrics=lambda predictions: word_error_rate(processor, predictions),
    )
    trainer.train()

    def evaluation() -> Any:
        return trainer.evaluate(corpus)

    corpus = mapped(args, processor, args.eval_split) if args.only != "training" else None
    return Trained(trainer, batches, evaluation, lambda: best_pipeline(args, processor, model))


def mapped(args: argparse.Namespace, processor: Any, split: str) -> Any:
    """Return rows of float arrays and labels."""
    import datasets
    import soundfile

    from sft_speech.corpora import load_corpus

    rows = load_corpus(args.source, split)
    file = args.folder / f"{len(rows)}.csv"
    datasets.Dataset.from_dict({"audio": [one["path"] for one in rows["audio"]], "text": rows["text"]}).to_csv(file)
    corpus: Any = datasets.load_dataset("csv", data_files=str(file), split="train")

    def prepare(example: dict[str, Any]) -> dict[str, Any]:
        waveform, rate = soundfile.read(example["audio"], dtype="float32")
        values = processor(waveform, sampling_rate=rate).input_values[0]
        return {"input_values": values, "length": len(values), "labels": processor(text=example["text"]).input_ids}

    return corpus.map(prepare, remove_columns=corpus.column_names)


def word_error_rate(processor: Any, predictions: Any) -> dict[str, float]:
    """Return the WER as the example computes it, with jiwer instead of a metric from the Hub."""
    import jiwer

    labels, ids = predictions.label_ids, predictions.predictions
    blank = processor.tokenizer.pad_token_id
    ids[ids == -100], labels[labels == -100] = blank, blank
    references, hypotheses = processor.batch_decode(labels, group_tokens=False), processor.batch_decode(ids)
    return {"wer": jiwer.wer(list(references), list(hypotheses))}


def best_pipeline(args: argparse.Namespace, processor: Any, model: Any) -> tuple[int, float]:
    """Return the fastest batch size of `transformers.pipeline`, and the seconds it takes."""
    import soundfile
    import torch
    from transformers import pipeline

    make: Any = pipeline
    half = {"dtype": torch.bfloat16} if args.bf16 else {}
    parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
    recognizer = make("automatic-speech-recognition", model=model.eval(), device=model.device, **parts, **half)
    paths, taken = [audio["path"] for audio in evaluation_rows(args)["audio"]], {}

    def clips() -> Iterator[dict[str, Any]]:  # arrays, because files would need ffmpeg
        for path in paths:
            waveform, rate = soundfile.read(path, dtype="float32")
            yield {"raw": waveform, "sampling_rate": rate}

    for batch in benchmark_asr.PIPELINE_BATCHES:
        began = time.perf_counter()
        for _ in recognizer(clips(), batch_size=batch):
            pass
        taken[batch] = time.perf_counter() - began
    fastest = min(taken, key=lambda batch: taken[batch])
    return fastest, taken[fastest]


# ---- parts of training


def loader_alone(trained: Trained, args: argparse.Namespace) -> float:
    """Return the audio seconds per second of the loader alone, including its start."""
    began, done = time.perf_counter(), 0
    for _ in islice(trained.trainer.get_train_dataloader(), args.steps):
        done += 1
    seconds = sum(map(sum, trained.batches[: args.steps])) / args.steps
    return done * seconds / (time.perf_counter() - began)


def parts_of_a_step(trainer: Any, steps: int) -> dict[str, float]:
    """Return each part's share of the time of a step, and the share of the device's matrix product rate (MFU)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    cuda = trainer.args.device.type == "cuda"
    model = trainer.accelerator.unwrap_model(trainer.model).train()
    taken = dict.fromkeys(("waiting", "convolutions", "transformer", "loss", "backward", "optimizer"), 0.0)

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(batch: Any) -> None:
        with timed(model.base_model, now) as inside:
            began = now()
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, trainer._prepare_inputs(batch), num_items_in_batch=1)
            forward = now()
        loss.backward()
        backward = now()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        for name, value in inside.items():
            taken[name] += value
        taken["loss"] += forward - began - sum(inside.values())
        taken["backward"] += backward - forward
        taken["optimizer"] += now() - backward

    loader = trainer.get_train_dataloader()
    batches = islice(chain.from_iterable(repeat(loader)), 1, None)  # the first batch waits for the workers to start
    for batch in waited_for(islice(batches, steps), taken, now):
        step(batch)
    whole = sum(taken.values())
    shares = {name: value / whole for name, value in taken.items()}
    if cuda:
        shares["idle"] = idle(lambda: step(next(batches)))
    began = now()
    step(batch := next(batches))
    seconds = now() - began
    with FlopCounterMode(display=False) as counter:
        step(batch)
    return shares | {"mfu": counter.get_total_flops() / seconds / matrix_rate(trainer.args)}


def waited_for(batches: Iterable[Any], taken: dict[str, float], now: Callable[[], float]) -> Iterator[Any]:
    """Yield the batches, and add the waiting time for each to ``taken["waiting"]``."""
    began = now()
    for batch in batches:
        taken["waiting"] += now() - began
        yield batch
        began = now()


@contextmanager
def timed(base: Any, now: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Measure the seconds that a wav2vec2 spends in its convolutions and its transformer."""
    inside: dict[str, float] = {"convolutions": 0.0, "transformer": 0.0}
    hooks = []
    for name, module in (("convolutions", base.feature_extractor), ("transformer", base.encoder)):

        def begin(*_: Any, name: str = name) -> None:
            inside[name] -= now()

        def end(*_: Any, name: str = name) -> None:
            inside[name] += now()

        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield inside
    finally:
        for hook in hooks:
            hook.remove()


def matrix_rate(arguments: Any) -> float:
    """Return the operations per second of large matrix products, in the precision of the run; best of ten."""
    import torch

    size = 8192 if arguments.device.type == "cuda" else 2048
    precision = torch.bfloat16 if arguments.bf16 else torch.float32
    left, right = (torch.randn(size, size, device=arguments.device, dtype=precision) for _ in range(2))
    best = 0.0
    for _ in range(10):
        began = time.perf_counter()
        left @ right
        if arguments.device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def idle(step: Callable[[], None]) -> float:
    """Return the share of a step in which the GPU is idle."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        whole = time.perf_counter() - began
    return 1 - sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6 / whole
