"""``sb3-edu zoo``: RL Baselines3 Zoo with EduPPO in it, as ``python -m sb3_ppo_edu.zoo``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def add_zoo(commands: Any, words: Sequence[str]) -> None:
    """
    Add ``sb3-edu zoo``.

    :param commands: to add to
    :param words: of the command line behind ``zoo``, all of which are the zoo's
    """
    parser = commands.add_parser("zoo", add_help=False, prefix_chars="\0")
    parser.add_argument("words", nargs="*")
    parser.set_defaults(command=run_zoo, parser=parser, words=list(words))


def run_zoo(arguments: argparse.Namespace) -> int:
    """Run a command of the zoo; return the exit code."""
    # Imported here: it imports torch.
    from sb3_ppo_edu.zoo import main

    return main(arguments.words)
