"""The wrappers that settings name."""

from __future__ import annotations

import gymnasium as gym
import pytest

from sb3_ppo_edu.envs.wrappers import ActionRepeat


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
