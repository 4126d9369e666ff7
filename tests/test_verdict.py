"""Verdicts: text and HTML say the same, readable on any page, and a notebook shows them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch as th
from IPython.core.formatters import DisplayFormatter

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.functional import losses


def test_verdict_shows_numbers_and_both_forms() -> None:
    """A wrong answer sees input, found and expected number, worked out here by hand; text and HTML say the same."""
    verdict = check("discounted_returns", lambda r, g: np.cumsum(r[::-1])[::-1])
    assert ("found", "[3, 2, 1]") in verdict.evidence
    # 1 + 0.9 + 0.81, 1 + 0.9, 1
    assert ("expected", "[2.71, 1.9, 1]") in verdict.evidence
    page = verdict._repr_html_()
    for text in (verdict.headline, "2.71, 1.9, 1", "found"):
        assert text in str(verdict)
        assert text in page
    assert "Traceback" not in str(verdict)
    assert verdict.headline in verdict.to_markdown()


def test_html_escapes_what_the_answer_says() -> None:
    """An exception's message is shown as text, not as a part of the page."""

    def answer(ratio: th.Tensor, clip_range: float) -> float:
        raise RuntimeError("<script>alert(1)</script>")

    page = check("clip_fraction", answer)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_colours_are_the_pages_own() -> None:
    """Neither text nor ground has a fixed colour, so that the verdict can be read on a dark page too."""
    page = check("clip_fraction", lambda r, e: 0.0)._repr_html_()
    assert "background:none" in page
    assert not re.search(r"background(-color)?:\s*(#|rgb|white)", page)
    assert set(re.findall(r"[^-]color:([^;\"]+)", page)) == {"inherit", "#d1553f"}


def test_verdict_is_shown_beside_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict displays itself, as text and as HTML, and leaves the cell without a result that nbgrader took for points."""
    shown: list[dict[str, str]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    verdict = check("clip_fraction", losses.clip_fraction)
    assert DisplayFormatter().format(verdict) == ({}, {})
    assert shown == [{"text/plain": str(verdict), "text/html": verdict._repr_html_()}]
