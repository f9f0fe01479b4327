"""The language of recordings: given to a verb, saved with the model, or the choice of an adapter (MMS)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file

from sft_speech import Transcriber
from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint
from sft_speech.tasks.asr.generation import Generation
from sft_speech.tasks.asr.seq2seq.checkpoint import load_checkpoint as load_seq2seq
from sft_speech.text.normalize import TranscriptNormalizer
from sft_speech.tools.export.export import add_arguments, load_original

RATE = 16_000
GERMAN = {token: number for number, token in enumerate(["<pad>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyzäöüß"])}
TEXTS = ["Hallo", "25 Jahre, 80,5 kg", "Guten Tag"]
SPELT = "fünfundzwanzig jahre achtzig komma fünf kg"
UNSPELT = (
    "1 of 3 transcripts have numbers or symbols that are not spelled out, because their language is not known: give "
    "it, such as --language de; the first is 1.wav: “25 Jahre, 80,5 kg”"
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = ["id,audio,text"]
    for number, text in enumerate(TEXTS):
        noise = np.random.default_rng(number).normal(size=2 * RATE) * 0.1
        soundfile.write(tmp_path / f"{number}.wav", noise, RATE)
        lines.append(f'{number}.wav,{number}.wav,"{text}"')
    (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "corpus.csv"


@pytest.fixture
def german(copied) -> Path:
    """A model of German letters whose language is not saved."""
    return copied("wav2vec2-layer", GERMAN, vocab_size=len(GERMAN))


@pytest.fixture
def many(copied) -> Path:
    """A checkpoint with adapters for German and French, its head being the German one, as MMS's is the English one."""
    letters = {"deu": "abcäöü", "fra": "éèàcegintquv", "eng": "abcdef"}
    vocabularies = {
        code: {token: n for n, token in enumerate(["<pad>", "<unk>", "|", *own])} for code, own in letters.items()
    }
    folder = copied("mms", vocabularies["deu"], vocab_size=9)
    (folder / "vocab.json").write_text(json.dumps(vocabularies))
    options = json.loads((folder / "tokenizer_config.json").read_text())
    options.update(target_lang="deu", bos_token=None, eos_token=None)
    options.pop("added_tokens_decoder", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    weights = load_file(folder / "model.safetensors")
    for code, value in (("deu", 0.5), ("fra", 0.25)):
        size = len(vocabularies[code])
        adapter = {key: torch.full_like(one, value) for key, one in weights.items() if ".adapter_layer." in key}
        adapter |= {"lm_head.weight": torch.full((size, 32), value), "lm_head.bias": torch.ones(size)}
        save_file(adapter, folder / f"adapter.{code}.safetensors", metadata={"format": "pt"})
    return folder


def evaluate(model: Path, corpus: Path, *options: str) -> tuple[dict, list[str]]:
    """Run the command; return its figures and the references."""
    out = corpus.parent / "out"
    line = ["evaluate", str(model), "--source", str(corpus), "--device", "cpu", "-o", str(out), *options]
    assert main(line) == 0
    lines = (out / "evaluation" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    figures = json.loads((out / "evaluation" / "corpus.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in lines]
    return figures, [row.get("normalized_reference", row["reference"]) for row in rows]


# ---- numbers ----


def test_numbers_are_those_of_the_language_given(german, corpus, capsys, caplog):
    figures, references = evaluate(german, corpus, "--language", "German")
    assert references == ["hallo", SPELT, "guten tag"]
    assert "unspelt" not in figures
    assert "spelled out" not in capsys.readouterr().out + caplog.text


def test_numbers_of_an_unknown_language_are_never_read_as_english(german, corpus, capsys, caplog):
    figures, references = evaluate(german, corpus)
    assert references == ["hallo", "jahre kg", "guten tag"]
    assert figures["unspelt"] == 1
    assert f"\n{UNSPELT}\n" in capsys.readouterr().out
    assert f"corpus: {UNSPELT}" in caplog.messages
    # Under this normalizer, references are compared as they are written.
    assert "unspelt" not in evaluate(german, corpus, "--normalizer", "basic")[0]


def test_plain_text_needs_no_language(tiny_directory, corpus, capsys, caplog):
    corpus.write_text(corpus.read_text().replace(TEXTS[1], "It's plain; isn't it?"))
    figures, references = evaluate(tiny_directory("wav2vec2-layer"), corpus)
    assert references[1] == "IT'S PLAIN ISN'T IT"
    assert "unspelt" not in figures
    assert "spelled out" not in capsys.readouterr().out + caplog.text


def test_a_run_saves_the_language_and_every_verb_takes_it_from_there(german, corpus, capsys, caplog):
    out = corpus.parent / "run"
    line = ["finetune-asr", "--model", german, "--source", corpus, "--output_dir", out, "--max_steps", 1]
    line += ["--report_to", "none", "--max_batch_seconds", 10, "--dataloader_num_workers", 0, "--language", "de-DE"]
    assert main([*map(str, line)]) == 0
    assert "not spelled out" not in caplog.text
    assert json.loads((out / "config.json").read_text())["transcript_language"] == "de"
    assert yaml.safe_load((out / "run.yaml").read_text())["language"] == "de"
    assert "\nlanguage: de\n" in (out / "README.md").read_text()
    assert Transcriber(out, device="cpu").checkpoint.language == "de"
    assert evaluate(out, corpus)[1][1] == SPELT
    assert evaluate(out, corpus, "--language", "nl")[1][1] == "vijfentwintig jahre tachtig komma vijf kg"
    assert Transcriber(out, device="cpu", generation=Generation("French")).checkpoint.language == "fr"


def test_before_step_1_a_run_names_the_rows(german, corpus, caplog):
    line = ["finetune-asr", "--model", german, "--source", corpus, "--output_dir", corpus.parent / "run"]
    line += ["--max_steps", 1, "--report_to", "none", "--max_batch_seconds", 10, "--dataloader_num_workers", 0]
    assert main([*map(str, line), "--max_dropped_share", "1"]) == 0
    assert f"train: {UNSPELT}" in caplog.messages
    report = json.loads((corpus.parent / "run" / "corpus_report.json").read_text())["train"]
    assert report["missing_characters"] == {"5": 2, "2": 1, "8": 1, "0": 1}


def test_a_run_says_in_which_language_it_reads_numbers_if_no_option_does(german, corpus, caplog):
    (german / "README.md").write_text("---\nlanguage: en\n---\n")
    line = ["finetune-asr", "--model", german, "--source", corpus, "--output_dir", corpus.parent / "run"]
    line += ["--max_steps", 1, "--report_to", "none", "--max_batch_seconds", 10, "--dataloader_num_workers", 0]
    assert main([*map(str, line)]) == 0
    assert (
        "train: 1 of 3 transcripts have numbers or symbols, spelled out in English, which the checkpoint writes: "
        "--language names another one; the first is 1.wav: “25 Jahre, 80,5 kg”"
    ) in caplog.messages


def test_check_and_cut_name_the_rows(german, corpus, capsys, caplog):
    line = ["check", str(corpus), "--max_hours", "0"]
    assert main([*line, "--model", str(german)]) == 0
    what = "with digits or symbols that are not spelled out, because their language is not known"
    assert f"WARNING  1 transcript {what}" in capsys.readouterr().out
    assert main([*line, "--model", str(german), "--language", "de"]) == 0
    assert "NOTE  1 transcript with digits or symbols\n" in capsys.readouterr().out
    assert main(line) == 0
    assert what in capsys.readouterr().out
    line = ["cut", str(corpus), "--recognizer", str(german), "-o", str(corpus.parent / "cut.csv"), "--device", "cpu"]
    assert main([*line, "--language", "de"]) == 0
    assert "spelled out" not in caplog.text
    assert main(line) == 0
    assert f"{corpus}: {UNSPELT}" in caplog.messages


@pytest.mark.parametrize("verb", ["transcribe", "evaluate", "tune-lm", "cut", "check"])
def test_every_verb_refuses_what_is_no_language(verb, capsys):
    required = {"tune-lm": ["--lm", "a.arpa", "--source", "b"], "cut": ["--recognizer", "m", "-o", "c.csv"]}
    required["evaluate"] = ["--source", "b"]
    with pytest.raises(SystemExit, match="2"):
        main([verb, "model", *required.get(verb, []), "--language", "jp"])
    said = "argument --language: jp: there is no such language; did you mean ja (Japanese)?\n"
    assert capsys.readouterr().err == f"sft-speech {verb}: {said}"


# ---- adapters ----


def test_a_checkpoint_of_many_languages_needs_one(many, corpus, capsys):
    audio = str(corpus.parent / "0.wav")
    said = f"{many}: it writes 2 languages, each with its own adapter.\n-> choose one with --target_lang: deu, fra\n"
    for line in (["transcribe", str(many), audio], ["check", str(corpus), "--model", str(many)]):
        assert main(line) == 2
        assert capsys.readouterr().err.endswith(said)
    assert main(["transcribe", str(many), audio, "--device", "cpu", "--target_lang", "fra"]) == 0
    assert capsys.readouterr().out


def test_export_takes_the_adapter_that_is_named(many):
    line = [str(many), "--to", "onnx", "-o", "unused"]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UserError, match="choose one with --target_lang: deu, fra"):
        load_original(parser.parse_args(line), "asr")
    checkpoint = load_original(parser.parse_args([*line, "--target_lang", "fra"]), "asr")
    assert checkpoint.model.lm_head.weight.unique().tolist() == [0.25]
    with pytest.raises(UserError, match="is a classifier"):
        load_original(parser.parse_args([*line, "--language", "fr"]), "classification")


@pytest.mark.parametrize(
    ("option", "given"), [("target_lang", "fra"), ("target_lang", "French"), ("language", "fr-BE")]
)
def test_an_adapter_is_chosen_by_either_option(many, corpus, option, given):
    figures, references = evaluate(many, corpus, f"--{option}", given)
    assert references == ["vingt cinq e qute vingt vigue cinq g", "guten tg"]
    assert "unspelt" not in figures
    checkpoint = load_checkpoint(many, **{option: given})
    assert checkpoint.normalizer("É à b 25").text == "é à vingt cinq"
    assert checkpoint.model.lm_head.weight.unique().tolist() == [0.25]
    assert checkpoint.new_weights == []
    assert checkpoint.language in ("fr", "fr_BE")


@pytest.mark.parametrize(
    ("option", "given", "why", "listed"),
    [
        ("target_lang", "eng", "has no adapter for it", "deu, fra"),
        ("target_lang", "Frensh", "has no adapter for it", "fra, deu"),
        ("language", "es", "has no adapter for it", "deu, fra"),
    ],
)
def test_of_an_unknown_adapter_the_nearest_are_listed(many, option, given, why, listed):
    with pytest.raises(UserError, match=f"{option} {given}: .* {why}.\n-> choose one with --target_lang: {listed}$"):
        load_checkpoint(many, **{option: given})


def test_of_many_languages_not_all_are_listed(many):
    own = json.loads((many / "vocab.json").read_text())["deu"]
    codes = ["deu", "uzb-script_latin", "uzb-script_cyrillic", *(f"q{a}{b}" for a in "abcdef" for b in "abcdef")]
    (many / "vocab.json").write_text(json.dumps(dict.fromkeys(codes, own)))
    for code in codes:
        (many / f"adapter.{code}.safetensors").touch()
    with pytest.raises(UserError, match=r"it writes 39 languages.*\n.*: deu, uzb-.* and 9 more, which its vocab.json"):
        load_checkpoint(many)
    with pytest.raises(UserError, match=r"several adapters for it.\n.*: uzb-script_latin, uzb-script_cyrillic$"):
        load_checkpoint(many, language="uz")


def test_fine_tuned_on_one_of_them_it_needs_none(many, tmp_path):
    checkpoint = load_checkpoint(many, target_lang="fra")
    checkpoint.save(tmp_path / "french")
    for options in ({}, {"target_lang": "fra"}, {"language": "fr"}):
        again = load_checkpoint(tmp_path / "french", **options)
        assert again.language == "fr"
        assert again.encode("é à") == checkpoint.encode("é à") == [3, 2, 5]
        assert torch.equal(again.model.lm_head.weight, checkpoint.model.lm_head.weight)
    with pytest.raises(UserError, match=r"target_lang deu: .* has no adapter for it.\n-> .*: fra$"):
        load_checkpoint(tmp_path / "french", target_lang="deu")
    new = load_checkpoint(many, transcripts=["qp"], new_vocabulary=True, target_lang="fra", language="en")
    assert (new.normalizer.alphabet, new.language) == ({"p", "q"}, "en")


def test_other_recognizers_have_no_adapters(tiny_seq2seq, german, corpus, capsys):
    audio = str(corpus.parent / "0.wav")
    for model, do in ((tiny_seq2seq("whisper"), "--language de"), (german, "--language names the language")):
        assert main(["transcribe", str(model), audio, "--target_lang", "deu"]) == 2
        error = capsys.readouterr().err
        assert "has no adapters for languages.\n-> leave" in error
        assert do in error


def test_a_model_with_letters_of_its_own_that_writes_token_by_token(tiny_seq2seq):
    checkpoint = load_seq2seq(tiny_seq2seq("speech2text"))
    assert isinstance(checkpoint.normalizer, TranscriptNormalizer)
    assert checkpoint.normalizer.language is None
    german = checkpoint.with_generation(Generation("German"))
    assert (german.language, german.normalizer.language) == ("de", "de")
    assert load_seq2seq(tiny_seq2seq("speech2text"), language="de_AT").normalizer.language == "de"
