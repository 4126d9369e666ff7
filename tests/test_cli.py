"""The command line as a whole: help, version, and no guesses."""

from __future__ import annotations

import pytest

from sb3_ppo_edu.cli import build_parser, main
from tests.command_line import help_of


@pytest.mark.parametrize(
    ("command", "mentioned"),
    [
        ("", ["train", "evaluate", "enjoy", "--version"]),
        (
            "train",
            [
                *(
                    "--env",
                    "--steps",
                    "--seed",
                    "--n-envs",
                    "--normalize",
                    "--no-normalize",
                    "--env-kwargs",
                    "--config",
                    "--folder",
                ),
                *("--checkpoint-freq", "--on-fault"),
                *("--name", "--eval-episodes", "--eval-freq", "--no-replay", "--verbose", "--device", "--threads"),
                *(
                    "examples:",
                    "exit codes:",
                    "PPO, as in Stable-Baselines3",
                    "what EduPPO adds",
                    "sb3-edu train --env CartPole-v1",
                ),
            ],
        ),
        ("evaluate", ["RUN", "--episodes", "--seed", "--stochastic", "--trust", "example:"]),
        ("export", ["RUN", "--output", "--trust", "example:"]),
        ("enjoy", ["RUN", "--gif", "--episodes", "--seed", "--stochastic", "--trust", "examples:"]),
    ],
)
def test_help_mentions_each_flag(command: str, mentioned: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains each of its flags, in groups, with examples."""
    text = help_of(command, capsys)
    for word in mentioned:
        assert word in text


def test_no_abbreviations(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag cut short is unknown rather than a guess."""
    with pytest.raises(SystemExit):
        main(["train", "--env", "CartPole-v1", "--learning", "1"])
    assert "unknown argument '--learning'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the package's version."""
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("sb3_ppo_edu ")
