"""The reports of the learning experiments: numbers that are the rows', pages that can be read."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.lab import page as pages
from sb3_ppo_edu.lab import report
from sb3_ppo_edu.lab.experiments import SUITES
from sb3_ppo_edu.lab.formatting import number
from sb3_ppo_edu.lab.learning import Task
from sb3_ppo_edu.lab.rows import read_rows, write_rows
from sb3_ppo_edu.lab.runs import CurveRow, Run, RunRow, check
from sb3_ppo_edu.lab.suite import CURVES_FILE, RUNS_FILE
from sb3_ppo_edu.lab.summary import Who, band, compare, environment_steps, score_table, summarise, title_of

TASK = Task("CartPole-v1", 100, 450.0, 50.0)
OURS, REFERENCE, THEIRS = (Who(name, "own") for name in ("eduppo", "eduppo-autograd", "ppo"))
NEEDED = {"mujoco": "mujoco", "lecture": "mujoco", "parity": "mujoco", "minatar": "minatar", "atari": "ale_py"}
"""What the environments of some suites need, of extras."""
PUBLISHED = Path(__file__).parent.parent / "benchmarks"


def row(algorithm: str, seed: int, mean: float, bits: str = "", seconds: float = 10.0, env: str = "CartPole-v1") -> RunRow:
    """A row of a run that ended with this mean return."""
    cpu = seconds, seconds + 2
    return RunRow(algorithm, env, "own", "", seed, 100, mean, 1.0, mean - 2, 50, bits, 99.0, *cpu, 1, "{}", "a machine", "v 1")


def point(algorithm: str, seed: int, step: int, mean: float, env: str = "CartPole-v1") -> CurveRow:
    """An evaluation during training."""
    return CurveRow(algorithm, env, "own", "", seed, step, mean, 0.0, 10)


ROWS = [
    row("eduppo", 0, 500.0, "a", 1.0),
    row("eduppo", 1, 400.0, "b", 2.0),
    row("eduppo-autograd", 0, 480.0, "c"),
    row("eduppo-autograd", 1, 490.0, "d"),
    row("ppo", 0, 480.0, "c", 10.0),
    row("ppo", 1, 490.0, "d", 10.0),
]
POINTS = [
    point("eduppo", 0, 50, 460.0),
    point("eduppo", 0, 100, 500.0),
    point("eduppo", 1, 50, 410.0),
    point("eduppo", 1, 100, 400.0),
]


def test_summary_by_hand() -> None:
    """
    Finals 500 and 400: mean 450, standard deviation 50·√2; one of two reaches 450, at 50 steps, and one is half of them.

    Of the two curves one rises and one falls; 0 and 10 are forgotten. Training took 1.5 s in the median; half of the first
    run's second was gone when it reached the target.
    """
    found = summarise(ROWS, POINTS, TASK, OURS)
    assert (found.seeds, found.steps, found.mean, found.reached) == (2, 100, 450.0, 1)
    assert (found.steps_to_target, found.seconds_to_target) == (50, 0.5)
    assert found.std == pytest.approx(50 * np.sqrt(2))
    assert found.variation == pytest.approx(50 * np.sqrt(2) / 450)
    assert (found.early, found.forgetting, found.seconds) == (0.5, 5.0, 1.5)
    without = summarise(ROWS, [], TASK, THEIRS)
    assert (without.steps_to_target, without.seconds_to_target, without.early, without.forgetting) == (None, None, None, None)


def test_decisions_are_counted_as_environment_steps() -> None:
    """Where the settings hold an action for 4 steps, 100 decisions are 400 steps; so in curves and times to the target."""
    lander = Task("LunarLander-v3", 400, 450.0, 50.0)
    rows = [replace(entry, env="LunarLander-v3") for entry in ROWS]
    points = [replace(entry, env="LunarLander-v3") for entry in POINTS]
    assert [environment_steps(entry) for entry in rows[:2]] == [400, 400]
    found = summarise(rows, points, lander, OURS)
    assert (found.steps, found.steps_to_target, found.seconds_to_target) == (400, 200, 0.5)
    drawn = band(rows, points, lander, OURS)
    assert drawn is not None and drawn.steps.tolist() == [200, 400]
    assert environment_steps(replace(rows[0], settings="shared")) == 300
    assert environment_steps(replace(rows[0], settings="lander-none")) == 100


def test_comparison_by_hand() -> None:
    """
    The same parameters are equivalent and a draw; speed is the median over seeds of 10/1 and 10/2.

    Pairs differ by 20 and −90: 35 lower in the mean. Seeds that only one of the two has do not count.
    """
    same = compare(ROWS, TASK, REFERENCE, THEIRS)
    assert same is not None and same.test is not None
    assert (same.same_bits, same.seeds, same.test.equivalent, same.test.power, same.speed) == (2, 2, True, 1.0, 1.0)
    assert same.improvement == (0.5, 0.5, 0.5)
    other = compare([*ROWS, row("eduppo", 2, 9.0)], TASK, OURS, THEIRS)
    assert other is not None and other.test is not None
    assert (other.same_bits, other.seeds, other.test.difference, other.test.equivalent, other.speed) == (
        0,
        2,
        -35.0,
        False,
        7.5,
    )
    # 500 beats both, 400 beats neither.
    assert other.improvement.value == 0.5
    assert compare(ROWS, TASK, OURS, Who("a2c", "zoo")) is None


def test_a_margin_that_is_not_given_is_one_standard_deviation_of_the_second() -> None:
    """480 and 490 of SB3's PPO: 5·√2."""
    found = compare(ROWS, TASK._replace(margin=None), OURS, THEIRS)
    assert found is not None and found.test is not None
    assert found.test.margin == pytest.approx(5 * np.sqrt(2))


def test_lines_are_told_apart_by_their_settings_where_need_be() -> None:
    """One EduPPO is EduPPO; two say whose settings they have."""
    zoo, own = Who("eduppo", "zoo"), Who("eduppo", "own")
    assert title_of(zoo, [zoo, THEIRS]) == "EduPPO"
    assert [title_of(who, [zoo, own]) for who in (zoo, own)] == [
        "EduPPO, the zoo's settings",
        "EduPPO, this package's settings",
    ]


def test_training_time_is_the_processors() -> None:
    """
    Of older rows, which lack it, the wall clock, unless the run has waited.

    Ten seconds of wall clock and four of the processor, evaluations included: nobody knows how long that run trained, and no
    ratio is made of it.
    """
    old = replace(row("eduppo", 0, 500.0), train_cpu_seconds=math.nan, train_seconds=3.0, cpu_seconds=4.0)
    waited = replace(old, seed=1, train_seconds=10.0)
    assert summarise([old], [], TASK, OURS).seconds == 3.0
    assert summarise([old, waited], [], TASK, OURS).seconds == 3.0
    assert summarise([waited], [], TASK, OURS).seconds is None
    theirs = [replace(old, algorithm="ppo", train_seconds=3.9), replace(old, algorithm="ppo", seed=1, cpu_seconds=99.0)]
    compared = compare([old, waited, *theirs], TASK, OURS, THEIRS)
    assert compared is not None
    assert (compared.timed, compared.seeds) == (1, 2)
    assert compared.speed == pytest.approx(1.3)
    for other in (waited, row("eduppo", 0, 500.0)):  # one that waited, and one whose time is of the other kind
        unknown = compare([other, *theirs], TASK, OURS, THEIRS)
        assert unknown is not None and (unknown.speed, unknown.timed) == (None, 0)
    text = " ".join(pages.to_markdown(report.make_page([old, waited, *theirs], [], "lecture")).split())
    assert "It trained 1.3 times as fast here, where the times of both are known (1 of 2 pairs of runs)." in text
    assert "| 3 s (1 of 2) |" in text
    assert "– s" not in pages.to_markdown(report.make_page([waited], [], "lecture"))


def test_lead_names_all_algorithms_where_there_are_others() -> None:
    """The best first, EduPPO wherever it is; with EduPPO and SB3's PPO alone there is no such list."""
    rows = [row(name, 0, final) for name, final in (("eduppo", -146.0), ("ppo", 21.0), ("random", -180.0), ("a2c", 30.0))]
    rows = [replace(entry, settings="zoo", steps=100_000) for entry in [*rows, row("dqn", 0, 152.0)]]
    rows[-1] = replace(rows[-1], steps=50_000)
    text = " ".join(pages.to_markdown(report.make_page(rows, [], "peers")).split())
    expected = "DQN 152 (50,000 steps), A2C 30, SB3's PPO 21, EduPPO −146, random actions −180."
    assert f"**CartPole-v1**, mean final return after 100,000 environment steps: {expected}" in text
    assert "mean final return after" not in pages.to_markdown(report.make_page(rows[:3], [], "lecture"))


def test_lead_says_where_there_was_nothing_to_tell_apart() -> None:
    """Where every run of both ended at one return, or with the same bits, equivalence says little, and so does the page."""
    rows = [row(name, seed, 500.0, name) for name in ("eduppo", "ppo") for seed in range(3)]
    rows += [row(name, seed, -150.0 - seed, str(seed), env="Pendulum-v1") for name in ("eduppo", "ppo") for seed in range(3)]
    text = " ".join(pages.to_markdown(report.make_page(rows, [], "lecture")).split())
    listed = "(CartPole-v1 with one return in all runs, Pendulum-v1 with the same bits)"
    assert f"in 2 of 2 environments {listed}. It trained 1.0 times as fast here." in text


@pytest.mark.parametrize(("seeds", "text"), [(9, "9 of 9"), (20, "20 of 20 [84%, 100%]")])
def test_shares_of_many_seeds_have_an_interval(seeds: int, text: str) -> None:
    """Wilson's: all of 20 may be 84% of all seeds."""
    (line,) = report.task_section([row("eduppo", seed, 500.0) for seed in range(seeds)], [], TASK).table.rows  # type: ignore[union-attr]
    assert line[5] == text


def test_a_difference_is_not_called_noise() -> None:
    """Far apart is shown to differ; wide apart among themselves can't be told; neither is called equal."""
    apart = [row(name, seed, final + seed, name) for name, final in (("eduppo", 100.0), ("ppo", 400.0)) for seed in range(3)]
    text = " ".join(pages.to_markdown(report.make_page(apart, [], "lecture")).split())
    assert "in 0 of 1 environments; in CartPole-v1 it is shown to differ." in text
    wide = [row(name, seed, 200.0 * abs(turn - seed), name) for name, turn in (("eduppo", 0), ("ppo", 2)) for seed in range(3)]
    text = " ".join(pages.to_markdown(report.make_page(wide, [], "lecture")).split())
    assert "in 0 of 1 environments; in 1 the seeds differ too much among themselves to tell." in text


def test_settings_made_for_other_numbers_of_steps_are_said_in_the_title() -> None:
    """The lecture's half a million steps of LunarLander are ten times what its settings are made for; CartPole's are not."""
    rows = [
        replace(row("eduppo", 0, 250.0), env=env, settings=settings, steps=steps)
        for env, settings, steps in (("LunarLander-v3", "shared", 166_656), ("CartPole-v1", "own", 99_840))
    ]
    page = report.make_page(rows, [], "lecture")
    titles = [section.title for section in page.sections]
    assert "CartPole-v1, 100,000 environment steps" in titles
    wrapped = (
        "LunarLander-v3, 500,000 environment steps, with ActionRepeat (3) and LanderSymmetry, with settings made for 49,920"
    )
    assert wrapped in titles
    text = " ".join(pages.to_markdown(page).split())
    assert "made for other numbers of steps: on LunarLander-v3 49,920 for EduPPO (499,968 here)." in text


def test_rows_of_random_actions_alone_make_a_page() -> None:
    """No settings are named, nothing is compared."""
    text = pages.to_markdown(report.make_page([replace(row("random", 0, 20.0), settings="zoo")], [], "lecture"))
    assert "Settings" not in text
    assert "times as fast here" not in text


def test_the_lectures_note_is_true() -> None:
    """With the zoo's settings three of five runs each reached the target."""
    rows = read_rows(PUBLISHED / "lecture" / "zoo-LunarLander-v3.csv", RunRow)
    for name in ("eduppo", "ppo"):
        finals = [row.final_mean for row in rows if (row.algorithm, row.settings, row.env) == (name, "zoo", "LunarLander-v3")]
        assert (len(finals), sum(final >= 200.0 for final in finals)) == (5, 3)


def test_longer_trainings_are_said() -> None:
    """A last rollout that makes 514,688 of 500,000 steps is said, one that makes 500,096 of an entry's own 500,000 is not."""
    long = [replace(row("ppo", 0, 500.0), env="LunarLander-v3", steps=514_688, settings="zoo")]
    long.append(replace(row("a2c", 0, 9.0), steps=500_096, settings="zoo"))
    text = " ".join(pages.to_markdown(report.make_page(long, [], "peers")).split())
    assert "The last rollout is completed, which makes more steps: 514,688 of SB3's PPO on LunarLander-v3." in text


def test_a_band_is_the_mean_over_seeds_at_common_steps() -> None:
    """(460 + 410) / 2 and (500 + 400) / 2; a step that one seed lacks is left out."""
    found = band(ROWS, [*POINTS, point("eduppo", 0, 75, 1.0)], TASK, OURS)
    assert found is not None
    assert found.steps.tolist() == [50, 100]
    assert found.mean.tolist() == [435.0, 450.0]
    assert (found.low <= found.mean).all() and (found.mean <= found.high).all()
    assert band(ROWS, POINTS, TASK, THEIRS) is None
    assert band(ROWS, [point("eduppo", 0, 50, 1.0), point("eduppo", 1, 60, 1.0)], TASK, OURS) is None


def test_scores_of_several_environments() -> None:
    """
    CartPole from random 50 to 450, LunarLander from −150 to 200: final returns of 250 and 25 are a half in both.

    An environment does not count that lacks random actions, or some of the algorithm's runs.
    """
    tasks = [TASK, Task("LunarLander-v3", 100, 200.0, 20.0), Task("Pendulum-v1", 100, -200.0, 20.0)]
    rows = [
        row("random", 0, 50.0),
        row("random", 0, -150.0, env="LunarLander-v3"),
        row("eduppo", 0, 250.0),
        row("eduppo", 1, 450.0),
        row("eduppo", 0, 25.0, env="LunarLander-v3"),
        row("eduppo", 0, -150.0, env="Pendulum-v1"),
    ]
    partial = score_table(rows, tasks, [OURS])
    assert partial is not None
    np.testing.assert_allclose(partial, [[0.5], [1.0]])
    rows.append(row("eduppo", 1, 200.0, env="LunarLander-v3"))
    scores = score_table(rows, tasks, [OURS])
    assert scores is not None
    np.testing.assert_allclose(scores, [[0.5, 0.5], [1.0, 1.0]])
    assert score_table(rows, tasks, [Who("a2c", "zoo")]) is None
    page = report.make_page(rows, [], "lecture")
    (together,) = [section for section in page.sections if section.title == "All environments together"]
    assert together.table is not None
    assert together.table.rows[0][:4] == ["EduPPO", "2", "2", "0.75 [0.50, 1.00]"]
    assert together.table.rows[0][-1] == "0.25 [0.00, 0.50]"


def test_settings_and_held_actions_are_said() -> None:
    """The lander's report says whose settings it has, and that its steps are decisions times 4."""
    page = report.make_page([replace(row("eduppo", 0, 210.0, env="LunarLander-v3"), steps=12_288)], [], "lander")
    text = page.sections[-1].text[0]
    start = "Settings: this package's (`hyperparams/eduppo.yml`). Steps are the environment's."
    assert text.startswith(start)
    assert "4 of them on LunarLander-v3" in text
    section = page.sections[1]
    assert section.title == "LunarLander-v3, 50,000 environment steps, with ActionRepeat (4) and LanderSymmetry"
    assert section.table is not None and section.table.rows[0][:3] == ["EduPPO", "1", "49,152"]


def test_lines_with_other_wrappers_say_so_themselves() -> None:
    """Then none stand in the title."""
    names = ("own", "lander-none", "lander-repeat", "lander-both")
    rows = [replace(row("eduppo", 0, 210.0, env="LunarLander-v3"), settings=name, steps=12_288) for name in names]
    section = report.task_section(rows, [], Task("LunarLander-v3", 50_000, 200.0, 20.0))
    assert section.title.startswith("LunarLander-v3, 50,000 environment steps") and "ActionRepeat" not in section.title
    assert section.table is not None
    assert [line[0].partition(", ")[2] for line in section.table.rows] == [
        "this package's settings",
        "plain environment",
        "ActionRepeat",
        "ActionRepeat and LanderSymmetry",
    ]


@pytest.mark.parametrize(
    ("value", "digits", "text"), [(1234567.0, 0, "1,234,567"), (-0.25, 2, "−0.25"), (None, 0, "–"), (float("nan"), 0, "–")]
)
def test_numbers_are_written_for_readers(value: float | None, digits: int, text: str) -> None:
    """Thousands are separated, minus is a minus, nothing is a dash."""
    assert number(value, digits) == text


class Outline(HTMLParser):
    """Collects what a page consists of, and fails on tags that are not closed."""

    VOID = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an opened tag."""
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        """Take it back."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text += data


def test_the_page_is_one_file_with_the_numbers_of_the_rows() -> None:
    """HTML that closes its tags, needs no other file but its rows, and says what the rows say; the Markdown says the same."""
    page = report.make_page(ROWS, POINTS, "parity-quick")
    outline = Outline()
    html = pages.to_html(page)
    outline.feed(html)
    assert outline.open == []
    pictures = [source for source in outline.sources if source.startswith("data:image/png;base64,")]
    assert len(pictures) == 1
    assert set(outline.sources) - set(pictures) == {RUNS_FILE, CURVES_FILE}
    assert "450 ± 71" in outline.text
    assert "450 ± 71" in pages.to_markdown(page)
    assert "the same bits" in outline.text and "<strong>the same bits</strong>" in html
    assert "Not all of it is run yet" in outline.text  # Pendulum has no rows


def test_a_page_without_the_autograd_engine_says_whose_rows_stand_for_it() -> None:
    """Where only the fused engine was run, the other's returns are those of SB3's PPO; where both were, nothing is said."""
    others = [entry for entry in ROWS if entry.algorithm != "eduppo-autograd"]
    sentence = 'With `engine="autograd"` EduPPO has no rows of its own here'
    assert sentence in pages.to_markdown(report.make_page(others, POINTS, "lecture"))
    assert sentence not in pages.to_markdown(report.make_page(ROWS, POINTS, "parity-quick"))


def test_a_page_says_for_how_many_steps_the_zoo_made_its_settings() -> None:
    """PPO's for LunarLander are for a million steps, DQN's for a hundred thousand: after so many, the first needs saying."""
    rows = [replace(row(name, 0, 0.0, env="LunarLander-v3"), settings="zoo", steps=100_000) for name in ("ppo", "dqn")]
    page = report.make_page(rows, [], "peers")
    assert "other numbers of steps: on LunarLander-v3 1,000,000 for SB3's PPO (100,000 here). Each" in pages.to_markdown(page)
    assert page.sections[2].title == "LunarLander-v3, 100,000 environment steps, some with settings made for 1,000,000"


def test_what_is_no_markup_is_text() -> None:
    """Names with angle brackets or scripts are shown, not run."""
    assert str(pages.marked("<script>alert(1)</script>")) == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert str(pages.marked("`a<b` and **c**")) == "<code>a&lt;b</code> and <strong>c</strong>"


@pytest.mark.parametrize("name", sorted(SUITES))
def test_every_suite_has_runs_that_can_be(name: str) -> None:
    """Each run finds settings; no two share a name; every task has runs."""
    if name in NEEDED:
        pytest.importorskip(NEEDED[name], reason=f"{NEEDED[name]} is not installed")
    runs = SUITES[name].runs(range(2))
    assert len({run.name for run in runs}) == len(runs)
    assert {run.env for run in runs} == {task.env for task in SUITES[name].tasks}
    for run in {replace(run, seed=0) for run in runs}:
        check(run)
    assert all(isinstance(run, Run) for run in runs)


def test_report_command_writes_the_pages_and_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``bench report`` needs rows only; without them it says which command makes them."""
    assert main(["bench", "report", "parity-quick", "--folder", str(tmp_path)]) == 2
    assert "run the suite first: sb3-edu bench parity --quick" in capsys.readouterr().err
    write_rows(tmp_path / RUNS_FILE, ROWS, RunRow)
    write_rows(tmp_path / CURVES_FILE, POINTS, CurveRow)
    assert main(["bench", "report", "parity-quick", "--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "EduPPO and SB3's PPO" in printed and "2 of 2" in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        RUNS_FILE,
        CURVES_FILE,
        "parity-quick.md",
        "parity-quick.html",
        "CartPole-v1.png",
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["learn", "--suite", "peers", "--envs", "Pong"], "environment 'Pong': expected one of this suite's: CartPole-v1"),
        (["learn", "--algorithms", "ppq"], "algorithm 'ppq': expected one of this suite's: eduppo, ppo, random"),
    ],
)
def test_bad_names_are_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no run has is refused before anything is run."""
    assert main(["bench", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in SUITES if (PUBLISHED / name / RUNS_FILE).is_file()])
def test_published_reports_agree_with_their_rows(name: str) -> None:
    """What is published is what its rows make."""
    folder = PUBLISHED / name
    published = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert published == pages.to_markdown(report.read_page(folder, name))
    # Neither side is empty: there are rows, and each environment that they speak of is on the page.
    environments = {row.env for row in read_rows(folder / RUNS_FILE, RunRow)}
    assert environments and all(env in published for env in environments)


def test_the_named_landers_are_the_published_ones() -> None:
    """The seeds that the first page of the documentation names ended where the published rows say."""
    rows = read_rows(PUBLISHED / "lander" / RUNS_FILE, RunRow)
    finals = {row.seed: round(row.final_mean) for row in rows if row.env == "LunarLanderContinuous-v3" and row.steps}
    text = " ".join((PUBLISHED.parent / "docs" / "index.md").read_text(encoding="utf-8").split())
    named = re.search(r"seeds 4000 to 4006 ended at ([\d, ]+ and \d+)", text)
    assert named is not None
    assert [int(number) for number in re.findall(r"\d+", named[1])] == [finals[seed] for seed in range(4000, 4007)]


def test_what_the_guide_says_of_recomputed_advantages_is_in_the_rows() -> None:
    """Of 64 seeds each, so many reached the target with the option and without, on either LunarLander."""
    text = " ".join((PUBLISHED.parent / "docs" / "guides" / "options.md").read_text(encoding="utf-8").split())
    pattern = (
        r"of 64 seeds (\d+) instead of (\d+) landed on LunarLander-v3, (\d+) instead of (\d+) on LunarLanderContinuous-v3"
    )
    said = re.search(pattern, text)
    assert said is not None
    found = []
    for env, with_it, without in (
        ("LunarLander-v3", "trial 83", "recompute_advantages=false"),
        ("LunarLanderContinuous-v3", "recompute_advantages=true", "recompute_advantages=false"),
    ):
        with (PUBLISHED / "lunarlander" / f"refine-{env}.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if 2000 <= int(row["first"]) < 2064]
        for change in (with_it, without):
            chosen = [row for row in rows if row["change"] == change]
            assert sum(int(row["seeds"]) for row in chosen) == 64
            found.append(sum(int(row["reached"]) for row in chosen))
    assert [int(number) for number in said.groups()] == found
