"""HTML from untrusted text: none of it becomes markup, and none of it is invisible."""

from __future__ import annotations

import base64
import hashlib
import html
from importlib.resources import files

from sft_speech.tools.check.findings import invisible


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
    style = files("sft_speech").joinpath("tools/check/page.css").read_text("utf-8") + style
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
    import jiwer

    if not reference or not hypothesis:
        return (
            f"<del>{user(reference)}</del>" if reference else "",
            f"<ins>{user(hypothesis)}</ins>" if hypothesis else "",
        )
    words = reference.split(), hypothesis.split()
    marked: tuple[list[str], list[str]] = [], []
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        spans = (chunk.ref_start_idx, chunk.ref_end_idx), (chunk.hyp_start_idx, chunk.hyp_end_idx)
        for side, tag in enumerate(("del", "ins")):
            if part := " ".join(words[side][slice(*spans[side])]):
                marked[side].append(user(part) if chunk.type == "equal" else f"<{tag}>{user(part)}</{tag}>")
    return " ".join(marked[0]), " ".join(marked[1])
