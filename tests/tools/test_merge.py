"""``sft-speech merge``: adapters of runs and of peft itself, on their bases."""

from __future__ import annotations

import json

import pytest
import soundfile
import torch
from peft import LoraConfig, TaskType, get_peft_model
from tiny_lora import adapted, batch_of, randomize
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor

from sft_speech.cli import main
from sft_speech.models.adapt import head_names
from sft_speech.models.lora import merge


@pytest.fixture
def foreign(tiny_seq2seq, tmp_path):
    """An adapter of a Whisper with the logits of its model, as the usual recipes save it."""
    base = tiny_seq2seq("whisper")
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type=TaskType.SEQ_2_SEQ_LM)
    model = randomize(get_peft_model(AutoModelForSpeechSeq2Seq.from_pretrained(base), lora)).eval()
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", base, written(model.base_model.model)


@torch.no_grad()
def written(model):
    torch.manual_seed(0)
    return model(input_features=torch.randn(1, 16, 400), decoder_input_ids=torch.tensor([[3, 4, 5]])).logits


def test_somebodys_adapter_of_a_whisper(foreign, tmp_path, capsys):
    adapter, base, wanted = foreign
    assert main(["merge", str(adapter), "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "out: WhisperForConditionalGeneration, " in out
    assert out.endswith(f"parameters: {base} with {adapter} of rank 2\n")
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(written(model), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(written(AutoModelForSpeechSeq2Seq.from_pretrained(base)), wanted, atol=1e-2)
    assert AutoProcessor.from_pretrained(tmp_path / "out").tokenizer.get_vocab()
    assert model.generation_config.lang_to_id
    assert main(["merge", str(adapter), "-o", str(tmp_path / "out")]) == 2
    assert "it already exists" in capsys.readouterr().err


def test_an_adapter_with_a_new_vocabulary(tiny_directory, tmp_path):
    """The processor is the adapter's, not that of the base."""
    base = tiny_directory("wav2vec2-layer")
    model = AutoModelForCTC.from_pretrained(base, vocab_size=9, ignore_mismatched_sizes=True)
    randomize(adapted(model, head_names(model), use_dora=True))
    merge(model).save(tmp_path / "adapter", str(base))
    processor = AutoProcessor.from_pretrained(base)
    processor.tokenizer.add_tokens(["ß"])
    processor.save_pretrained(tmp_path / "adapter")
    processor.feature_extractor.save_pretrained(tmp_path / "adapter")
    assert main(["merge", str(tmp_path / "adapter"), "-o", str(tmp_path / "out")]) == 0
    merged = AutoModelForCTC.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        same = merged(**batch_of(model)).logits, model.eval()(**batch_of(model)).logits
    torch.testing.assert_close(*same, rtol=1e-4, atol=1e-4)
    assert "ß" in AutoProcessor.from_pretrained(tmp_path / "out").tokenizer.get_vocab()


def test_what_cannot_be_merged(foreign, tiny_directory, tmp_path, capsys):
    adapter, base, _ = foreign
    line = ["merge", str(adapter), "-o", str(tmp_path / "out")]
    assert main([*line, "--base", str(tiny_directory("hubert"))]) == 2
    assert "it belongs to another base (the model has no layer model.decoder.layers.0.encoder_attn.q_proj" in (
        capsys.readouterr().err
    )
    assert main(["merge", str(base), "-o", str(tmp_path / "out")]) == 2
    assert "it holds no adapter_config.json" in capsys.readouterr().err
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    assert main(line) == 2
    assert "it does not name its base.\n-> add --base MODEL" in capsys.readouterr().err
    assert main([*line, "--base", str(base)]) == 0


@pytest.mark.parametrize("verb", ["transcribe", "finetune-asr"])
def test_an_adapter_is_not_a_model(foreign, tmp_path, capsys, verb):
    adapter, _, _ = foreign
    soundfile.write(tmp_path / "a.wav", torch.randn(4000).numpy() / 10, 16_000)
    (tmp_path / "a.csv").write_text("audio,text\na.wav,a\n")
    run = ["--model", str(adapter), "--source", str(tmp_path / "a.csv"), "--output_dir", str(tmp_path / "out")]
    assert main([verb, *([str(adapter), str(tmp_path / "a.wav")] if verb == "transcribe" else run)]) == 2
    assert "sft-speech merge" in capsys.readouterr().err


def test_a_base_of_another_kind(tiny_directory, tmp_path, capsys):
    base = tiny_directory("wav2vec2-layer")
    model = randomize(adapted(AutoModelForCTC.from_pretrained(base)))
    merge(model).save(tmp_path / "adapter", str(base))
    other = tiny_directory("hubert")
    assert main(["merge", str(tmp_path / "adapter"), "--base", str(other), "-o", str(tmp_path / "out")]) == 2
    why = f"it belongs to another base ({other} is a hubert model, and it is of a wav2vec2 one)"
    assert f"{why}.\n-> use it with its base, {base}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
