"""The comparison as one self-contained HTML page: no scripts, no network access, for light and dark screens."""

from __future__ import annotations

import base64
from importlib.resources import files

from sft_speech.pages.markup import cards, document, scrolling, shown, tabular, user
from sft_speech.tools.compare.advice import advice, command, number
from sft_speech.tools.compare.judge import Judgement
from sft_speech.tools.compare.picture import DARK, LIGHT, picture
from sft_speech.tools.compare.table import effect_heads, effect_rows, legend, table, title

NUMBER = ' class="number"'


def page(judgement: Judgement) -> str:
    """Return the whole page."""
    parts = [_verdict(judgement), _picture(judgement), _table(judgement), _effects(judgement), _made_by(judgement)]
    style = files("sft_speech").joinpath("tools/compare/page.css").read_text("utf-8")
    return document(title(judgement), "\n".join(filter(None, parts)), style)


def _verdict(judgement: Judgement) -> str:
    first, *rest = advice(judgement)
    items = "".join(f"<li>{user(line)}</li>" for line in rest)
    use = command(judgement)
    return (
        f'<p class="verdict">{user(first)}</p>\n{_cards(judgement)}\n'
        + (scrolling("Command", f"<pre>{user(use)}</pre>") + "\n" if use else "")
        + (f'<section><h2>Why, and how sure</h2><ul class="reasons">{items}</ul></section>' if items else "")
    )


def _cards(judgement: Judgement) -> str:
    found = {"finished": f"{len(judgement.candidates)} of {len(judgement.candidates) + len(judgement.others)}"}
    if judgement.utterances:
        found["utterances"] = f"{judgement.utterances:,}"
        found["speakers"] = f"{judgement.speakers:,}" if judgement.speakers else "?"
    lead = judgement.chosen
    if lead is not None:
        score = lead.scores[judgement.role]
        found[f"{judgement.metric.heading}, recommended"] = number(judgement.metric, score.value)
    return cards(found)


def _picture(judgement: Judgement) -> str:
    images = [picture(judgement, colors) for colors in (LIGHT, DARK)]
    if images[0] is None:
        return ""
    light, dark = (f"data:image/png;base64,{base64.b64encode(image or b'').decode()}" for image in images)
    what = "Error of each candidate with its interval, and error against cost; the table below has the figures"
    drawn = (
        f'<picture><source media="screen and (prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{what}"></picture>'
    )
    return (
        f"<section><h2>Error and cost</h2>{scrolling('Picture', drawn)}"
        '<p class="rule">Diamond: recommended. Full: can\'t be told apart from the best. Hollow: worse than the best. '
        "Numbers are those of the rows.</p></section>"
    )


def _table(judgement: Judgement) -> str:
    heads, rows = table(judgement)
    top = "".join(f'<th scope="col">{_breakable(user(name))}</th>' for name in heads)
    count, body = len(judgement.candidates), ""
    for place, row in enumerate(rows):
        chosen = place < count and judgement.candidates[place] is judgement.chosen
        cells = "".join(map(_cell, heads, row))
        if place >= count and not any(row[3:]):  # without figures: the reason takes their place
            cells = f'<td></td>{_cell(heads[1], row[1])}<td class="why" colspan="{len(row) - 2}">{user(row[2])}</td>'
        body += f"{'<tr class=chosen>' if chosen else '<tr>'}{cells}</tr>"
    found = f'<table class="candidates"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return (
        f"<section><h2>Candidates</h2>{scrolling('Candidates', found)}"
        f'<p class="rule">{shown(legend(judgement))}</p></section>'
    )


def _breakable(html: str) -> str:
    """Return a name that may be broken at its commas and brackets, as names of splits have them."""
    return html.replace(",", ",<wbr>").replace("[", "<wbr>[")


def _cell(head: str, cell: str) -> str:
    if head == "candidate":
        return f'<th scope="row">{user(cell)}</th>'
    return f"<td{'' if head == 'status' else NUMBER}>{user(cell)}</td>"


def _effects(judgement: Judgement) -> str:
    rows = list(effect_rows(judgement))
    if not rows:
        return ""
    body: list[list[str]] = []
    before = ""
    for key, value, mean, count in rows:
        body.append([user(key) if key != before else "", user(value), mean, count])
        before = key
    heads = [shown(name) for name in effect_heads(judgement)]
    found = tabular("Mean by setting", heads, body, texts=2, style="effects")
    return f"<section><h2>Mean by setting</h2>{found}</section>"


def _made_by(judgement: Judgement) -> str:
    if not judgement.comparison.command:
        return ""
    made = scrolling("Made by", f"<pre>{user(judgement.comparison.command)}</pre>")
    return f"<section><h2>Made by</h2>{made}</section>"
