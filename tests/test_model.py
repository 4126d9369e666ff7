"""EduPPO's model: which arguments its constructor refuses, its files, its actions, its engine and its device."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_edu import EduPPO, Reinforce
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.engines import AutogradEngine
from sb3_ppo_edu.functional.objectives import Objective
from tests.rollouts import N_STEPS, largest_difference, make_env, make_model, parameters_of

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


class NeedsBeta(Objective):
    """An objective that can't be made without an argument."""

    def __init__(self, beta: float) -> None:
        self.beta = beta


BARE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"env": None}, ArgumentError, "env=None: expected an environment or its id"),
    ({"policy_kwargs": "net"}, ArgumentError, "policy_kwargs='net': expected None or a dict"),
    ({"rollout_buffer_kwargs": [1]}, ArgumentError, "rollout_buffer_kwargs=[1]: expected None or a dict"),
    ({"policy": th.nn.Linear}, ValueError, "policy=<class 'torch.nn.modules.linear.Linear'>: expected one of MlpPolicy"),
    ({"objective": NeedsBeta}, ArgumentError, "objective=NeedsBeta: it can't be made without arguments"),
    ({"n_step": 8}, TypeError, "EduPPO: n_step=8: no argument has this name (did you mean 'n_steps'?)"),
    ({"quite_another": 8}, TypeError, "EduPPO: quite_another=8: no argument has this name"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), BARE)
def test_what_is_no_argument_at_all_is_named(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    """What SB3 lets pass until something breaks is refused by name."""
    given = {"policy": "MlpPolicy", "env": make_env(), "device": "cpu", **arguments}
    with pytest.raises(kind) as error:
        EduPPO(**given)
    assert str(error.value).startswith(message)


def test_the_names_of_arguments_are_those_of_the_class() -> None:
    """A subclass has its own arguments; what it only passes on is refused where it arrives; the signature is the class's."""

    class Own(EduPPO):
        """Has one more argument, and passes the others on."""

        def __init__(self, *args: Any, extra: int = 0, **kwargs: Any) -> None:
            self.extra = extra
            super().__init__(*args, **kwargs)

    assert Own("MlpPolicy", make_env(), extra=3, device="cpu").extra == 3
    with pytest.raises(TypeError, match="n_step"):
        Own("MlpPolicy", make_env(), n_step=3, device="cpu")
    with pytest.raises(TypeError, match=r"^Reinforce: baselin=True: .*'baseline'"):
        Reinforce("MlpPolicy", make_env(), baselin=True, device="cpu")  # type: ignore[call-arg]
    assert next(iter(inspect.signature(EduPPO).parameters)) == "policy"


@pytest.mark.parametrize("bounds", [[-2, 1], np.array([-2.0, 1.0]), th.tensor([-2.0, 1.0]), (np.float32(-2), np.int64(1))])
def test_bounds_may_be_any_pair(bounds: Any) -> None:
    """The bounds are the plain pair."""
    assert make_model(log_std_bounds=bounds).log_std_bounds == (-2.0, 1.0)


def test_the_number_of_environments_is_that_of_the_given_one(tmp_path: Path) -> None:
    """``load`` refuses another number beside an env, and takes it without one, for ``set_env``; ``learn`` wants an env."""
    make_model().save(tmp_path / "model.zip")
    with pytest.raises(ArgumentError, match=r"^n_envs=7: expected 1, as the given env has"):
        EduPPO.load(tmp_path / "model.zip", make_env(), n_envs=7)
    with pytest.raises(ArgumentError, match=r"^n_envs='x': expected an integer ≥ 1"):
        EduPPO.load(tmp_path / "model.zip", n_envs="x")
    loaded = EduPPO.load(tmp_path / "model.zip", n_envs=7)
    with pytest.raises(ArgumentError, match=r"^learn: found env=None, expected an environment: call set_env"):
        loaded.learn(1)
    loaded.set_env(make_env(n_envs=7))
    assert loaded.learn(1).num_timesteps == 7 * N_STEPS


@pytest.mark.parametrize("arguments", [{"clip_range": -0.2}, {"n_steps": 1, "batch_size": 2}, {"batch_size": 1}])
def test_what_sb3_asserts_is_an_assertion_error_too(arguments: dict[str, Any]) -> None:
    """One class serves everyone: the zoo prunes a trial on ``ValueError``, SB3's PPO raises an ``AssertionError``."""
    for kind in (ArgumentError, ValueError, AssertionError):
        with pytest.raises(kind):
            make_model(**arguments)


def test_other_buffers_have_no_advantages_to_recompute() -> None:
    """Only of SB3's own buffers is it known how an epoch leaves them."""

    class Own(RolloutBuffer):
        """One of one's own."""

    with pytest.raises(ValueError, match="recompute_advantages=True with rollout_buffer_class=Own: expected SB3's"):
        make_model(recompute_advantages=True, rollout_buffer_class=Own)


class OwnTargets(RolloutBuffer):
    """A buffer that computes targets of its own."""

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        super().compute_returns_and_advantage(last_values, dones)
        self.returns *= 2


@pytest.mark.parametrize("changes", [{"vf_lambda": 0.5}, {"vf_n_steps": 3}])
def test_a_buffer_with_targets_of_its_own_is_given_no_others(changes: dict[str, Any]) -> None:
    """Both can't be had; another buffer of one's own takes them, and so do both arguments not together."""
    with pytest.raises(ValueError, match=r"vf_lambda=.* with rollout_buffer_class=OwnTargets, which computes targets"):
        make_model(rollout_buffer_class=OwnTargets, **changes)
    make_model(rollout_buffer_class=type("Own", (RolloutBuffer,), {}), **changes)
    with pytest.raises(ValueError, match=r"vf_lambda=0\.5: expected None with vf_n_steps=3"):
        make_model(vf_lambda=0.5, vf_n_steps=3)


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


# -- files ---------------------------------------------------------------------------------------------------------------


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
        "vf_n_steps": 5,
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


# -- actions, engine, device ---------------------------------------------------------------------------------------------


def test_log_std_bounds_hold_from_the_start() -> None:
    """A log_std that is initialised outside its bounds is projected before the first action is drawn."""
    model = make_model(log_std_bounds=(-1.0, -0.5))
    assert model.policy.log_std.tolist() == [-0.5, -0.5]
    model.learn(3 * N_STEPS)
    assert all(-1.0 <= value <= -0.5 for value in model.policy.log_std.tolist())


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


def test_sb3s_ppo_trains_on_with_a_file_of_ours(tmp_path: Path) -> None:
    """With numbers in place of the coefficients that are schedules here, as ``save`` says."""
    model = make_model(ent_coef="lin_0.01", vf_coef="lin_0.5", clip_range="lin_0.2")
    model.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", make_env(), ent_coef=0.01, vf_coef=0.5, device="cpu")
    assert loaded.learn(N_STEPS).num_timesteps == N_STEPS
