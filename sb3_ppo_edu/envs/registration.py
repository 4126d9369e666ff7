"""The package's own environments, and MinAtar's, registered in Gymnasium when one is asked for and not before."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

from sb3_ppo_edu.envs.tic_tac_toe import TicTacToe
from sb3_ppo_edu.envs.wrappers import HiddenNumbers

VELOCITIES = {
    "CartPole-v1": (1, 3),
    "MountainCar-v0": (1,),
    "MountainCarContinuous-v0": (1,),
    "Pendulum-v1": (2,),
    "LunarLander-v3": (2, 3, 5),
    "LunarLanderContinuous-v3": (2, 3, 5),
}
"""Environment -> the numbers of its observation that are velocities. Without them it is called ``CartPoleNoVel-v1`` and so on,
as in RL Baselines3 Zoo, which registers the same ids but replaces Gymnasium's time limit when it is imported."""


EXTRAS = (("MinAtar/", "minatar", "lab"), ("ALE/", "ale_py", "atari"), ("gymnasium.envs.mujoco", "mujoco", "mujoco"))
"""How an environment's id, or the place of its class, begins, the library that it needs, and the extra that brings it."""


def missing_extra(env_id: str) -> str:
    """
    Say what an environment needs of what an extra of this package brings.

    :param env_id: Gymnasium id
    :return: the end of a sentence that begins with the environment; empty if nothing of that is missing
    """
    module, _, name = env_id.rpartition(":")
    where = (name, str(gym.registry[name].entry_point) if name in gym.registry else "")
    for beginning, library, extra in EXTRAS:
        if (module == library or any(one.startswith(beginning) for one in where)) and find_spec(library) is None:
            return f"needs {library}, which is not installed; the extra brings it: pip install 'sb3-ppo-edu[{extra}]'"
    return ""


def make(env_id: str, **kwargs: Any) -> gym.Env:
    """
    Build an environment, one of the package's own among them.

    :param env_id: Gymnasium id
    :param kwargs: arguments of ``gymnasium.make``
    :raises gymnasium.error.DependencyNotInstalled: if it needs what is not installed and an extra brings
    """
    if missing := missing_extra(env_id):
        raise gym.error.DependencyNotInstalled(f"{env_id} {missing}")
    register_for(env_id)
    return gym.make(env_id, **kwargs)


def register_for(env_id: str) -> None:
    """
    Register the package's environments, or MinAtar's, if an id is asked for that Gymnasium does not know.

    :param env_id: Gymnasium id
    """
    if env_id in gym.registry:
        return
    if env_id.startswith("MinAtar/") and find_spec("minatar") is not None:
        importlib.import_module("minatar.gym").register_envs()
        return
    if "TicTacToe-v0" not in gym.registry:
        gym.register("TicTacToe-v0", _entry_point(TicTacToe), reward_threshold=0.9)
    for env_id, numbers in VELOCITIES.items():
        name, version = env_id.split("-")
        if f"{name}NoVel-{version}" not in gym.registry and env_id in gym.registry:
            whole = gym.spec(env_id)
            hidden = WrapperSpec("HiddenNumbers", _entry_point(HiddenNumbers), {"numbers": numbers})
            gym.register(
                f"{name}NoVel-{version}",
                whole.entry_point,
                reward_threshold=whole.reward_threshold,
                max_episode_steps=whole.max_episode_steps,
                additional_wrappers=(hidden,),
                kwargs=dict(whole.kwargs),
            )


def _entry_point(built: type) -> str:
    """Name a class as Gymnasium's registry wants it."""
    return f"{built.__module__}:{built.__qualname__}"
