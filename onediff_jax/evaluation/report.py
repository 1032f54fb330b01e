"""metrics.json, report.md and report.html: what was measured, in one self-contained folder."""

import base64
import dataclasses
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onediff_jax.evaluation.results import Result, finite, key_of
from onediff_jax.files import replace_file, write_json

FILES = ("metrics.json", "report.md", "report.html")
_MOST_BYTES = 18_000_000  # of all pictures in report.html, which stays below 20 MB
_SIDE = 256  # pixels of a picture's longer side in the report

READING = """\
Every line is one number. The interval holds the middle 95 % of values that resampled examples give
(bootstrap, seeded): with few examples it is wide, and a difference inside it says nothing.
Controls are what one gets without learning (a constant, an average of training examples, the input
itself) or without using what was given (another example's); ✓ beats every one of them. The upper
bound is what the truth itself reaches through the codec. The paper's figure is given where the
protocol is the same; a part of an official set is named: do not compare it with the whole."""


@dataclasses.dataclass(frozen=True)
class Card:
    """One example in a gallery.

    Attributes:
      title, words: its name, and its number and prompt.
      pictures: (label, picture uint8 (H, W, 3)) in order.
      drawings: (label, SVG) after them.
    """

    title: str
    words: str
    pictures: tuple[tuple[str, np.ndarray], ...]
    drawings: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Examples of one direction under a heading."""

    title: str
    cards: tuple[Card, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything an evaluation says.

    Attributes:
      title, facts: the heading, and lines about what was evaluated and how.
      rows: the numbers.
      notes: what a reader must know: parts, missing predictions.
      sections: (heading, Markdown) of further parts.
      galleries: pictures.
      values: what metrics.json holds beside the rows.
    """

    title: str
    facts: Sequence[str]
    rows: Sequence[Result]
    notes: Sequence[str] = ()
    sections: Sequence[tuple[str, str]] = ()
    galleries: Sequence[Gallery] = ()
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


def write_report(out: Path, report: Report) -> None:
    """Writes the three files, each whole or not at all."""
    rows = [row.as_json() for row in report.rows]
    items = {
        key_of(as_json): {name: finite(value) for name, value in row.items.items()}
        for row, as_json in zip(report.rows, rows, strict=True)
        if row.items
    }
    values = {"rows": rows, "notes": list(report.notes), "items": items}
    write_json(out / "metrics.json", report.values | values)
    replace_file(out / "report.md", markdown(report).encode())
    replace_file(out / "report.html", page(report).encode())


HEAD = ("task", "data", "metric", "value", "95 %", "n", "beats all", "controls", "bound", "paper")


def cells(row: Result) -> tuple[str, ...]:
    """A row of the table, as text."""
    interval = "" if row.interval is None else " … ".join(number(v) for v in row.interval)
    steps = "" if row.steps is None else f", {row.steps} step{'s' * (row.steps > 1)}"
    return (
        row.task,
        row.data + (f" ({row.part})" if row.part else "") + steps,
        f"{row.metric} {'↑' if row.better == 'higher' else '↓'}",
        number(row.value),
        interval,
        str(row.n),
        ("✓" if row.beats_all else "–") if row.controls else "",
        _values(row.controls),
        _values(row.upper_bound),
        "" if row.paper is None else number(row.paper),
    )


def table(rows: Sequence[Result]) -> str:
    """The rows as Markdown whose columns are aligned; columns that are empty are left out."""
    lines = [cells(row) for row in rows]
    kept = [i for i in range(len(HEAD)) if i < 4 or any(line[i] for line in lines)]
    lines = [[line[i] for i in kept] for line in (HEAD, *lines)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
    text = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]])


def _values(values: dict[str, float]) -> str:
    return " · ".join(f"{name} {number(value)}" for name, value in values.items())


def number(value: float | None) -> str:
    """Digits that matter: 0.124, 14.78, 120.3; a dash where there is no number."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    places = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return f"{value:.{places}f}"


def markdown(report: Report) -> str:
    """report.md."""
    beaten = [row.beats_all for row in report.rows if row.controls]
    parts = [f"# {report.title}", "\n".join(f"- {fact}" for fact in report.facts)]
    if report.notes:
        parts.append("\n".join(f"- **Note**: {note}" for note in report.notes))
    parts += [READING, table(report.rows)]
    if beaten:
        parts.append(f"The model beats every control on {sum(beaten)} of {len(beaten)} lines.")
    parts.append("\n".join(f"- {line}" for line in _protocols(report.rows)))
    for heading, text in report.sections:
        parts += [f"## {heading}", text]
    return "\n\n".join(parts) + "\n"


def _protocols(rows: Sequence[Result]) -> list[str]:
    seen = dict.fromkeys((row.task, row.data, row.protocol) for row in rows)
    return [f"{task} on {data}: {protocol}" for task, data, protocol in seen]


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #fdfdfd; --faint: #5b5b66;
  --line: #d5d5dd; --soft: #f1f1f6; --mark: #0b57c2; --good: #14713d; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --paper: #16161b; --faint: #a5a5b2;
  --line: #3a3a45; --soft: #22222a; --mark: #8ab8ff; --good: #6fd39a; } }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
main, header, nav { max-width: 1280px; margin: 0 auto; padding: 0 1.5rem; }
h1 { margin: 1.5rem 0 0.3rem; } h2 { margin: 2.2rem 0 0.6rem; } h3 { margin: 1.4rem 0 0.4rem; }
a { color: var(--mark); } :focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
.skip { position: absolute; left: -999px; } .skip:focus { left: 1rem; top: 1rem; }
ul.facts { color: var(--faint); } .note { border-left: 4px solid var(--mark); padding: 0.2rem 1rem;
  background: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.3rem 1rem; padding: 0; list-style: none; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th, td { text-align: left; padding: 0.35rem 0.7rem; border-bottom: 1px solid var(--line);
  vertical-align: top; } thead th { border-bottom: 2px solid var(--ink); white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.good { color: var(--good); font-weight: 700; } tbody tr:hover { background: var(--soft); }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 0.8rem; background: var(--soft);
  overflow-x: auto; } .card p { margin: 0 0 0.6rem; font-size: 0.88rem; color: var(--faint); }
.card h4 { margin: 0 0 0.2rem; } .pictures { display: flex; gap: 0.5rem; }
figure { margin: 0; flex: 1 1 0; min-width: 76px; max-width: 200px; }
figure img { display: block; width: 100%; height: auto; background: #000; }
figure svg { display: block; width: 100%; height: auto; stroke-width: 1.2; }
figure:has(svg) { min-width: 160px; max-width: 320px; }
figure svg text { font-size: 9px; fill: currentColor; }
figcaption { font-size: 0.8rem; color: var(--faint); } pre { overflow-x: auto; }
caption { text-align: left; color: var(--faint); }
@media (max-width: 700px) { .cards { grid-template-columns: 1fr; } table { min-width: 60rem; }
  nav { max-height: 9rem; overflow-y: auto; border: 1px solid var(--line); margin: 0 1.5rem; } }
"""


def page(report: Report) -> str:
    """report.html: one file that needs nothing else; no scripts."""
    galleries, left_out = _within(report.galleries)
    notes = [*report.notes]
    if left_out:
        notes.append(f"{left_out} more examples are left out to keep this file small")
    sections = [("numbers", "Numbers", f"<p>{html.escape(READING)}</p>{_html_table(report.rows)}")]
    protocols = "".join(f"<li>{html.escape(line)}</li>" for line in _protocols(report.rows))
    sections.append(("protocols", "Protocols", f"<ul>{protocols}</ul>"))
    for place, (heading, text) in enumerate(report.sections):
        sections.append((f"part{place}", heading, f"<pre>{html.escape(text)}</pre>"))
    for place, (title, cards) in enumerate(galleries):
        sections.append((f"pictures{place}", title, f'<div class="cards">{"".join(cards)}</div>'))
    links = "".join(f'<li><a href="#{key}">{html.escape(t)}</a></li>' for key, t, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{html.escape(t)}</h2>{inner}</section>'
        for key, t, inner in sections
    )
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in report.facts)
    told = "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
    title = html.escape(report.title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>"
        '<a class="skip" href="#numbers">Skip to the numbers</a>'
        f'<header><h1>{title}</h1><ul class="facts">{facts}</ul>{told}</header>'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav><main>{body}</main></body></html>\n'
    )


def table_page(title: str, table: str) -> str:
    """A Markdown table as a page that needs nothing else, in the report's style."""
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    head, *rows = [[html.escape(cell.strip()) for cell in line] for line in lines if line]
    rows = [row for row in rows if set("".join(row)) - {"-"}]
    told = [line for line in table.splitlines() if line and not line.startswith("|")]
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    notes = "".join(f'<p class="note">{html.escape(line)}</p>' for line in told)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><header><h1>{html.escape(title)}</h1>{notes}</header>"
        '<main><div class="scroll" tabindex="0" role="region" aria-label="Table of numbers">'
        f"<table><caption>{len(rows)} numbers; differences are to the first</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></main></body></html>\n"
    )


def _html_table(rows: Sequence[Result]) -> str:
    lines = [cells(row) for row in rows]
    kept = [i for i in range(len(HEAD)) if i < 4 or any(line[i] for line in lines)]
    head = "".join(f'<th scope="col">{HEAD[i]}</th>' for i in kept)

    def cell(index: int, text: str) -> str:
        if index == 0:
            return f'<th scope="row">{html.escape(text)}</th>'
        kind = {3: "number", 4: "number", 5: "number", 9: "number", 6: "good"}.get(index, "")
        return f'<td class="{kind}">{html.escape(text)}</td>'

    body = "".join("<tr>" + "".join(cell(i, line[i]) for i in kept) + "</tr>" for line in lines)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of numbers"><table>'
        f"<caption>{len(rows)} numbers</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _within(galleries: Sequence[Gallery]) -> tuple[list[tuple[str, list[str]]], int]:
    """The galleries as HTML, as many cards of each in turn as fit the size; how many did not."""
    drawn: dict[int, list[str]] = {i: [] for i in range(len(galleries))}
    size = left_out = 0
    for turn in range(max((len(g.cards) for g in galleries), default=0)):
        for place, gallery in enumerate(galleries):
            if turn >= len(gallery.cards):
                continue
            card = _html_card(gallery.cards[turn]) if size < _MOST_BYTES else ""
            if not card or size + len(card) > _MOST_BYTES:
                left_out += 1
                continue
            size += len(card)
            drawn[place].append(card)
    return [(g.title, drawn[i]) for i, g in enumerate(galleries) if drawn[i]], left_out


def _html_card(card: Card) -> str:
    figures = "".join(
        f'<figure><img src="{data_uri(picture)}" alt="{html.escape(f"{label}: {card.title}")}">'
        f"<figcaption>{html.escape(label)}</figcaption></figure>"
        for label, picture in card.pictures
    )
    figures += "".join(
        f"<figure>{drawing}<figcaption>{html.escape(label)}</figcaption></figure>"
        for label, drawing in card.drawings
    )
    return (
        f'<article class="card"><h4>{html.escape(card.title)}</h4>'
        f'<p>{html.escape(card.words)}</p><div class="pictures">{figures}</div></article>'
    )


def data_uri(picture: np.ndarray) -> str:
    """A picture uint8 (H, W, 3) inside a page, made small enough; PNG for small ones."""
    image = Image.fromarray(picture)
    if max(image.size) > _SIDE:
        image.thumbnail((_SIDE, _SIDE))
    opened = io.BytesIO()
    kind = "png" if max(image.size) <= 128 else "jpeg"
    image.save(opened, kind, **({"quality": 88} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(opened.getvalue()).decode()}"
