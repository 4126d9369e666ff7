"""``sb3-edu push``: a saved run on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_ppo_edu.cli.refusals import DONE, refusing_bad_input
from sb3_ppo_edu.serialization.text import printable

DESCRIPTION = """\
Copy a saved run to the Hugging Face Hub: model, settings, evaluation, log, pictures, and a model card that says what it
reached and how to use it. Log in first, with `hf auth login`. A new repository is private unless --public is given.
"""


def add_push(commands: Any, _: Sequence[str]) -> None:
    """Add ``sb3-edu push``."""
    parser = commands.add_parser(
        "push", description=DESCRIPTION, epilog="example:\n  sb3-edu push runs/lander someone/ppo-LunarLanderContinuous-v3"
    )
    parser.set_defaults(command=push_run, parser=parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="of the repository; created if it is not there")
    parser.add_argument("--public", action="store_true", help="create it for everybody to see")
    parser.add_argument("--card", action="store_true", help="only print the model card, send nothing")


def push_run(arguments: argparse.Namespace) -> int:
    """Copy a saved run to the Hub; return the exit code."""
    # Imported here: it imports torch.
    from sb3_ppo_edu.training.hub import model_card, push
    from sb3_ppo_edu.training.saved_run import open_run

    with refusing_bad_input():
        open_run(arguments.run)
        if arguments.card:
            answer = model_card(arguments.run, arguments.repo_id)
        else:
            answer = push(arguments.run, arguments.repo_id, public=arguments.public)
    print(printable(answer))
    return DONE
