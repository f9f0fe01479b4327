"""What the files of a run, and those of a local base model, say about its origin and its language."""

from __future__ import annotations

from pathlib import Path

from sft_speech.errors import UserError
from sft_speech.files import read_json
from sft_speech.hub.published import on_hub
from sft_speech.models.language import LANGUAGE, read_card
from sft_speech.text.codes import known_code


def origin(folder: str) -> str | None:
    """Return the id on the Hub of the model that a local model was made of: that of its card, or the name in its
    ``config.json`` under which transformers loaded it. None if none of them names one, or several.
    """
    if not Path(folder).is_dir():
        return None
    named = read_card(folder).get("base_model")
    if isinstance(named, list) and len(named) == 1:
        named = named[0]
    if not named:
        try:
            named = read_json(Path(folder, "config.json")).get("_name_or_path")
        except UserError:
            return None
    if not isinstance(named, str) or "/" not in named or not on_hub(named):
        return None
    # A path from the folder of an earlier run looks like an id.
    local = any(Path(parent, named).exists() for parent in Path(folder).absolute().parents)
    return None if local else named


def saved_language(folder: Path) -> str | None:
    """Return the code of the language that a saved model writes, if its files name it."""
    settings = read_json(folder / "generation_config.json")
    english = "en" if settings.get("is_multilingual") is False else ""  # Whisper
    named = read_json(folder / "config.json").get(LANGUAGE) or settings.get("language") or english
    return known_code(str(named))
