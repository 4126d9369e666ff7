"""What EduPPO records for the doctor: each number against an independent computation, SB3's keys untouched."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.diagnostics import doctor_numbers, share_at_bounds
from sb3_ppo_edu.algorithms.update_record import UpdateRecord
from sb3_ppo_edu.engines import MinibatchStatistics
from sb3_ppo_edu.functional.kl import KLPenaltyObjective
from tests.rollouts import N_STEPS, collect, make_model, record

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guides" / "logged_values.md"
NEW = (
    "kl_first_epoch",
    "clip_fraction_first_epoch",
    "clip_fraction_last_epoch",
    "ratio_first",
    "ratio_low",
    "ratio_high",
    "ent_coef",
    "vf_coef",
    "grad_norm_policy",
    "grad_norm_value",
    "reward_mean",
    "reward_std",
    "value_mean",
    "value_std",
    "return_mean",
    "return_std",
    "advantage_low",
    "advantage_high",
    "episodes_ended",
    "episodes_truncated",
)


class Counted(gym.Env):
    """Episodes of 3 steps by themselves, or of 4 by a time limit, in turn; observations of very different size."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self.episode, self.steps = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return np.array([100.0, 0.0, -0.5], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        limited = self.episode % 2 == 0
        observation = np.array([-100.0, 0.0, 0.5], np.float32)
        return observation, 2.0, self.steps == 3 and not limited, self.steps == 4 and limited, {}


def counted_row(**arguments: Any) -> tuple[EduPPO, dict[str, Any]]:
    """Train one update on 14 steps of :class:`Counted` (two episodes of each kind) and give model and log."""
    model = EduPPO("MlpPolicy", DummyVecEnv([Counted]), n_steps=14, batch_size=7, n_epochs=3, seed=0, **arguments)
    recorder = record(model)
    model.learn(14)
    model.logger.dump()
    return model, recorder.rows[-1]


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_rollout_is_summed_up(engine: Any) -> None:
    """
    14 steps are episodes of 3, 4, 3 and 4: four end, two of them by the limit; the observations' sizes are 100, 0 and 0.5.

    A part that is always 0 has no size. Rewards are 2, and at the two limits 2 plus a bootstrapped value.
    """
    model, row = counted_row(engine=engine)
    buffer = model.rollout_buffer
    assert (row["train/episodes_ended"], row["train/episodes_truncated"]) == (4, 2)
    assert row["train/observation_scale_max"] == pytest.approx(100.0)
    assert row["train/observation_scale_min"] == pytest.approx(0.5)
    rewards = buffer.rewards.ravel().tolist()
    assert sorted(rewards)[1:-1].count(2.0) >= 10
    assert row["train/reward_mean"] == pytest.approx(sum(rewards) / 14, rel=1e-5)
    for name in ("value", "return"):
        numbers = getattr(buffer, name + "s").ravel().tolist()
        mean = sum(numbers) / 14
        assert row[f"train/{name}_mean"] == pytest.approx(mean, rel=1e-4)
        assert row[f"train/{name}_std"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in numbers) / 14), rel=1e-3)
    # The 5 % and 95 % quantiles of 14 sorted numbers, rounded down: the first and the 13th.
    advantages = sorted(buffer.advantages.ravel().tolist())
    assert row["train/advantage_low"] == pytest.approx(advantages[0])
    assert row["train/advantage_high"] == pytest.approx(advantages[12])


def test_share_of_actions_at_their_bounds() -> None:
    """Bounds [-1, 3]: the middle is 1 and the half width 2, so from 2.98 and from -0.98 on an action counts."""
    space = spaces.Box(np.float32(-1.0), np.float32(3.0), (1,), np.float32)
    actions = np.array([[3.0], [2.99], [2.97], [1.0], [-0.97], [-1.0]], np.float32)
    assert share_at_bounds(actions, space) == pytest.approx(3 / 6)


@pytest.mark.parametrize("distribution", ["gaussian", "tanh_gaussian", "beta"])
def test_saturation_is_of_what_the_environment_gets(distribution: Any) -> None:
    """With every raw action at ±50 all are at their bounds, with every one at 0 none is, whatever the distribution."""
    for raw, expected in ((50.0, 1.0), (0.0, 0.0)):
        model = make_model(action_distribution=distribution)
        collect(model)
        model.rollout_buffer.actions[:] = raw
        update = UpdateRecord()
        update.begin_epoch()
        update.add(MinibatchStatistics(0.0, 0.0, 0.0, 0.0, np.float32(0.0), 0.0, 1.0))
        assert doctor_numbers(model, update, model.update_settings())["action_saturation"] == expected


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_first_ratio_is_one_and_later_ones_are_not(engine: Any) -> None:
    """Before the first step old and new policy are the same: the ratio is 1 to rounding; after large steps it is not."""
    model = make_model(engine=engine, learning_rate=0.05, batch_size=8, n_epochs=3)
    recorder = record(model)
    model.learn(N_STEPS)
    model.logger.dump()
    row = recorder.rows[-1]
    assert row["train/ratio_first"] == pytest.approx(1.0, abs=1e-5)
    assert row["train/ratio_max"] > 1.01
    assert row["train/kl_first_epoch"] < row["train/approx_kl"]
    assert row["train/clip_fraction_first_epoch"] < row["train/clip_fraction_last_epoch"]
    between = sorted((row["train/clip_fraction_first_epoch"], row["train/clip_fraction_last_epoch"]))
    assert between[0] <= row["train/clip_fraction"] <= between[1]


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_ratio_quantiles_are_of_the_last_minibatch(engine: Any) -> None:
    """
    One minibatch of all 32 transitions and two epochs: the ratios are those of the policy after the first step.

    Their quantiles are looked up in the sorted ones, at 5 % and 95 % of the way, rounded down.
    """
    model = make_model(engine=engine, learning_rate=0.05, n_epochs=2)
    recorder = record(model)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(N_STEPS)
    model.logger.dump()
    row, buffer = recorder.rows[-1], model.rollout_buffer
    assert row["train/ratio_low"] < 1 < row["train/ratio_high"] <= row["train/ratio_max"]
    # Once more, up to the first step: one epoch from the same parameters and rollout.
    model.policy.load_state_dict(before)
    model.policy.optimizer.state.clear()
    model.n_epochs = 1
    model.train()
    columns = (th.as_tensor(column) for column in (buffer.observations, buffer.actions, buffer.log_probs[:, 0]))
    observations, actions, old = columns
    with th.no_grad():
        ratios = th.exp(model.policy.evaluate_actions(observations, actions)[1] - old)
    expected = sorted(ratios.tolist())
    count = len(expected)
    assert row["train/ratio_low"] == pytest.approx(expected[int(0.05 * (count - 1))], rel=1e-4)
    assert row["train/ratio_high"] == pytest.approx(expected[int(0.95 * (count - 1))], rel=1e-4)


@pytest.mark.parametrize(("n_epochs", "measured"), [(2, [0, 4]), (100, [0, 1, 2, 3, 4])])
def test_short_updates_are_sampled(n_epochs: int, measured: list[int]) -> None:
    """With 2 minibatches in an update every fourth is measured, with 100 every one; SB3's keys are always there."""
    model = make_model(n_epochs=n_epochs)
    logged: list[set[str]] = []
    train = model.train

    def training() -> None:
        model.logger.name_to_value.clear()
        train()
        logged.append(set(model.logger.name_to_value))

    model.train = training  # type: ignore[method-assign]
    model.learn(5 * N_STEPS)
    assert len(logged) == 5
    assert [place for place, keys in enumerate(logged) if "train/return_std" in keys] == measured
    assert all("train/explained_variance" in keys for keys in logged)


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
@pytest.mark.parametrize(("vf_coef", "value_part"), [(0.0, 0.0), (1e6, 1.0)])
def test_gradient_is_divided_between_the_parts(engine: Any, vf_coef: float, value_part: float) -> None:
    """
    Without a weight the value loss has no gradient; with a huge one it has nearly all, though clipping cut it to 0.5.

    The squares of both parts add up to the square of the norm, since the two networks share nothing.
    """
    model = make_model(engine=engine, vf_coef=vf_coef)
    recorder = record(model)
    model.learn(N_STEPS)
    model.logger.dump()
    row = recorder.rows[-1]
    norm = row["train/grad_norm"]
    assert row["train/grad_norm_value"] / norm == pytest.approx(value_part, abs=1e-3)
    assert row["train/grad_norm_policy"] ** 2 + row["train/grad_norm_value"] ** 2 == pytest.approx(norm**2, rel=1e-4)
    assert row["train/vf_coef"] == vf_coef


def test_console_shows_what_it_showed(capsys: pytest.CaptureFixture[str]) -> None:
    """The table on the console has none of the new keys."""
    model = make_model(verbose=1)
    model.learn(2 * N_STEPS)
    printed = capsys.readouterr().out
    assert "explained_variance" in printed
    assert not [name for name in NEW if name in printed]


def test_saved_model_has_no_counter(tmp_path: Path) -> None:
    """How many episodes were cut off belongs to the training in progress, and not to a saved model or the next training."""
    model, row = counted_row()
    assert row["train/episodes_truncated"] == 2
    model.save(tmp_path / "model.zip")
    loaded = EduPPO.load(tmp_path / "model.zip")
    assert not {"session", "_session", "_truncated_episodes"} & {*vars(loaded)}
    assert model.session.truncated_episodes == loaded.session.truncated_episodes == 0


def documented() -> set[str]:
    """Keys of the guide's tables on ``train/``."""
    text = GUIDE.read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_guide_lists_every_key() -> None:
    """Each ``train/`` key that trainings with a Box, with Discrete and with a KL penalty log is in the guide, and no other."""
    logged: set[str] = set()
    penalty: dict[str, Any] = {"objective": KLPenaltyObjective(d_targ=0.01)}
    long: dict[str, Any] = {"n_steps": 8 * N_STEPS}  # enough transitions and episodes to compare
    for arguments in ({"clip_range_vf": 0.2}, {"action": "discrete"}, penalty, long):
        model = make_model(**arguments)
        recorder = record(model)
        model.learn(2 * model.n_steps)
        model.logger.dump()
        logged |= {key.removeprefix("train/") for row in recorder.rows for key in row if key.startswith("train/")}
    flat = counted_row()[1]
    logged |= {key.removeprefix("train/") for key in flat if key.startswith("train/")}
    assert logged == documented()


def test_sb3s_keys_stay_and_come_first() -> None:
    """Every key that SB3's PPO logs is logged by EduPPO too."""
    rows: list[set[str]] = []
    for algorithm in (PPO, EduPPO):
        model = algorithm("MlpPolicy", DummyVecEnv([Counted]), n_steps=14, batch_size=7, n_epochs=1, seed=0)
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(14)
        rows.append({key for key in model.logger.name_to_value if key.startswith("train/")})
    assert rows[0] < rows[1]
