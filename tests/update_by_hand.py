"""PPO's update written out transition by transition: what the parameters after ``train`` are compared with."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu import EduPPO
from tests.rollouts import transitions

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
    vf_lambda: float | None = None,
    vf_n_steps: int | None = None,
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
        if recompute_advantages or epoch == 0:
            data |= estimates_by_hand(model, policy, data["observations"], vf_lambda, vf_n_steps)
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


def estimates_by_hand(
    model: EduPPO, policy: ActorCriticPolicy, observations: th.Tensor, vf_lambda: float | None, vf_n_steps: int | None
) -> dict[str, th.Tensor]:
    """Advantages and returns of each environment's steps, from the last to the first, with the values of a policy."""
    buffer, n_envs, starts = model.rollout_buffer, model.n_envs, model._last_episode_starts
    assert starts is not None
    with th.no_grad():
        values = policy.predict_values(observations).numpy().reshape(n_envs, -1)
        beyond = policy.predict_values(th.as_tensor(model._last_obs)).numpy().flatten()
    n_steps, vf_lambda = buffer.buffer_size, model.gae_lambda if vf_lambda is None else vf_lambda
    advantages, returns = np.zeros_like(values), np.zeros_like(values)
    for i in range(n_envs):
        next_value, ended, following, following_vf = beyond[i], bool(starts[i]), 0.0, 0.0
        for t in reversed(range(n_steps)):
            goes_on = 0.0 if ended else 1.0
            delta = buffer.rewards[t, i] + goes_on * model.gamma * next_value - values[i, t]
            following = delta + goes_on * model.gamma * model.gae_lambda * following
            following_vf = delta + goes_on * model.gamma * vf_lambda * following_vf
            advantages[i, t], returns[i, t] = following, following_vf + values[i, t]
            next_value, ended = values[i, t], bool(buffer.episode_starts[t, i])
        for t in range(n_steps if vf_n_steps is not None else 0):
            returns[i, t] = n_step_sum(
                buffer.rewards[t:, i], [*values[i, t + 1 :], beyond[i]], [*buffer.episode_starts[t + 1 :, i], starts[i]],
                vf_n_steps or 0, model.gamma,
            )  # fmt: skip
    return {"advantages": th.as_tensor(advantages.flatten()), "returns": th.as_tensor(returns.flatten())}


def n_step_sum(rewards: Any, next_values: Any, ends: Any, n: int, gamma: float) -> float:
    """The sum of at most n rewards, and of the value where it breaks off, but at an episode's end."""
    total = 0.0
    for k, (reward, value, ended) in enumerate(zip(rewards, next_values, ends, strict=True)):
        total += gamma**k * reward
        if ended:
            return float(total)
        if k + 1 == n or k + 1 == len(rewards):
            return float(total + gamma ** (k + 1) * value)
    raise AssertionError("no rewards")
