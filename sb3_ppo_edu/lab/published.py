"""What others have published of PPO on MuJoCo's environments after a million steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """
    A published table.

    :param name: whose it is
    :param version: of the environments
    :param address: where it stands
    :param measured: what the numbers are
    :param returns: for each environment, without version, the mean and what is given as its spread
    """

    name: str
    version: str
    address: str
    measured: str
    returns: Mapping[str, tuple[float, float]]


PUBLISHED = (
    Published(
        "RL Baselines3 Zoo",
        "v3",
        "https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md",
        "one trained agent each, mean and standard deviation over its deterministic episodes",
        {
            "HalfCheetah": (5819.099, 663.530),
            "Hopper": (2410.435, 10.026),
            "Walker2d": (3478.798, 821.708),
            "Ant": (1327.158, 451.577),
        },
    ),
    Published(
        "CleanRL",
        "v4",
        "https://docs.cleanrl.dev/rl-algorithms/ppo/",
        "mean and standard deviation over seeds of the last returns of training, with drawn actions",
        {
            "HalfCheetah": (1442.64, 46.03),
            "Hopper": (2382.86, 271.74),
            "Walker2d": (2287.95, 571.78),
            "Humanoid": (716.11, 49.08),
        },
    ),
    Published(
        "Tianshou",
        "v3",
        "https://github.com/thu-ml/tianshou/tree/master/examples/mujoco",
        "the best of all evaluations within a million steps, mean and standard deviation over ten seeds",
        {
            "HalfCheetah": (5783.9, 1244.0),
            "Hopper": (2609.3, 700.8),
            "Walker2d": (3588.5, 756.6),
            "Ant": (3258.4, 1079.3),
            "Humanoid": (787.1, 193.5),
        },
    ),
)


def best_published(env: str) -> float:
    """
    Find the highest published mean.

    :param env: Gymnasium id; its version does not matter
    :return: the mean
    """
    return max(table.returns[name][0] for table in PUBLISHED if (name := env.partition("-v")[0]) in table.returns)
