"""The comparison as one self-contained HTML page: no scripts, no network access, for light and dark screens."""

from __future__ import annotations

import base64
from importlib.resources import files

from sft_speech.tools.check.markup import document, shown, user
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
        + (
            f'<div class="scroll" tabindex="0" role="region" aria-label="Command"><pre>{user(use)}</pre></div>\n'
            if use
            else ""
        )
        + (f'<section><h2>Why, and how sure</h2><ul class="reasons">{items}</ul></section>' if items else "")
    )


def _cards(judgement: Judgement) -> str:
    cards = {"finished": f"{len(judgement.candidates)} of {len(judgement.candidates) + len(judgement.others)}"}
    if judgement.utterances:
        cards["utterances"] = f"{judgement.utterances:,}"
        cards["speakers"] = f"{judgement.speakers:,}" if judgement.speakers else "?"
    lead = judgement.chosen
    if lead is not None:
        score = lead.scores[judgement.role]
        cards[f"{judgement.metric.heading}, recommended"] = number(judgement.metric, score.value)
    body = "".join(f"<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>" for name, value in cards.items())
    return f'<dl class="cards">{body}</dl>'


def _picture(judgement: Judgement) -> str:
    images = [picture(judgement, colors) for colors in (LIGHT, DARK)]
    if images[0] is None:
        return ""
    light, dark = (f"data:image/png;base64,{base64.b64encode(image or b'').decode()}" for image in images)
    what = "Error of each candidate with its interval, and error against cost; the table below has the figures"
    return (
        '<section><h2>Error and cost</h2><div class="scroll" tabindex="0" role="region" aria-label="Picture"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}"><img src="{light}" alt="{what}"></picture></div>'
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
    return (
        '<section><h2>Candidates</h2><div class="scroll" tabindex="0" role="region" aria-label="Candidates">'
        f'<table class="candidates"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
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
    head = "".join(f'<th scope="col">{shown(name)}</th>' for name in effect_heads(judgement))
    body, before = "", None
    for key, value, mean, count in rows:
        name = user(key) if key != before else ""
        body += (
            f'<tr><th scope="row">{name}</th><td>{user(value)}</td><td class="number">{mean}</td>'
            f'<td class="number">{count}</td></tr>'
        )
        before = key
    return (
        '<section><h2>Mean by setting</h2><div class="scroll" tabindex="0" role="region" aria-label="Mean by setting">'
        f'<table class="effects"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def _made_by(judgement: Judgement) -> str:
    if not judgement.comparison.command:
        return ""
    return (
        '<section><h2>Made by</h2><div class="scroll" tabindex="0" role="region" aria-label="Made by">'
        f"<pre>{user(judgement.comparison.command)}</pre></div></section>"
    )
