"""Models that are already trained are mixed; what has no mean is explained or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from sft_speech.cli import main


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def trained(start: Path, folder: Path) -> Path:
    """Copy a model with other weights to a folder, and files of a run beside it."""
    shutil.copytree(start, folder)
    generator = torch.Generator().manual_seed(1)
    changed = {
        name: one + torch.randn(one.shape, generator=generator) if one.is_floating_point() else one
        for name, one in weights(start).items()
    }
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    (folder / "all_results.json").write_text("{}")
    (folder / "README.md").write_text("the card of the run")
    return folder


def record(folder: Path) -> dict:
    return json.loads((folder / "interpolation.json").read_text())


@pytest.mark.parametrize("family", ["wav2vec2-layer", "hubert-batch-norm", "parakeet"])
@pytest.mark.parametrize("share", ["0", "0.25", "1"])
def test_a_share_of_a_recognizer(tiny_directory, tmp_path, family, share, capsys):
    start = tiny_directory(family)
    end, out = trained(start, tmp_path / "end"), tmp_path / "out"
    assert main(["interpolate", str(start), str(end), "-o", str(out), "--share", share]) == 0
    assert capsys.readouterr().out == f"{out}: {share} of the weights of {end}, the rest of {start}\n"
    first, last, found = weights(start), weights(end), weights(out)
    assert found.keys() == last.keys()
    for name, one in found.items():
        if share == "0.25" and one.is_floating_point():
            assert_close(one, first[name] + 0.25 * (last[name] - first[name]))
        else:
            assert torch.equal(one, (last if share == "1" else first)[name]), name
    assert (record(out)["share"], record(out)["not_mixed"]) == (float(share), [])
    assert not {"all_results.json", "README.md"} & {path.name for path in out.iterdir()}
    assert {path.name for path in end.glob("*tokenizer*")} == {path.name for path in out.glob("*tokenizer*")}


def test_a_whisper_stays_complete(tiny_seq2seq, tmp_path):
    """Its tied embeddings stay tied, and its generation settings are those of the end."""
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    start = tiny_seq2seq("whisper")
    end, out = trained(start, tmp_path / "end"), tmp_path / "out"
    assert main(["interpolate", str(start), str(end), "-o", str(out), "--share", "0.5"]) == 0
    model = AutoModelForSpeechSeq2Seq.from_pretrained(out)
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert_close(weights(out), {name: (one + weights(end)[name]) / 2 for name, one in weights(start).items()})
    assert model.generation_config.lang_to_id
    AutoProcessor.from_pretrained(out)


def test_another_vocabulary_keeps_the_head_of_the_end(copied, tiny_directory, tmp_path, caplog):
    start, end, out = copied("wav2vec2-layer"), tmp_path / "end", tmp_path / "out"
    trained(tiny_directory("wav2vec2-layer"), end)
    words = json.loads((start / "vocab.json").read_text())
    words["A"], words["B"] = words["B"], words["A"]
    (start / "vocab.json").write_text(json.dumps(words))
    assert main(["interpolate", str(start), str(end), "-o", str(out), "--share", "0.5"]) == 0
    assert f"{start} has another vocabulary than {end} (32 and 32 entries)" in caplog.text
    assert record(out)["not_mixed"] == ["lm_head.weight", "lm_head.bias"]
    assert torch.equal(weights(out)["lm_head.weight"], weights(end)["lm_head.weight"])
    name = "wav2vec2.encoder.layers.0.attention.k_proj.weight"
    assert not torch.equal(weights(out)[name], weights(end)[name])


def test_a_start_without_a_head_or_with_a_smaller_one(tiny_directory, tmp_path):
    """As wav2vec2-base is pretrained, or a vocabulary that was extended."""
    from transformers import Wav2Vec2Model

    start, smaller = tiny_directory("wav2vec2-layer"), tiny_directory("wav2vec2-layer", None, vocab_size=20)
    end, body = trained(start, tmp_path / "end"), tmp_path / "body"
    Wav2Vec2Model.from_pretrained(start).save_pretrained(body)
    for first in (body, smaller):
        out = tmp_path / f"out_{first.name}"
        assert main(["interpolate", str(first), str(end), "-o", str(out), "--share", "0.5"]) == 0
        assert record(out)["not_mixed"] == ["lm_head.weight", "lm_head.bias"]
        assert torch.equal(weights(out)["lm_head.bias"], weights(end)["lm_head.bias"])
        assert not torch.equal(*(weights(one)["wav2vec2.feature_projection.projection.weight"] for one in (out, end)))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("hubert", {}, "a hubert and a wav2vec2 have no weights in common"),
        ("wav2vec2-group", {"num_hidden_layers": 3}, "they differ in num_hidden_layers, 3 and 2"),
        ("wav2vec2-group", {"hidden_size": 16}, "they differ in hidden_size, 16 and 32"),
        ("wav2vec2-group", {"conv_dim": (16, 16, 8)}, "they differ in conv_dim, [16, 16, 8] and [16, 16, 16]"),
    ],
)
def test_models_that_have_no_mean(tiny_directory, tmp_path, capsys, family, changes, message):
    start, end, out = tiny_directory(family, **changes), tiny_directory("wav2vec2-group"), tmp_path / "out"
    assert main(["interpolate", str(start), str(end), "-o", str(out), "--share", "0.5"]) == 2
    error = capsys.readouterr().err
    assert f"{start} and {end}: {message}" in error
    assert f"-> give the checkpoint that {end} was fine-tuned from" in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--share auto: there is no corpus to choose it on"),
        (["--share", "half"], "--share half: it is no share"),
        (["--share", "1.5"], "--share 1.5: it is no share"),
        (["--share", "nan"], "--share nan: it is no share"),
        (["--share", "0.5", "--source", "corpus"], "--share 0.5: a share that is given is not chosen on --source"),
    ],
)
def test_shares_that_are_refused(tiny_directory, tmp_path, capsys, words, message):
    model = str(tiny_directory("wav2vec2-group"))
    assert main(["interpolate", model, model, "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


def test_what_exists_or_is_not_there(tiny_directory, tmp_path, capsys):
    model = str(tiny_directory("wav2vec2-group"))
    assert main(["interpolate", model, model, "-o", str(tmp_path), "--share", "0.5"]) == 2
    assert "it already exists" in capsys.readouterr().err
    assert main(["interpolate", "/no/model", model, "-o", str(tmp_path / "out"), "--share", "0.5"]) == 2
    assert "/no/model: there is no such directory" in capsys.readouterr().err
