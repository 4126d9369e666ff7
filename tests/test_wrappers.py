"""The wrappers that settings name."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from sb3_ppo_edu.envs.wrappers import ActionRepeat, LanderSymmetry


@pytest.mark.parametrize("repeat", [1, 3, 7])
def test_an_action_is_taken_repeatedly_and_its_rewards_add_up(repeat: int) -> None:
    """One wrapped step is ``repeat`` bare ones with the same action: last observation, summed rewards, cut at the end."""
    wrapped, bare = ActionRepeat(gym.make("CartPole-v1"), repeat), gym.make("CartPole-v1")
    wrapped.reset(seed=3)
    bare.reset(seed=3)
    ended = False
    while not ended:
        observation, reward, terminated, truncated, _ = wrapped.step(1)
        total = 0.0
        for _ in range(repeat):
            expected, one, bare_terminated, bare_truncated, _ = bare.step(1)
            total += float(one)
            if bare_terminated or bare_truncated:
                break
        assert observation.tolist() == expected.tolist()
        assert (reward, terminated, truncated) == (total, bare_terminated, bare_truncated)
        ended = terminated or truncated


def test_no_repeat_is_refused() -> None:
    """An action that is never taken is none."""
    with pytest.raises(ValueError, match="repeat=0: expected an integer ≥ 1"):
        ActionRepeat(gym.make("CartPole-v1"), 0)


@pytest.mark.parametrize("env_id", ["LunarLander-v3", "LunarLanderContinuous-v3"])
def test_the_lander_is_always_seen_right_of_the_pad(env_id: str) -> None:
    """
    What is seen is the bare environment's observation, mirrored where x < 0; what acts there is the mirrored action.

    The mirror is written out here: x, its velocity, angle and angular velocity change signs, the legs change places; the
    engines to the left and right change places. Rewards and ends are the bare environment's.
    """
    wrapped, bare = LanderSymmetry(gym.make(env_id)), gym.make(env_id)
    seen, expected = wrapped.reset(seed=5)[0], bare.reset(seed=5)[0]
    wrapped.action_space.seed(7)
    flips = 0
    for _ in range(1500):
        x, y, vx, vy, angle, turning, left, right = expected
        mirrored = x < 0
        flips += mirrored
        assert seen.tolist() == ([-x, y, -vx, vy, -angle, -turning, right, left] if mirrored else expected.tolist())
        assert seen.dtype == np.float32
        action = wrapped.action_space.sample()
        meant = action
        if mirrored:
            meant = {0: 0, 1: 3, 2: 2, 3: 1}[int(action)] if env_id == "LunarLander-v3" else np.array([action[0], -action[1]])
        seen, *rest, _ = wrapped.step(action)
        expected, *bare_rest, _ = bare.step(meant)
        assert rest == bare_rest
        if rest[1] or rest[2]:
            seen, expected = wrapped.reset()[0], bare.reset()[0]
    assert 0 < flips < 1500


def test_the_physics_is_symmetric() -> None:
    """Of many landers that fall without thrust, as many reach the ground left as right of the pad, at equal distances."""
    env = gym.make("LunarLander-v3")
    ends = []
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            observation, _, terminated, truncated, _ = env.step(0)
            ended = terminated or truncated
        ends.append(float(observation[0]))
    # The mean of 200 symmetric values lies within three standard errors of 0.
    assert abs(np.mean(ends)) < 3 * np.std(ends) / np.sqrt(len(ends))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "BipedalWalker-v3"])
def test_only_the_lander_has_this_symmetry(env_id: str) -> None:
    """Another environment is refused with what it has."""
    with pytest.raises(ValueError, match="LanderSymmetry: found observations of Box"):
        LanderSymmetry(gym.make(env_id))
