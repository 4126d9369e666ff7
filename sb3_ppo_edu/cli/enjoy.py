"""``sb3-edu enjoy``: watch a saved run in a window, or film one episode."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
from rich.console import Console

from sb3_ppo_edu.cli.display import TextConsole, draw_into_memory, has_display
from sb3_ppo_edu.cli.flags import add_acting_arguments, positive_int
from sb3_ppo_edu.cli.printing import REPLAY_FILE
from sb3_ppo_edu.cli.refusals import DONE, refuse_file, refusing_bad_input
from sb3_ppo_edu.training.evaluation import evaluate
from sb3_ppo_edu.training.folder import SETTINGS_FILE
from sb3_ppo_edu.training.saved_run import SavedRun, open_run
from sb3_ppo_edu.training.settings import as_settings_say


def add_enjoy(commands: Any, _: Sequence[str]) -> None:
    """Add ``sb3-edu enjoy``."""
    parser = commands.add_parser(
        "enjoy",
        description="Watch a saved run in a window, or film one episode.",
        epilog="examples:\n  sb3-edu enjoy runs/lander\n  sb3-edu enjoy runs/lander --gif landing.gif --seed 3",
    )
    parser.set_defaults(command=enjoy, parser=parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--gif", type=Path, metavar="FILE", help="film one episode into a new file instead of opening a window")
    what.add_argument("--episodes", type=positive_int, default=3, metavar="N", help="episodes in the window (default: 3)")
    add_acting_arguments(parser)


def enjoy(arguments: argparse.Namespace) -> int:
    """Show a saved run in a window, or film it; return the exit code."""
    console = TextConsole(highlight=False)
    with refusing_bad_input():
        saved = open_run(arguments.run, trusted=arguments.trust, max_episode_steps=arguments.max_episode_steps)
        check_can_show(arguments)
        # As in evaluate.
        with nullcontext() if arguments.trust else as_settings_say(arguments.run / SETTINGS_FILE):
            if arguments.gif is None:
                watch(saved, arguments, console)
            else:
                film(saved, arguments, console)
    return DONE


def check_can_show(arguments: argparse.Namespace) -> None:
    """
    Refuse, before anything is built, to film into a file that can't be made, or to open a window where there is none.

    :raises ValueError: naming the flag
    """
    path: Path | None = arguments.gif
    if path is None:
        if not has_display():
            raise ValueError(
                "no window: neither DISPLAY nor WAYLAND_DISPLAY is set, so there is no display; " + remedy_for(arguments)
            )
        return
    if path.suffix.lower() != ".gif":
        raise ValueError(f"--gif {path}: expected a file's name that ends in .gif")
    refuse_file("--gif", path)


def remedy_for(arguments: argparse.Namespace) -> str:
    """Say how to see a run without a window."""
    return f"--gif FILE films an episode without one, as did `sb3-edu train` into {arguments.run / REPLAY_FILE}"


def watch(saved: SavedRun, arguments: argparse.Namespace, console: Console) -> None:
    """
    Play episodes in a window.

    :raises ValueError: if no window can be opened
    """
    model = saved.load_model()
    try:
        env = saved.make_env(first_seed=arguments.seed, render_mode="human")
        episodes = evaluate(model, env, arguments.episodes, deterministic=not arguments.stochastic)
    # pygame's errors are RuntimeErrors, gymnasium's for a missing library its own.
    except (RuntimeError, ImportError, OSError, gym.error.Error) as error:
        raise ValueError(f"no window for {saved.environment.id} ({error}); {remedy_for(arguments)}") from error
    env.close()
    for seed, episode_return, length in zip(episodes.seeds, episodes.returns, episodes.lengths, strict=True):
        console.print(f"seed {seed}: return {episode_return:.1f} in {length} steps")


def film(saved: SavedRun, arguments: argparse.Namespace, console: Console) -> None:
    """
    Film one episode.

    :raises ValueError: if the environment cannot draw itself
    """
    from sb3_ppo_edu.lab import replay

    draw_into_memory()
    try:
        episode = replay.film_run(saved, arguments.seed, deterministic=not arguments.stochastic)
    except replay.CannotRenderError as error:
        raise ValueError(f"--gif {arguments.gif}: {saved.environment.id} cannot draw itself here ({error})") from error
    replay.save_gif(episode, arguments.gif)
    console.print(f"{arguments.gif}: seed {arguments.seed}, return {episode.episode_return:.1f}", soft_wrap=True)
