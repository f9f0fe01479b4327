"""What a user is told who confuses a model, a recording and a corpus, or gives an option of another verb."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main

MODEL = str(files("sft_speech") / "assets/wav2vec2-small")
RUN = ("finetune-asr", "--model", MODEL, "--output_dir", "out", "--source")


@pytest.mark.parametrize(
    ("command", "why", "do"),
    [
        ((*RUN, "a.wav"), "a.wav: it is a recording, not a corpus", "sft-speech transcribe MODEL a.wav"),
        ((*RUN, MODEL), "it holds a model, not a corpus", f"give the model as --model {MODEL}"),
        ((*RUN, ".", "--split", "dev"), "no option --split", "did you mean --train_split?"),
        ((*RUN, "table.csv", "--report_to", "clearml"), "this tracker is not installed", "pip install clearml, or"),
        (("transcribe", "a.wav", MODEL), "it holds a model, not recordings", "give the model first"),
        (("transcribe", MODEL, "a.wav", "--device", "gpu"), "device gpu: PyTorch does not know this", "give cuda"),
    ],
)
def test_a_confusion_is_recognized(command, why, do, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", np.zeros(1600), 16000)
    (tmp_path / "table.csv").write_text("audio,text\na.wav,hello\n")
    try:
        code = main(list(command))
    except SystemExit as stopped:  # of the parser
        code = stopped.code
    assert code == 2
    error = capsys.readouterr().err
    assert why in error
    assert do in error
    assert not (tmp_path / "out").exists()
