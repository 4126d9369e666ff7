"""
The experiments of ``sb3-edu bench``: their flags, and what runs them.

"The lecture" is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (errata: ``notebooks/errata.md``).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from sb3_ppo_edu.cli.display import TextConsole
from sb3_ppo_edu.cli.flags import positive_int
from sb3_ppo_edu.cli.refusals import DONE, FAILED, refusing_bad_input
from sb3_ppo_edu.lab.algorithms import ALGORITHMS as LEARNERS
from sb3_ppo_edu.lab.experiments import SUITES
from sb3_ppo_edu.lab.processes import ProcessError
from sb3_ppo_edu.lab.runs import Run
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES, REFERENCE
from sb3_ppo_edu.lab.speed.suite import make_plan, open_folder, run_jobs
from sb3_ppo_edu.lab.suite import Backend, Done, in_processes, kept_rows, on_ray, run_suite

BAR = "{n_fmt}/{total_fmt}{unit} |{bar}| {elapsed}<{remaining} {desc}"
"""What a progress bar shows; what is being done stands last, because its length changes."""

SPEED_FOLDER, QUICK_SPEED_FOLDER = Path("benchmarks", "speed"), Path("runs", "speed-quick")
SCALE_FOLDER, QUICK_SCALE_FOLDER = Path("benchmarks", "scale"), Path("runs", "scale-quick")

LEARN_SUITES = ("lecture", "lander", "mujoco", "minatar", "atari", "peers")

BENCH_LEARN_DESCRIPTION = """\
Train EduPPO, SB3's PPO and others on several environments with several seeds, and write a report: final returns with
intervals, learning curves, how many steps each needs. Each run has a process of its own with one thread. What is
interrupted goes on where it stopped, what failed is tried again. "lander" and "atari" take less than an hour, the others
take hours. "mujoco" and "atari" need the extras of these names, "minatar" needs the extra "lab".
"""

BENCH_LEARN_EXAMPLES = """\
examples:
  sb3-edu bench learn --suite lecture --envs CartPole-v1 Pendulum-v1
  sb3-edu bench learn --suite peers --seeds 3 --workers 2
  sb3-edu bench learn --suite mujoco --envs Hopper-v5 --algorithms eduppo
  sb3-edu bench learn --suite peers --backend ray --address auto

exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted (what is done is kept)
"""

BENCH_PARITY_DESCRIPTION = """\
Train both engines of EduPPO and SB3's PPO with the same settings and seeds, and compare: are the bits equal, do they learn
equally well, how much faster is it. All of it takes hours. What is interrupted goes on where it stopped.

exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted (what is done is kept)
"""

BENCH_SENSITIVITY_DESCRIPTION = """\
Vary PPO's settings around SB3's defaults, one at a time and all together, and rank them by what they do to the final return.
Beside it the lecture's two demonstrations: return against learning rate, and the policy that collapses. All of it takes one
to two hours. What is interrupted goes on where it stopped.

exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted (what is done is kept)
"""

BENCH_SPEED_DESCRIPTION = """\
Measure how much faster EduPPO trains than SB3's PPO, where the time goes, and what single updates cost. Each training runs
in a process of its own with one thread, the algorithms in turn. Rows are kept as they come: what is interrupted goes on
where it stopped. All of it takes about an hour. SBX takes part where its extra `peers` is installed, CleanRL where the
environment variable CLEANRL names a checkout of it.
"""

BENCH_SCALE_DESCRIPTION = """\
Measure environment steps a second of every backend against the number of environments, training in one process and in two,
and what updates and all-reduces of processes take; project from there to 64 processes on 8 machines. Rows are kept as they
come: what is interrupted goes on where it stopped. All of it takes about ten minutes.

exit codes: 0 done, 2 bad input, 130 interrupted (the rows so far are kept)
"""

BENCH_SPEED_EXAMPLES = """\
examples:
  sb3-edu bench speed --quick
  sb3-edu bench speed
  sb3-edu bench speed --cases cartpole-zoo --algorithms fused --repetitions 9 --no-grid --no-further --folder runs/speed
  sb3-edu bench speed --report-only

exit codes: 0 done, 1 a measurement failed, 2 bad input, 130 interrupted (the rows so far are kept)
"""


def add_bench_scale(experiments: Any) -> None:
    """Add ``sb3-edu bench scale``."""
    parser = experiments.add_parser(
        "scale",
        description=BENCH_SCALE_DESCRIPTION,
    )
    parser.set_defaults(command=bench_scale, parser=parser)
    _add_measuring(parser, f"{SCALE_FOLDER}; with --quick {QUICK_SCALE_FOLDER}", "one small environment", 3, 1)


def bench_scale(arguments: argparse.Namespace) -> int:
    """Measure what is not yet measured, and write the report; return the exit code."""
    # Imported here: it draws.
    from sb3_ppo_edu.lab.scale.measure import measure, missing, plan
    from sb3_ppo_edu.lab.scale.report import read_page

    folder = arguments.folder or (QUICK_SCALE_FOLDER if arguments.quick else SCALE_FOLDER)
    repetitions = arguments.repetitions or (1 if arguments.quick else 3)
    with refusing_bad_input():
        jobs = [] if arguments.report_only else missing(folder, plan(repetitions, arguments.quick))
        measure_with_bar(jobs, measure(folder, jobs))
        page = read_page(folder, "sb3-edu bench scale" + (" --quick" if arguments.quick else ""))
    show_page(page, folder, "scale", TextConsole())
    return DONE


def add_bench_speed(experiments: Any) -> None:
    """Add ``sb3-edu bench speed``."""
    parser = experiments.add_parser(
        "speed",
        description=BENCH_SPEED_DESCRIPTION,
        epilog=BENCH_SPEED_EXAMPLES,
    )
    parser.set_defaults(command=bench_speed, parser=parser)
    parser.add_argument(
        "--cases", nargs="+", metavar="CASE", help=f"trainings: {', '.join(CASES)} (default: all; with --quick two of them)"
    )
    parser.add_argument(
        "--algorithms",
        nargs="+",
        metavar="NAME",
        help=f"who trains: {', '.join(ALGORITHMS)} (default: those of each case that are here; {REFERENCE} takes part anyway)",
    )
    parser.add_argument(
        "--grid", action=argparse.BooleanOptionalAction, default=True, help="measure single updates too (default: yes)"
    )
    parser.add_argument(
        "--further",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure imports, first updates and callbacks too (default: yes)",
    )
    _add_measuring(parser, f"{SPEED_FOLDER}; with --quick {QUICK_SPEED_FOLDER}", "shorten everything", 5, 2)


def add_bench_learn(experiments: Any) -> None:
    """Add ``sb3-edu bench learn``."""
    parser = experiments.add_parser(
        "learn",
        description=BENCH_LEARN_DESCRIPTION,
        epilog=BENCH_LEARN_EXAMPLES,
    )
    parser.set_defaults(command=bench_suite, parser=parser, quick=False)
    parser.add_argument(
        "--suite", choices=LEARN_SUITES, default=LEARN_SUITES[0], help="which comparison (default: %(default)s)"
    )
    parser.add_argument("--envs", nargs="+", metavar="ENV", help="only these environments")
    parser.add_argument("--algorithms", nargs="+", metavar="NAME", help=f"only these: {', '.join(LEARNERS)}")
    parser.add_argument("--seeds", type=positive_int, metavar="N", help="seeds of each (default: the suite's own number)")
    _add_running(parser, "benchmarks/SUITE")


def add_bench_parity(experiments: Any) -> None:
    """Add ``sb3-edu bench parity``."""
    parser = experiments.add_parser(
        "parity",
        description=BENCH_PARITY_DESCRIPTION,
    )
    parser.set_defaults(command=bench_suite, parser=parser, suite="parity", algorithms=None, seeds=None)
    parser.add_argument("--quick", action="store_true", help="two small environments, some minutes")
    parser.add_argument("--envs", nargs="+", metavar="ENV", help="only these environments")
    _add_running(parser, "benchmarks/parity; with --quick runs/parity-quick")


def add_bench_sensitivity(experiments: Any) -> None:
    """Add ``sb3-edu bench sensitivity``."""
    parser = experiments.add_parser(
        "sensitivity",
        description=BENCH_SENSITIVITY_DESCRIPTION,
    )
    parser.set_defaults(command=bench_suite, parser=parser, suite="sensitivity", algorithms=None)
    parser.add_argument("--quick", action="store_true", help="short runs, to see it work; the numbers are no result")
    parser.add_argument("--envs", nargs="+", metavar="ENV", help="only these environments")
    parser.add_argument(
        "--seeds", type=positive_int, metavar="N", help="seeds of each value (default: the study's own number)"
    )
    _add_running(parser, "benchmarks/sensitivity; with --quick runs/sensitivity-quick")


def add_bench_report(experiments: Any) -> None:
    """Add ``sb3-edu bench report``."""
    parser = experiments.add_parser(
        "report",
        description="Write the report of a suite from the rows of its folder: a page, the same in Markdown, and pictures.",
    )
    parser.set_defaults(command=bench_report, parser=parser)
    parser.add_argument("suite", choices=list(SUITES), help="which suite (speed and scale have --report-only)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where its rows are (default: where it puts them)")


def _add_measuring(parser: argparse.ArgumentParser, folder: str, quick: str, full_number: int, quick_number: int) -> None:
    """Add what both experiments that repeat measurements have in common."""
    repeated = f"of each measurement (default: {full_number}; with --quick {quick_number})"
    parser.add_argument("--repetitions", type=positive_int, metavar="N", help=repeated)
    parser.add_argument("--folder", type=Path, metavar="DIR", help=f"where rows, report and pictures are (default: {folder})")
    parser.add_argument("--quick", action="store_true", help=f"{quick}, to see it work; the numbers are no result")
    parser.add_argument("--report-only", action="store_true", help="measure nothing; write the report from the rows there are")


def _add_running(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add what all suites have in common."""
    parser.add_argument("--folder", type=Path, metavar="DIR", help=f"where rows, report and pictures are (default: {folder})")
    parser.add_argument(
        "--workers", type=positive_int, default=os.cpu_count() or 1, metavar="N", help="runs at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--backend", choices=("processes", "ray"), default="processes", help="who runs them (default: %(default)s)"
    )
    parser.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster (default: one is started here)")


def suite_folder(name: str) -> Path:
    """Name the folder where a suite, by its key in ``SUITES``, keeps its rows."""
    return Path("runs", name) if name.endswith("quick") else Path("benchmarks", name)


def bench_suite(arguments: argparse.Namespace) -> int:
    """Run what is missing of a suite, and write its report; return the exit code."""
    name = f"{arguments.suite}-quick" if arguments.quick else arguments.suite
    folder = arguments.folder or suite_folder(name)
    suite = SUITES[name]
    with refusing_bad_input():
        every_run = suite.runs(range(max(arguments.seeds or suite.seeds, suite.seeds)))
        asked = suite.runs(range(arguments.seeds or suite.seeds))
        runs = choose_runs(asked, arguments.envs, arguments.algorithms)
        backend = on_ray(arguments.address) if arguments.backend == "ray" else in_processes(arguments.workers)
    with refusing_bad_input():
        failures = run_with_bar(folder, runs, backend, every_run)
    for failed in failures:
        print(f"{failed.run.name} failed: {failed.error}", file=sys.stderr)
    if len(failures) < len(runs):
        show_report(folder, name, TextConsole())
    return FAILED if failures else DONE


def run_with_bar(folder: Path, runs: Sequence[Run], backend: Backend, among: Sequence[Run], title: str = "") -> list[Done]:
    """
    Run what is missing, with a progress bar.

    :param folder: where the rows are kept
    :param runs: what to run
    :param backend: who runs them
    :param among: all runs that the tables are about
    :param title: what the bar is for
    :return: those that failed
    """
    failures: list[Done] = []
    # What is done already says nothing of how long the rest takes.
    there = len(kept_rows(folder, runs))
    with progress_bar(len(runs), " runs", there) as bar:

        def note(done: Done, count: int, _: int) -> None:
            bar.update(count - bar.n)
            what = f"{title}{done.run.variant}, seed {done.run.seed}" if title else done.run.name
            bar.set_description_str(f"{what} {'failed' if done.error else 'is done'}")
            if done.error:
                failures.append(done)

        bar.set_description_str(title.strip())
        run_suite(folder, runs, backend, note, among)
        bar.update(len(runs) - bar.n)
    return failures


def choose_runs(runs: Sequence[Run], envs: Sequence[str] | None, algorithms: Sequence[str] | None) -> list[Run]:
    """
    Choose some runs of a suite.

    :param runs: all of them
    :param envs: only these environments, or None
    :param algorithms: only these algorithms, or None
    :return: the chosen ones
    :raises ValueError: if a name is in none of them
    """
    own_envs, own_algorithms = {run.env for run in runs}, {run.algorithm for run in runs}
    for what, names, known in (("environment", envs, own_envs), ("algorithm", algorithms, own_algorithms)):
        for one in names or ():
            if one not in known:
                raise ValueError(f"{what} {one!r}: expected one of this suite's: {', '.join(sorted(known))}")
    return [run for run in runs if run.env in (envs or (run.env,)) and run.algorithm in (algorithms or (run.algorithm,))]


def bench_report(arguments: argparse.Namespace) -> int:
    """Write the report of a suite anew; return the exit code."""
    with refusing_bad_input():
        show_report(arguments.folder or suite_folder(arguments.suite), arguments.suite, TextConsole())
    return DONE


def show_report(folder: Path, name: str, console: Console) -> None:
    """
    Write a report, and print what it comes to.

    :param folder: where the rows are
    :param name: key of :data:`SUITES`
    :param console: to print on
    """
    # Imported here: it draws.
    from sb3_ppo_edu.lab.report import read_page

    show_page(read_page(folder, name), folder, name, console)


def show_page(page: Any, folder: Path, name: str, console: Console) -> None:
    """
    Save a page, and print what it comes to.

    :param page: the page
    :param folder: where
    :param name: of its files, without suffix
    :param console: where to print
    """
    # Imported here: it draws.
    from sb3_ppo_edu.lab.page import save_page

    written = save_page(page, folder, name)
    section = page.sections[0]
    if section.table is not None:
        table = Table(title=section.title, title_justify="left", title_style="bold", box=None, padding=(0, 2))
        for index, cell in enumerate(section.table.header):
            table.add_column(cell, justify="left" if index < section.table.names else "right")
        for row in section.table.rows:
            table.add_row(*row)
        console.print(table)
    for paragraph in page.lead:
        console.print(paragraph.replace("**", "").replace("`", ""), markup=False)
    console.print("\n".join(str(path) for path in written), markup=False, soft_wrap=True)


def bench_speed(arguments: argparse.Namespace) -> int:
    """Measure what is not yet measured, and write the report; return the exit code."""
    # Imported here: it draws.
    from sb3_ppo_edu.lab.speed.report import read_page

    folder = arguments.folder or (QUICK_SPEED_FOLDER if arguments.quick else SPEED_FOLDER)
    if not arguments.report_only:
        with refusing_bad_input():
            plan = make_plan(
                arguments.cases,
                arguments.algorithms,
                arguments.repetitions,
                quick=arguments.quick,
                grid=arguments.grid,
                further=arguments.further,
            )
            jobs = open_folder(folder, plan)
        for line in plan.left_out:
            print(f"not measured: {line}", file=sys.stderr)
        try:
            measure_with_bar(jobs, run_jobs(folder, jobs))
        except ProcessError as error:
            print(f"sb3-edu bench speed: error: {error}", file=sys.stderr)
            return FAILED
    with refusing_bad_input():
        page = read_page(folder)
    show_page(page, folder, "speed", TextConsole())
    return DONE


def measure_with_bar(jobs: Sequence[object], measuring: Iterator[object]) -> None:
    """
    Measure with a progress bar.

    :param jobs: all measurements
    :param measuring: measures them in order, and gives each before it begins
    """
    with progress_bar(len(jobs), " measurements") as bar:
        for index, job in enumerate(measuring):
            bar.update(index - bar.n)
            bar.set_description_str(str(job))
        bar.update(len(jobs) - bar.n)


def progress_bar(total: int, unit: str, done: int = 0) -> tqdm[Any]:
    """
    Begin a progress bar.

    :param total: how many there are
    :param unit: of what, with a space before it
    :param done: how many of them were done before
    :return: the bar
    """
    columns, lines = shutil.get_terminal_size()
    return tqdm(total=total, initial=done, unit=unit, ncols=min(columns, 120), nrows=lines, bar_format=BAR)
