"""
``sb3-edu tune``: the lecture's tuning order on the user's environment.

"The lecture" is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (errata: ``notebooks/errata.md``).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_ppo_edu.cli.display import TextConsole
from sb3_ppo_edu.cli.experiments import run_with_bar, show_page
from sb3_ppo_edu.cli.flags import positive_int
from sb3_ppo_edu.cli.refusals import DONE, FAILED, refusing_bad_input
from sb3_ppo_edu.lab.runs import Run, RunRow
from sb3_ppo_edu.lab.suite import in_processes, read_tables
from sb3_ppo_edu.lab.tuning import FRESH, STAGES, Tuning

TUNE_DESCRIPTION = """\
Tune EduPPO on an environment as the lecture recommends: start with defaults, change one setting at a time, the learning rate
first. Each value is tried with several seeds, and replaces the present one only if it is better by more than the noise. At
the end the tuned settings and those of the start are compared on fresh seeds, and a recommendation is written.

When which? `tune` for an environment of your own and an explanation of what each setting does, in tens of trainings; the zoo's
search, `sb3-edu zoo train --env ID -optimize`, for the last percent, over all settings at once, in hundreds.
"""

TUNE_EXAMPLES = """\
examples:
  sb3-edu tune --env CartPole-v1 --steps 30000
  sb3-edu tune --env my_package:MyEnv-v0 --steps 200000 --seeds 5
  sb3-edu tune --env Pendulum-v1 --steps 50000 --settings own --only learning_rate n_epochs

What is interrupted goes on where it stopped: the same command again.
exit codes: 0 done, 1 the start's settings failed on all fresh seeds, 2 bad input, 130 interrupted (what is done is kept)
"""


def add_tune(commands: Any, _: Sequence[str]) -> None:
    """Add ``sb3-edu tune``."""
    parser = commands.add_parser(
        "tune",
        description=TUNE_DESCRIPTION,
        epilog=TUNE_EXAMPLES,
    )
    names = [stage.name for stage in STAGES]
    parser.set_defaults(command=tune, parser=parser)
    parser.add_argument(
        "--env", required=True, metavar="ID", help="Gymnasium id; MODULE:ID imports the module that registers it"
    )
    parser.add_argument("--steps", type=positive_int, required=True, metavar="N", help="environment steps of each training")
    parser.add_argument("--seeds", type=positive_int, default=3, metavar="N", help="seeds of each value, ≥ 2 (default: 3)")
    parser.add_argument(
        "--settings",
        choices=("defaults", "own", "zoo"),
        default="defaults",
        help="where to begin: SB3's defaults, this package's settings or the zoo's (default: defaults)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"tune only these, in the lecture's order: {', '.join(names)}"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where rows and recommendation are (default: runs/tune-ID)")
    parser.add_argument(
        "--workers", type=positive_int, default=os.cpu_count() or 1, metavar="N", help="runs at a time (default: %(default)s)"
    )


def tune(arguments: argparse.Namespace) -> int:
    """Tune, compare on fresh seeds, and write the recommendation; return the exit code."""
    # Imported here: it draws.
    from sb3_ppo_edu.lab.tuning_report import recommend, save_block

    folder = arguments.folder or Path("runs", "tune-" + re.sub(r"[^\w.-]+", "-", arguments.env))
    stages = [stage for stage in STAGES if stage.name in (arguments.only or (stage.name,))]
    with refusing_bad_input():
        tuning = Tuning(arguments.env, arguments.steps, arguments.seeds, arguments.settings, stages)
    console = TextConsole()
    runner = Runner(folder, arguments.workers)
    procedure = tuning.procedure()
    try:
        runs = next(procedure)
        while True:
            runs = procedure.send(runner.rows_of(runs, tuning))
    except StopIteration:
        pass
    seeds = range(FRESH, FRESH + max(5, arguments.seeds))
    both = [tuning.runs_of(overrides, seeds) for overrides in ([{}, tuning.changed] if tuning.changed else [{}])]
    rows = runner.rows_of([run for runs in both for run in runs], tuning)
    pairs = [tuple(rows[run] for run in one_seed) for one_seed in zip(*both, strict=True)]
    done = [[row.final_mean for row in pair if row is not None] for pair in pairs if None not in pair]
    if not done:
        console.print("No fresh seed could be trained with; see failures.csv.", markup=False)
        return FAILED
    before, after = [pair[0] for pair in done], [pair[1] for pair in done if len(pair) > 1]
    command = f"sb3-edu tune --env {arguments.env} --steps {arguments.steps} --seeds {arguments.seeds}"
    if arguments.settings != "defaults":
        command += f" --settings {arguments.settings}"
    if arguments.only:
        command += f" --only {' '.join(arguments.only)}"
    show_page(recommend(tuning, before, after, command), folder, "recommendation", console)
    if tuning.changed:
        print(save_block(tuning, folder))
    return DONE


class Runner:
    """
    Runs what tuning asks for, with a progress bar for each stage.

    :param folder: where the rows are kept
    :param workers: runs at a time
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers = folder, workers
        self.asked: dict[Run, None] = {}

    def rows_of(self, runs: Sequence[Run], tuning: Tuning) -> Mapping[Run, RunRow | None]:
        """
        Run what is missing.

        :param runs: what is asked for
        :param tuning: the procedure, for the name of the stage
        :return: rows, None where a run failed
        """
        self.asked |= dict.fromkeys(runs)
        index = len(tuning.decisions)
        title = tuning.stages[index].title if index < len(tuning.stages) else "fresh seeds"
        with refusing_bad_input():
            run_with_bar(self.folder, runs, in_processes(self.workers), list(self.asked), f"{title}: ")
        found = read_tables(self.folder, runs)
        return {run: found[run][0] if run in found else None for run in runs}
