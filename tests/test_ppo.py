"""What EduPPO has beside SB3's PPO, each extra against an independent computation; its logs, errors, files and callbacks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule, explained_variance

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.engines import AutogradEngine, EngineName, MinibatchStatistics, UpdateSettings
from tests.environments import ACTION_SPACES, OBSERVATION_SPACES
from tests.rollouts import (
    N_STEPS,
    POLICY_OF_OBSERVATION,
    collect,
    largest_difference,
    make_env,
    make_model,
    parameters_of,
    record,
    transitions,
)

# -- one update, worked out independently --------------------------------------------------------------------------------

LEARNING_RATE = 0.3
BATCH_SIZE = 16
N_EPOCHS = 4


def update_by_hand(
    model: EduPPO,
    *,
    ent_coef: float = 0.0,
    vf_coef: float = 0.5,
    clip_range: float = 0.2,
    clip_range_vf: float | None = None,
    vf_clip_mode: str = "sb3",
    dual_clip: float = math.inf,
    advantage_normalization: str = "minibatch",
    clip_advantage: float = math.inf,
    log_std_bounds: tuple[float, float] = (-math.inf, math.inf),
    recompute_advantages: bool = False,
) -> dict[str, th.Tensor]:
    """
    PPO's whole update on a copy of the policy, transition by transition in the paper's notation, with plain SGD.

    It shares no line with the package: cases are told apart with ``if``, gradients come from autograd, and the minibatches
    are those of numpy's next permutations. The model is left as it is.
    """
    policy, data = copy.deepcopy(model.policy), transitions(model)
    log_std: Any = policy.log_std
    everything = data["advantages"].flatten()
    for epoch in range(N_EPOCHS):
        if recompute_advantages and epoch > 0:
            data |= estimates_by_hand(model, policy, data["observations"])
            everything = data["advantages"].flatten()
        permutation = np.random.permutation(len(everything))
        for start in range(0, len(everything), BATCH_SIZE):
            chosen = permutation[start : start + BATCH_SIZE]
            batch = {key: value[chosen] for key, value in data.items()}
            values, log_prob, entropy = policy.evaluate_actions(batch["observations"], batch["actions"])
            assert entropy is not None
            reference = everything if advantage_normalization == "batch" else everything[chosen]
            loss: th.Tensor = -ent_coef * entropy.mean()
            for t in range(len(chosen)):
                advantage = float((batch["advantages"].flatten()[t] - reference.mean()) / reference.std())
                advantage = max(-clip_advantage, min(advantage, clip_advantage))
                ratio = th.exp(log_prob[t] - batch["log_probs"].flatten()[t])
                r = float(ratio.detach())
                if advantage >= 0:
                    objective = ratio * advantage if r <= 1 + clip_range else th.tensor((1 + clip_range) * advantage)
                elif r < 1 - clip_range:
                    objective = th.tensor((1 - clip_range) * advantage)
                else:
                    objective = ratio * advantage if r <= dual_clip else th.tensor(dual_clip * advantage)
                value, target, old = values.flatten()[t], batch["returns"].flatten()[t], batch["values"].flatten()[t]
                squared_error = (value - target) ** 2
                if clip_range_vf is not None and abs(float((value - old).detach())) > clip_range_vf:
                    frozen = (old + math.copysign(clip_range_vf, float((value - old).detach())) - target) ** 2
                    if vf_clip_mode == "sb3" or float(frozen) > float(squared_error.detach()):
                        squared_error = frozen
                loss = loss + (vf_coef * squared_error - objective) / len(chosen)
            gradients = th.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
            with th.no_grad():
                for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(LEARNING_RATE * gradient)
                log_std.clamp_(*log_std_bounds)
    return {name: parameter.detach() for name, parameter in policy.named_parameters()}


def estimates_by_hand(model: EduPPO, policy: ActorCriticPolicy, observations: th.Tensor) -> dict[str, th.Tensor]:
    """Advantages and returns of each environment's steps, from the last to the first, with the values of a policy."""
    buffer, n_envs, starts = model.rollout_buffer, model.n_envs, model._last_episode_starts
    assert starts is not None
    with th.no_grad():
        values = policy.predict_values(observations).numpy().reshape(n_envs, -1)
        beyond = policy.predict_values(th.as_tensor(model._last_obs)).numpy().flatten()
    advantages = np.zeros_like(values)
    for i in range(n_envs):
        next_value, ended, following = beyond[i], bool(starts[i]), 0.0
        for t in reversed(range(buffer.buffer_size)):
            goes_on = 0.0 if ended else 1.0
            delta = buffer.rewards[t, i] + goes_on * model.gamma * next_value - values[i, t]
            following = delta + goes_on * model.gamma * model.gae_lambda * following
            advantages[i, t] = following
            next_value, ended = values[i, t], bool(buffer.episode_starts[t, i])
    return {"advantages": th.as_tensor(advantages.flatten()), "returns": th.as_tensor((advantages + values).flatten())}


EXTRAS: dict[str, dict[str, Any]] = {
    "dual_clip": {"dual_clip": 1.05},
    "vf_clip_mode-max": {"clip_range_vf": 0.2, "vf_clip_mode": "max"},
    "advantage_normalization-batch": {"advantage_normalization": "batch"},
    "clip_advantage": {"clip_advantage": 0.5},
    "clip_advantage-batch": {"clip_advantage": 0.5, "advantage_normalization": "batch"},
    "ent_coef": {"ent_coef": 0.3},
    "vf_coef": {"vf_coef": 0.05},
    "log_std_bounds": {"log_std_bounds": (-0.02, 0.02)},
    "recompute_advantages": {"recompute_advantages": True},
    "recompute_advantages-batch": {"recompute_advantages": True, "advantage_normalization": "batch"},
    "all": {
        "dual_clip": 1.2,
        "clip_range_vf": 0.2,
        "vf_clip_mode": "max",
        "clip_advantage": 1.0,
        "advantage_normalization": "batch",
        "ent_coef": 0.02,
        "log_std_bounds": (-1.0, 0.1),
        "recompute_advantages": True,
    },
}


@pytest.mark.parametrize("extra", ["none", *EXTRAS])
@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_each_extra_does_what_its_docstring_says(extra: str, engine: EngineName) -> None:
    """
    After one update of 4 epochs of 4 minibatches the parameters are those of the loss written out transition by transition.

    The same update without the extra ends elsewhere, so the agreement means something.
    """
    arguments = EXTRAS.get(extra, {})
    model = make_model(
        n_envs=2,
        engine=engine,
        learning_rate=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        n_epochs=N_EPOCHS,
        max_grad_norm=1e9,
        **arguments,
    )
    collect(model)
    np.random.seed(5)
    expected = update_by_hand(model, **arguments)
    if extra != "none":
        # SB3's own value clipping is the base of the pessimistic one.
        base = {key: value for key, value in arguments.items() if key == "clip_range_vf" and extra != "all"}
        np.random.seed(5)
        assert largest_difference(update_by_hand(model, **base), expected) > 1e-3
    np.random.seed(5)
    model.train()
    assert largest_difference(parameters_of(model), expected) < 2e-5


def test_what_is_logged_is_of_the_values_that_acted() -> None:
    """With ``recompute_advantages`` the explained variance and the advantages' moments are still those of the rollout."""
    model = make_model(n_envs=2, learning_rate=0.1, batch_size=BATCH_SIZE, n_epochs=N_EPOCHS, recompute_advantages=True)
    recorder = record(model)
    collect(model)
    data = {name: value.numpy().flatten() for name, value in transitions(model).items() if name != "observations"}
    model.train()
    model.logger.dump()
    (row,) = recorder.rows
    assert row["train/explained_variance"] == pytest.approx(explained_variance(data["values"], data["returns"]), rel=1e-5)
    assert row["train/advantage_mean"] == pytest.approx(data["advantages"].mean(), abs=1e-6)
    assert row["train/advantage_std"] == pytest.approx(data["advantages"].std(), rel=1e-5)


def test_other_buffers_have_no_advantages_to_recompute() -> None:
    """Only of SB3's own buffers is it known how an epoch leaves them."""

    class Own(RolloutBuffer):
        """One of one's own."""

    with pytest.raises(ValueError, match="recompute_advantages=True with rollout_buffer_class=Own: expected SB3's"):
        make_model(recompute_advantages=True, rollout_buffer_class=Own)


def test_coefficients_may_be_schedules() -> None:
    """``ent_coef`` and ``vf_coef`` as functions or "lin_x" are evaluated at the remaining progress of each update."""
    for schedule in (LinearSchedule(0.4, 0.0, 1.0), "lin_0.4", lambda progress: 0.4 * progress):
        arguments: dict[str, Any] = {"ent_coef": schedule, "vf_coef": schedule}
        model = make_model(
            learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, n_epochs=N_EPOCHS, max_grad_norm=1e9, **arguments
        )
        collect(model)
        model._update_current_progress_remaining(num_timesteps=25, total_timesteps=100)
        np.random.seed(5)
        expected = update_by_hand(model, ent_coef=0.3, vf_coef=0.3)
        np.random.seed(5)
        model.train()
        assert largest_difference(parameters_of(model), expected) < 2e-5


def test_other_schedules_may_be_strings() -> None:
    """The zoo's "lin_x" also stands for the learning rate and both clip ranges, and is logged as it falls."""
    model = make_model(learning_rate="lin_1e-3", clip_range="lin_0.4", clip_range_vf="lin_0.8")
    recorder = record(model)
    model.learn(4 * N_STEPS)
    model.logger.dump()
    rows = [row for row in recorder.rows if "train/clip_range" in row]
    # Progress is counted before each update: 3/4, 1/2, 1/4, 0 remain.
    for key, start in (("train/learning_rate", 1e-3), ("train/clip_range", 0.4), ("train/clip_range_vf", 0.8)):
        np.testing.assert_allclose([row[key] for row in rows], [0.75 * start, 0.5 * start, 0.25 * start, 0.0], atol=1e-12)


def test_log_std_bounds_hold_from_the_start() -> None:
    """A log_std that is initialised outside its bounds is projected before the first action is drawn."""
    model = make_model(log_std_bounds=(-1.0, -0.5))
    assert model.policy.log_std.tolist() == [-0.5, -0.5]
    model.learn(3 * N_STEPS)
    assert all(-1.0 <= value <= -0.5 for value in model.policy.log_std.tolist())


# -- the KL rule, with an engine that says what it is told to -----------------------------------------------------------


class ScriptedEngine(AutogradEngine):
    """An engine that reports a list of KL estimates and counts its steps, in order to test the rule around it."""

    name = "scripted"

    def __init__(self, policy: Any, *, kls: tuple[float, ...]) -> None:
        super().__init__(policy)
        self.kls = kls
        self.calls: list[str] = []

    def gradients(self, minibatch: Any, settings: UpdateSettings) -> MinibatchStatistics:
        """Report the next estimate; the other statistics count up from 1."""
        number = self.calls.count("gradients")
        self.calls.append("gradients")
        return MinibatchStatistics(
            policy_loss=1.0 + number,
            value_loss=10.0 + number,
            entropy_loss=-1.0 - number,
            loss=100.0 + number,
            approx_kl=np.float32(self.kls[number]),
            clip_fraction=0.125 * number,
            ratio_max=1.0 + [0.0, 0.75, 0.25, 0.5, 0.0, 0.0][number],
        )

    def apply(self, settings: UpdateSettings) -> float:
        """Count the step; the norms are 2, 4, 6, ..."""
        self.calls.append("apply")
        return 2.0 * self.calls.count("apply")


def scripted_update(kls: tuple[float, ...], **arguments: Any) -> tuple[EduPPO, ScriptedEngine, dict[str, Any]]:
    """Run one update of 3 epochs of 2 minibatches with scripted KL estimates; give model, engine and log."""
    model = make_model(batch_size=N_STEPS // 2, n_epochs=3, engine=ScriptedEngine, engine_kwargs={"kls": kls}, **arguments)
    recorder = record(model)
    collect(model)
    model.train()
    model.logger.dump()
    engine = model.attach_engine()
    assert isinstance(engine, ScriptedEngine)
    return model, engine, recorder.rows[-1]


def test_without_a_target_every_step_is_taken() -> None:
    """No ``target_kl``: 3 epochs of 2 steps, each ``apply`` behind its ``gradients``; ``early_stop_epoch`` is n_epochs."""
    model, engine, row = scripted_update((9.0,) * 6)
    assert engine.calls == ["gradients", "apply"] * 6
    assert model._n_updates == 3
    assert row["train/early_stop_epoch"] == 3


def test_kl_check_per_minibatch_stops_before_the_step() -> None:
    """
    SB3's rule: the limit is 1.5 · 0.2 = 0.3; the third estimate, 0.4, ends the update before its step, in epoch 1.

    An estimate between target and limit (0.25) does not stop. The logged KL is the mean of the last epoch, as in SB3.
    """
    model, engine, row = scripted_update((0.1, 0.25, 0.4, 9.0, 9.0, 9.0), target_kl=0.2)
    assert engine.calls == ["gradients", "apply", "gradients", "apply", "gradients"]
    assert model._n_updates == 2
    assert row["train/early_stop_epoch"] == 1
    assert row["train/approx_kl"] == pytest.approx(0.4)
    assert row["train/kl_max"] == pytest.approx(0.4)


def test_kl_check_per_epoch_looks_at_the_mean_after_the_epoch() -> None:
    """
    The lecture's rule: epoch 0 has the mean (0.1 + 0.4) / 2 = 0.25 ≤ 0.3 and goes on though one estimate is above.

    Epoch 1 has (0.3 + 0.4) / 2 = 0.35: all its steps are taken, then the update ends.
    """
    model, engine, row = scripted_update((0.1, 0.4, 0.3, 0.4, 9.0, 9.0), target_kl=0.2, kl_check="epoch")
    assert engine.calls == ["gradients", "apply"] * 4
    assert model._n_updates == 2
    assert row["train/early_stop_epoch"] == 1
    assert row["train/approx_kl"] == pytest.approx(0.35)
    assert row["train/kl_max"] == pytest.approx(0.4)


@pytest.mark.parametrize(("factor", "steps"), [(1.0, 0), (2.0, 1), (4.0, 2), (8.0, 6)])
def test_kl_stop_factor_scales_the_limit(factor: float, steps: int) -> None:
    """The limit is factor · 0.25, and an estimate equal to it does not stop: 0.5 is legal at 2, 1.0 at 4, 2.0 at 8."""
    kls = (0.5, 1.0, 2.0, 2.0, 2.0, 2.0)
    _, engine, _ = scripted_update(kls, target_kl=0.25, kl_stop_factor=factor)
    assert engine.calls.count("apply") == steps


@pytest.mark.parametrize("kl_check", ["minibatch", "epoch"])
def test_a_stop_says_so_where_output_is_wanted(capsys: pytest.CaptureFixture[str], kl_check: str) -> None:
    """With verbose=1 SB3's sentence is printed with the epoch; with verbose=0 nothing is."""
    kls = (0.1, 0.1, 0.5, 0.5, 9.0, 9.0)
    scripted_update(kls, target_kl=0.2, kl_check=kl_check, verbose=1)
    assert "Early stopping at step 1 due to reaching max kl: 0.50" in capsys.readouterr().out
    scripted_update(kls, target_kl=0.2, kl_check=kl_check, verbose=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("estimator", "sign"), [("k1", 1.0), ("k3", 0.0)])
@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_kl_estimator_decides_what_is_logged(estimator: str, sign: float, engine: EngineName) -> None:
    """The logged estimate is the mean of -log r (k1), or of r - 1 - log r (k3), over the last epoch's minibatches."""
    model = make_model(n_epochs=2, learning_rate=LEARNING_RATE, kl_estimator=estimator, engine=engine)
    recorder = record(model)
    collect(model)
    data = transitions(model)
    twin = copy.deepcopy(model.policy)
    model.n_epochs = 1
    model.train()
    # The second update begins with the parameters that the first one left, on the same rollout.
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(data["observations"], data["actions"])
        _, old_log_prob, _ = twin.evaluate_actions(data["observations"], data["actions"])
    log_ratio = log_prob - old_log_prob
    expected = {"k1": (-log_ratio).mean(), "k3": (log_ratio.exp() - 1 - log_ratio).mean()}[estimator]
    model.train()
    model.logger.dump()
    assert recorder.rows[-1]["train/approx_kl"] == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
    assert abs(float((log_ratio.exp() - 1).mean())) > 1e-3, "both estimators should differ here"


# -- the log -------------------------------------------------------------------------------------------------------------


def test_log_of_an_update() -> None:
    """
    Means over all six minibatches, the last loss, largest KL and ratio, mean norm, and moments of the raw advantages.

    Scripted: policy losses 1…6, value losses 10…15, entropy losses -1…-6, losses 100…105, clip fractions 0…5/8, norms 2…12.
    """
    model, _, row = scripted_update((0.5, 0.75, 0.25, 0.25, 0.0, 0.5), clip_range=0.1, clip_range_vf=0.3)
    assert row["train/policy_gradient_loss"] == 3.5
    assert row["train/value_loss"] == 12.5
    assert row["train/entropy_loss"] == -3.5
    assert row["train/loss"] == 105.0
    assert row["train/clip_fraction"] == pytest.approx(0.3125)
    assert row["train/approx_kl"] == pytest.approx(0.25)
    assert row["train/kl_max"] == pytest.approx(0.75)
    assert row["train/ratio_max"] == 1.75
    assert row["train/grad_norm"] == pytest.approx(7.0)
    assert row["train/clip_range"] == 0.1
    assert row["train/clip_range_vf"] == 0.3
    assert row["train/n_updates"] == 3
    assert row["train/learning_rate"] == 3e-4
    assert row["train/std"] == pytest.approx(1.0)
    buffer = model.rollout_buffer
    advantages = buffer.advantages.flatten().astype(np.float64)
    assert row["train/advantage_mean"] == pytest.approx(advantages.mean(), abs=1e-5)
    assert row["train/advantage_std"] == pytest.approx(math.sqrt(((advantages - advantages.mean()) ** 2).mean()), rel=1e-4)
    expected = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
    assert row["train/explained_variance"] == pytest.approx(expected, rel=1e-5)


def test_log_without_a_step_has_no_gradient_norm() -> None:
    """If the KL rule stops the update before its first step there is no norm to log, and no mean of nothing."""
    model, engine, row = scripted_update((0.5,) * 6, target_kl=0.1)
    assert engine.calls == ["gradients"]
    assert "train/grad_norm" not in row
    assert row["train/early_stop_epoch"] == 0
    assert model._n_updates == 1


def test_std_is_logged_where_there_is_one() -> None:
    """Gaussian policies log their standard deviation; categorical and Beta policies have no log_std."""
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"action": "discrete"}, False),
        ({"action_distribution": "beta"}, False),
    ]
    for arguments, present in cases:
        model = make_model(**arguments)
        recorder = record(model)
        model.learn(N_STEPS)
        model.logger.dump()
        assert ("train/std" in recorder.rows[-1]) is present


# -- wrong arguments -----------------------------------------------------------------------------------------------------

Wrong = tuple[dict[str, Any], tuple[str, ...]]
NUMBERS_ABOVE_0 = ("max_grad_norm", "kl_stop_factor", "target_kl", "clip_advantage", "clip_range", "clip_range_vf")
MODES = {
    "engine": ("auto", "autograd", "numpy", "fused"),
    "vf_clip_mode": ("sb3", "max"),
    "kl_estimator": ("k3", "k1"),
    "kl_check": ("minibatch", "epoch"),
    "advantage_normalization": ("minibatch", "batch"),
    "action_distribution": ("gaussian", "tanh_gaussian", "beta"),
}
WRONG: list[Wrong] = [
    # types and ranges
    *(
        ({name: value}, (f"{name}={value!r}", "expected a"))
        for name in NUMBERS_ABOVE_0
        for value in (0.0, -1.0, math.nan, "a", True)
    ),
    *(({name: "bogus"}, (f"{name}='bogus'", "expected one of", *map(repr, names))) for name, names in MODES.items()),
    *(({name: None}, (f"{name}=None", "expected one of")) for name in MODES),
    *(({name: value}, (f"{name}={value!r}", "≥ 0 and ≤ 1")) for name in ("gamma", "gae_lambda") for value in (-0.1, 1.1, "a")),
    *(
        ({name: value}, (f"{name}={value!r}", "integer ≥ 1"))
        for name in ("n_steps", "n_epochs")
        for value in (0, 1.5, "a", None)
    ),
    *(({"batch_size": value}, (f"batch_size={value!r}", "integer ≥ 2", "per minibatch")) for value in (1, 0, 2.5, None)),
    ({"batch_size": 0, "normalize_advantage": False}, ("batch_size=0", "integer ≥ 1")),
    ({"batch_size": 0, "advantage_normalization": "batch"}, ("batch_size=0", "integer ≥ 1")),
    ({"normalize_advantage": 1}, ("normalize_advantage=1", "True or False")),
    ({"use_sde": "yes"}, ("use_sde='yes'", "True or False")),
    ({"engine_kwargs": {"compile": 1}}, ("engine_kwargs: compile=1", "True or False")),
    ({"engine_kwargs": ["bf16"]}, ("engine_kwargs=['bf16']", "None or a dict")),
    ({"engine": 3}, ("engine=3", "expected one of", "or a class or function")),
    ({"objective": 3}, ("objective=3", "expected None, an objective, its class")),
    ({"objective": "KLPenalty"}, ("objective='KLPenalty'", "dotted path")),
    (
        {"objective": "sb3_ppo_edu.functional.objectives.Nothing"},
        ("objective='sb3_ppo_edu.functional.objectives.Nothing'", "can be imported"),
    ),
    (
        {"objective": "sb3_ppo_edu.functional.losses.average"},
        ("objective='sb3_ppo_edu.functional.losses.average'", "expected an Objective"),
    ),
    ({"recompute_advantages": 1}, ("recompute_advantages=1", "True or False")),
    ({"sde_sample_freq": "x"}, ("sde_sample_freq='x'", "integer ≥ -1")),
    ({"stats_window_size": 0}, ("stats_window_size=0", "integer ≥ 1")),
    ({"seed": "x"}, ("seed='x'", "integer ≥ 0")),
    ({"gamma": 10**400}, ("gamma=1000", "≥ 0 and ≤ 1")),
    ({"clip_range": lambda _: -1.0}, ("clip_range(1.0)=-1.0", "> 0")),
    *(({"dual_clip": value}, (f"dual_clip={value!r}", "> 1", "None switches")) for value in (1.0, 0.5, -2, math.inf, "a")),
    *(({"log_std_bounds": value}, ("log_std_bounds=", "expected a")) for value in ((1.0,), (1.0, -1.0), 3.0, ("a", 1.0))),
    *(({"log_std_bounds": (0.0, 0.0)}, ("log_std_bounds=(0.0, 0.0)", "low < high")) for _ in range(1)),
    *(
        ({name: value}, (f"{name}={value!r}", "expected a"))
        for name in ("learning_rate", "vf_coef")
        for value in (-1.0, math.inf, "fast", "lin_x", None)
    ),
    *(({"ent_coef": value}, (f"ent_coef={value!r}", "expected a")) for value in (math.nan, "exp_1", None)),
    *(({name: "lin_0"}, (f"{name}='lin_0'", "> 0")) for name in ("clip_range", "clip_range_vf")),
    # combinations
    ({"kl_check": "epoch"}, ("kl_check='epoch'", "expected with a target_kl", "found target_kl=None")),
    ({"kl_stop_factor": 2.0}, ("kl_stop_factor=2.0", "expected with a target_kl", "found target_kl=None")),
    ({"vf_clip_mode": "max"}, ("vf_clip_mode='max'", "expected with a clip_range_vf", "found clip_range_vf=None")),
    (
        {"advantage_normalization": "batch", "normalize_advantage": False},
        ("advantage_normalization='batch'", "normalize_advantage=False", "expected normalize_advantage=True"),
    ),
    *(
        ({"action_distribution": name, "use_sde": True}, (f"action_distribution={name!r}", "use_sde=True", "use one"))
        for name in ("tanh_gaussian", "beta")
    ),
    (
        {"action_distribution": "beta", "log_std_bounds": (-1.0, 1.0)},
        ("log_std_bounds=(-1.0, 1.0)", "action_distribution='beta'", "expected"),
    ),
    ({"use_sde": True, "log_std_bounds": (-1.0, 1.0)}, ("log_std_bounds=(-1.0, 1.0)", "use_sde=True", "expected")),
    (
        {"action": "discrete", "log_std_bounds": (-1.0, 1.0)},
        ("log_std_bounds=(-1.0, 1.0)", "expected a policy with a log_std", "Discrete(3)"),
    ),
    ({"action": "discrete", "action_distribution": "beta"}, ("action_distribution='beta'", "Discrete(3)", "expected a Box")),
    ({"n_steps": 1, "batch_size": 2}, ("n_steps=1 with n_envs=1", "expected a rollout of at least 2", "raise n_steps")),
]


@pytest.mark.parametrize(("arguments", "parts"), WRONG, ids=lambda value: "+".join(value) if isinstance(value, dict) else "")
def test_wrong_arguments_are_refused(arguments: dict[str, Any], parts: tuple[str, ...]) -> None:
    """Each wrong argument is a ValueError before training starts, with its name, what was found, and what was expected."""
    with pytest.raises(ValueError) as error:
        make_model(**arguments)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("arguments", [{"clip_range": -0.2}, {"n_steps": 1, "batch_size": 2}, {"batch_size": 1}])
def test_what_sb3_asserts_is_an_assertion_error_too(arguments: dict[str, Any]) -> None:
    """One class serves everyone: the zoo prunes a trial on ``ValueError``, SB3's PPO raises an ``AssertionError``."""
    for kind in (ArgumentError, ValueError, AssertionError):
        with pytest.raises(kind):
            make_model(**arguments)


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_infinite_max_grad_norm_switches_clipping_off(engine: str) -> None:
    """As in SB3, ``max_grad_norm=inf`` trains like a bound that is never reached."""
    models = [make_model(engine=engine, max_grad_norm=bound).learn(64) for bound in (math.inf, 1e9)]
    for name, value in models[0].policy.state_dict().items():
        assert th.equal(value, models[1].policy.state_dict()[name])


def test_unbounded_actions_are_refused() -> None:
    """The error names the bound that is infinite and what to do about it, and is no ``AssertionError`` of SB3's."""
    space = spaces.Box(np.array([-1.0, -np.inf], np.float32), np.array([1.0, 1.0], np.float32))
    env = make_env()
    env.action_space = space
    with pytest.raises(ValueError, match=r"finite bounds.*low\[1\]=-inf.*action_distribution='gaussian'"):
        EduPPO("MlpPolicy", env, action_distribution="tanh_gaussian")


def test_unknown_policy_names_the_known_ones() -> None:
    """A misspelt alias is refused with the list of aliases."""
    with pytest.raises(ValueError, match=r"policy='MLPPolicy': expected one of MlpPolicy, CnnPolicy, MultiInputPolicy"):
        EduPPO("MLPPolicy", make_env())


@pytest.mark.parametrize(("batch_size", "remainder"), [(24, 16), (100, 64)])
def test_a_truncated_minibatch_is_announced(batch_size: int, remainder: int) -> None:
    """64 transitions in minibatches of 24 leave 16, and 100 is more than there are: a warning says so with the numbers."""
    with pytest.warns(
        UserWarning, match=rf"batch_size={batch_size}.* = 64 transitions.*truncated mini-batch of size {remainder} at the end"
    ) as warnings:
        make_model(n_envs=2, batch_size=batch_size)
    assert Path(warnings[0].filename).name == "rollouts.py", "it should name the line that constructs the model"


# -- files, engines, callbacks, devices ----------------------------------------------------------------------------------


def half_of(progress: float) -> float:
    """A schedule of one's own."""
    return 0.5 * progress


def test_save_and_load_keep_every_extra(tmp_path: Path) -> None:
    """A model comes back from its file with every extra, schedules included, the same predictions, and trains on."""
    extras: dict[str, Any] = {
        "engine": "autograd",
        "vf_clip_mode": "max",
        "dual_clip": 3.0,
        "kl_estimator": "k1",
        "kl_check": "epoch",
        "kl_stop_factor": 2.5,
        "advantage_normalization": "batch",
        "clip_advantage": 2.0,
        "recompute_advantages": True,
        "action_distribution": "tanh_gaussian",
        "log_std_bounds": (-2.0, 0.5),
        "target_kl": 0.5,
        "engine_kwargs": {"compile": True},
    }
    model = make_model(ent_coef="lin_0.01", vf_coef=half_of, clip_range="lin_0.3", clip_range_vf=0.4, **extras)
    model.learn(2 * N_STEPS)
    model.save(tmp_path / "model")
    observations = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    for env in (None, make_env()):
        loaded = EduPPO.load(tmp_path / "model", env=env, device="cpu")
        for name, value in extras.items():
            found = getattr(loaded, name)
            assert (tuple(found) if name == "log_std_bounds" else found) == value, name
        loaded._current_progress_remaining = 0.5
        settings = loaded.update_settings()
        now = (settings.ent_coef, settings.vf_coef, settings.clip_range, settings.clip_range_vf)
        assert now == pytest.approx((0.005, 0.25, 0.15, 0.4))
        assert largest_difference(parameters_of(loaded), parameters_of(model)) == 0.0
        np.testing.assert_array_equal(
            loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
        )
    loaded.learn(N_STEPS, reset_num_timesteps=False)
    assert loaded.num_timesteps == 3 * N_STEPS
    assert largest_difference(parameters_of(loaded), parameters_of(model)) > 0.0


def test_load_reads_schedules_as_the_constructor_does(tmp_path: Path) -> None:
    """A string given to ``load`` replaces the saved value, and is refused where the constructor refuses it."""
    make_model().save(tmp_path / "model")
    strings: dict[str, Any] = dict.fromkeys(("learning_rate", "clip_range", "clip_range_vf", "ent_coef", "vf_coef"), "lin_0.4")
    loaded = EduPPO.load(tmp_path / "model", **strings)
    schedules: list[Any] = [getattr(loaded, name) for name in ("lr_schedule", *list(strings)[1:])]
    assert [schedule(0.25) for schedule in schedules] == [pytest.approx(0.1)] * 5
    refused: list[dict[str, Any]] = [{"clip_range": "lin_0"}, {"clip_range": -0.1}, {"vf_coef": -2.0}]
    for arguments in refused:
        with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.*expected"):
            EduPPO.load(tmp_path / "model", **arguments)


def test_load_without_an_environment_and_set_env(tmp_path: Path) -> None:
    """A model loaded without an environment predicts at once, and trains after ``set_env``."""
    model = make_model(action="discrete")
    model.learn(N_STEPS)
    model.save(tmp_path / "model")
    loaded = EduPPO.load(tmp_path / "model", device="cpu")
    assert loaded.get_env() is None
    action, _ = loaded.predict(np.zeros(5, np.float32))
    assert loaded.action_space.contains(int(action))
    loaded.set_env(make_env(action="discrete"))
    loaded.learn(N_STEPS)
    assert loaded.num_timesteps == N_STEPS


@pytest.mark.parametrize("action_distribution", ["gaussian", "tanh_gaussian", "beta"])
def test_predictions_stay_within_the_bounds(action_distribution: Any) -> None:
    """Deterministic or sampled, one observation or many: actions of the space, bounds different in each dimension."""
    model = make_model(
        action_distribution=action_distribution, policy_kwargs={"log_std_init": 2.0} if action_distribution != "beta" else {}
    )
    observations = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32) * 10
    for deterministic in (True, False):
        actions, state = model.predict(observations, deterministic=deterministic)
        assert state is None
        assert actions.shape == (50, 2)
        assert all(model.action_space.contains(action) for action in actions)
        assert model.predict(observations[0], deterministic=deterministic)[0].shape == (2,)


def test_the_engine_may_change_between_rollouts() -> None:
    """Setting ``model.engine`` takes effect with the next ``learn``, and ``engine_reason`` follows."""
    model = make_model(engine="auto")
    model.learn(N_STEPS)
    before = model.engine_reason
    model.engine = "autograd"
    model.learn(N_STEPS, reset_num_timesteps=False)
    assert isinstance(model.attach_engine(), AutogradEngine)
    assert model.engine_reason.startswith("autograd: ")
    model.engine = "auto"
    model.learn(N_STEPS, reset_num_timesteps=False)
    assert model.engine_reason == before
    assert model.num_timesteps == 3 * N_STEPS


class Counter(BaseCallback):
    """Counts what it is told, and keeps the rollout's last values."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def _on_training_start(self) -> None:
        self.events.append("training_start")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout_start")

    def _on_step(self) -> bool:
        self.events.append("step")
        return True

    def _on_rollout_end(self) -> None:
        self.events.append("rollout_end")
        assert self.locals["rollout_buffer"].full
        assert self.locals["values"].shape == (1, 1)

    def _on_training_end(self) -> None:
        self.events.append("training_end")


def test_callbacks_are_called_in_sb3s_order() -> None:
    """A list of callbacks: each is told of start, rollouts, every step and the end; nested ones fire at their steps."""
    counter, other, inner = Counter(), Counter(), Counter()
    make_model().learn(2 * N_STEPS, callback=[counter, other, EveryNTimesteps(10, inner)])
    rollout = ["rollout_start", *["step"] * N_STEPS, "rollout_end"]
    assert counter.events == ["training_start", *rollout, *rollout, "training_end"]
    assert other.events == counter.events
    assert inner.events.count("step") == 2 * N_STEPS // 10


class Reader(BaseCallback):
    """Looks through the rollout when it is complete, which lays the buffer's arrays out flat."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps > N_STEPS:
            assert len(list(self.model.rollout_buffer.get())) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_a_callback_may_read_the_rollout(engine: EngineName) -> None:
    """``rollout_buffer.get()`` in a callback costs a permutation, but the update is that of an engine that was not watched."""
    results = []
    for reader in (None, Reader()):
        model = make_model(engine=engine, learning_rate=LEARNING_RATE)
        model.learn(3 * N_STEPS, callback=reader)
        results.append(parameters_of(model))
    assert largest_difference(*results) < 1e-5


def test_a_callback_can_stop_a_rollout() -> None:
    """A callback that returns False ends training in mid-rollout: no update, no further step."""
    model = make_model()
    before = parameters_of(model)
    model.learn(10 * N_STEPS, callback=lambda local_variables, _: local_variables["self"].num_timesteps < 7)
    assert model.num_timesteps == 7
    assert largest_difference(parameters_of(model), before) == 0.0


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_devices(device: str) -> None:
    """The policy lives where it was asked to, and trains there."""
    model = make_model("image", "discrete", device=device)
    model.learn(N_STEPS)
    expected = "cuda" if device == "auto" and th.cuda.is_available() else "cpu"
    assert model.device.type == expected
    assert {parameter.device.type for parameter in model.policy.parameters()} == {expected}


@pytest.mark.parametrize("distribution", ["gaussian", "tanh_gaussian", "beta"])
def test_the_cpu_is_recommended_for_mlp_policies(monkeypatch: pytest.MonkeyPatch, distribution: Any) -> None:
    """SB3's advice against a GPU for MLP policies is also given to our own policies, whose classes have other names."""
    model = make_model(action_distribution=distribution)
    monkeypatch.setattr(model, "device", th.device("cuda"))
    with pytest.warns(UserWarning, match="primarily intended to run on the CPU"):
        model._maybe_recommend_cpu()


def test_no_tensorboard_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``tensorboard_log`` nothing is written anywhere; with it the run's folder has the algorithm's name."""
    monkeypatch.chdir(tmp_path)
    make_model().learn(N_STEPS)
    assert list(tmp_path.iterdir()) == []
    make_model(tensorboard_log=str(tmp_path / "tensorboard")).learn(2 * N_STEPS)
    (run,) = (tmp_path / "tensorboard").iterdir()
    assert run.name == "EduPPO_1"
    assert [path.name.startswith("events.out") for path in run.iterdir()] == [True]


def test_the_seed_fixes_the_result() -> None:
    """The same seed gives the same parameters to the bit, another seed gives others."""
    results = []
    for seed in (1, 1, 2):
        model = make_model(seed=seed)
        model.learn(2 * N_STEPS)
        results.append(parameters_of(model))
    assert largest_difference(results[0], results[1]) == 0.0
    assert largest_difference(results[0], results[2]) > 0.0


# -- every kind of space with the extras switched on ---------------------------------------------------------------------

SWITCHED_ON: dict[str, Any] = {
    "vf_clip_mode": "max",
    "clip_range_vf": "lin_0.2",
    "dual_clip": 2.0,
    "target_kl": 0.05,
    "kl_estimator": "k1",
    "kl_check": "epoch",
    "kl_stop_factor": 2.0,
    "advantage_normalization": "batch",
    "clip_advantage": 3.0,
    "recompute_advantages": True,
    "ent_coef": "lin_0.01",
    "vf_coef": "lin_0.5",
}
SPACES = [(observation, action, "gaussian") for observation in OBSERVATION_SPACES for action in ACTION_SPACES] + [
    (observation, "box", distribution) for observation in POLICY_OF_OBSERVATION for distribution in ("tanh_gaussian", "beta")
]


@pytest.mark.parametrize(("observation", "action", "distribution"), SPACES)
def test_every_kind_of_space_trains_with_the_extras_on(observation: str, action: str, distribution: str) -> None:
    """Two rollouts of two environments each: parameters move and stay finite, actions and log keys are there."""
    arguments: dict[str, Any] = SWITCHED_ON | {"action_distribution": distribution, "learning_rate": 0.01}
    if action == "box" and distribution != "beta":
        arguments["log_std_bounds"] = (-3.0, 0.5)
    model = make_model(observation, action, n_envs=2, batch_size=16, n_epochs=2, **arguments)
    recorder = record(model)
    before = parameters_of(model)
    model.learn(4 * N_STEPS)
    model.logger.dump()
    after = parameters_of(model)
    assert largest_difference(after, before) > 0.0
    assert all(bool(th.isfinite(value).all()) for value in after.values())
    for key in ("kl_max", "early_stop_epoch", "ratio_max", "grad_norm", "advantage_mean", "advantage_std"):
        assert math.isfinite(recorder.rows[-1][f"train/{key}"])


@pytest.mark.parametrize("make", [ConstantSchedule, LinearSchedule])
def test_schedules_of_sb3_are_taken(make: Callable[..., Any]) -> None:
    """SB3's schedule objects go wherever a number goes."""
    schedule = make(0.1) if make is ConstantSchedule else make(0.1, 0.1, 1.0)
    arguments: dict[str, Any] = dict.fromkeys(
        ("learning_rate", "clip_range", "clip_range_vf", "ent_coef", "vf_coef"), schedule
    )
    model = make_model(**arguments)
    collect(model)
    settings = model.update_settings()
    assert (settings.clip_range, settings.clip_range_vf, settings.ent_coef, settings.vf_coef) == (0.1,) * 4
