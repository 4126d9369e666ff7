"""``sb3-edu resume``: go on with a run that was interrupted, to the same bits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th
from rich.markup import escape

from sb3_ppo_edu.cli.flags import positive_int
from sb3_ppo_edu.cli.printing import console_for
from sb3_ppo_edu.cli.refusals import refusing_bad_input
from sb3_ppo_edu.cli.torchrun import process_group, resume_rank
from sb3_ppo_edu.cli.training import train_and_finish
from sb3_ppo_edu.distributed.process_group import ProcessGroup
from sb3_ppo_edu.training.folder import SETTINGS_FILE
from sb3_ppo_edu.training.resume import resume_run
from sb3_ppo_edu.training.settings import read_settings
from sb3_ppo_edu.vec_env.guard import ON_FAULT


def add_resume(commands: Any, _: Sequence[str]) -> None:
    """Add ``sb3-edu resume``."""
    resume = commands.add_parser(
        "resume",
        description="Go on with a run that was made with --checkpoint-freq, from its newest whole checkpoint:\nit ends with "
        "the same bits as if it had never been interrupted.\n\nTo train longer: --steps N, for N steps in all. "
        "Schedules (lin_…) then stand\nwhere they would in a run of N steps. steps and checkpoint_freq may be edited in "
        "settings.yml, too.",
    )
    resume.set_defaults(command=resume_interrupted, parser=resume)
    resume.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    resume.add_argument("--steps", type=positive_int, metavar="N", help="steps of the whole run (default: as it was made)")
    resume.add_argument(
        "--take-over", action="store_true", help="although a process on another host seems to train in it: it has ended"
    )
    resume.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")
    resume.add_argument(
        "--eval-episodes", type=positive_int, default=100, metavar="N", help="episodes of the final evaluation"
    )
    resume.add_argument("--no-replay", dest="replay", action="store_false", help="make no film")
    resume.add_argument(
        "--trust",
        action="store_true",
        help="let the run's files name and run what they like (environments, callbacks, "
        "wrappers, policies of your own), and follow links in its folder",
    )
    resume.add_argument(
        "--on-fault", choices=ON_FAULT, help="from here on, what to do about NaN and infinities (default: as the run was made)"
    )


def resume_interrupted(arguments: argparse.Namespace) -> int:
    """Go on with an interrupted run, in all of its processes; return the exit code."""
    with process_group() as arguments.group:
        return _resume_in_group(arguments)


def _resume_in_group(arguments: argparse.Namespace) -> int:
    """Go on with this rank's part of an interrupted run."""
    group: ProcessGroup | None = arguments.group
    console = console_for(group)
    with refusing_bad_input():
        record = read_settings(arguments.run / SETTINGS_FILE)
        th.set_num_threads(record["threads"]["torch"])
        how: dict[str, Any] = {name: getattr(arguments, name) for name in ("on_fault", "steps", "take_over")}
        how["trusted"] = arguments.trust
        if group is not None:
            run = resume_rank(arguments.run, group, arguments.device, **how)
        elif record.get("processes", 1) > 1:
            raise ValueError(
                f"run {arguments.run}: found one process, expected the {record['processes']} that it was made by: "
                f"torchrun --nproc-per-node {record['processes']} -m sb3_ppo_edu resume {arguments.run}"
            )
        else:
            run = resume_run(arguments.run, arguments.device, **how)
    arguments.env, arguments.seed = run.settings.environment.id, run.settings.seed
    done, total = run.model.num_timesteps, run.settings.steps
    console.print(f"[bold]{escape(arguments.env)}[/bold]: going on at step {done:,} of {total:,}", soft_wrap=True)
    if total != record["steps"]:
        console.print(f"The run was made for {record['steps']:,} steps; schedules follow the new number.", soft_wrap=True)
    for index, way in enumerate(run.model.resumed_envs):
        if way not in ("replayed", "set by itself"):
            console.print(f"environment {index} {way}; from here on the run is another one", soft_wrap=True, markup=False)
    if run.model.resumed_engine:
        console.print(run.model.resumed_engine, soft_wrap=True, markup=False)
    return train_and_finish(run, arguments, None if arguments.trust else arguments.run / SETTINGS_FILE)
