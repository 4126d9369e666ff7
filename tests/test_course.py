"""The course as a whole: what the lessons quote is what was measured, and the command builds, checks and grades."""

from __future__ import annotations

import csv
import re
import statistics
from pathlib import Path

import pytest

from sb3_ppo_edu.cli import main, parse
from sb3_ppo_edu.course import building
from tests.lessons import GOOD, LESSONS, NOTEBOOKS, PROJECT, SOURCE, write_submission


def test_quoted_scores_are_the_benchmarks() -> None:
    """The scores of LunarLander that lesson 08 quotes are those in the benchmark's rows, seed by seed."""
    with (PROJECT / "benchmarks" / "lecture" / "zoo-LunarLander-v3.csv").open(encoding="utf-8", newline="") as file:
        runs = list(csv.DictReader(file))
    source = (NOTEBOOKS / "sources" / "08_honest_benchmarks.py").read_text(encoding="utf-8")
    for constant, algorithm in (("EDUPPO", "eduppo"), ("SB3", "ppo")):
        scores = {int(row["seed"]): float(row["final_mean"]) for row in runs if row["algorithm"] == algorithm}
        assert f"{constant} = np.array({[scores[seed] for seed in range(5)]})" in source


def test_other_quoted_results_are_the_benchmarks() -> None:
    """What lesson 08 and the errata say of this package's settings on LunarLander is what the rows come to."""
    with (PROJECT / "benchmarks" / "lecture" / "runs.csv").open(encoding="utf-8", newline="") as file:
        runs = [row for row in csv.DictReader(file) if row["env"] == "LunarLander-v3"]
    quoted = [(NOTEBOOKS / path).read_text(encoding="utf-8") for path in ("sources/08_honest_benchmarks.py", "errata.md")]
    for algorithm in ("eduppo", "ppo"):
        scores = [float(row["final_mean"]) for row in runs if row["algorithm"] == algorithm]
        assert len(scores) == 5
        assert min(scores) > 200.0
        assert all(f"{statistics.mean(scores):.0f} ± {statistics.stdev(scores):.0f}" in text for text in quoted)


def test_quoted_comparison_is_the_laboratory_s() -> None:
    """The table of algorithms in lesson 08 has every algorithm's mean over the rows' seeds, and names the rows' version."""
    with (PROJECT / "benchmarks" / "peers" / "runs.csv").open(encoding="utf-8", newline="") as file:
        runs = list(csv.DictReader(file))
    source = (NOTEBOOKS / "sources" / "08_honest_benchmarks.py").read_text(encoding="utf-8")
    (version,) = {row["versions"].partition(",")[0].removeprefix("sb3_ppo_edu ") for row in runs}
    assert f"The rows are those of version {version}" in source
    names = {"eduppo": "EduPPO", "ppo": "SB3's PPO", "reinforce": "REINFORCE", "random": "random actions"}
    for algorithm in {row["algorithm"] for row in runs}:
        cells = [names.get(algorithm, algorithm.upper())]
        for env in ("CartPole-v1", "Pendulum-v1", "LunarLander-v3"):
            scores = [float(row["final_mean"]) for row in runs if (row["algorithm"], row["env"]) == (algorithm, env)]
            cells.append(f"{statistics.mean(scores):,.0f}".replace("-", "−") if scores else "cannot act")
        assert f"# | {' | '.join(cells)} |\n" in source
    page = (PROJECT / "benchmarks" / "peers" / "peers.md").read_text(encoding="utf-8")
    assert "| SAC | very good | cannot act / 5,000 / cannot act |" in page
    assert "| EduPPO | good | 22,464 / 25,000 / – |" in page


def test_quoted_curiosity_is_the_benchmark_s() -> None:
    """What lesson 10 says of curiosity is in the benchmark's rows, those with twice the steps."""
    with (PROJECT / "benchmarks" / "learning" / "curiosity.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["env"] == "MountainCar-v0, twice the steps"]
    means = {curious: [float(row["mean"]) for row in rows if row["curious"] == curious] for curious in ("yes", "no")}
    assert [(len(of), sum(mean > -130 for mean in of)) for of in means.values()] == [(5, 5), (5, 2)]
    assert means["no"].count(-200) == 3
    source = (NOTEBOOKS / "sources" / "10_memory_and_masks.py").read_text(encoding="utf-8")
    said = "5 of 5 seeds came above -130 with curiosity and 2 of 5 without, whose other three never saw the flag"
    assert said in source.replace("\n# ", " ")


def test_commands_that_answer_the_lecture_s_scripts_are_commands() -> None:
    """Each ``sb3-edu …`` in the table of the lecture's scripts is accepted as it stands, and each lesson there is one."""
    text = (NOTEBOOKS / "README.md").read_text(encoding="utf-8").split("## The lecture's scripts")[1].split("## Teaching")[0]
    commands = re.findall(r"`sb3-edu ([^`]+)`", text)
    assert len(commands) == 8
    for command in commands:
        assert callable(parse(command.split()).command)
    assert {Path(link).stem for link in re.findall(r"\]\((student/[^)]+)\)", text)} <= set(LESSONS)


def test_command_builds_checks_and_grades(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``build``, ``check`` and ``grade`` do what they say, with the exit codes 0, 1 and 2."""
    folder = tmp_path / "notebooks"
    (folder / "sources").mkdir(parents=True)
    (folder / "sources" / "01_small.py").write_text(SOURCE, encoding="utf-8")
    where = ["--notebooks", str(folder)]
    assert main(["course", "check", "--no-execute", *where]) == 1
    assert "run `sb3-edu course build`" in capsys.readouterr().out
    for verb, said in (("build", "01_small.ipynb"), ("check", "Ready to be handed out")):
        assert main(["course", verb, *(["--no-execute"] if verb == "check" else []), *where]) == 0
        printed = capsys.readouterr().out
        assert said in printed
        assert ("REPOSITORY in" in printed) is (building.REPOSITORY == "")

    submissions = tmp_path / "submissions"
    submissions.mkdir()
    assert main(["course", "grade", str(submissions), *where]) == 2
    write_submission(submissions / "ada.ipynb", GOOD["clip_fraction"])
    assert main(["course", "grade", str(submissions), "--output", str(tmp_path / "out"), *where]) == 0
    assert "[1/1] ada: 1 of 1 points, graded" in capsys.readouterr().out
    assert (tmp_path / "out" / "feedback" / "ada.md").exists()
    assert main(["course", "grade", str(submissions), "--output", str(tmp_path / "out"), *where]) == 2
    assert "--resume goes on with it" in capsys.readouterr().err
