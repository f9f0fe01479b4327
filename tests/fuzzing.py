"""Targets for fuzzing: all readers of files that users get from elsewhere.

A target gets bytes and an empty folder, and gives the bytes to a reader as a user would. It returns if the reader
accepts them, drops rows, or raises `UserError` (for one clip `AudioError`); any other exception is a bug.
`test_fuzz.py` runs the targets in CI, `scripts/fuzz.py` for hours.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import fuzz_annotations
import fuzz_models
from fuzz_base import SECONDS, Target, corpus, limited, quiet, refusals, sound

__all__ = ["SECONDS", "TARGETS", "limited", "quiet"]

# ---- audio ----


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
    formats += [("WAV", "GSM610"), ("AU", "G721_32"), ("WAV", "IMA_ADPCM"), ("NIST", "PCM_16")]
    wav, mp3, ogg = sound("WAV"), sound("MP3"), sound("OGG", "OPUS")
    joined = [wav[:40] + bytes(4) + wav[44:], wav + wav, mp3[mp3.index(mp3[:2], 4) :] + mp3, ogg + ogg]
    return [
        *(sound(*format) for format in formats),
        *joined,
        bytes(flac),
        sound("WAV")[:24] + b"\1\0\0\0" + sound("WAV")[28:],
    ]


# ---- corpora ----

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


TARGETS = {
    "audio": Target(audio, audio_seeds),
    "manifest": Target(manifest, manifest_seeds),
    "folder": Target(folder_of_speech, folder_seeds),
    "archive": Target(archive, archive_seeds),
    "split": Target(split, split_seeds),
    **fuzz_annotations.TARGETS,
    **fuzz_models.TARGETS,
}
