"""Which engine a policy gets: by name, by class, or the fastest that serves it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu.engines.autograd import OPTIONS, AutogradEngine
from sb3_ppo_edu.engines.base import Engine
from sb3_ppo_edu.engines.support import why_not_derived
from sb3_ppo_edu.functional.objectives import Objective, PPOObjective, is_ppos
from sb3_ppo_edu.functional.values import shown
from sb3_ppo_edu.policies.further_inputs import further_inputs

# The engines are imported where they are needed: a third of what importing EduPPO would cost beside SB3.
if TYPE_CHECKING:
    from sb3_ppo_edu.engines.fused.engine import FusedEngine

EngineName = Literal["auto", "autograd", "numpy", "fused"]
"""The engines by name."""
EngineFactory = Callable[..., Engine[Any]]
"""A class or a function that makes an engine, see :func:`make_engine`."""

BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx10_2")
"""What torch calls sets of instructions for bfloat16."""

ENGINE_NAMES: tuple[EngineName, ...] = ("auto", "autograd", "numpy", "fused")
"""What ``engine=`` takes as a text."""

OUR_ENGINES: dict[str, EngineName] = {
    "sb3_ppo_edu.engines.autograd.AutogradEngine": "autograd",
    "sb3_ppo_edu.engines.derivation.engine.NumpyEngine": "numpy",
    "sb3_ppo_edu.engines.fused.engine.FusedEngine": "fused",
}
"""Where our own engines are, which are not imported before they are needed."""


class UnsupportedPolicyError(ValueError):
    """An engine was asked for by name that can't serve the policy as it is; the message says why."""


def named_engine(engine: EngineName | EngineFactory) -> EngineName | EngineFactory:
    """Give the name for a class of ours: by a name, the policy is looked at before the engine serves it."""
    return OUR_ENGINES.get(f"{engine.__module__}.{engine.__qualname__}", engine) if isinstance(engine, type) else engine


def make_engine(
    engine: EngineName | EngineFactory,
    policy: ActorCriticPolicy,
    engine_kwargs: Mapping[str, Any] | None = None,
    objective: Objective | None = None,
) -> tuple[Engine[Any], str]:
    """
    Build the engine for a policy.

    :param engine: "auto" (the fastest that supports the policy), "autograd", "numpy" or "fused"; or a class or function that
        is called with the policy and ``engine_kwargs`` and gives an :class:`~sb3_ppo_edu.engines.base.Engine`
    :param policy: actor-critic policy with its optimizer
    :param engine_kwargs: options of the engine; our names have those of :class:`~sb3_ppo_edu.engines.autograd.AutogradEngine`,
        and for a policy with a memory those of :class:`~sb3_ppo_edu.engines.sequences.SequenceEngine`
    :param objective: what is to be minimised; None for PPO's
    :return: the engine, and one sentence that says why it is this one
    :raises UnsupportedPolicyError: if one is asked for by name where it can't be, with that sentence; if an option can't be
    """
    options = dict(engine_kwargs or {})
    if not isinstance(engine, str):
        made, given = engine(policy, **options), getattr(engine, "__name__", repr(engine))
        if not hasattr(made, "gradients"):
            raise TypeError(f"engine={given}: it gave {made!r} for the policy, expected an engine (see engines.base.Engine)")
        return made, f"{made.name}: it was given as {given}."
    if engine not in ENGINE_NAMES:
        names = ", ".join(map(repr, ENGINE_NAMES))
        raise ValueError(f"engine={shown(engine)}: expected one of {names}, or a class or function that makes an engine")
    if unknown := sorted(set(options) - set(OPTIONS)):
        known = ", ".join(map(repr, OPTIONS))
        raise ValueError(f"engine_kwargs={options}: found {unknown[0]!r}, expected one of {known} for engine={engine!r}")
    if options.get("channels_last") and not has_images(policy.observation_space):
        raise UnsupportedPolicyError(
            f"engine_kwargs: channels_last=True with observations in {policy.observation_space}: expected images, that is a "
            "Box with channels, height and width, or a Dict with one: leave it out"
        )
    slow = " This processor lacks instructions for bfloat16, which makes bf16=True several times slower than without."
    remark = slow if options.get("bf16") and policy.device.type == "cpu" and lacks_bfloat16() else ""
    if engine == "autograd":
        return autograd_engine(policy, options), f"autograd: it was asked for.{remark}"
    objective = PPOObjective() if objective is None else objective
    obstacle = why_not(engine, policy, options, objective)
    if obstacle is None and engine == "numpy":
        return numpy_engine(policy), "numpy: it was asked for."
    if obstacle is None:
        from sb3_ppo_edu.engines.fused.library import LibraryMissing

        try:
            made = fused_engine(policy)
            own = "" if is_ppos(objective) else f", the objective {type(objective).__name__} in Python"
            return made, f"fused: policy, distribution and optimizer are supported, kernels for {made.instruction_set}{own}."
        except LibraryMissing as missing:
            obstacle = f"there is no library of kernels: {missing}"
            if engine == "auto" and not has_memory(policy):
                return numpy_engine(policy), f"numpy: {obstacle}."
    if engine == "auto" and has_memory(policy) and options.setdefault("whole_sequences", True):
        remark = f" Sequences go through each LSTM in one call (engine='autograd' has sb3-contrib's bits).{remark}"
    if engine == "auto":
        return autograd_engine(policy, options), f"autograd: {obstacle}.{remark}"
    raise UnsupportedPolicyError(f"engine={engine!r}: {obstacle}: use engine='auto' or 'autograd'")


def has_memory(policy: ActorCriticPolicy) -> bool:
    """Tell whether a policy hands hidden states on from step to step."""
    return "lstm_states" in further_inputs(policy)


def fused_engine(policy: ActorCriticPolicy) -> FusedEngine:
    """Build the engine of compiled kernels that a policy has."""
    masked = "action_masks" in further_inputs(policy)
    if not has_memory(policy):
        from sb3_ppo_edu.engines.fused.engine import FusedEngine
        from sb3_ppo_edu.engines.fused.masked import MaskedEngine

        return (MaskedEngine if masked else FusedEngine)(policy)
    from sb3_ppo_edu.engines.fused.recurrent import MaskedRecurrentEngine, RecurrentFusedEngine

    return (MaskedRecurrentEngine if masked else RecurrentFusedEngine)(policy)


def numpy_engine(policy: ActorCriticPolicy) -> Engine[Any]:
    """Build the engine of the derivation."""
    from sb3_ppo_edu.engines.derivation.engine import NumpyEngine

    return NumpyEngine(policy)


def autograd_engine(policy: ActorCriticPolicy, options: Mapping[str, Any]) -> AutogradEngine:
    """Build the reference engine that a policy has, and refuse options of the other one."""
    from sb3_ppo_edu.engines.sequences import SequenceEngine

    kind = SequenceEngine if has_memory(policy) else AutogradEngine
    known = inspect.signature(kind).parameters
    for name, value in options.items():
        if name not in known and value:
            memory = "with" if kind is SequenceEngine else "without"
            raise UnsupportedPolicyError(
                f"engine_kwargs: found {name}={value} for a policy {memory} a memory, expected "
                f"{' or '.join(one for one in OPTIONS if one in known)}: leave it out"
            )
    return kind(policy, **{name: value for name, value in options.items() if name in known})


def lacks_bfloat16() -> bool:
    """Tell whether this is an x86 processor that has no instructions for bfloat16, as far as torch knows."""
    found: dict[str, Any] = getattr(th.cpu, "get_capabilities", dict)()
    return found.get("architecture") == "x86_64" and not any(found.get(name) for name in BFLOAT16)


def has_images(space: spaces.Space[Any]) -> bool:
    """Tell whether observations, or parts of them, have the three dimensions of an image."""
    return any(map(has_images, space.values())) if isinstance(space, spaces.Dict) else len(space.shape or ()) == 3


def why_not(engine: EngineName, policy: ActorCriticPolicy, options: Mapping[str, Any], objective: Objective) -> str | None:
    """Find the first reason why a policy can't have an engine with backward passes of its own."""
    wanted = [f"{name}={value}" for name, value in options.items() if value]
    if wanted:
        return f"{wanted[0]} is for the autograd engine"
    if type(objective).__call__ is not Objective.__call__:
        return f"{type(objective).__name__}.__call__ has been replaced, which only autograd can follow"
    for name, parameter in policy.named_parameters():
        if parameter.dtype != th.float32:
            return f"policy.{name} is {str(parameter.dtype).removeprefix('torch.')}, and only float32 is supported"
    if engine == "numpy":
        return "the policy has a memory" if has_memory(policy) else why_not_derived(policy)
    from sb3_ppo_edu.engines.fused.engine import why_not_fused

    if not has_memory(policy):
        return why_not_fused(policy)
    from sb3_ppo_edu.engines.recurrence import why_not_recurrent

    return why_not_fused(policy, why_not_recurrent)
