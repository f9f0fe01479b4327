"""Recordings of two channels: one of them, each on its own, or both mixed, with a warning if they differ."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main
from sft_speech.tasks.asr.evaluate import evaluate_corpus
from sft_speech.tasks.asr.loading import load_checkpoint
from sft_speech.tasks.asr.transcriber import Transcriber

RATE = 16_000


@pytest.fixture(scope="module")
def model(tiny_directory):
    return tiny_directory("wav2vec2-group")


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """A folder with ``call.wav``, two speakers, ``mono.wav``, the left one; and ``right.wav`` in another folder."""
    folder, rng = tmp_path_factory.mktemp("calls"), np.random.default_rng(3)
    left, right = (
        0.3 * np.sin(np.cumsum(rng.uniform(0, 2, 12).repeat(800))) + rng.normal(0, 0.02, 9600) for _ in range(2)
    )
    (folder / "calls").mkdir()
    soundfile.write(folder / "calls" / "call.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    soundfile.write(folder / "calls" / "mono.wav", left, RATE, subtype="FLOAT")
    soundfile.write(folder / "right.wav", right, RATE, subtype="FLOAT")
    return folder / "calls"


@pytest.fixture(scope="module")
def texts(model, calls):
    """What is in the left and in the right channel."""
    left, right = Transcriber(model, device="cpu")([calls / "mono.wav", calls.parent / "right.wav"])
    assert left.text != right.text
    return left.text, right.text


def run(model, *arguments, format: str = "jsonl") -> int:
    return main(["transcribe", str(model), "--device", "cpu", "--format", format, *map(str, arguments)])


def test_split_gives_a_transcript_for_each_channel(model, calls, texts, tmp_path, caplog):
    assert run(model, calls, "--channel", "split", "-o", tmp_path / "a.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(row["audio"], row.get("channel"), row["text"]) for row in rows] == [
        (str(calls / "call.wav"), "left", texts[0]),
        (str(calls / "call.wav"), "right", texts[1]),
        (str(calls / "mono.wav"), None, texts[0]),
    ]
    assert "differ" not in caplog.text


def test_split_names_the_channels_of_one_file_in_text(model, calls, texts, capsys):
    assert run(model, calls / "call.wav", "--channel", "split", format="text") == 0
    path = calls / "call.wav"
    assert capsys.readouterr().out == f"{path}\tleft\t{texts[0]}\n{path}\tright\t{texts[1]}\n"


def test_split_gives_subtitles_for_each_channel(model, calls, tmp_path):
    assert run(model, calls, "--channel", "split", "-o", tmp_path / "out", format="srt") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "call.left.srt",
        "call.right.srt",
        "mono.srt",
    ]


@pytest.mark.parametrize(("channel", "number"), [("left", 0), ("right", 1)])
def test_one_channel(model, calls, texts, capsys, channel, number):
    assert run(model, calls / "call.wav", "--channel", channel, format="text") == 0
    assert capsys.readouterr().out == texts[number] + "\n"


def test_a_recording_of_one_channel_has_no_right_one(model, calls, texts, capsys, caplog):
    assert run(model, calls, "--channel", "right") == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["text"], row["channel"], row.get("error")) for row in rows] == [
        (texts[1], "right", None),
        ("", "right", "channel right of a recording of one channel"),
    ]
    assert "1 of 2 recordings could not be transcribed" in caplog.text


def test_mixing_channels_that_differ_is_said_once(model, calls, capsys, caplog):
    assert run(model, calls) == 0
    said = "in 1 of 1 recording with several channels, these differ"
    assert caplog.text.count(said) == 1
    assert "set --channel left, right or split" in caplog.text
    caplog.clear()
    mixed = capsys.readouterr().out
    assert run(model, calls, "--channel", "mix") == 0
    assert capsys.readouterr().out == mixed
    assert "differ" not in caplog.text


def test_arrays_have_channels(model, calls, texts):
    samples, rate = soundfile.read(calls / "call.wav", dtype="float32")
    rows = [{"audio": {"array": samples, "sampling_rate": rate}, "channel": number} for number in (0, 1)]
    found = Transcriber(model, device="cpu")(rows)
    assert [(one.text, one.channel) for one in found] == list(zip(texts, ("left", "right"), strict=True))


def test_rows_are_evaluated_on_their_channels(model, calls, texts):
    audio = {"path": str(calls / "call.wav"), "bytes": None}
    rows = [
        {
            "id": str(n),
            "audio": audio,
            "text": texts[n] or "x",
            "speaker": "",
            "seconds": 0.6,
            "start": None,
            "channel": n,
        }
        for n in (0, 1)
    ]
    result = evaluate_corpus(load_checkpoint(model), rows, normalizer="none")
    assert [one.hypothesis for one in result.utterances] == list(texts)


def test_verbs_choose_a_channel(model, calls, texts, tmp_path, capsys):
    table = tmp_path / "m.csv"
    table.write_text(f"audio,text\n{calls / 'call.wav'},{texts[1] or 'x'}\n")
    command = ["evaluate", str(model), "--source", str(table), "--device", "cpu", "-o", str(tmp_path / "e")]
    assert main([*command, "--channel", "right"]) == 0
    (row,) = map(json.loads, (tmp_path / "e" / "evaluation" / "m.jsonl").read_text().splitlines())
    assert row["hypothesis"] == texts[1]
    assert main(["check", str(table), "--json", str(tmp_path / "mixed.json")]) == 0
    assert main(["check", str(table), "--channel", "left", "--json", str(tmp_path / "left.json")]) == 0
    mixed, left = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("mixed", "left"))
    assert "different_channels" in {one["key"] for one in mixed["findings"]}
    assert not {one["key"] for one in left["findings"]} & {"different_channels", "channels"}
