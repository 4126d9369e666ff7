"""A report as data, and its two forms: Markdown with pictures beside it, and one self-contained HTML page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from sb3_ppo_edu.lab.plots import save_figure
from sb3_ppo_edu.serialization.writing import write_atomically


@dataclass(frozen=True)
class Table:
    """
    A table.

    :param header: titles of the columns
    :param rows: cells as text
    :param names: columns of names, to the left; the others are numbers
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1


@dataclass(frozen=True)
class Picture:
    """
    A picture.

    :param name: name of its file, without folder
    :param figure: the figure
    :param caption: what it shows, for those who cannot see it too
    """

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """
    A part of a report.

    :param title: its heading
    :param text: paragraphs, in which ``code`` and **strong** words are marked as in Markdown
    :param table: a table, below the picture
    :param picture: a picture, below the text
    """

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    picture: Picture | None = None


@dataclass(frozen=True)
class Page:
    """
    A report.

    :param title: its heading
    :param lead: what it comes to, in plain words
    :param sections: its parts
    :param made_by: command, machine and versions
    """

    title: str
    lead: Sequence[str]
    sections: Sequence[Section] = field(default_factory=list)
    made_by: str = ""


def to_markdown(page: Page) -> str:
    """
    Write a report as Markdown, which expects the pictures in its own folder.

    :param page: the report
    :return: Markdown
    """
    parts = [f"# {page.title}", *page.lead]
    for section in page.sections:
        parts += [f"## {section.title}", *section.text]
        if section.picture is not None:
            parts.append(f"![{section.picture.caption}]({section.picture.name})")
        if section.table is not None:
            parts.append(markdown_table(section.table))
    return "\n\n".join([*parts, page.made_by]).rstrip() + "\n"


def markdown_table(table: Table) -> str:
    """
    Write a table as Markdown.

    :param table: the table
    :return: Markdown
    """
    rule = ["---"] * table.names + ["---:"] * (len(table.header) - table.names)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (table.header, rule, *table.rows))


TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ page.title }}</title>
<style>
:root { --text: #1b1f24; --quiet: #57606a; --line: #d0d7de; --ground: #ffffff; --stripe: #f6f8fa; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --quiet: #9aa4af; --line: #3d444d; --ground: #0d1117; --stripe: #161b22; }
}
body { margin: 0 auto; max-width: 82rem; padding: 1.5rem; font: 16px/1.55 system-ui, sans-serif; color: var(--text);
  background: var(--ground); }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.6rem; border-bottom: 1px solid var(--line); padding-bottom: 0.25rem; }
.lead { font-size: 1.08rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; margin: 0.6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th.name, td.name { text-align: left; }
td.name:not(:first-child) { white-space: normal; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; white-space: normal; }
tbody tr:nth-child(even) { background: var(--stripe); }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figcaption, footer { color: var(--quiet); font-size: 0.88rem; }
figure { margin: 1rem 0; }
code { font-family: ui-monospace, monospace; font-size: 0.92em; }
@media print {
  :root { --text: #000000; --quiet: #444444; --line: #b0b0b0; --ground: #ffffff; --stripe: #ffffff; }
  body { max-width: none; }
  .scroll { overflow: visible; }
  th, td { white-space: normal; }
  h2 { break-after: avoid; }
  h2, figure, tr { break-inside: avoid; }
}
</style>
</head>
<body>
<h1>{{ page.title }}</h1>
{% for paragraph in page.lead %}<p class="lead">{{ paragraph | marked }}</p>
{% endfor %}{% for section in page.sections %}
<section>
<h2>{{ section.title }}</h2>
{% for paragraph in section.text %}<p>{{ paragraph | marked }}</p>
{% endfor %}{% if section.picture %}<figure>
<img src="{{ section.picture | embedded }}" alt="{{ section.picture.caption }}">
<figcaption>{{ section.picture.caption }}</figcaption></figure>
{% endif %}{% if section.table %}<div class="scroll"><table>
<thead><tr>{% for cell in section.table.header %}
{% set name = ' class="name"' | safe if loop.index0 < section.table.names else "" -%}
<th scope="col"{{ name }}>{{ cell | marked }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in section.table.rows %}
<tr>{% for cell in row %}
{% set name = ' class="name"' | safe if loop.index0 < section.table.names else "" -%}
<td{{ name }}>{{ cell | marked }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>
{% endif %}</section>
{% endfor %}
<footer><p>{{ page.made_by | marked }}</p></footer>
</body>
</html>
"""


def to_html(page: Page) -> str:
    """
    Write a report as one HTML page that needs no other file, in light and dark, on screen and on paper.

    :param page: the report
    :return: HTML
    """
    environment = Environment(autoescape=True, trim_blocks=False)
    environment.filters["marked"] = marked
    environment.filters["embedded"] = embedded
    return environment.from_string(TEMPLATE).render(page=page)


def marked(text: str) -> Markup:
    """
    Turn ``code``, **strong** words and links from Markdown into HTML; everything else is text.

    :param text: a paragraph or cell
    :return: HTML
    """
    html = str(escape(text))
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    html = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", html)
    # A stranger's text may be in it: links lead to the web or to a file beside the page, and run nothing.
    html = re.sub(r"\[([^\]]+)\]\((https?://[^)\s]+|\w[\w./-]*)\)", r'<a href="\2">\1</a>', html)
    return Markup(html)


def embedded(picture: Picture) -> str:
    """
    Write a picture into the page itself.

    :param picture: the picture
    :return: a ``data:`` address
    """
    file = io.BytesIO()
    picture.figure.savefig(file, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def save_page(page: Page, folder: Path, name: str) -> list[Path]:
    """
    Save both forms of a report, in place of those that are there.

    :param page: the report
    :param folder: where
    :param name: name of the files, without suffix
    :return: what was written
    """
    pictures = [section.picture for section in page.sections if section.picture is not None]
    for picture in pictures:
        save_figure(picture.figure, folder / picture.name)
    texts = {folder / f"{name}.md": to_markdown(page), folder / f"{name}.html": to_html(page)}
    for path, text in texts.items():
        write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
    return [*texts, *(folder / picture.name for picture in pictures)]
