"""The package's own environments: tic-tac-toe with masks, and environments whose velocities are hidden."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sb3_ppo_edu import EduPPO, MaskableEduPPO
from sb3_ppo_edu.envs.factory import make_training_env
from sb3_ppo_edu.envs.registration import VELOCITIES, make
from sb3_ppo_edu.envs.tic_tac_toe import TicTacToe
from sb3_ppo_edu.envs.wrappers import HiddenNumbers
from sb3_ppo_edu.training.hyperparameters import check_environment


def three_in_a_row(board: Any, owner: int) -> bool:
    """Whether a row, a column or a diagonal belongs to one player, by sums over the board as a square."""
    square = np.asarray(board).reshape(3, 3)
    lines = [*square, *square.T, square.diagonal(), np.fliplr(square).diagonal()]
    return any(line.sum() == 3 * owner for line in lines)


def random_games(games: int) -> list[list[tuple[Any, float, bool, dict[str, Any]]]]:
    """Play random legal games; each is its steps, the first of which holds what ``reset`` showed."""
    env, generator, played = TicTacToe(), np.random.default_rng(0), []
    for game in range(games):
        observation, info = env.reset(seed=game)
        steps: list[tuple[Any, float, bool, dict[str, Any]]] = [(observation, 0.0, False, info)]
        while not steps[-1][2]:
            observation, reward, terminated, _, info = env.step(generator.choice(np.flatnonzero(env.action_masks())))
            steps.append((observation, reward, terminated, info))
        played.append(steps)
    return played


def test_tic_tac_toe_follows_gymnasium() -> None:
    """Gymnasium's own check of environments has nothing to say, with the same game for the same seed."""
    check_env(TicTacToe(), skip_render_check=True)


def test_games_end_as_they_should() -> None:
    """The reward is 1 for a line of one's own, -1 for one of the other's, 0 for a full board; no game goes on after one."""
    ends = set()
    for steps in random_games(300):
        for board, reward, terminated, _ in steps:
            won, lost = three_in_a_row(board, 1), three_in_a_row(board, -1)
            assert not (won and lost)
            assert terminated == (won or lost or np.all(board != 0))
            assert reward == int(won) - int(lost)
        ends.add(steps[-1][1])
    assert ends == {1.0, -1.0, 0.0}


def test_players_take_turns() -> None:
    """Each step adds a square of the agent's, and one of the other's unless the game is over; nothing that stands changes."""
    first_moves = set()
    for steps in random_games(100):
        first_moves.add(int(np.abs(steps[0][0]).sum()))
        for (before, *_), (after, _, terminated, _) in itertools.pairwise(steps):
            new = after[before == 0]
            assert np.array_equal(after[before != 0], before[before != 0])
            assert (new == 1).sum() == 1
            assert (new == -1).sum() == 1 or (terminated and (new == -1).sum() == 0)
    assert first_moves == {0, 1}  # in some games the other player begins


def test_masks_are_the_free_squares_and_other_moves_lose() -> None:
    """A square may be taken where the board shows 0; a move to another one ends the game with -1 and leaves the board."""
    env = TicTacToe()
    board, _ = env.reset(seed=1)
    board, *_ = env.step(int(np.flatnonzero(board == 0)[0]))
    mask = env.action_masks()
    assert mask.dtype == bool and np.array_equal(mask, board == 0)
    after, reward, terminated, truncated, info = env.step(int(np.flatnonzero(board)[0]))
    assert (reward, terminated, truncated, info["illegal_move"]) == (-1.0, True, False, True)
    assert np.array_equal(after, board)


def test_board_can_be_read() -> None:
    """Nine signs in three rows, X for the agent and O for the other player; in the picture a colour for each."""
    env = TicTacToe(render_mode="ansi")
    board, _ = env.reset(seed=1)
    board, *_ = env.step(int(np.flatnonzero(board == 0)[0]))
    signs = {0: ".", 1: "X", -1: "O"}
    assert str(env.render()).split() == [signs[int(owner)] for owner in board]
    assert len(str(env.render()).splitlines()) == 3
    env.render_mode = "rgb_array"
    middles = np.asarray(env.render())[32::64, 32::64].reshape(9, 3)
    blue, orange = middles[board == 1], middles[board == -1]
    assert np.all(blue[:, 2] > blue[:, 0]) and np.all(orange[:, 0] > orange[:, 2])
    assert np.ptp(middles[board == 0]) == 0


def test_only_who_knows_the_masks_plays_legally() -> None:
    """While ``MaskableEduPPO`` trains no move is illegal; a policy without masks makes many illegal ones."""
    illegal: dict[str, int] = {}

    def count(local_variables: dict[str, Any], _: dict[str, Any]) -> bool:
        name = type(local_variables["self"]).__name__
        illegal[name] = illegal.get(name, 0) + sum("illegal_move" in info for info in local_variables["infos"])
        return True

    for algorithm in (MaskableEduPPO, EduPPO):
        env = make_training_env("TicTacToe-v0", n_envs=4)
        algorithm("MlpPolicy", env, n_steps=128, n_epochs=2, seed=0).learn(1024, callback=count)
    assert illegal["MaskableEduPPO"] == 0
    assert illegal["EduPPO"] > 100


@pytest.mark.parametrize("env_id", sorted(VELOCITIES))
def test_hidden_velocities_are_all_that_differs(env_id: str) -> None:
    """With the same seed and actions, the environment without velocities differs from Gymnasium's in those numbers only."""
    name, version = env_id.split("-")
    whole, hidden = gym.make(env_id), make(f"{name}NoVel-{version}")
    assert hidden.spec is not None and whole.spec is not None
    assert hidden.spec.max_episode_steps == whole.spec.max_episode_steps
    whole.action_space.seed(0)
    numbers = list(VELOCITIES[env_id])
    seen, observation = hidden.reset(seed=3)[0], whole.reset(seed=3)[0]
    for _ in range(8):
        assert np.array_equal(seen[numbers], np.zeros(len(numbers)))
        assert np.array_equal(np.delete(seen, numbers), np.delete(observation, numbers))
        action = whole.action_space.sample()
        (observation, *outcome), (seen, *of_hidden) = whole.step(action), hidden.step(action)
        assert outcome == of_hidden


def test_ids_are_known_to_all_who_take_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of ids and the factory find an own environment where nothing is registered yet, as in a fresh process."""
    for use in (check_environment, make_training_env):
        for env_id in ("CartPoleNoVel-v1", "TicTacToe-v0"):
            monkeypatch.delitem(gym.registry, env_id, raising=False)
        use("CartPoleNoVel-v1")
        assert {"CartPoleNoVel-v1", "TicTacToe-v0"} <= set(gym.registry)
    with pytest.raises(ValueError, match="TicTacToe-v0"):
        check_environment("TicTacTo-v0")


def test_hidden_numbers_must_be_there() -> None:
    """Positions that an observation does not have are refused with what was found."""
    with pytest.raises(ValueError, match=r"numbers=\[4\].*expected a flat Box"):
        HiddenNumbers(gym.make("CartPole-v1"), [4])
