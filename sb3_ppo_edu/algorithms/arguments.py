"""The arguments of PPO: one list of names, defaults and checks for constructor, ``load``, command line and zoo."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import Any, Literal, get_args

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_ppo_edu.algorithms.checks import (
    ArgumentError,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_range,
    parse_schedule,
    refuse,
)
from sb3_ppo_edu.engines.autograd import OPTIONS
from sb3_ppo_edu.functional.losses import KlEstimator, VfClipMode
from sb3_ppo_edu.functional.values import shown, unwrapped
from sb3_ppo_edu.serialization.text import did_you_mean

__all__ = [
    "CHECKS",
    "KL_STOP_FACTOR",
    "OLD_NAMES",
    "SCHEDULES",
    "ActionDistribution",
    "AdvantageNormalization",
    "ArgumentError",
    "EngineName",
    "KlCheck",
    "PPOArguments",
    "check_changes",
    "check_choice",
    "check_flag",
    "check_integer",
    "check_names",
    "check_number",
    "check_range",
    "check_rollout_size",
    "parse_schedule",
    "with_old_names",
]

KlCheck = Literal["minibatch", "epoch"]
"""When the KL rule decides."""
AdvantageNormalization = Literal["minibatch", "batch"]
"""Of what the moments are."""
ActionDistribution = Literal["gaussian", "tanh_gaussian", "beta"]
"""Of Box actions."""
EngineName = Literal["auto", "autograd", "numpy", "fused"]
"""The engines by name."""

KL_STOP_FACTOR = 1.5
"""The slack that OpenAI Spinning Up's PPO gives ``target_kl`` before it stops, and SB3 after it."""

SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "ent_coef", "vf_coef")
"""Arguments that may be a function of the remaining progress, or a schedule's text such as "lin_3e-4"."""

OLD_NAMES = ("compile", "bf16")
"""Options of the engine that were arguments of their own before there was ``engine_kwargs``."""

NETWORKS = ("shared_net_arch", "layer_norm", "critic_keys")
"""Arguments that a policy with :class:`~sb3_ppo_edu.policies.net_arch.NetArchMixin` has, too."""

PART_OF_THE_POLICY = ("use_sde", "action_distribution", *NETWORKS)
"""Arguments that shape the policy, and so can't be changed where it is loaded."""

OF_ROLLOUT_BUFFERS = ("rollout_buffer_class", "rollout_buffer_kwargs")
"""Arguments of ``EduPPO`` that are not checked by themselves."""

OTHER_ATTRIBUTES = (
    "policy_class",
    "policy_kwargs",
    *OF_ROLLOUT_BUFFERS,
    "tensorboard_log",
    "verbose",
    "device",
    "n_envs",
    "num_timesteps",
    "lr_schedule",
    "observation_space",
    "action_space",
    "_last_obs",
    "_last_episode_starts",
    "_stats_window_size",
    "_vec_normalize_env",
    "_logger",
    "_custom_logger",
)
"""Attributes beside the arguments that SB3's ``load`` may be given, whether the file has them or not."""


def _check_max_grad_norm(name: str, value: object) -> float:
    """Check the bound of the gradient norm, which infinity switches off."""
    number = unwrapped(value)
    if isinstance(number, (float, np.floating)) and number == math.inf:
        return math.inf
    return check_number(name, value, 0.0, open_low=True)


def _check_engine(name: str, value: object) -> str | Callable[..., Any]:
    """Check the engine: a name, or a class or function that makes one."""
    if callable(value):
        return value
    return check_choice(name, value, get_args(EngineName), "or a class or function that makes an engine")


def _check_engine_kwargs(name: str, value: object) -> dict[str, Any]:
    """Check the engine's options: by name; those that our engines have are flags."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise refuse(name, value, "None or a dict of the engine's options, such as dict(bf16=True)")
    return {key: check_flag(f"{name}: {key}", option) if key in OPTIONS else option for key, option in value.items()}


def _check_objective(name: str, value: object) -> object:
    """Check the objective by its type: an instance, a class, or the dotted path of one, with its arguments or without."""
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(next(iter(value.values())), Mapping | NoneType):
        _check_objective(name, next(iter(value)))
        return value
    if isinstance(value, str):
        package, _, last = value.rpartition(".")
        is_objective = bool(package) and all(part.isidentifier() for part in (*package.split("."), last))
    else:
        plain = type(value).__module__ == "builtins" or isinstance(value, (np.generic, np.ndarray, th.Tensor))
        is_objective = isinstance(value, type) or not plain
    if not is_objective:
        expected = "None, an objective, its class, or the class's dotted path such as 'package.module.Class'"
        raise refuse(name, value, f"{expected}, or {{path: {{argument: value}}}}")
    return value


def _check_list(name: str, value: object, check: Callable[[str, Any], Any], of: str) -> list[Any]:
    """Check a list with something in it."""
    if not isinstance(value, (list, tuple)) or not value:
        raise refuse(name, value, f"None or a list of {of}")
    return [check(name, one) for one in value]


def _check_key(name: str, value: object) -> str:
    """Check a key of observations."""
    if not isinstance(value, str):
        raise refuse(name, value, "a key of the observations")
    return value


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Let None pass a check."""
    return lambda name, value: None if value is None else check(name, value)


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "learning_rate": parse_schedule,
    "n_steps": partial(check_integer, minimum=1),
    "batch_size": partial(check_integer, minimum=1),
    "n_epochs": partial(check_integer, minimum=1),
    "gamma": partial(check_number, low=0.0, high=1.0),
    "gae_lambda": partial(check_number, low=0.0, high=1.0),
    "clip_range": partial(parse_schedule, open_low=True),
    "clip_range_vf": _or_none(partial(parse_schedule, open_low=True)),
    "normalize_advantage": check_flag,
    "ent_coef": partial(parse_schedule, low=-math.inf),
    "vf_coef": parse_schedule,
    "max_grad_norm": _check_max_grad_norm,
    "use_sde": check_flag,
    "sde_sample_freq": partial(check_integer, minimum=-1),
    "target_kl": _or_none(partial(check_number, low=0.0, open_low=True, remedy="None switches the limit off")),
    "stats_window_size": partial(check_integer, minimum=1, maximum=sys.maxsize),
    "seed": _or_none(partial(check_integer, minimum=0)),
    "engine": _check_engine,
    "engine_kwargs": _check_engine_kwargs,
    "objective": _or_none(_check_objective),
    "vf_clip_mode": partial(check_choice, choices=get_args(VfClipMode)),
    "dual_clip": _or_none(partial(check_number, low=1.0, open_low=True, remedy="None switches the dual clip off")),
    "kl_estimator": partial(check_choice, choices=get_args(KlEstimator)),
    "kl_check": partial(check_choice, choices=get_args(KlCheck)),
    "kl_stop_factor": partial(check_number, low=0.0, open_low=True),
    "advantage_normalization": partial(check_choice, choices=get_args(AdvantageNormalization)),
    "clip_advantage": _or_none(partial(check_number, low=0.0, open_low=True, remedy="None switches the bound off")),
    "recompute_advantages": check_flag,
    "vf_lambda": _or_none(partial(check_number, low=0.0, high=1.0)),
    "vf_n_steps": _or_none(partial(check_integer, minimum=1)),
    "action_distribution": partial(check_choice, choices=get_args(ActionDistribution)),
    "log_std_bounds": _or_none(check_range),
    "micro_batch_size": _or_none(partial(check_integer, minimum=1)),
    "shared_net_arch": _or_none(partial(_check_list, check=partial(check_integer, minimum=1), of="units, such as [64]")),
    "layer_norm": check_flag,
    "critic_keys": _or_none(partial(_check_list, check=_check_key, of="keys of the observations, such as ['state']")),
}
"""The arguments in the constructor's order, and the check that each has by itself."""


@dataclass
class PPOArguments:
    """
    Every argument of :class:`~sb3_ppo_edu.algorithms.ppo.EduPPO` that is checked, with its default, as plain Python values.

    What each means is said there.

    :raises ArgumentError: for the first wrong argument, naming it, what was found and what was expected
    """

    learning_rate: float | str | Schedule = 3e-4
    n_steps: int = 2048
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float | str | Schedule = 0.2
    clip_range_vf: float | str | Schedule | None = None
    normalize_advantage: bool = True
    ent_coef: float | str | Schedule = 0.0
    vf_coef: float | str | Schedule = 0.5
    max_grad_norm: float = 0.5
    use_sde: bool = False
    sde_sample_freq: int = -1
    target_kl: float | None = None
    stats_window_size: int = 100
    seed: int | None = None
    engine: str | Callable[..., Any] = "auto"
    engine_kwargs: dict[str, Any] | None = None
    objective: Any = None
    vf_clip_mode: VfClipMode = "sb3"
    dual_clip: float | None = None
    kl_estimator: KlEstimator = "k3"
    kl_check: KlCheck = "minibatch"
    kl_stop_factor: float = KL_STOP_FACTOR
    advantage_normalization: AdvantageNormalization = "minibatch"
    clip_advantage: float | None = None
    recompute_advantages: bool = False
    vf_lambda: float | None = None
    vf_n_steps: int | None = None
    action_distribution: ActionDistribution = "gaussian"
    log_std_bounds: tuple[float, float] | None = None
    micro_batch_size: int | None = None
    shared_net_arch: list[int] | None = None
    layer_norm: bool = False
    critic_keys: list[str] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PPOArguments:
        """
        Take the arguments out of a mapping that may hold other names too, such as the constructor's ``locals()``.

        :param values: by name; what is missing has its default
        :return: the arguments, checked
        :raises ArgumentError: for the first wrong argument
        """
        return cls(**{name: values[name] for name in CHECKS if name in values})

    def __post_init__(self) -> None:
        """Check each argument by itself, and then all together."""
        for name, check in CHECKS.items():
            if name != "batch_size":
                setattr(self, name, check(name, getattr(self, name)))
        if self.normalize_advantage and self.advantage_normalization == "minibatch":
            check_integer("batch_size", self.batch_size, 2, "advantages are normalised per minibatch")
        self.batch_size = check_integer("batch_size", self.batch_size, 1)
        self._check_combinations()

    def networks(self, policy_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
        """
        Collect what is to be built into the policy's networks.

        :param policy_kwargs: arguments of the policy; those that are arguments here as well are taken over
        :return: of :data:`NETWORKS`, those that are set
        :raises ArgumentError: if both say different things, or the policy's are wrong
        """
        for name in set(NETWORKS).intersection(policy_kwargs or ()):
            given, own = CHECKS[name](name, (policy_kwargs or {})[name]), getattr(self, name)
            if own and own != given:
                raise refuse(name, own, f"{given!r}, as policy_kwargs has it: say it once")
            setattr(self, name, given)
        return {name: getattr(self, name) for name in NETWORKS if getattr(self, name)}

    def _check_combinations(self) -> None:
        """Refuse an option that would have no effect beside the others, or contradicts them."""
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise refuse("micro_batch_size", self.micro_batch_size, f"a divisor of batch_size={self.batch_size}")
        if self.target_kl is None and self.kl_check != "minibatch":
            remedy = "set target_kl, such as 0.02"
            raise refuse("kl_check", self.kl_check, f"with a target_kl, found target_kl=None: {remedy}")
        if self.target_kl is None and self.kl_stop_factor != KL_STOP_FACTOR:
            raise refuse("kl_stop_factor", self.kl_stop_factor, "with a target_kl, found target_kl=None: set target_kl")
        if self.clip_range_vf is None and self.vf_clip_mode != "sb3":
            raise refuse("vf_clip_mode", self.vf_clip_mode, "with a clip_range_vf, found clip_range_vf=None: set it")
        if not self.normalize_advantage and self.advantage_normalization != "minibatch":
            raise ArgumentError(
                f"advantage_normalization={self.advantage_normalization!r} with normalize_advantage=False: "
                "expected normalize_advantage=True"
            )
        if self.vf_lambda is not None and self.vf_n_steps is not None:
            raise refuse("vf_lambda", self.vf_lambda, f"None with vf_n_steps={self.vf_n_steps}: leave one of the two out")
        if self.use_sde and self.action_distribution != "gaussian":
            raise ArgumentError(
                f"action_distribution={self.action_distribution!r} with use_sde=True: gSDE has a distribution of its own; "
                "use one of the two"
            )
        if self.use_sde and (self.engine_kwargs or {}).get("bf16", False):
            raise ArgumentError(
                "bf16=True with use_sde=True: gSDE's noise comes from the last hidden layer, which is in bfloat16"
            )
        if self.log_std_bounds is not None and (self.use_sde or self.action_distribution == "beta"):
            found = "use_sde=True" if self.use_sde else "action_distribution='beta'"
            raise ArgumentError(f"log_std_bounds={self.log_std_bounds} with {found}: expected a Gaussian with a free log_std")


def check_names(constructed: type, given: Mapping[str, Any]) -> None:
    """
    Name the argument that was probably meant by one that a constructor does not have, as Python does from 3.13 on.

    :param constructed: the class
    :param given: arguments by name
    :raises TypeError: for the first name that there is not; never where the constructor takes any
    """
    # A subclass may have another constructor, which mypy therefore does not look up in an instance; it is what is wanted here.
    parameters = inspect.signature(constructed.__init__).parameters  # type: ignore[misc]
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    for name, value in given.items():
        if name not in parameters:
            if name in CHECKS or name in OF_ROLLOUT_BUFFERS:
                raise TypeError(
                    f"{constructed.__name__}: {name}={shown(value)}: this class has no such argument, EduPPO has: leave it out"
                )
            near = did_you_mean(name, [one for one in parameters if not one.startswith("_")])
            raise TypeError(f"{constructed.__name__}: {name}={shown(value)}: no argument has this name{near}")


def check_rollout_size(n_steps: int, n_envs: int, batch_size: int, normalize_advantage: bool) -> None:
    """
    Check that rollouts divide into usable minibatches; warn where the last one of an epoch is smaller than the others.

    :param n_steps: the argument of that name
    :param n_envs: number of environments
    :param batch_size: the argument of that name
    :param normalize_advantage: the argument of that name
    :raises ArgumentError: if a rollout is too small to normalise its advantages
    """
    rollout_size = n_steps * n_envs
    if normalize_advantage and rollout_size < 2:
        raise ArgumentError(
            f"n_steps={n_steps} with n_envs={n_envs}: expected a rollout of at least 2 transitions "
            "(the standard deviation of a single advantage is undefined): raise n_steps"
        )
    remainder = rollout_size % batch_size
    if remainder > 0:
        warnings.warn(
            f"batch_size={batch_size} does not divide the rollout of n_steps * n_envs = {rollout_size} transitions "
            f"(n_steps={n_steps} and n_envs={n_envs}): there will be a truncated mini-batch of size {remainder} at "
            "the end of every epoch. Its gradient is noisier than the others'; a batch_size that is a factor of the "
            "rollout avoids it.",
            stacklevel=_level_of_user(),  # the line that constructs the model
        )


def _level_of_user() -> int:
    """Count the frames from the one that asks to the first that is not of this package."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("sb3_ppo_edu."):
        frame, level = frame.f_back, level + 1
    return level


# -- from files and to load --------------------------------------------------------------------------------------------------


def with_old_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Read options of the engine that were arguments of their own: ``bf16=True`` is ``engine_kwargs=dict(bf16=True)``.

    :param arguments: as a YAML file, a run's settings, a saved model or the zoo has them; names beyond PPO's stay
    :return: the same without the old names; ``engine_kwargs`` only where it was there or an old option is on
    :raises ArgumentError: if an old name is neither True nor False, or says another thing than ``engine_kwargs``
    """
    found = {name: value for name, value in arguments.items() if name not in OLD_NAMES}
    options = _check_engine_kwargs("engine_kwargs", found.get("engine_kwargs"))
    for name in OLD_NAMES:
        if name not in arguments:
            continue
        flag = check_flag(name, arguments[name])
        if options.get(name, flag) != flag:
            raise ArgumentError(
                f"{name}={flag} with engine_kwargs={options}: expected one of the two: leave {name} out, the option's old name"
            )
        if flag:
            options[name] = True
    if options or "engine_kwargs" in found:
        found["engine_kwargs"] = options
    return found


def _saved_arguments(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Take the arguments out of a saved model's attributes, but for those that SB3's PPO let pass and we don't."""
    named = {**saved, "stats_window_size": saved.get("_stats_window_size", 100)}
    named = with_old_names({name: named[name] for name in (*CHECKS, *OLD_NAMES) if name in named})

    def is_legal(name: str, value: Any) -> bool:
        """Tell whether an argument passes its own check."""
        try:
            CHECKS[name](name, value)
        except ArgumentError:
            return False
        return True

    # A function is let through: to call a saved one is not needed here.
    return {name: value for name, value in named.items() if callable(value) or is_legal(name, value)}


def check_changes(saved: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """
    Check what ``load`` is given in place of the saved values, as the constructor would check all of them together.

    Functions given as schedules are let through: the zoo's ``enjoy`` puts one that is 0 in place of the clip range.

    :param saved: the saved model's attributes, of SB3's PPO, of the first edition or of this one
    :param changes: by name: arguments, attributes that the saved model has, or :data:`OTHER_ATTRIBUTES`
    :return: the changes by name of the attribute, as plain Python values
    :raises ArgumentError: for an unknown name (with the nearest that is known), a value that the constructor refuses, or an
        argument that the saved policy was built with
    """
    known = {*CHECKS, *OLD_NAMES, *OTHER_ATTRIBUTES, *saved}
    for name, value in changes.items():
        if name not in known:
            near = did_you_mean(name, [one for one in known if not one.startswith("_")])
            raise ArgumentError(f"{name}={shown(value)}: no argument has this name{near}; expected one of {', '.join(CHECKS)}")
    if "_stats_window_size" in changes:
        changes = {**changes, "stats_window_size": changes["_stats_window_size"]}
    if "n_envs" in changes:
        changes = {**changes, "n_envs": check_integer("n_envs", changes["n_envs"], 1)}
    if {*CHECKS, *OLD_NAMES}.isdisjoint(changes):
        return dict(changes)

    before = _saved_arguments(saved)
    if not set(OLD_NAMES).isdisjoint(changes):
        kept = {name: option for name, option in before.get("engine_kwargs", {}).items() if name not in changes}
        changes = with_old_names({"engine_kwargs": kept, **changes})
    together = {**before, **{name: value for name, value in changes.items() if name in CHECKS}}
    functions = [name for name in SCHEDULES if callable(together.get(name))]
    arguments = PPOArguments(**{**together, **dict.fromkeys(functions, 1.0)})
    for name in PART_OF_THE_POLICY:
        was = before.get(name, getattr(PPOArguments, name))
        if name in changes and getattr(arguments, name) != was:
            raise refuse(name, changes[name], f"{was!r}, which the saved policy was built with: construct a new model")

    checked = {name: value if name in functions else getattr(arguments, name, value) for name, value in changes.items()}
    if "engine_kwargs" in checked:  # what the first edition saved beside it must not contradict it
        checked.update({name: checked["engine_kwargs"].get(name, False) for name in OLD_NAMES if name in saved})
    if "stats_window_size" in checked:  # as its constructor calls what SB3 keeps under the other name
        checked["_stats_window_size"] = checked.pop("stats_window_size")
    return checked
