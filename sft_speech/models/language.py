"""The language that a saved model writes: in its configuration, or in its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sft_speech.text.codes import known_code

LANGUAGE = "transcript_language"  # its key in config.json: transformers keeps keys that it does not know


def saved_language(config: Any) -> str | None:
    """Return the language in a configuration; None if there is none."""
    saved = getattr(config, LANGUAGE, None)
    return known_code(saved) if isinstance(saved, str) else None


def card_language(name: str, revision: str | None = None) -> str | None:
    """Return the language that the card of a published model names; None if it names none, or several."""
    named = read_card(name, revision).get("language")
    languages = named if isinstance(named, list) else [named]
    only = languages[0] if len(languages) == 1 else None
    if only is False:  # in YAML, a bare `no`, which is Norwegian
        only = "no"
    return known_code(only) if isinstance(only, str) else None


def read_card(name: str, revision: str | None = None, ask_hub: bool = True) -> dict[str, Any]:
    """Return the metadata of a model's card; empty if it cannot be read.

    Args:
        name: a directory, or an id on the Hub.
        ask_hub: look for it on the Hub, not only in the local cache.
    """
    from huggingface_hub import hf_hub_download, metadata_load, try_to_load_from_cache

    try:
        if Path(name).is_dir():
            return metadata_load(str(Path(name, "README.md"))) or {}
        look = hf_hub_download if ask_hub else try_to_load_from_cache
        return metadata_load(str(look(name, "README.md", revision=revision))) or {}
    except Exception:  # no card, a damaged one, no connection
        return {}
