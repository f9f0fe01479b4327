from __future__ import annotations

import dataclasses
import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from sft_speech.audio.read import AudioError, probe
from sft_speech.errors import UserError
from sft_speech.tasks.asr.generation import Generation
from sft_speech.tasks.asr.recognizer import Clip
from sft_speech.tasks.asr.seq2seq import write
from sft_speech.tasks.asr.seq2seq.checkpoint import Checkpoint, load_checkpoint
from sft_speech.tasks.asr.seq2seq.processors import LengthBound
from sft_speech.tasks.asr.seq2seq.recognition import Writing

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise (S,) whose loudness and color wander."""
    rng = np.random.default_rng((seed, 11))
    samples = round(seconds * RATE)
    waveform = np.convolve(rng.normal(size=samples), rng.normal(size=32), "same")
    steps = samples // 1600 + 2
    loudness = np.interp(np.arange(samples), 1600 * np.arange(steps), rng.uniform(0.01, 0.2, steps))
    return (waveform * loudness / np.abs(waveform).max()).astype(np.float32)


def clip(seconds: float, seed: int = 0, **more) -> Clip:
    return Clip(noise(seconds, seed), seconds, **more)


CLIPS = [clip(seconds, seed) for seed, seconds in enumerate([0.5, 2.0, 0.2, 3.1, 1.0])]


def alone(checkpoint: Checkpoint, one: Clip, **options) -> Writing:
    (found,) = checkpoint.recognize([one], **options)
    assert isinstance(found, Writing)
    return found


@pytest.fixture(scope="module")
def english(tiny_seq2seq) -> Checkpoint:
    return load_checkpoint(tiny_seq2seq("whisper-en"))


@pytest.fixture(scope="module")
def multilingual(tiny_seq2seq) -> Checkpoint:
    return load_checkpoint(tiny_seq2seq("whisper"))


@pytest.mark.parametrize(
    ("kind", "own_length"), [("whisper", False), ("whisper", True), ("moonshine", False), ("speech2text", False)]
)
@pytest.mark.parametrize("generation", [Generation(times=True), Generation(num_beams=3)], ids=["greedy", "beams"])
def test_results_do_not_depend_on_the_batch(tiny_seq2seq, kind: str, generation: Generation, own_length: bool) -> None:
    loaded = load_checkpoint(tiny_seq2seq(kind))
    checkpoint = dataclasses.replace(loaded, own_length=own_length).with_generation(generation)
    labels = checkpoint.encode("the cat")
    given = [dataclasses.replace(one, labels=labels) for one in CLIPS]
    together = list(checkpoint.recognize(given, max_batch_seconds=100))
    assert len({one.text for one in together}) > 2
    for one, found in zip(given, together, strict=True):
        expected = alone(checkpoint, one)
        assert (found.text, found.language, found.seconds) == (expected.text, expected.language, one.seconds)
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
        assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
        assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-5)
        assert found.loss == pytest.approx(expected.loss, rel=1e-4)
        assert [span.text for span in found.spans()[0]] == [span.text for span in expected.spans()[0]]
        assert [span.start for span in found.spans()[1]] == pytest.approx(
            [span.start for span in expected.spans()[1]], abs=1e-3
        )


@pytest.mark.parametrize("beams", [1, 3])
def test_text_is_that_of_transformers(tiny_seq2seq, english: Checkpoint, beams: int) -> None:
    from transformers import WhisperForConditionalGeneration

    plain = WhisperForConditionalGeneration.from_pretrained(tiny_seq2seq("whisper-en")).eval()
    prefix, end = english.transcripts.prefix(), english.transcripts.end
    for one in (CLIPS[0], CLIPS[2]):
        found = alone(english.with_generation(Generation(num_beams=beams)), one)
        features = english.features([one.audio])["input_features"]
        bound = LengthBound(len(prefix), torch.tensor([int(24 + 24 * one.seconds)]), end, beams)
        made = plain.generate(
            features, num_beams=beams, logits_processor=LogitsProcessorList([bound]), return_dict_in_generate=True
        )
        assert made.sequences[0].tolist() == [*prefix, *found.tokens.tolist(), end]


@pytest.mark.parametrize("beams", [1, 3])
def test_log_probabilities_are_those_of_the_model(english: Checkpoint, beams: int) -> None:
    found = alone(english.with_generation(Generation(num_beams=beams)), CLIPS[1])
    prefix = english.transcripts.prefix()
    ids = torch.tensor([[*prefix, *found.tokens.tolist(), english.transcripts.end]])
    features = english.features([CLIPS[1].audio])
    with torch.no_grad():
        logits = english.model(**features, decoder_input_ids=ids[:, :-1]).logits[0, len(prefix) - 1 :]
    expected = logits.log_softmax(-1).gather(1, ids[0, len(prefix) :, None])[:, 0]
    assert found.logprobs[1:] == pytest.approx(expected[1:-1].tolist(), abs=1e-4)  # the end is forbidden at first
    assert len(found.logprobs) == len(found.tokens) > 1


def test_loss_is_that_of_transformers(multilingual: Checkpoint) -> None:
    labels = multilingual.encode("the cat sat")
    given = clip(1.5, 1, labels=labels, language="de")
    found = alone(multilingual, given)
    prefix = multilingual.transcripts.prefix("de")
    ids = torch.tensor([[*prefix, *labels]])
    targets = torch.full_like(ids[:, 1:], -100)
    targets[:, len(prefix) - 1 :] = torch.tensor(labels)
    with torch.no_grad():
        features = multilingual.features([given.audio])
        expected = multilingual.model(**features, decoder_input_ids=ids[:, :-1], labels=targets).loss
    assert found.loss == pytest.approx(float(expected) * len(labels), rel=1e-4)
    assert found.language == "de"
    assert alone(multilingual, clip(1.0)).loss is None


def test_an_empty_transcript_and_one_too_long_have_a_loss(english: Checkpoint) -> None:
    labels = english.encode("a" * 200)
    assert math.isfinite(alone(english, clip(1.0, labels=labels)).loss)
    assert math.isfinite(alone(english, clip(1.0, labels=english.encode(""))).loss)


def test_the_language_is_detected_unless_it_is_known(multilingual: Checkpoint) -> None:
    assert multilingual.transcripts.language is None
    features = multilingual.features([CLIPS[1].audio])
    detected = int(multilingual.model.detect_language(features["input_features"]))
    found = alone(multilingual, CLIPS[1])
    assert multilingual.transcripts.languages[found.language] == detected
    given = multilingual.with_generation(Generation(language="German"))
    assert alone(given, CLIPS[1]).language == "de"
    assert alone(multilingual, dataclasses.replace(CLIPS[1], language="es")).language == "es"


def test_task_and_prompt_change_what_is_written(multilingual: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = []
    made = write.Writer.written

    def watched(self, prefix, *others):
        prefixes.append(self.transcripts.tokenizer.convert_ids_to_tokens(prefix))
        return made(self, prefix, *others)

    monkeypatch.setattr(write.Writer, "written", watched)
    german = Generation(language="de", task="translate", prompt="the the")
    alone(multilingual.with_generation(german), CLIPS[1])
    before = ["<|startofprev|>", "Ġthe", "Ġthe"]
    assert prefixes == [[*before, "<|startoftranscript|>", "<|de|>", "<|translate|>", "<|notimestamps|>"]]


def test_a_translation_is_english_whatever_is_spoken(multilingual: Checkpoint) -> None:
    """Its windows are joined with spaces, and its words are separated by them, unlike those of Chinese."""
    chinese = multilingual.with_generation(Generation(language="zh"))
    english = multilingual.with_generation(Generation(language="zh", task="translate"))
    assert (chinese.language, chinese.default_normalizer) == ("zh", "basic")
    assert (english.language, english.default_normalizer) == ("en", "whisper")
    for checkpoint, joint in ((chinese, ""), (english, " ")):
        found = alone(checkpoint, clip(70.0))
        texts = [segment.text for segment in found.segments if segment.text]
        assert len(texts) > 1
        assert found.text == joint.join(texts)
        assert {segment.language for segment in found.segments} == {"zh"}
        assert {segment.spaced for segment in found.segments} == {joint == " "}


def test_a_prompt_is_cut_to_half_of_the_decoder(english: Checkpoint) -> None:
    found = alone(english.with_generation(Generation(prompt="x" * 500)), CLIPS[1])
    assert found.text


def test_a_text_ends_where_no_speech_can_be_that_long(english: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "TOKENS", 2)
    monkeypatch.setattr(write, "TOKENS_PER_SECOND", 4.0)
    bias = torch.zeros(english.model.config.vocab_size)
    bias[english.transcripts.end] = -1e4  # it never ends
    handle = english.model.proj_out.register_forward_hook(lambda module, args, logits: logits + bias)
    try:
        found = list(english.recognize(CLIPS))
    finally:
        handle.remove()
    assert [len(one.tokens) for one in found] == [4, 10, 2, 14, 6]
    counts = sum((one.counts for one in found), start=type(found[0].counts)())
    assert (counts.windows, counts.cut, counts.tokens) == (5, 5, 36)
    assert "did not end" in counts.warning(0.0)
    assert counts.figures()["endless"] == 5


def test_silence_has_no_text(english: Checkpoint) -> None:
    found = alone(english, Clip(np.full(RATE, 1e-5, np.float32), 1.0))
    assert (found.text, found.seconds, found.spans(), len(found.tokens)) == ("", 1.0, ((), ()), 0)
    assert found.counts.silent == 1


def test_what_the_model_takes_for_no_speech_has_no_text(english: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert alone(english, CLIPS[1]).text
    monkeypatch.setattr(write, "NO_SPEECH", -1.0)
    monkeypatch.setattr(write, "LOWEST_LOGPROB", 0.0)
    found = alone(english.with_generation(Generation(times=True)), CLIPS[1])
    assert (found.text, found.spans()) == ("", ((), ()))
    assert len(found.tokens)


def test_doubtful_texts_are_sampled_and_do_not_depend_on_the_batch(
    english: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = [one.text for one in english.recognize(CLIPS)]
    monkeypatch.setattr(write, "NO_SPEECH", 2.0)
    monkeypatch.setattr(write, "LOWEST_LOGPROB", 0.0)
    sampling = english.with_generation(Generation(temperature_fallback=True))
    found = list(sampling.recognize(CLIPS))
    assert [one.segments[0].temperature for one in found] == [1.0] * 5
    assert [one.text for one in found] != greedy
    assert found[0].counts.retried == 1
    for one, together in zip(CLIPS, found, strict=True):
        assert alone(sampling, one).text == together.text
    monkeypatch.setattr(write, "LOWEST_LOGPROB", -100.0)
    monkeypatch.setattr(write, "HIGHEST_COMPRESSION_RATIO", 100.0)
    assert [one.text for one in sampling.recognize(CLIPS)] == greedy


def test_long_recordings_are_cut_into_windows(english: Checkpoint) -> None:
    timed = english.with_generation(Generation(times=True))
    waveform = noise(9.0)
    found = alone(timed, Clip(waveform, 9.0), chunk_seconds=4)
    assert len(found.segments) == 3
    at = [round(segment.start * RATE) for segment in found.segments] + [len(waveform)]
    parts = [alone(timed, Clip(waveform[a:b], (b - a) / RATE)) for a, b in pairwise(at)]
    assert found.text == " ".join(part.text for part in parts)
    assert found.seconds == 9.0
    words, characters = found.spans()
    assert [word.text for word in words] == found.text.split()
    assert "".join(one.text for one in characters) == found.text
    for spans in (words, characters):
        assert all(0 <= one.start <= one.end <= 9.0 for one in spans)
        assert all(one.end <= following.start + 1e-6 for one, following in pairwise(spans))


def test_a_damaged_recording_is_recognized_up_to_the_damage(english: Checkpoint, tmp_path: Path) -> None:
    import soundfile

    waveform = noise(9.0)
    waveform[7 * RATE] = np.nan
    soundfile.write(tmp_path / "a.wav", waveform, RATE, subtype="FLOAT")
    found = alone(english, Clip(str(tmp_path / "a.wav"), 9.0), chunk_seconds=3)
    assert "nothing was read beyond" in found.problem
    assert 3 < found.seconds < 7
    (missing,) = english.recognize([Clip("/nowhere/a.wav", 40.0)])
    assert isinstance(missing, AudioError)


def test_times_are_left_out_unless_they_are_wanted(english: Checkpoint) -> None:
    assert alone(english, CLIPS[1]).spans() == ((), ())


def test_the_model_keeps_its_attention_and_mode(english: Checkpoint) -> None:
    english.model.train()
    try:
        before = english.model.config._attn_implementation
        list(english.with_generation(Generation(times=True)).recognize(CLIPS[:2]))
        assert english.model.training
        assert english.model.config._attn_implementation == before
    finally:
        english.model.eval()


@pytest.mark.parametrize(
    ("generation", "problem"),
    [
        (Generation(language="de"), "writes only English"),
        (Generation(task="translate"), "only transcribes"),
    ],
)
def test_an_english_model_refuses_other_languages(english: Checkpoint, generation: Generation, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        english.with_generation(generation)
    assert english.with_generation(Generation(language="English", num_beams=2)).generation.num_beams == 2


def test_a_language_that_the_model_lacks_is_refused(multilingual: Checkpoint) -> None:
    with pytest.raises(UserError, match="choose one of de, en, es, zh"):
        multilingual.with_generation(Generation(language="fr"))


@pytest.fixture(scope="module")
def whisper() -> Checkpoint:
    folder = os.environ.get("SFT_SPEECH_WHISPER")
    if not folder or not os.environ.get("SFT_SPEECH_DATA"):
        pytest.skip("SFT_SPEECH_WHISPER or SFT_SPEECH_DATA is not set")
    return load_checkpoint(folder)


def test_a_real_whisper_writes_what_the_pipeline_writes(whisper: Checkpoint) -> None:
    import soundfile
    from transformers import pipeline

    files = sorted((Path(os.environ["SFT_SPEECH_DATA"]) / "LibriSpeech" / "dev-clean").rglob("*.flac"))
    files = sorted(files, key=lambda file: probe(file).seconds)[:2]
    plain = pipeline("automatic-speech-recognition", os.environ["SFT_SPEECH_WHISPER"], device="cpu")
    timed = whisper.with_generation(Generation(times=True, num_beams=5))  # as the pipeline
    for file, found in zip(files, timed.recognize([Clip(str(f), probe(f).seconds) for f in files]), strict=True):
        waveform, rate = soundfile.read(file, dtype="float32")
        assert found.text == plain({"raw": waveform, "sampling_rate": rate})["text"].strip() != ""
        words = found.spans()[0]
        assert [word.text for word in words] == found.text.split()
        voiced = np.flatnonzero(np.abs(waveform) > 0.05) / rate
        assert words[0].start == pytest.approx(voiced[0], abs=0.35)
        assert words[-1].end == pytest.approx(voiced[-1], abs=0.35)
