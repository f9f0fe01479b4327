from __future__ import annotations

import json
import re
from itertools import cycle

import numpy as np
import pytest
import soundfile
import torch

from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.tasks.speech.checkpoint import load_speech_checkpoint
from sft_speech.tasks.speech.decoding import Prenet
from sft_speech.tasks.speech.speakers import MEAN, MelStatistics, Speakers
from sft_speech.tasks.tts.synthesizer import GRACE_SECONDS, SECONDS_PER_LETTER, Synthesizer


@pytest.mark.parametrize("samples", [512, 1023, 1024, 1025, 16_000])
def test_frames_are_counted_as_the_extractor_makes_them(tiny_speaker, samples):
    checkpoint = load_speech_checkpoint(tiny_speaker)
    assert checkpoint.frames(samples) == len(checkpoint.mels(np.ones(samples, np.float32)))


class Hold:
    """A vocoder that repeats the first band of each frame 256 times."""

    def __call__(self, spectrogram):
        return np.repeat(spectrogram[:, 0].numpy(), 256).astype(np.float32)


@pytest.fixture
def synthesizer(tiny_speaker):
    made = Synthesizer(str(tiny_speaker), device="cpu")
    made.vocoder = Hold()
    return made


def stop_after(synthesizer, bias: float) -> None:
    """Make a random model stop according to ``bias``."""
    with torch.no_grad():
        synthesizer.checkpoint.model.speech_decoder_postnet.prob_out.bias.fill_(bias)


def test_plain_transformers_loads_the_directory(tiny_speaker):
    from transformers import AutoProcessor, SpeechT5ForTextToSpeech

    model = SpeechT5ForTextToSpeech.from_pretrained(tiny_speaker)
    processor = AutoProcessor.from_pretrained(tiny_speaker)
    ours = load_speech_checkpoint(tiny_speaker)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), ours.model.parameters(), strict=True))
    assert processor(text="hello there").input_ids == ours.encode("hello there")


def test_transformers_generates_the_same(tiny_speaker, synthesizer):
    from transformers import SpeechT5ForTextToSpeech, SpeechT5Processor

    stop_after(synthesizer, -1.2)
    model = SpeechT5ForTextToSpeech.from_pretrained(tiny_speaker).eval()
    model.load_state_dict(synthesizer.checkpoint.model.state_dict())
    ids = SpeechT5Processor.from_pretrained(tiny_speaker)(text="hello there", return_tensors="pt")["input_ids"]
    voice = synthesizer.voice("anna")
    masks = Prenet(synthesizer.checkpoint, voice, synthesizer.seed).masks  # transformers draws them at every step
    layers = cycle(range(masks.shape[1]))
    prenet = model.speecht5.decoder.prenet
    prenet._consistent_dropout = lambda hidden, p: hidden * masks[: hidden.shape[1], next(layers)]
    spectrogram = model.generate_speech(ids, voice[None])
    assert len(spectrogram) > 4
    assert np.allclose(synthesizer("hello there", "anna").waveform, Hold()(spectrogram).clip(-1, 1), atol=1e-4)


def test_the_speech_of_a_text_does_not_depend_on_the_others(synthesizer):
    stop_after(synthesizer, -1.2)
    texts = ["hello there", "a", "how do you do?", "one, two. three", "hello there"]
    together = synthesizer(texts, "bob")
    assert len({len(speech.waveform) for speech in together}) > 1
    for text, speech in zip(texts, together, strict=True):
        alone = synthesizer(text, "bob")
        assert speech.text == text
        assert speech.waveform.shape == alone.waveform.shape
        assert np.allclose(speech.waveform, alone.waveform, atol=1e-5)
    assert np.array_equal(together[0].waveform, together[4].waveform)


def test_only_the_seed_changes_the_speech(tiny_speaker, synthesizer):
    stop_after(synthesizer, -1.2)
    torch.manual_seed(5)
    first = synthesizer("hello there", "anna").waveform
    torch.manual_seed(6)
    before = torch.get_rng_state()
    assert np.array_equal(synthesizer("hello there", "anna").waveform, first)
    assert torch.equal(torch.get_rng_state(), before)
    synthesizer.seed = 1
    other = synthesizer("hello there", "anna").waveform
    assert other.shape != first.shape or not np.allclose(other, first, atol=1e-4)


def test_speech_that_does_not_end_is_cut_and_reported(synthesizer, caplog):
    stop_after(synthesizer, -50.0)
    short, longer = synthesizer(["abc", "abcdefg"], "anna")
    for text, speech in (("abc", short), ("abcdefg", longer)):
        steps = int((SECONDS_PER_LETTER * len(text) + GRACE_SECONDS) / 0.032)  # a step has 2 frames of 0.016 s
        assert len(speech.waveform) == steps * 2 * 256
        assert speech.problem == f"{text!r} was {speech.ending}"
        assert speech.ending == f"cut after {speech.seconds:.1f} s: it was too long for the text"
        assert speech.parts[0].attention.shape == (steps, len(synthesizer.checkpoint.encode(text)))
    assert "too long for the text" in caplog.text
    synthesizer.max_seconds = 0.1
    assert synthesizer("abc", "anna").seconds == 3 * 0.032


def attend(monkeypatch, *, step: float, last: int = 1000) -> None:
    """Let every utterance attend to one token at a time, ``step`` tokens further at each decoder step."""

    def guided(layers, config):
        attention = torch.zeros_like(layers[-1][:, 0, -1])
        attention[:, min(int(step * next(steps)), attention.shape[1] - 1, last)] = 1
        return attention

    steps = iter(range(10_000))
    monkeypatch.setattr("sft_speech.tasks.speech.decoding.guided", guided)


def test_speech_ends_when_the_attention_has_reached_the_end_of_the_text(synthesizer, monkeypatch):
    """Each utterance of a batch ends by itself: the letters end after 4 and after 8 tokens, the first is a space."""
    stop_after(synthesizer, -50.0)
    attend(monkeypatch, step=0.5)
    short, longer = synthesizer(["abc.", "abcdefg"], "anna")
    assert short.ending == longer.ending == "stopped: the text was spoken"
    assert not short.problem
    # The median of five positions is two steps late; then come 0.3 s, 9 steps.
    assert [len(speech.waveform) / 512 for speech in (short, longer)] == [2 * 4 + 1 + 2 + 9, 2 * 8 + 1 + 2 + 9]


def test_speech_is_cut_where_the_attention_goes_no_further(synthesizer, monkeypatch):
    stop_after(synthesizer, -50.0)
    attend(monkeypatch, step=1.0, last=5)
    speech = synthesizer("abcdefghijklmno", "anna")
    assert speech.problem == "'abcdefghijklmno' was cut after 0.5 s: it went no further in the text"
    assert len(speech.waveform) == (5 + 1 + 2 + 9) * 512


def test_a_checkpoint_names_the_longest_text_that_it_can_speak(tiny_speaker, synthesizer):
    stop_after(synthesizer, 50.0)
    text = "one two three four five six seven"
    checkpoint = synthesizer.checkpoint
    checkpoint.note_longest(["abc"], from_scratch=False)
    assert checkpoint.longest_text is None, "it was trained before, on texts that are not known"
    assert len(synthesizer(text, "anna").parts) == 1
    checkpoint.note_longest(["a" * 20] * 100 + ["a" * 40], from_scratch=True)
    checkpoint.note_longest(["abc"], from_scratch=False)
    assert checkpoint.longest_text == 20
    assert len(synthesizer(text, "anna").parts) == 2
    assert synthesizer(text, "anna").ending == "2 pieces stopped: the model gave its signal"


def test_speech_that_ends_at_once_has_one_step(synthesizer):
    stop_after(synthesizer, 50.0)
    speech = synthesizer("abc", "anna")
    assert len(speech.waveform) == 2 * 256  # reduction_factor 2
    assert speech.problem == ""


def test_ten_thousand_characters_come_in_pieces_with_pauses(synthesizer):
    stop_after(synthesizer, 50.0)
    text = "This is a sentence. " * 500
    speech = synthesizer(text, "anna")
    pieces = speech.normalized.count(".") // 2  # 58 characters hold two of them
    assert speech.normalized == text.strip()
    silence = round(0.35 * 16_000)
    assert len(speech.waveform) == pieces * 512 + (pieces - 1) * silence


def test_numbers_are_spelled_out_and_removed_characters_are_reported(synthesizer, caplog):
    speech = synthesizer("It cost $5 你 é", "anna")
    assert speech.normalized == "It cost five dollars e"
    assert "你 (1)" in speech.problem
    assert "你 (1)" in caplog.text


@pytest.mark.parametrize("text", ["", "   ", "你好", "😀", "...", "\n"])
def test_an_empty_text_is_an_error_alone_and_a_problem_among_others(synthesizer, text):
    with pytest.raises(UserError, match=r"nothing to speak|the model lacks"):
        synthesizer(text, "anna")
    empty, fine = synthesizer([text, "hello"], "anna")
    assert empty.seconds == 0
    assert empty.problem
    assert fine.seconds > 0


def test_voices(synthesizer, tmp_path):
    anna = synthesizer.voice("anna")
    np.save(tmp_path / "anna.npy", anna.numpy() * 3)
    assert torch.allclose(synthesizer.voice(tmp_path / "anna.npy"), anna)
    assert torch.allclose(synthesizer.voice(anna[None] * 2), anna)
    with pytest.raises(UserError, match="no such voice"):
        synthesizer.voice("carl")
    with pytest.raises(UserError, match=r"(?s)has 2 voices.*anna, bob"):
        synthesizer.voice(None)
    with pytest.raises(UserError, match=r"\(192,\), the model takes \(16,\)"):
        synthesizer.voice(np.ones(192))
    synthesizer.checkpoint.speakers = Speakers({"anna": anna, MEAN: -anna}, 16)
    assert torch.equal(synthesizer.voice(None), -anna)
    synthesizer.checkpoint.speakers = Speakers({"bob": anna}, 16)
    assert torch.equal(synthesizer.voice(None), anna)


def test_a_reference_recording(synthesizer, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "ref.wav", rng.normal(size=16_000) * 0.1, 16_000)
    soundfile.write(tmp_path / "short.wav", rng.normal(size=1_600) * 0.1, 16_000)
    synthesizer.checkpoint.speakers = Speakers({}, 16, "")
    with pytest.raises(UserError, match="--speaker_encoder"):
        synthesizer.voice(tmp_path / "ref.wav")
    synthesizer.checkpoint.speakers = Speakers({}, 16, MelStatistics.name)
    assert synthesizer.voice(tmp_path / "ref.wav").norm().item() == pytest.approx(1)
    with pytest.raises(UserError, match="too short"):
        synthesizer.voice(tmp_path / "short.wav")
    with pytest.raises(UserError, match="no file"):
        synthesizer.voice(tmp_path / "none.wav")


def test_the_command_writes_a_sound_file(tiny_speaker, tmp_path, capsys):
    out = tmp_path / "hello.wav"
    assert main(["synthesize", str(tiny_speaker), "hello", "-o", str(out), "--speaker", "anna"]) == 0
    waveform, rate = soundfile.read(out)
    assert rate == 16_000
    assert len(waveform) > 0
    path, seconds, ending = capsys.readouterr().out.rstrip("\n").split("\t")
    assert (path, seconds) == (str(out), f"{len(waveform) / rate:.2f} s")
    assert re.match("stopped: |cut after ", ending)


def test_the_command_synthesizes_the_lines_of_a_file(tiny_speaker, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("hello\n\n你\nthere\n", encoding="utf-8")
    folder = tmp_path / "out"
    arguments = ["synthesize", str(tiny_speaker), "--lines", str(tmp_path / "lines.txt"), "-o", str(folder)]
    assert main([*arguments, "--speaker", "bob"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["0001.wav", "0003.wav"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hello", "--speaker", "carl"], "no such voice"),
        (["--lines", "none.txt"], "cannot be read"),
        ([], "exactly one of them is needed"),
        (["hello", "--vocoder", "."], "no config.json"),
        (["hello", "--device", "tpu9"], "device tpu9"),
        (["", "--speaker", "anna"], "nothing to speak"),
    ],
)
def test_bad_input_gives_one_line(tiny_speaker, tmp_path, capsys, arguments, message):
    assert main(["synthesize", str(tiny_speaker), *arguments, "-o", str(tmp_path / "x.wav")]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "x.wav").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("weights", "no weights"),
        ("cut", "cannot be loaded"),
        ("tokenizer", "cannot be loaded"),
        ("kind", "does not synthesize speech"),
        ("missing", "weights are missing"),
    ],
)
def test_a_damaged_directory_is_refused(tiny_speaker, tmp_path, damage, message):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_speaker, folder)
    weights = folder / "model.safetensors"
    if damage == "weights":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "tokenizer":
        for path in folder.glob("*spm*"):
            path.write_bytes(b"x")
    elif damage == "kind":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["SpeechT5ForSpeechToText"]}))
    else:
        from safetensors.torch import load_file, save_file

        kept = {k: v for k, v in load_file(weights).items() if "feat_out" not in k}
        save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        load_speech_checkpoint(folder)
