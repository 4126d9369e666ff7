"""Tic-tac-toe against a player that moves at random: a small game in which not every action is legal in every state."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

MINE, THEIRS, FREE = 1.0, -1.0, 0.0
COLOURS = {MINE: (0, 114, 178), THEIRS: (213, 94, 0), FREE: (225, 225, 225)}
SQUARE = 64
"""Pixels along a side of a square."""
LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


class TicTacToe(gym.Env[NDArray[np.float32], Any]):
    """
    Three in a row on nine squares; who begins is drawn anew for each game.

    The action is a square, row by row from 0 to 8. The observation has shape ``(9,)``: 1 for a square of the agent's, -1 for
    one of the other player's, 0 for a free one. The reward comes at the end: 1 for a win, 0 for a draw, -1 for a loss. A move
    to a square that is taken loses the game, and ``info["illegal_move"]`` is then True; :meth:`action_masks` says which are
    free.

    :param render_mode: "ansi" for the board as text, "rgb_array" for a picture of it, or ``None``
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-1.0, 1.0, (9,), np.float32)
        self.action_space = spaces.Discrete(9)
        self._board = [FREE] * 9

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Clear the board; in half of the games the other player has moved already."""
        super().reset(seed=seed)
        self._board = [FREE] * 9
        if self.np_random.random() < 0.5:
            self._reply()
        return self._observe(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """
        Take a square; unless that ends the game, the other player takes one.

        :param action: square, from 0 to 8
        """
        square = int(action)
        if self._board[square] != FREE:
            return self._observe(), -1.0, True, False, {"illegal_move": True}
        self._board[square] = MINE
        if not self._over():
            self._reply()
        reward = MINE if self._has_line(MINE) else THEIRS if self._has_line(THEIRS) else 0.0
        return self._observe(), reward, self._over(), False, {}

    def action_masks(self) -> NDArray[np.bool_]:
        """
        Tell which squares are free.

        :return: shape ``(9,)``, True where the agent may move
        """
        return np.array([owner == FREE for owner in self._board])

    def render(self) -> str | NDArray[np.uint8] | None:
        """Draw the board: X and blue for the agent, O and orange for the other player."""
        if self.render_mode == "ansi":
            signs = ["X" if owner == MINE else "O" if owner == THEIRS else "." for owner in self._board]
            return "\n".join(" ".join(signs[row : row + 3]) for row in (0, 3, 6))
        if self.render_mode == "rgb_array":
            squares = np.array([COLOURS[owner] for owner in self._board], dtype=np.uint8).reshape(3, 3, 3)
            picture: NDArray[np.uint8] = squares.repeat(SQUARE, axis=0).repeat(SQUARE, axis=1)
            picture[::SQUARE] = picture[:, ::SQUARE] = 255
            return picture
        return None

    def _reply(self) -> None:
        """Let the other player take a free square, each with the same probability."""
        free = [square for square, owner in enumerate(self._board) if owner == FREE]
        self._board[free[int(self.np_random.integers(len(free)))]] = THEIRS

    def _has_line(self, owner: float) -> bool:
        """Whether a player has three in a row."""
        return any(all(self._board[square] == owner for square in line) for line in LINES)

    def _over(self) -> bool:
        """Whether somebody has won or the board is full."""
        return self._has_line(MINE) or self._has_line(THEIRS) or FREE not in self._board

    def _observe(self) -> NDArray[np.float32]:
        """Copy the board."""
        return np.array(self._board, dtype=np.float32)
