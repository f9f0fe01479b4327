"""Checkpoints that write many languages, with an adapter, a head and a vocabulary for each (MMS)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sft_speech.errors import UserError, first_line
from sft_speech.models.load import quiet
from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary
from sft_speech.text.codes import choose, nearest

SHOWN = 30  # languages in an error; MMS has more than a thousand


def choose_adapter(
    name: str, tokenizer: Any, target_lang: str | None, language: str | None, fine_tuned: bool
) -> str | None:
    """Return the language whose adapter is to be loaded, and switch the tokenizer to it.

    Args:
        target_lang: language by the checkpoint's own code ("fra"), or as ``--language`` takes it; None: that of
            ``language``.
        language: language of the transcripts, if an option gives it.
        fine_tuned: the checkpoint has learned its language here: without ``target_lang`` it stays as it is.

    Returns:
        A code of the checkpoint; None if its weights are used as they are.

    Raises:
        UserError: the checkpoint lacks the language, has it in several scripts, or has many and none is given.
    """
    nested = getattr(tokenizer, "vocab", None)
    languages = (
        [code for code, tokens in nested.items() if isinstance(tokens, dict)] if isinstance(nested, dict) else []
    )
    if not languages:
        if target_lang:
            do = "leave target_lang out; --language names the language of the transcripts"
            raise UserError(f"target_lang {target_lang}", f"{name} has no adapters for languages", do)
        return None
    own, folder = tokenizer.target_lang, Path(name)
    stored = {file.name.split(".")[1] for file in folder.glob("adapter.*.*")} if folder.is_dir() else {*languages}
    usable = [code for code in languages if code in stored or code == own]
    asked = target_lang or language
    if target_lang is None and (fine_tuned or (asked is None and len(usable) == 1)):
        return None
    if asked is None:
        why = f"it writes {len(usable)} languages, each with its own adapter"
        raise UserError(name, why, f"choose one with --target_lang: {listed(usable)}")
    found = choose(asked, usable)
    if len(found) != 1:
        why = f"{name} has {'several adapters' if found else 'no adapter'} for it"
        do = f"choose one with --target_lang: {listed(found or nearest(asked, usable))}"
        raise UserError(f"{'target_lang' if target_lang else 'language'} {asked}", why, do)
    if found[0] == own and (own not in stored or len(languages) == 1):
        return None
    tokenizer.set_target_lang(found[0])
    return found[0]


def listed(languages: Collection[str]) -> str:
    """Return languages as text, the first of them if there are many."""
    shown, more = ", ".join([*languages][:SHOWN]), len(languages) - SHOWN
    return f"{shown} and {more:,} more, which its vocab.json lists" if more > 0 else shown


def load_adapter(
    name: str,
    model: PreTrainedModel,
    target_lang: str,
    vocabulary: Vocabulary,
    new_weights: list[str],
    use_safetensors: bool,
) -> None:
    """Load the adapter and head of a language, which are part of the checkpoint.

    Raises:
        UserError: they cannot be loaded.
    """
    given = f"target_lang {target_lang}"
    try:
        with quiet():
            model.load_adapter(target_lang, use_safetensors=use_safetensors)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        why = f"{name} has no such adapter ({first_line(error)})"
        raise UserError(given, why, "leave target_lang out, or take a checkpoint with adapters") from error
    if not vocabulary.fits(model.config.vocab_size):
        raise UserError(given, f"in {name} its vocabulary doesn't fit its head", "give new_vocabulary and transcripts")
    model.lm_head.float()
    loaded = {"lm_head.weight", "lm_head.bias", *(key for key in new_weights if ".adapter_layer." in key)}
    new_weights[:] = [key for key in new_weights if key not in loaded]
