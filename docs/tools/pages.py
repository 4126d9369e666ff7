"""
The pages of the site that are made while it is built: the API of each room, the lessons, and sources that pages link to.

A Sphinx extension. What it writes before Sphinx reads (``docs/api/``, ``docs/lessons/``) is not committed.
"""

from __future__ import annotations

import ast
import html
import json
import posixpath
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.osutil import relative_uri

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT / "sb3_ppo_edu"
DOCS = PROJECT / "docs"
SHOWN_BYTES = 300_000
"""Larger files are offered for download; no browser is glad of their highlighted text."""

API_INDEX = """\
# API

A page for each room of the package; [the house](../../sb3_ppo_edu/README.md#the-house) says who may import whom.

| room | what is there |
|---|---|
{rows}

```{{toctree}}
:hidden:

{menu}
```
"""

logger = logging.getLogger(__name__)
linked: set[str] = set()
"""Files and folders that a page links to and that are no page, from the repository's root."""


def modules(room: Path) -> list[str]:
    """List a room's modules in dotted form, the room itself first, without those that only forward to another."""
    files = sorted(path for path in room.glob("*.py") if path.name not in ("__init__.py", "__main__.py"))
    if room == PACKAGE:  # the others there are import paths of version 0.1
        files = [room / "version.py", room / "zoo.py"]
    names = [".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in files]
    return [".".join(room.relative_to(PROJECT).parts), *names]


def rooms() -> list[Path]:
    """List the package and its folders of modules, in the order of their names."""
    return sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


@cache
def tree(module: str) -> ast.Module:
    """Parse a module of the package."""
    base = PROJECT / Path(*module.split("."))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def public(module: str) -> list[str]:
    """List the names in a module's ``__all__``; none if it has none."""
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(name for name in ast.literal_eval(node.value) if not name.startswith("__"))
    return []


def home(module: str, name: str) -> str:
    """Give the dotted name of a public name where it is defined, following imports."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return home(str(node.module), alias.name)
    return f"{module}.{name}"


def write_api() -> None:
    """Write a page for each room: every module with the names that it defines, and where those are that it passes on."""
    for room in rooms():
        first, *others = modules(room)
        lines = [f"# {first}", ""]
        for module in (first, *others):
            lines += [] if module == first else [f"## `{module.removeprefix(first + '.')}`", ""]
            lines += ["```{eval-rst}", f".. automodule:: {module}", "   :ignore-module-all:", "```", ""]
            passed_on = [where for name in public(module) if (where := home(module, name)) != f"{module}.{name}"]
            lines += [f"- {{py:obj}}`{where}`" for where in passed_on] + [""]
        write(DOCS / "api" / f"{first}.md", "\n".join(lines))
    names = [".".join(room.relative_to(PROJECT).parts) for room in rooms()]
    rows = [f"| [`{name}`]({name}.md) | {(ast.get_docstring(tree(name)) or '').partition(chr(10))[0]} |" for name in names]
    menu = [f"{name.removeprefix('sb3_ppo_edu.')} <{name}>" for name in names]
    write(DOCS / "api" / "index.md", API_INDEX.format(rows="\n".join(rows), menu="\n".join(menu)))


def write_lessons() -> None:
    """Write a page for each lesson: the student's notebook, with what the solution's cells print and draw."""
    for file in sorted((PROJECT / "notebooks" / "student").glob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        outputs = json.loads((PROJECT / "notebooks" / "outputs" / f"{file.stem}.json").read_text(encoding="utf-8"))["cells"]
        parts = [part for cell, output in zip(cells, outputs, strict=True) for part in lesson_cell(cell, output)]
        write(DOCS / "lessons" / f"{file.stem}.md", "\n\n".join(parts) + "\n")


def lesson_cell(cell: dict[str, Any], outputs: list[dict[str, str]]) -> Iterator[str]:
    """Give a cell and its outputs in Markdown; the cell that installs the package is left out."""
    source = "".join(cell["source"])
    if "install" in cell["metadata"].get("tags", []):
        return
    yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
    for output in outputs:
        if "image" in output:
            yield f"![What the cell above draws](../../notebooks/outputs/{output['image']})"
        else:
            yield f":::{{div}} output\n```text\n{output['text']}\n```\n:::"


def write(file: Path, text: str) -> None:
    """Write a file, unless it has that text already."""
    file.parent.mkdir(exist_ok=True)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


class LinkSources(SphinxTransform):
    """Lead links to files and folders that are no pages to one with what is in them, and those to a notebook to its lesson."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        """Replace what Sphinx would offer for download, or not find."""
        here = self.env.docname
        nodes_of_links = (*self.document.findall(addnodes.download_reference), *self.document.findall(addnodes.pending_xref))
        for node in nodes_of_links:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(here), node["reftarget"].lstrip("/")))
            target = self.target(path) if node.get("reftype") == "myst" else None
            if target is not None:
                uri = relative_uri(f"{here}.html", f"{target}.html")
                node.replace_self(nodes.reference("", "", *node.children, internal=True, refuri=uri))

    def target(self, path: str) -> str | None:
        """Name the page for a file or a folder of the repository; none for a page of its own, and what is too large."""
        file = PROJECT / path
        if path.startswith("notebooks/student/"):
            return f"docs/lessons/{file.stem}"
        if file.is_dir():
            linked.update(f"{path}/{found.name}" for found in file.iterdir() if text_of(found) is not None)
        elif text_of(file) is None:
            return None
        linked.add(path)
        return f"source/{path}"


def text_of(file: Path) -> str | None:
    """Read a file of text that is not too large to be shown; anything else is None."""
    if not file.is_file() or file.stat().st_size > SHOWN_BYTES:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make a page for each file and folder that is linked to."""
    for path in sorted(linked):
        file = PROJECT / path
        if file.is_dir():
            names = sorted(found.removeprefix(f"{path}/") for found in linked if found.startswith(f"{path}/"))
            items = "".join(f'<li><a href="{file.name}/{name}.html">{name}</a></li>' for name in names if "/" not in name)
            body = f"<ul>{items}</ul>"
        else:
            body = highlighted(file)
        title = html.escape(path)
        yield f"source/{path}", {"title": title, "body": f"<h1><code>{title}</code></h1>{body}", "parents": []}, "page.html"


def highlighted(file: Path) -> str:
    """Give a file's text as HTML, with numbered lines."""
    text = file.read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(file.name)
    except ClassNotFound:
        lexer = TextLexer()
    return str(highlight(text, lexer, HtmlFormatter(linenos="inline", lineanchors="L", wrapcode=True)))


def check_api(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of every name in an ``__all__`` that the API reference does not have; warnings stop the build."""
    known = {name for name, *_ in env.domains.python_domain.get_objects()}
    for room in rooms():
        for module in modules(room):
            for name in public(module):
                if home(module, name) not in known:
                    logger.warning("%s.%s is public and not in the API reference", module, name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages that Sphinx is to read, and hook in the rest."""
    write_api()
    write_lessons()
    linked.clear()
    app.add_transform(LinkSources)
    app.connect("html-collect-pages", source_pages)
    app.connect("env-check-consistency", check_api)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
