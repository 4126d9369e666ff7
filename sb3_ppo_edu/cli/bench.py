"""``sb3-edu bench``: which experiment answers which question. What each takes is in ``cli/experiments.py``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from sb3_ppo_edu.cli.refusals import print_help

EXPERIMENTS = {
    "speed": "How much faster than SB3's PPO is it here, and where does the time go?",
    "learn": "How well and how fast do EduPPO and others learn?",
    "parity": "Is it SB3's PPO: the same bits, the same returns?",
    "sensitivity": "Which settings matter, and how much?",
    "scale": "Which backend steps environments fastest, and what does a second process bring?",
    "report": "What did a suite's rows say? Its page is written anew from them, nothing is trained.",
}
"""Each experiment, and the question that it answers."""


def add_bench(commands: Any, words: Sequence[str]) -> None:
    """
    Add ``sb3-edu bench`` with its experiments.

    :param commands: to add to
    :param words: of the command line behind ``bench``
    """
    parser = commands.add_parser("bench", description="Measure. Each experiment answers a question:")
    parser.set_defaults(command=print_help, parser=parser)
    experiments = parser.add_subparsers(metavar="EXPERIMENT")
    given = next((word for word in words if not word.startswith("-")), None)
    for name, question in EXPERIMENTS.items():
        if name == given:
            # Imported here: what they import takes a second.
            getattr(import_module("sb3_ppo_edu.cli.experiments"), f"add_bench_{name}")(experiments)
        else:
            experiments.add_parser(name, help=question)
