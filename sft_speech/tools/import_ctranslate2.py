"""Make a transformers directory of a Whisper in CTranslate2's layout, as faster-whisper uses it.

The result can be fine-tuned, evaluated and loaded like any checkpoint. Its weights are in float32, which holds float16
and bfloat16 exactly. Quantized weights are refused: what they were rounded from is lost.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError, first_line
from sft_speech.files import honour_umask, new_folder

if TYPE_CHECKING:
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer

VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
FRAMES_PER_POSITION, FRAMES_PER_SECOND = 2, 100  # of log-mel; the second convolution halves them
# What transformers computes for every Whisper, and what preprocessor_config.json must therefore contain.
FRONT_END = {"sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
END, START = "<|endoftext|>", "<|startoftranscript|>"
NEEDED = (END, START, "<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|notimestamps|>")
ENGLISH_END = 50256  # id of END in the English-only models: the last of GPT-2's vocabulary
_AGAIN = "download or copy the model again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech import-ctranslate2``."""
    parser.add_argument("folder", metavar="DIR", help="folder with model.bin, config.json and tokenizer.json")
    parser.add_argument("output", metavar="OUT", help="directory to make")


def main(args: argparse.Namespace) -> None:
    """Import the model, print what it is."""
    print(import_whisper(Path(args.folder), Path(args.output)))


def import_whisper(folder: Path, output: Path) -> str:
    """Write the transformers directory of a Whisper in CTranslate2's layout; all of it, or nothing.

    Returns:
        A line that describes the model.

    Raises:
        UserError: ``output`` exists; a file is missing, damaged, of another version or architecture, or quantized; the
            tokenizer does not belong to the model.
    """
    _check_files(folder)
    with new_folder(output) as part:
        import torch
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        from sft_speech.models.ctranslate2 import read_whisper
        from sft_speech.models.load import quiet

        config, weights, kind = read_whisper(folder / "model.bin")
        tokenizer = _tokenizer(folder, config.vocab_size)
        ids = {token: tokenizer.convert_tokens_to_ids(token) for token in NEEDED}
        end, start = ids[END], ids[START]
        config.update({"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start})
        generation = _generation_config(folder / "config.json", config, tokenizer)
        config.update({"suppress_tokens": None, "begin_suppress_tokens": None})  # they are in generation_config.json
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(config)
        model.load_state_dict(weights, assign=True)
        model.tie_weights()
        model.generation_config = generation
        with quiet():
            model.save_pretrained(part)
        WhisperProcessor(_feature_extractor(folder, config), tokenizer).save_pretrained(part)
        honour_umask(part)
    count = model.num_parameters() / 1e6
    languages = len(getattr(generation, "lang_to_id", ()))
    spoken = f"{languages} languages" if languages else "English"
    layers = f"{config.encoder_layers} + {config.decoder_layers} layers"
    return f"{output}: a Whisper of {count:.1f} million parameters ({layers}, {spoken}), read from {kind}"


def _check_files(folder: Path) -> None:
    if not (folder / "model.bin").is_file():
        why = "it holds no model.bin" if folder.is_dir() else "there is no such folder"
        raise UserError(str(folder), why, "give the folder of a faster-whisper model")
    if not (folder / "config.json").is_file():
        raise UserError(str(folder), "it holds no config.json", _AGAIN)
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise UserError(str(folder), f"it holds no {' or '.join(VOCABULARIES)}", _AGAIN)
    if not (folder / "tokenizer.json").is_file():
        do = f"copy the tokenizer.json of the original model (for example openai/whisper-small) into {folder}"
        raise UserError(str(folder), "it holds no tokenizer.json", do)


def _read_json(path: Path, kind: type) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: it is no JSON, or not of this type.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(str(path), "it is not JSON", _AGAIN) from error
    if not isinstance(content, kind):
        raise UserError(str(path), "it doesn't hold what CTranslate2 writes", _AGAIN)
    return content


def _vocabulary(folder: Path) -> tuple[Path, list[str]]:
    """Return the tokens of a model in the order of their ids, and their file."""
    path = next(path for name in VOCABULARIES if (path := folder / name).is_file())
    if path.suffix == ".json":
        return path, [str(token) for token in _read_json(path, list)]
    try:
        return path, path.read_text("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(str(path), "it is not UTF-8 text", _AGAIN) from error


def _tokenizer(folder: Path, size: int) -> WhisperTokenizer:
    """Return the tokenizer of a model, with every token of its vocabulary: some files lack the timestamps.

    Args:
        size: number of embeddings.

    Raises:
        UserError: it cannot be read, or does not belong to the model.
    """
    from tokenizers import AddedToken
    from transformers import WhisperTokenizer

    from sft_speech.models.load import quiet

    path = folder / "tokenizer.json"
    _read_json(path, dict)
    with tempfile.TemporaryDirectory() as alone:  # beside other files, transformers would read those too
        shutil.copyfile(path, Path(alone, path.name))
        special: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END)
        try:
            with quiet():
                tokenizer = WhisperTokenizer.from_pretrained(alone, **special)
        except Exception as error:  # the library raises bare exceptions
            raise UserError(str(path), f"it isn't a tokenizer ({first_line(error)})", _AGAIN) from error
    ids = tokenizer.get_vocab()
    if missing := [token for token in NEEDED if token not in ids]:
        raise UserError(str(path), f"it isn't a Whisper's: it lacks {missing[0]}", "copy that of the original model")
    source, tokens = _vocabulary(folder)
    if len(tokens) != size:
        raise UserError(str(source), f"it has {len(tokens):,} tokens, the model {size:,}", _AGAIN)
    if wrong := _mismatch(ids, tokens):
        raise UserError(str(path), f"it does not belong to this model: {wrong}", "copy that of the original model")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens[len(ids) :]])
    return tokenizer


def _mismatch(ids: Mapping[str, int], tokens: Sequence[str]) -> str | None:
    """Return how a tokenizer differs from the vocabulary of a model; None if it does not.

    Special tokens may have other names: ``<|nocaptions|>`` became ``<|nospeech|>``.
    """
    if sorted(ids.values()) != list(range(len(ids))) or len(ids) > len(tokens):
        return f"it has {len(ids):,} tokens, the model {len(tokens):,}"
    special = re.compile(r"<\|.*\|>")
    for number, token in sorted((number, token) for token, number in ids.items()):
        if token != tokens[number] and not (special.fullmatch(token) and special.fullmatch(tokens[number])):
            return f"its token {number} is {token!r}, and the model's {tokens[number]!r}"
    if taken := set(tokens[len(ids) :]) & ids.keys():
        return f"the model has the token {min(taken)!r} twice"
    return None


def _generation_config(path: Path, config: WhisperConfig, tokenizer: WhisperTokenizer) -> GenerationConfig:
    """Return the generation settings: what CTranslate2's ``config.json`` holds, and the ids of special tokens."""
    from transformers import GenerationConfig

    given = _read_json(path, dict)

    def numbers(key: str, limits: Sequence[int]) -> Any:
        """Return a list of tokens or of heads; None if there is none. The limits are those of one entry."""
        entries = given.get(key) or None
        for entry in [] if entries is None else entries if isinstance(entries, list) else [entries]:
            values = entry if isinstance(entry, list) else [entry]
            within = len(values) == len(limits) and all(
                type(value) is int and -1 < value < limit for value, limit in zip(values, limits, strict=True)
            )
            if not within or not isinstance(entries, list):
                raise UserError(str(path), f"{entry!r} in {key} does not fit the model", _AGAIN)
        return entries

    ids, names = tokenizer.get_vocab(), ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    multilingual = ids[END] != ENGLISH_END
    tasks = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    by_id = tokenizer.convert_ids_to_tokens([*range(ids[START] + 1, tasks["translate"])])
    languages = {token: ids[token] for token in by_id}
    # Without a task transformers would leave its token out of the prompt, and the model would babble.
    prompts = {"lang_to_id": languages, "task_to_id": tasks, "task": "transcribe"} if multilingual else {}
    return GenerationConfig(
        **{name: getattr(config, name) for name in names},
        suppress_tokens=numbers("suppress_ids", [config.vocab_size]),
        begin_suppress_tokens=numbers("suppress_ids_begin", [config.vocab_size]),
        alignment_heads=numbers("alignment_heads", [config.decoder_layers, config.decoder_attention_heads]),
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        is_multilingual=multilingual,
        max_length=config.max_target_positions,
        max_initial_timestamp_index=50,  # one second
        return_timestamps=False,
        **prompts,
    )


def _feature_extractor(folder: Path, config: WhisperConfig) -> WhisperFeatureExtractor:
    """Return the log-mel front end, all of whose settings follow from the sizes of the encoder.

    Raises:
        UserError: the encoder's length is no whole number of seconds, or ``preprocessor_config.json`` contradicts.
    """
    from transformers import WhisperFeatureExtractor

    seconds, rest = divmod(config.max_source_positions * FRAMES_PER_POSITION, FRAMES_PER_SECOND)
    if rest:
        why = f"its encoder has {config.max_source_positions} positions, which is no whole number of seconds"
        raise UserError(str(folder / "model.bin"), why, "use the original model")
    front_end = FRONT_END | {"feature_size": config.num_mel_bins, "chunk_length": seconds}
    path = folder / "preprocessor_config.json"
    given = _read_json(path, dict) if path.is_file() else {}
    for key, value in front_end.items():
        if given.get(key, value) != value:
            raise UserError(str(path), f"{key} is {given[key]!r}, and the model needs {value}", _AGAIN)
    return WhisperFeatureExtractor(**front_end)
