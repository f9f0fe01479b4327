"""Errors of the command line are one line that helps; renamed flags work."""

from __future__ import annotations

import argparse

import pytest

from sft_speech import cli
from sft_speech.options.parser import Parser, add_output_argument

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"


def answer(capsys, *words: str) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("finetune-asr", "--learnin_rate", "3"),
            "sft-speech finetune-asr: no option --learnin_rate; did you mean --learning_rate?",
        ),
        (
            ("finetune-asr", "--warmup_ratio=0.1"),
            "sft-speech finetune-asr: no option --warmup_ratio; set warmup_steps; below 1 it is a share of the run",
        ),
        (
            ("finetune-tts", "--learning-rate", "3"),
            "sft-speech finetune-tts: no option --learning-rate; did you mean --learning_rate?",
        ),
        # before the required --output is missed
        (("cut", "x", "--outptu", "y"), "sft-speech cut: no option --outptu; did you mean --output?"),
        (("transcribe", "m", "a", "--qqq"), "sft-speech transcribe: no option --qqq; --help lists the options"),
        (("transcribe", "m", "a", "-q"), "sft-speech transcribe: no option -q; --help lists the options"),
        (("doctor", "a"), "sft-speech doctor: unexpected argument 'a'; --help lists the options"),
        (
            ("cut", "x"),
            "sft-speech cut: the following arguments are required: --recognizer, -o/--output",
        ),
        (("finetune-asr", f"--token={TOKEN}"), "sft-speech finetune-asr: no option --token; --help lists the options"),
        (("doctor", TOKEN), "sft-speech doctor: unexpected argument '(hidden)'; --help lists the options"),
        (("doctor", "\x1b[2J"), r"sft-speech doctor: unexpected argument '\x1b[2J'; --help lists the options"),
    ],
)
def test_a_wrong_command_line_gets_one_line(words, line, capsys):
    assert answer(capsys, *words) == line


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("transcibe", "no verb 'transcibe'; did you mean transcribe? `sft-speech --help` lists them"),
        ("qqq", "no verb 'qqq'; `sft-speech --help` lists them"),
        (TOKEN, "no verb '(hidden)'; `sft-speech --help` lists them"),
    ],
)
def test_an_unknown_verb_gets_one_line(verb, line, capsys):
    assert cli.main([verb]) == 2
    assert capsys.readouterr().err == f"sft-speech: {line}\n"


def parser() -> Parser:
    made = Parser(prog="it", allow_abbrev=False)
    made.add_argument("names", nargs="*")
    made.add_argument("--oom_check", nargs="?", const="true")
    made.add_argument("--number", type=int)
    return made


@pytest.mark.parametrize("words", [["--rehearse", "false"], ["--rehearse=false"]])
def test_a_renamed_flag_works_with_a_warning(words, caplog):
    assert parser().parse([*words, "a"]).oom_check == "false"
    assert caplog.messages == [
        "command line: --rehearse is now --oom_check; the old name works until the next release",
    ]


def test_what_follows_two_dashes_or_holds_a_space_is_no_flag():
    found = parser().parse(["--number", "-1", "--not an option", "--", "--rehearse", "--qqq"])
    assert (found.number, found.names, found.oom_check) == (-1, ["--not an option", "--rehearse", "--qqq"], None)


def test_options_and_other_arguments_mix():
    found = parser().parse(["a", "--number", "2", "b"], argparse.Namespace(argv=["x"]))
    assert (found.names, found.number, found.argv) == (["a", "b"], 2, ["x"])


@pytest.mark.parametrize("flag", ["-o", "--output", "--output_dir"])
def test_where_a_verb_writes_has_the_same_flags_everywhere(flag):
    made = Parser(allow_abbrev=False)
    add_output_argument(made, "there")
    assert made.parse([flag, "x"]).output == "x"


@pytest.mark.parametrize("verb", ["evaluate", "evaluate-tts", "evaluate-vc", "transcribe", "synthesize", "convert"])
def test_verbs_that_write_take_them(verb, capsys):
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    shown = capsys.readouterr().out
    assert all(f"{flag} " in shown for flag in ("-o", "--output", "--output_dir"))


@pytest.mark.parametrize("folders", [[], ["a", "-o", "b"]])
def test_a_demo_corpus_goes_to_one_directory(folders, capsys):
    assert cli.main(["make-demo-corpus", *folders]) == 2
    assert "give it once, as DIR or with -o" in capsys.readouterr().err


def test_a_tilde_is_the_home_directory_where_shells_leave_it(monkeypatch):
    monkeypatch.setenv("HOME", "/users/me")
    parser = Parser()
    add_output_argument(parser, "")
    parser.add_argument("text", nargs="*")
    args = parser.parse(["--output=~/runs/a", "~/b.wav", "~", "a~/b", "~c", "about ~/d"])
    assert (args.output, args.text) == ("/users/me/runs/a", ["/users/me/b.wav", "/users/me", "a~/b", "~c", "about ~/d"])
