"""Models of faster-whisper become transformers directories, or are refused with one line."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_ctranslate2 as tiny
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.models.ctranslate2 import read_arrays
from sft_speech.tools.import_ctranslate2 import import_whisper


@pytest.fixture(scope="module")
def model() -> WhisperForConditionalGeneration:
    return tiny.whisper()


@pytest.fixture
def folder(tmp_path: Path, model: WhisperForConditionalGeneration) -> Path:
    tiny.write_folder(tmp_path / "source", model)
    return tmp_path / "source"


def same(found: torch.nn.Module, wanted: torch.nn.Module, dtype: torch.dtype = torch.float32) -> bool:
    one, other = found.state_dict(), wanted.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key].to(dtype).float()) for key in one)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_the_weights_are_those_of_the_original(tmp_path, model, kind):
    tiny.write_folder(tmp_path / "source", model, kind=kind)
    line = import_whisper(tmp_path / "source", tmp_path / "out")
    assert line.endswith(f"(2 + 3 layers, 2 languages), read from {kind}")
    found = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert found.dtype == torch.float32
    assert same(found, model, getattr(torch, kind))
    assert found.proj_out.weight is found.model.decoder.embed_tokens.weight
    if kind == "float32":
        mels, ids = torch.randn(1, 80, 100), torch.tensor([[257, 4, 9]])
        with torch.no_grad():
            logits = [one(input_features=mels, decoder_input_ids=ids).logits for one in (found, model)]
        torch.testing.assert_close(*logits)


def test_a_multilingual_model_is_complete(tmp_path, folder):
    import_whisper(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    config = model.config
    assert (config.d_model, config.encoder_layers, config.decoder_layers) == (8, 2, 3)
    assert (config.encoder_ffn_dim, config.decoder_ffn_dim) == (12, 16)
    assert (config.encoder_attention_heads, config.decoder_attention_heads) == (2, 4)
    assert (config.max_source_positions, config.max_target_positions, config.num_mel_bins) == (50, 20, 80)
    assert (config.vocab_size, config.eos_token_id, config.decoder_start_token_id) == (271, 258, 259)
    generation = model.generation_config
    assert (generation.eos_token_id, generation.pad_token_id, generation.decoder_start_token_id) == (258, 258, 259)
    assert (generation.suppress_tokens, generation.begin_suppress_tokens) == ([1, 2], [3])
    assert generation.alignment_heads == [[1, 0], [2, 1]]
    assert generation.is_multilingual
    assert generation.lang_to_id == {"<|en|>": 260, "<|de|>": 261}
    assert generation.task_to_id == {"translate": 262, "transcribe": 263}
    assert generation.task == "transcribe"  # else transformers would leave the task out of the prompt
    assert (generation.no_timestamps_token_id, generation.prev_sot_token_id) == (267, 265)
    assert generation.max_length == 20
    processor = WhisperProcessor.from_pretrained(tmp_path / "out")
    assert (processor.feature_extractor.feature_size, processor.feature_extractor.nb_max_frames) == (80, 100)
    ids = tiny.tokenizer().get_vocab()
    text = [ids["the"], ids["Ġ"], ids["Ã"], ids["©"]]
    assert processor.tokenizer("the é").input_ids == [259, 267, *text, 258]
    assert processor.tokenizer.decode(text) == "the é"
    assert processor.tokenizer.convert_tokens_to_ids(tiny.TIMESTAMPS) == [268, 269, 270]


def test_an_english_model_with_a_text_vocabulary_and_128_mels(tmp_path):
    model = tiny.whisper(english=True, mels=128)
    tiny.write_folder(tmp_path / "source", model, english=True)
    (tmp_path / "source/vocabulary.json").unlink()
    (tmp_path / "source/vocabulary.txt").write_text("\n".join(tiny.vocabulary(english=True)) + "\n", "utf-8")
    (tmp_path / "source/preprocessor_config.json").write_text('{"feature_size": 128, "chunk_length": 1}')
    (tmp_path / "source/config.json").write_text('{"suppress_ids": null, "lang_ids": [9]}')
    assert "English" in import_whisper(tmp_path / "source", tmp_path / "out")
    found = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert same(found, model)
    assert not found.generation_config.is_multilingual
    assert not hasattr(found.generation_config, "lang_to_id")
    assert found.generation_config.eos_token_id == 50256
    assert found.generation_config.suppress_tokens is None
    assert WhisperProcessor.from_pretrained(tmp_path / "out").feature_extractor.feature_size == 128


def test_arrays_that_share_their_content(tmp_path):
    """CTranslate2 stores equal arrays once: in an untrained model all norms, and the output with the embeddings."""
    config = tiny.whisper().config
    model = WhisperForConditionalGeneration(config)
    tiny.write_folder(tmp_path / "source", model)
    read = read_arrays(tmp_path / "source/model.bin")
    assert read["encoder/layer_norm/gamma"] is read["decoder/layer_0/ffn/layer_norm/gamma"]
    import_whisper(tmp_path / "source", tmp_path / "out")
    assert same(WhisperForConditionalGeneration.from_pretrained(tmp_path / "out"), model)


def test_an_output_of_its_own(tmp_path):
    model = tiny.whisper(tie_word_embeddings=False)
    tiny.write_folder(tmp_path / "source", model)
    import_whisper(tmp_path / "source", tmp_path / "out")
    found = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert not torch.equal(found.proj_out.weight, found.model.decoder.embed_tokens.weight)
    assert same(found, model)


def edited(change: Callable[[dict[str, np.ndarray]], object], **header) -> Callable[[Path], None]:
    """Return a function that changes the arrays of a folder."""

    def damage(folder: Path) -> None:
        values = tiny.arrays(tiny.whisper())
        change(values)
        (folder / "model.bin").write_bytes(tiny.packed(values, **header))

    return damage


def rewritten(name: str, content: str | None) -> Callable[[Path], None]:
    """Return a function that replaces or removes a file of a folder."""
    return lambda folder: (folder / name).unlink() if content is None else (folder / name).write_text(content) and None


def another_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    ids = content["model"]["vocab"]
    ids["!"], ids['"'] = ids['"'], ids["!"]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def nothing(values: dict[str, np.ndarray]) -> None:
    pass


SCALE = "decoder/layer_1/ffn/linear_0/weight"
INT8 = {SCALE: np.ones((16, 8), np.int8), f"{SCALE}_scale": np.ones(16, np.float32)}
DAMAGES = {
    "no model": (rewritten("model.bin", None), "it holds no model.bin"),
    "no config": (rewritten("config.json", None), "it holds no config.json"),
    "no tokenizer": (rewritten("tokenizer.json", None), "copy the tokenizer.json of the original model"),
    "no vocabulary": (rewritten("vocabulary.json", None), "it holds no vocabulary.json or vocabulary.txt"),
    "empty": (rewritten("model.bin", ""), "it is damaged (it ends too early, byte 0)"),
    "pickle": (rewritten("model.bin", "PK\3\4 and so on"), "not 6: another version of CTranslate2's layout"),
    "version": (edited(nothing, version=5), "it starts with the number 5, not 6"),
    "architecture": (edited(nothing, architecture="Wav2Vec2Spec"), "it holds a Wav2Vec2Spec, not a Whisper"),
    "revision": (edited(nothing, revision=4), "revision 4 of CTranslate2's Whisper; only 3"),
    "int8": (edited(lambda values: values.update(INT8)), "its weights are quantized (int8)"),
    "int16": (edited(lambda values: values.update({SCALE: np.ones((16, 8), np.int16)})), "quantized (int16)"),
    "more arrays": (edited(lambda values: values.update({"x": np.ones(3, np.float32)})), "it also has x"),
    "an array lost": (edited(lambda values: values.pop(SCALE)), f"it lacks {SCALE}"),
    "no layers": (
        edited(lambda values: [values.pop(name) for name in list(values) if "encoder/layer_" in name]),
        "it lacks encoder/layer_0/ffn/layer_norm/beta and 13 more",
    ),
    "a layer's number": (
        edited(lambda values: values.update({f"encoder/layer_{10**9}/x": np.ones(3, np.float32)})),
        "it lacks encoder/layer_2/",
    ),
    "shape": (edited(lambda values: values.update({SCALE: np.ones((16, 4), np.float32)})), "has the shape [16, 4]"),
    "flat": (
        edited(lambda values: values.update({"encoder/conv1/weight": np.ones(3, np.float32)})),
        "encoder/conv1/weight has the shape [3]",
    ),
    "heads": (edited(lambda values: values.update({"encoder/num_heads": np.int16(3)})), "it isn't a Whisper"),
    "no heads": (edited(lambda values: values.update({"encoder/num_heads": np.int16(0)})), "no number of heads"),
    "activation": (edited(lambda values: values.update({"decoder/activation": np.int8(0)})), "decoder/activation is 0"),
    "switch": (edited(lambda values: values.update({"decoder/alibi": np.int8(1)})), "decoder/alibi is 1"),
    "nan": (
        edited(lambda values: values.update({SCALE: np.full((16, 8), np.nan, np.float32)})),
        f"{SCALE} has values that are not finite",
    ),
    "config no JSON": (rewritten("config.json", "{"), "it is not JSON"),
    "config nested": (rewritten("config.json", "[" * 10**5), "it is not JSON"),
    "config a list": (rewritten("config.json", "[]"), "it doesn't hold what CTranslate2 writes"),
    "suppressed token": (rewritten("config.json", '{"suppress_ids": [271]}'), "271 in suppress_ids does not fit"),
    "suppressed text": (rewritten("config.json", '{"suppress_ids": "a"}'), "'a' in suppress_ids does not fit"),
    "head": (rewritten("config.json", '{"alignment_heads": [[3, 0]]}'), "[3, 0] in alignment_heads does not fit"),
    "no tokenizer at all": (rewritten("tokenizer.json", '{"version": "1.0"}'), "it isn't a tokenizer"),
    "tokenizer of another model": (another_tokenizer, "its token 0 is '\"', and the model's '!'"),
    "vocabulary too short": (rewritten("vocabulary.json", '["a"]'), "it has 1 tokens, the model 271"),
    "mels": (rewritten("preprocessor_config.json", '{"feature_size": 128}'), "feature_size is 128"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_bad_folders_are_refused_and_nothing_is_written(tmp_path, folder, capsys, case):
    damage, message = DAMAGES[case]
    damage(folder)
    assert main(["import-ctranslate2", str(folder), str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert message in "\n".join(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_positions_that_are_no_whole_second(tmp_path):
    tiny.write_folder(tmp_path / "source", tiny.whisper(max_source_positions=51))
    with pytest.raises(UserError, match="51 positions"):
        import_whisper(tmp_path / "source", tmp_path / "out")


def test_an_existing_output_is_kept(tmp_path, folder):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        import_whisper(folder, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        import_whisper(tmp_path / "nowhere", tmp_path / "out")


@pytest.fixture(scope="module")
def content() -> bytes:
    return tiny.packed(tiny.arrays(tiny.whisper()))


def test_every_truncation_is_refused(tmp_path, content):
    path = tmp_path / "model.bin"
    for size in [*range(200), *range(200, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(UserError):
            read_arrays(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(UserError, match="more data than it declares"):
        read_arrays(path)


def test_sizes_that_would_need_more_memory_than_the_file(tmp_path, content):
    """An array says that it has 2^32 - 1 rows."""
    at = content.index(b"encoder/conv1/bias\0") + len(b"encoder/conv1/bias\0")
    assert content[at : at + 5] == struct.pack("<BI", 1, 8)
    (tmp_path / "model.bin").write_bytes(content[: at + 1] + b"\xff" * 4 + content[at + 5 :])
    with pytest.raises(UserError, match="32 bytes for an array of shape"):
        read_arrays(tmp_path / "model.bin")


def test_the_folder_may_be_imported_twice(tmp_path, folder):
    import_whisper(folder, tmp_path / "one")
    import_whisper(folder, tmp_path / "deep/er/two")
    shutil.rmtree(folder)  # nothing of the source is needed any more
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "deep/er/two")]
    assert weights[0] == weights[1]
