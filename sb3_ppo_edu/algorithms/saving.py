"""Saving and loading: SB3's files, with VecNormalize's statistics beside the policy, and what a policy is exported to."""

from __future__ import annotations

import io
import pathlib
import warnings
import zipfile
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_ppo_edu.algorithms.acting import ActingModel
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.algorithms.checks import check_flag
from sb3_ppo_edu.algorithms.saved_objective import describe_objective
from sb3_ppo_edu.algorithms.services import service
from sb3_ppo_edu.functional.objectives import Objective
from sb3_ppo_edu.policies.further_inputs import further_inputs
from sb3_ppo_edu.serialization.errors import DamagedFileError

SelfSavingModel = TypeVar("SelfSavingModel", bound="SavingModel")

OF_ONE_TRAINING = ("_session", "_engines", "_learning", "_own")
"""Attributes that belong to a training in progress."""

BUILT_ANEW = ("objective", "resumed_envs", "resumed_engine", "_saved_statistics", "_read_rate", *OF_ONE_TRAINING)
"""Attributes that are not among those in a file: they are built anew, or have a place of their own there."""

STATISTICS = "vecnormalize.pkl"
"""Member of a model's file: what ``VecNormalize.save`` writes. SB3 does not look at it."""


class StatisticsWarning(UserWarning):
    """A model that was trained on normalised observations has been loaded without the statistics that they need."""


class SavingModel(ActingModel):
    """What :class:`~sb3_ppo_edu.algorithms.ppo.EduPPO` is in files: SB3's, with a member of our own."""

    objective: Objective
    further_inputs: ClassVar[tuple[str, ...]]
    _saved_statistics: VecNormalize | None = None
    """Those of the file that the model was loaded from, until it is trained again."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave engine and session out of copies and pickles, which have their own, and the graph of the last update."""
        _forget_graph(getattr(getattr(self, "policy", None), "action_dist", None))
        return {name: value for name, value in vars(self).items() if name not in OF_ONE_TRAINING}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take statistics as our class, which can be copied without environments; pickles name SB3's, which can't."""
        vars(self).update(state)
        if self._saved_statistics is not None:
            from sb3_ppo_edu.vec_env.normalize import VecNormalize as OurVecNormalize

            self._saved_statistics = OurVecNormalize.of(self._saved_statistics)

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model in SB3's format, and the statistics of a ``VecNormalize`` around its environments beside it.

        SB3's PPO, too, loads the file; to train on, it needs numbers for schedules that it does not know: ``ent_coef=0.01``.

        :param path: the file, with or without ``.zip``, or a file object
        :param exclude: attributes to leave out beside those that always are
        :param include: attributes to keep that would be left out
        """
        description = describe_objective(self.objective)
        if description is not None:
            self.saved_objective = description
        from sb3_ppo_edu.serialization.statistics import pickled_statistics  # whoever only trains does not need it

        statistics = pickled_statistics(self.normalization())
        buffer = io.BytesIO()  # since a file that can only be written can't be appended to
        try:
            super().save(path if statistics is None else buffer, exclude, include)
        finally:
            vars(self).pop("saved_objective", None)
        if statistics is not None:
            with zipfile.ZipFile(buffer, "a") as archive:
                archive.writestr(STATISTICS, statistics)
            file = open_path(path, "w", suffix="zip")
            file.write(buffer.getvalue())
            if isinstance(path, str | pathlib.Path):
                file.close()

    def _excluded_save_params(self) -> list[str]:
        """Attributes that are built anew and not saved."""
        return [*super()._excluded_save_params(), *BUILT_ANEW]

    @classmethod
    def load(
        cls: type[SelfSavingModel],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trusted: bool = True,
        **kwargs: Any,
    ) -> SelfSavingModel:
        """
        Load a model that this class or SB3's PPO has saved.

        If it was trained on observations that ``VecNormalize`` has normalised, and none with the same statistics is around
        ``env``, a :class:`StatisticsWarning` says so; :meth:`normalized` gives them back.

        :param path: the file, with or without ``.zip``, or a file object
        :param env: environment to go on training in, with the same spaces; None is enough to predict
        :param device: where the networks shall live
        :param custom_objects: attributes that replace the file's, which are then not looked at
        :param print_system_info: print the versions that saved it and those that load it
        :param force_reset: reset ``env`` before training goes on
        :param trusted: run whatever the file's pickles say, as SB3 does. With False, for a file that someone else made, only
            types that are known to be harmless are read (see :mod:`sb3_ppo_edu.serialization.untrusted`), and where it says to
            write (``tensorboard_log``) is not taken
        :param kwargs: further arguments to change, checked as the constructor does
        :return: the model
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: for a wrong argument; for statistics that are no statistics; with ``trusted=False``, if the file
            is damaged, is no PPO's, or wants a type that is not on the list; the message names file, place and type
        """
        trusted = check_flag("trusted", trusted)
        changes: dict[str, Any] = {"changes_to_check": kwargs}
        if "policy_kwargs" in kwargs:  # which SB3 compares with the file's itself
            changes["policy_kwargs"] = kwargs["policy_kwargs"]
        where = f"model {path}" if isinstance(path, str | pathlib.Path) else "model"
        if trusted:
            try:
                model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **changes)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] != "gym":
                    raise
                raise ArgumentError(
                    f"{where}: found spaces of gym, which Stable-Baselines3 1.x had; expected Gymnasium's, and gym is not "
                    f"installed: {cls.__name__}.load(…, trusted=False) reads them without it"
                ) from error
            return model._with_statistics(path, where, trusted)
        from sb3_ppo_edu.serialization.models import check_model, describing_failure  # most models are one's own: on demand

        checked = check_model(path, cls, custom_objects, kwargs)
        try:
            with describing_failure(path):
                model = super().load(checked.file, env, device, checked.attributes, print_system_info, force_reset, **changes)
        except DamagedFileError as error:
            cause = error.__cause__
            # What was given is wrong, not the file.
            if isinstance(cause, ArgumentError) and (kwargs or str(cause).startswith("env=")):
                raise cause from None
            if "spaces do not match" in str(cause):
                raise ArgumentError(
                    f"{where}: {cause}; expected an environment with the model's spaces; where only their bounds differ, "
                    "custom_objects={'observation_space': env.observation_space} takes the environment's"
                ) from None
            inputs = further_inputs(checked.attributes.get("policy_class", ActorCriticPolicy))
            if str(cause).startswith("policy=") and {*inputs} != {*cls.further_inputs}:
                raise ArgumentError(f"{where}: found another algorithm's, {cause}") from None
            raise
        return model._with_statistics(checked.file, where, trusted)

    # -- the statistics of VecNormalize ------------------------------------------------------------------------------------

    @classmethod
    def from_hub(
        cls: type[SelfSavingModel],
        repo_id: str,
        filename: str | None = None,
        *,
        revision: str | None = None,
        trusted: bool = False,
        **kwargs: Any,
    ) -> SelfSavingModel:
        """
        Fetch a model from the Hugging Face Hub, ours or SB3's, and load it.

        :param repo_id: such as ``"sb3/ppo-CartPole-v1"``
        :param filename: the model's file there; None for ``model.zip``, or else the only ``.zip`` file
        :param revision: branch, tag or commit, so that another file under the same name is not taken for this one
        :param trusted: as for :meth:`load`, but False unless it is given: the file is somebody else's
        :param kwargs: further arguments of :meth:`load`
        :return: the model
        :raises ValueError: if the repository has no such file, or the file is refused
        :raises ImportError: if the package of the extra ``hub`` is missing
        :raises OSError: if the Hub or the repository can't be reached
        """
        fetched: SelfSavingModel = service("from_hub")(cls, repo_id, filename, revision, trusted, **kwargs)
        return fetched

    def normalization(self) -> VecNormalize | None:
        """
        Find what normalises the observations: the ``VecNormalize`` around the environments, else the loaded file's.

        :return: it, or None; the file's has no environments
        """
        around = self.get_vec_normalize_env()
        return self._saved_statistics if around is None else around

    def normalized(self, env: GymEnv | str, training: bool = False) -> VecNormalize:
        """
        Wrap environments in the ``VecNormalize`` that the model was trained with, its statistics as they were saved.

        :param env: the environments, not normalised yet, or the registered id of one
        :param training: False to evaluate: statistics stay, rewards are the environments' own. True to train on:
            ``model.set_env(model.normalized(env, training=True))``
        :return: the wrapped environments
        :raises ValueError: if the model has no statistics, they do not fit, or ``env`` is none, or normalised already
        """
        training = check_flag("training", training)
        statistics = self.normalization()
        if statistics is None:
            raise ArgumentError(
                "normalized: found no statistics of VecNormalize in this model, expected those that it was trained with: it "
                "was trained without, or its file does not have them (VecNormalize.load reads a file of statistics)"
            )
        venv = env if isinstance(env, VecEnv) else self._wrap_env(maybe_make_env(env, self.verbose), self.verbose)
        if unwrap_vec_normalize(venv) is not None:
            raise ArgumentError("normalized: found a VecNormalize around the environments, expected none: give its venv")
        from sb3_ppo_edu.serialization.statistics import attach
        from sb3_ppo_edu.vec_env.normalize import VecNormalize as OurVecNormalize

        wrapped = attach(deepcopy(OurVecNormalize.of(statistics)), venv, "normalized")
        wrapped.training = training
        wrapped.norm_reward = wrapped.norm_reward and training
        return wrapped

    def _with_statistics(
        self: SelfSavingModel, path: str | pathlib.Path | io.BufferedIOBase, where: str, trusted: bool
    ) -> SelfSavingModel:
        """Keep the statistics of the file that the model is from, and say so where nothing uses them."""
        file = open_path(path, "r", suffix="zip")
        with zipfile.ZipFile(file) as archive:
            content = archive.read(STATISTICS) if STATISTICS in archive.namelist() else None
        if isinstance(path, str | pathlib.Path):
            file.close()
        self._saved_statistics = None
        if content is not None:
            from sb3_ppo_edu.serialization.statistics import read_statistics, same_statistics

            found = read_statistics(content, f"{where}, {STATISTICS}", trusted=trusted)
            self._saved_statistics = found
            around = self.get_vec_normalize_env()
            if found.norm_obs and (around is None or not same_statistics(around, found)):
                what = "no VecNormalize" if around is None else "a VecNormalize with other statistics"
                warnings.warn(
                    f"{where}: trained on observations that VecNormalize has normalised; found {what} around env, expected "
                    "the statistics in the file: act in model.normalized(env)",
                    StatisticsWarning,
                    stacklevel=3,
                )
        return self

    # -- a service of a room above -------------------------------------------------------------------------------------------

    def export(self, path: str | pathlib.Path, env: VecEnv | None = None) -> pathlib.Path:
        """
        Write the policy into an ONNX file that acts alone: normalisation, networks, masks, memory and the actions' bounds.

        Its inputs and outputs, and an example: ``sb3_ppo_edu/export/README.md``.

        :param path: the file, with or without ``.onnx``; one that is there is replaced
        :param env: environments as the policy acts in, for what they normalise and transpose; None for the model's own, and
            for one without, the statistics in its file and images with the channels last
        :return: the file
        :raises ExportError: if the policy has what can't be exported, with the reason
        :raises ImportError: if the packages of the extra ``export`` are missing
        """
        written: pathlib.Path = service("export")(self, path, env)
        return written


def _forget_graph(distribution: Any) -> None:
    """Detach what an SB3 distribution keeps of the policy's last call, and gSDE's noise: torch can't copy a tensor's graph."""
    for name, value in getattr(distribution, "__dict__", {}).items():
        if isinstance(value, th.Tensor) and value.grad_fn is not None:
            vars(distribution)[name] = value.detach()
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, th.distributions.Distribution):
                _forget_graph(part)
