"""The zoo's ``train`` with values that only building tells are wrong: a sentence, exit status 2, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from tests.test_zoo import _gymnasium_as_it_was as _gymnasium_as_it_was
from tests.test_zoo import train

SETTINGS = """
CartPole-v1:
  n_timesteps: 64
  n_steps: 32
  batch_size: 32
  n_epochs: 1
  {}
"""
WRONG = {
    "critic_keys: [x]": "critic_keys=['x'] with NetArchPolicy: found observation_space=Box(",
    "objective: sb3_ppo_edu.functional.kl.KLPenaltyObjectiv": "KLPenaltyObjectiv': expected the dotted name of something",
    "objective: {sb3_ppo_edu.functional.kl.KLPenaltyObjective: {d_targ: -1}}": "with {'d_targ': -1} (d_targ=-1: expected a ",
    "vec_env_wrapper: [{sb3_ppo_edu.vec_env.Curiosity: {coef: -1}}]": "Curiosity: coef=-1: expected a finite number ≥ 0",
    "vec_env_wrapper: [{sb3_ppo_edu.vec_env.Curiosity: {coeff: 1}}]": "TypeError: Curiosity.__init__() got an unexpected",
    "vec_env_wrapper: sb3_ppo_edu.vec_env.Curiosit": "module 'sb3_ppo_edu.vec_env' has no attribute 'Curiosit'",
    "env_wrapper: [{sb3_ppo_edu.envs.wrappers.ActionRepeat: {repeat: 0}}]": "repeat=0: expected an integer ≥ 1",
    'policy_kwargs: "dict(net_arc=[8])"': "TypeError: ActorCriticPolicy.__init__() got an unexpected keyword",
    'normalize: "dict(norm_ob=True)"': "TypeError: VecNormalize.__init__() got an unexpected keyword argument 'norm_ob'",
    "action_distribution: beta": "action_distribution='beta' needs continuous actions, found action_space=Discrete(2)",
    "use_sde: true": "generalized State-Dependent Exploration (gSDE) can only be used with continuous actions",
    "batch_size: 1": "batch_size=1: expected an integer ≥ 2 (advantages are normalised per minibatch)",
}


class OwnWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper of a user's own, with a mistake in it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.misspelled()  # type: ignore[attr-defined]


def settings(folder: Path, line: str) -> str:
    """Write settings with this line in them, in place of the one of its name, and return their path."""
    name = line.partition(":")[0]
    given = SETTINGS.format("\n  ".join(["policy: MlpPolicy", line]))
    rows = [row for row in given.splitlines() if not row.strip().startswith(f"{name}:") or row.strip() == line]
    path = folder / "wrong.yml"
    path.write_text("\n".join(rows))
    return str(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # SB3 leaves the monitor's file open
@pytest.mark.parametrize("line", WRONG)
def test_what_only_building_tells_is_a_sentence(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On one line, with whose settings they are; of the folder for logs nothing is left."""
    logs = tmp_path / "logs"
    assert train(settings(tmp_path, line), logs) == 2
    error = capsys.readouterr().err
    assert error.startswith("sb3_ppo_edu.zoo: settings of CartPole-v1: ")
    assert WRONG[line] in error and error.count("\n") == 1
    assert not logs.exists()


def test_other_trainings_stay(tmp_path: Path) -> None:
    """The folder of this training goes, and nothing beside it."""
    other = tmp_path / "logs" / "eduppo" / "CartPole-v1_1"
    other.mkdir(parents=True)
    assert train(settings(tmp_path, "critic_keys: [x]"), tmp_path / "logs") == 2
    assert [one.name for one in other.parent.iterdir()] == ["CartPole-v1_1"]


def test_a_mistake_in_code_of_ones_own_has_its_traceback(tmp_path: Path) -> None:
    """It is no wrong value: the error stays what it is, and the folder goes."""
    with pytest.raises(AttributeError, match="misspelled"):
        train(settings(tmp_path, f"env_wrapper: {__name__}.OwnWrapper"), tmp_path / "logs")
    assert not (tmp_path / "logs").exists()
