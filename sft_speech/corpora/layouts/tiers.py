"""The choice among the tiers of an annotation file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from sft_speech.corpora.annotated import Unreadable
from sft_speech.corpora.columns import Columns
from sft_speech.errors import UserError

TIER = "tier"  # as the column of the speakers: each tier is a speaker


def chosen(path: str, tiers: Sequence[tuple[str, str]], columns: Columns) -> Iterator[tuple[int, str, str]]:
    """Yield the tiers that hold transcripts: all if there is one, else those that the columns name.

    ``text`` names a tier, or in several speakers' tiers called ``SPEAKER - NAME``, as the Montreal Forced Aligner
    writes them, their NAME. ``speaker=tier`` takes all tiers, each of which is a speaker.

    Args:
        tiers: name and kind of each tier that has text; ``text`` may name the kind too.

    Yields:
        index, speaker ("" if unknown), and the tier's name if it wasn't asked for.

    Raises:
        Unreadable: no such tier.
        UserError: there are several tiers and the columns name none.
    """
    wanted, by_tier = columns.get("text"), columns.get("speaker") == TIER
    names = ", ".join(dict.fromkeys(name for name, _ in tiers))
    if wanted is None and not by_tier and len(tiers) > 1:
        do = f"say which: --text_column {shlex.quote(tiers[0][0])}; or if each is a speaker: --speaker_column {TIER}"
        raise UserError(path, f"text is in the tiers {names}", do)
    taken = 0
    for number, (name, kind) in enumerate(tiers):
        speaker, dash, rest = name.rpartition(" - ")
        if wanted in (None, name, kind) or (dash and wanted == rest):
            taken += 1
            yield number, name if by_tier else speaker if wanted == rest else "", "" if wanted or by_tier else name
    if not taken and wanted:
        raise Unreadable(f"no tier {wanted!r} with text: {names or 'no tier has any'}")
