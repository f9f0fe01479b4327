"""HTML from untrusted text: none of it becomes markup, and none of it is invisible."""

from __future__ import annotations

import base64
import hashlib
import html
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files


def invisible(character: str) -> bool:
    """Return whether a character is unprintable or changes how others look: controls, bidi marks, surrogates."""
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def shown(text: str) -> str:
    """Return a text escaped for content and attributes, with invisible characters as their code points."""
    visible = "".join(f"⟨U+{ord(character):04X}⟩" if invisible(character) else character for character in text)
    return html.escape(visible, quote=True)


def user(text: str) -> str:
    """Return :func:`shown` isolated from the writing direction around it; for content only."""
    return f"<bdi>{shown(text)}</bdi>"


def document(title: str, body: str, style: str = "", heading: str = "") -> str:
    """Return a page that loads nothing and runs no script.

    Args:
        title: text.
        body: HTML of the page below its heading.
        style: CSS after that of every page.
        heading: HTML of the heading; by default the title.
    """
    style = files("sft_speech").joinpath("pages/page.css").read_text("utf-8") + style
    fingerprint = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{fingerprint}'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{shown(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{heading or user(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def differences(reference: str, hypothesis: str) -> tuple[str, str]:
    """Return both texts, with words that only one of them has marked as deleted or inserted."""
    marked: tuple[list[str], list[str]] = [], []
    for missing, found, equal in _aligned(reference, hypothesis):
        for side, tag, part in ((0, "del", missing), (1, "ins", found)):
            if part:
                marked[side].append(user(part) if equal else f"<{tag}>{user(part)}</{tag}>")
    return " ".join(marked[0]), " ".join(marked[1])


def corrected(reference: str, hypothesis: str) -> str:
    """Return a hypothesis with its wrong words marked as inserted, and those that it should have as deleted."""
    parts = []
    for missing, found, equal in _aligned(reference, hypothesis):
        if equal:
            parts.append(user(found))
            continue
        parts += [f"<{tag}>{user(part)}</{tag}>" for tag, part in (("del", missing), ("ins", found)) if part]
    return " ".join(parts)


def _aligned(reference: str, hypothesis: str) -> Iterator[tuple[str, str, bool]]:
    """Yield the words of both texts that stand for each other, and whether they are equal."""
    import jiwer

    if not reference or not hypothesis:
        yield reference, hypothesis, False
        return
    words = reference.split(), hypothesis.split()
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        missing = " ".join(words[0][chunk.ref_start_idx : chunk.ref_end_idx])
        found = " ".join(words[1][chunk.hyp_start_idx : chunk.hyp_end_idx])
        yield missing, found, chunk.type == "equal"


def scrolling(name: str, content: str) -> str:
    """Return HTML that scrolls if it is too wide for the screen, under a name for screen readers."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{shown(name)}">{content}</div>'


def tabular(
    name: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, style: str = "plain"
) -> str:
    """Return a table.

    Args:
        name: what it shows, for screen readers.
        heads: HTML of the heads of its columns.
        rows: HTML of their cells.
        texts: columns of text at the left; the others are numbers.
        style: class of the table.
    """
    classes = ["" if place < texts else ' class="number"' for place in range(len(heads))]
    top = "".join(f'<th scope="col"{kind}>{head}</th>' for head, kind in zip(heads, classes, strict=True))
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(others, classes[1:], strict=True))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    return scrolling(name, f'<table class="{style}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>')


def cards(values: Mapping[str, str]) -> str:
    """Return figures as cards, by name."""
    body = "".join(f"<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="cards">{body}</dl>'
