"""``sb3-edu evaluate``: a saved run against random actions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sb3_ppo_edu.cli.display import TextConsole
from sb3_ppo_edu.cli.flags import add_acting_arguments, positive_int
from sb3_ppo_edu.cli.printing import print_evaluation
from sb3_ppo_edu.cli.refusals import DONE, refusing_bad_input
from sb3_ppo_edu.training.folder import SETTINGS_FILE
from sb3_ppo_edu.training.saved_run import evaluate_random, evaluate_run, open_run
from sb3_ppo_edu.training.settings import as_settings_say


def add_evaluate(commands: Any, _: Sequence[str]) -> None:
    """Add ``sb3-edu evaluate``."""
    parser = commands.add_parser(
        "evaluate",
        description="Evaluate a saved run, and random actions from the same starting states.",
        epilog="example:\n  sb3-edu evaluate runs/lander --episodes 500 --seed 7",
    )
    parser.set_defaults(command=evaluate_saved, parser=parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    parser.add_argument("--episodes", type=positive_int, default=100, metavar="N", help="number of episodes (default: 100)")
    add_acting_arguments(parser)


def evaluate_saved(arguments: argparse.Namespace) -> int:
    """Evaluate a saved run and random actions; return the exit code."""
    console = TextConsole(highlight=False)
    with refusing_bad_input():
        saved = open_run(arguments.run, trusted=arguments.trust, max_episode_steps=arguments.max_episode_steps)
        # Without trust only what is well known is built, and what fails there is what it was built with.
        with nullcontext() if arguments.trust else as_settings_say(arguments.run / SETTINGS_FILE):
            trained = evaluate_run(saved, arguments.episodes, arguments.seed, deterministic=not arguments.stochastic)
            random = evaluate_random(saved, arguments.episodes, arguments.seed)
    print_evaluation(console, trained, random, arguments.max_episode_steps)
    return DONE
