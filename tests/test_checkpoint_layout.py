"""Checkpoints keep how arrays lie in memory: the bits of a convolution depend on it."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.checkpoint.plain import pack, unpack
from tests.environments import RandomWalk


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (4, 1, 5, 5), (4, 3, 5, 6), (1, 2, 3, 4), (2, 1, 1)])
def test_order_of_axes_is_kept(shape: tuple[int, ...]) -> None:
    """An array with its axes in any order in memory comes back with the same strides, not only the same numbers."""
    for order in itertools.permutations(range(len(shape))):
        laid_out = np.arange(np.prod(shape), dtype=np.float32).reshape([shape[axis] for axis in order])
        array = laid_out.transpose(np.argsort(order))
        found = unpack(pack(array))
        np.testing.assert_array_equal(found, array)
        assert found.shape == array.shape == shape
        long = [axis for axis, size in enumerate(shape) if size > 1]
        assert [found.strides[axis] for axis in long] == [array.strides[axis] for axis in long]
        assert found.flags.writeable


def test_layout_of_transposed_images_is_kept() -> None:
    """Of one channel too, whose stride says to torch which layout it is in."""
    for channels in (1, 3):
        images = np.zeros((4, 36, 36, channels), np.uint8).transpose(0, 3, 1, 2)
        assert unpack(pack(images)).strides == images.strides


def test_what_copies_spread_out_and_views_is_kept() -> None:
    """Arrays with gaps, reversed and repeated ones come back with the same numbers."""
    array = np.arange(24.0).reshape(4, 6)
    for view in (array[::2, ::3], array[::-1].T, np.broadcast_to(array[0], (3, 6))):
        np.testing.assert_array_equal(unpack(pack(view)), view)


def test_orders_that_are_none_are_refused() -> None:
    """An order of axes that is no permutation is no plain data."""
    data = pack(np.zeros((2, 3)).T)
    assert b"[1,0]" in data
    with pytest.raises(ValueError, match="found no plain data"):
        unpack(data.replace(b"[1,0]", b"[0,0]"))


def test_images_resume_to_the_bit(tmp_path: Path) -> None:
    """Training on images that goes on in the middle of a rollout ends with the bits of one that was never interrupted."""

    def environments() -> VecEnv:
        return make_vec_env(partial(RandomWalk, "image", "discrete"), 4, seed=1, wrapper_class=Resumable)

    def callback() -> ExactCheckpoint:
        return ExactCheckpoint(52, tmp_path, keep=9)

    model = EduPPO("CnnPolicy", environments(), n_steps=16, batch_size=32, n_epochs=2, seed=1, engine="autograd", device="cpu")
    model.learn(192, callback=callback())
    resumed = EduPPO.resume(sorted(tmp_path.glob("*.zip"))[0], environments(), device="cpu")
    assert resumed.num_timesteps == 52
    resumed.learn(192, callback=callback())
    for one, other in zip(model.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert th.equal(one, other)
