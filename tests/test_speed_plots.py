"""The speed laboratory's pictures show its rows."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from sb3_ppo_edu.lab.speed import plots
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS
from sb3_ppo_edu.lab.speed.rows import Tables
from tests.speed_rows import tables as tables

OKABE_ITO = {"#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#666666"}


def bars(figure: Figure) -> list[tuple[float, float]]:
    """
    List the bars of a figure.

    :param figure: the figure
    :return: left end and width of each that has a width, from top to bottom and left to right
    """
    found = [patch for patch in figure.axes[0].patches if patch.get_width()]  # type: ignore[attr-defined]
    found.sort(key=lambda patch: (patch.get_y(), patch.get_x()))  # type: ignore[attr-defined]
    return [(float(patch.get_x()), float(patch.get_width())) for patch in found]  # type: ignore[attr-defined]


def test_picture_of_trainings_shows_the_seconds(tables: Tables) -> None:
    """Bars are as long as the medians, each with its seconds; trainings are named; the colours are told apart by all."""
    figure = plots.draw_glance(tables.end_to_end, tables.split)
    # medians of 8, 10, 12 and 2, 5, 4 seconds, and the floor: 0.8 + 0.2 + 0.6
    assert bars(figure) == [(0.0, 10.0), (0.0, 4.0), (0.0, pytest.approx(1.6))]
    assert [text.get_text() for text in figure.axes[0].texts] == ["10.00 s", "4.00 s (2.5 ×)", "1.60 s"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["6.00 s", "8.00 s"]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["CartPole-v1\nthe zoo's settings", "Pendulum-v1\nthe zoo's settings without gSDE"]
    for colours in (plots.ENGINE_COLOURS, plots.GLANCE_COLOURS, plots.PART_COLOURS):
        assert set(colours.values()) <= OKABE_ITO
    assert {*plots.GLANCE} == {*plots.GLANCE_COLOURS} <= {*ALGORITHMS, "floor"}
    assert len(set(plots.ENGINE_COLOURS.values())) == len(plots.ENGINE_COLOURS)


def test_picture_of_parts_shows_shares(tables: Tables) -> None:
    """SB3's parts add up to 1, the others' to their share of SB3's ten seconds, the floor's without the bare environment."""
    found = bars(plots.draw_split(tables.split))
    widths = [0.2, 0.1, 0.05, 0.6, 0.05, 0.1, 0.05, 0.025, 0.2, 0.025, 0.08, 0.02, 0.06]
    np.testing.assert_allclose([width for _, width in found], widths)
    np.testing.assert_allclose([left for left, _ in found[10:]], [0.0, 0.08, 0.1], atol=1e-12)


def test_picture_of_scaling_shows_the_grid(tables: Tables) -> None:
    """Each panel has a line for each engine and the floor through the rows' points, on logarithmic axes."""
    figure = plots.draw_scaling(tables.grid)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 3 * 2
    assert all((axes.get_xscale(), axes.get_yscale(), len(axes.lines)) == ("log", "log", 4) for axes in panels)
    assert panels[0].get_title(loc="left") == "one update, 2 layers of 64"
    np.testing.assert_array_equal(panels[0].lines[2].get_xydata(), [[64, 250], [1024, 4000]])
    assert panels[3].get_title(loc="left") == "one update, batches of 1,024"
    np.testing.assert_array_equal(panels[3].lines[2].get_xydata(), [[64, 4000], [256, 160_000]])
    assert panels[5].get_title(loc="left") == "one step of acting, 2 layers of 256"
    labels = {text.get_text() for text in panels[5].texts}
    assert labels == {"SB3's PPO", "EduPPO, autograd", "EduPPO, kernels", "bare matrix products"}
