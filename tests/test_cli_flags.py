"""Flags of the command line: each says what the docstring says, and values are read as YAML's."""

from __future__ import annotations

import argparse
import inspect
from typing import Any, get_type_hints

import pytest

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli.flags import documented_parameters, flag_of, positive_int, thread_count, values_of, yaml_value
from sb3_ppo_edu.training.hyperparameters import RUN_ARGUMENTS
from tests.command_line import help_of


def test_help_explains_each_argument_of_the_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    """Each constructor argument has a flag with the docstring's words and its default."""
    text = help_of("train", capsys, "--help-all")
    for name, parameter in inspect.signature(EduPPO).parameters.items():
        if name not in RUN_ARGUMENTS:
            assert flag_of(name) in text
            if parameter.default not in (None, inspect.Parameter.empty):
                assert f"(default: {parameter.default})" in text
    assert "--gae-lambda NUMBER λ of GAE in [0, 1] (default: 0.95)" in text


def test_help_says_what_an_argument_takes() -> None:
    """Types by name, choices as they are; a schedule is text or a number on a command line, and None is a default only."""
    types = get_type_hints(EduPPO.__init__)
    expected = {
        "learning_rate": "NUMBER|SCHEDULE",
        "n_steps": "INT",
        "normalize_advantage": "BOOL",
        "target_kl": "NUMBER",
        "policy_kwargs": "MAP",
        "kl_estimator": "{k3,k1}",
        "log_std_bounds": "LIST",
        "objective": "NAME",
        "policy": "NAME",
    }
    assert {name: values_of(types[name]) for name in expected} == expected


def test_docstring_is_read() -> None:
    """Parameters over several lines become one, without markup; other fields end them."""

    class Documented:
        """
        Something.

        :param first: one ``thing``
            and :func:`package.another`, see
            :mod:`package.module`
        :param second: short
        :raises ValueError: never
        """

    assert documented_parameters(Documented) == {
        "first": "one thing and package.another, see package.module",
        "second": "short",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("0.1", 0.1),
        ("7", 7),
        ("true", True),
        ("null", None),
        ("None", None),
        ("lin_3e-4", "lin_3e-4"),
        ("[-20, 2]", [-20, 2]),
        ("{a: 1}", {"a": 1}),
        ("dict(a=[1", "dict(a=[1"),
        ("[1", "[1"),
    ],
)
def test_values_are_read_as_yaml(text: str, value: Any) -> None:
    """What a YAML file would mean, with scientific numbers; text stays text, also where it is not YAML."""
    assert yaml_value(text) == value
    assert type(yaml_value(text)) is type(value)


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("1e5", 100_000), ("50_000", 50_000)])
def test_whole_numbers(text: str, value: int) -> None:
    """Whole numbers, also as people write large ones."""
    assert positive_int(text) == value


def test_threads_are_no_more_than_a_machine_has() -> None:
    """Where torch is asked for thousands of millions, the process ends without a word of ours."""
    assert thread_count("16") == 16
    for text in ("1000000000", "0", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}'"):
            thread_count(text)
