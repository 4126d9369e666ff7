"""The page on how the kernels work says what is so: its examples run, its tables are of the present sources."""

from __future__ import annotations

import doctest
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from sb3_ppo_edu.engines.fused import build

PROJECT = Path(__file__).resolve().parent.parent
PAGE = build.HERE / "HOW_IT_WORKS.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pictures() -> dict[str, Any]:
    """What draws the page's pictures and writes its tables."""
    return runpy.run_path(str(PROJECT / "benchmarks" / "kernels" / "pictures.py"))


def test_examples_run() -> None:
    """Each example gives what the page says, whatever numpy it runs under."""
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert (found.failed, found.attempted > 10) == (0, True)


def test_tables_are_up_to_date(pictures: dict[str, Any]) -> None:
    """Sizes of tiles and blocks are those of products.c, costs those of minibatch.md; pictures.py writes them anew."""
    assert pictures["with_tables"](TEXT) == TEXT
    assert f"(`BLOCK`, {pictures['block_size']()})" in TEXT


def test_example_of_the_pictures_is_the_pages(pictures: dict[str, Any]) -> None:
    """The pictures show the matrices that the page computes with."""
    for name, matrix in (("W", "WEIGHT"), ("H", "INPUTS"), ("slope", "SLOPE")):
        assert f">>> {name} = np.array({pictures[matrix].tolist()})" in TEXT


def test_links_lead_somewhere() -> None:
    """Every file that the page links to, pictures too, is there."""
    places = {link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT)}
    assert len(places) > 10
    assert [place for place in places if not (PAGE.parent / place).exists()] == []


def test_names_are_in_the_sources() -> None:
    """What the page names in code type is a word of the kernels' sources."""
    sources = "".join(path.read_text(encoding="utf-8") for path in build.library_sources(build.SOURCES))
    names = {name for name in re.findall(r"`([A-Za-z_]+)`", TEXT) if name.isupper() or "_" in name}
    assert {"BLOCK", "FEW", "PACKING_ROWS", "row_of", "row_product", "sum_lanes"} <= names
    assert [name for name in names if name not in sources] == []
