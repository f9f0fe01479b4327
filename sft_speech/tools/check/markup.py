"""Texts of users as HTML: nothing in them is markup, and nothing in them goes unseen."""

from __future__ import annotations

import html

from sft_speech.tools.check.findings import odd


def shown(text: str) -> str:
    """Escaped, for content and for attributes; what can't be seen or turns the line around is written as its number."""
    visible = "".join(f"⟨U+{ord(character):04X}⟩" if odd(character) else character for character in text)
    return html.escape(visible, quote=True)


def user(text: str) -> str:
    """As :func:`shown`, in a box of its own for its direction of writing: for content only."""
    return f"<bdi>{shown(text)}</bdi>"


def differences(said: str, heard: str) -> tuple[str, str]:
    """Both texts, words that only one of them has marked as deleted from the one, inserted into the other."""
    import jiwer

    if not said or not heard:
        return (f"<del>{user(said)}</del>" if said else "", f"<ins>{user(heard)}</ins>" if heard else "")
    left, right = said.split(), heard.split()
    ours: list[str] = []
    theirs: list[str] = []
    for chunk in jiwer.process_words(said, heard).alignments[0]:
        mine = " ".join(left[chunk.ref_start_idx : chunk.ref_end_idx])
        other = " ".join(right[chunk.hyp_start_idx : chunk.hyp_end_idx])
        same = chunk.type == "equal"
        ours += [user(mine) if same else f"<del>{user(mine)}</del>"] if mine else []
        theirs += [user(other) if same else f"<ins>{user(other)}</ins>"] if other else []
    return " ".join(ours), " ".join(theirs)
