"""The policy as one function of tensors, from what an environment gives to what it takes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_ppo_edu.export.sampling import noise_size, sample
from sb3_ppo_edu.policies.bounded import BoundedActionMixin
from sb3_ppo_edu.policies.further_inputs import further_inputs
from sb3_ppo_edu.policies.masked_recurrent import masked
from sb3_ppo_edu.policies.recurrent import GruMixin
from sb3_ppo_edu.vec_env.action_masks import choices_of

OBSERVATION, MASKS, START, NOISE = "observation", "action_masks", "episode_start", "noise"
STATES = ("hidden_state", "cell_state")
ACTION, STOCHASTIC = "action", "stochastic_action"
NEXT = "next_"
"""Names of inputs and outputs."""


class ExportError(ValueError):
    """A policy has what can't be exported; the message says what."""


class ObservationPart(nn.Module):
    """
    One array of an observation, from what the environment gives to what the policy takes.

    :param given: space of what the environment gives
    :param taken: space of what the policy takes
    :param moments: SB3's, or None where nothing is normalised
    :param normalization: whose bounds hold
    """

    mean: th.Tensor
    rest: th.Tensor
    deviation: th.Tensor

    def __init__(
        self, given: spaces.Space[Any], taken: spaces.Space[Any], moments: Any, normalization: VecNormalize | None
    ) -> None:
        super().__init__()
        self.given = given
        self.transposed = given.shape != taken.shape
        self.bound: float | None = None
        if moments is None or normalization is None:
            return
        self.bound = float(normalization.clip_obs)
        # VecNormalize computes in float64. Where observations are float32, the difference to the mean is as exact in float32
        # if the mean is taken off in two parts; the rest has no cancellation.
        wide = np.result_type(cast(Any, given.dtype), np.float32)
        mean = np.asarray(moments.mean).astype(wide)
        deviation = np.sqrt(moments.var + normalization.epsilon)
        for name, value in (("mean", mean), ("rest", moments.mean - mean), ("deviation", deviation)):
            self.register_buffer(name, th.as_tensor(np.asarray(value).astype(wide)))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Normalise and transpose, in the order of SB3's wrappers."""
        if self.bound is not None:
            centred = (observations.to(self.mean.dtype) - self.mean) - self.rest
            observations = (centred / self.deviation).clamp(-self.bound, self.bound).float()
        return observations.permute(0, 3, 1, 2) if self.transposed else observations


class PolicyGraph(nn.Module):
    """
    A policy with what is around it, as a function of tensors by name.

    :param policy: the policy, in evaluation mode
    :param given: space of the observations that the environment gives
    :param normalization: what normalises them, or None
    :raises ExportError: if the policy has inputs or an action space that are not known here
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, policy: ActorCriticPolicy, given: spaces.Space[Any], normalization: VecNormalize | None) -> None:
        super().__init__()
        self.policy = policy
        self.further = further_inputs(policy)
        if unknown := sorted({*self.further} - {"lstm_states", "episode_starts", "action_masks"}):
            raise ExportError(f"export: the policy {type(policy).__name__} takes {unknown[0]}, which is not known here")
        self.unseen = [key for key in getattr(policy, "critic_keys", None) or () if key not in cast(spaces.Dict, given).spaces]
        self.names = part_names(given)
        moments: Any = normalization.obs_rms if normalization is not None and normalization.norm_obs else None
        self.parts = nn.ModuleList()
        for key in self.names:
            own = moments.get(key) if isinstance(moments, dict) else moments
            part = ObservationPart(part_of(given, key), part_of(policy.observation_space, key), own, normalization)
            self.parts.append(part.to(policy.device))
        self.n_states = 0 if "lstm_states" not in self.further else 1 if isinstance(policy, GruMixin) else 2
        self._add_bounds(policy)

    def _add_bounds(self, policy: ActorCriticPolicy) -> None:
        """Keep the bounds of Box actions in the type that ``predict`` computes them in."""
        space = policy.action_space
        self.bounded, self.scale = isinstance(space, spaces.Box), 1.0
        if isinstance(space, spaces.Box):
            wide = np.result_type(cast(Any, space.dtype), np.float32)
            half = 0.5 * space.high.astype(float) - 0.5 * space.low.astype(float)
            self.scale = float(np.max(half, initial=1.0, where=np.isfinite(half)))
            for name in ("low", "high"):
                self.register_buffer(name, th.as_tensor(getattr(space, name).astype(wide), device=policy.device))

    def forward(self, inputs: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        Act.

        :param inputs: by the names of :func:`example_inputs`
        :return: deterministic and stochastic actions, and the next states
        """
        distribution, states = self.distribution(self.observations(inputs), inputs)
        found = {ACTION: self.to_environment(distribution.mode())}
        log_std = getattr(self.policy, "log_std", None)
        found[STOCHASTIC] = self.to_environment(sample(distribution, inputs[NOISE], log_std))
        return found | {NEXT + name: state for name, state in zip(STATES, states, strict=False)}

    def observations(self, inputs: dict[str, th.Tensor]) -> Any:
        """
        Put together what the policy takes; zeros stand for what only the critic is given.

        :param inputs: by the names of :func:`example_inputs`
        :return: a tensor, or a dict of tensors
        """
        parts = {key: part(inputs[name]) for (key, name), part in zip(self.names.items(), self.parts, strict=True)}
        if "" in parts:
            return parts[""]
        n, space, device = next(iter(parts.values())).shape[0], self.policy.observation_space, self.policy.device
        return parts | {key: th.zeros((n, *(part_of(space, key).shape or ())), device=device) for key in self.unseen}

    def distribution(self, observations: Any, inputs: dict[str, th.Tensor]) -> tuple[Any, tuple[th.Tensor, ...]]:
        """
        Find the distribution of actions.

        :param observations: as the policy takes them
        :param inputs: masks, states and episode starts, where there are
        :return: the distribution, and the next states
        """
        policy, masks = self.policy, inputs.get(MASKS)
        if not self.n_states:
            given = {} if masks is None else {MASKS: masks}
            return policy.get_distribution(observations, **given), ()
        # One step of sb3-contrib's policies, which go through sequences in a loop that hangs on where episodes start.
        recurrent = cast(RecurrentActorCriticPolicy, policy)
        going_on = (1.0 - inputs[START].float()).reshape(1, -1, 1)
        states = tuple(inputs[name] * going_on for name in STATES[: self.n_states])
        features: Any = recurrent.extract_features(observations, recurrent.pi_features_extractor)
        output, after = cast(Any, recurrent.lstm_actor)(features.unsqueeze(0), states if self.n_states == 2 else states[0])
        latent = recurrent.mlp_extractor.forward_actor(output.squeeze(0))
        distribution: Any = recurrent._get_action_dist_from_latent(latent)
        if masks is not None:
            logits = masked(recurrent.action_net(latent), masks, recurrent.action_space)
            distribution = cast(Any, recurrent.action_dist).proba_distribution(action_logits=logits)
        return distribution, after if self.n_states == 2 else (after,)

    def to_environment(self, actions: th.Tensor) -> th.Tensor:
        """
        Turn actions of the distribution into the environment's, as ``predict`` does.

        :param actions: shape ``(n, …)``
        :return: shape ``(n, *action_shape)``
        """
        policy = self.policy
        actions = actions.reshape(-1, *cast(Any, policy.action_space.shape))
        if not self.bounded:
            return actions
        low, high = self.low, self.high
        actions = actions.to(low.dtype)
        if isinstance(policy, BoundedActionMixin):
            actions = th.tanh(policy.distribution_class.squash_slope * actions)
            actions = (0.5 * low + 0.5 * high) + (0.5 * high - 0.5 * low) * actions
        elif policy.squash_output:
            return low + 0.5 * (actions + 1.0) * (high - low)
        return th.minimum(th.maximum(actions, low), high)


def seen_by_actor(given: spaces.Space[Any], policy: ActorCriticPolicy) -> spaces.Space[Any]:
    """
    Leave out what only the critic is given, which acting does without.

    :param given: space of what the environment gives
    :param policy: the policy
    :return: the space of what it acts on
    """
    hidden = getattr(policy, "critic_keys", None)
    if not hidden or not isinstance(given, spaces.Dict):
        return given
    return spaces.Dict({key: space for key, space in given.spaces.items() if key not in hidden})


def part_names(given: spaces.Space[Any]) -> dict[str, str]:
    """
    Name the inputs that an observation comes in.

    :param given: its space
    :return: key, "" for an observation of one array -> name
    """
    if isinstance(given, spaces.Dict):
        return {key: f"{OBSERVATION}.{key}" for key in given.spaces}
    return {"": OBSERVATION}


def part_of(space: spaces.Space[Any], key: str) -> spaces.Space[Any]:
    """Find the space of one array."""
    return cast(spaces.Dict, space).spaces[key] if key else space


def example_inputs(graph: PolicyGraph, observations: dict[str, np.ndarray]) -> dict[str, th.Tensor]:
    """
    Make inputs of zeros around given observations.

    :param graph: the policy
    :param observations: by the names of inputs, as the environment gives them, shape ``(n, …)``
    :return: all inputs by name: every action legal, states of zeros, noise of zeros
    :raises ExportError: if sampling from the policy's distribution is not known here
    """
    policy, device = graph.policy, graph.policy.device
    n = len(next(iter(observations.values())))
    inputs = {name: th.as_tensor(values, device=device) for name, values in observations.items()}
    if "action_masks" in graph.further:
        inputs[MASKS] = th.ones((n, sum(choices_of(policy.action_space))), dtype=th.bool, device=device)
    if graph.n_states:
        lstm = cast(RecurrentActorCriticPolicy, policy).lstm_actor
        for name in STATES[: graph.n_states]:
            inputs[name] = th.zeros((lstm.num_layers, n, lstm.hidden_size), device=device)
        inputs[START] = th.zeros(n, dtype=th.bool, device=device)
    distribution, _ = graph.distribution(graph.observations(inputs), inputs)
    size = noise_size(distribution)
    if size is None:
        raise ExportError(
            f"export: the policy's distribution is a {type(distribution).__name__}, from which sampling is not known here; "
            "expected one of SB3's, sb3-contrib's or ours"
        )
    inputs[NOISE] = th.zeros((n, size), device=device)
    return inputs
