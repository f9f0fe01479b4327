"""Every family of sequence-to-sequence recognizers: exact in any batch, and plain when it is saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft_speech.errors import UserError
from sft_speech.models.spec_augment import SpecAugment
from sft_speech.tasks import task_of
from sft_speech.tasks.asr.generation import Generation
from sft_speech.tasks.asr.loading import architecture_of
from sft_speech.tasks.asr.recognizer import Clip
from sft_speech.tasks.asr.seq2seq.checkpoint import Checkpoint, load_checkpoint
from sft_speech.tasks.asr.seq2seq.collator import Seq2SeqCollator
from sft_speech.tasks.asr.seq2seq.loss import Seq2SeqCriterion

ANY_LENGTH = ["moonshine", "moonshine-streaming", "speech2text"]
KINDS = ["whisper", *ANY_LENGTH]
SAVED = ["whisper-en", "speech2text-many", *KINDS]
LENGTHS = [16123, 30000, 9999, 900, 20111]
TEXTS = ["one", "twenty two of them", "a", "b c", "the end"]


@pytest.fixture
def load(tiny_seq2seq: Callable[..., Path]) -> Callable[..., Checkpoint]:
    """`load(kind, **config)` loads such a recognizer, which writes German if it writes several languages."""

    def loaded(kind: str, **changes: Any) -> Checkpoint:
        language = "de" if kind in {"whisper", "speech2text-many"} else None
        checkpoint = load_checkpoint(tiny_seq2seq(kind, **changes), language=language)
        checkpoint.train_on(own_length=True)
        return checkpoint

    return loaded


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    tones = [np.sin(np.arange(length) * generator.uniform(0.04, 1)) for length in LENGTHS]
    return [(0.3 * tone + generator.normal(0, 0.1, len(tone))).astype(np.float32) for tone in tones]


def outputs(checkpoint: Checkpoint, clips: list[np.ndarray], rows: slice = slice(None)) -> torch.Tensor:
    tokens = torch.randint(5, 50, (len(LENGTHS), 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return checkpoint.model(**checkpoint.features(clips), decoder_input_ids=tokens[rows]).logits


@pytest.mark.parametrize("kind", KINDS)
def test_logits_do_not_depend_on_neighbors(load: Callable[..., Checkpoint], clips: list[np.ndarray], kind: str) -> None:
    checkpoint = load(kind)
    together = outputs(checkpoint, clips)
    for row, clip in enumerate(clips):
        alone = outputs(checkpoint, [clip], slice(row, row + 1))[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ANY_LENGTH)
def test_a_clip_alone_gives_what_it_gives_in_transformers(
    load: Callable[..., Checkpoint], tiny_seq2seq: Callable[..., Path], clips: list[np.ndarray], kind: str
) -> None:
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    checkpoint, folder = load(kind), tiny_seq2seq(kind)
    plain, processor = AutoModelForSpeechSeq2Seq.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    together = outputs(checkpoint, clips)
    for row, clip in enumerate(clips):
        inputs = processor(clip, sampling_rate=16000, return_tensors="pt")
        made = checkpoint.features([clip])
        assert inputs.keys() == made.keys()
        torch.testing.assert_close(made, {name: inputs[name].to(made[name].dtype) for name in made})
        tokens = torch.randint(5, 50, (len(LENGTHS), 7), generator=torch.Generator().manual_seed(2))[row : row + 1]
        with torch.no_grad():
            torch.testing.assert_close(
                plain(**inputs, decoder_input_ids=tokens).logits[0], together[row], rtol=1e-4, atol=1e-4
            )
            encoded = plain.get_encoder()(**inputs).last_hidden_state
        assert checkpoint.front_end.frames(len(clip)) == encoded.shape[1]


@pytest.mark.parametrize("kind", ANY_LENGTH)
def test_in_plain_transformers_a_clip_depends_on_its_neighbors(
    load: Callable[..., Checkpoint], tiny_seq2seq: Callable[..., Path], clips: list[np.ndarray], kind: str
) -> None:
    """Otherwise the tests above would show nothing."""
    from transformers import AutoModelForSpeechSeq2Seq

    checkpoint = load(kind)
    exact = outputs(checkpoint, clips)
    checkpoint.model = AutoModelForSpeechSeq2Seq.from_pretrained(tiny_seq2seq(kind))
    assert (outputs(checkpoint, clips) - exact).abs().max() > 0.01


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", ANY_LENGTH)
def test_generated_tokens_do_not_depend_on_neighbors(
    load: Callable[..., Checkpoint], clips: list[np.ndarray], kind: str, beams: int
) -> None:
    """With a cache, in which the mask of the encoder's frames has to stay."""
    checkpoint = load(kind)
    prefix = checkpoint.transcripts.prefix()

    def written(clips: list[np.ndarray]) -> list[str]:
        tokens = checkpoint.model.generate(
            **checkpoint.features(clips),
            decoder_input_ids=torch.tensor([prefix] * len(clips)),
            num_beams=beams,
            max_new_tokens=12,
        )
        return [checkpoint.transcripts.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]

    together = written(clips)
    assert len(set(together)) > 2
    assert together == [written([clip])[0] for clip in clips]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", ["moonshine", "moonshine-streaming", "speech2text-many"])
def test_transcripts_do_not_depend_on_neighbors(
    load: Callable[..., Checkpoint], clips: list[np.ndarray], kind: str, beams: int
) -> None:
    moonshine = kind == "moonshine"
    checkpoint = load(kind, **({"max_position_embeddings": 24} if moonshine else {}))
    again = moonshine and beams == 1
    checkpoint = checkpoint.with_generation(Generation(num_beams=beams, temperature_fallback=again, times=True))
    labels = checkpoint.encode("the end")

    def transcribed(own: list[np.ndarray]) -> list[Any]:
        found = checkpoint.recognize([Clip(clip, len(clip) / 16000, labels=labels) for clip in own])
        return [(one.text, one.loss, [word.end for word in one.spans()[0]]) for one in found]

    together = transcribed(clips)
    assert len({text for text, *_ in together}) > 2
    for clip, (text, loss, ends) in list(zip(clips, together, strict=True))[2:4]:
        [(own_text, own_loss, own_ends)] = transcribed([clip])
        assert text == own_text
        assert loss == pytest.approx(own_loss, rel=1e-4)
        assert ends == pytest.approx(own_ends, abs=0.05)
        assert all(0 <= end <= len(clip) / 16000 for end in ends)


@pytest.mark.parametrize("kind", ANY_LENGTH)
def test_greedy_transcripts_are_those_of_generate(
    load: Callable[..., Checkpoint], clips: list[np.ndarray], kind: str
) -> None:
    checkpoint = load(kind)
    clips = clips[2:4]
    results = checkpoint.recognize([Clip(clip, len(clip) / 16000) for clip in clips])
    for found, clip in zip(results, clips, strict=True):
        most = min(int(24 + 24 * len(clip) / 16000), checkpoint.max_labels - 1)
        tokens = checkpoint.model.generate(
            **checkpoint.features([clip]),
            decoder_input_ids=torch.tensor([checkpoint.transcripts.prefix()]),
            max_new_tokens=most,
            num_beams=1,
        )
        text = checkpoint.transcripts.decode(tokens[0].tolist())
        assert found.text == text


def gradients(checkpoint: Checkpoint, batches: list[list[dict[str, Any]]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the summed loss of batches and its gradients."""
    checkpoint.model.train().zero_grad()
    collate, criterion, total = Seq2SeqCollator(checkpoint), Seq2SeqCriterion(), 0.0
    for batch in batches:
        loss = criterion.loss(checkpoint.model, collate(list(batch))).total
        loss.backward()
        total += loss.item()
    found = {name: one.grad for name, one in checkpoint.model.named_parameters() if one.grad is not None}
    return total, {name: gradient.clone() for name, gradient in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_equal_under_any_split(
    load: Callable[..., Checkpoint], clips: list[np.ndarray], kind: str
) -> None:
    checkpoint = load(kind)
    prefix, encode = checkpoint.transcripts.prefix(), checkpoint.encode
    rows = [
        {"waveform": clip, "prefix": prefix, "labels": encode(text)} for clip, text in zip(clips, TEXTS, strict=True)
    ]
    loss, whole = gradients(checkpoint, [rows])
    frozen = {name for name, one in checkpoint.model.named_parameters() if not one.requires_grad}
    assert whole.keys() | frozen == dict(checkpoint.model.named_parameters()).keys()
    for split in ([rows[:2], rows[2:]], [[row] for row in rows]):
        total, parts = gradients(checkpoint, split)
        assert total == pytest.approx(loss, rel=1e-5)
        size = torch.stack([gradient.norm() for gradient in whole.values()]).norm()
        apart = torch.stack([(parts[name] - gradient).norm() for name, gradient in whole.items()]).norm()
        assert apart < 1e-4 * size


@pytest.mark.parametrize("kind", SAVED)
def test_it_is_saved_as_transformers_loads_it(
    load: Callable[..., Checkpoint], clips: list[np.ndarray], tmp_path: Path, kind: str
) -> None:
    """Its pipeline writes what the tokens of our model say, in the language that was set."""
    from transformers import pipeline

    checkpoint = load(kind)
    checkpoint.train_on(own_length=False)
    checkpoint.save(tmp_path)
    assert task_of(tmp_path).name == "asr"
    assert architecture_of(str(tmp_path), None, False) == ("sft_speech.tasks.asr.seq2seq", "Seq2SeqRecognition")
    clip, prefix = clips[0][:16000], checkpoint.transcripts.prefix()
    whisper = kind.startswith("whisper")
    tokens = checkpoint.model.generate(
        **checkpoint.features([clip]),
        **({} if whisper else {"decoder_input_ids": torch.tensor([prefix])}),
        max_new_tokens=12,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = pipeline("automatic-speech-recognition", str(tmp_path))
        tokens_in_all = 12 if whisper else 11 + len(prefix)  # it generates the token of the language
        text = plain(clip.copy(), generate_kwargs={"max_new_tokens": tokens_in_all, "num_beams": 1})["text"]
    assert text.strip()
    assert " ".join(text.split()) == checkpoint.transcripts.decode(tokens[0].tolist())


@pytest.mark.parametrize("kind", SAVED)
def test_it_is_loaded_back_as_it_was(load: Callable[..., Checkpoint], tmp_path: Path, kind: str) -> None:
    checkpoint = load(kind)
    checkpoint.save(tmp_path)
    again = load_checkpoint(tmp_path)
    assert not again.new_weights
    assert again.transcripts.prefix() == checkpoint.transcripts.prefix()
    assert again.encode("the cat") == checkpoint.encode("the cat")
    assert again.transcripts.decode(again.encode("the cat")) == "the cat"
    assert again.own_length == kind.startswith("whisper")
    for name, weight in checkpoint.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight)


@pytest.mark.parametrize("kind", ANY_LENGTH)
def test_clips_that_are_short_or_silent_give_numbers(load: Callable[..., Checkpoint], kind: str) -> None:
    checkpoint = load(kind)
    clips = [np.zeros(16000, np.float32), np.ones(1, np.float32), np.zeros(0, np.float32)]
    assert [checkpoint.front_end.frames(len(clip)) for clip in clips[1:]] == [0, 0]
    assert outputs(checkpoint, clips, slice(3)).isfinite().all()


def test_speech2text_spells_what_its_letters_allow(load: Callable[..., Checkpoint]) -> None:
    """What they lack is counted, not learned as <unk>."""
    transcripts = load("speech2text").transcripts
    text, missing, *_ = transcripts.normalizer("It’s the Café: Ж Ж")
    assert (text, missing) == ("it's the cafe", {"ж": 2})
    assert transcripts.decode(transcripts.encode(text)) == "it's the cafe"
    assert transcripts.tokenizer.unk_token_id not in transcripts.encode(text)


def test_moonshine_writes_text_as_it_is(load: Callable[..., Checkpoint]) -> None:
    transcripts = load("moonshine").transcripts
    text, missing, *_ = transcripts.normalizer(" It’s  the Café: Ж")
    assert (text, missing) == ("It’s the Café: Ж", {})
    assert transcripts.decode(transcripts.encode(text)) == text
    assert transcripts.prefix() == [1]
    assert transcripts.encode("a")[-1] == 2


def test_speech2text_of_many_languages_writes_the_one_that_is_set(
    tiny_seq2seq: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_seq2seq("speech2text-many")
    checkpoint = load_checkpoint(folder, language="french")
    assert checkpoint.transcripts.prefix() == [2, checkpoint.transcripts.languages["fr"]]
    assert checkpoint.transcripts.prefix("it") == [2, checkpoint.transcripts.languages["it"]]
    checkpoint.save(tmp_path)
    assert load_checkpoint(tmp_path).transcripts.language == "fr"
    with pytest.raises(UserError, match="no token for it"):
        load_checkpoint(folder, language="ja")
    with pytest.raises(UserError, match="set it, for example `language: de`"):
        load_checkpoint(folder).transcripts.prefix()


def test_the_input_of_speech2text_is_masked(tiny_seq2seq: Callable[..., Path], clips: list[np.ndarray]) -> None:
    overrides = {"mask_time_prob": 0.4, "mask_time_length": 5, "mask_feature_prob": 0.2, "mask_feature_length": 2}
    checkpoint = load_checkpoint(tiny_seq2seq("speech2text"), overrides=overrides)
    draw = SpecAugment(checkpoint.model.config, checkpoint.front_end.masked_frames, seed=0)
    rows = [{"waveform": clip, "prefix": [2], "labels": [5, 2], "masks": draw(len(clip), 0, 0)} for clip in clips]
    batch = Seq2SeqCollator(checkpoint)(list(rows))
    frames = checkpoint.features(clips)["input_features"]
    for row, (made, own) in enumerate(zip(batch["input_features"], frames, strict=True)):
        time, channels = map(torch.from_numpy, rows[row]["masks"])
        assert time.any() == (len(time) >= 5)
        assert not made[: len(time)][time].any()
        assert not made[:, channels].any()
        kept = own[: len(time)][~time][:, ~channels]
        assert torch.equal(made[: len(time)][~time][:, ~channels], kept)


@pytest.mark.parametrize("kind", ["moonshine", "speech2text"])
def test_the_language_is_kept(tiny_seq2seq: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    checkpoint = load_checkpoint(tiny_seq2seq(kind), language="German")
    checkpoint.save(tmp_path)
    assert load_checkpoint(tmp_path).language == "de"
    assert load_checkpoint(tiny_seq2seq(kind)).language is None
    assert checkpoint.default_normalizer == ("basic" if kind == "moonshine" else "checkpoint")


def test_a_moonshine_without_a_padding_token_gets_one(tiny_seq2seq: Callable[..., Path]) -> None:
    checkpoint = load_checkpoint(tiny_seq2seq("moonshine", pad_token_id=None))
    settings: Any = checkpoint.model.generation_config
    assert (settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 2)
    assert checkpoint.max_labels == 64
