"""Targets for fuzzing: settings, and files used with a model."""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import io
import json
import string
import tempfile
import zlib
from functools import cache
from itertools import pairwise
from pathlib import Path

from fuzz_base import Target, refusals

# ---- settings ----


def settings(data: bytes, folder: Path) -> None:
    """Read the YAML of a run or of a beam search."""
    from sft_speech.options.settings import load_config, save_config
    from sft_speech.tasks.asr.config import FinetuneAsrConfig
    from sft_speech.tasks.asr.ctc.decoding import Decoding

    path = folder / "run.yaml"
    path.write_bytes(data)
    for kind in (FinetuneAsrConfig, Decoding):
        with refusals():
            config = load_config(kind, str(path), {})
            save_config(config, folder / "again.yaml")


def settings_seeds() -> list[bytes]:
    bomb = "&a [x,x,x,x,x,x,x,x,x]"
    for last, new in pairwise("abcdefgh"):  # 9^8 times x
        bomb = f"&{new} [{bomb}{f', *{last}' * 8}]"
    merges = "x0: &x0 {a: 1, b: 2}\n"
    merges += "".join(f"x{n + 1}: &x{n + 1} {{<<: [{', '.join([f'*x{n}'] * 9)}]}}\n" for n in range(9))
    values = "model: m\nsource: s\noutput_dir: o\n"
    return [
        f"{values}learning_rate: 1e-4\ntest_splits: [a, b]\nmax_steps: 10\n".encode(),
        f"{values}bf16: null\ntrain_split: a+b[0.1:]\neval_split: b\n".encode(),
        f"{values}learning_rate: {bomb}\n".encode(),
        f"{values}test_splits: {bomb}\nlr_scheduler_type: *h\n".encode(),
        b"lm: lm.arpa\nlm_weight: 1.5\nbeam_size: 10\n",
        b"model: !!python/object/apply:os.system [id]\n",
        b"max_steps: " + b"[" * 600,
        b"max_steps: " + b"9" * 5000,
        b"max_steps: 0x" + b"f" * 5000,
        b"0x" + b"f" * 5000 + b": 1",
        merges.encode(),
        b"seed: !!timestamp x\nmodel: 2024-13-99\nsource: &a [*a]\n",
    ]


@cache
def parser() -> argparse.ArgumentParser:
    from sft_speech.options.settings import add_config_arguments
    from sft_speech.tasks.asr.config import FinetuneAsrConfig

    made = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_config_arguments(made, FinetuneAsrConfig)
    return made


def command_line(data: bytes, folder: Path) -> None:
    """Parse arguments of finetune-asr, each terminated by a zero byte."""
    from sft_speech.options.settings import config_from_arguments
    from sft_speech.tasks.asr.config import FinetuneAsrConfig

    words = [word.decode("utf-8", "surrogateescape") for word in data.split(b"\0")]
    words = [word for word in words if not word.startswith(("--config", "-h", "--help"))]
    with refusals(argparse.ArgumentError), contextlib.redirect_stderr(io.StringIO()):
        try:
            arguments = parser().parse_args(words)
        except SystemExit:  # argparse has printed the reason
            return
        config_from_arguments(FinetuneAsrConfig, arguments)


def command_line_seeds() -> list[bytes]:
    needed = b"--model\0m\0--source\0s\0--output_dir\0o\0"
    more = [b"--learning_rate\x001e-4", b"--test_splits\0a,b\0--augment", b"--bf16\0null\0--max_steps=10"]
    more += [b"--seed\0[&a]", b"--augment\0{a: 1}", b"--max_steps\0" + b"1" * 100]
    return [needed + one for one in more]


# ---- files used with a model ----


@cache
def vocabulary():
    """Return a vocabulary of the letters a to z."""
    from sft_speech.tasks.asr.ctc.vocabulary import Characters, build_tokenizer

    return Characters(build_tokenizer([string.ascii_lowercase + " "], "en"))


def language_model(data: bytes, folder: Path) -> None:
    """Read an ARPA file, plain and gzipped, and the words of a KenLM binary."""
    from sft_speech.tasks.asr.ctc.ngram import lexicon_of, units, words_of

    path = str(folder / "lm")
    for content in (data, gzip.compress(data, 1)):
        Path(path).write_bytes(content)
        with refusals():
            words = words_of(path)
            if units(path, words, vocabulary()) is None:
                lexicon_of(path, words, vocabulary(), None)


def language_model_seeds() -> list[bytes]:
    arpa = (
        "\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\n-1\t<s>\t-1\n-1\t</s>\n-1\thello\t-1\n-1\tworld\n\n"
    )
    arpa += "\\2-grams:\n-1\thello world\n\n\\end\\\n"
    characters = "\\data\\\nngram 1=27\n\n\\1-grams:\n" + "".join(f"-1\t{c}\n" for c in "|" + string.ascii_lowercase)
    binary = b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(64) + b"<unk>\0<s>\0</s>\0hello\0"
    return [arpa.encode(), f"{characters}\n\\end\\\n".encode(), binary]


def kenlm(data: bytes, folder: Path) -> None:
    """Read a KenLM binary, without the tables of its search."""
    from sft_speech.tasks.asr.ctc.beam import Search
    from sft_speech.tasks.asr.ctc.decoding import Decoding

    (folder / "lm").write_bytes(data)
    with refusals():
        Search(vocabulary(), Decoding(str(folder / "lm")))


def kenlm_seeds() -> list[bytes]:
    """Return what KenLM's `build_binary` writes for two words."""
    return [base64.b64decode(Path(__file__).with_name("two_words.kenlm.base64").read_text())]


def lexicon(data: bytes, folder: Path) -> None:
    from sft_speech.tasks.asr.ctc.ngram import lexicon_of

    path = folder / "lexicon"
    path.write_bytes(data)
    with refusals():
        lexicon_of("lm", ["hello", "world"], vocabulary(), str(path))


def lexicon_seeds() -> list[bytes]:
    return [b"hello\nworld\n", b"hello h e l l o |\nworld w o r l d\n"]


def embedding(data: bytes, folder: Path) -> None:
    """Read a speaker embedding from both file formats, and as the voices of a model."""
    from sft_speech.tasks.speech.speakers import FILE, Speakers, read_embedding

    for name in ("a.npy", "a.safetensors", FILE):
        (folder / name).write_bytes(data)
        with refusals():
            Speakers.load(folder, 4) if name == FILE else read_embedding(folder / name, 4)


def embedding_seeds() -> list[bytes]:
    import numpy as np
    from safetensors.numpy import save

    plain, pickled = io.BytesIO(), io.BytesIO()
    np.save(plain, np.ones(4, np.float32))
    np.save(pickled, np.array([None], object), allow_pickle=True)
    return [plain.getvalue(), pickled.getvalue(), save({"anna": np.ones(4, np.float32)}, {"encoder": "x"})]


# ---- checkpoints ----


def checkpoint(data: bytes, folder: Path) -> None:
    """Look for a checkpoint to resume from; the first byte selects whether its state or its list is damaged."""
    from transformers import TrainerState

    from sft_speech.training import checkpoints

    saved = folder / "checkpoint-5"
    saved.mkdir()
    (saved / "model.safetensors").write_bytes(b"weights")
    (saved / checkpoints.STATE).write_bytes(STATE)
    (saved / checkpoints.LIST).write_bytes(LIST)
    (saved / (checkpoints.STATE, checkpoints.LIST)[data[0] % 2 if data else 0]).write_bytes(data[1:])
    if checkpoints.last_whole(folder) is not None:
        state = TrainerState.load_from_json(str(saved / checkpoints.STATE))
        assert state.global_step >= 0
        checkpoints.awaits_evaluation(state)


STATE = b"""{"epoch": 0.5, "global_step": 5, "max_steps": 10, "log_history": [{"loss": 2.0, "step": 5}],
    "stateful_callbacks": {"TrainerControl": {"args": {"should_evaluate": false}, "attributes": {}}}}"""
LIST = b'{"model.safetensors": [7, %d]}' % zlib.crc32(b"weights")


def checkpoint_seeds() -> list[bytes]:
    steps = (b"Infinity", b"-1", b"null", b'"5"', b"[" * 5000)
    states = [b"\0" + STATE.replace(b'step": 5', b'step": ' + step, 1) for step in (*steps, b"9" * 5000)]
    states += [b'\0{"global_step": 5, "more": 1}', b'\0{"global_step": 5, "stateful_callbacks": []}']
    lists = [b'{"model.safetensors": [Infinity, 1]}', b'{"\\u0000": [1, 1]}', b"[" * 5000, b"{}"]
    return [b"\0" + STATE, b"\1" + LIST, *states, *(b"\1" + one for one in lists)]


IMPORTED = ("model.bin", "config.json", "tokenizer.json", "vocabulary.json", "preprocessor_config.json")


@cache
def faster_whisper() -> dict[str, bytes]:
    """Return the files of a tiny faster-whisper model."""
    import tiny_ctranslate2 as tiny

    with tempfile.TemporaryDirectory() as folder:
        tiny.write_folder(Path(folder, "a"), tiny.whisper(encoder_layers=1, decoder_layers=2))
        Path(folder, "a/preprocessor_config.json").write_text('{"feature_size": 80, "chunk_length": 1}')
        return {path.name: path.read_bytes() for path in Path(folder, "a").iterdir()}


def ctranslate2(data: bytes, folder: Path) -> None:
    """Import a faster-whisper model; the first byte selects the damaged file."""
    from sft_speech.tools.import_ctranslate2 import import_whisper

    (folder / "in").mkdir()
    for name, content in faster_whisper().items():
        (folder / "in" / name).write_bytes(content)
    (folder / "in" / IMPORTED[data[0] % len(IMPORTED) if data else 0]).write_bytes(data[1:])
    with refusals():
        import_whisper(folder / "in", folder / "out")
    assert {one.name for one in folder.iterdir()} <= {"in", "out"}


def ctranslate2_seeds() -> list[bytes]:
    return [bytes([number]) + faster_whisper()[name] for number, name in enumerate(IMPORTED)]


def adapter(data: bytes, folder: Path) -> None:
    """Read a LoRA adapter; the first byte decides whether the rest is its settings or its weights."""
    from sft_speech.models.adapter_files import CONFIG, WEIGHTS, read_adapter

    settings, weights = (one[1:] for one in adapter_seeds())
    files = {CONFIG: settings, WEIGHTS: weights, (CONFIG, WEIGHTS)[bool(data) and data[0] % 2]: data[1:]}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with refusals():
        read_adapter(str(folder)).lora_config()


@cache
def adapter_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"fc1": 1}, "init_lora_weights": True}
    weights = {f"base_model.model.fc1.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
    return [b"\0" + json.dumps(settings).encode(), b"\1" + save(weights)]


TARGETS = {
    "adapter": Target(adapter, adapter_seeds),
    "settings": Target(settings, settings_seeds),
    "command_line": Target(command_line, command_line_seeds),
    "language_model": Target(language_model, language_model_seeds),
    "kenlm": Target(kenlm, kenlm_seeds),
    "lexicon": Target(lexicon, lexicon_seeds),
    "embedding": Target(embedding, embedding_seeds),
    "checkpoint": Target(checkpoint, checkpoint_seeds),
    "ctranslate2": Target(ctranslate2, ctranslate2_seeds),
}
