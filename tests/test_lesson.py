"""What the cells of lessons have in common."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.course.lesson import Films, compare, explore, film, play, recipe, table
from sb3_ppo_edu.lab import replay


def test_table_sets_numbers_right() -> None:
    """A column of numbers stands right; one of words stands left, also where one begins with a digit. Four digits stay."""
    made = table(
        ["what", "how much", "note"], [["10 more", 1234.567, ""], ["2 less", -1.5e-7, "page 1"], ["nothing", np.nan, ""]]
    )
    lines = made._repr_markdown_().splitlines()
    assert lines[1] == "| --- | ---: | --- |"
    assert lines[2:] == ["| 10 more | 1,235 |  |", "| 2 less | -1.5e-07 | page 1 |", "| nothing | nan |  |"]
    assert repr(made).splitlines()[1].split() == ["10", "more", "1,235"]


def test_prediction_stands_beside_what_came() -> None:
    """A number, a word, and none at all; what came stands out in Markdown, and has no marks in plain text."""
    assert compare(3, np.float64(2.3456), "Largest")._repr_markdown_() == "Largest: **2.35**. You predicted 3."
    assert repr(compare("beta", "tanh", "Best")) == "Best: tanh. You predicted beta."
    assert repr(compare(None, -1, "Page")) == "Page: -1. You predicted nothing."


def test_parameter_is_drawn_without_a_slider(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every value gets a picture of its own, on one scale, and where there are no widgets a sentence says how to get some."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(plt, "show", lambda: None)
    explore(lambda axes, value: axes.plot([0.0, value]), "λ", [0.5, 1.0, 4.0])
    drawn = plt.gcf().axes
    assert [axes.get_title() for axes in drawn] == ["λ = 0.5", "λ = 1", "λ = 4"]
    assert [np.asarray(axes.lines[0].get_ydata())[1] for axes in drawn] == [0.5, 1.0, 4.0]
    assert len({axes.get_ylim() for axes in drawn}) == 1
    assert "pip install ipywidgets" in capsys.readouterr().out
    plt.close()


def test_lander_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A film is an evaluation's first episode, plays at the lander's own speed, and moves; without a renderer it is a sentence.

    A decision takes 4 steps of 1/50 second. Both models fly the same episode, so that their films have the same start.
    """
    settings, lander = recipe("LunarLanderContinuous-v3")
    model = EduPPO(settings.policy, lander, seed=0, **settings.algorithm)
    flight = film(model, settings)
    assert flight is not None
    assert flight.seconds_per_frame == pytest.approx(0.08)
    assert flight.episode_return == pytest.approx(play(model, settings, episodes=1).returns[0])

    shorter = replace(flight, frames=flight.frames[:3], episode_return=7.0)
    films = Films({"before": flight, "after": shorter, "unseen": None})
    assert repr(films) == f"before: {flight.episode_return:.0f} points; after: 7 points"
    data = films._repr_png_()
    assert data is not None
    assert len(data) < 1_000_000
    picture = Image.open(io.BytesIO(data))
    assert picture.width == 600
    pages = []
    for number in range(picture.n_frames):  # type: ignore[attr-defined]
        picture.seek(number)
        pages.append(np.asarray(picture.convert("RGB"))[20:])
    assert not np.array_equal(pages[0][:, :296], pages[-1][:, :296])  # the longer flight goes on …
    assert np.array_equal(pages[3][:, 300:596], pages[-1][:, 300:596])  # … while the shorter one waits

    def nothing(*_: object) -> None:
        raise replay.CannotRenderError("no pygame")

    monkeypatch.setattr("sb3_ppo_edu.course.lesson.film_episode", nothing)
    assert film(model, settings) is None
    assert "No pictures on this machine: no pygame" in capsys.readouterr().out
    assert Films({"before": None})._repr_png_() is None
