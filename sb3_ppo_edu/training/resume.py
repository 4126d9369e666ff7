"""Going on with a run that was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.checkpoint.files import STATE, CheckpointError, latest_good
from sb3_ppo_edu.checkpoint.plain import unpack
from sb3_ppo_edu.envs.factory import make_training_env
from sb3_ppo_edu.training.folder import CHECKPOINT_FOLDER, MONITOR_FOLDER, SETTINGS_FILE
from sb3_ppo_edu.training.run import Run, make_callbacks
from sb3_ppo_edu.training.settings import read_settings, settings_from_record


def resume_run(
    folder: Path,
    device: str = "auto",
    *,
    trusted: bool = False,
    on_fault: str | None = None,
    checkpoint: Path | None = None,
    is_rank_zero: bool = True,
) -> Run:
    """
    Open an interrupted run where its newest whole checkpoint stands.

    :param trusted: whether what the policy was built from may be of any type
    :param on_fault: "raise" or "warn" from here on; ``None`` for what the run has
    :param checkpoint: the one to go on from; ``None`` for the newest whole one
    :param is_rank_zero: see :func:`sb3_ppo_edu.training.run.start_run`
    :return: the run, ready to learn what is left of it
    :raises ValueError: if the folder is no run's, or has no checkpoint, or the run was made without looking for faults
    """
    record = read_settings(folder / SETTINGS_FILE)
    settings = settings_from_record(record, device)
    if on_fault is not None:
        if settings.on_fault == "off":
            raise ValueError(
                f"on_fault={on_fault!r}: found a run that was made with 'off' ({folder}), expected one made with 'raise' or "
                "'warn': a resumed run has the layers that it was made with"
            )
        settings = replace(settings, on_fault=on_fault)
    place = checkpoint or folder / CHECKPOINT_FOLDER
    try:
        state = unpack(latest_good(place).members[STATE])
        for index, env in enumerate(state["env"]["envs"]):
            if env is None:  # it is one of a whole that can't be restored, and its episodes go to a new file
                continue
            cut_monitor(folder / MONITOR_FOLDER / f"{index}.monitor.csv", dict(env["wrappers"])["Monitor"]["episode_returns"])
        env = make_training_env(
            settings.environment,
            settings.n_envs,
            settings.seed,
            folder / MONITOR_FOLDER,
            append=True,
            on_fault=settings.on_fault,
        )
        model = EduPPO.resume(place, env, device=settings.device, trusted=trusted, log_folder=folder)
    except (CheckpointError, KeyError) as error:
        raise ValueError(f"run {folder}: it cannot be resumed: {error}") from error
    return Run(folder, settings, model, make_callbacks(settings, folder, is_rank_zero=is_rank_zero))


def cut_monitor(path: Path, episodes: Sequence[float]) -> None:
    """Cut a monitor file to the episodes that had ended at the checkpoint."""
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            kept = list(islice(file, 2 + len(episodes)))
        path.write_text("".join(kept), encoding="utf-8", newline="")
