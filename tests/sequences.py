"""Recurrent policies and random sequences for tests of engines, padded as sb3-contrib does; episodes begin anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy, RecurrentMultiInputActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RecurrentRolloutBufferSamples, RNNStates

from sb3_ppo_edu.engines import UpdateSettings
from sb3_ppo_edu.policies.recurrent import MlpGruPolicy

CELLS: dict[str, type[RecurrentActorCriticPolicy]] = {"lstm": RecurrentActorCriticPolicy, "gru": MlpGruPolicy}
MEMORIES: dict[str, dict[str, Any]] = {
    "separate": {},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "actor only": {"enable_critic_lstm": False},
}
HEADS: dict[str, spaces.Space[Any]] = {
    "categorical": spaces.Discrete(4),
    "multicategorical": spaces.MultiDiscrete([2, 4, 3]),
    "bernoulli": spaces.MultiBinary(3),
    "gaussian": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "gsde": spaces.Box(-1.0, 1.0, (3,), np.float32),
}


def make_recurrent_policy(
    cell: str = "lstm",
    memory: str = "separate",
    head: str = "categorical",
    features: int = 5,
    units: int = 6,
    layers: int = 1,
    seed: int = 0,
    double: bool = False,
    **kwargs: Any,
) -> Any:
    """A policy with parameters large enough for all nonlinearities to matter."""
    th.manual_seed(seed)
    if head == "gsde":
        kwargs |= {"use_sde": True, "log_std_init": -2.5}
    space: Any = spaces.Box(-10, 10, (features,), np.float32)
    policy: Any = CELLS[cell](
        space,
        HEADS[head],
        lambda _: 1e-3,
        lstm_hidden_size=units,
        n_lstm_layers=layers,
        **MEMORIES[memory],
        **kwargs,
    )
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    if double:
        policy.double()
        # SB3 casts observations to float32 on their way into the network.
        policy.extract_features = lambda obs, extractor=None: obs.double().flatten(1)
    if policy.use_sde:
        policy.reset_noise(5)
    return policy


def make_dict_policy() -> Any:
    """An LSTM policy for observations in two parts."""
    parts: dict[str, spaces.Space[Any]] = {
        name: spaces.Box(-10, 10, (size,), np.float32) for name, size in (("b", 2), ("a", 3))
    }
    return RecurrentMultiInputActorCriticPolicy(spaces.Dict(parts), HEADS["gaussian"], lambda _: 1e-3, lstm_hidden_size=6)


def make_image_policy() -> Any:
    """An LSTM policy for small images, whose bytes are divided by 255 and then lie side by side."""
    image = spaces.Box(0, 255, (3, 2, 2), np.uint8)
    return RecurrentActorCriticPolicy(image, HEADS["gaussian"], lambda _: 1e-3, lstm_hidden_size=6)


def random_states(policy: Any, n: int, generator: np.random.Generator) -> RNNStates:
    """Hidden and cell states of n sequences, of actor and critic."""
    dtype, shape = policy.value_net.weight.dtype, (policy.lstm_actor.num_layers, n, policy.lstm_actor.hidden_size)
    tensors = [th.as_tensor(generator.normal(size=shape), dtype=dtype) for _ in range(4)]
    return RNNStates((tensors[0], tensors[1]), (tensors[2], tensors[3]))


def make_sequences(
    policy: Any, lengths: Sequence[int], seed: int = 0, reset_rate: float = 0.2
) -> RecurrentRolloutBufferSamples:
    """Sequences of these lengths whose ratios and values lie on both sides of every clip; episodes begin at random in them."""
    generator = np.random.default_rng(seed)
    dtype, longest = policy.value_net.weight.dtype, max(lengths)
    mask = np.arange(longest) < np.array(lengths)[:, None]
    count, n = len(lengths) * longest, int(mask.sum())

    def padded(rows: Any) -> th.Tensor:
        rows = np.asarray(rows)
        found = np.zeros((count, *rows.shape[1:]))
        found[mask.ravel()] = rows
        return th.as_tensor(found, dtype=dtype)

    space = policy.action_space
    space.seed(seed)
    observations = padded(generator.normal(size=(n, policy.observation_space.shape[0])))
    starts = padded(generator.random(n) < reset_rate)
    states = random_states(policy, len(lengths), generator)
    with th.no_grad():
        if policy.use_sde:  # others would have log-probabilities of millions, which cost digits
            actions = policy(observations, states, starts)[0] * padded(np.ones((n, 1)))
        else:
            continuous = isinstance(space, spaces.Box)
            drawn = [generator.normal(size=space.shape) * 1.5 if continuous else space.sample() for _ in range(n)]
            actions = padded(np.array(drawn).reshape(n, -1))
        values, log_prob, _ = policy.evaluate_actions(observations, taken(policy, actions), states, starts)
    weight = th.as_tensor(mask.ravel(), dtype=dtype)
    noise = [padded(generator.normal(size=n)) for _ in range(4)]
    return RecurrentRolloutBufferSamples(
        observations,
        actions,
        weight * (values.flatten() + 0.5 * noise[0]),
        weight * (log_prob + 0.3 * noise[1]),
        noise[2],
        weight * (values.flatten() + noise[3]),
        states,
        starts,
        weight,
    )


def taken(policy: Any, actions: th.Tensor) -> th.Tensor:
    """Actions as the policy evaluates them."""
    return actions.long().flatten() if isinstance(policy.action_space, spaces.Discrete) else actions


def losses_by_hand(policy: Any, samples: Any, settings: UpdateSettings) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute PPO's loss of padded sequences, from the policy's own evaluation of them.

    :param policy: recurrent policy
    :param samples: padded sequences
    :param settings: clip range, coefficients, and whether advantages are normalised; the rest is not looked at
    :return: the loss, to be differentiated, and the ratios of the transitions
    """
    values, log_prob, entropy = policy.evaluate_actions(
        samples.observations, taken(policy, samples.actions), samples.lstm_states, samples.episode_starts
    )
    mask = samples.mask > 0
    advantages = samples.advantages[mask]
    if settings.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = (log_prob - samples.old_log_prob)[mask].exp()
    clipped = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range)
    policy_loss = -th.min(ratio * advantages, clipped * advantages).mean()
    old_values, change = samples.old_values[mask], values.flatten()[mask] - samples.old_values[mask]
    if settings.clip_range_vf is not None:
        change = change.clamp(-settings.clip_range_vf, settings.clip_range_vf)
    value_loss = (samples.returns[mask] - (old_values + change)).square().mean()
    loss = policy_loss + settings.vf_coef * value_loss - settings.ent_coef * entropy[mask].mean()
    return loss, ratio.detach()


def filled_buffer(policy: Any, n_steps: int, n_envs: int, seed: int = 0) -> Any:
    """One of sb3-contrib's rollout buffers, full of random transitions of a continuous action."""
    generator = np.random.default_rng(seed)
    space, states = policy.observation_space, random_states(policy, n_envs, generator)
    kind = RecurrentDictRolloutBuffer if isinstance(space, spaces.Dict) else RecurrentRolloutBuffer
    buffer: Any = kind(n_steps, space, policy.action_space, (n_steps, *states.pi[0].shape), "cpu", n_envs=n_envs)
    for _ in range(n_steps):
        parts = {key: generator.normal(size=(n_envs, *part.shape)) for key, part in getattr(space, "spaces", {}).items()}
        image = generator.integers(0, 256, (n_envs, *space.shape)) if space.dtype == np.uint8 else None
        buffer.add(
            image if image is not None else parts or generator.normal(size=(n_envs, *space.shape)),
            generator.normal(size=(n_envs, *policy.action_space.shape)),
            generator.normal(size=n_envs),
            generator.random(n_envs) < 0.2,
            th.as_tensor(generator.normal(size=n_envs)),
            th.as_tensor(generator.normal(size=n_envs)),
            lstm_states=random_states(policy, n_envs, generator),
        )
    buffer.compute_returns_and_advantage(th.zeros(n_envs), np.zeros(n_envs))
    return buffer
