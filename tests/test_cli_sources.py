"""Values come from a file of settings and from flags: an error names the one that the wrong value is from."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_ppo_edu.cli import main
from tests.command_line import process_restored
from tests.small_runs import train_and_save

_restored = pytest.fixture(autouse=True)(process_restored)

PENALTY = "{sb3_ppo_edu.functional.kl.KLPenaltyObjective: {d_targ: -1}}"
OF_FLAGS = [
    (["--learning-rate", "kl_"], "", "learning_rate='kl_': expected a number, a schedule"),
    (["--critic-keys", "[x]"], "", "critic_keys=['x'] with NetArchPolicy: found observation_space=Box("),
    (["--shared-net-arch", "[8]"], "critic_keys: [x]", "shared_net_arch=[8] with critic_keys=['x']: expected one of the two"),
    (["--policy-kwargs", "dict(net_arc=[8])"], "", "unexpected keyword argument 'net_arc'"),
    (["--policy", "a.B"], "", "policy: 'a.B': expected the dotted name"),
    (["--recurrent-cell", "gru"], "", "unknown hyperparameter 'recurrent_cell'"),
    (["--env-kwargs", "3"], "", "env_kwargs: expected a mapping"),
    (["--objective", PENALTY], "", "with {'d_targ': -1} (d_targ=-1: expected a finite number > 0"),
    (["--device", "cud"], "", "device='cud': expected 'auto'"),
]
OF_THE_FILE = [
    (["--learning-rate", "1e-3"], "n_epochs: 0", "n_epochs=0: expected an integer"),
    (["--n-steps", "32"], "vec_env_wrapper: {sb3_ppo_edu.vec_env.Curiosity: {n_steps: 0}}", "Curiosity: n_steps=0: expected"),
    (["--policy-kwargs", "dict(net_arch=[8])"], "env_kwargs: {gravty: 1}", "unexpected keyword argument 'gravty'"),
]


def refused(tmp_path: Path, flags: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one error of a training with a file of settings and flags, of which nothing is left."""
    (tmp_path / "mine.yml").write_text(f"CartPole-v1:\n  policy: MlpPolicy\n  n_timesteps: 64\n  {line}\n")
    where = ["--config", str(tmp_path / "mine.yml"), "--folder", str(tmp_path), "--name", "run"]
    assert main(["train", "--env", "CartPole-v1", *where, *flags]) == 2
    assert not (tmp_path / "run").exists()
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("flags", "line", "said"), OF_FLAGS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_wrong_flag_is_named(
    flags: list[str], line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not the file beside it."""
    error = refused(tmp_path, flags, line, capsys)
    assert error.startswith(f"sb3-edu train: error: {flags[0]}: ") and said in error
    assert "mine.yml" not in error


@pytest.mark.parametrize(("flags", "line", "said"), OF_THE_FILE)
def test_a_wrong_line_of_the_file_is_the_files(
    flags: list[str], line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a flag has the name of what a wrapper refuses."""
    error = refused(tmp_path, flags, line, capsys)
    assert error.startswith(f"sb3-edu train: error: {tmp_path / 'mine.yml'}: what it says fails: ") and said in error


def test_what_saved_runs_are_asked_for_is_no_fault_of_theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that can't be written and a seed that is none are the command line's; nothing that exists is replaced."""
    train_and_save(tmp_path / "run")
    run = str(tmp_path / "run")
    (tmp_path / "there.onnx").touch()
    capsys.readouterr()
    for words, said in (
        (["export", run, "--output", str(tmp_path / "none" / "x.onnx")], f"there is no folder {tmp_path / 'none'}"),
        (["export", run, "--output", str(tmp_path / "there")], "it exists, and nothing that exists is overwritten"),
        (["enjoy", run, "--gif", str(tmp_path / "none" / "x.gif")], "expected a file in a folder that is there"),
        (["enjoy", run, "--gif", str(tmp_path / "film.mov")], "expected a file's name that ends in .gif"),
    ):
        assert main(words) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert f"error: {words[2]} {tmp_path}" in error and said in error and "settings.yml" not in error
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", run, "--seed", "-1"])
    assert (
        ended.value.code == 2 and "--seed: found '-1', expected a whole number from 0 to 4294967295" in capsys.readouterr().err
    )
