"""Settings for generation that are saved with a model: completed, checked, and with the language of its transcripts."""

from __future__ import annotations

import logging
from typing import Any

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from sft_speech.errors import UserError
from sft_speech.tasks.asr.seq2seq.transcripts import NO_TIMESTAMPS, PREVIOUS, START, Transcripts

logger = logging.getLogger(__name__)


def generation_settings(model: Any, tokenizer: Any) -> Any:
    """Return a model's settings for generation, completed where an old checkpoint lacks them."""
    settings: Any = model.generation_config
    vocabulary = tokenizer.get_vocab()
    settings._from_model_config = False  # otherwise transformers forgets the rest when it loads the saved file
    if getattr(settings, "language", None) is None:
        settings.language = forced_language(settings, tokenizer)
    settings.forced_decoder_ids = None  # replaced by language and task; transformers refuses both together
    if getattr(model.config, "forced_decoder_ids", None) is not None:  # English in old files of every Whisper
        model.config.forced_decoder_ids = None
    if START not in vocabulary:
        return completed(settings, starts_and_ends(model.config))
    multilingual = getattr(settings, "is_multilingual", None)
    if multilingual is None:
        multilingual = not is_english_only(vocabulary)
    known = {
        "decoder_start_token_id": vocabulary[START],
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        "no_timestamps_token_id": vocabulary[NO_TIMESTAMPS],
        "prev_sot_token_id": vocabulary[PREVIOUS],
        "max_length": model.config.max_target_positions,
        "is_multilingual": multilingual,
    }
    if multilingual:
        codes = set(TO_LANGUAGE_CODE.values())
        known["lang_to_id"] = {name: id for name, id in vocabulary.items() if name[2:-2] in codes and name[:2] == "<|"}
        known["task_to_id"] = {action: vocabulary[f"<|{action}|>"] for action in ("transcribe", "translate")}
    return completed(settings, known)


def starts_and_ends(config: Any) -> dict[str, Any]:
    """Return the tokens at both ends of a text for a model other than Whisper."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    return {
        "decoder_start_token_id": config.bos_token_id if start is None else start,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.eos_token_id if pad is None else pad,
    }


def completed(settings: Any, known: dict[str, Any]) -> Any:
    """Set what settings lack, and return them."""
    for key, value in known.items():
        if getattr(settings, key, None) is None:
            setattr(settings, key, value)
    return settings


def write_in(language: str, transcripts: Transcripts, settings: Any) -> None:
    """Keep the language in the settings: the saved model writes it, if it is not asked for another."""
    tokenizer = transcripts.tokenizer
    if transcripts.special and not transcripts.languages:
        return  # an English Whisper: transformers refuses a language
    settings.language = language
    if transcripts.special:
        settings.task = "transcribe"
        tokenizer.set_prefix_tokens(language=language, task="transcribe")
    elif transcripts.languages:
        settings.forced_bos_token_id = transcripts.language_token(language)
        tokenizer.tgt_lang = tokenizer.init_kwargs["tgt_lang"] = language


def check_settings(name: str, settings: Any, tokenizer: Any) -> None:
    """Check that settings for generation have the tokens of the tokenizer and allow all languages.

    Raises:
        UserError: a token has another id in the tokenizer.
    """
    languages = getattr(settings, "lang_to_id", None) or {}
    vocabulary = tokenizer.get_vocab()
    for token, id in {NO_TIMESTAMPS: getattr(settings, "no_timestamps_token_id", None), **languages}.items():
        if id is not None and vocabulary.get(token, id) != id:
            why = f"{token} is token {vocabulary[token]} in its tokenizer and {id} in its generation_config.json"
            raise UserError(name, why, "copy the tokenizer files of the checkpoint that it comes from")
    suppressed = getattr(settings, "suppress_tokens", None) or []
    forbidden = {id: token for token, id in languages.items() if id in suppressed}
    if forbidden:
        logger.warning("%s: its suppress_tokens forbid %s: allowed again", name, ", ".join(forbidden.values()))
        settings.suppress_tokens = [id for id in suppressed if id not in forbidden]


def forced_language(settings: Any, tokenizer: Any) -> str | None:
    """Return the language that the settings of an old checkpoint force, before "language" and "task" replaced them."""
    forced = dict(getattr(settings, "forced_decoder_ids", None) or ())
    token = tokenizer.convert_ids_to_tokens(forced[1]) if forced.get(1) is not None else ""
    return token[2:-2] if token[2:-2] in TO_LANGUAGE_CODE.values() else None


def is_english_only(vocabulary: dict[str, int]) -> bool:
    """Return whether a vocabulary of Whisper is the English one, which begins its special tokens one id earlier."""
    return vocabulary[START] == 50257
