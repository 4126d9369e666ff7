"""The doctor beside a training: it collects the record as it comes, warns once per finding, and leaves its report."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy

from sb3_ppo_edu.advantages import generalized_advantage_estimate
from sb3_ppo_edu.buffers import rollout_statistics, share_at_bounds
from sb3_ppo_edu.doctor.diagnose import Diagnosis, diagnose
from sb3_ppo_edu.doctor.record import MODEL_SETTINGS, STEPS_KEY, Record, record_of_rows
from sb3_ppo_edu.doctor.symptoms import BY_NAME
from sb3_ppo_edu.envs.factory import import_named
from sb3_ppo_edu.ppo import EduPPO
from sb3_ppo_edu.runs import write_atomically

REPORT_FILE = "doctor.json"

PageWriter = Callable[[Diagnosis, Path], Any]

DEFAULT_PAGE = "sb3_ppo_edu.bench.doctor_page.write_page"
"""Who draws the page, by name, as settings name callbacks: drawing is the business of a floor above this one."""


class TrainingDoctor(BaseCallback):
    """
    Watch a training of EduPPO, or of SB3's PPO, and say what is wrong with it.

    Each finding is printed once, as soon as it is sure and has lasted for two looks. At the end ``doctor.json`` and a page,
    ``doctor.html``, are written, and ``diagnosis`` holds the result.

    :param folder: where the report is written; None for the logger's folder, and nothing is written if there is none
    :param page: draws the page: a function of the diagnosis and the folder, or its dotted name; None for no page
    :param every: updates between two looks, ≥ 1
    :param sure: confidence from which a finding is printed, in [0, 1]
    :param verbose: 0 prints nothing, 1 warnings and the verdict
    :raises ValueError: for a number out of range
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        page: PageWriter | str | None = DEFAULT_PAGE,
        every: int = 10,
        sure: float = 0.65,
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        if every < 1:
            raise ValueError(f"every={every}: expected an integer ≥ 1")
        if not 0 <= sure <= 1:
            raise ValueError(f"sure={sure}: expected a number ≥ 0 and ≤ 1")
        self.folder = None if folder is None else str(folder)
        self.page = page
        self.every = every
        self.sure = sure
        self.rows: list[dict[str, float]] = []
        self.settings: dict[str, Any] = {}
        self.warned: list[str] = []
        self._seen_before: list[str] = []
        self._truncated = 0
        self._updates = 0
        self.diagnosis: Diagnosis | None = None

    # -- what is collected -------------------------------------------------------------------------------------------------

    def _on_training_start(self) -> None:
        """Take down the settings, and refuse what is not a PPO."""
        if not isinstance(self.model, (EduPPO, PPO)):
            raise ValueError(f"model={type(self.model).__name__}: expected EduPPO or stable_baselines3.PPO")
        self.settings = settings_of(self.model)
        self._updates = self.model._n_updates

    def _on_step(self) -> bool:
        """Count the episodes that a time limit cut off."""
        dones = self.locals.get("dones")
        if dones is not None and dones.any():
            infos = self.locals["infos"]
            self._truncated += sum(bool(infos[i].get("TimeLimit.truncated", False)) for i in np.flatnonzero(dones))
        return True

    def _on_rollout_start(self) -> None:
        """Take in the update that has just ended, and look at it now and then."""
        if self._take_update() and len(self.rows) % self.every == 0:
            self._look()
        self._truncated = 0

    def _on_rollout_end(self) -> None:
        """Begin a row with what the rollout says."""
        assert isinstance(self.model, (EduPPO, PPO))
        buffer = self.model.rollout_buffer
        elapsed = max((time.time_ns() - self.model.start_time) / 1e9, 1e-9)
        row: dict[str, float] = {
            STEPS_KEY: float(self.num_timesteps),
            "time/iterations": float(len(self.rows) + 1),
            "time/time_elapsed": elapsed,
            "time/fps": self.num_timesteps / elapsed,
        }
        episodes = [episode for episode in self.model.ep_info_buffer or () if "r" in episode]
        if episodes:
            row["rollout/ep_rew_mean"] = float(np.mean([episode["r"] for episode in episodes]))
            row["rollout/ep_len_mean"] = float(np.mean([episode["l"] for episode in episodes]))
        evaluated = last_evaluation(self.locals.get("callback"))
        if evaluated is not None:
            row["eval/mean_reward"] = evaluated
        if not isinstance(self.model, EduPPO):
            row |= self._rollout_of_sb3(buffer)
        if not self.rows:
            row |= self._check_advantages(buffer)
        self.rows.append(row)

    def _rollout_of_sb3(self, buffer: RolloutBuffer) -> dict[str, float]:
        """Measure what EduPPO logs of a rollout and SB3's PPO does not."""
        row = {f"train/{name}": value for name, value in rollout_statistics(buffer).items()}
        space, policy = self.model.action_space, self.model.policy
        if isinstance(space, spaces.Box):
            actions = buffer.actions.reshape(-1, *space.shape)
            actions = policy.unscale_action(actions) if policy.squash_output else np.clip(actions, space.low, space.high)
            row["train/action_saturation"] = share_at_bounds(actions, space)
        row["train/advantage_std"] = float(buffer.advantages.std())
        ends = self.locals.get("dones")
        if ends is not None:
            row["train/episodes_ended"] = float(buffer.episode_starts[1:].sum() + np.sum(ends))
            row["train/episodes_truncated"] = float(self._truncated)
        return row

    def _check_advantages(self, buffer: RolloutBuffer) -> dict[str, float]:
        """Work the advantages of a rollout out again."""
        values, ends = self.locals.get("values"), self.locals.get("dones")
        if not isinstance(values, th.Tensor) or ends is None or values.numel() != buffer.n_envs:
            return {}
        expected = generalized_advantage_estimate(
            buffer.rewards,
            buffer.values,
            np.concatenate([buffer.episode_starts[1:], np.asarray(ends)[None].astype(np.float32)]),
            values.detach().cpu().numpy().flatten(),
            buffer.gamma,
            buffer.gae_lambda,
        )
        return {"doctor/gae_error": float(np.abs(buffer.advantages - expected).max() / (expected.std() + 1e-8))}

    def _take_update(self) -> bool:
        """
        Complete the last row with what the update after it has logged.

        :return: whether there was an update
        """
        assert isinstance(self.model, (EduPPO, PPO))
        if not self.rows or self.model._n_updates == self._updates:
            return False
        self._updates = self.model._n_updates
        logged = self.logger.name_to_value
        self.rows[-1] |= {key: float(value) for key, value in logged.items() if key.startswith("train/")}
        return True

    # -- what is said ------------------------------------------------------------------------------------------------------

    def record(self) -> Record:
        """
        Give the record so far.

        :return: the record
        """
        return record_of_rows(self.rows, f"training of {self.settings.get('env') or 'an environment'}", self.settings)

    def _look(self) -> None:
        """Diagnose what there is, and warn of what has lasted since the last look."""
        findings = [
            one for one in diagnose(self.record()).findings if one.explained_by is None and one.confidence >= self.sure
        ]
        for finding in findings:
            if finding.name in self._seen_before and finding.name not in self.warned:
                self.warned.append(finding.name)
                symptom = BY_NAME[finding.name]
                self._print(
                    f"doctor, step {self.num_timesteps:,}: {symptom.title} ({finding.evidence[0].key}: "
                    f"{finding.evidence[0].text}). {symptom.remedy}"
                )
        self._seen_before = [finding.name for finding in findings]
        self.logger.record("doctor/findings", len(findings), exclude="stdout")

    def _on_training_end(self) -> None:
        """Come to a verdict and write the report."""
        self._take_update()
        self.diagnosis = diagnose(self.record())
        self._print(f"doctor: {self.diagnosis.summary}")
        folder = self.folder or self.logger.get_dir()
        if folder is None:
            return
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_report(self.diagnosis, path)
        if self.page is not None:
            writer = import_named(self.page) if isinstance(self.page, str) else self.page
            writer(self.diagnosis, path)

    def _print(self, text: str) -> None:
        """Print one line where output is wanted."""
        if self.verbose >= 1:
            Console(highlight=False).print(text, markup=False, soft_wrap=True)


def write_report(diagnosis: Diagnosis, folder: Path) -> Path:
    """
    Write what was found for programs to read.

    :param diagnosis: the diagnosis
    :param folder: where
    :return: the file
    """
    text = json.dumps(diagnosis.as_json(), indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / REPORT_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return folder / REPORT_FILE


def last_evaluation(callback: Any) -> float | None:
    """
    Find the last evaluation among the callbacks beside this one.

    :param callback: of the training, perhaps a list of several
    :return: mean return of the last evaluation, or None
    """
    if isinstance(callback, CallbackList):
        return next((found for one in callback.callbacks if (found := last_evaluation(one)) is not None), None)
    if isinstance(callback, EvalCallback) and math.isfinite(callback.last_mean_reward):
        return float(callback.last_mean_reward)
    return None


def settings_of(model: EduPPO | PPO) -> dict[str, Any]:
    """
    Take down the settings of a model.

    :param model: in training
    :return: those settings that are numbers, and what the environment is
    """
    settings = {name: getattr(model, name, None) for name in MODEL_SETTINGS}
    settings = {name: value for name, value in settings.items() if value is None or isinstance(value, (bool, int, float))}
    policy = model.policy
    plain = isinstance(policy, ActorCriticPolicy) and not isinstance(
        policy, (ActorCriticCnnPolicy, MultiInputActorCriticPolicy)
    )
    return {
        **settings,
        "n_envs": model.n_envs,
        "env": environment_id(model),
        "normalize": model.get_vec_normalize_env() is not None,
        "policy": "MlpPolicy" if plain else type(policy).__name__,
        "device": str(model.device),
        "torch_threads": th.get_num_threads(),
    }


def environment_id(model: EduPPO | PPO) -> str | None:
    """
    Find the id under which a model's environment is registered.

    :param model: with an environment
    :return: the id, or None if it has none
    """
    try:
        return str(model.env.get_attr("spec", 0)[0].id) if model.env is not None else None
    except AttributeError:
        return None
