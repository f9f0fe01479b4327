"""Pretrain the embedded SpeechT5 on synthetic voices.

python scripts/pretrain_small_tts.py --text SENTENCES --output small-tts
accelerate launch scripts/finetune_tts.py --config small-tts/run.yaml
python scripts/pretrain_small_tts.py --output small-tts --export sft_speech/assets/speecht5-small

The first command makes a corpus (``--text`` has one sentence per line, or ``id|sentence``), random weights, and the
configuration of a run that trains them on it; the last command writes the weights of the run in float16. The voices are
timbres of espeak-ng that the demo does not use, all with the same speaking rate.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

LETTERS = "abcdefghijklmnopqrstuvwxyz',.?!;:-"
TIMBRES = ("", "m1", "m3", "m7", "f1", "f2", "f3", "f5")
RATE = 16_000
LONGEST_SECONDS = 6.0
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 384,
    "decoder_layers": 3,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 384,
    "speech_decoder_prenet_units": 256,
    "speech_decoder_postnet_units": 64,
    "max_text_positions": 300,
    "max_speech_positions": 1000,
    "reduction_factor": 3,
    "guided_attention_loss_sigma": 0.15,  # all voices have one speaking rate, so attention is near the diagonal
    "guided_attention_loss_num_heads": 4,
    "longest_text_characters": 82,  # 99 % of the phrases
    "initializer_range": 0.09,  # 1 / sqrt(hidden_size); with the usual 0.02, positions drown the input
    # for the audio input of voice conversion
    "conv_dim": (32, 64, 64, 64, 64, 128, 128),
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
    "apply_spec_augment": False,
} | dict.fromkeys(
    (
        *("encoder_layerdrop", "decoder_layerdrop", "hidden_dropout", "attention_dropout", "activation_dropout"),
        *("positional_dropout", "feat_proj_dropout"),
    ),
    0.0,
)
RUN = {
    "learning_rate": 6e-4,
    "warmup_steps": 0.04,
    "hold_share": 0.4,
    "weight_decay": 0.01,
    "max_seconds": LONGEST_SECONDS + 1,
    "max_batch_seconds": 20.0,
    "max_steps": 20_000,
    "eval_steps": 2000,
    "logging_steps": 50,
    "dataloader_num_workers": 0,
    "report_to": "none",
}


def phrase(sentences: list[str], rng: np.random.Generator) -> str:
    """Return two to twelve words of a sentence."""
    words = sentences[rng.integers(len(sentences))].split()
    count = int(rng.integers(2, 13))
    start = int(rng.integers(0, max(1, len(words) - count + 1)))
    return " ".join(words[start : start + count]).strip(" '-,.?!;:") + "."


def record(folder: Path, sentences: list[str], hours: float, seed: int) -> list[tuple]:
    """Write ``hours`` of recordings and return (file, text, voice) of each; once per process, see corpora/espeak.py."""
    import soundfile
    import soxr

    from sft_speech.corpora.espeak import ESPEAK_RATE, Voice, speak

    rng, total = np.random.default_rng(seed), 0.0
    lines: list[tuple] = []
    while total < hours * 3600:
        text, timbre = phrase(sentences, rng), str(rng.choice(TIMBRES))
        waveform = soxr.resample(speak(text, Voice(variant=timbre)), ESPEAK_RATE, RATE)
        if len(text) < 4 or len(waveform) > LONGEST_SECONDS * RATE:
            continue
        path = folder / f"{seed}" / f"{len(lines):05d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.clip(waveform, -1, 1), RATE, "PCM_16")
        lines.append((path.relative_to(folder), text, timbre or "plain"))
        total += len(waveform) / RATE
    return lines


def make_corpus(folder: Path, text: Path, hours: float, seed: int) -> None:
    """Write train.csv and held_out.csv, without common sentences, and their recordings."""
    lines = [re.sub(r"[^a-z',.?!;:-]+", " ", line.split("|")[-1].lower()) for line in text.read_text().splitlines()]
    lines = list(dict.fromkeys(lines))
    seen = [line for number, line in enumerate(lines) if line.strip() and number % 50]
    unseen = [line for number, line in enumerate(lines) if line.strip() and number % 50 == 0]
    with ProcessPoolExecutor(max_tasks_per_child=1) as pool:
        parts = [pool.submit(record, folder, seen, hours / 10, seed + part) for part in range(1, 11)]
        held_out = pool.submit(record, folder, unseen, 0.06, seed)
        tables = {"train": [row for part in parts for row in part.result()], "held_out": held_out.result()}
    for name, rows in tables.items():
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("audio", "text", "speaker"), *rows])


def make_tokenizer(folder: Path) -> Any:
    """Make a tokenizer of single letters."""
    import sentencepiece
    from transformers import SpeechT5Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()  # with a file, the model would hold its path
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(LETTERS)] * 50),
        model_writer=model,
        model_type="char",
        vocab_size=len(LETTERS) + 5,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (folder / "letters.model").write_bytes(model.getvalue())
    return SpeechT5Tokenizer(str(folder / "letters.model"))


def make_model(folder: Path, seed: int, converts: bool = False, speaks: str = "") -> None:
    """Save random weights of a small SpeechT5 for synthesis, or for voice conversion.

    Args:
        speaks: a SpeechT5 of this size for synthesis, from which a converter has all weights but those that read audio.
    """
    import torch
    from transformers import (
        SpeechT5Config,
        SpeechT5FeatureExtractor,
        SpeechT5ForSpeechToSpeech,
        SpeechT5ForTextToSpeech,
        set_seed,
    )

    from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint, load_speech_checkpoint
    from sft_speech.tasks.speech.speakers import Speakers

    tokenizer = make_tokenizer(folder.parent)
    config = SpeechT5Config(vocab_size=len(tokenizer), **SIZES)
    set_seed(seed)
    model: Any = (SpeechT5ForSpeechToSpeech if converts else SpeechT5ForTextToSpeech)(config)
    if not converts:
        torch.nn.init.normal_(model.speecht5.encoder.prenet.embed_tokens.weight, std=0.5)  # as large as the positions
    if speaks:
        known, own = load_speech_checkpoint(speaks).model.state_dict(), model.state_dict()
        model.load_state_dict(own | {name: tensor for name, tensor in known.items() if name in own})
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    SpeechCheckpoint(model, tokenizer, SpeechT5FeatureExtractor(), Speakers({})).save(folder)


def export(run: Path, asset: Path) -> None:
    """Write the weights of a run in float16; the configuration says float32, so they are loaded as float32."""
    from sft_speech.tasks.speech.checkpoint import load_speech_checkpoint

    checkpoint = load_speech_checkpoint(run)
    checkpoint.save_processor(asset)
    halves = {name: tensor.half() for name, tensor in checkpoint.model.state_dict().items()}
    checkpoint.model.save_pretrained(asset, state_dict=halves)
    size = sum(path.stat().st_size for path in asset.iterdir()) / 1e6
    print(f"{asset}: {size:.1f} MB")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=6.0, help="hours of speech in the corpus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--converter", action="store_true", help="only write random weights for voice conversion")
    parser.add_argument("--decoder", default="", metavar="MODEL", help="synthesizer whose decoder the converter gets")
    parser.add_argument("--export", type=Path, metavar="ASSET", help="only write the weights of the run")
    return parser


def main(args: argparse.Namespace) -> None:
    output = args.output.absolute()
    if args.export:
        export(output / "run", args.export)
        return
    if args.converter:
        make_model(output / "random", args.seed, converts=True, speaks=args.decoder)
        return
    make_corpus(output / "corpus", args.text, args.hours, args.seed)
    make_model(output / "random", args.seed)
    paths = {
        "model": output / "random",
        "source": output / "corpus" / "train.csv",
        "eval_source": output / "corpus" / "held_out.csv",
        "output_dir": output / "run",
    }
    run = {name: str(path) for name, path in paths.items()} | RUN
    (output / "run.yaml").write_text(yaml.safe_dump(run, sort_keys=False))


if __name__ == "__main__":
    parser = make_parser()
    args = parser.parse_args()
    if not (args.text or args.export or args.converter):
        parser.error("give --text, --converter or --export")
    main(args)
