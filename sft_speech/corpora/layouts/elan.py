"""ELAN annotations (EAF) with their recordings.

See H. Brugman, A. Russel: "Annotating multi-media/multi-modal resources with ELAN" (LREC 2004), and the schema EAFv3.0.
Only tiers of the time line are read: annotations that refer to other tiers' (translations, glosses) have no times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

from sft_speech.corpora.annotated import Segment, Unreadable, annotated_layout, one_line, stem_of
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.layouts.tiers import TIER, chosen
from sft_speech.corpora.report import Dropped

logger = logging.getLogger(__name__)


class _Builder(ElementTree.TreeBuilder):
    """Builds a tree of a document that declares no types, and so no entities: those of ELAN have none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise Unreadable("its XML has a DOCTYPE, which may read other files")


def read(path: str, columns: Columns) -> Iterator[Segment | Dropped]:
    """Yield the annotations that have times and text. The speaker is the tier's participant.

    Raises:
        Unreadable: not an EAF document.
        UserError: several tiers have text and the columns choose none.
    """
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_Builder())).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # LookupError, ValueError: of its encoding
        raise Unreadable(f"not XML ({error})") from error
    if root is None or root.tag != "ANNOTATION_DOCUMENT":
        raise Unreadable("not an ELAN document")
    recording, shift = _media(root, path)
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iterfind("TIME_ORDER/TIME_SLOT")}
    tiers = [tier for tier in root.iterfind("TIER") if _has_text(tier)]
    referring = [
        tier.get("TIER_ID", "") for tier in root.iterfind("TIER") if tier.find(".//REF_ANNOTATION") is not None
    ]
    if referring:
        line = "%s: the tiers %s are not read: their annotations refer to other tiers and have no times"
        logger.warning(line, path, ", ".join(referring[:5]))
    for number, by_tier, name in _chosen(path, tiers, columns):
        tier = tiers[number]
        speaker = by_tier or tier.get("PARTICIPANT", "")
        for one in tier.iterfind("ANNOTATION/ALIGNABLE_ANNOTATION"):
            text = one_line(one.findtext("ANNOTATION_VALUE") or "")
            times = [slots.get(one.get(f"TIME_SLOT_REF{end}")) for end in (1, 2)]
            try:
                start, end = (int(time or "") / 1000 + shift for time in times)
            except ValueError:
                if text:
                    yield Dropped(one.get("ANNOTATION_ID", ""), "bad segment", "its time slots have no times")
                continue
            if text:
                yield Segment(text, start, end, speaker, recording, tier=name)


def _chosen(path: str, tiers: list[ElementTree.Element], columns: Columns) -> Iterator[tuple[int, str, str]]:
    """Yield the tiers to read; all of them, if they are of one type and each is of another participant."""
    names = [(tier.get("TIER_ID", ""), tier.get("LINGUISTIC_TYPE_REF", "")) for tier in tiers]
    speakers = {tier.get("PARTICIPANT") for tier in tiers} - {None, ""}
    one_each = len(speakers) == len(tiers) and len({kind for _, kind in names}) == 1
    if one_each and columns.get("text") is None and columns.get("speaker") != TIER:
        columns = {**columns, "text": names[0][1]}
    return chosen(path, names, columns)


def _has_text(tier: ElementTree.Element) -> bool:
    return any(
        one.text and one.text.strip() for one in tier.iterfind("ANNOTATION/ALIGNABLE_ANNOTATION/ANNOTATION_VALUE")
    )


def _media(root: ElementTree.Element, path: str) -> tuple[tuple[str, ...], float]:
    """Return the stems of the recordings that the document names, then its own, and the offset of its times.

    Raises:
        Unreadable: its times are not in milliseconds, or differ between its recordings.
    """
    header = root.find("HEADER")
    media = [] if header is None else header.findall("MEDIA_DESCRIPTOR")
    media.sort(key=lambda one: not one.get("MIME_TYPE", "").startswith("audio"))
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        raise Unreadable(f"its times are in {units}, not in milliseconds")
    urls = [one.get("RELATIVE_MEDIA_URL") or one.get("MEDIA_URL") or "" for one in media]
    origins = {one.get("TIME_ORIGIN") or "0" for one in media} or {"0"}
    try:
        (shift,) = (int(origin) / 1000 for origin in origins)
    except ValueError as error:
        raise Unreadable(f"its TIME_ORIGIN is {' and '.join(sorted(origins))}, not one number") from error
    return tuple(stem_of(unquote(url.replace("\\", "/"))) for url in [*urls, path] if url), shift


LAYOUT = annotated_layout("ELAN annotations with their recordings (a.eaf, a.wav)", (".eaf",), read)
