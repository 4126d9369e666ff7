"""
SB3's ``VecNormalize`` to the bit, in half of its time.

On arrays as small as observations, most of the time goes into calling numpy, not into arithmetic. So SB3's formulas stand here
with the same operations in the same order, and with fewer and cheaper calls: types are converted and rows repeated by
assignment, not in the middle of an operation, steps on the way lie in kept memory, the moments of returns are Python's floats,
and nothing is copied that is replaced right after. What is handed out is new memory, as in SB3.
"""

from __future__ import annotations

import copyreg
import inspect
import math
import pickle
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
from numpy import add, divide, multiply, sqrt, square, subtract
from stable_baselines3.common import vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

Env = TypeVar("Env", bound=VecEnv)

SINGLE, DOUBLE, BOOLEAN = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)

NUMBERS = frozenset((int, float, np.float64))
"""Types of settings with which numpy computes as with Python's floats."""

AS_NUMPY_2 = (np.ones(1, SINGLE) / np.float64(1.0)).dtype == DOUBLE
"""Whether float32 divided by a single float64 is float64; before numpy 2 it was float32."""

MAX_SIZE = 2**24
"""Up to here, float32 has every whole number."""


class ObservationNormalizer:
    """
    Update the moments of observations and normalise them, with memory that is kept from step to step.

    :param obs: of all environments, an array such as those to come
    """

    def __init__(self, obs: np.ndarray) -> None:
        shape = obs.shape
        self.shape, self.dtype, self.n = shape, obs.dtype, shape[0]
        self.mean: Any = None
        self.var: Any = None
        self.deviations = np.empty(shape, obs.dtype)
        self.batch_mean, self.batch_var, self.size = (np.empty(one, obs.dtype) for one in (shape[1:], shape[1:], ()))
        self.size[()] = self.n
        # In doubles: rows and repeated rows; mean's and variance's share of the update, which have two operations in common.
        self.values, self.rows, self.shares = np.empty(shape), np.empty(shape), np.empty((2, *shape[1:]))
        self.shift, self.square = self.shares
        self.deviation = np.empty(shape[1:])
        self.count, self.total, self.epsilon, self.low, self.high = (np.array(0.0) for _ in range(5))
        self.doubled_size = np.array(float(self.n))

    def fits(self, obs: Any, moments: Any) -> bool:
        """
        Tell whether observations and moments are such as this was made for.

        :param obs: of all environments
        :param moments: SB3's
        """
        return (
            type(obs) is np.ndarray
            and obs.shape == self.shape
            and obs.dtype == self.dtype
            and obs.flags.c_contiguous
            and type(moments) is RunningMeanStd
            and len(vars(moments)) == 3
            and type(moments.count) is float
            and (moments.mean is self.mean or _is_array(moments.mean, self.shape[1:]))
            and (moments.var is self.var or _is_array(moments.var, self.shape[1:]))
        )

    def update(self, obs: np.ndarray, moments: RunningMeanStd) -> None:
        """
        Do what ``moments.update(obs)`` does.

        :param obs: of all environments
        :param moments: get new arrays
        """
        batch_mean, batch_var, size, deviations = self.batch_mean, self.batch_var, self.size, self.deviations
        add.reduce(obs, 0, out=batch_mean)
        divide(batch_mean, size, batch_mean)
        deviations[...] = batch_mean
        subtract(obs, deviations, deviations)
        square(deviations, deviations)
        add.reduce(deviations, 0, out=batch_var)
        divide(batch_var, size, batch_var)

        old_count, old_mean, old_var = moments.count, moments.mean, moments.var
        new_count = old_count + self.n
        count, total, shares, shift, squared = self.count, self.total, self.shares, self.shift, self.square
        count[()] = old_count
        total[()] = new_count
        shift[...] = batch_mean
        subtract(shift, old_mean, shift)
        square(shift, squared)
        multiply(squared, count, squared)
        multiply(shares, self.doubled_size, shares)
        divide(shares, total, shares)
        self.mean = moments.mean = add(old_mean, shift)
        multiply(batch_var, size, batch_var)
        shift[...] = batch_var
        new_var = multiply(old_var, count)
        add(new_var, shift, new_var)
        add(new_var, squared, new_var)
        self.var = moments.var = divide(new_var, total, new_var)
        moments.count = new_count

    def normalize(self, obs: np.ndarray, moments: RunningMeanStd, epsilon: float, limit: float) -> np.ndarray:
        """
        Do what SB3's ``normalize_obs`` does.

        :param obs: of all environments
        :param moments: as they are to be used
        :param epsilon: added to variances
        :param limit: to clip at
        :return: float32
        """
        values, rows, deviation = self.values, self.rows, self.deviation
        self.epsilon[()] = epsilon
        self.low[()] = -limit
        self.high[()] = limit
        values[...] = obs
        rows[...] = moments.mean
        subtract(values, rows, values)
        add(moments.var, self.epsilon, deviation)
        rows[...] = sqrt(deviation, deviation)
        divide(values, rows, values)
        normalized: np.ndarray = values.clip(self.low, self.high, values).astype(SINGLE)
        return normalized

    def normalize_end(self, obs: Any, moments: RunningMeanStd) -> np.ndarray | None:
        """
        Do what SB3's ``normalize_obs`` does, with what the last call of ``normalize`` has left.

        :param obs: that an episode ended with, of one environment
        :param moments: as they were then
        :return: float32; None if this was made for others
        """
        if type(obs) is not np.ndarray or obs.shape != self.shape[1:]:
            return None
        normalized: np.ndarray = ((obs - moments.mean) / self.deviation).clip(self.low, self.high).astype(SINGLE)
        return normalized


class RewardNormalizer:
    """
    Update returns and their moments and normalise rewards, with memory that is kept from step to step.

    :param n: number of environments
    """

    def __init__(self, n: int) -> None:
        self.n, self.shape = n, (n,)
        self.values, self.deviations = np.empty(n), np.empty(n)
        self.gamma, self.mean, self.deviation, self.low, self.high = (np.array(0.0) for _ in range(5))

    def fits(self, reward: Any, moments: Any) -> bool:
        """
        Tell whether rewards and moments are such as this was made for.

        :param reward: of all environments
        :param moments: SB3's
        """
        return (
            type(reward) is np.ndarray
            and reward.shape == self.shape
            and (reward.dtype == SINGLE or reward.dtype == DOUBLE)
            and type(moments) is RunningMeanStd
            and len(vars(moments)) == 3
            and type(moments.count) is float
            # Arrays without axes at first, then numpy's floats.
            and (type(moments.mean) is np.float64 or _is_array(moments.mean, ()))
            and (type(moments.var) is np.float64 or _is_array(moments.var, ()))
            and moments.count >= 0.0
        )

    def update(self, returns: np.ndarray, reward: np.ndarray, gamma: float, moments: RunningMeanStd) -> np.ndarray:
        """
        Do what SB3's ``_update_reward`` does.

        :param returns: discounted, up to the step before
        :param reward: of all environments
        :param gamma: discount factor
        :param moments: of returns; get new numbers
        :return: the new returns
        """
        n, values, deviations = self.n, self.values, self.deviations
        self.gamma[()] = gamma
        values[...] = reward
        returns = multiply(returns, self.gamma)
        add(returns, values, returns)

        self.mean[()] = batch_mean = float(add.reduce(returns)) / n
        subtract(returns, self.mean, deviations)
        square(deviations, deviations)
        batch_var = float(add.reduce(deviations)) / n
        mean, var, count = float(moments.mean), float(moments.var), moments.count
        shift, total = batch_mean - mean, count + n
        new_mean = mean + shift * n / total
        new_var = (var * count + batch_var * n + shift * shift * count * n / total) / total
        if math.isfinite(new_mean) and math.isfinite(new_var):
            moments.mean, moments.var, moments.count = np.float64(new_mean), np.float64(new_var), total
        else:  # with numpy's warnings
            moments.update(returns)
        return returns

    def normalize(self, reward: np.ndarray, moments: RunningMeanStd, epsilon: float, limit: float) -> np.ndarray:
        """
        Do what SB3's ``normalize_reward`` does.

        :param reward: of all environments
        :param moments: of returns, as they are to be used
        :param epsilon: added to the variance
        :param limit: to clip at
        :return: float32
        """
        values = self.values
        values[...] = reward
        variance = float(moments.var) + epsilon
        self.deviation[()] = math.sqrt(variance) if variance >= 0.0 else sqrt(variance)
        self.low[()] = -limit
        self.high[()] = limit
        divide(values, self.deviation, values)
        normalized: np.ndarray = values.clip(self.low, self.high, values).astype(SINGLE)
        return normalized


class VecNormalize(vec_env.VecNormalize):
    """
    SB3's ``VecNormalize``: same arguments, same numbers to the bit, same files, and a step in half of the time.

    Where something is not as usual (whole numbers as observations, other moments than SB3's, a derived class, a method that
    somebody replaced), SB3's own code computes it. It is pickled and saved as SB3's class, so that its files can be read
    without this package.
    """

    # Not among the attributes, all of which SB3 pickles and a checkpoint keeps.
    __slots__ = ("_normalizers",)

    _normalizers: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> VecNormalize:
        """Make one that has kept no memory yet, by whatever way it is filled."""
        made = super().__new__(cls)
        made._normalizers = {}
        return made

    # -- a step --------------------------------------------------------------------------------------------------------------

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the step, update the moments and normalise what the step has brought.

        :return: observations, rewards, dones and infos
        """
        if not self._is_plain():
            return super().step_wait()
        obs, rewards, dones, infos = self.venv.step_wait()
        self.old_obs = obs  # type: ignore[assignment]  # SB3 refuses tuples when this is built
        self.old_reward = rewards
        normalizer, normalized = self._observed(obs)
        rewards = self._rewarded(rewards)
        if not (_is_array(dones, self.returns.shape, BOOLEAN) and np.count_nonzero(dones) == 0):
            for index in np.flatnonzero(dones).tolist():
                if "terminal_observation" in infos[index]:
                    end = infos[index]["terminal_observation"]
                    found = None if normalizer is None else normalizer.normalize_end(end, self.obs_rms)  # type: ignore[arg-type]
                    infos[index]["terminal_observation"] = self.normalize_obs(end) if found is None else found
            self.returns[dones] = 0
        return normalized, rewards, dones, infos

    def _is_plain(self) -> bool:
        """Whether settings are plain numbers, and no method is another than those that are rewritten here."""
        return (
            AS_NUMPY_2
            and type(self) is VecNormalize
            and vars(self).keys().isdisjoint(_REWRITTEN)
            and _in_use() == _KNOWN
            and type(self.clip_obs) in NUMBERS
            and type(self.clip_reward) in NUMBERS
            and type(self.epsilon) in NUMBERS
            and type(self.gamma) in NUMBERS
        )

    def _observed(self, obs: Any) -> tuple[ObservationNormalizer | None, Any]:
        """Update the moments of observations and normalise them; say what did, if SB3 did not."""
        if not self.norm_obs:
            return None, self.normalize_obs(obs)
        moments: Any = self.obs_rms
        if isinstance(obs, dict) and isinstance(moments, dict):
            return None, self._observed_parts(obs, moments)
        normalizer = self._normalizer(None, obs, moments)
        if normalizer is None:
            if self.training:
                moments.update(obs)
            return None, self.normalize_obs(obs)
        if self.training:
            normalizer.update(obs, moments)
        return normalizer, normalizer.normalize(obs, moments, self.epsilon, self.clip_obs)

    def _observed_parts(self, obs: dict[str, Any], moments: dict[str, RunningMeanStd]) -> dict[str, Any]:
        """Do the same for observations of several parts."""
        if self.training:
            for key, part_moments in moments.items():
                normalizer = self._normalizer(key, obs[key], part_moments)
                (part_moments.update(obs[key]) if normalizer is None else normalizer.update(obs[key], part_moments))
        if type(obs) is not dict:
            return self.normalize_obs(obs)  # type: ignore[return-value]
        assert self.norm_obs_keys is not None
        found = deepcopy({key: part for key, part in obs.items() if key not in self.norm_obs_keys})
        for key in self.norm_obs_keys:
            part, part_moments = obs[key], moments[key]
            normalizer = self._normalizer(key, part, part_moments)
            if normalizer is None:
                found[key] = self._normalize_obs(part, part_moments).astype(np.float32)
            else:
                found[key] = normalizer.normalize(part, part_moments, self.epsilon, self.clip_obs)
        return {key: found[key] for key in obs}

    def _normalizer(self, key: str | None, obs: Any, moments: Any) -> ObservationNormalizer | None:
        """Find what normalises such observations; None if SB3 has to."""
        found: ObservationNormalizer | None = self._normalizers.get(key)
        if found is not None and found.fits(obs, moments):
            return found
        if type(obs) is not np.ndarray or obs.dtype not in (SINGLE, DOUBLE) or obs.ndim < 2 or not 0 < len(obs) < MAX_SIZE:
            return None
        self._normalizers[key] = found = ObservationNormalizer(obs)
        return found if found.fits(obs, moments) else None

    def _rewarded(self, reward: np.ndarray) -> np.ndarray:
        """Update the returns and their moments, and normalise rewards."""
        normalizer = self._normalizers.get(_REWARD)
        if normalizer is None or normalizer.n != self.num_envs:
            normalizer = self._normalizers[_REWARD] = RewardNormalizer(self.num_envs)
        if not (normalizer.fits(reward, self.ret_rms) and _is_array(self.returns, normalizer.shape)):
            if self.training:
                self._update_reward(reward)
            return self.normalize_reward(reward)
        if self.training:
            self.returns = normalizer.update(self.returns, reward, self.gamma, self.ret_rms)
        if not self.norm_reward:
            return self.normalize_reward(reward)
        rewards: np.ndarray = normalizer.normalize(reward, self.ret_rms, self.epsilon, self.clip_reward)
        return rewards

    # -- copies and files ----------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, env: Env) -> Env | VecNormalize:
        """
        Take the place of SB3's ``VecNormalize``, with all that it holds.

        :param env: SB3's, which is not to be used any longer
        :return: one of this class; anything else than SB3's own class as it is
        """
        if type(env) is not vec_env.VecNormalize:
            return env
        made = cls.__new__(cls)
        vars(made).update(vars(env))
        if "class_attributes" in vars(made):
            made.class_attributes = dict(inspect.getmembers(cls))
        return made

    @classmethod
    def load(cls, load_path: str, venv: VecEnv) -> vec_env.VecNormalize:
        """
        Load what ``save`` has written, of SB3's class or this one.

        :param load_path: the file
        :param venv: the environments to wrap
        :return: the wrapped environments; of this class, unless the file names a class that somebody derived from SB3's
        """
        with open(load_path, "rb") as file:
            loaded: vec_env.VecNormalize = cls.of(pickle.load(file))
        loaded.set_venv(venv)
        return loaded

    def save(self, save_path: str) -> None:
        """
        Save moments and settings, in the very bytes that SB3's class writes.

        :param save_path: the file
        """
        if type(self) is not VecNormalize:
            super().save(save_path)
            return
        plain = vec_env.VecNormalize.__new__(vec_env.VecNormalize)
        vars(plain).update(vars(self))
        plain.save(save_path)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what SB3 does; one that has no environments yet has none of it."""
        of_environments = ("venv", "class_attributes", "returns")
        return {name: value for name, value in vars(self).items() if name not in of_environments}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Be pickled as SB3's class."""
        if type(self) is not VecNormalize:
            return super().__reduce_ex__(protocol)
        # copyreg's other function, __newobj__, refuses to name a class that is not the object's own.
        return copyreg._reconstructor, (vec_env.VecNormalize, object, None), self.__getstate__()  # type: ignore[attr-defined]

    def __copy__(self) -> VecNormalize:
        """Copy as SB3's class is copied, without its environments; the copy is of this class."""
        copied = type(self).__new__(type(self))
        copied.__setstate__(self.__getstate__())
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> VecNormalize:
        """Copy as SB3's class is copied, without its environments; the copy is of this class."""
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(deepcopy(self.__getstate__(), memo))
        return copied


def _is_array(values: Any, shape: tuple[int, ...], dtype: np.dtype[Any] = DOUBLE) -> bool:
    """Whether something is an array of a shape and type."""
    return type(values) is np.ndarray and values.shape == shape and values.dtype == dtype


_REWARD = object()
"""Where the memory for rewards is kept, beside those for the parts of observations."""

_REWRITTEN = ("normalize_obs", "normalize_reward", "_normalize_obs", "_update_reward")


def _in_use() -> tuple[Any, ...]:
    """List the functions of SB3's that are rewritten here, as they are now."""
    sb3 = vec_env.VecNormalize
    return (
        sb3.step_wait,
        sb3.normalize_obs,
        sb3.normalize_reward,
        sb3._normalize_obs,
        sb3._update_reward,
        RunningMeanStd.update,
        RunningMeanStd.update_from_moments,
    )


_KNOWN = _in_use()
"""To notice when somebody replaces one."""
