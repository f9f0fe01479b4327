"""Targets for fuzzing: annotations with times, and manifests and archives of other toolkits."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from fuzz_base import Target, corpus, sound

INTERVALS = '"IntervalTier" "{}" 0 1 2 0 0.05 "hello ""you""" 0.05 0.1 ""'
TEXTGRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n0 1 <exists> {}\n'
EAF = """<?xml version="1.0" encoding="UTF-8"?><ANNOTATION_DOCUMENT><HEADER TIME_UNITS="milliseconds">
<MEDIA_DESCRIPTOR RELATIVE_MEDIA_URL="./a.wav" TIME_ORIGIN="10"/></HEADER><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="1"
TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="2" TIME_VALUE="50"/></TIME_ORDER><TIER TIER_ID="a" PARTICIPANT="anna"
LINGUISTIC_TYPE_REF="u"><ANNOTATION><ALIGNABLE_ANNOTATION TIME_SLOT_REF1="1" TIME_SLOT_REF2="2"><ANNOTATION_VALUE>hello
</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""
ENTITIES = """<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]><ANNOTATION_DOCUMENT>&b;"""
STM = ";; x\na 1 anna 0 0.05 <o,f0,female> hello\na 2 bob 0.05 0.1 <o,,> ignore_time_segment_in_scoring\na 1 b x y\n"
CTM = ";; x\na 1 0.01 0.02 hello 0.9 lex anna\na 1 0.04 0.02 you\na A 0 nan x\n"
SRT = "1\n00:00:00,010 --> 00:00:00,050\n<i>Hello</i> {\\an8}\n- you\n\n2\n00:00:00,050 --> 00:00:00,090\nthere\n"
VTT = "WEBVTT\n\nNOTE x\n\n00:00.010 --> 00:00.050 align:start\n<v Anna>Fish &amp; <c>chips</c></v>\n"
SEGMENTS = 'start,end,text,speaker\n0.01,0.05,"hello, you",anna\n0.05,x,there,bob\n'
AUDACITY = "0.01\t0.05\thello\n\\\t1\t2\n0.05\t0.06\t\n"
SUPERVISION = {"id": "s", "recording_id": "a", "start": 0.01, "duration": 0.02, "text": "hello", "speaker": "anna"}
RECORDING = {"id": "a", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "duration": 0.1}
CUT = {"id": "c", "start": 0.01, "duration": 0.05, "channel": 0, "supervisions": [SUPERVISION], "recording": RECORDING}


def beside(*names: str) -> Callable[[bytes, Path], None]:
    """Return a target that reads a recording with an annotation file; the first byte selects the file's name."""

    def read(data: bytes, folder: Path) -> None:
        (folder / "corpus").mkdir()
        (folder / "corpus/a.wav").write_bytes(sound("WAV"))
        (folder / "corpus" / names[data[0] % len(names) if data else 0]).write_bytes(data[1:])
        corpus(folder / "corpus", folder)

    return read


def seeds(*texts: str | bytes) -> Callable[[], list[bytes]]:
    """Return seeds for several names of files: each name in turn."""
    encoded = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return lambda: [bytes([number]) + text for number, text in enumerate(encoded)]


def textgrid_seeds() -> list[bytes]:
    grids = [TEXTGRID.format(f"1 {INTERVALS.format('u')}"), TEXTGRID.format("2 " + 2 * (INTERVALS.format("u") + " "))]
    long = 'name = "u" class = x\nxmin = 0 ! comment\nintervals [1]:\n1 "TextTier" "p" 0 1 1 number = 0.5 mark = "x"'
    return [b"\0" + one.encode(encoding) for one in (*grids, TEXTGRID.format(long)) for encoding in ("utf-8", "utf-16")]


def lhotse_seeds() -> list[bytes]:
    odd = {**RECORDING, "sources": [{"type": "command", "source": "ls"}], "transforms": [{"name": "Speed"}]}
    cuts = (CUT, CUT | {"type": "MixedCut"}, CUT | {"recording": odd}, CUT | {"supervisions": [{}, 3]}, [CUT], {})
    lines = "\n".join(json.dumps(one) for one in cuts).encode()
    outside = {**RECORDING, "sources": [{"type": "file", "source": "../a.wav"}]}
    return [b"\0" + lines, b"\1" + gzip.compress(lines), b"\0" + json.dumps(CUT | {"recording": outside}).encode()]


def webdataset_seeds() -> list[bytes]:
    packed = io.BytesIO()
    files = {"k.wav": sound("WAV"), "k.txt": b"hello", "j.wav": sound("WAV"), "j.json": b'{"text": "you", "id": [1]}'}
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return [b"\0" + packed.getvalue(), b'\1{"text": "hello", "speaker": "\\ud800", "label": ["a"]}', b"\1[]"]


TARGETS = {
    "textgrid": Target(beside("a.TextGrid"), textgrid_seeds),
    "elan": Target(beside("a.eaf"), lambda: [b"\0" + one.encode() for one in (EAF, ENTITIES)]),
    "nist": Target(beside("a.stm", "a.ctm"), seeds(STM, CTM)),
    "subtitles": Target(beside("a.srt", "a.en.vtt"), seeds(SRT, VTT)),
    "labels": Target(beside("a.segments.csv", "a.txt"), seeds(SEGMENTS, AUDACITY)),
    "lhotse": Target(beside("cuts.jsonl", "x_cuts_dev.jsonl.gz"), lhotse_seeds),
    "webdataset": Target(beside("0.tar", "a.json"), webdataset_seeds),
}
