from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForTDT, AutoProcessor, pipeline

from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.tasks.asr import loading
from sft_speech.tasks.asr.ctc.decoding import Decoding
from sft_speech.tasks.asr.recognizer import Clip
from sft_speech.tasks.asr.tdt.checkpoint import load_checkpoint
from sft_speech.tasks.asr.tdt.task import unaligned

LENGTHS = (9001, 16000, 40000, 30001, 300, 0)


@pytest.fixture
def checkpoint(transducer):
    return load_checkpoint(transducer, log=False)


def waveforms():
    generator = np.random.default_rng(3)
    return [generator.normal(0.1, 0.2, samples).astype(np.float32) for samples in LENGTHS]


def clips():
    return [Clip(waveform, len(waveform) / 16000) for waveform in waveforms()]


@pytest.mark.parametrize("most_logits", [10**9, 1])
def test_alone_and_in_any_batch(checkpoint, most_logits):
    labels = checkpoint.encode("the sing")
    given = [Clip(clip.audio, clip.seconds, labels=labels) for clip in clips()]
    alone = list(checkpoint.recognize(given, max_batch_seconds=0.1))
    assert len({found.text for found in alone}) > 2
    assert alone[-1].text == alone[-2].text == ""
    for order in ([0, 1, 2, 3, 4, 5], [3, 5, 0, 2, 1, 4]):
        together = checkpoint.recognize([given[n] for n in order], max_batch_seconds=100, most_logits=most_logits)
        for number, found in zip(order, together, strict=True):
            assert found.text == alone[number].text
            assert np.array_equal(found.starts, alone[number].starts)
            assert found.word_confidences() == pytest.approx(alone[number].word_confidences(), abs=1e-4)
            assert len(found.word_confidences()) == len(found.text.split())
            assert ((found.probabilities > 0) & (found.probabilities <= 1)).all()
            assert (found.loss is None) == (number > 3)  # those have not one frame
            assert found.loss is None or found.loss == pytest.approx(alone[number].loss, rel=1e-4)


def test_saved_it_is_plain_transformers(checkpoint, tmp_path):
    expected = list(checkpoint.recognize(clips()[:4]))
    checkpoint.save(tmp_path)
    assert [found.text for found in loading.load_checkpoint(tmp_path).recognize(clips()[:4])] == [
        one.text for one in expected
    ]
    model, processor = AutoModelForTDT.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    plain = pipeline("automatic-speech-recognition", str(tmp_path))
    for waveform, found in zip(waveforms(), expected, strict=False):
        made = model.generate(**processor(waveform, sampling_rate=16000), max_new_tokens=200)
        text, times = processor.decode(made.sequences, durations=made.durations, skip_special_tokens=True)
        assert " ".join(text[0].split()) == found.text
        assert " ".join(plain(waveform.copy())["text"].split()) == found.text
        # the processor counts in frames of 80 ms, those of this model have 40
        assert [round(one["start"] / 0.08) for one in times[0]] == found.starts.tolist()


def test_long_recordings_in_chunks(checkpoint):
    """By a model whose tokens do not depend on those before."""
    torch.nn.init.zeros_(checkpoint.model.decoder.decoder_projector.weight)
    with torch.no_grad():
        encoded = checkpoint.model(**checkpoint.features(waveforms()[:1]), decoder_input_ids=torch.tensor([[38]]))
        checkpoint.model.joint.head.bias[:39] -= encoded.logits.flatten(0, -2).mean(0)[:39]
    clip = Clip(np.tile(waveforms()[2], 3), 7.5)
    [whole], [cut] = checkpoint.recognize([clip]), checkpoint.recognize([clip], chunk_seconds=3.0)
    assert cut.seconds == whole.seconds == 7.5
    assert (np.diff(cut.starts) >= 0).all()
    assert cut.ends.max() * cut.frame_seconds <= 7.7
    assert cut.starts.max() > 125  # frames of 40 ms
    assert abs(len(cut.tokens) - len(whole.tokens)) < len(whole.tokens) / 2


def test_a_model_that_never_goes_on_is_stopped(checkpoint):
    head = checkpoint.model.joint.head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[5], head.bias[checkpoint.model.config.vocab_size] = 9.0, 9.0  # a token, and a duration of 0
    [found] = checkpoint.recognize([Clip(waveforms()[0], 0.5626)])
    assert found.starts.tolist() == [frame for frame in range(14) for _ in range(3)]


def test_times_of_words(checkpoint):
    [found] = checkpoint.recognize(clips()[1:2])
    words, pieces = found.spans()
    assert [word.text for word in words] == found.text.split()
    assert pieces[0].start == found.starts[0] * 0.04
    assert pieces[0].end == found.ends[0] * 0.04


def test_characters_in_place_of_subwords(transducer, tmp_path):
    checkpoint = load_checkpoint(transducer, transcripts=["one two"] * 5, new_vocabulary=True)
    assert checkpoint.head_is_new
    assert checkpoint.blank == checkpoint.model.config.blank_token_id == 0
    assert checkpoint.model.decoder.embedding.num_embeddings == len(checkpoint.tokenizer) == 8
    with torch.no_grad():
        head = checkpoint.model.joint.head
        head.weight[:8].normal_()
        head.bias[8] -= 5.0  # plain transformers would stay at a frame for longer
        head.bias[1] = -1e4  # plain transformers does not write the unknown token
    checkpoint.save(tmp_path)
    again = load_checkpoint(tmp_path)
    assert again.new_weights == []
    texts = [found.text for found in again.recognize(clips()[:2])]
    assert all(texts)
    assert texts == [found.text for found in checkpoint.recognize(clips()[:2])]
    assert [pipeline("automatic-speech-recognition", str(tmp_path))(one)["text"] for one in waveforms()[:2]] == texts


def test_what_is_refused(checkpoint, tmp_path, tiny_directory):
    (tmp_path / "lm").write_text("")
    with pytest.raises(UserError, match="no search with a language model"):
        checkpoint.decoder_for(Decoding(str(tmp_path / "lm")))
    with pytest.raises(UserError, match="a wav2vec2 model"):
        load_checkpoint(tiny_directory("wav2vec2-group"))


def test_labels_that_fit():
    assert unaligned(0, [1] * 50, 1) is None
    assert unaligned(0, [1], 0) == ("too short", "not one frame")
    assert unaligned(1, [1, 2], 3) is None
    assert unaligned(1, [1, 2, 3], 3) == ("more labels than frames", "3 labels of at least 1 each, 3 frames")


@pytest.mark.parametrize("strategy", [{"freeze_encoder_steps": 1}, {"lora_rank": 2}])
def test_trained_evaluated_and_transcribed(transducer, tmp_path, capsys, strategy):
    lines = ["audio,text"]
    for number, waveform in enumerate(waveforms()[:4]):
        soundfile.write(tmp_path / f"{number}.wav", waveform, 16000)
        lines.append(f"{number}.wav,the sing {'a he' * number}")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    keys = {
        "model": transducer, "source": tmp_path / "clips.csv", "train_split": ":0.75", "eval_split": "[0.75:]",
        "output_dir": tmp_path / "out", "max_batch_seconds": 3, "max_steps": 4, "eval_steps": 4, "learning_rate": 1e-3,
        "warmup_steps": 0, "dataloader_num_workers": 0, "report_to": "none", **strategy,
    }  # fmt: skip
    assert main(["finetune-asr", *(part for key, value in keys.items() for part in (f"--{key}", str(value)))]) == 0
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert 0 < results["eval_loss"] < 20
    capsys.readouterr()
    command = ["transcribe", str(tmp_path / "out"), str(tmp_path / "1.wav"), "--format", "jsonl"]
    assert main([*command, "--timestamps", "word"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert [word["text"] for word in row["words"]] == row["text"].split()
