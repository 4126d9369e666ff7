"""Flags of the command line: made from a class's signature and docstring, and what is typed as their values."""

from __future__ import annotations

import argparse
import collections.abc
import inspect
import re
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml


def add_algorithm_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each constructor argument of the algorithms, with the help that its docstring gives: EduPPO's first."""
    # Imported here, as below: these import torch, and help and wrong words shall not wait for it.
    from sb3_ppo_edu.training.algorithms import ALGORITHMS
    from sb3_ppo_edu.training.hyperparameters import RUN_ARGUMENTS

    shared = parser.add_argument_group(
        "PPO, as in Stable-Baselines3", "The YAML's settings go before the defaults named here, which are EduPPO's."
    )
    known = {*RUN_ARGUMENTS}
    for algorithm in ALGORITHMS.values():
        added = parser.add_argument_group(f"what {algorithm.__name__} adds", "The same holds here.")
        texts = documented_parameters(algorithm)
        types = get_type_hints(algorithm.__init__)
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
                metavar=values_of(types[name]),
                help=(texts[name] + default).replace("%", "%%"),
            )


WORDS = {int: "INT", float: "NUMBER", bool: "BOOL", dict: "MAP", list: "LIST", tuple: "LIST"}
"""What a type is called where help says what a flag takes."""


def values_of(annotation: Any) -> str:
    """
    Say what a flag takes.

    :param annotation: type of the argument
    :return: such as ``INT``, ``NUMBER|SCHEDULE`` or ``{k1,k3}``; what a word on a command line can't be is left out
    """
    found: list[str] = []
    for one in get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,):
        origin = get_origin(one) or one
        if origin is Literal:
            found.append("{" + ",".join(get_args(one)) + "}")
        elif origin is collections.abc.Callable:
            found.append("SCHEDULE" if get_args(one)[0] == [float] else "NAME")
        elif origin is not type(None):
            found.append(WORDS.get(origin, "NAME"))
    if "SCHEDULE" in found:
        found = [word for word in found if word != "NAME"]  # the text of a schedule
    return "|".join(dict.fromkeys(found))


def add_acting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of how a saved run acts, which ``evaluate`` and ``enjoy`` share."""
    from sb3_ppo_edu.training.evaluation import EVALUATION_SEED, MAX_EPISODE_STEPS

    parser.add_argument(
        "--seed", type=seed, default=EVALUATION_SEED, metavar="N", help="seed of the first episode (default: %(default)s)"
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


MOST = 2**53
"""The most of anything: up to here every whole number is a float."""


def positive_int(text: str) -> int:
    """
    Read a positive whole number; ``1e5`` and ``50_000`` will do.

    :raises argparse.ArgumentTypeError: if it is anything else
    """
    try:
        value = float(text)
        if not 1 <= value <= MOST or not value.is_integer():
            raise ValueError
    except (ValueError, OverflowError):
        limit = f" up to {MOST:,}" if text.strip().lstrip("+").isdigit() and int(text) > MOST else ""
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive whole number{limit}") from None
    return int(value)


def seed(text: str) -> int:
    """
    Read a seed.

    :raises argparse.ArgumentTypeError: if it is anything but a whole number from 0 on that numpy takes
    """
    try:
        value = int(text)
        if not 0 <= value < 2**32:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 0 to {2**32 - 1}") from None
    return value


def thread_count(text: str) -> int:
    """
    Read a number of threads.

    :raises argparse.ArgumentTypeError: if it is anything else, or more than any machine has
    """
    from sb3_ppo_edu.training.settings import MOST_THREADS

    if (count := positive_int(text)) > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected at most {MOST_THREADS}")
    return count
