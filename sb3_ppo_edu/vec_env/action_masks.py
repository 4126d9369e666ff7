"""Action masks: which actions are legal now, as environments tell it, checked before a policy acts on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_ppo_edu.functional.values import shown
from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError

METHOD, INFO = "action_masks", "action_mask"
"""The environments' method that sb3-contrib asks for, and the key of infos that PettingZoo and others have."""

MaskSource = Literal["method", "info"]


def choices_of(action_space: spaces.Space[Any]) -> list[int]:
    """
    Count the classes of each choice of an action.

    :param action_space: Discrete, MultiDiscrete or MultiBinary
    :return: for each choice its number of classes; a mask has all of them side by side. A binary choice has two, 0 and 1
    :raises ValueError: for another space, in which there is nothing to forbid
    """
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        return [int(size) for size in action_space.nvec]
    if isinstance(action_space, spaces.MultiBinary) and isinstance(action_space.n, int):
        return [2] * action_space.n
    raise ValueError(
        f"action_space={action_space}: expected Discrete, or MultiDiscrete or MultiBinary of one dimension. The algorithm "
        "only supports actions of which a mask can forbid single ones: use EduPPO for others, or flatten them in a wrapper"
    )


def bottom_of(env: VecEnv) -> VecEnv:
    """Give the vector environment inside of all wrappers: it alone has the infos of resets."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


def mask_source(env: VecEnv) -> MaskSource | None:
    """
    Find out how environments tell which actions are legal.

    :param env: vector environment
    :return: "method" if they have sb3-contrib's method ``action_masks``, else "info" if the infos of their last resets have
        an ``action_mask``; None if neither
    :raises ValueError: if neither, and environments in other processes can't be asked for the method
    """
    told = all(INFO in info for info in bottom_of(env).reset_infos)
    try:
        if env.has_attr(METHOD):
            return "method"
    except NotImplementedError as error:
        if not told:
            raise ValueError(f"env: found no {INFO} in the infos of reset; {error}") from error
    return "info" if told else None


def ask_masks(env: VecEnv) -> list[Any]:
    """
    Ask each environment's method.

    :param env: vector environment
    :return: the masks as they are given, one for each environment
    :raises ValueError: if there are more or fewer, or the method can't be called without arguments
    """
    try:
        given = list(env.env_method(METHOD))
    except TypeError as error:
        raise ValueError(
            f"{METHOD}: found {error}; expected a method that gives the mask, called without arguments"
        ) from error
    if len(given) != env.num_envs:
        raise ValueError(f"{METHOD}: found {len(given)} masks of {env.num_envs} environments, expected one for each of them")
    return given


def no_masks(env: VecEnv) -> str:
    """
    Say what was found where not all environments tell masks in the same way.

    :param env: vector environment
    :return: what was found and expected, and what to do
    """
    bottom = bottom_of(env)
    asked = [index for index, one in enumerate(getattr(bottom, "envs", ())) if one.has_wrapper_attr(METHOD)]
    told = [index for index, info in enumerate(bottom.reset_infos) if INFO in info]
    found = f"found neither a method {METHOD}() nor an {INFO} in the infos of reset, expected one of them"
    if asked or told:
        found = (
            f"found a method {METHOD}() in the environments {asked} and an {INFO} in the infos of reset of {told}, expected "
            f"one of them in all {env.num_envs}"
        )
    return (
        f"env: {found}: add the method, wrap the environment in sb3_contrib.common.wrappers.ActionMasker, or "
        "learn(use_masking=False)"
    )


def check_masks(env: VecEnv) -> None:
    """
    Look whether environments tell masks when they are reset, and close them.

    :param env: made for this, with :class:`~sb3_ppo_edu.envs.wrappers.MasksFromInfo` inside if infos count
    :raises ValueError: if they don't
    """
    try:
        env.reset()
        if env.has_attr(METHOD):
            ask_masks(env)
    finally:
        env.close()


def told_masks(env: VecEnv, dones: NDArray[np.bool_] | None = None, infos: Sequence[dict[str, Any]] = ()) -> list[Any]:
    """
    Take the masks out of infos.

    After an episode's end the next action is the first of a new one, whose mask only the info of its reset has.

    :param env: vector environment
    :param dones: whether the last step ended each episode; None after a reset of all
    :param infos: of the last step
    :return: the masks as they are given; None where an info has none
    """
    reset_infos = bottom_of(env).reset_infos
    begun = [True] * env.num_envs if dones is None else dones
    return [(reset_infos if begins else infos)[index].get(INFO) for index, begins in enumerate(begun)]


def are_flags(values: NDArray[Any]) -> bool:
    """
    Tell whether all entries of an array are True, False, 0 or 1.

    :param values: of any type and shape; those of bool are not looked at
    :return: False for text and NaN, too
    """
    kind = values.dtype.kind
    return kind == "b" or (kind in "iuf" and bool(((values == 0) | (values == 1)).all()))


def as_masks(given: Sequence[Any], choices: Sequence[int], step: int, where: str = METHOD + "()") -> NDArray[np.bool_]:
    """
    Check the masks of a step and put them into one array.

    :param given: of each environment, any shape with an entry for each class: True or 1 if it is legal, else False or 0
    :param choices: see :func:`choices_of`
    :param step: of each environment's training that they are for, for errors
    :param where: they are from, for errors
    :return: shape ``(n_envs, sum(choices))``
    :raises EnvironmentFaultError: for a mask of another size or with other entries, and for one that forbids everything
    """
    size = sum(choices)
    masks = np.empty((len(given), size), dtype=np.bool_)
    for index, mask in enumerate(given):
        try:
            row = np.asarray(mask)
        except (RuntimeError, TypeError, ValueError) as error:  # lists of different lengths; tensors that numpy can't read
            what = f"{where}: found no array ({error}), expected {size} entries, {of_classes(choices)}"
            raise EnvironmentFaultError(index, step, what) from error
        if mask is None or row.size != size:
            found = "none" if mask is None else f"{row.size} entries"
            raise EnvironmentFaultError(index, step, f"{where}: found {found}, expected {size}, {of_classes(choices)}")
        if not are_flags(row):
            of = " of dtype object" if row.dtype.kind == "O" else ""
            what = (
                f"{where}: found {shown(row.tolist())}{of}, expected True or 1 for what is legal, False or 0 for what is not"
            )
            raise EnvironmentFaultError(index, step, what)
        masks[index] = row.reshape(-1)
    legal: NDArray[np.bool_]
    if len(choices) == 1:  # in half of the time
        legal = np.logical_or.reduce(masks, axis=1, keepdims=True)
    else:
        legal = np.logical_or.reduceat(masks, np.cumsum([0, *choices[:-1]]), axis=1)
    if legal.all():
        return masks
    index, choice = np.argwhere(~legal)[0].tolist()
    which = "" if len(choices) == 1 else f" of choice {choice}"
    raise EnvironmentFaultError(
        index,
        step,
        f"{where}: found all {choices[choice]} actions{which} forbidden, expected at least one that is legal: an "
        "episode in which nothing can be done any more has to end",
    )


def legal_actions(given: Sequence[Any], choices: Sequence[int], draw: Callable[[Any], Any]) -> NDArray[Any]:
    """
    Draw actions among those that are legal.

    :param given: masks, see :func:`as_masks`
    :param choices: see :func:`choices_of`
    :param draw: gives one entry of an array
    :return: shape ``(n_envs, len(choices))``
    """
    ends = np.cumsum(choices)[:-1]
    return np.array([[draw(np.flatnonzero(part)) for part in np.split(mask, ends)] for mask in as_masks(given, choices, 0)])


def expected_of(choices: Sequence[int]) -> str:
    """Say what choices there are."""
    return f"{choices[0]} actions" if len(choices) == 1 else f"{len(choices)} choices among {', '.join(map(str, choices))}"


def of_classes(choices: Sequence[int]) -> str:
    """Say what the entries of a mask are."""
    return f"one for each class of {expected_of(choices)}"
