"""Pretrain the embedded recognizer with supervised CTC on synthetic speech.

python scripts/pretrain_small.py --text SENTENCES --output small --hours 3

Utterances are made on the fly: text, voice and augmentation are drawn from (seed, index), so nothing is stored or
repeated. ``--text`` is a file with one sentence per line (or ``id|sentence``). The voices are those of espeak-ng
without the demo's; if the commands ``flite`` and ``pico2wave`` are installed, their recorded voices speak half of the
utterances. The learning rate depends on the elapsed time: it rises for 3 % of --hours, stays constant, and falls in the
last half. Repeat the command with the same --output to resume; --start begins a new run from the weights of
another.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
UNLIKE_PEOPLE = ("Demonic", "UniRobot", "croak", "whisper", "whisperf", "anikaRobot", "Tweaky", "fast")


class SyntheticSpeech:
    """A map from an index to (waveform float32 (S,), transcript); S: samples.

    Text, voice and augmentation depend only on the index; the samples of espeak-ng also depend on its previous calls.
    """

    def __init__(self, sentences: list[str], seed: int, cache: Path, recorded: bool, augmented: bool = True) -> None:
        from sft_speech.corpora.espeak import variants
        from sft_speech.corpora.synthetic import HELD_OUT  # the voices of the demo

        self.sentences, self.seed, self.cache, self.augmented = sentences, seed, cache, augmented
        self.words = sorted({word for sentence in sentences for word in sentence.split()})
        self.variants = [v for v in variants() if v not in HELD_OUT and v not in UNLIKE_PEOPLE]
        self.recorded = recorded

    def text(self, rng: np.random.Generator) -> str:
        """Draw a text."""
        from num2words import num2words

        kind = rng.random()
        if kind < 0.60:  # running text
            words = self.sentences[rng.integers(len(self.sentences))].split()
            count = int(rng.integers(2, 18))
            start = int(rng.integers(0, max(1, len(words) - count + 1)))
            return " ".join(words[start : start + count])
        if kind < 0.85:  # words without context
            return " ".join(rng.choice(self.words, int(rng.integers(1, 7))))
        if kind < 0.93:  # digits as in telephone numbers
            return normalize(" ".join(num2words(int(d)) for d in rng.integers(0, 10, int(rng.integers(1, 8)))))
        number = int(10 ** rng.uniform(0, 5))
        return normalize(num2words(number, to="ordinal" if rng.random() < 0.2 else "cardinal"))

    def voice(self, text: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Speak a text with a random voice of espeak-ng; return the waveform and its rate."""
        from sft_speech.corpora.espeak import ACCENTS, ESPEAK_RATE, Voice, speak

        voice = Voice(
            accent=ACCENTS[0] if rng.random() < 0.5 else str(rng.choice(ACCENTS)),
            variant=str(rng.choice(["", *self.variants])),
            words_per_minute=int(rng.integers(110, 240)),
            pitch=int(np.clip(rng.normal(50, 18), 5, 95)),
            pitch_range=int(rng.integers(20, 95)),
        )
        return speak(text.lower(), voice), ESPEAK_RATE

    def recorded_voice(self, rng: np.random.Generator) -> tuple[np.ndarray, int, str]:
        """Return one of 8000 utterances by flite or 12,000 by pico, cached on disk because both are slow."""
        import soundfile

        number = int(rng.integers(8000) if rng.random() < 0.5 else rng.integers(8000, 20000))
        own = np.random.default_rng((self.seed, 1, number))
        text = self.text(own)
        path = self.cache / f"{number}.wav"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(f".{os.getpid()}.wav")
            command = self.flite if number < 8000 else self.pico
            subprocess.run(command(text.lower(), scratch, own), check=True, stderr=subprocess.DEVNULL)
            scratch.rename(path)
        waveform, rate = soundfile.read(path, dtype="float32")
        return waveform, rate, text

    @staticmethod
    def flite(text: str, path: Path, rng: np.random.Generator) -> list[str]:
        voice = str(rng.choice(["kal16", "awb", "rms", "slt"], p=[0.1, 0.3, 0.3, 0.3]))
        stretch, pitch = rng.uniform(0.75, 1.35), rng.uniform(85, 220)
        options = ["--setf", f"duration_stretch={stretch:.2f}", "--setf", f"int_f0_target_mean={pitch:.0f}"]
        return ["flite", "-voice", voice, *options, "-t", text, "-o", str(path)]

    @staticmethod
    def pico(text: str, path: Path, rng: np.random.Generator) -> list[str]:
        pitch, pace = int(rng.uniform(60, 130)), int(rng.uniform(75, 140))
        markup = f"<pitch level='{pitch}'><speed level='{pace}'>{text}</speed></pitch>"
        return ["pico2wave", "-l", str(rng.choice(["en-US", "en-GB"])), "-w", str(path), markup]

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        import soxr

        from sft_speech.audio import augment

        rng = np.random.default_rng((self.seed, 0, index))
        if self.recorded and rng.random() < 0.5:
            waveform, rate, text = self.recorded_voice(rng)
        else:
            text = self.text(rng)
            waveform, rate = self.voice(text, rng)
        waveform = soxr.resample(waveform, rate, RATE, quality="MQ")[: 20 * RATE]
        loud = np.flatnonzero(np.abs(waveform) > 0.02 * np.abs(waveform).max())
        waveform = waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform
        silence = (rng.exponential(0.15, 2).clip(0, 0.8) * RATE).astype(int)
        waveform = np.pad(waveform, silence).astype(np.float32)
        if self.augmented:
            chain: augment.Chain = [
                (augment.drift, 0.4),
                (augment.speed, 0.8),
                (augment.vocal_tract, 0.5),
                (augment.equalize, 0.8),
                (augment.reverberate, 0.2),
                (augment.add_noise, 0.5),
                (augment.distort, 0.05),
            ]
            waveform = augment.apply(waveform, RATE, rng, chain)
        return waveform, text


def normalize(text: str) -> str:
    """Return a text in upper case, with only letters, apostrophes and spaces."""
    return " ".join(re.sub(r"[^A-Z']+", " ", text.upper()).split())


def batches(speech: SyntheticSpeech, first: int, seconds: float, pool: int = 64) -> Iterator[tuple[int, dict]]:
    """Yield (index to resume from, batch): batches of up to ``seconds`` padded seconds from pools sorted by length."""
    index = first
    while True:
        drawn = sorted((speech[i] for i in range(index, index + pool)), key=lambda pair: len(pair[0]))
        index += pool
        batch: list[tuple[np.ndarray, str]] = []
        plan = []
        for pair in drawn:
            if batch and (len(batch) + 1) * len(pair[0]) > seconds * RATE:
                plan.append(batch)
                batch = []
            batch.append(pair)
        plan.append(batch)
        np.random.default_rng(index).shuffle(plan)
        for number, batch in enumerate(plan):
            yield index if number == len(plan) - 1 else index - pool, collate(batch)


def collate(batch: list[tuple[np.ndarray, str]]) -> dict:
    """Return waveforms (B, S) with zero mean and unit variance, and labels (B, L) padded with -100; B: clips."""
    import torch

    ids = {token: number for number, token in enumerate(VOCABULARY)}
    longest = max(len(w) for w, _ in batch)
    waveforms = torch.zeros(len(batch), max(longest, 1600))
    labels = torch.full((len(batch), max(len(t) for _, t in batch)), -100)
    for row, (waveform, text) in enumerate(batch):
        scaled = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        waveforms[row, : len(scaled)] = torch.from_numpy(scaled)
        labels[row, : len(text)] = torch.tensor([ids[c] for c in text.replace(" ", "|")])
    return {"input_values": waveforms, "labels": labels}


def build_model():
    """Return a random wav2vec2 of 3.2 M parameters: six narrow convolutions, 50 frames per second, pre-norm."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        conv_dim=(32, 64, 96, 128, 160, 192),
        conv_stride=(5, 4, 2, 2, 2, 2),
        conv_kernel=(10, 8, 4, 4, 4, 4),
        feat_extract_norm="group",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=64,
        num_conv_pos_embedding_groups=16,
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.05,
        mask_time_length=8,
        ctc_loss_reduction="sum",
        ctc_zero_infinity=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return Wav2Vec2ForCTC(config)


def learning_rate(progress: float, peak: float) -> float:
    """Return the learning rate at ``progress`` (0 to 1): up for 3 %, constant, down to 0 in the last half."""
    if progress < 0.03:
        return peak * (0.01 + 0.99 * progress / 0.03)
    return peak * min(1.0, (1 - progress) / 0.5)


def evaluate(model: Any, speech: SyntheticSpeech, first: int, count: int) -> tuple[float, float]:
    """Return CER and WER over ``count`` utterances, starting at ``first``."""
    import jiwer
    import torch

    references, hypotheses = [], []
    model.eval()
    with torch.inference_mode():
        for index in range(first, first + count):
            waveform, text = speech[index]
            ids = model(collate([(waveform, text)])["input_values"]).logits[0].argmax(-1).unique_consecutive().tolist()
            references.append(text)
            hypotheses.append(" ".join("".join(VOCABULARY[i] for i in ids if i > 3).replace("|", " ").split()))
    model.train()
    return jiwer.cer(references, hypotheses), jiwer.wer(references, hypotheses)


def save(model: Any, folder: Path) -> None:
    """Write the checkpoint into a folder, with weights in float16."""
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

    from sft_speech.models.language import LANGUAGE

    model.config.update({LANGUAGE: "en"})
    # float16 halves the size; the configuration says float32, so the weights are loaded as float32.
    model.save_pretrained(folder, state_dict={name: t.half() for name, t in model.state_dict().items()})
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(VOCABULARY)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="directory of the weights to start from [random weights]")
    parser.add_argument("--hours", type=float, default=3.0, help="hours of training, over all resumed runs")
    parser.add_argument("--peak", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--batch-seconds", type=float, default=80.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def loader_of(speech: SyntheticSpeech, first: int, seconds: float) -> Any:
    """Return a loader whose worker makes the batches, starting at utterance ``first``."""
    import torch

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            torch.set_num_threads(1)
            return batches(speech, first, seconds)

    return torch.utils.data.DataLoader(Stream(), batch_size=None, num_workers=1, prefetch_factor=16)


def main(args: argparse.Namespace) -> None:
    """Train for --hours, from the checkpoint in --output if there is one."""
    import torch

    torch.manual_seed(args.seed)
    lines = [normalize(line.split("|")[-1]) for line in args.text.read_text().splitlines()]
    sentences = [line for number, line in enumerate(lines) if line and number % 50]
    unseen = [line for number, line in enumerate(lines) if line and number % 50 == 0]
    recorded = all(map(shutil.which, ("flite", "pico2wave")))
    speech = SyntheticSpeech(sentences, args.seed, args.output / "recorded", recorded)
    heldout = SyntheticSpeech(unseen, args.seed + 1, args.output / "recorded", recorded=False)

    model = build_model() if args.start is None else build_model().from_pretrained(args.start)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.peak, betas=(0.9, 0.98), weight_decay=0.01)
    state: dict[str, Any] = {"elapsed": 0.0, "index": 0, "updates": 0, "audio_hours": 0.0}
    checkpoint = args.output / "checkpoint.pt"
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        state = stored["state"]
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters:,} parameters, {len(sentences)} sentences, recorded voices: {recorded}, from {state}", flush=True
    )
    model.train()
    mark, losses, limit = time.monotonic(), [], args.hours * 3600
    for index, batch in loader_of(speech, state["index"], args.batch_seconds):
        now = time.monotonic()
        state["elapsed"], mark = state["elapsed"] + now - mark, now
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state["elapsed"] / limit, args.peak)
        loss = model(**batch).loss / (batch["labels"] != -100).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        state["index"], state["updates"] = index, state["updates"] + 1
        state["audio_hours"] += batch["input_values"].numel() / RATE / 3600
        done = state["elapsed"] >= limit
        if state["updates"] % 100 == 0:
            figures = {**state, "loss": float(np.mean(losses[-100:])), "lr": optimizer.param_groups[0]["lr"]}
            print(json.dumps({key: float(f"{value:.4g}") for key, value in figures.items()}), flush=True)
        if state["updates"] % 500 == 0 or done:
            scratch = checkpoint.with_suffix(".new")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}, scratch)
            scratch.replace(checkpoint)
            save(model, args.output / "model")
            cer, wer = evaluate(model, heldout, 0, 60)
            print(f"held-out sentences after {state['updates']} updates: CER {cer:.2%}, WER {wer:.2%}", flush=True)
        if done:
            break


if __name__ == "__main__":
    main(make_parser().parse_args())
