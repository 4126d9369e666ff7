"""Going on with a run that was interrupted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.checkpoint.files import CheckpointError, latest_good
from sb3_ppo_edu.checkpoint.resume import read_state
from sb3_ppo_edu.envs.factory import make_training_env
from sb3_ppo_edu.serialization.writing import open_through_no_link, refuse_links
from sb3_ppo_edu.training.algorithms import ALGORITHMS
from sb3_ppo_edu.training.folder import CHECKPOINT_FOLDER, MONITOR_FOLDER, SETTINGS_FILE
from sb3_ppo_edu.training.lock import RunLock
from sb3_ppo_edu.training.run import Run, make_callbacks
from sb3_ppo_edu.training.settings import (
    as_settings_say,
    check_names,
    check_not_edited,
    described,
    read_settings,
    settings_from_record,
    write_record,
)


def resume_run(
    folder: Path,
    device: str = "auto",
    *,
    trusted: bool = False,
    on_fault: str | None = None,
    checkpoint: Path | None = None,
    is_rank_zero: bool = True,
    steps: int | None = None,
    take_over: bool = False,
) -> Run:
    """
    Open an interrupted run where its newest whole checkpoint stands.

    :param trusted: whether the run's files may name what they like, and links in its folder may be followed
    :param on_fault: "raise" or "warn" from here on; ``None`` for what the run has
    :param checkpoint: the one to go on from; ``None`` for the newest whole one
    :param is_rank_zero: see :func:`sb3_ppo_edu.training.run.start_run`
    :param steps: steps of the whole run, written into its settings; ``None`` for what they say
    :param take_over: see :class:`~sb3_ppo_edu.training.lock.RunLock`
    :return: the run, ready to learn what is left of it
    :raises ValueError: if the folder is no run's, has no checkpoint, or another process trains in it; if its settings were
        edited, or it was made without looking for faults; without trust, if a file of the run names what is not known to be
        harmless, or a symbolic link is in its folder
    """
    record = read_settings(folder / SETTINGS_FILE)
    settings = settings_from_record(record, device)
    if not trusted:
        check_names(settings, str(folder / SETTINGS_FILE))
        refuse_links(folder)
    if on_fault is not None:
        if settings.on_fault == "off":
            raise ValueError(
                f"on_fault={on_fault!r}: found a run that was made with 'off' ({folder}), expected one made with 'raise' or "
                "'warn': a resumed run has the layers that it was made with"
            )
        settings = replace(settings, on_fault=on_fault)
    if steps is not None:
        settings = replace(settings, steps=steps)
    shown, folder = folder, folder.absolute()
    place = (checkpoint or folder / CHECKPOINT_FOLDER).absolute()
    lock = RunLock(folder, take_over)
    env: VecEnv | None = None
    try:
        state = read_state(latest_good(place))
        check_not_edited(record, state.get("settings"), shown / SETTINGS_FILE)
        now = {**record, "steps": settings.steps}
        if settings.steps != (state.get("settings") or record)["steps"]:
            now["resumed"] = resumed_for(record, shown, settings.steps)
        description = {name: now.get(name) for name in described(settings)}
        with as_settings_say(shown / SETTINGS_FILE):
            env = make_training_env(
                settings.environment,
                settings.n_envs,
                settings.seed,
                folder / MONITOR_FOLDER,
                append=True,
                on_fault=settings.on_fault,
            )
            callbacks = make_callbacks(settings, folder, description, is_rank_zero=is_rank_zero)
        # From here on files are changed: whatever can be refused has been.
        model = ALGORITHMS[settings.algo].resume(
            place, env, device=settings.device, trusted=trusted, log_folder=folder, total_timesteps=settings.steps
        )
        for index, one in enumerate(state["env"]["envs"]):
            if one is None:  # it is one of a whole that can't be restored, and its episodes go to a new file
                continue
            cut_monitor(folder / MONITOR_FOLDER / f"{index}.monitor.csv", dict(one["wrappers"])["Monitor"]["episode_returns"])
        if now != record:
            write_record(folder / SETTINGS_FILE, now)
    except BaseException as error:
        if env is not None:
            env.close()
        lock.release()
        if isinstance(error, CheckpointError | KeyError):
            flag = f"--steps {steps}: " if f"total_timesteps={steps}:" in str(error) else ""
            raise ValueError(f"{flag}run {shown}: it cannot be resumed: {error}") from error
        raise
    return Run(folder, settings, model, callbacks, lock, shown)


def resumed_for(record: Mapping[str, Any], folder: Path, steps: int) -> list[str]:
    """
    List the commands that made a run longer than the one that began it.

    :param record: of the run
    :param folder: of the run, as it was named
    :param steps: of the whole run, from now on
    :return: the latest last; going on with it twice does not make it longer twice
    """
    command = shlex.join(["sb3-edu", "resume", str(folder), "--steps", str(steps)])
    return list(dict.fromkeys([*record.get("resumed", []), command]))


def cut_monitor(path: Path, episodes: Sequence[float]) -> None:
    """Cut a monitor file to the episodes that had ended at the checkpoint."""
    if path.is_file():
        # In place: Monitor has opened it already.
        with open(path, "r+b", opener=open_through_no_link) as file:
            file.truncate(sum(map(len, islice(file, 2 + len(episodes)))))
