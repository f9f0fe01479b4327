"""Audio players of a page, whose number and size are bounded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from sft_speech.audio.read import AudioError, read
from sft_speech.pages import pictures
from sft_speech.pages.markup import shown

CLIP_SECONDS = 10.0  # of a recording, in a player
MOST_KILOBYTES = 12_000  # of pictures and audio


class Players:
    """The audio players of a page, and whether there is room for more.

    Args:
        most: players.
        most_kilobytes: their size, with their spectrograms.
    """

    def __init__(self, most: int, most_kilobytes: float = MOST_KILOBYTES) -> None:
        self.most, self.most_kilobytes = most, most_kilobytes
        self.anchors: dict[Hashable, str] = {}
        self.kilobytes = 0.0

    @property
    def full(self) -> bool:
        return len(self.anchors) >= self.most or self.kilobytes >= self.most_kilobytes

    def player(self, key: Hashable, row: Mapping[str, Any], id: str) -> str:
        """Return a spectrogram and a player, a link to them if the row already has them, or why it has none.

        Args:
            key: what the row is known by.
            row: a row of a corpus, with its audio and its seconds.
            id: the row as the page names it.
        """
        if key in self.anchors:
            return f'<p><a href="#{self.anchors[key]}">see its player above</a></p>'
        length = min(row["seconds"], CLIP_SECONDS)
        try:
            waveform = read(row["audio"], pictures.RATE, row.get("start") or 0.0, float(length), row.get("channel"))
        except AudioError as error:
            return f"<p>cannot be played: {shown(str(error))}</p>"
        picture, sound = pictures.spectrogram(waveform), pictures.sound(waveform)
        self.kilobytes += (len(picture) + len(sound)) / 1000
        anchor = self.anchors[key] = f"clip-{len(self.anchors)}"
        cut = f", the first {CLIP_SECONDS:g} s" if row["seconds"] > CLIP_SECONDS else ""
        return (
            f'<div class="clip" id="{anchor}"><img src="{picture}" alt="spectrogram of {shown(id)}" loading="lazy">'
            f'<audio controls preload="metadata" aria-label="recording {shown(id)}{cut}" src="{sound}"></audio></div>'
        )
