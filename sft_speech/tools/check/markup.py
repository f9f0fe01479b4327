"""HTML from untrusted text: none of it becomes markup, and none of it is invisible."""

from __future__ import annotations

import html

from sft_speech.tools.check.findings import invisible


def shown(text: str) -> str:
    """Return a text escaped for content and attributes, with invisible characters as their code points."""
    visible = "".join(f"⟨U+{ord(character):04X}⟩" if invisible(character) else character for character in text)
    return html.escape(visible, quote=True)


def user(text: str) -> str:
    """Return :func:`shown` isolated from the writing direction around it; for content only."""
    return f"<bdi>{shown(text)}</bdi>"


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
