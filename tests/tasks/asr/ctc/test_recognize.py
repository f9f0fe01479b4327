from __future__ import annotations

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.audio.read import probe
from sft_speech.inference import clips as module
from sft_speech.inference.chunking import FrameGrid, cut_chunks
from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint
from sft_speech.tasks.asr.ctc.recognition import Recognition, means, runs
from sft_speech.tasks.asr.ctc.recognize import recognize
from sft_speech.tasks.asr.recognizer import Clip

RATE = 16_000
NORMS = ("wav2vec2-group", "wav2vec2-layer")


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise (S,) whose loudness and color wander, so that frames differ."""
    rng = np.random.default_rng((seed, 7))
    samples = round(seconds * RATE)
    waveform = np.convolve(rng.normal(size=samples), rng.normal(size=32), "same")
    steps = samples // 1600 + 2
    loudness = np.interp(np.arange(samples), 1600 * np.arange(steps), rng.uniform(0.01, 0.2, steps))
    return (waveform * loudness / np.abs(waveform).max()).astype(np.float32)


def clip(seconds: float, seed: int = 0, **more) -> Clip:
    return Clip(noise(seconds, seed), seconds, **more)


def wav(waveform: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def talkative(directory):
    """A random checkpoint that outputs every token now and then; otherwise it would be the same few always."""
    checkpoint = load_checkpoint(directory)
    with torch.no_grad():
        spread, usual = torch.std_mean(checkpoint.model(**checkpoint.features([noise(3.0, 99)])).logits[0], 0)
        head = checkpoint.model.lm_head
        head.weight /= spread[:, None]
        head.bias.copy_((head.bias - usual) / spread)
    return checkpoint


@pytest.fixture(scope="module")
def checkpoints(tiny_directory):
    return {norm: talkative(tiny_directory(norm)) for norm in NORMS}


def alone(checkpoint, one: Clip):
    (recognition,) = recognize(checkpoint, [one])
    return recognition


@pytest.mark.parametrize("norm", NORMS)
def test_results_come_in_the_order_given_and_do_not_depend_on_the_batch(checkpoints, norm):
    clips = [clip(seconds, seed) for seed, seconds in enumerate([0.5, 2.0, 0.2, 3.1, 1.0, 0.7, 2.9, 0.4])]
    batched = list(recognize(checkpoints[norm], clips, max_batch_seconds=7, pool_size=5))  # the last one is not full
    for one, found in zip(clips, batched, strict=True):
        expected = alone(checkpoints[norm], one)
        assert found.text == expected.text != ""
        assert np.array_equal(found.starts, expected.starts)
        assert found.seconds == one.seconds
        assert found.counts.frames == checkpoints[norm].frames(len(one.audio))


def test_loss_is_that_of_transformers(checkpoints):
    checkpoint = checkpoints["wav2vec2-layer"]
    labels = checkpoint.encode("HELLO WORLD")
    pair = [clip(1.5, 1, labels=labels), clip(2.5, 2, labels=checkpoint.encode("A"))]
    found = list(recognize(checkpoint, pair))
    for one, recognition in zip(pair, found, strict=True):
        checkpoint.model.config.ctc_loss_reduction = "sum"
        with torch.no_grad():
            expected = checkpoint.model(**checkpoint.features([one.audio]), labels=torch.tensor([one.labels])).loss
        assert recognition.loss == pytest.approx(float(expected), rel=1e-4)
        assert not recognition.counts.infeasible


def test_labels_that_do_not_fit_have_no_loss_and_are_counted(checkpoints):
    checkpoint = checkpoints["wav2vec2-layer"]
    found = alone(checkpoint, clip(0.1, labels=checkpoint.encode("MUCH TOO LONG A TRANSCRIPT FOR THAT")))
    assert (found.loss, found.counts.infeasible) == (0.0, True)


def test_without_labels_there_is_no_loss(checkpoints):
    assert alone(checkpoints["wav2vec2-layer"], clip(1.0)).loss is None


def test_an_empty_transcript_has_no_loss_to_divide(checkpoints):
    found = list(recognize(checkpoints["wav2vec2-layer"], [clip(1.0, labels=[]), clip(1.0, labels=[5, 6])]))
    assert found[0].loss == 0
    assert found[1].loss > 0


def test_a_clip_too_short_for_a_frame_has_no_text(checkpoints):
    found = list(recognize(checkpoints["wav2vec2-group"], [Clip(noise(1)[:50], 50 / RATE), clip(1.0)]))
    assert (found[0].text, found[0].counts.frames, found[0].seconds) == ("", 0, 50 / RATE)
    assert found[1].text


def test_a_segment_of_a_file_is_that_part_of_it(checkpoints, tmp_path):
    checkpoint, waveform = checkpoints["wav2vec2-group"], noise(3.0)
    soundfile.write(tmp_path / "a.wav", waveform, RATE, subtype="FLOAT")
    found = alone(checkpoint, Clip(str(tmp_path / "a.wav"), 1.2, start=0.8))
    assert found.text == alone(checkpoint, Clip(waveform[round(0.8 * RATE) : 2 * RATE], 1.2)).text
    assert found.seconds == 1.2


@pytest.fixture(scope="module")
def local(tiny_directory):
    """A model that sees 8 frames to either side: no attention, a short positional convolution, no normalization."""
    checkpoint = talkative(tiny_directory("wav2vec2-layer", num_hidden_layers=0))
    checkpoint.feature_extractor.do_normalize = False
    return checkpoint


def test_frames_of_chunks_are_those_of_the_recording(local):
    waveform = noise(8.0)
    grid = FrameGrid.measure(local.frames)

    def logits(part: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return local.model(**local.features([part])).logits[0].numpy()

    whole = logits(waveform)
    chunks = cut_chunks(len(waveform), grid, local.frames, 2 * RATE)
    assert len(chunks) > 3
    for chunk in chunks:
        own = logits(waveform[chunk.start : chunk.stop])
        assert len(own) == chunk.last - chunk.first
        assert np.allclose(own[8:-8], whole[chunk.first + 8 : chunk.last - 8], atol=1e-4)


def test_chunks_give_the_tokens_and_times_of_the_whole(local, tmp_path):
    waveform = noise(20.3)
    soundfile.write(tmp_path / "a.wav", waveform, RATE, subtype="FLOAT")
    clips = [Clip(waveform, 20.3), Clip(str(tmp_path / "a.wav"), 20.3), Clip(str(tmp_path / "a.wav"), 9.7, start=5.5)]
    for one in clips:
        (whole,) = recognize(local, [one], chunk_seconds=60)
        (cut,) = recognize(local, [one], chunk_seconds=3)
        assert cut.text == whole.text
        assert len(set(whole.text)) > 5
        assert np.array_equal(cut.starts, whole.starts)
        assert np.array_equal(cut.ends, whole.ends)
        assert (cut.counts.frames, cut.seconds) == (whole.counts.frames, whole.seconds)


def test_a_long_file_is_never_read_whole(local, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.flac", noise(60.0), RATE)
    longest = []
    read = module.read

    def spy(*args, **more):
        longest.append(len(waveform := read(*args, **more)))
        return waveform

    monkeypatch.setattr(module, "read", spy)
    (found,) = recognize(local, [Clip(str(tmp_path / "long.flac"), 60.0)], chunk_seconds=4)
    assert found.seconds == pytest.approx(60.0)
    assert max(longest) <= 4 * RATE + 400
    assert len(longest) == 20


def test_a_damaged_recording_is_recognized_up_to_the_damage(local):
    waveform = noise(10.0)
    waveform[7 * RATE] = np.nan
    (found,) = recognize(local, [Clip(wav(waveform), 10.0)], chunk_seconds=2)
    (before,) = recognize(local, [Clip(waveform[: 6 * RATE], 6.0)], chunk_seconds=60)
    assert "nothing was read beyond" in found.problem
    assert 5 < found.seconds < 7
    assert found.text[:10] == before.text[:10] != ""


@settings(deadline=None)  # a busy machine is not a failure
@given(st.lists(st.integers(0, 3), max_size=30))
def test_runs_are_the_collapse_with_their_frames(ids):
    tokens, starts, ends = runs(np.array(ids, np.int32), blank=0)
    assert tokens.tolist() == [token for token, _ in itertools.groupby(ids) if token]
    for token, start, end in zip(tokens, starts, ends, strict=True):
        assert set(ids[start:end]) == {token}
        assert start == 0 or ids[start - 1] != token
        assert end == len(ids) or ids[end] != token


def test_runs_are_literal():
    tokens, starts, ends = runs(np.array([0, 5, 5, 0, 5, 6, 0]), blank=0)
    assert (tokens.tolist(), starts.tolist(), ends.tolist()) == ([5, 5, 6], [1, 4, 5], [3, 5, 6])


@pytest.mark.parametrize("family", ["parakeet", "lasr", "granite"])
def test_times_of_words_of_subwords(tiny_directory, family):
    checkpoint = load_checkpoint(tiny_directory(family), log=False)
    vocabulary = checkpoint.vocabulary
    labels = vocabulary.encode("the sing a")
    assert len(labels) == 4
    found = Recognition(
        text="the sing a",
        seconds=0.78,
        tokens=np.array(labels),
        starts=np.array([0, 2, 3, 7]),
        ends=np.array([1, 3, 5, 10]),
        probabilities=np.array([0.5, 0.9, 0.6, 0.8]),
        frame_seconds=0.08,
        vocabulary=vocabulary,
    )
    words, pieces = found.spans()
    assert [word.text for word in words] == found.text.split()
    assert [(word.start, word.end) for word in words] == [(0, 0.08), (0.16, 0.4), (0.56, 0.78)]
    assert [piece.text for piece in pieces] == ["the", " ", "s", "ing", " ", "a"]
    # Means over frames: the second word has one of 0.9 and two of 0.6.
    assert found.word_confidences() == pytest.approx((0.5, 0.7, 0.8))
    assert found.confidence == pytest.approx((0.5 + 0.9 + 2 * 0.6 + 3 * 0.8) / 7)


def test_means_of_stretches():
    assert means(np.array([0.5, 0.7, 0.9, 0.2]), np.array([0, 2]), np.array([2, 3])).tolist() == pytest.approx(
        [0.6, 0.9]
    )
    assert means(np.zeros(0), np.zeros(0, int), np.zeros(0, int)).tolist() == []


@pytest.mark.parametrize("norm", NORMS)
def test_probabilities_are_the_posteriors_of_the_best_path(checkpoints, norm):
    given = [clip(2.0, 1), clip(0.7, 2)]
    for found in recognize(checkpoints[norm], given, scores=True):
        frames = np.exp(found.scores).max(axis=1)
        spans = list(zip(found.starts, found.ends, strict=True))
        assert found.probabilities == pytest.approx([frames[start:end].mean() for start, end in spans], abs=1e-6)
        own = np.concatenate([frames[start:end] for start, end in spans])
        assert found.confidence == pytest.approx(own.mean(), abs=1e-6)
        assert len(found.word_confidences()) == len(found.text.split()) > 1


def test_confidence_does_not_depend_on_the_batch(checkpoints):
    one, others = clip(1.0, 3), [clip(2.0, 4), clip(0.4, 5)]
    checkpoint = checkpoints["wav2vec2-group"]
    found = next(recognize(checkpoint, [one, *others]))
    assert found.word_confidences() == pytest.approx(alone(checkpoint, one).word_confidences(), abs=1e-5)
    empty = alone(checkpoint, Clip(np.zeros(5, np.float32), 5 / RATE))
    assert (empty.confidence, empty.word_confidences()) == (None, ())


def test_every_family_in_batches_and_in_chunks(families, tiny_directory):
    for family in families:
        checkpoint = load_checkpoint(tiny_directory(family), log=False)
        clips = [clip(seconds, seed) for seed, seconds in enumerate([1.0, 6.5, 0.6])]
        batched = list(recognize(checkpoint, clips))
        for one, found in zip(clips, batched, strict=True):
            assert found.text == alone(checkpoint, one).text, family
            assert found.counts.frames == checkpoint.frames(len(one.audio)), family
            assert found.ends[-1] * found.frame_seconds <= one.seconds + 0.1, family
        (cut,) = recognize(checkpoint, [clips[1]], chunk_seconds=2.5)
        assert cut.counts.frames == batched[1].counts.frames, family


@pytest.mark.parametrize("norm", NORMS)
def test_real_speech_alone_in_batches_and_in_any_order(checkpoints, norm):
    data = os.environ.get("SFT_SPEECH_DATA")
    if not data:
        pytest.skip("SFT_SPEECH_DATA names no folder of real speech")
    files = sorted((Path(data) / "LibriSpeech" / "dev-clean").rglob("*.flac"))
    clips = [Clip(str(file), probe(file).seconds) for file in files]
    assert len(clips) > 16
    singly = [found.text for found in recognize(checkpoints[norm], clips, max_batch_seconds=0.1)]
    assert [found.text for found in recognize(checkpoints[norm], clips, max_batch_seconds=200)] == singly
    order = np.random.default_rng(0).permutation(len(clips))
    mixed = recognize(checkpoints[norm], [clips[n] for n in order], max_batch_seconds=100)
    assert [found.text for found in mixed] == [singly[n] for n in order]


def test_words_are_separated_by_one_space(checkpoints, monkeypatch):
    checkpoint = checkpoints["wav2vec2-layer"]
    monkeypatch.setattr(checkpoint, "decode", lambda ids: " A  B ")
    assert alone(checkpoint, clip(1.0)).text == "A B"
