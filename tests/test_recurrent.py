"""RecurrentEduPPO with sb3-contrib's arguments and the autograd engine is sb3-contrib's RecurrentPPO to the bit."""

from __future__ import annotations

import inspect
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule

from sb3_ppo_edu import RecurrentEduPPO
from tests.rollouts import Recorder
from tests.test_maskable import Peeker as StepPeeker
from tests.test_parity import (
    Case,
    Peeker,
    TinyExtractor,
    assert_same_logs,
    assert_same_models,
    make_env,
    random_numbers,
)

N_STEPS = 16
ROLLOUTS = 3


def kwargs(**changes: Any) -> dict[str, Any]:
    """Arguments of a small policy."""
    return {"policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 6, **changes}}


IMAGE = {"features_extractor_class": TinyExtractor}
DICT, IMAGES = "MultiInputLstmPolicy", "CnnLstmPolicy"
ONE_LSTM = {"shared_lstm": True, "enable_critic_lstm": False}
CASES: dict[str, Case] = {
    "defaults": Case(),
    **{f"action-{a}": Case(env={"action": a}) for a in ("discrete", "multidiscrete")},
    **{f"action-{a}-4envs": Case(env={"action": a}, n_envs=4) for a in ("box", "discrete", "multidiscrete")},
    "observation-discrete": Case(env={"observation": "discrete", "action": "discrete"}, n_envs=2),
    "observation-dict": Case(DICT, env={"observation": "dict", "action": "discrete"}),
    "observation-dict-4envs": Case(DICT, env={"observation": "dict"}, n_envs=4),
    "observation-image": Case(IMAGES, env={"observation": "image", "action": "discrete"}, arguments=kwargs(**IMAGE)),
    "observation-image-4envs": Case(IMAGES, env={"observation": "image"}, n_envs=4, arguments=kwargs(**IMAGE)),
    "separate-extractors": Case(
        IMAGES, env={"observation": "image"}, arguments=kwargs(**IMAGE, share_features_extractor=False)
    ),
    "shared-lstm": Case(n_envs=2, arguments=kwargs(**ONE_LSTM)),
    "shared-lstm-two-layers": Case(env={"action": "discrete"}, n_envs=4, arguments=kwargs(**ONE_LSTM, n_lstm_layers=2)),
    "critic-without-lstm": Case(n_envs=2, arguments=kwargs(enable_critic_lstm=False)),
    "two-layers": Case(n_envs=4, arguments=kwargs(n_lstm_layers=2)),
    "dropout-between-layers": Case(arguments=kwargs(n_lstm_layers=2, lstm_kwargs={"dropout": 0.3})),
    "no-net-behind-the-lstm": Case(n_envs=2, arguments=kwargs(net_arch=[])),
    "separate-nets": Case(arguments=kwargs(net_arch={"pi": [8, 8], "vf": [12]}, activation_fn=th.nn.ReLU, ortho_init=False)),
    "value-clip": Case(n_envs=2, arguments={"clip_range_vf": 0.1}),
    "kl-stop": Case(env={"action": "discrete"}, n_envs=4, arguments={"target_kl": 0.001, "learning_rate": 1e-2}),
    "raw-advantages": Case(n_envs=2, arguments={"normalize_advantage": False}),
    "entropy": Case(env={"action": "discrete"}, arguments={"ent_coef": 0.02}),
    "gsde": Case(n_envs=4, arguments={"use_sde": True, "sde_sample_freq": 4}),
    "schedules": Case(
        arguments={
            "learning_rate": LinearSchedule(1e-2, 0.0, 1.0),
            "clip_range": LinearSchedule(0.3, 0.05, 1.0),
            "clip_range_vf": LinearSchedule(0.4, 0.1, 0.5),
        }
    ),
    "vecnormalize": Case(normalize=True),
    "vecnormalize-4envs": Case(env={"action": "discrete"}, n_envs=4, normalize=True),
    "episodes-of-one-step": Case(env={"end_probability": 1.0}, n_envs=2),
    "time-limits-of-one-step": Case(env={"time_limit": 1}, n_envs=2),
    "time-limits": Case(env={"end_probability": 0.0, "time_limit": 5}, n_envs=4),
    "time-limits-dict": Case(DICT, env={"observation": "dict", "end_probability": 0.0, "time_limit": 5}, n_envs=2),
    "time-limits-critic-without-lstm": Case(
        env={"end_probability": 0.0, "time_limit": 5}, n_envs=2, arguments=kwargs(enable_critic_lstm=False)
    ),
    "no-ends": Case(env={"end_probability": 0.0, "time_limit": 10**6}, n_envs=2),
    "whole-rollout": Case(n_envs=2, arguments={"batch_size": None}),
    "truncated-minibatch": Case(n_envs=3, arguments={"batch_size": 20}),
    "larger-minibatch-than-rollout": Case(arguments={"batch_size": 100}),
    "no-powers-of-two": Case(n_envs=3, arguments={"batch_size": 12, "vf_coef": 0.7}),
    "no-powers-of-two-value-clip": Case(arguments={"batch_size": 12, "vf_coef": 0.3, "clip_range_vf": 0.1}),
    "sgd": Case(arguments=kwargs(optimizer_class=th.optim.SGD, optimizer_kwargs={"momentum": 0.9})),
}


def make_model(algorithm: type[Any], case: Case, **arguments: Any) -> tuple[Any, Recorder]:
    """A model of the case that records what it logs."""
    given: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 16, "n_epochs": 2, "seed": 3, "device": "cpu"}
    given |= kwargs() | case.arguments | arguments
    if algorithm is RecurrentEduPPO:
        given.setdefault("engine", "autograd")
    model = algorithm("MlpLstmPolicy" if case.policy == "MlpPolicy" else case.policy, make_env(case, 3), **given)
    recorder = Recorder()
    model.set_logger(Logger(folder=None, output_formats=[recorder]))
    return model, recorder


def assert_same_states(ours: Any, theirs: Any) -> None:
    """Both go on from the same hidden and cell states."""
    for mine, other in zip(ours._last_lstm_states, theirs._last_lstm_states, strict=True):
        assert all(th.equal(one, another) for one, another in zip(mine, other, strict=True))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*truncated mini-batch")
def test_same_bits_as_sb3_contrib(name: str) -> None:
    """After three rollouts and updates nothing tells the two apart: weights, optimizer, states, logs, episodes, randomness."""
    case = CASES[name]
    results = []
    for algorithm in (RecurrentPPO, RecurrentEduPPO):
        model, recorder = make_model(algorithm, case)
        before = {key: value.clone() for key, value in model.policy.state_dict().items()}
        model.learn(ROLLOUTS * N_STEPS * case.n_envs)
        model.logger.dump(model.num_timesteps)
        changed = {key.split(".")[0] for key, value in model.policy.state_dict().items() if not th.equal(value, before[key])}
        assert "lstm_actor" in changed
        results.append((model, recorder, random_numbers()))
    (theirs, their_log, their_random), (ours, our_log, our_random) = results
    assert_same_models(ours, theirs)
    assert_same_states(ours, theirs)
    assert_same_logs(our_log, their_log)
    assert our_random == their_random
    if case.normalize:
        np.testing.assert_equal(ours.env.obs_rms.mean, theirs.env.obs_rms.mean)
    if name == "kl-stop":
        stops = [row["train/early_stop_epoch"] for row in our_log.rows if "train/early_stop_epoch" in row]
        assert any(stop < ours.n_epochs for stop in stops), "the case should reach its target_kl"


def test_at_least_twenty_cases() -> None:
    """The promise of twenty combinations is kept by the list itself."""
    assert len(CASES) >= 20


def test_multibinary_actions_train() -> None:
    """sb3-contrib's buffer gives MultiBinary actions as integers, at which its own update fails."""
    model, _ = make_model(RecurrentEduPPO, Case(env={"action": "multibinary"}, n_envs=2))
    before = model.policy.action_net.weight.clone()
    assert not th.equal(model.learn(2 * N_STEPS).policy.action_net.weight, before)


def test_stopped_by_a_callback_and_learned_again() -> None:
    """A callback ends training in mid-rollout; the next learn goes on from the same observations and states."""
    results = []
    for algorithm in (RecurrentPPO, RecurrentEduPPO):
        model, _ = make_model(algorithm, CASES["time-limits"])
        model.learn(10**4, callback=Peeker(stop_after=N_STEPS + 7))
        model.learn(2 * N_STEPS * 4, reset_num_timesteps=False)
        results.append(model)
    theirs, ours = results
    assert_same_models(ours, theirs)
    assert_same_states(ours, theirs)


def test_callbacks_see_sb3_contribs_locals() -> None:
    """What a callback finds in a step under RecurrentPPO is there under RecurrentEduPPO, with the states behind the step."""
    theirs, ours = StepPeeker(N_STEPS + 7), StepPeeker(N_STEPS + 7)
    for algorithm, peeker in ((RecurrentPPO, theirs), (RecurrentEduPPO, ours)):
        make_model(algorithm, CASES["time-limits"])[0].learn(10**4, callback=peeker)
    np.testing.assert_equal(ours.found, theirs.found)
    assert len(ours.found[-1]["lstm_states"]) == 2
    inside = {"idx", "done_", "terminal_obs", "terminal_lstm_state", "terminal_value", "iteration", "log_interval"}
    assert theirs.names - ours.names <= {*inside, "continue_training"}


def test_signature_is_sb3_contribs_and_extras_are_keyword_only() -> None:
    """Every parameter of RecurrentPPO has the same place and default here; further ones are keyword-only with a default."""
    theirs, ours = (inspect.signature(one.__init__).parameters for one in (RecurrentPPO, RecurrentEduPPO))
    names = list(theirs)
    assert list(ours)[: len(names)] == names
    for name in names:
        assert (ours[name].default, ours[name].kind) == (theirs[name].default, theirs[name].kind), name
    for name in list(ours)[len(names) :]:
        assert ours[name].kind is inspect.Parameter.KEYWORD_ONLY, name
        assert ours[name].default is not inspect.Parameter.empty, name
    assert not issubclass(RecurrentEduPPO, RecurrentPPO)


# -- the sequences as wholes -----------------------------------------------------------------------------------------------

WHOLE = ["time-limits", "action-discrete-4envs", "shared-lstm-two-layers", "critic-without-lstm", "observation-dict-4envs"]


@pytest.mark.parametrize("name", WHOLE)
def test_whole_sequences_agree_to_rounding(name: str) -> None:
    """One call of the LSTM for a minibatch gives the gradients of one call for each step."""
    results = []
    for whole in (False, True):
        model, _ = make_model(RecurrentEduPPO, CASES[name], engine_kwargs={"whole_sequences": whole})
        results.append(model.learn(N_STEPS * model.n_envs).policy.state_dict())
    one, other = results
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-5


def test_starts_reach_the_lstm_in_the_reference_only() -> None:
    """The reference resets states step by step, as sb3-contrib; with whole sequences no start is left for the policy."""
    for whole in (False, True):
        model, _ = make_model(RecurrentEduPPO, CASES["time-limits"], engine_kwargs={"whole_sequences": whole})
        with mock.patch.object(model.policy, "evaluate_actions", wraps=model.policy.evaluate_actions) as evaluate:
            model.learn(N_STEPS * model.n_envs)
        starts = [bool(call.kwargs["episode_starts"].any()) for call in evaluate.call_args_list]
        assert starts
        assert any(starts) != whole
