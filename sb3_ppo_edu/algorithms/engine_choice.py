"""Which engine a model has: chosen anew whenever the policy, or what is asked for, is no longer the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu.engines import (
    AccumulatingEngine,
    Engine,
    EngineFactory,
    EngineName,
    UnsupportedPolicyError,
    fingerprint,
    make_engine,
)
from sb3_ppo_edu.engines.fingerprint import Fingerprint
from sb3_ppo_edu.engines.flat import state_fingerprint, why_not_one_state
from sb3_ppo_edu.functional.objectives import Objective


class EngineRequest(NamedTuple):
    """
    What a model asks for.

    :param engine: a name, class or function, see :func:`~sb3_ppo_edu.engines.make_engine`
    :param engine_kwargs: its options
    :param micro_batch_size: transitions that are computed at once, or None for whole minibatches
    :param objective: what is minimised
    :param around: puts an engine around the engine, such as one that averages over processes; None for nothing
    """

    engine: EngineName | EngineFactory
    engine_kwargs: dict[str, Any]
    micro_batch_size: int | None
    objective: Objective
    around: Callable[[Engine[Any]], Engine[Any]] | None


class EngineChoice:
    """The engine in use, and what it was chosen for."""

    def __init__(self) -> None:
        self.engine: Engine[Any] | None = None
        self.reason = ""
        self._policy: ActorCriticPolicy | None = None
        self._request: EngineRequest | None = None
        self._fingerprint: Fingerprint | None = None
        self._state: Fingerprint | None = None  # of the optimizer, the last that was found to be in order

    def current(
        self, policy: ActorCriticPolicy, request: EngineRequest, verbose: int | None = 0, *, in_update: bool = False
    ) -> Engine[Any]:
        """
        Give the engine for the policy as it is now.

        :param policy: actor-critic policy with its optimizer
        :param request: what is asked for
        :param verbose: 1 or more says so on the console where another engine takes over
        :param in_update: an update begins, for which the optimizer's state counts too
        :return: the engine, attached to the policy
        :raises UnsupportedPolicyError: if one is asked for by name that can't serve the policy
        """
        found = fingerprint_for(request, policy)
        unfit = in_update and self.engine is not None and not self._serves_state(self.engine, policy)
        if self.engine is None or unfit or self._is_another(policy, request, found):
            self._choose(policy, request, found, verbose)
        assert self.engine is not None
        self.engine.attach()
        return self.engine

    def explain(self, policy: ActorCriticPolicy, request: EngineRequest) -> str:
        """
        Say which engine the policy would have now, and why.

        :param policy: actor-critic policy with its optimizer
        :param request: what is asked for
        :return: one sentence, which begins with the engine's name; or why the one that is asked for can't be had
        """
        if self.engine is None or self._is_another(policy, request, fingerprint_for(request, policy)):
            try:
                return make_engine(request.engine, policy, request.engine_kwargs, request.objective)[1]
            except UnsupportedPolicyError as error:
                return f"none: {error}"
        return self.reason

    def _serves_state(self, engine: Engine[Any], policy: ActorCriticPolicy) -> bool:
        """Tell whether an engine can go on with the optimizer's state, of which the fused one wants one for all parameters."""
        if engine.name != "fused":
            return True
        # The optimizer's parameters are the policy's, or there would be no such engine; to list the policy's takes longer.
        found = state_fingerprint(policy.optimizer, policy.optimizer.param_groups[0]["params"])
        if self._state is None or not found.matches(self._state):
            if why_not_one_state(policy.optimizer, [*policy.parameters()]) is not None:
                return False
            self._state = found
        return True

    def _is_another(self, policy: ActorCriticPolicy, request: EngineRequest, found: Fingerprint | None) -> bool:
        """Tell whether policy or request differ from those that the engine was chosen for."""
        if policy is not self._policy or request != self._request:
            return True
        return found is not None and (self._fingerprint is None or not found.matches(self._fingerprint))

    def _choose(
        self, policy: ActorCriticPolicy, request: EngineRequest, found: Fingerprint | None, verbose: int | None
    ) -> None:
        """Build the engine, and put around it what steps in between."""
        before = self.reason
        self.engine = None  # what the old one held is the policy's already
        engine, self.reason = make_engine(request.engine, policy, request.engine_kwargs, request.objective)
        if request.micro_batch_size is not None:
            engine = AccumulatingEngine(engine, request.micro_batch_size)
        self.engine = engine if request.around is None else request.around(engine)
        # A copy of the options: they may be changed in place.
        self._request = request._replace(engine_kwargs=dict(request.engine_kwargs))
        self._policy, self._fingerprint = policy, found
        if before and before != self.reason and (verbose or 0) >= 1:
            print(f"engine: {self.reason}")


def fingerprint_for(request: EngineRequest, policy: ActorCriticPolicy) -> Fingerprint | None:
    """
    Look at a policy where an engine depends on it.

    The autograd engine keeps nothing of a policy, and the engine of a factory looks after itself.
    """
    return None if request.engine == "autograd" or not isinstance(request.engine, str) else fingerprint(policy)
