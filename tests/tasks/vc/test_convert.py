"""Voice conversion by the commands, on a tiny model and tones."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import SpeechT5ForSpeechToSpeech

from sft_speech.cli import main
from sft_speech.corpora import load_corpus
from sft_speech.corpora.report import CorpusReport
from sft_speech.errors import UserError
from sft_speech.tasks.vc.config import FinetuneVcConfig
from sft_speech.tasks.vc.convert import output_paths
from sft_speech.tasks.vc.converter import PIECE_SECONDS, VoiceConverter, pieces
from sft_speech.tasks.vc.pairs import Sources, words_of
from sft_speech.training.rows import StoredRows

RATE = 16_000
TEXTS = ["hello", "how are you", "one two three", "four", "it was late", "a b c", "fine", "good morning", "no", "yes"]


def tone(seconds: float, hertz: float) -> np.ndarray:
    samples = np.arange(int(seconds * RATE)) / RATE
    return 0.1 * sum(np.sin(2 * np.pi * hertz * n * samples) / n for n in range(1, 6)) * np.abs(np.sin(9 * samples))


@pytest.fixture(scope="module")
def voices(tmp_path_factory, write_metadata):
    """Two folders of the same file names: a low voice, and a high, faster one."""
    folders = []
    for name, hertz, pace in (("low", 110, 1.0), ("high", 190, 0.8)):
        folder = tmp_path_factory.mktemp(name)
        rows = []
        for number, text in enumerate(TEXTS):
            soundfile.write(folder / f"{number}.wav", tone((0.4 + 0.05 * number) * pace, hertz), RATE)
            rows.append({"file_name": f"{number}.wav", "text": text, "speaker": name})
        folders.append(write_metadata(folder, rows))
    return folders


@pytest.fixture
def arguments(tiny_conversion, voices, tmp_path):
    def build(**keys):
        low, high = voices
        settings = {
            "model": tiny_conversion,
            "source": high,
            "from_source": low,
            "train_split": ":8",
            "eval_split": "[8:]",
            "output_dir": tmp_path / "out",
            "max_batch_seconds": 3,
            "learning_rate": 0.003,
            "max_steps": 6,
            "logging_steps": 1,
            "eval_steps": 3,
            "dataloader_num_workers": 0,
            "report_to": "none",
            "samples": 1,
        }
        return ["finetune-vc", *(f"--{key}={value}" for key, value in (settings | keys).items() if value is not None)]

    return build


def test_it_keeps_and_is_mixed(arguments, tmp_path):
    assert main(arguments(keep_splits="[7:]", interpolate=0.5, samples=0)) == 0
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())
    (row,) = figures["keep"]
    assert row["split"].startswith("keep_high")
    assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    assert figures["interpolation"]["not_mixed"] == []


def test_from_two_corpora_to_a_model(arguments, tiny_conversion, voices, tmp_path, capsys):
    assert main(arguments(max_steps=30, eval_steps=15, logging_steps=5)) == 0
    out = tmp_path / "out"
    figures = json.loads((out / "all_results.json").read_text())
    assert {"eval_loss", "eval_mel_loss", "train_loss"} <= figures.keys()
    state = json.loads(next(out.glob("checkpoint-30/trainer_state.json")).read_text())
    history = {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
    assert history[30] < 0.8 * history[5]

    before, after = load_file(tiny_conversion / "model.safetensors"), load_file(out / "model.safetensors")
    still = [name for name in before if torch.equal(before[name], after[name])]
    unchanging = r"running_|num_batches_tracked|embed_positions|masked_spec_embed|pos_sinusoidal_embed"
    assert all(re.search(unchanging, name) for name in still), still
    assert len(list((out / "samples").iterdir())) == 5
    assert "Converter" in (out / "README.md").read_text()

    again = SpeechT5ForSpeechToSpeech.from_pretrained(out)
    assert torch.equal(again.state_dict()["speech_decoder_postnet.feat_out.weight"],
                       after["speech_decoder_postnet.feat_out.weight"])  # fmt: skip
    capsys.readouterr()
    recording, converted = voices[0] / "9.wav", tmp_path / "converted.wav"
    assert (
        main(["convert", str(out), str(recording), "-o", str(converted), "--speaker", "high", "--device", "cpu"]) == 0
    )
    assert str(converted) in capsys.readouterr().out
    assert 0.1 < soundfile.info(converted).duration < 4


def write_pairs(path, voices, named="audio"):
    """Write a table of pairs with two target voices."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source_audio", named, "speaker"])
        for number in range(10):
            writer.writerow([voices[0] / f"{number}.wav", voices[1] / f"{number}.wav", "ab"[number % 2]])
    return path


@pytest.mark.parametrize("named", ["audio", "file_name"])
def test_a_table_of_pairs_without_transcripts(arguments, voices, tmp_path, named, capsys):
    table = write_pairs(tmp_path / "pairs.csv", voices, named)
    keys = {} if named == "audio" else {"audio_column": named}
    assert main(arguments(source=table, from_source=None, **keys)) == 0
    rows = [json.loads(line) for line in next((tmp_path / "out/evaluation").glob("*.jsonl")).read_text().splitlines()]
    assert len(rows) == 2
    assert set(load_file(tmp_path / "out/speakers.safetensors")) >= {"a", "b"}
    if named == "audio":
        command = ["evaluate-vc", str(tmp_path / "out"), "--source", str(table), "--device", "cpu"]
        assert main(command) == 0
        assert json.loads((tmp_path / "out-evaluation/pairs.json").read_text())["utterances"] == 10
        assert main([*command, "--judge", "a-recognizer"]) == 2
        assert "the corpus has no transcripts to compare with" in capsys.readouterr().err


def test_the_same_names_in_two_splits_are_not_confused(arguments, voices, tmp_path, caplog, capsys):
    """Two tables have a pair of the same relative names: each has the source of its own table."""
    from sft_speech.tasks.vc.task import Conversion

    low, high = voices
    tables = {}
    for folder, number in (("a", 3), ("b", 8)):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "x.wav", soundfile.read(low / f"{number}.wav")[0], RATE)
        soundfile.write(tmp_path / folder / "y.wav", soundfile.read(high / f"{number}.wav")[0], RATE)
        tables[folder] = tmp_path / folder / "pairs.csv"
        tables[folder].write_text("source_audio,audio\nx.wav,y.wav\n")
    keys = {"source": tables["a"], "eval_source": tables["b"], "from_source": None}
    given = arguments(**keys, train_split=None, eval_split=None, max_steps=1, eval_steps=1)
    config = FinetuneVcConfig(**dict(argument[2:].split("=", 1) for argument in given[1:]))
    task, report = Conversion(config), CorpusReport()
    corpora = {name: StoredRows(load_corpus(tables[folder], columns=config.columns)) for name, folder in
               (("train", "a"), ("eval", "b"))}  # fmt: skip
    task.load(corpora["train"])
    corpora = {name: task.usable(name, rows, report) for name, rows in corpora.items()}
    task.begin(corpora)
    for name, number in (("train", 3), ("eval", 8)):
        source = task.dataset(corpora[name])[(0, 0)]["samples"]
        assert len(source) == pytest.approx((0.4 + 0.05 * number) * RATE, abs=1200)  # silence is trimmed
    assert main(given) == 0


def test_sources_count_in_the_cost_and_shared_ones_are_warned_of(arguments, voices, caplog):
    """The sources are longer than the targets; some are in training and evaluation."""
    from sft_speech.tasks.vc.task import Conversion

    low, high = voices
    config = FinetuneVcConfig(
        **dict(argument[2:].split("=", 1) for argument in arguments(train_split=None, eval_split=None)[1:])
    )
    task, rows = Conversion(config), StoredRows(load_corpus(high))
    task.load(rows)
    usable = task.usable("train", rows, CorpusReport())
    seconds = dict(zip(load_corpus(low)["id"], load_corpus(low)["seconds"], strict=True))
    assert task.cost(usable).tolist() == [seconds[id] for id in usable.table["id"]]
    assert main(arguments(train_split=":8", eval_split=":2", max_steps=1)) == 0
    assert re.search(r"eval: the source recordings of \d of \d pairs are trained on", caplog.text)


def sources(folder, by):
    return Sources(load_corpus(folder), by)


def test_partners(voices):
    low, _ = voices
    by_id, by_text = sources(low, "id"), sources(low, "text")
    one = {"id": "3.wav", "text": "Four!", "speaker": "high"}
    assert by_id.partners(one, 0.5) == ([3], "")
    assert by_text.partners(one | {"id": "x"}, 0.5) == ([3], "")
    assert by_id.partners(one | {"id": "x"}, 0.5) == ([], "no source recording has this id")
    assert by_text.partners(one | {"text": "..."}, 0.5)[0] == []
    assert by_text.partners(one | {"speaker": "low"}, 0.5) == ([], "only its own speaker has recorded it")
    assert words_of("It's FOUR, no: ４!") == "it s four no 4"
    assert words_of("कि का") == "कि का"
    assert "but its source has" in by_id.partners(one, 5.0)[1]


def test_each_epoch_takes_the_next_partner(arguments, tiny_conversion, voices, tmp_path, write_metadata):
    """A text has two sources, which take turns."""
    from sft_speech.tasks.vc.task import Conversion

    low, high = voices
    rows = [{"file_name": str(low / "3.wav"), "text": "four", "speaker": s} for s in ("a", "b")]
    rows[1]["file_name"] = str(low / "4.wav")
    config = FinetuneVcConfig(
        model=str(tiny_conversion),
        source=str(high),
        from_source=str(write_metadata(tmp_path, rows)),
        pair_by="text",
        output_dir=str(tmp_path / "out"),
    )
    task, targets, report = Conversion(config), StoredRows(load_corpus(high)), CorpusReport()
    task.load(targets)
    usable = task.usable("train", targets, report)
    assert usable.table["text"] == ["four"]
    task.begin({"train": usable})
    lengths = [len(task.dataset(usable)[(epoch, 0)]["samples"]) for epoch in range(4)]
    assert lengths[0] == lengths[2] != lengths[1] == lengths[3]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"from_source": None}, "there is no column 'source_audio'"),
        ({"from_split": ":3", "from_source": None}, "from_split: it needs from_source"),
        ({"from_source": None, "pair_by": "text"}, "set from_source to the corpus of the recordings to convert"),
        ({"pair_by": "words"}, "id, text"),
    ],
)
def test_corpora_that_cannot_be_paired(arguments, keys, message, capsys):
    assert main(arguments(**keys)) == 2
    assert message in capsys.readouterr().err


def test_pairs_that_are_all_unusable_give_their_reasons(arguments, voices, capsys):
    low, _ = voices
    assert main(arguments(source=low, from_source=low)) == 2
    shown = capsys.readouterr().err
    assert "no pair can be used" in shown
    assert "only its own speaker has recorded it" in shown


def test_no_pair_at_all(arguments, voices, tmp_path, write_metadata, capsys):
    other = tmp_path / "other"
    other.mkdir()
    soundfile.write(other / "x.wav", tone(0.5, 100), RATE)
    write_metadata(other, [{"file_name": "x.wav", "text": "else", "speaker": "x"}])
    assert main(arguments(from_source=other)) == 2
    assert "no ids in common with the source recordings" in capsys.readouterr().err


def test_a_model_for_synthesis_does_not_convert(arguments, tiny_speaker, voices, capsys):
    assert main(arguments(model=tiny_speaker)) == 2
    assert main(["convert", str(tiny_speaker), str(voices[0] / "1.wav"), "-o", "x.wav"]) == 2
    assert capsys.readouterr().err.count("does not convert speech") == 2


def test_recordings_that_cannot_be_converted(tiny_conversion, voices, tmp_path, capsys):
    soundfile.write(tmp_path / "short.wav", tone(0.05, 100), RATE)
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    for name, message in (("short.wav", "s of sound"), ("silence.wav", "silent"), ("none.wav", "none.wav")):
        assert main(["convert", str(tiny_conversion), str(tmp_path / name), "-o", str(tmp_path / "x.wav")]) == 2
        assert message in capsys.readouterr().err
    same = [str(folder / "1.wav") for folder in voices]
    assert output_paths(str(tmp_path / "folder"), list(map(Path, same)), same) == [
        tmp_path / "folder" / folder.name / "1.wav" for folder in voices
    ]
    assert main(["convert", str(tiny_conversion), same[0], "-o", same[0]]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    with pytest.raises(UserError, match="nobody"):
        VoiceConverter(tiny_conversion, device="cpu")(voices[0] / "1.wav", "nobody")


def test_the_evaluation_measures_the_sources_too(tiny_conversion, voices, tmp_path, write_metadata, capsys):
    """Here the sources are the targets: unconverted, they are perfect."""
    low, _ = voices
    rows = [{"file_name": str(low / f"{n}.wav"), "text": TEXTS[n], "speaker": "other"} for n in range(3)]
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.concatenate([np.zeros(9000), 0.5 * np.ones(1)]), RATE)
    rows.append({"file_name": str(silent), "text": TEXTS[3], "speaker": "other"})
    sources = write_metadata(tmp_path, rows)
    command = ["evaluate-vc", tiny_conversion, "--source", low, "--from_source", sources, "--pair_by", "text"]
    assert main([*map(str, command), "-o", str(tmp_path), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "evaluation" / f"{low.name}.json").read_text())
    assert figures["utterances"] == 3
    assert figures["problems"] == 1
    assert figures["source_mcd"] == pytest.approx(0, abs=1e-6) != figures["speech_mcd"]
    assert figures["copy_mcd"] < figures["speech_mcd"]
    lines = [json.loads(line) for line in (tmp_path / "evaluation" / f"{low.name}.jsonl").read_text().splitlines()]
    assert "s of sound" in lines[-1]["problem"]
    shown = capsys.readouterr().out
    assert "unconverted" in shown
    assert "no source recording has this text" in shown


def test_a_full_scale_sample_is_no_padding(tiny_conversion):
    """transformers takes samples with the value of the padding token, 1, for padding."""
    waveform = tone(0.5, 120).astype(np.float32)
    waveform[4000] = 1.0
    converter = VoiceConverter(tiny_conversion, device="cpu")
    first = converter((waveform, RATE))
    waveform[4000] = 1 - 1e-6
    again = converter((waveform, RATE))
    assert np.allclose(first.waveform, again.waveform, atol=1e-3)


def test_every_form_of_a_recording(tiny_conversion, voices):
    path = voices[0] / "9.wav"
    converter = VoiceConverter(tiny_conversion, device="cpu")
    expected = converter(path).waveform
    samples, encoded = soundfile.read(path, dtype="float32")[0], path.read_bytes()
    array = {"array": samples, "sampling_rate": RATE}
    row = {"id": "9", "audio": {"path": str(path), "bytes": None}, "text": "yes"}
    for form in (str(path), encoded, (samples, RATE), (torch.tensor(samples), RATE), array, {"audio": array}, row):
        assert np.array_equal(converter(form).waveform, expected), form
    reference = converter.voice(voices[1] / "9.wav")
    assert torch.equal(converter.voice((voices[1] / "9.wav").read_bytes()), reference)
    assert not torch.equal(converter.voice(array), reference)
    with pytest.raises(UserError, match="its sampling_rate is missing"):
        converter({"array": samples})


def test_long_recordings_are_cut_at_quiet_points():
    waveform = np.ones(40 * RATE, np.float32)
    for second in (9.0, 20.0, 33.0):
        waveform[int(second * RATE) : int((second + 0.3) * RATE)] = 0
    parts = pieces(waveform, RATE)
    assert np.array_equal(np.concatenate(parts), waveform)
    assert max(map(len, parts)) <= PIECE_SECONDS * RATE
    ends = np.cumsum([len(part) for part in parts])[:-1] / RATE
    for end in ends[:2]:
        assert min(abs(end - second) for second in (9.15, 20.15, 33.15)) < 0.16
    assert len(pieces(waveform[: 5 * RATE], RATE)) == 1
    fading = np.linspace(1, 0, int(15.05 * RATE), dtype=np.float32)
    assert [len(part) >= RATE for part in pieces(fading, RATE)] == [True, True]


def test_lora_converts(arguments, tiny_conversion, tmp_path):
    assert main(arguments(lora_rank=2, learning_rate=1e-2)) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_conversion, tmp_path / "out"))
    moved = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    assert moved == {
        name for name in before if "coder.layers." in name and name.endswith(("_proj.weight", "_dense.weight"))
    }
    weights = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert all(one.any() for one in weights.values())
