"""
Run the solutions of the lessons as they are, not in their short mode, and keep what their cells print and draw.

``python docs/tools/run_lessons.py [LESSON …]`` writes ``notebooks/outputs/LESSON.json`` and pictures beside it; without names,
of those whose code has changed (of all of them some ten minutes on one core). The site shows them under the student's cells,
so that a reader sees what comes out and no solution.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
OUTPUTS = NOTEBOOKS / "outputs"
CELL_SECONDS = 1800
WIDGET = "application/vnd.jupyter.widget-view+json"


def code_hash(lesson: str) -> str:
    """Hash the code that was run, without its docstrings, so that a test notices outputs of another one."""
    cells = json.loads((NOTEBOOKS / "solutions" / f"{lesson}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [
        without_docstrings("".join(cell["source"]))
        for cell in cells
        if cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", [])
    ]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def without_docstrings(code: str) -> str:
    """Blank the lines of docstrings out: what a function says of itself changes no output."""
    lines = code.split("\n")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            for line in range(node.body[0].lineno - 1, node.body[0].end_lineno or 0):
                lines[line] = ""
    return "\n".join(line for line in lines if line)


def kept(outputs: list[Any], picture: str) -> list[dict[str, str]]:
    """
    Keep what a page shows of a cell's outputs: text as ``{"text": …}``, a picture as ``{"image": file}``.

    :param outputs: of a cell, as nbformat has them
    :param picture: beginning of the names of its pictures
    :return: an entry for each output
    """
    found: list[dict[str, str]] = []
    for number, output in enumerate(outputs):
        if output.output_type == "stream":
            if output.name == "stdout":
                found.append({"text": output.text.rstrip()})
        elif WIDGET in output.data:
            continue  # a slider that nobody can move here
        elif "image/png" in output.data:
            file = f"{picture}-{number}.png"
            (OUTPUTS / file).write_bytes(base64.b64decode(output.data["image/png"]))
            found.append({"image": file})
        elif "text/plain" in output.data:
            found.append({"text": output.data["text/plain"].rstrip()})
    return found


def run(lesson: str) -> None:
    """Run one lesson in an empty folder and write its outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOKS / "solutions" / f"{lesson}.ipynb", as_version=4)
    for old in OUTPUTS.glob(f"{lesson}-*.png"):
        old.unlink()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            coalesce_streams=True,
        )
        client.execute(stderr=subprocess.DEVNULL)
    cells = [
        kept(cell.get("outputs", []), f"{lesson}-{number:02}") if cell.cell_type == "code" else []
        for number, cell in enumerate(notebook.cells)
    ]
    text = json.dumps({"code": code_hash(lesson), "cells": cells}, ensure_ascii=False, indent=1)
    (OUTPUTS / f"{lesson}.json").write_text(text + "\n", encoding="utf-8")


def outdated() -> list[str]:
    """List the lessons whose outputs are of other code than theirs, or missing."""
    lessons = sorted(path.stem for path in (NOTEBOOKS / "solutions").glob("*.ipynb"))
    files = {lesson: OUTPUTS / f"{lesson}.json" for lesson in lessons}
    return [
        lesson
        for lesson, file in files.items()
        if not file.exists() or json.loads(file.read_text(encoding="utf-8"))["code"] != code_hash(lesson)
    ]


if __name__ == "__main__":
    OUTPUTS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or outdated():
        print(name, flush=True)
        run(name)
