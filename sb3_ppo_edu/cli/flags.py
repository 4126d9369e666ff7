"""Flags of the command line: made from a class's signature and docstring, and what is typed as their values."""

from __future__ import annotations

import argparse
import inspect
import re
from typing import Any

import yaml

from sb3_ppo_edu.training.algorithms import ALGORITHMS
from sb3_ppo_edu.training.evaluation import EVALUATION_SEED, MAX_EPISODE_STEPS
from sb3_ppo_edu.training.hyperparameters import RUN_ARGUMENTS
from sb3_ppo_edu.training.settings import MOST_THREADS


def add_algorithm_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each constructor argument of the algorithms, with the help that its docstring gives: EduPPO's first."""
    shared = parser.add_argument_group(
        "PPO, as in Stable-Baselines3", "The YAML's settings go before the defaults named here, which are EduPPO's."
    )
    known = {*RUN_ARGUMENTS}
    for algorithm in ALGORITHMS.values():
        added = parser.add_argument_group(f"what {algorithm.__name__} adds", "The same holds here.")
        texts = documented_parameters(algorithm)
        for name, parameter in inspect.signature(algorithm).parameters.items():
            if name in known:
                continue
            known.add(name)
            default = "" if parameter.default is inspect.Parameter.empty else f" (default: {parameter.default})"
            group = added if parameter.kind is inspect.Parameter.KEYWORD_ONLY else shared
            group.add_argument(
                flag_of(name),
                dest=f"algorithm.{name}",
                type=yaml_value,
                default=argparse.SUPPRESS,
                metavar="VALUE",
                help=(texts[name] + default).replace("%", "%%"),
            )


def add_acting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of how a saved run acts, which ``evaluate`` and ``enjoy`` share."""
    parser.add_argument(
        "--seed", type=int, default=EVALUATION_SEED, metavar="N", help="seed of the first episode (default: %(default)s)"
    )
    parser.add_argument(
        "--max-episode-steps",
        type=positive_int,
        default=MAX_EPISODE_STEPS,
        metavar="N",
        help="cut an episode off after so many steps (default: %(default)s)",
    )
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the most likely ones")
    parser.add_argument(
        "--trust", action="store_true", help="let the run's files run code: for your own, with functions or classes of yours"
    )


def flag_of(name: str) -> str:
    """Spell an argument's name as a flag: ``learning_rate`` as ``--learning-rate``."""
    return "--" + name.replace("_", "-")


def documented_parameters(documented: type) -> dict[str, str]:
    """
    Read what a class's docstring says of its parameters.

    :param documented: a class with ``:param name: text`` in its docstring
    :return: for each name the text in one line, without markup
    """
    sections = re.split(r"\n\s*:(?=param|return|raises)", inspect.cleandoc(documented.__doc__ or ""))
    found = (re.match(r"param (\w+):\s*(.*)", section, re.DOTALL) for section in sections)
    texts = {match[1]: " ".join(match[2].split()) for match in found if match}
    return {name: re.sub(r"(?::\w+:)?`{1,2}([^`]*)`{1,2}", r"\1", text) for name, text in texts.items()}


def yaml_value(text: str) -> Any:
    """
    Read a value as the YAML file would have it, and numbers such as ``3e-4``, which YAML takes for text.

    :return: a number, boolean, ``None``, list, mapping or text
    """
    if text == "None":
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def positive_int(text: str) -> int:
    """
    Read a positive whole number; ``1e5`` and ``50_000`` will do.

    :raises argparse.ArgumentTypeError: if it is anything else
    """
    try:
        value = float(text)
        if value < 1 or not value.is_integer():
            raise ValueError
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive whole number") from None
    return int(value)


def thread_count(text: str) -> int:
    """
    Read a number of threads.

    :raises argparse.ArgumentTypeError: if it is anything else, or more than any machine has
    """
    if (count := positive_int(text)) > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected at most {MOST_THREADS}")
    return count
