from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from safetensors.torch import load_file, save_file

from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint
from sft_speech.tasks.asr.ctc.recognition import Recognition
from sft_speech.tasks.asr.recognizer import Span
from sft_speech.tasks.asr.transcriber import Transcriber, Transcription

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng((seed, 3))
    samples = round(seconds * RATE)
    return (rng.normal(size=samples) * np.sin(np.arange(samples) / 3000) * 0.1).astype(np.float32)


def with_weights(source: Path, target: Path, change: Callable[[dict], None]) -> Path:
    """A copy of a model's directory with other weights."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def model(tiny_directory, tmp_path_factory):
    """A random model that outputs every token now and then, "|" too, so that there are words."""
    checkpoint = load_checkpoint(tiny_directory("wav2vec2-group"))
    with torch.no_grad():
        spread, usual = torch.std_mean(checkpoint.model(**checkpoint.features([noise(3.0, 9)])).logits[0], 0)

    def change(weights: dict) -> None:
        weights["lm_head.weight"] /= spread[:, None]
        weights["lm_head.bias"] = (weights["lm_head.bias"] - usual) / spread

    return with_weights(tiny_directory("wav2vec2-group"), tmp_path_factory.mktemp("models") / "model", change)


@pytest.fixture(scope="module")
def transcriber(model):
    return Transcriber(str(model), device="cpu")


@pytest.fixture
def recordings(tmp_path):
    """b.wav, a.flac and sub/c.ogg, a text file, and one named as audio."""
    folder = tmp_path / "recordings"
    (folder / "sub").mkdir(parents=True)
    soundfile.write(folder / "b.wav", noise(1.5, 1), RATE, subtype="FLOAT")
    soundfile.write(folder / "a.flac", noise(0.8, 2), RATE)
    soundfile.write(folder / "sub" / "c.ogg", noise(2.2, 3), RATE)
    (folder / "notes.txt").write_text("not audio")
    return folder


def test_path_bytes_and_array_are_the_same(transcriber, recordings):
    path = recordings / "b.wav"
    found = transcriber(path)
    assert found.text
    assert found.audio == str(path)
    assert found.seconds == 1.5
    assert transcriber(str(path)) == found
    for other in (path.read_bytes(), (noise(1.5, 1), RATE), {"path": None, "bytes": path.read_bytes()}):
        assert transcriber(other).text == found.text
        assert transcriber(other).words == found.words


def test_a_list_keeps_its_order_and_a_folder_is_sorted(transcriber, recordings):
    names = ["sub/c.ogg", "a.flac", "b.wav", "a.flac"]
    found = transcriber([recordings / name for name in names])
    assert [one.audio for one in found] == [str(recordings / name) for name in names]
    assert [one.text for one in found] == [transcriber(recordings / name).text for name in names]
    assert found[1] == found[3]
    assert [one.audio for one in transcriber(recordings)] == [
        str(recordings / name) for name in ("a.flac", "b.wav", "sub/c.ogg")
    ]
    assert transcriber([]) == []


def test_one_item_gives_one_transcription_and_any_iterable_a_list(transcriber, recordings):
    path = recordings / "b.wav"
    expected = transcriber(path).text
    samples = {"array": noise(1.5, 1).tolist(), "sampling_rate": RATE}
    row = {"id": "b", "audio": {"path": str(path), "bytes": None}, "text": "one"}
    for one in (samples, {"raw": torch.tensor(noise(1.5, 1)), "sampling_rate": RATE}, row, {"audio": samples}):
        assert transcriber(one).text == expected
    dataset = Dataset.from_dict({"audio": [str(path)] * 2}).cast_column("audio", Audio())
    for many in ([path, samples], (one for one in (row, path)), ((noise(1.5, 1), RATE), path), dataset):
        assert [found.text for found in transcriber(many)] == [expected] * 2
    assert transcriber(row).audio == transcriber(dataset)[1].audio == str(path)
    for wrong in (noise(1.5, 1), {"array": [0.1]}, 7):
        with pytest.raises(UserError, match="give a path, bytes"):
            transcriber(wrong)


def test_integers_channels_and_rates(transcriber):
    waveform = noise(1.0)
    whole = transcriber((waveform, RATE)).text
    assert transcriber((np.stack([waveform, waveform], axis=1), RATE)).text == whole
    as_integers = np.round(waveform * 32768).astype(np.int16)
    assert transcriber((as_integers, RATE)).text == transcriber((as_integers / 32768, RATE)).text
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).normal(0, 0.1, (96_000, 8)), 96_000, format="WAV")
    assert transcriber(buffer.getvalue()).seconds == pytest.approx(1.0)
    assert transcriber((np.random.default_rng(0).normal(0, 0.1, 8000), 8000)).seconds == pytest.approx(1.0)


def test_one_bad_recording_does_not_stop_the_others(transcriber, recordings, caplog):
    (recordings / "bad.wav").write_bytes(b"this is text")
    (recordings / "empty.flac").write_bytes(b"")
    good = transcriber(recordings / "a.flac")
    nan = (np.array([0.1, np.nan] * RATE, np.float32), RATE)
    with caplog.at_level(logging.WARNING):
        found = transcriber([recordings / "bad.wav", recordings / "a.flac", nan, recordings / "empty.flac"])
    assert [bool(one.error) for one in found] == [True, False, True, True]
    assert found[1] == good
    assert "bad.wav cannot be transcribed" in caplog.text
    assert transcriber([recordings / "bad.wav"])[0].error


def test_the_only_recording_being_bad_is_an_error(transcriber, recordings):
    (recordings / "bad.wav").write_bytes(b"this is text")
    with pytest.raises(UserError, match=r"bad\.wav"):
        transcriber(recordings / "bad.wav")
    with pytest.raises(UserError, match="no file"):
        transcriber("/nowhere/a.wav")


def test_a_very_short_and_a_silent_recording(transcriber):
    assert transcriber((np.zeros(30, np.float32), RATE)).text == ""
    assert transcriber((np.zeros(RATE, np.float32), RATE)).seconds == 1.0


def test_times_are_monotone_within_the_clip_and_spell_the_text(transcriber):
    for seconds in (0.3, 1.7, 5.0):
        found = transcriber((noise(seconds), RATE))
        assert seconds < 1 or len(found.words) > 2
        assert " ".join(word.text for word in found.words) == found.text
        assert "".join(character.text for character in found.characters) == found.text
        for timed in (found.words, found.characters):
            times = [time for one in timed for time in (one.start, one.end)]
            assert times == sorted(times)
            assert 0 <= times[0] <= times[-1] <= seconds


def test_spans_are_literal(transcriber):
    checkpoint = transcriber.checkpoint
    tokens = checkpoint.encode("HI YOU")
    places = np.arange(6) * 10
    words, characters = Recognition(
        text="HI YOU",
        seconds=1.03,
        tokens=np.array(tokens),
        starts=places,
        ends=places + 2,
        probabilities=np.ones(6),
        frame_seconds=0.02,
        vocabulary=checkpoint.vocabulary,
    ).spans()
    assert [(w.text, round(w.start, 3), round(w.end, 3)) for w in words] == [("HI", 0, 0.24), ("YOU", 0.6, 1.03)]
    assert characters[2] == Span(" ", words[0].end, words[1].start)
    assert "".join(c.text for c in characters) == "HI YOU"


def test_a_long_recording_is_transcribed_in_chunks(model, transcriber):
    waveform = noise(12.0)
    cut = Transcriber(transcriber.checkpoint, device="cpu", chunk_seconds=4)((waveform, RATE))
    with pytest.warns(FutureWarning, match="chunk_seconds"):
        assert Transcriber(transcriber.checkpoint, device="cpu", window_seconds=4)((waveform, RATE)) == cut
    whole = transcriber((waveform, RATE))
    assert cut.seconds == whole.seconds == 12.0
    assert cut.words[-1].end == pytest.approx(whole.words[-1].end, abs=0.5)  # no drift
    assert len(cut.text) == pytest.approx(len(whole.text), rel=0.1)


def test_a_resumed_run_gets_the_same_batches(transcriber, monkeypatch, tmp_path):
    lengths = [0.3, 0.9, 0.5, 0.7, 9.0, 9.1, 0.4, 0.8, 0.6, 0.2, 0.35]
    names = [tmp_path / f"{number:02}.wav" for number in range(len(lengths))]
    for name, seconds in zip(names, lengths, strict=True):
        soundfile.write(name, noise(seconds), RATE)
    names[6].unlink()
    chunks_of_2 = Transcriber(transcriber.checkpoint, device="cpu", chunk_seconds=2)

    def transcribed(*blocks: list[Path]) -> tuple[list[int], list[list[int]]]:
        """Number of recordings of each list, and lengths of the clips of each batch."""
        batches = []
        features = transcriber.checkpoint.front_end.features
        spy = lambda waveforms: batches.append([len(one) for one in waveforms]) or features(waveforms)  # noqa: E731
        monkeypatch.setitem(transcriber.checkpoint.__dict__, "features", spy)
        return [len(together) for together in chunks_of_2.pools(blocks, pool_size=4)], sorted(batches)

    whole, batches = transcribed(names[:8], names[8:])
    assert whole == [4, 1, 1, 2, 3]  # by chunks: four short ones, two that fill a pool alone, the rest of each block
    for parted in (4, 5, 6, 8):
        before, after = transcribed(names[:parted]), transcribed(*filter(None, (names[parted:8], names[8:])))
        assert before[0] + after[0] == whole
        assert sorted(before[1] + after[1]) == batches


@pytest.mark.parametrize("options", [{"max_batch_seconds": 0}, {"chunk_seconds": 0.1}, {"device": "tpux"}])
def test_options_that_cannot_work(model, options):
    with pytest.raises(UserError):
        Transcriber(str(model), **options)


def test_a_model_without_a_trained_head_is_refused(tiny_directory, tmp_path):
    def change(weights: dict) -> None:
        del weights["lm_head.weight"], weights["lm_head.bias"]

    with_weights(tiny_directory("wav2vec2-group"), tmp_path / "headless", change)
    with pytest.raises(UserError, match="no trained weights"):
        Transcriber(str(tmp_path / "headless"))


# ---- sft-speech transcribe ----


def transcribe(*arguments) -> int:
    return main(["transcribe", *map(str, arguments), "--device", "cpu"])


def test_text_of_one_recording_is_the_bare_text(model, transcriber, recordings, capsys):
    assert transcribe(model, recordings / "b.wav") == 0
    assert capsys.readouterr().out == transcriber(recordings / "b.wav").text + "\n"


def test_a_tiny_model_computes_in_float32_unless_bfloat16_is_requested(model, recordings, tmp_path):
    rows = {}
    for dtype in ("auto", "float32", "bfloat16"):
        output = tmp_path / f"{dtype}.jsonl"
        assert transcribe(model, recordings / "b.wav", "--format", "jsonl", "--dtype", dtype, "-o", output) == 0
        rows[dtype] = json.loads(output.read_text())
    assert rows["auto"] == rows["float32"]
    assert rows["bfloat16"] != rows["float32"]
    assert rows["bfloat16"]["confidence"] == pytest.approx(rows["float32"]["confidence"], abs=0.05)


def test_text_of_a_folder_has_paths(model, transcriber, recordings, capsys):
    assert transcribe(model, recordings) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{one.audio}\t{one.text}" for one in transcriber(recordings)]


def test_jsonl_has_a_row_for_every_recording(model, transcriber, recordings, tmp_path, capsys):
    (recordings / "bad.wav").write_bytes(b"text")
    output = tmp_path / "out.jsonl"
    options = ("--format", "jsonl", "--timestamps", "word", "-o", output)
    assert transcribe(model, recordings / "b.wav", recordings / "bad.wav", *options) == 1
    good, bad = map(json.loads, output.read_text().splitlines())
    expected = transcriber(recordings / "b.wav")
    assert good["text"] == expected.text
    assert [word["text"] for word in good["words"]] == expected.text.split()
    assert bad["error"]
    assert bad["audio"].endswith("bad.wav")
    assert capsys.readouterr().out == ""


def test_character_times_in_jsonl(model, recordings, capsys):
    assert transcribe(model, recordings / "b.wav", "--format", "jsonl", "--timestamps", "char") == 0
    row = json.loads(capsys.readouterr().out)
    assert "".join(one["text"] for one in row["characters"]) == row["text"]


def test_subtitles_of_a_folder_are_files_in_a_folder(model, recordings, tmp_path):
    soundfile.write(recordings / "a.wav", noise(0.5), RATE)
    assert transcribe(model, recordings, "--format", "srt", "-o", tmp_path / "subtitles") == 0
    written = sorted(str(path.relative_to(tmp_path / "subtitles")) for path in (tmp_path / "subtitles").rglob("*.srt"))
    assert written == ["a.flac.srt", "a.wav.srt", "b.srt", "sub/c.srt"]
    assert (tmp_path / "subtitles" / "b.srt").read_text().startswith("1\n00:00:0")


def test_vtt_of_one_recording_with_a_cue_for_each_word(model, transcriber, recordings, capsys):
    assert transcribe(model, recordings / "b.wav", "--format", "vtt", "--timestamps", "word") == 0
    written = capsys.readouterr().out
    assert written.startswith("WEBVTT\n\n")
    assert written.count("-->") == len(transcriber(recordings / "b.wav").words)


def test_nothing_transcribed_is_an_error(model, recordings, capsys):
    (recordings / "bad.wav").write_bytes(b"text")
    assert transcribe(model, recordings / "bad.wav") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "none of them could be transcribed" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--timestamps", "word"), "plain text has no times"),
        (("-o", "/nowhere/at/all.txt"), "cannot be written"),
        (("--max_batch_seconds", "-1"), "no audio fits"),
    ],
)
def test_arguments_that_cannot_work(model, recordings, arguments, message, capsys):
    assert transcribe(model, recordings / "b.wav", *arguments) == 2
    assert message in capsys.readouterr().err


def test_subtitles_of_several_need_a_folder(model, recordings, capsys):
    assert transcribe(model, recordings, "--format", "srt") == 2
    assert "name a folder" in capsys.readouterr().err


def test_transcription_is_a_plain_record():
    assert Transcription("a", (), (), 1.0) == Transcription("a", (), (), 1.0, "", "")
