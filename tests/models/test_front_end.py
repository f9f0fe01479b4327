from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    ASTConfig,
    ASTModel,
    MoonshineConfig,
    MoonshineStreamingConfig,
    PreTrainedConfig,
    SeamlessM4TFeatureExtractor,
    Speech2TextConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from sft_speech.errors import UserError
from sft_speech.models.exact.encoders import make_padding_exact
from sft_speech.models.front_end import default_extractor, make_front_end, wants_mask
from sft_speech.models.spec_augment import take_given_masks

FAMILIES = ["wav2vec2-group", "wav2vec2-adapter", "data2vec", "wav2vec2-bert", "wav2vec2-bert-adapter", "conformer"]
FAMILIES += ["parakeet", "lasr", "granite"]


def front_end_of(model):
    return make_front_end(model.config, default_extractor(model.config))


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_are_those_of_the_model(tiny_model, family):
    model = tiny_model(family)
    front_end = front_end_of(model)
    for samples in [front_end.receptive_field, 700, 1000, 1599, 1600, 1601, 2000, 16000, 16379]:
        if samples < front_end.receptive_field:
            continue
        features = front_end.features([np.ones(samples, np.float32)])
        mask = features["attention_mask"]
        frames = front_end.frames(samples)
        count = getattr(model, "_get_feat_extract_output_lengths", None) or model._get_subsampling_output_length
        assert count(mask.sum(-1)).item() == frames
        with torch.no_grad():
            logits = model(**features).logits
        # the last half of a log-mel frame, or the width of a SpecAugment mask, may stand behind the clip
        assert 1 <= frames <= logits.shape[1]
    assert front_end.frames(front_end.receptive_field) == 1
    assert front_end.frames(front_end.receptive_field - 1) == 0
    assert front_end.frames(np.array([10, 1600, 16000])).tolist() == [front_end.frames(n) for n in (10, 1600, 16000)]


def test_published_frame_counts():
    front_end = make_front_end(Wav2Vec2Config(), Wav2Vec2FeatureExtractor())
    assert front_end.receptive_field == 400
    assert [front_end.frames(n) for n in (0, 399, 400, 719, 720, 16000)] == [0, 0, 1, 1, 2, 49]


@pytest.mark.parametrize("normalize", [True, False])
def test_waveforms_are_normalized_as_transformers_does_it_to_each_alone(normalize):
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
    front_end = make_front_end(Wav2Vec2Config(), extractor)
    generator = np.random.default_rng(0)
    clips = [generator.normal(0.3, 2, samples).astype(np.float32) for samples in (9000, 4000, 5001)]
    features = front_end.features(clips)
    assert features["input_values"].dtype == torch.float32
    assert features["attention_mask"].dtype == torch.int64
    assert features["attention_mask"].sum(-1).tolist() == [9000, 4000, 5001]
    for row, clip in zip(features["input_values"], clips, strict=True):
        alone = extractor(clip, sampling_rate=16000, return_tensors="pt")["input_values"][0]
        assert torch.equal(row[: len(clip)], alone)
        assert not row[len(clip) :].any()


def test_log_mel_features_are_those_of_each_clip_alone(tiny_model):
    front_end = front_end_of(tiny_model("wav2vec2-bert"))
    clips = [np.random.default_rng(0).normal(size=samples).astype(np.float32) for samples in (9000, 4000, 5160)]
    features = front_end.features(clips)
    for row, mask, clip in zip(features["input_features"], features["attention_mask"], clips, strict=True):
        alone = SeamlessM4TFeatureExtractor()(clip, sampling_rate=16000, return_tensors="pt")["input_features"][0]
        frames = front_end.frames(len(clip))
        assert mask.sum() == frames
        assert torch.allclose(row[:frames], alone[:frames], atol=1e-5)


@pytest.mark.parametrize("family", ["parakeet", "lasr", "granite"])
def test_subsampled_features_are_those_of_each_clip_alone(tiny_model, family):
    front_end = front_end_of(tiny_model(family))
    clips = [np.random.default_rng(0).normal(size=samples).astype(np.float32) for samples in (9000, 4000, 5160)]
    features = front_end.features(clips)
    for row, mask, clip in zip(features["input_features"], features["attention_mask"], clips, strict=True):
        alone = front_end.extractor(clip, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
        frames = int(alone["attention_mask"].sum())
        assert mask.sum() == mask[:frames].sum() == frames
        assert torch.equal(row[:frames], alone["input_features"][0, :frames])
        assert not row[frames:].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("samples", [0, 1, 100, 401])
def test_very_short_clips_do_not_crash(tiny_model, family, samples):
    model = tiny_model(family, mask_time_prob=0.5, mask_time_length=10).train()
    make_padding_exact(model)
    take_given_masks(model)
    features = front_end_of(model).features([np.full(samples, 0.1, np.float32)])
    assert torch.isfinite(model(**features).logits).all()


def test_mask_by_training():
    assert not wants_mask(Wav2Vec2Config(feat_extract_norm="group"))
    assert wants_mask(Wav2Vec2Config(feat_extract_norm="layer"))


def test_spectrograms_of_one_length_are_padded_or_cut():
    config = WhisperConfig(max_source_positions=100)  # 2 s
    front_end = make_front_end(config, default_extractor(config))
    assert (front_end.rate, front_end.max_samples) == (16000, 32000)
    clips = [np.ones(samples, np.float32) for samples in (0, 16000, 40000)]
    features = front_end.features(clips)
    assert list(features) == ["input_features"]
    assert features["input_features"].shape == (3, 80, 200)
    assert features["input_features"].dtype == torch.float32
    assert front_end.frames(16000) == 100
    assert front_end.frames(np.array([5, 16000])).tolist() == [100, 100]
    config = ASTConfig(max_length=128)
    front_end = make_front_end(config, default_extractor(config))
    features = front_end.features(clips)
    assert features["input_values"].shape == (3, 128, 128)
    assert front_end.max_samples == 128 * 160
    model = ASTModel(ASTConfig(max_length=128, num_hidden_layers=1, hidden_size=16, num_attention_heads=2))
    assert model(features["input_values"]).last_hidden_state.shape[1] == front_end.frames(16000)


def test_a_spectrogram_that_the_model_does_not_take_is_refused():
    with pytest.raises(UserError, match="takes 200 log-mel frames, its feature extractor makes 3000"):
        make_front_end(WhisperConfig(max_source_positions=100), WhisperFeatureExtractor())


def test_an_unknown_family_gets_what_its_extractor_makes():
    class NewConfig(PreTrainedConfig):
        model_type = "another-one-never-seen"

    front_end = make_front_end(NewConfig(), Wav2Vec2FeatureExtractor(return_attention_mask=True))
    features = front_end.features([np.ones(30, np.float32), np.ones(50, np.float32)])
    assert features["input_values"].shape == (2, 50)
    assert features["attention_mask"].sum(-1).tolist() == [30, 50]
    with pytest.raises(UserError, match="the number of frames that it makes of a clip is unknown"):
        front_end.frames(50)


def test_models_without_a_known_frame_count_are_refused():
    with pytest.raises(UserError, match="whisper model"):
        make_front_end(WhisperConfig(), Wav2Vec2FeatureExtractor())
    with pytest.raises(UserError, match="it takes a Wav2Vec2FeatureExtractor"):
        make_front_end(Wav2Vec2Config(), SeamlessM4TFeatureExtractor())


def test_a_library_that_is_not_installed(monkeypatch):
    def missing(**options):
        raise ImportError("GraniteSpeech5FeatureExtractor requires the torchaudio library")

    monkeypatch.setattr(transformers, "GraniteSpeech5FeatureExtractor", missing)
    with pytest.raises(UserError, match=r"needs torchaudio\.\n-> .*pip install 'sft_speech\[lm\]'"):
        default_extractor(transformers.GraniteSpeech5CTCConfig())


def test_frames_of_moonshine():
    """A frame spans 895 samples, and the next begins 384 samples later."""
    front_end = make_front_end(MoonshineConfig(), default_extractor(MoonshineConfig()))
    assert front_end.receptive_field == 895
    assert front_end.frames(np.array([0, 894, 895, 1278, 1279, 16000])).tolist() == [0, 0, 1, 1, 2, 40]
    made = front_end.features([np.ones(1000, np.float32), np.ones(3, np.float32)])
    assert made["attention_mask"].sum(-1).tolist() == [1000, 895]
    assert made["input_values"].sum(-1).tolist() == [1000, 3]  # not normalized


def test_frames_of_moonshine_streaming():
    """Blocks of 80 samples, halved twice; the last block is padded."""
    config = MoonshineStreamingConfig()
    front_end = make_front_end(config, default_extractor(config))
    assert front_end.receptive_field == 80
    assert front_end.frames(np.array([0, 79, 80, 320, 321, 16000])).tolist() == [0, 0, 1, 1, 2, 50]
    assert isinstance(front_end.frames(1000), int)
    made = front_end.features([np.ones(1000, np.float32), np.ones(3, np.float32)])
    assert made["input_values"].shape == (2, 1040)
    assert made["attention_mask"].sum(-1).tolist() == [1000, 80]


def test_filter_banks_of_speech2text():
    """Frames of 25 ms every 10 ms, halved twice, normalized over the clip."""
    config = Speech2TextConfig()
    front_end = make_front_end(config, default_extractor(config))
    assert front_end.receptive_field == 400
    assert front_end.frames(np.array([0, 399, 400, 880, 1040, 16000])).tolist() == [0, 0, 1, 1, 2, 25]
    generator = np.random.default_rng(0)
    made = front_end.features([generator.normal(size=size).astype(np.float32) for size in (4000, 1040)])
    assert made["input_features"].shape == (2, 23, 80)
    assert made["attention_mask"].sum(-1).tolist() == [23, 5]
    for features, own in zip(made["input_features"], (23, 5), strict=True):
        assert torch.allclose(features[:own].mean(0), torch.zeros(80), atol=1e-5)
        assert torch.allclose(features[:own].std(0, correction=0), torch.ones(80), atol=1e-4)
        assert not features[own:].any()


def test_silence_has_no_variance_to_divide_by():
    config = Speech2TextConfig()
    front_end = make_front_end(config, default_extractor(config))
    assert front_end.features([np.zeros(8000, np.float32), np.zeros(10, np.float32)])["input_features"].isfinite().all()
