"""What README, the documentation and the READMEs beside the code show can be done: examples and commands are run."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from sb3_ppo_edu import zoo
from sb3_ppo_edu.cli import experiments, main
from sb3_ppo_edu.lab.experiments import SUITES
from tests.command_line import TINY, process_restored

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [
    PROJECT / "README.md",
    *(page for page in sorted((PROJECT / "docs").rglob("*.md")) if page.parent.name not in ("api", "lessons")),
]
SHORT = {
    "train": ["--steps", "512", "--eval-episodes", "1", *TINY],
    "resume": ["--steps", "1024"],
    "evaluate": ["--episodes", "1"],
}
"""Flags that make a command take a moment; of a resumed run, and a memory, those that fit."""
ELSEWHERE = {
    "pip install .": "tests/test_packaging.py::test_installed_wheel_trains",
    "sb3-edu bench parity --quick": "tests/test_docs.py::test_parity_command",
    "sb3-edu push runs/lander someone/ppo-LunarLanderContinuous-v3": "tests/test_hub.py::test_a_run_goes_there_and_comes_back",
    "sb3-edu course build": "tests/test_course.py::test_command_builds_checks_and_grades",
    "python -m sb3_ppo_edu.zoo train --env LunarLanderContinuous-v3": "tests/test_zoo.py::train",
    "torchrun --nproc-per-node 2 -m sb3_ppo_edu train --env BipedalWalker-v3 --name walker --checkpoint-freq 100000": (
        "tests/test_distributed.py::test_torchrun_and_a_killed_process"
    ),
}
"""Commands that another test runs, in its own way."""

restored = pytest.fixture(process_restored)


def blocks(page: Path, language: str) -> list[str]:
    """Give a page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Give the commands of a page, without what is said of them."""
    lines = [line.partition(" #")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line]


def named(path: Path) -> str:
    """Name a page in a test's name."""
    return str(path.relative_to(PROJECT))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=named)
def test_examples_run(page: Path, elsewhere: Path) -> None:
    """The examples of a page run one after the other in one process, with few steps."""
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks(page, "python"):
        short = re.sub(r"(learn\(|total_timesteps=)[\d_]+", r"\g<1>64", block)
        exec(compile(short, named(page), "exec"), names)


def small(words: list[str]) -> list[str]:
    """Make a command of ``sb3-edu`` take a moment."""
    if words[0] == "resume":
        return [*words[:2], *SHORT["resume"]]
    if "recurrenteduppo" in words:
        return [*words, *SHORT["train"][:-2], "--policy-kwargs", "dict(lstm_hidden_size=8)"]
    return [*words, *SHORT.get(words[0], [])]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=named)
def test_commands_run(page: Path, elsewhere: Path, restored: None) -> None:
    """The commands of a page run one after the other in one folder; those of make are targets; others run in a named test."""
    targets = re.findall(r"^([a-z0-9-]+):.*## ", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in commands(page):
        first, *words = shlex.split(command)
        if command in ELSEWHERE:
            file, name = ELSEWHERE[command].split("::")
            assert f"\ndef {name}(" in (PROJECT / file).read_text(encoding="utf-8")
        elif first == "make":
            assert words[0] in targets
        elif words[:2] == ["-m", "sb3_ppo_edu.zoo"]:
            assert zoo.main(words[2:]) == 0
        else:
            assert first == "sb3-edu", command
            assert main(small(words)) == 0, command


def test_parity_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """``sb3-edu bench parity --quick`` runs that suite, whose trainings take minutes, in a folder of its own."""
    called: list[object] = []
    monkeypatch.setattr(experiments, "run_suite", lambda folder, runs, *_: called.extend((folder, runs)))
    monkeypatch.setattr(experiments, "show_report", lambda *_: None)
    assert main(["bench", "parity", "--quick"]) == 0
    assert called == [Path("runs/parity-quick"), SUITES["parity-quick"].runs(range(5))]


def tool(name: str) -> ModuleType:
    """Load a script of ``docs/tools``."""
    specification = importlib.util.spec_from_file_location(f"docs_{name}", PROJECT / "docs" / "tools" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    """A missing page, a missing place on a page and what a network would have to bring are found; the rest passes."""
    (tmp_path / "there.html").write_text('<h1 id="top">There</h1><a href="https://example.org">out</a>')
    page = '<a href="there.html#top">1</a><a href="gone.html">2</a><a href="there.html#gone">3</a><a href="#">4</a>'
    (tmp_path / "page.html").write_text(page + '<script src="https://example.org/x.js"></script><img src="data:,">')
    assert tool("check_links").broken(tmp_path) == [
        "page.html: gone.html leads nowhere",
        "page.html: https://example.org/x.js is loaded from a network",
        "page.html: there.html#gone names no place of that page",
    ]


@pytest.mark.parametrize("path", sorted((PROJECT / "notebooks" / "solutions").glob("*.ipynb")), ids=lambda path: path.stem)
def test_outputs_are_of_the_lessons_as_they_are(path: Path) -> None:
    """What the site shows under a lesson's cells was printed and drawn by this code; else run ``make lessons``."""
    outputs = json.loads((PROJECT / "notebooks" / "outputs" / f"{path.stem}.json").read_text(encoding="utf-8"))
    assert outputs["code"] == tool("run_lessons").code_hash(path.stem)
    pictures = {output["image"] for cell in outputs["cells"] for output in cell if "image" in output}
    assert pictures == {file.name for file in (PROJECT / "notebooks" / "outputs").glob(f"{path.stem}-*.png")}


def test_outputs_do_not_hang_on_docstrings_or_widgets() -> None:
    """What a function says of itself changes no output, what it does may; and a slider that nobody can move is not kept."""
    lessons = tool("run_lessons")
    code = 'def f(x):\n    """\n    Add.\n\n    :param x: a number\n    """\n    # why\n    return x + 1'
    assert lessons.without_docstrings(code) == "def f(x):\n    # why\n    return x + 1"
    assert lessons.without_docstrings('text = """\n\na"""') == 'text = """\na"""'
    widget = SimpleNamespace(output_type="display_data", data={lessons.WIDGET: {}, "text/plain": "interactive(…)"})
    shown = SimpleNamespace(output_type="display_data", data={"text/plain": "3 points"})
    assert lessons.kept([widget, shown], "x") == [{"text": "3 points"}]


def linked() -> Iterator[str]:
    """List the pages that the index of results links to, from ``benchmarks/``."""
    text = (PROJECT / "benchmarks" / "README.md").read_text(encoding="utf-8").partition("```{toctree}")[0]
    yield from re.findall(r"\]\(([^)]+\.md)\)", text)


def test_every_page_of_results_is_in_the_index() -> None:
    """The index of results leads to each page under ``benchmarks/``, and so does the site's menu."""
    folder = PROJECT / "benchmarks"
    pages = {str(page.relative_to(folder)) for page in folder.rglob("*.md")} - {"README.md"}
    assert {*linked()} == pages
    menu = (folder / "README.md").read_text(encoding="utf-8").partition("```{toctree}")[2]
    assert {f"{path}.md" for path in re.findall(r"^(?:.* <)?([\w/-]+)>?$", menu, re.MULTILINE)} == pages


def test_figures_of_the_index_are_on_their_pages() -> None:
    """Each number that the index of results says of a page is there, where it may have more digits."""
    folder = PROJECT / "benchmarks"
    said = re.findall(r"^\[\*\*[^]]*\]\(([^)]+)\): (.*?)\n\n", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(said) > 8
    for page, sentence in said:
        there = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", (folder / page).read_text(encoding="utf-8"))}
        for number in re.findall(r"(?<![\w-])\d+(?![\w-])", sentence):
            assert float(number) in there | {float(round(found)) for found in there}, (page, number)


def test_every_result_has_a_picture_that_is_there() -> None:
    """Below each sentence of the index is a picture of that page, and the page shows it too."""
    folder = PROJECT / "benchmarks"
    text = (folder / "README.md").read_text(encoding="utf-8")
    for page in re.findall(r"^\[\*\*[^]]*\]\(([^)]+)\)", text, re.MULTILINE):
        pictures = re.findall(rf"^\[!\[[^]]+\]\(([^)]+)\)\]\({re.escape(page)}\)$", text, re.MULTILINE)
        assert len(pictures) == 1 and (folder / pictures[0]).is_file(), page
        assert Path(pictures[0]).name in (folder / page).read_text(encoding="utf-8"), page


@pytest.mark.parametrize("page", [page for page in PAGES if len(blocks(page, "python")) > 1], ids=named)
def test_examples_say_where_they_continue(page: Path) -> None:
    """A block runs by itself, or the line before it says "above": who copies it alone shall not meet a NameError."""
    for before, block in re.findall(r"([^\n]*)\n\n?```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        nodes = [*ast.walk(ast.parse(block))]
        names = [node for node in nodes if isinstance(node, ast.Name)]
        used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
        bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        for node in nodes:
            if isinstance(node, ast.alias):
                bound.add(node.asname or node.name.partition(".")[0])
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                bound.add(node.name)
        assert used <= bound | {*dir(builtins)} or "above" in before, (before, used - bound)


def test_links_of_the_readme_lead_somewhere() -> None:
    """What README links to in the repository is there; of the other pages the site's own check knows."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (PROJECT / "README.md").read_text(encoding="utf-8"))
    assert links and not [link for link in links if not (PROJECT / link).exists()]


def test_pages_name_no_machine() -> None:
    """No page names a path of somebody's machine."""
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(home|tmp|work|root|Users)/", page.read_text(encoding="utf-8")), page
