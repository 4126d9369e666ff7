"""Short films of what a policy does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.serialization.errors import DamagedFileError, UntrustedFileError
from sb3_ppo_edu.serialization.writing import write_atomically
from sb3_ppo_edu.training.evaluation import with_masks
from sb3_ppo_edu.training.saved_run import SavedRun

MAX_BYTES = 2_000_000
"""A film larger than this is saved with fewer frames."""

MAX_FRAMES = 300
"""Frames kept of an episode; from a longer one, every second or fourth or … step is kept."""

MAX_WIDTH = 400
"""Width in pixels."""

_COLOURS = 64
# GIF counts in hundredths of a second, and viewers slow down what is faster than two of them.
_SHORTEST_FRAME_MS = 20


class CannotRenderError(RuntimeError):
    """An environment cannot draw itself here."""


@dataclass(frozen=True)
class Film:
    """
    An episode as it was seen.

    :param frames: images, shape ``(height, width, 3)``
    :param seconds_per_frame: time between them, in the environment's own time
    :param episode_return: undiscounted return of the episode
    """

    frames: list[Image.Image]
    seconds_per_frame: float
    episode_return: float


def film_run(run: SavedRun, seed: int, *, deterministic: bool = True) -> Film:
    """
    Play one episode with the model that a run has saved, and keep what it looked like.

    :param run: the run
    :param seed: seed of the episode
    :param deterministic: whether to take the most likely actions or to sample them
    :return: the film
    :raises CannotRenderError: if the environment gives no image
    :raises ValueError: if the run is not trusted, and its files are damaged or want to run code
    """
    model = run.load_model()
    try:
        env = run.make_env(first_seed=seed, render_mode="rgb_array")
    except (DamagedFileError, UntrustedFileError):
        raise
    # What environments, drivers and drawing libraries raise is as various as they are.
    except Exception as error:
        raise CannotRenderError(f"{type(error).__name__}: {error}") from error
    try:
        return film_episode(model, env, deterministic=deterministic)
    finally:
        env.close()


def film_episode(policy: PolicyPredictor, env: VecEnv, *, deterministic: bool = True) -> Film:
    """
    Play one episode and keep what it looked like.

    :param policy: whose actions to play
    :param env: a single environment with ``render_mode="rgb_array"``
    :param deterministic: whether to take the most likely actions or to sample them
    :return: the film, of at most :data:`MAX_FRAMES` frames
    :raises CannotRenderError: if the environment gives no image
    """
    policy = with_masks(policy, env)
    observation = env.reset()
    frames, steps_per_frame, step = [_take_picture(env)], 1, 0
    state, starts = None, np.ones(1, dtype=bool)
    while True:
        # SB3's own type admits the forms of observation that predict takes.
        actions, state = policy.predict(observation, state, starts, deterministic)  # type: ignore[arg-type]
        observation, _, starts, infos = env.step(actions)
        if "episode" in infos[0]:
            break
        step += 1
        if step % steps_per_frame == 0:
            frames.append(_take_picture(env))
        if len(frames) > MAX_FRAMES:
            frames, steps_per_frame = frames[::2], 2 * steps_per_frame
    steps_per_second = float(env.get_attr("metadata")[0].get("render_fps") or 30)
    return Film(frames, steps_per_frame / steps_per_second, float(infos[0]["episode"]["r"]))


def _take_picture(env: VecEnv) -> Image.Image:
    """Render the environment, no wider than a film shall be."""
    try:
        pixels = env.get_images()[0]
    except Exception as error:
        raise CannotRenderError(f"{type(error).__name__}: {error}") from error
    if pixels is None:
        raise CannotRenderError("it gives no image")
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    if image.width <= MAX_WIDTH:
        return image
    return image.resize((MAX_WIDTH, round(image.height * MAX_WIDTH / image.width)), Image.Resampling.LANCZOS)


def save_gif(film: Film, path: Path, max_bytes: int = MAX_BYTES) -> None:
    """
    Save a film as an animated GIF that plays for ever, at the environment's own speed.

    :param film: the film
    :param path: the file
    :param max_bytes: size that the file shall not exceed, as far as leaving out frames can achieve it
    """

    def write(temporary: Path) -> None:
        every = 1
        while True:
            _write_gif(frames[::every], temporary, 1000 * film.seconds_per_frame * every)
            if temporary.stat().st_size <= max_bytes or every >= len(frames):
                return
            every *= 2

    frames = reduce_colours(film.frames)
    write_atomically(path, write)


def reduce_colours(frames: list[Image.Image]) -> list[Image.Image]:
    """
    Give all frames one small palette: what does not move stays equal from frame to frame, and a file stores only changes.

    :param frames: at least one
    :return: the same with a palette of 64 colours
    """
    sample = [np.asarray(frame) for frame in frames[:: max(len(frames) // 8, 1)]]
    palette = Image.fromarray(np.concatenate(sample)).quantize(_COLOURS)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _write_gif(frames: list[Image.Image], path: Path, milliseconds: float) -> None:
    """Write the frames of an animation."""
    duration = max(10 * round(milliseconds / 10), _SHORTEST_FRAME_MS)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0, optimize=True)
