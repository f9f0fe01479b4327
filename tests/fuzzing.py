"""Targets for fuzzing: all readers of files that users get from elsewhere.

A target gets bytes and an empty folder, and gives the bytes to a reader as a user would. It returns if the reader
accepts them, drops rows, or raises `UserError` (for one clip `AudioError`); any other exception is a bug.
`test_fuzz.py` runs the targets in CI, `scripts/fuzz.py` for hours.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import io
import json
import logging
import re
import signal
import string
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # no message may hold these
SECONDS = 10  # for one input of at most 64 KB; longer is a hang


class Target(NamedTuple):
    """A reader, and inputs to start from, at least one of which it accepts."""

    read: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]


@contextlib.contextmanager
def refusals(*also: type[Exception]) -> Iterator[None]:
    """Allow a reader to raise an error whose message is printable."""
    from sft_speech.errors import UserError

    try:
        yield
    except also:
        return
    except UserError as error:
        message = str(error)
    else:
        return
    assert not CONTROLS.search(message), ascii(message)
    assert len(message) < 20_000


@contextlib.contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TimeoutError in the main thread if the block takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- audio ----


@cache
def sound(format: str, subtype: str | None = None, seconds: float = 0.1) -> bytes:
    """Return an encoded file of noise."""
    import numpy as np
    import soundfile

    encoded = io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, int(seconds * 16_000))
    soundfile.write(encoded, samples, 16_000, subtype=subtype, format=format)
    return encoded.getvalue()


def audio(data: bytes, folder: Path) -> None:
    """Read a recording as a file and as bytes, completely and in part."""
    import numpy as np

    from sft_speech.audio.read import AudioError, probe, read

    path = folder / "a.wav"
    path.write_bytes(data)
    for encoded in (str(path), data):
        with refusals(AudioError):
            header = probe(encoded)
            assert header.samples > 0
            assert header.rate > 0
            for segment in ((0.0, min(1.0, header.seconds)), (header.seconds / 2, 0.01)):
                waveform = read(encoded, 16_000, *segment)
                assert waveform.dtype == np.float32
        with refusals(AudioError):
            read(encoded, 16_000)


def audio_seeds() -> list[bytes]:
    formats = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS")]
    formats += [("MP3", None), ("AIFF", None), ("AU", None), ("W64", None), ("CAF", None), ("RF64", None)]
    flac = bytearray(sound("FLAC"))
    flac[21], flac[22:26] = flac[21] | 0x0F, b"\xff" * 4  # its header announces 2^36 samples
    return [*(sound(*format) for format in formats), bytes(flac), sound("WAV")[:24] + b"\1\0\0\0" + sound("WAV")[28:]]


# ---- corpora ----


def corpus(source: Path, folder: Path, split: str | None = None, labels: bool = False) -> None:
    """Do everything that happens to a corpus before training."""
    from sft_speech.corpora import CorpusReport, load_corpus

    report = CorpusReport()
    with refusals():
        rows = load_corpus(
            source, split, report=report, cache_dir=folder / "cache", columns={"label": None} if labels else None
        )
        for row in rows:
            assert row["seconds"] > 0
            assert Path(row["audio"]["path"]).resolve().is_relative_to(folder.resolve())
    assert not CONTROLS.search(report.table())
    report.save(folder / "corpus_report.json")


SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
MORE_SUFFIXES = (".parquet", ".txt")  # where the first byte has the bit 8


def manifest(data: bytes, folder: Path) -> None:
    """Read a manifest; the first byte selects its format, and whether labels are read."""
    (folder / "a.wav").write_bytes(sound("WAV"))
    first = data[0] if data else 0
    path = folder / ("m" + (MORE_SUFFIXES[first % 2] if first & 8 else SUFFIXES[first % 4]))
    path.write_bytes(data[1:])
    corpus(path, folder, labels=bool(data and data[0] & 4))


def manifest_seeds() -> list[bytes]:
    row = {"audio": "a.wav", "text": "hello", "speaker": "anna", "start": 0.01, "end": 0.05}
    lines = "\n".join(json.dumps(one) for one in (row, row | {"audio": "../a.wav"}, {"audio": 3, "text": None}))
    return [
        b'\0audio,text,speaker\na.wav,"hello, you",anna\n/etc/passwd,x,\n../a.wav,y,bob\n',
        b"\0id,audio_filepath,sentence,start,duration\n1,a.wav,hello,0.0,0.05\n2,a.wav,there,x,1e9\n",
        b'\1path\tsentence\tclient_id\na.wav\tso "he said\tanna\n',
        b"\2" + lines.encode(),
        b'\6{"audio": "a.wav", "label": ["yes", null, 2, "a|b"], "split": "train"}\n{"audio": "a.wav", "id": 2}\n',
        b"\4path,label,split\na.wav,yes,train\na.wav,,\n",
        b'\3{"audio": "a.wav", "text": "\\ud800", "id": [1]}\n{"audio": "a.wav", "text": "a\\u001b[2J"}\n',
        b"\0sep=;\r\nAudio;Text;Start (ms);End (ms)\r\na.wav;hello;1,5;50\r\n;;;\r\na.wav;x;0:00,01;2\r\n",
        b"\0" + "audio\ttext\tonset\toffset\na.wav\thello\t0\t90\n".encode("utf-16"),
        b'\1"audio"\t"text"\t"start_sample"\t"end_sample"\n"a.wav"\t"so ""he"" said"\t"0"\t"800"\n',
        b'\3[{"audio": {"path": "a.wav"}, "text": ["a"]},\n{"audio": "a.wav", "text": NaN},\n]',
        b'\3{"train": [{"audio": "a.wav", "text": "a"}], "test": [1]}',
        b'\3{"u1": {"wav": "a.wav", "text": "a"}, "u2": {"wav": "a.wav", "text": "b"}}',
        b'\3{"audio": ["a.wav", "a.wav"], "text": {"0": "a", "1": null}}',
        b"\x09a|hello there|anna\na.wav|good morning|anna\n",
        b"\x08" + parquet(),
    ]


@cache
def parquet() -> bytes:
    """Return a Parquet file that names audio."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = io.BytesIO()
    table = {"path": ["a.wav", None], "text": ["a", "b"], "start": [0.01, float("nan")], "end": [0.05, None]}
    pq.write_table(pa.table(table), written)
    return written.getvalue()


LAYOUTS: tuple[tuple[str, str], ...] = (  # files of transcripts, and of their audio
    ("19/5/19-5.trans.txt", "19/5/19-5-0000.flac"),
    ("19/5/19-5-0000.normalized.txt", "19/5/19-5-0000.wav"),
    ("metadata.csv", "wavs/LJ1.wav"),
    ("metadata.csv", "a.wav"),
    ("metadata.jsonl", "a.wav"),
    ("train.tsv", "clips/a.mp3"),
    ("etc/txt.done.data", "wav/a.wav"),
    ("txt/p1/p1_1.txt", "wav48_silence_trimmed/p1/p1_1_mic1.flac"),
    ("dev_manifest.json", "a.wav"),
    ("p1/a.txt", "p1/a.wav"),
    ("a.lab", "a.wav"),
    # More files, divided by bytes 0:
    ("wav.scp", "a.wav"),
)
MORE = ("text", "segments", "utt2spk", "utt2lang", "reco2file_and_channel")  # of a data directory of Kaldi


def folder_of_speech(data: bytes, folder: Path) -> None:
    """Read a folder of speech; the first byte selects the layout."""
    layout = LAYOUTS[data[0] % len(LAYOUTS) if data else 0]
    first, *more = data[1:].split(b"\0") if layout[0] == "wav.scp" else [data[1:]]
    files = dict(zip(layout, (first, sound("WAV")), strict=True)) | dict(zip(MORE, more, strict=False))
    for name, content in files.items():
        (folder / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "corpus" / name).write_bytes(content)
    corpus(folder / "corpus", folder)


def folder_seeds() -> list[bytes]:
    return [
        b"\x0019-5-0000 HELLO THERE\n19-5-0001 NOBODY\n",
        b"\1Hello there.\n",
        b"\2LJ1|Hello 1.|Hello one.\nLJ2|gone|gone\n../a|up|up\n",
        b"\2id|speaker|text\nwavs/LJ1.wav|anna|Hello.\n/etc/passwd|bob|x\n",
        b"\2LJ1|anna|Hello you.\nLJ1.wav|anna|Good bye.|1.5\n",
        b"\3file_name,transcription\na.wav,hello\n../../a.wav,up\n",
        b'\4{"file_name": "a.wav", "text": "hello"}\n',
        b"\5client_id\tpath\tsentence\tlocale\nanna\ta\tHello.\ten\nbob\t../a.mp3\tx\ten\n",
        b'\6( a "Hello \\"you\\"." )\n(b "gone")\nx\n',
        b"\7Hello there.\n",
        b'\x08{"audio_filepath": "a.wav", "offset": 0.01, "duration": 0.05, "text": "hello"}\n',
        b"\x090 46797 Hello there.\n",
        b"\x090.0\t0.05\tHello\n0.05\t0.1\tthere\n",
        b"\x0aseparator ;\n#\n0.05 121 pau\n0.1 121 h\n",
        b"\x0a\xff\xfeH\0i\0",
        b"\x0ba a.wav\nb ../a.wav\n\0a HELLO\nb THERE\n",
        b"\x0ba touch ran; cat a.wav |\n\0a HELLO\n",
        b"\x0ba a.wav\n\0u HELLO\nv THERE\n\0u a 0.0 0.05\nv a 0.05 -1\n\0u anna\nv bob\n\0u en\n",
    ]


ARCHIVES = ("a.tar", "a.tar.gz", "a.zip")


def archive(data: bytes, folder: Path) -> None:
    """Read an archive; the first byte selects its format."""
    from sft_speech.corpora.archive import unpacked

    path = folder / "in" / ARCHIVES[data[0] % 3 if data else 0]
    path.parent.mkdir()
    path.write_bytes(data[1:])
    with refusals():
        unpacked(str(path), folder / "cache")
    assert {one.name for one in folder.iterdir()} <= {"in", "cache"}
    assert all(one.is_dir() or (one.is_file() and not one.is_symlink()) for one in folder.rglob("*"))
    assert not list(folder.glob("cache/sft_speech/*.part"))


def archive_seeds() -> list[bytes]:
    seeds = []
    for number, mode in enumerate(("w", "w:gz", "zip")):
        packed = io.BytesIO()
        if mode == "zip":
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr("c/metadata.csv", "file_name,text\n")
        else:
            with tarfile.open(fileobj=packed, mode=mode, format=tarfile.PAX_FORMAT) as file:
                for name, kind in (
                    ("c/\u00fc.csv", tarfile.REGTYPE),
                    ("link", tarfile.SYMTYPE),
                    ("d", tarfile.DIRTYPE),
                ):
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname, info.size = kind, "/", 3 * (kind == tarfile.REGTYPE)
                    file.addfile(info, io.BytesIO(b"a,b"))
        seeds.append(bytes([number]) + packed.getvalue())
    return seeds


def split(data: bytes, folder: Path) -> None:
    import pyarrow as pa

    from sft_speech.corpora.splits import parse_split

    ids = pa.chunked_array([[str(number) for number in range(20)]])
    speakers = pa.chunked_array([["anna", "bob"] * 10])
    with refusals():
        for part in parse_split(data.decode("utf-8", "surrogateescape")):
            assert part.mask(ids, speakers).shape == (20,)


def split_seeds() -> list[bytes]:
    terms = ":0.9", "[0.9:]", "speaker=anna,bob:10", "train-clean-100+train-clean-360[0.1:0.2]", "a[3:7]"
    return [term.encode() for term in terms]


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


TARGETS = {
    "audio": Target(audio, audio_seeds),
    "manifest": Target(manifest, manifest_seeds),
    "folder": Target(folder_of_speech, folder_seeds),
    "archive": Target(archive, archive_seeds),
    "split": Target(split, split_seeds),
    "settings": Target(settings, settings_seeds),
    "command_line": Target(command_line, command_line_seeds),
    "language_model": Target(language_model, language_model_seeds),
    "kenlm": Target(kenlm, kenlm_seeds),
    "lexicon": Target(lexicon, lexicon_seeds),
    "embedding": Target(embedding, embedding_seeds),
    "checkpoint": Target(checkpoint, checkpoint_seeds),
    "ctranslate2": Target(ctranslate2, ctranslate2_seeds),
}


def quiet() -> None:
    """Silence the warnings about broken files."""
    logging.getLogger("sft_speech").setLevel(logging.ERROR)
