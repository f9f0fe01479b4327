"""The options of fine-tuning for voice conversion."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sft_speech.errors import UserError
from sft_speech.options.keep import tables_of
from sft_speech.options.settings import option
from sft_speech.tasks.speech.config import FinetuneSpeechConfig


@dataclasses.dataclass
class FinetuneVcConfig(FinetuneSpeechConfig):
    """Options of fine-tuning SpeechT5 for voice conversion."""

    from_source: str | None = option(
        None, "corpus of the recordings to convert into those of `source`; null: both are in one table", path=True
    )
    from_config: str | None = option(None, "configuration of from_source, if it is a Hub dataset")
    from_split: str | None = option(None, "split of from_source; null: all of it")
    pair_by: Literal["id", "text"] = option("id", "what the recordings of a pair share")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {
            "from_split": self.from_split,
            "from_config": self.from_config,
            "pair_by: text": self.pair_by == "text",
        }
        if self.from_source is None and any(given.values()):
            key = next(key for key, value in given.items() if value)
            raise UserError(key, "it needs from_source", "set from_source to the corpus of the recordings to convert")
        if self.sources:
            why = "the recordings to convert are those of one source"
            raise UserError("sources", why, "set source and train_split; put several corpora into one table")
        if any(table.keys() - {"split", "select"} for table in tables_of(self)):
            why = "the recordings to convert are those of `source`"
            raise UserError("keep_splits of another corpus", why, "name only splits, as in `keep_splits: [test]`")

    @property
    def columns(self) -> dict[str, str | None]:
        """Columns to read: transcripts only to pair by text; in a table of pairs, the source is the id of a pair."""
        known = super().columns if self.pair_by == "text" else {"text": None, **super().columns}
        return known if self.from_source is not None else {**known, "id": "source_audio"}

    @property
    def from_columns(self) -> dict[str, str | None]:
        """Columns of the recordings to convert."""
        return self.columns if self.from_source is not None else {**self.columns, "audio": "source_audio"}
