"""Text that others wrote stays plain text in Markdown."""

from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from sft_speech.hub import markdown

HOSTILE = st.text(st.sampled_from(list("|`<>&\\*_[]()#~!$\n\r\t-=+. a1\"'\u2028\x00{}")), max_size=30)


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


@given(HOSTILE)
def test_text_stays_text(content):
    shown = " ".join("".join(c if c.isprintable() else " " for c in content).split())
    paragraph = rendered(f"x{markdown.text(content)}x")
    assert paragraph == f"<p>x{html.escape(shown, quote=False).replace(chr(34), '&quot;')}x</p>\n"


@given(st.lists(HOSTILE, min_size=2, max_size=2))
def test_a_cell_never_breaks_a_table(row):
    shown = rendered(markdown.table(["one", "two"], [row, ["last", "line"]]))
    assert shown.count("<td>") == 4
    assert shown.count("<tr>") == 3
    assert "<script" not in shown


@given(st.text(st.sampled_from(list("`~\n <x")), max_size=40))
def test_code_never_ends_its_block(content):
    shown = rendered(markdown.code(content, "yaml") + "\n\nbehind")
    assert shown.endswith("</code></pre>\n<p>behind</p>\n")


def test_examples():
    assert markdown.text("a|b <script>`x`\n# [no](link)") == "a&#124;b &lt;script&gt;\\`x\\` \\# \\[no\\](link)"
    assert markdown.table(["split"], [["dev\nclean"]]) == "| split |\n| --- |\n| dev clean |"
