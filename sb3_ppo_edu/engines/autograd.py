"""The reference engine: the policy's own modules, differentiated by torch's autograd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, RolloutBufferSamples

from sb3_ppo_edu.engines.base import (
    MinibatchStatistics,
    NonFiniteUpdateError,
    PolicyInputs,
    check_finite,
    check_finite_norm,
    project_log_std,
    stops,
)
from sb3_ppo_edu.engines.fingerprint import DISTRIBUTIONS, why_not_plain
from sb3_ppo_edu.engines.flat_step import FlatStep, may_step_flat
from sb3_ppo_edu.engines.memory import keep_freed_memory, return_freed_memory
from sb3_ppo_edu.engines.validation import WithoutValidation, needs_no_validation
from sb3_ppo_edu.functional import losses
from sb3_ppo_edu.functional.objectives import PPOObjective, Transitions, UpdateSettings, evaluation, losses_of
from sb3_ppo_edu.policies.further_inputs import further_inputs
from sb3_ppo_edu.rollouts.buffers import is_plain, possible_actions, shuffled_minibatches

OPTIONS = ("bf16", "channels_last", "compile", "whole_sequences")
"""The engine's options, all of them flags."""

LARGE = 2**20
"""Bytes of a minibatch's observations from which it pays to keep the memory that an update frees."""

WORTH_A_LOOK = 8
"""Calls of ``act`` in one rollout after which it pays to find out whether the policy's distributions need validation."""

AS_IT_IS, UNVALIDATED = nullcontext(), WithoutValidation()


class TensorMinibatch(NamedTuple):
    """
    Transitions as tensors on the policy's device.

    :param samples: in SB3's form
    """

    samples: RolloutBufferSamples

    @property
    def size(self) -> int:
        """Number of transitions."""
        return len(self.samples.advantages)

    @property
    def advantages(self) -> th.Tensor:
        """Not normalised, shape ``(size,)``."""
        return self.samples.advantages

    def further(self, names: tuple[str, ...]) -> dict[str, Any]:
        """
        Give what the policy takes beside observations and actions.

        :param names: see :func:`sb3_ppo_edu.policies.further_inputs.further_inputs`
        :return: the samples' columns of these names
        """
        return {name: getattr(self.samples, name) for name in names}


class AutogradEngine:
    """
    Acts and updates through ``policy.forward`` and ``policy.evaluate_actions``, for any policy on any device.

    With SB3's arguments only, every operation and its order are those of SB3's ``PPO``, so results agree to the bit. It
    keeps nothing of the policy but, within an update, the optimizer's state, so that whatever becomes of it is honoured.

    :param policy: actor-critic policy with its optimizer
    :param compile: compile ``policy.evaluate_actions`` and its gradient with ``torch.compile``; results then agree to within
        rounding only
    :param bf16: compute the networks in bfloat16 (``torch.autocast``), when acting too, so that old and new log-probabilities
        are of one kind; parameters, losses and the optimizer stay in float32. Several times slower on a processor that
        lacks instructions for it; ``model.engine_reason`` says so there
    :param channels_last: hand images to the updates with the channels of a pixel side by side in memory, which torch's
        convolutions on a CPU are faster with; parameters and their gradients stay as they are. Results then agree to within
        rounding only. A features extractor of one's own must not take the images apart with ``view``
    :ivar hidden_states: of recurrent layers after the last ``act``, as the policy's ``forward`` gives them; None without any
    """

    name = "autograd"
    in_sequences = False
    """Whether minibatches are cut from sequences (:class:`~sb3_ppo_edu.functional.objectives.Transitions`)."""

    def __init__(
        self, policy: ActorCriticPolicy, *, compile: bool = False, bf16: bool = False, channels_last: bool = False
    ) -> None:
        self.policy, self.bf16, self.channels_last = policy, bf16, channels_last
        self._compiled = th.compile(policy.evaluate_actions) if compile else None
        self._discrete = isinstance(policy.action_space, spaces.Discrete)
        self._further = further_inputs(policy)
        self.hidden_states: tuple[Any, ...] | None = None
        self._entropy_only_logged: bool | None = None
        self._needs_no_validation: bool | None = None
        self._flat_step: FlatStep | None = None
        self._steps_taken, self._times_acted, self._own_buffer, self._keeps_memory = 0, 0, False, False

    def attach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.attach`: what was found out about the policy is asked anew."""
        self.detach()
        self._entropy_only_logged = self._needs_no_validation = None
        self._times_acted = 0

    def detach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.detach`: the parameters are current, the optimizer's state is not."""
        UNVALIDATED.leave()
        if self._keeps_memory:
            return_freed_memory()
        self._keeps_memory = False
        self._give_back()
        self._steps_taken = 0

    def act(self, inputs: PolicyInputs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.act`."""
        # To find out what the policy is made of takes as long as some steps.
        self._times_acted += 1
        checks = self._validation() if self._times_acted > WORTH_A_LOOK else AS_IT_IS
        with th.no_grad(), self._precision(), FiniteDistribution(), checks:
            actions, values, log_probs, *states = self.policy(inputs.observations, **inputs.further())
        self.hidden_states = states[0] if states else None
        return actions, values, log_probs

    def value(self, inputs: PolicyInputs) -> th.Tensor:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.value`."""
        with th.no_grad(), self._precision():
            return self.policy.predict_values(inputs.observations, **inputs.further())

    def columns(self, inputs: PolicyInputs) -> dict[str, Any]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.columns`."""
        return inputs.columns()

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[TensorMinibatch]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`."""
        # A buffer of the user's own may look at the policy, or change it, between two minibatches.
        self._own_buffer = is_plain(rollout_buffer)
        if self._own_buffer and self._validation() is UNVALIDATED:
            possible_actions(self.policy.action_space, rollout_buffer.actions)
        return map(TensorMinibatch, shuffled_minibatches(rollout_buffer, batch_size))

    def gradients(self, minibatch: TensorMinibatch, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.gradients`."""
        samples = minibatch.samples
        observations: PyTorchObs = samples.observations  # a dict for SB3's DictRolloutBuffer
        if not self._keeps_memory and bytes_of(observations) >= LARGE:
            self._keeps_memory = keep_freed_memory()
        if self.channels_last:
            observations = in_channels_last(observations)
        # The buffer stores floats; a Categorical wants the index of the action.
        actions = samples.actions.long().flatten() if self._discrete else samples.actions
        with self._precision(), FiniteDistribution(), self._validation() if self._own_buffer else AS_IT_IS:
            values, log_prob, entropy = self.evaluate(minibatch, observations, actions)
        advantages = losses.policy_advantages(
            samples.advantages, settings.normalize_advantage, settings.advantage_moments, settings.clip_advantage
        )
        only_logged = settings.ent_coef == 0.0 and type(settings.objective) is PPOObjective
        if entropy is not None and only_logged and self._may_detach_entropy():
            entropy = entropy.detach()
        now = evaluation(log_prob, samples.old_log_prob, values.flatten(), entropy)
        data = Transitions(
            samples.old_log_prob, samples.old_values, advantages, samples.returns, in_sequences=self.in_sequences
        )
        found = losses_of(settings.objective, now, data, settings)

        with th.no_grad():
            ratio = now.ratio.detach()
            statistics = MinibatchStatistics(
                policy_loss=found.policy.item(),
                value_loss=found.value.item(),
                entropy_loss=found.entropy.item(),
                loss=found.total.item(),
                approx_kl=np.float32(losses.approx_kl(now.log_ratio, settings.kl_estimator).item()),
                clip_fraction=losses.clip_fraction(ratio, settings.clip_range).item(),
                ratio_max=ratio.max().item(),
                weight=float(found.weight),
                ratios=ratio,
            )
        check_finite(statistics)
        if stops(statistics, settings):
            return statistics
        self.policy.optimizer.zero_grad()
        found.total.backward()
        return statistics

    def evaluate(
        self, minibatch: TensorMinibatch, observations: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """
        Ask the policy about a minibatch.

        :param minibatch: has what the policy takes beside observations and actions
        :param observations: as the policy takes them, shape ``(size, *obs_shape)``, or a dict of such
        :param actions: likewise, shape ``(size, *action_shape)``
        :return: values, ``(size, 1)``, and log-probabilities and entropies, ``(size,)``; None for entropies without a formula
        """
        return (self._compiled or self.policy.evaluate_actions)(observations, actions, **minibatch.further(self._further))

    def apply(self, settings: UpdateSettings) -> float:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.apply`."""
        # A single step does not pay for what a flat one loads and stores.
        pays = self._steps_taken == 1 and self._own_buffer and settings.log_std_bounds is None
        if self._flat_step is not None and not self._flat_step.has_gradients():
            self._give_back()
        elif pays and may_step_flat(self.policy):
            self._flat_step = FlatStep(self.policy)
        if self._flat_step is not None:
            grad_norm = self._flat_step.clip(settings.max_grad_norm)
        else:
            grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), settings.max_grad_norm).item()
        check_finite_norm(grad_norm)
        (self._flat_step or self.policy.optimizer).step()
        self._steps_taken += 1
        project_log_std(self.policy, settings.log_std_bounds)
        return grad_norm

    def _give_back(self) -> None:
        """Let the optimizer have its state again: the next steps are its own."""
        try:
            self._store()
        except BaseException:  # the user's interrupt: half of a state would be none
            self._store()
            raise

    def _store(self) -> None:
        """Give the state back, and keep nothing of it."""
        if self._flat_step is not None:
            self._flat_step.store()
        self._flat_step = None

    def _may_detach_entropy(self) -> bool:
        """
        Tell whether an entropy without a weight would add nothing but zeros to the gradients.

        So it is with SB3's distributions and ours, whose parameters all have a part in the log-probability too. Elsewhere a
        parameter that only the entropy knows gets a gradient of 0 in SB3, and an optimizer's step with it.
        """
        if self._entropy_only_logged is None:
            known = type(getattr(self.policy, "action_dist", None)) in DISTRIBUTIONS
            self._entropy_only_logged = known and why_not_plain(self.policy) is None
        return self._entropy_only_logged

    def _validation(self) -> AbstractContextManager[None]:
        """Whether torch's distributions are validated, for calls of the policy."""
        if self._needs_no_validation is None:
            self._needs_no_validation = needs_no_validation(self.policy)
        return UNVALIDATED if self._needs_no_validation else AS_IT_IS

    def _precision(self) -> AbstractContextManager[Any]:
        """The precision of the networks, for calls of the policy."""
        return in_bfloat16(self.policy) if self.bf16 else nullcontext()


def bytes_of(observations: PyTorchObs) -> int:
    """Size of observations in memory."""
    return sum(part.nbytes for part in (observations.values() if isinstance(observations, dict) else (observations,)))


def in_channels_last(observations: PyTorchObs) -> PyTorchObs:
    """
    Put the channels of each pixel side by side in memory.

    :param observations: images of shape ``(size, channels, height, width)``, or a dict; parts that are no images stay
    :return: the same shapes and values
    """
    if isinstance(observations, dict):
        return {name: in_channels_last(part) for name, part in observations.items()}  # type: ignore[misc]
    return observations.to(memory_format=th.channels_last) if observations.dim() == 4 else observations


@contextmanager
def in_bfloat16(policy: ActorCriticPolicy) -> Iterator[None]:
    """
    Compute a policy's networks in bfloat16 up to the last layer, whose outputs become float32 again.

    A logarithm with eight bits would spoil every ratio. The policy itself stays as it was.

    :param policy: actor-critic policy
    """
    with ExitStack() as stack:
        stack.enter_context(th.autocast(policy.device.type, th.bfloat16))
        for layer in (policy.action_net, policy.value_net):
            stack.callback(layer.register_forward_hook(lambda module, inputs, output: output.float()).remove)
        yield


class FiniteDistribution:
    """
    Names what torch's distributions refuse: some are validated, and some can't be sampled, so that NaN ends there.

    :raises NonFiniteUpdateError: with what was found
    """

    def __enter__(self) -> None:
        """Nothing is needed before."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Look at the error, if there is one."""
        words = ("Expected parameter", "probability tensor contains", "p_in >= 0")
        if isinstance(error, (ValueError, RuntimeError)) and any(part in str(error) for part in words):
            raise NonFiniteUpdateError(f"policy output: {str(error).splitlines()[0]}") from error
