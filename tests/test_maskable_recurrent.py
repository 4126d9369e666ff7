"""MaskableRecurrentEduPPO: masks and memory at once, each as it is alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution
from sb3_contrib.ppo_recurrent.policies import MlpLstmPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import make_proba_distribution

from sb3_ppo_edu import MaskableEduPPO, MaskableRecurrentEduPPO, RecurrentEduPPO
from sb3_ppo_edu.policies.masked_recurrent import masked
from sb3_ppo_edu.vec_env.action_masks import choices_of
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.environments import ACTION_SPACES, RandomWalk
from tests.masked_environments import MaskedWalk, ToldMasks
from tests.test_parity import assert_same_models

N_STEPS = 16
SMALL: dict[str, Any] = {
    "n_steps": N_STEPS,
    "batch_size": 16,
    "n_epochs": 2,
    "seed": 3,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 6},
}


def small(make: Any, cls: type[Any] = MaskableRecurrentEduPPO, **arguments: Any) -> Any:
    """A small model in two environments."""
    policy = "MultiInputLstmPolicy" if isinstance(make().observation_space, spaces.Dict) else "MlpLstmPolicy"
    return cls(policy, InProcessVecEnv([make, make]), **{**SMALL, **arguments})


@pytest.mark.parametrize("action", ["discrete", "multidiscrete", "multibinary"])
@pytest.mark.parametrize("walk", [MaskedWalk, ToldMasks])
def test_illegal_actions_are_never_tried(walk: type[MaskedWalk], action: str) -> None:
    """In environments that fail at an illegal action a model trains, and remembers."""
    model = small(partial(walk, action=action))
    before = {name: one.clone() for name, one in model.policy.named_parameters()}
    model.learn(3 * 2 * N_STEPS)
    changed = {name.split(".")[0] for name, one in model.policy.named_parameters() if not th.equal(one, before[name])}
    assert {"lstm_actor", "lstm_critic", "action_net"} <= changed


@pytest.mark.parametrize("observation", ["box", "dict"])
def test_update_sees_the_masks_that_were_acted_with(observation: str) -> None:
    """Before the first step of an update log-probabilities are what they were when the actions were taken."""
    model = small(partial(MaskedWalk, observation, "multidiscrete"))
    _, callback = model._setup_learn(10**6)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, N_STEPS)
    for samples in model.rollout_buffer.get(10):
        further = {name: getattr(samples, name) for name in model.policy.further_inputs}
        log_prob = model.policy.evaluate_actions(samples.observations, samples.actions, **further)[1]
        rows = samples.mask > 0
        th.testing.assert_close(log_prob[rows], samples.old_log_prob[rows], atol=1e-5, rtol=1e-5)
        assert not samples.action_masks[rows].bool().all()


class NothingForbidden(RandomWalk):
    """A random walk in which every action is legal."""

    def action_masks(self) -> np.ndarray:
        """All are."""
        return np.ones(sum(choices_of(self.action_space)), bool)


@pytest.mark.parametrize("arguments", [{}, {"recurrent_cell": "gru"}])
@pytest.mark.parametrize("observation", ["box", "dict"])
def test_masks_that_forbid_nothing_change_no_bit(observation: str, arguments: dict[str, Any]) -> None:
    """With every action legal, and without masks, a training is RecurrentEduPPO's."""
    make = partial(NothingForbidden, observation, "discrete")
    theirs = small(make, RecurrentEduPPO, engine="autograd", **arguments).learn(2 * 2 * N_STEPS)
    for use_masking in (True, False):
        ours = small(make, engine="autograd", **arguments).learn(2 * 2 * N_STEPS, use_masking=use_masking)
        assert_same_models(ours, theirs)


@pytest.mark.parametrize("action", ["discrete", "multidiscrete", "multibinary"])
def test_distribution_is_sb3_contribs(action: str) -> None:
    """Log-probabilities of legal actions and entropies are those of sb3-contrib's maskable distributions."""
    space = ACTION_SPACES[action]
    choices = choices_of(space)
    generator = np.random.default_rng(0)
    masks = generator.random((40, sum(choices))) < 0.5
    for place, size in zip(np.cumsum([0, *choices[:-1]]), choices, strict=True):
        masks[np.arange(40), place + generator.integers(size, size=40)] = True
    logits = th.tensor(generator.normal(size=(40, sum(choices))), dtype=th.float32)
    theirs = make_masked_proba_distribution(space)
    theirs.proba_distribution(logits).apply_masking(masks)
    actions = theirs.get_actions()
    # A Bernoulli has one logit for a binary choice: the difference of the two that a Categorical has.
    own = logits[:, 1::2] - logits[:, ::2] if action == "multibinary" else logits
    ours: Any = make_proba_distribution(space)
    ours.proba_distribution(masked(own, th.as_tensor(masks), space))
    th.testing.assert_close(ours.log_prob(actions.float()), theirs.log_prob(actions), atol=1e-5, rtol=1e-5)
    th.testing.assert_close(ours.entropy(), theirs.entropy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arguments", [{"engine": "auto"}, {"micro_batch_size": 8}])
def test_whole_sequences_and_parts_agree_to_rounding(arguments: dict[str, Any]) -> None:
    """Masks go with their sequences."""
    make = partial(MaskedWalk, strict=False)
    one, other = (
        small(make, **{"engine": "autograd", **given}).learn(2 * N_STEPS).policy.state_dict() for given in ({}, arguments)
    )
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-5


def test_saved_model_predicts_with_state_and_masks(tmp_path: Path) -> None:
    """A model is the same from a file that is not trusted, and chooses only what is legal."""
    model = small(MaskedWalk).learn(2 * N_STEPS)
    model.save(tmp_path / "model")
    loaded = MaskableRecurrentEduPPO.load(tmp_path / "model", device="cpu", trusted=False)
    assert_same_models(loaded, model)
    observations, state = np.zeros((2, 5), np.float32), None
    masks = np.array([[True, False, False], [False, False, True]])
    for _ in range(3):
        actions, state = loaded.predict(observations, state, action_masks=masks)
        assert actions.tolist() == [0, 2]
    assert state is not None and np.abs(state[0]).max() > 0


def test_wrong_arguments_are_refused() -> None:
    """Actions without choices, policies without masks and environments without masks are refused by name."""
    with pytest.raises(ValueError, match=r"action_space=Box.*expected Discrete"):
        MaskableRecurrentEduPPO("MlpLstmPolicy", gym.make("Pendulum-v1"), device="cpu")

    class OwnPolicy(MlpLstmPolicy):
        """Without masks."""

    with pytest.raises(ValueError, match=r"policy=.*OwnPolicy.*masks"):
        MaskableRecurrentEduPPO(OwnPolicy, gym.make("CartPole-v1"), device="cpu")
    with pytest.raises(ValueError, match=r"env: found neither a method action_masks"):
        MaskableRecurrentEduPPO("MlpLstmPolicy", gym.make("CartPole-v1"), device="cpu").learn(1)


class TargetsBesideTheirSums(BaseCallback):
    """Compares what the value function is to learn with one-step targets."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        buffer, dones = model.rollout_buffer, self.locals["dones"]
        next_values = np.concatenate([buffer.values[1:], self.locals["values"].numpy().reshape(1, -1)])
        ends = np.concatenate([buffer.episode_starts[1:], dones[None]])
        self.expected = buffer.rewards + model.gamma * (1 - ends) * next_values
        np.testing.assert_allclose(buffer.returns, self.expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{"vf_lambda": 0.0}, {"vf_n_steps": 1}])
@pytest.mark.parametrize("algorithm", [MaskableEduPPO, RecurrentEduPPO, MaskableRecurrentEduPPO])
def test_value_function_learns_the_targets_asked_for(algorithm: type[Any], changes: dict[str, Any]) -> None:
    """λ = 0 and n = 1 are the same one-step target, in the buffers of sb3-contrib too."""
    policy, env = "MlpPolicy" if algorithm is MaskableEduPPO else "MlpLstmPolicy", InProcessVecEnv([MaskedWalk] * 2)
    if algorithm is RecurrentEduPPO:
        env = InProcessVecEnv([RandomWalk] * 2)
    callback = TargetsBesideTheirSums()
    algorithm(policy, env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu", **changes).learn(32, callback)
    assert np.abs(callback.expected).max() > 0
