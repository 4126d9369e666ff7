"""RecurrentEduPPO with the compiled kernels: it learns what the reference does, and falls back to it where it has to."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu import RecurrentEduPPO
from sb3_ppo_edu.engines import AccumulatingEngine, EngineName, UnsupportedPolicyError, as_array, fingerprint, make_engine
from sb3_ppo_edu.engines.fused.recurrent import RecurrentFusedEngine
from sb3_ppo_edu.engines.recurrence import why_not_recurrent
from sb3_ppo_edu.envs.registration import register_for
from tests.masked_environments import MaskedWalk
from tests.sequences import filled_buffer, make_recurrent_policy, make_sequences
from tests.test_fused import gradients_of
from tests.test_kernels import update_settings_with
from tests.test_maskable_recurrent import small
from tests.test_recurrent import CASES, N_STEPS, ROLLOUTS, make_model
from tests.test_recurrent_kernels import some_inputs

SERVED = (
    *("action-multidiscrete-4envs", "observation-dict-4envs", "shared-lstm-two-layers", "critic-without-lstm"),
    *("no-net-behind-the-lstm", "kl-stop", "gsde", "vecnormalize-4envs", "episodes-of-one-step", "time-limits-dict"),
    *("time-limits-critic-without-lstm", "no-ends", "truncated-minibatch", "whole-rollout"),
)
GRU = "gru"


@pytest.mark.parametrize("name", [*SERVED, GRU])
@pytest.mark.filterwarnings("ignore:.*truncated mini-batch")
def test_training_is_the_references(name: str) -> None:
    """Three rollouts with updates end with the same parameters, states and random numbers, to 1e-6."""
    results = []
    for engine in ("autograd", "auto"):
        given = {"recurrent_cell": "gru"} if name == GRU else {}
        case = CASES["action-discrete-4envs" if name == GRU else name]
        model, _ = make_model(RecurrentEduPPO, case, engine=engine, **given)
        model.learn(ROLLOUTS * N_STEPS * case.n_envs)
        assert model.engine_reason.startswith("fused: " if engine == "auto" else "autograd: ")
        states = [state for part in model._last_lstm_states for state in part]
        numbers = th.cat([th.rand(3), th.from_numpy(np.random.rand(3)).float()])
        results.append([numbers, *model.policy.parameters(), *states])
    for one, other in zip(*results, strict=True):
        th.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("action", ["discrete", "multidiscrete", "multibinary"])
def test_training_with_masks_is_the_references(action: str, cell: str) -> None:
    """Of one choice, or of several; binary choices are left to the reference."""
    results = []
    for engine in ("autograd", "auto"):
        model = small(partial(MaskedWalk, action=action), engine=engine, recurrent_cell=cell).learn(3 * 2 * N_STEPS)
        expected = "autograd: " if engine == "autograd" or action == "multibinary" else "fused: "
        assert model.engine_reason.startswith(expected)
        results.append([*model.policy.parameters(), th.rand(3)])
    for one, other in zip(*results, strict=True):
        th.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_without_the_library_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` takes autograd then, with each LSTM called once, and says so; who asks for the kernels is told why not."""
    monkeypatch.setenv("SB3_EDU_KERNELS", "off")
    model, _ = make_model(RecurrentEduPPO, CASES["action-discrete"], engine="auto")
    assert model.engine_reason.startswith("autograd: there is no library of kernels: SB3_EDU_KERNELS=off.")
    assert "in one call" in model.engine_reason
    with pytest.raises(UnsupportedPolicyError, match="there is no library of kernels"):
        make_engine("fused", model.policy)
    with pytest.raises(UnsupportedPolicyError, match="the policy has a memory"):
        make_engine("numpy", model.policy)


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "hook": (lambda p: p.lstm_critic.register_forward_hook(lambda *_: None), "policy.lstm_critic has hooks"),
    "dropout": (lambda p: setattr(p.lstm_actor, "dropout", 0.5), "policy.lstm_actor is a LSTM with options"),
    "sharing": (lambda p: setattr(p, "shared_lstm", True), ""),
    "no critic's": (lambda p: setattr(p, "lstm_critic", None), "policy.critic is not a linear layer"),
    "other layers": (lambda p: setattr(p, "lstm_actor", th.nn.RNN(5, 6)), "policy.lstm_actor is a RNN"),
    "another size": (lambda p: setattr(p, "lstm_critic", th.nn.LSTM(4, 6)), "policy.lstm_critic does not take the features"),
    "projection": (
        lambda p: setattr(p, "lstm_critic", th.nn.LSTM(5, 6, proj_size=2)),
        "policy.lstm_critic is a LSTM with opt",
    ),
    "wider": (lambda p: setattr(p, "lstm_critic", th.nn.LSTM(5, 7)), "do not have the sizes"),
    "tied": (lambda p: setattr(p, "lstm_critic", p.lstm_actor), "layers share parameters"),
    "method": (lambda p: setattr(p, "_process_sequence", lambda *_: None), "_process_sequence has been replaced"),
    "class": (lambda p: setattr(p, "__class__", type("Mine", (type(p),), {})), "the policy is a Mine"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(change: str) -> None:
    """Whatever they depend on changes the fingerprint; what the kernels would leave out is named."""
    policy = make_recurrent_policy()
    assert why_not_recurrent(policy) is None
    before = fingerprint(policy)
    make, reason = CHANGES[change]
    make(policy)
    found: Any = why_not_recurrent(policy)
    assert reason in found if reason else found is None
    assert not fingerprint(policy).matches(before)


def test_replaced_function_of_a_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch's LSTM, and of the policy."""
    policy = make_recurrent_policy()
    before = fingerprint(policy)
    for owner, name in ((th.nn.LSTM, "forward"), (type(policy), "_process_sequence")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_: None)
            found = why_not_recurrent(policy)
            assert found is not None and f"{owner.__name__}.{name} has been replaced" in found
            assert not fingerprint(policy).matches(before)
    assert fingerprint(policy).matches(before)


def test_parts_of_a_minibatch_are_whole_sequences() -> None:
    """Their gradient together is that of the minibatch, and no part is larger than asked for but for one long sequence."""
    policy = make_recurrent_policy("lstm", "separate", "gaussian", 3, 6, 2, double=True)
    engine, update = RecurrentFusedEngine(policy), update_settings_with(ent_coef=0.01)
    minibatch = engine.minibatch_of(make_sequences(policy, [7, 2, 5, 1, 1, 4]))
    engine.gradients(minibatch, update)
    expected = gradients_of(policy)
    accumulating = AccumulatingEngine(engine, 6)
    parts = engine.in_parts(minibatch, 6)
    assert [part.size for part in parts] == [7, 5, 6, 2]
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(20))
    whole = next(accumulating.minibatches(filled_buffer(policy, 6, 2), 12))
    assert whole.size == 12
    accumulating.gradients(type(whole)(parts), update)
    for name, gradient in gradients_of(policy).items():
        th.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-9 * expected[name].abs().max().item())


def test_states_of_another_shape_are_refused() -> None:
    """Before a kernel reads them."""
    policy = make_recurrent_policy(units=6, layers=2)
    engine, inputs = RecurrentFusedEngine(policy), some_inputs(make_recurrent_policy(units=6, layers=1), 3)
    with pytest.raises(ValueError, match=r"hidden_states: found torch.float32, shape \(1, 3, 6\).*expected .*\(2, 3, 6\)"):
        engine.act(inputs)
    wrong = engine.minibatch_of(make_sequences(make_recurrent_policy(units=7, layers=2), [3, 2]))
    with pytest.raises(ValueError, match=r"of the rollout: found shape \(2, 2, 7\), expected 2 or more times \(2, 6\)"):
        engine.gradients(wrong, update_settings_with())
    few = some_inputs(policy, 3)
    with pytest.raises(ValueError, match=r"episode_starts: found .*shape \(2,\).*expected .*\(3,\)"):
        engine.act(few._replace(episode_starts=few.episode_starts[:2]))


def test_hidden_states_may_be_views() -> None:
    """Those of one environment out of several, as the value at a time limit takes them, and after a step of two."""
    policy = make_recurrent_policy(units=6, layers=2)
    engine, inputs = RecurrentFusedEngine(policy), some_inputs(policy, 3)
    values = engine.value(inputs._replace(hidden_states=inputs.hidden_states[1]))
    view = tuple(state[:, 1:2] for state in inputs.hidden_states[1])
    one = inputs._replace(observations=inputs.observations[1:2], hidden_states=view, episode_starts=inputs.episode_starts[1:2])
    th.testing.assert_close(engine.value(one), values[1:2])
    assert as_array(values).shape == (3, 1)


@pytest.mark.slow
def test_a_long_training_stays_the_references() -> None:
    """Wherever 50,000 steps have led, the next rollout has the reference's actions, and its updates end within 1e-4."""

    def fresh(engine: EngineName) -> tuple[VecNormalize, RecurrentEduPPO]:
        env = VecNormalize(make_vec_env("CartPoleNoVel-v1", n_envs=8, seed=1))
        networks = {"lstm_hidden_size": 64, "net_arch": {"pi": [], "vf": [64]}, "ortho_init": False}
        given: dict[str, Any] = {"n_steps": 128, "batch_size": 256, "learning_rate": 7e-4, "max_grad_norm": 1.0, "seed": 1}
        return env, RecurrentEduPPO("MlpLstmPolicy", env, engine=engine, policy_kwargs=networks, **given)

    register_for("CartPoleNoVel-v1")
    env, model = fresh("auto")
    for _ in range(6):
        model.learn(8 * 1024, reset_num_timesteps=False)
        results = []
        for engine in ("autograd", "auto"):
            its_env, other = fresh(engine)
            its_env.obs_rms, its_env.ret_rms = deepcopy(env.obs_rms), deepcopy(env.ret_rms)
            other.policy.load_state_dict(model.policy.state_dict())
            other.policy.optimizer.load_state_dict(deepcopy(model.policy.optimizer.state_dict()))
            other.learn(1024)
            results.append((other.rollout_buffer.actions.copy(), list(other.policy.parameters())))
        np.testing.assert_array_equal(results[0][0], results[1][0])
        for one, other_one in zip(results[0][1], results[1][1], strict=True):
            th.testing.assert_close(one, other_one, rtol=0, atol=1e-4)
