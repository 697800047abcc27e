"""A card as HTML: a fragment for notebooks and pages, and a file of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from .card import LABELS, Card, Implementation
from .figures import ORACLE_ONLY, details, headline, link, number, sections
from .plot import svg

__all__ = ["fragment", "page"]

_CSS = (
    ".fv-card{font:15px/1.5 system-ui,sans-serif;max-width:46rem}"
    ".fv-card h2{margin:0 0 .2em;line-height:1.25}.fv-card h3{margin:1.2em 0 .3em}"
    ".fv-card .meta{opacity:.75}.fv-card pre{overflow-x:auto;padding:.7em;border:1px solid #8886;"
    "border-radius:6px;font-size:13px}.fv-card .label{display:inline-block;padding:0 .6em;"
    "margin-right:.4em;border:1px solid #8888;border-radius:1em;font-size:13px}"
    ".fv-card svg{width:100%;max-width:40rem}"
    ".fv-card .named{display:none}.fv-card .named i{font-style:normal;color:#8a8f98}"
    ".fv-card .named div+div i{color:#2f80c8}"
    # the figure is drawn half as large there: its figures larger, the long names beside it as text
    "@media(max-width:30rem){.fv-card svg text{font-size:20px}"
    ".fv-card svg text:has(tspan){display:none}.fv-card .named{display:block}}"
    ".fv-card .good{background:#2a8a4a33}.fv-card .weak{background:#c9910033}"
)
_CODE = re.compile("``(.+?)``")  # as docstrings mark it
_TONE = {
    "faithful": " good",
    "claim tested: observed": " good",
    "reconstruction": " weak",
    "claim tested: not observed": " weak",
}


def fragment(card: Card) -> str:
    """A card for a notebook or as part of a page: no script, nothing fetched.

    Parameters
    ----------
    card : Card

    Returns
    -------
    str
        HTML; every text from the catalogue is escaped.
    """
    return f'<style>{_CSS}</style><div class="fv-card">{"".join(_parts(card))}</div>'


def page(card: Card) -> str:
    """A card as a self-contained page.

    Parameters
    ----------
    card : Card

    Returns
    -------
    str
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(card.paper.title)}</title>"
        "<style>:root{color-scheme:light dark}body{margin:2rem auto;max-width:48rem;"
        f"padding:0 1rem}}</style></head><body>{fragment(card)}</body></html>"
    )


def _parts(card: Card) -> Iterator[str]:
    row = card.paper
    yield f"<h2>{escape(row.title)}</h2>"
    at = link(row.url, row.arxiv, row.doi)
    read = f' · <a href="{escape(at)}">read it</a>' if at else ""
    yield f'<p class="meta">{escape(headline(row))}{read}</p><p>'
    for label in card.labels:
        meaning = escape(LABELS.get(label, ""))
        yield f'<span class="label{_TONE.get(label, "")}" title="{meaning}">{escape(label)}</span>'
    yield "</p>"
    if row.note:
        yield f"<p>{escape(row.note)}</p>"
    for heading, text in sections(row):
        yield f"<h3>{heading}</h3><p>{escape(text)}</p>"
    yield "<h3>Here</h3>"
    if not card.implementations:
        yield "<p>Not implemented yet.</p>"
    for one in card.implementations:
        yield from _implementation(one)
    yield from _evidence(card)


def _implementation(one: Implementation) -> Iterator[str]:
    summary = _CODE.sub(r"<code>\1</code>", escape(one.summary))
    yield (
        f"<p><code>{escape(one.name)}</code>: {summary} "
        f"<small>(basis: {one.record.basis}; {one.record.maturity})</small></p>"
    )
    if one.snippet:
        yield f"<pre><code>{escape(one.snippet)}</code></pre>"


def _evidence(card: Card) -> Iterator[str]:
    if not card.implementations:
        return
    yield "<h3>What was seen</h3>"
    found = card.evidence
    if found is None:
        yield "<p>Its claim was not tried yet.</p>"
        return
    drawn = svg(found)
    if drawn and found.baseline and found.method:
        names = "".join(
            f"<div><i>●</i> {escape(one['name'])}: <b>{number(float(one['value']))}</b></div>"
            for one in (found.baseline, found.method)
        )
        yield f'<div class="named">{names}</div>'
    yield f'<div class="plot">{drawn or ORACLE_ONLY}</div>'
    yield (
        f'<p class="meta"><code>{escape(found.command)}</code>: {escape(found.verdict)} '
        f"({found.date}, commit {found.commit}, seeds {', '.join(map(str, found.seeds))})</p>"
    )
    rows = list(details(found.details))
    if rows:
        lines = "".join(
            f'<div style="padding-left:{1.2 * depth}em">{escape(text)}</div>'
            for depth, text in rows
        )
        yield f"<details><summary>All figures</summary>{lines}</details>"
