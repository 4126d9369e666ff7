"""Pictures show the numbers they were given; films show the episode that was played."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from matplotlib.figure import Figure
from PIL import Image
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env
from sb3_ppo_edu.lab import replay
from sb3_ppo_edu.lab.plots import (
    Band,
    LearningCurve,
    Panel,
    draw_bands,
    draw_each,
    draw_learning_curve,
    draw_one_setting,
    draw_panels,
    read_learning_curve,
    read_training_episodes,
    rolling_mean,
    save_figure,
    short,
)
from sb3_ppo_edu.training.evaluation import RandomPolicy

NOTHING = np.zeros(0)
OKABE_ITO = {"#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#000000", "#666666"}


class Counter(gym.Env[Any, Any]):
    """
    Draws the number of steps made as a shade of grey, and pays it as the reward.

    :param length: steps of an episode
    :param width: width of the image
    :param noise: draw noise instead, which no file format makes small
    :param broken: raise when asked to draw
    :param render_mode: as gymnasium has it
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's own form)
    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(
        self, length: int = 5, width: int = 20, noise: bool = False, broken: bool = False, render_mode: str | None = None
    ) -> None:
        self.length, self.width, self.noise, self.broken, self.render_mode = length, width, noise, broken, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start counting."""
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count."""
        self.steps += 1
        return np.zeros(1, np.float32), float(self.steps), self.steps == self.length, False, {}

    def render(self) -> Any:
        """Draw the count."""
        if self.broken:
            raise RuntimeError("no driver")
        shape = (self.width // 2, self.width, 3)
        if self.noise:
            return self.np_random.integers(0, 256, shape, np.uint8)
        return np.full(shape, min(10 * self.steps, 255), np.uint8)


gym.register("Counter-v0", f"{__name__}:Counter")


def counter(render_mode: str | None = "rgb_array", **kwargs: Any) -> VecEnv:
    """
    Make an environment to film.

    :param render_mode: as gymnasium has it
    :param kwargs: arguments of ``Counter``
    :return: the environment
    """
    return make_evaluation_env(EnvironmentSettings("Counter-v0", kwargs), render_mode=render_mode)


def film(env: VecEnv) -> replay.Film:
    """
    Film an episode of random actions.

    :param env: the environment
    :return: the film
    """
    return replay.film_episode(RandomPolicy(env.action_space, 1, 0), env)


def shades(frames: list[Image.Image]) -> list[int]:
    """
    Read the shade of grey of each frame.

    :param frames: images of one colour
    :return: its red part
    """
    return [int(np.asarray(frame.convert("RGB"))[0, 0, 0]) for frame in frames]


# -- the learning curve ------------------------------------------------------------------------------------------------------


def a_curve(**changes: Any) -> LearningCurve:
    """
    Give a curve with a few points of everything.

    :param changes: what to have otherwise
    :return: the curve
    """
    values: dict[str, Any] = {
        "title": "An environment",
        "train_steps": np.array([10.0, 20.0, 30.0]),
        "train_returns": np.array([1.0, 2.0, 6.0]),
        "eval_steps": np.array([15, 30]),
        "eval_returns": np.array([[1.0, 3.0], [5.0, 9.0]]),
        "final_returns": np.array([8.0, 10.0]),
        "random_returns": np.array([-3.0, -1.0]),
    }
    return LearningCurve(**{**values, **changes})


def write_monitor(folder: Path, environment: int, episodes: list[tuple[float, int]]) -> None:
    """
    Write a monitor file as SB3 does.

    :param folder: where
    :param environment: index of the environment
    :param episodes: return and length of each
    """
    folder.mkdir(exist_ok=True)
    lines = ['#{"t_start": 0.0, "env_id": "x"}', "r,l,t", *(f"{r},{length},0.5" for r, length in episodes)]
    (folder / f"{environment}.monitor.csv").write_text("\n".join(lines) + "\n")


def test_rolling_mean_by_hand() -> None:
    """Means of 1; 1, 2; 2, 6; 6, 4."""
    np.testing.assert_allclose(rolling_mean(np.array([1.0, 2.0, 6.0, 4.0]), 2), [1.0, 1.5, 4.0, 5.0])
    assert rolling_mean(NOTHING, 3).shape == (0,)


def test_training_episodes_lie_at_the_runs_step(tmp_path: Path) -> None:
    """With two environments, the episode that ends at the third step of one of them ends at step 6 of the run."""
    write_monitor(tmp_path, 0, [(1.0, 3), (2.0, 4)])
    write_monitor(tmp_path, 1, [(5.0, 5)])
    steps, returns = read_training_episodes(tmp_path)
    np.testing.assert_array_equal(steps, [6, 10, 14])
    np.testing.assert_array_equal(returns, [1.0, 5.0, 2.0])


def test_folder_is_read(tmp_path: Path) -> None:
    """Monitor files, evaluations.npz and evaluation.json make the curve."""
    write_monitor(tmp_path / "monitor", 0, [(1.0, 3)])
    np.savez(tmp_path / "evaluations.npz", timesteps=[4], results=[[7.0, 8.0]], ep_lengths=[[1, 1]])
    (tmp_path / "evaluation.json").write_text(json.dumps({"trained": {"returns": [9.0]}, "random": {"returns": [0.5]}}))
    curve = read_learning_curve(tmp_path, "x")
    parts = (curve.train_steps, curve.train_returns, curve.eval_steps, curve.eval_returns)
    for part, expected in zip(parts, ([3.0], [1.0], [4], [[7.0, 8.0]]), strict=True):
        np.testing.assert_array_equal(part, expected)
    np.testing.assert_array_equal(curve.final_returns, [9.0])
    np.testing.assert_array_equal(curve.random_returns, [0.5])


def test_decisions_are_drawn_as_environment_steps(tmp_path: Path) -> None:
    """Where an action is held for three steps, an evaluation after 4 decisions stands at 12; monitors count steps already."""
    write_monitor(tmp_path / "monitor", 0, [(1.0, 12)])
    np.savez(tmp_path / "evaluations.npz", timesteps=[4], results=[[7.0]], ep_lengths=[[1]])
    curve = read_learning_curve(tmp_path, "x", 3)
    assert (curve.train_steps.tolist(), curve.eval_steps.tolist()) == ([12.0], [12])


def test_empty_folder_is_an_empty_curve(tmp_path: Path) -> None:
    """A run that was interrupted at once can be drawn all the same."""
    curve = read_learning_curve(tmp_path, "x")
    assert len(curve.train_steps) == len(curve.eval_steps) == len(curve.final_returns) == 0
    save_figure(draw_learning_curve(curve), tmp_path / "empty.png")


def lines_of(figure: Figure) -> dict[str, Any]:
    """
    Find what was drawn, by its name in the legend.

    :param figure: the figure
    :return: the drawn things
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    return {label.split(",")[0]: handle for handle, label in zip(handles, labels, strict=True)}


def test_lines_are_the_numbers() -> None:
    """Each line has the points it stands for; the band is mean ± standard deviation."""
    drawn = lines_of(draw_learning_curve(a_curve()))
    np.testing.assert_array_equal(drawn["training episode"].get_offsets(), [[10, 1], [20, 2], [30, 6]])
    np.testing.assert_allclose(drawn["training"].get_xydata(), [[10.0, 1.0], [20.0, 1.5], [30.0, 3.0]])
    np.testing.assert_array_equal(drawn["evaluation"].get_xydata(), [[15, 2], [30, 7]])
    assert list(drawn["random actions"].get_ydata()) == [-2, -2]
    np.testing.assert_allclose(drawn["final evaluation"].lines[0].get_xydata(), [[30, 9]])
    band: Any = draw_learning_curve(a_curve()).axes[0].collections[1].get_paths()[0].vertices
    assert {tuple(corner) for corner in band} == {(15, 1), (15, 3), (30, 5), (30, 9)}


def test_legend_says_the_results() -> None:
    """Final and random results can be read off the legend, with a true minus sign."""
    labels = draw_learning_curve(a_curve()).axes[0].get_legend_handles_labels()[1]
    assert "final evaluation, 9 ± 1 over 2 episodes" in labels
    assert "random actions, mean −2" in labels
    assert "evaluation, mean ± std of 2 episodes" in labels


def test_axes_are_labelled_and_colours_can_be_told_apart() -> None:
    """Title, both axes' labels, and colours of Okabe and Ito's palette or grey only."""
    figure = draw_learning_curve(a_curve())
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "An environment"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "return of an episode")
    colours = {str(line.get_color()).lower() for line in axes.lines}
    assert len(colours) == 4
    assert colours <= OKABE_ITO


def test_returns_are_written_as_in_the_tables() -> None:
    """Thousands have a comma, negative numbers a minus sign, fractions keep their digits and no more."""
    points = np.array([0.0, 7000.0])
    a_band = Band(steps=points, mean=points, low=points, high=points, seeds=1)
    figures = draw_learning_curve(a_curve()), draw_bands("An environment", {"EduPPO": a_band}, None, None)
    for figure in figures:
        write = figure.axes[0].yaxis.get_major_formatter()
        assert [write(value) for value in (7000.0, -1234567.0, 0.1 + 0.2)] == ["7,000", "\N{MINUS SIGN}1,234,567", "0.3"]


def test_curves_keep_their_colours_and_stay_in_the_picture() -> None:
    """A name has one colour whoever is beside it; what falls far below random actions is cut off, and the legend says so."""
    steps = np.array([1.0, 2.0])
    good, bad = (
        Band(steps, mean, mean - 1.0, mean + 1.0, seeds=3) for mean in (np.array([0.0, 200.0]), np.array([-9e3, 0.0]))
    )
    alone = draw_bands("An environment", {"B": good}, 200.0, -100.0, known=["A", "B"]).axes[0]
    both = draw_bands("An environment", {"A": bad, "B": good}, 200.0, -100.0, known=["A", "B"]).axes[0]
    assert alone.lines[0].get_color() == both.lines[1].get_color() != both.lines[0].get_color()
    assert both.get_ylim()[0] == -100.0 - 0.75 * 300.0
    assert both.get_ylim()[1] > 201.0
    legend = both.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert {"A (3 seeds) ↓", "B (3 seeds)", "↓ goes below the picture"} <= set(texts)
    # A target below random actions is no reason to cut anything.
    upside_down = draw_bands("An environment", {"A": bad}, -200.0, -100.0).axes[0]
    assert upside_down.get_ylim()[0] < -9e3
    assert "↓" not in "".join(text.get_text() for text in alone.get_legend().get_texts())  # type: ignore[union-attr]


def test_legend_shows_two_strokes_of_a_broken_line() -> None:
    """The third curve, SB3's PPO, is broken; its sample is longer than two strokes and the gaps between them."""
    steps = np.array([1.0, 2.0])
    bands = {name: Band(steps, steps, steps, steps, seeds=3) for name in "ABC"}
    legend = draw_bands("", bands, None, None).axes[0].get_legend()
    assert legend is not None
    stroke, gap = 5 * 2.0, 4 * 2.0  # in widths of the line, which is two points wide
    assert legend.handlelength * 9 > 2 * (stroke + gap)  # letters of nine points


def test_learning_rates_stand_to_scale() -> None:
    """From 1e-3 to 1e-2 is as far as from 1e-2 to 1e-1; levels with a zero among them stand evenly."""
    for levels, expected in (((1e-3, 1e-2, 1e-1), [-3.0, -2.0, -1.0]), ((0.0, 1.0, 100.0), [0.0, 1.0, 2.0])):
        panel = Panel("rate", levels, [0.0] * 3, [0.0] * 3, [0.0] * 3, default=levels[1])
        axes = draw_one_setting("", {"an environment": panel}).axes[0]
        curve, default = (np.asarray(line.get_xdata(), dtype=float) for line in axes.lines)
        np.testing.assert_allclose(curve, np.array(expected))
        np.testing.assert_allclose(default, np.full(2, expected[1]))


def test_levels_of_a_small_panel_do_not_run_into_each_other() -> None:
    """Half a decade of three is room enough for a label, half a decade of four is not: then every other one is named."""
    levels = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
    panel = Panel("rate", levels, [0.0] * 6, [0.0] * 6, [0.0] * 6, default=1e-4)
    named = [text.get_text() for text in draw_panels("", [panel, panel]).axes[0].get_xticklabels()]
    assert named == ["1e-4", "3e-4", "1e-3", "3e-3", "0.01", "0.1"]  # a sixth of the width each: enough
    panel = Panel("rate", (1e-5, 3e-5, *levels), [0.0] * 8, [0.0] * 8, [0.0] * 8, default=1e-4)
    named = [text.get_text() for text in draw_panels("", [panel, panel]).axes[0].get_xticklabels()]
    assert named == ["1e-5", "", "1e-4", "", "1e-3", "", "0.01", "0.1"]  # an eighth: too little


def test_each_curve_has_a_small_picture_of_its_own() -> None:
    """
    Of five curves each is coloured once and grey in every picture; budgets that differ by more than 4 get a logarithmic axis.

    The target is a solid line, random actions a dotted one; unused places are empty.
    """
    steps = np.array([100, 200])
    rising = {index: np.array([index, index + 1.0]) for index in range(5)}
    bands = {f"A{index}": Band(steps * (index + 1), mean, mean, mean, 5) for index, mean in rising.items()}
    figure = draw_each("An environment", bands, 9.0, 0.0)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == [f"{name} (5 seeds)" for name in bands]
    for axes, own in zip(shown, bands.values(), strict=True):
        greys = [line for line in axes.lines if line.get_color() == "#C8C8C8"]
        assert [list(np.asarray(line.get_xdata())) for line in greys] == [list(band.steps) for band in bands.values()]
        (coloured,) = [line for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_array_equal(coloured.get_xydata(), np.stack([own.steps, own.mean], axis=1))
    assert len({line.get_color() for axes in shown for line in axes.lines if line.get_marker() == "o"}) == 5
    assert shown[0].get_xscale() == "log"
    assert "solid line: target, 9; dotted: random actions, 0" in figure.get_supxlabel()
    near = draw_each("An environment", {name: replace(band, steps=steps) for name, band in bands.items()}, None, None)
    assert near.axes[0].get_xscale() == "linear"


def test_one_disaster_does_not_flatten_the_picture() -> None:
    """One training episode in two hundred that is far below all others is not what the axis is made for."""
    returns = np.append(np.linspace(0, 10, 199), -10_000.0)
    figure = draw_learning_curve(a_curve(train_steps=np.arange(200.0), train_returns=returns))
    low, high = figure.axes[0].get_ylim()
    assert -10 < low < -3
    assert 10 < high < 20


@pytest.mark.parametrize(
    "missing",
    [
        {"train_steps": NOTHING, "train_returns": NOTHING},
        {"eval_steps": NOTHING, "eval_returns": np.zeros((0, 0))},
        {"final_returns": NOTHING},
        {"random_returns": NOTHING},
        {
            "train_returns": np.ones(3),
            "eval_returns": np.ones((2, 2)),
            "final_returns": np.ones(2),
            "random_returns": np.ones(2),
        },
    ],
)
def test_what_is_missing_is_not_drawn(missing: dict[str, Any], tmp_path: Path) -> None:
    """A curve without one of its parts, or with nothing but equal returns, can be drawn and saved."""
    figure = draw_learning_curve(a_curve(**missing))
    save_figure(figure, tmp_path / "curve.png")
    low, high = figure.axes[0].get_ylim()
    assert low < high
    with Image.open(tmp_path / "curve.png") as image:
        assert image.format == "PNG"
        assert image.width >= 1000


# -- the replay --------------------------------------------------------------------------------------------------------------


def test_film_shows_every_step() -> None:
    """Five steps: the start and the four states after it; the fifth ends the episode, which paid 1 + 2 + 3 + 4 + 5."""
    filmed = film(counter(length=5))
    assert shades(filmed.frames) == [0, 10, 20, 30, 40]
    assert filmed.episode_return == 15.0
    # render_fps is 20.
    assert filmed.seconds_per_frame == 0.05


def test_long_episodes_skip_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where four frames are the limit, ten steps are shown by every fourth, at the same speed."""
    monkeypatch.setattr(replay, "MAX_FRAMES", 4)
    filmed = film(counter(length=10))
    assert shades(filmed.frames) == [0, 40, 80]
    assert filmed.seconds_per_frame == 0.2


def test_wide_images_are_made_smaller() -> None:
    """An image of 800 × 400 becomes 400 × 200; a small one stays."""
    assert film(counter(width=800)).frames[0].size == (400, 200)
    assert film(counter(width=20)).frames[0].size == (20, 10)


def test_gif_plays_the_film(tmp_path: Path) -> None:
    """The file has the frames in their order, each for a twentieth of a second, for ever."""
    replay.save_gif(film(counter(length=5)), tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as image:
        frames = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            assert image.info["duration"] == 50
            frames.append(image.convert("RGB"))
        assert image.info["loop"] == 0
    np.testing.assert_allclose(shades(frames), [0, 10, 20, 30, 40], atol=2)
    assert list(tmp_path.iterdir()) == [tmp_path / "film.gif"]


def test_large_gif_has_fewer_frames(tmp_path: Path) -> None:
    """A film of noise is brought below the limit by showing fewer frames for longer."""
    filmed = film(counter(length=16, width=200, noise=True))
    replay.save_gif(filmed, tmp_path / "full.gif")
    limit = (tmp_path / "full.gif").stat().st_size // 3
    replay.save_gif(filmed, tmp_path / "small.gif", max_bytes=limit)
    assert (tmp_path / "small.gif").stat().st_size <= limit
    with Image.open(tmp_path / "small.gif") as image:
        assert getattr(image, "n_frames", 1) == 4
        assert image.info["duration"] == 200


def test_gif_has_a_frame_whatever_the_limit(tmp_path: Path) -> None:
    """No limit is so small that nothing is left."""
    replay.save_gif(film(counter(length=5)), tmp_path / "film.gif", max_bytes=1)
    with Image.open(tmp_path / "film.gif") as image:
        assert getattr(image, "n_frames", 1) == 1


@pytest.mark.parametrize(
    ("env", "reason"),
    [(lambda: counter(broken=True), "RuntimeError: no driver"), (lambda: counter(render_mode=None), "no image")],
)
def test_environment_that_cannot_draw_says_why(env: Any, reason: str) -> None:
    """Whatever goes wrong in drawing is one kind of error, with the reason."""
    with pytest.raises(replay.CannotRenderError, match=reason):
        film(env())


@pytest.mark.parametrize(
    ("level", "text"), [(3e-4, "3e-4"), (1e-5, "1e-5"), (0.01, "0.01"), (0.0, "0"), (8192, "8192"), (0.95, "0.95")]
)
def test_levels_are_short(level: float, text: str) -> None:
    """Eight learning rates fit below a small panel."""
    assert short(level) == text
