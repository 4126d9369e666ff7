"""The command line as a whole: help, version, and no guesses."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli import COMMANDS, main
from sb3_ppo_edu.cli.bench import EXPERIMENTS
from sb3_ppo_edu.cli.flags import yaml_value
from sb3_ppo_edu.cli.refusals import refuse_file
from sb3_ppo_edu.cli.train import ALGORITHMS, EVERYDAY
from sb3_ppo_edu.training import algorithms
from tests.command_line import help_of


@pytest.mark.skipif(sys.platform != "linux", reason="a folder in which nobody may make a file is needed, as Linux has it")
def test_files_that_can_not_be_made_are_refused_at_once(tmp_path: Path) -> None:
    """With the flag's name, before what would be written is made; where one can be, nothing is left."""
    with pytest.raises(ValueError, match=r"^--gif /proc/x.gif: no file can be made there \(.*\); expected"):
        refuse_file("--gif", Path("/proc/x.gif"))
    refuse_file("--gif", tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "mentioned"),
    [
        ("", [*COMMANDS, "--version"]),
        ("bench", [*EXPERIMENTS, "Which settings matter"]),
        *((f"bench {name}", ["--folder"]) for name in EXPERIMENTS),
        *((command, []) for command in ("resume", "reproduce", "doctor", "course")),
        ("tune", ["When which?", "-optimize"]),
        (
            "train",
            ["--env", "--steps", "--learning-rate NUMBER|SCHEDULE", "--n-steps INT", "--help-all", "examples:", "exit codes:"],
        ),
        (
            "train --help-all",
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
    command, _, flag = command.partition(" --")
    text = help_of(command, capsys, f"--{flag or 'help'}")
    for word in mentioned:
        assert word in text


def test_no_abbreviations(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag cut short is unknown rather than a guess."""
    with pytest.raises(SystemExit):
        main(["train", "--env", "CartPole-v1", "--learning", "1"])
    assert "unknown argument '--learning' (did you mean '--learning-rate'?)" in capsys.readouterr().err


WRONG_WORDS = {
    "trian --env CartPole-v1": "found 'trian' (did you mean 'train'?), expected one of train, evaluate,",
    "Train": "(did you mean 'train'?)",
    "xyz": "found 'xyz', expected one of train,",
    "help": "(did you mean '--help'?)",
    "-V": "unknown argument '-V' (did you mean '--version'?)",
    "--env CartPole-v1": "flags stand behind a command, as in sb3-edu train --env …",
    "--help-all": "unknown argument '--help-all' (did you mean '--help'?)",
    "train": "required: --env",
    "train --evn CartPole-v1": "unknown argument '--evn' (did you mean '--env'?)",
    "train --evn=CartPole-v1": "unknown argument '--evn' (did you mean '--env'?)",
    "train --env X CartPole-v1": "unknown argument 'CartPole-v1'",
    "train --env X --n-step 5": "(did you mean '--n-steps'?)",
    "train --env X --clip 0.1": "(did you mean '--clip-range'?)",
    "train --env X --lr 1e-3": "(did you mean '--learning-rate'?)",
    "train --env X -n 5": "(did you mean '--steps'?)",
    "train --env X --algo ppo": "--algo: found 'ppo' (did you mean 'eduppo'?), expected one of",
    "train --env X --verbose 5": "--verbose: found '5', expected one of 0, 1, 2",
    "train --env X --seed -1": "--seed: found '-1', expected a whole number from 0",
    "train --env X --seed 4294967296": "--seed: found '4294967296', expected",
    "train --env X --steps nan": "--steps: found 'nan', expected a positive whole number",
    "train --env X --eval-episodes 99999999999999999999": "expected a positive whole number up to 9,007,199,254,740,992",
    "train --env CartPole-v1 --stats-window-size 99999999999999999999": "stats_window_size=99999999999999999999: expected",
    "evaluate x --seed -1": "--seed: found '-1', expected",
    "resume x --eval-episodes 0": "--eval-episodes: found '0', expected a positive whole number",
    "bench sped": "(did you mean 'speed'?)",
    "course biuld": "(did you mean 'build'?)",
}
"""What is typed, and what is said of it."""


@pytest.mark.parametrize("words", WRONG_WORDS)
def test_wrong_words_end_in_a_sentence(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and one sentence with what was found, the nearest that there is, and where help is."""
    try:
        code: object = main(words.split())
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr().err
    assert code == 2
    assert WRONG_WORDS[words] in said and said.startswith("sb3-edu") and len(said.splitlines()) <= 2


def test_help_is_given_beside_a_flag_that_it_does_not_list(capsys: pytest.CaptureFixture[str]) -> None:
    """``train --help`` knows the flags of every day only, and none of the others is unknown for it."""
    assert "--learning-rate" in help_of("train --env X --vf-lambda 0.9", capsys)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the package's version."""
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("sb3_ppo_edu ")


@pytest.mark.parametrize("words", [[], ["bench"], ["course"], ["zoo"]])
def test_a_command_line_that_asks_for_nothing_gets_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """``sb3-edu`` and those of its commands that have others say what there is, and that is no error."""
    try:
        code: object = main(words)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 0
    usage = "python -m sb3_ppo_edu.zoo" if words == ["zoo"] else " ".join(["sb3-edu", *words])
    assert f"usage: {usage}" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["--help", "train --help", "bench --help", "--version"])
def test_help_waits_for_no_library(words: str) -> None:
    """Reading help loads neither torch nor numpy nor Gymnasium, which take seconds."""
    script = (
        "import sys\nfrom sb3_ppo_edu.cli import main\n"
        f"try:\n    main({words.split()})\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'gymnasium', 'stable_baselines3', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_flags_of_every_day_are_the_algorithms() -> None:
    """What ``train --help`` says of EduPPO without importing it is what its signature says; so are the algorithms' names."""
    parameters = inspect.signature(EduPPO).parameters
    for one in EVERYDAY:
        assert parameters[one.flag[2:].replace("-", "_")].default == one.default
    assert tuple(algorithms.ALGORITHMS) == ALGORITHMS and ALGORITHMS[0] == algorithms.DEFAULT
    assert yaml_value(str(EVERYDAY[0].default)) == EVERYDAY[0].default


def test_the_zoo_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """``sb3-edu zoo`` hands everything on, flags too; the zoo answers to a verb that it does not know, with exit code 2."""
    assert main(["zoo", "trian", "--env", "CartPole-v1", "-P"]) == 2
    assert "unknown verb 'trian' (did you mean 'train'?)" in capsys.readouterr().err
