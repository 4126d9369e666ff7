"""``VecNormalize`` computes what SB3's computes, to the bit, whatever comes and whatever somebody changes."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stable_baselines3.common import vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_ppo_edu.vec_env import VecNormalize
from tests.streams import PARTS, Stream, bits, box, play, state_of, used

SB3 = vec_env.VecNormalize
Pair = tuple[vec_env.VecNormalize, vec_env.VecNormalize]


SPACES: dict[str, spaces.Space] = {
    **{f"{shape} {dtype.__name__}": box(shape, dtype) for shape in [(1,), (3,), (8,), (2, 3), ()] for dtype in (np.float32,)},
    **{
        f"{shape} {dtype.__name__}": box(shape, dtype)
        for shape in [(1,), (17,)]
        for dtype in (np.float64, np.float16, np.int32)
    },
    "image": box((3, 4, 4), np.uint8),
    "dictionary": PARTS,
}

SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "training": st.booleans(),
    "norm_obs": st.booleans(),
    "norm_reward": st.booleans(),
    "clip_obs": st.sampled_from([10.0, 0.5, 1, np.float64(2.0), np.float32(0.3), float("inf"), 0.0]),
    "clip_reward": st.sampled_from([10.0, 0.5, 3, float("inf")]),
    "gamma": st.sampled_from([0.99, 0, 1, np.float64(0.9), np.float32(0.9), np.longdouble("0.9")]),
    "epsilon": st.sampled_from([1e-8, 1e-3, 0.0, np.float32(0.1)]),
}

UNUSUAL: dict[str, Callable[[vec_env.VecNormalize], None]] = {
    "other observations": lambda env: setattr(env.unwrapped, "dtype", np.float64),
    "single moments": lambda env: each(env, lambda one: vars(one).update(mean=np.float32(one.mean), var=np.float32(one.var))),
    "one count": lambda env: each(env, lambda one: vars(one).update(count=7)),
    "single count": lambda env: each(env, lambda one: vars(one).update(count=np.float32(7.1))),
    "no count": lambda env: each(env, lambda one: vars(one).update(count=-float(env.num_envs))),
    "shapes of 1": lambda env: each(env, lambda one: vars(one).update(mean=np.full(1, 0.5), var=np.full(1, 0.5))),
    "numbers": lambda env: vars(env.ret_rms).update(mean=0.25, var=0.5),
    "negative variance": lambda env: vars(env.ret_rms).update(var=np.float64(-1.0)),
    "no number": lambda env: vars(env.ret_rms).update(mean=np.float64("nan")),
    "single returns": lambda env: setattr(env, "returns", env.returns.astype(np.float32)),
    "returns of shape 1": lambda env: setattr(env, "returns", np.ones(1)),
}
"""What somebody might do to it."""

EVENTS = st.one_of(
    st.just(("step", None)),
    st.just(("step", None)),
    st.sampled_from([(name, None) for name in ("reset", "deepcopy", "copy", "pickle", "file", "sync", "moments", "clear")]),
    st.tuples(st.just("unusual"), st.sampled_from(sorted(UNUSUAL))),
    *(st.tuples(st.just(name), values) for name, values in SETTINGS.items()),
)


def pair(space: spaces.Space, n_envs: int = 3, stream: dict[str, Any] | None = None, **arguments: Any) -> Pair:
    """Both classes around the same stream, SB3's first."""
    return tuple(kind(Stream(1, n_envs, space, **(stream or {})), **arguments) for kind in (SB3, VecNormalize))  # type: ignore[return-value]


def happen(env: vec_env.VecNormalize, event: str, value: Any, folder: Path) -> tuple[vec_env.VecNormalize, Any]:
    """Let something happen; give what goes on, and what it has handed out."""
    copies: dict[str, Callable[[], vec_env.VecNormalize]] = {
        "deepcopy": lambda: copy.deepcopy(env),
        "copy": lambda: copy.copy(env),
        "pickle": lambda: (
            type(env).of(pickle.loads(pickle.dumps(env))) if isinstance(env, VecNormalize) else copy.deepcopy(env)
        ),
    }
    if event == "step":
        return env, (env.step(np.zeros(env.num_envs)), env.get_original_obs(), env.get_original_reward())
    if event == "reset":
        return env, (env.reset(), env.get_original_obs())
    if event == "file":
        path = str(folder / type(env).__module__)
        env.save(path)
        return type(env).load(path, env.venv), None
    if event == "unusual":
        UNUSUAL[value](env)
        return env, None
    if event in copies:
        copied = copies[event]()
        copied.set_venv(env.venv)
        return copied, None
    if event == "sync":  # as sync_envs_normalization does
        env.obs_rms, env.ret_rms = copy.deepcopy(env.obs_rms), copy.deepcopy(env.ret_rms)
    elif event == "moments":
        for moments in env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms]:
            moments.mean, moments.var, moments.count = moments.mean + 1.0, moments.var * 2.0, 50.0
    elif event == "clear":
        env.ret_rms = RunningMeanStd(shape=())
    else:
        setattr(env, event, value)
    return env, None


@settings(max_examples=300)
@given(
    space=st.sampled_from(sorted(SPACES)),
    n_envs=st.sampled_from([1, 2, 3, 7, 8, 9, 16, 33]),
    stream=st.fixed_dictionaries(
        {
            "reward_dtype": st.sampled_from(["float32", "float64", "float32", "float64", "float16", "int64"]),
            "order": st.sampled_from(["C", "C", "F"]),
            "scale": st.sampled_from([1.0, 1e-3, 1e4, 1e-30, 1e30]),
            "broken": st.sampled_from([0.0, 0.0, 0.02]),
        }
    ),
    keys=st.sampled_from([["a", "b", "d"], ["d"], ["d", "a"]]),
    events=st.lists(EVENTS, min_size=5, max_size=30),
)
@example("(8,) float32", 16, {"ends": 0.05}, ["a"], [("reset", None)] + [("step", None)] * 40)
@example("(8,) float32", 2, {}, ["a"], [("training", False), ("unusual", "returns of shape 1"), ("step", None)])
@example("dictionary", 4, {"ends": 0.5}, ["d", "a"], [("reset", None)] + [("step", None)] * 40)
def test_every_number_is_sb3s(
    tmp_path_factory: pytest.TempPathFactory,
    space: str,
    n_envs: int,
    stream: dict[str, Any],
    keys: list[str],
    events: list[tuple[str, Any]],
) -> None:
    """
    Beside SB3's own, whatever comes and whatever is changed in between.

    What is handed out, and all that is kept, has SB3's bits, types and order in memory; what was handed out stays as it was.
    """
    folder = tmp_path_factory.getbasetemp()
    arguments = {"norm_obs_keys": keys} if space == "dictionary" else {}
    theirs, ours = pair(SPACES[space], n_envs, stream, **arguments)
    handed_out: list[tuple[Any, Any]] = []
    with np.errstate(all="ignore"):
        for event, value in [("reset", None), *events]:
            try:
                theirs, expected = happen(theirs, event, value, folder)
            except Exception as error:
                with pytest.raises(type(error)):
                    happen(ours, event, value, folder)
                break
            ours, found = happen(ours, event, value, folder)
            assert type(ours) is VecNormalize
            assert bits(found) == bits(expected)
            assert state_of(ours) == state_of(theirs)
            kept = (found, [(moments.mean, moments.var) for moments in moments_of(ours)])
            handed_out.append((kept, copy.deepcopy(kept)))
    assert [bits(now) for now, _ in handed_out] == [bits(then) for _, then in handed_out]


def moments_of(env: vec_env.VecNormalize) -> list[RunningMeanStd]:
    """All running moments."""
    observations: Any = env.obs_rms
    return [*(observations.values() if isinstance(observations, dict) else [observations]), env.ret_rms]


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_states_are_computed_as_sb3_computes(name: str, tmp_path: Path) -> None:
    """Each of them in the middle of usual steps: the same bits, or an error of the same type."""
    both = pair(box((4,)), 4)
    for event, value in [("reset", None), ("step", None), ("unusual", name), *[("step", None)] * 3]:
        outcomes: list[Any] = []
        for env in both:
            try:
                with np.errstate(all="ignore"):
                    outcomes.append((bits(happen(env, event, value, tmp_path)[1]), state_of(env)))
            except Exception as error:
                outcomes.append(type(error))
        assert outcomes[1] == outcomes[0]


def each(env: vec_env.VecNormalize, change: Callable[[RunningMeanStd], None]) -> None:
    """Change all moments."""
    for moments in moments_of(env):
        change(moments)


@pytest.mark.parametrize("switched_off", ["", "norm_obs", "norm_reward", "training"])
@pytest.mark.parametrize("space", ["(8,) float32", "dictionary"])
def test_what_is_handed_out_is_the_callers(space: str, switched_off: str) -> None:
    """Whoever writes into observations, rewards and last observations changes nothing else: all goes on as with SB3's."""
    both = pair(SPACES[space], 4, {"ends": 0.5}, **({"norm_obs_keys": ["a", "b"]} if space == "dictionary" else {}))
    for env in both:
        vars(env).update({switched_off: False} if switched_off else {})
        env.reset()
    for _ in range(10):
        outcomes = []
        for env in both:
            observations, rewards, _, infos = env.step(np.zeros(4))
            handed_out: list[Any] = [observations, rewards, *(info.get("terminal_observation", {}) for info in infos)]
            outcomes.append(bits(handed_out))
            for one in handed_out:
                for part in one.values() if isinstance(one, dict) else [one]:
                    part[...] = 7
            outcomes.append((bits(env.get_original_obs()), bits(env.get_original_reward()), state_of(env)))
        assert outcomes[2:] == outcomes[:2]


def test_another_number_of_environments_is_as_fast() -> None:
    """Around more environments than before, a step needs nothing of SB3's either."""
    env = used(VecNormalize, box((4,)))
    env.venv = None
    env.set_venv(Stream(1, 5, box((4,)), ends=0.0))
    play(env)
    assert calls_of_sb3(env) == set()


def calls_of_sb3(env: vec_env.VecNormalize) -> set[str]:
    """Step; name the functions of SB3's normalisation that ran."""
    files, names = ("vec_normalize.py", "running_mean_std.py"), set()

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.endswith(files):
            names.add(frame.f_code.co_name)

    sys.setprofile(watch)
    try:
        env.step_wait()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize("space", ["(8,) float32", "(17,) float64", "(2, 3) float32", "dictionary"])
def test_a_usual_step_needs_nothing_of_sb3s(space: str) -> None:
    """What is fast is used: neither moments nor normalisation are computed by SB3's code, which the profiler would see."""
    theirs, ours = pair(SPACES[space], 4, {"ends": 1.0}, **({"norm_obs_keys": ["a", "b"]} if space == "dictionary" else {}))
    for env in (theirs, ours):
        env.reset()
        env.step_wait()
    assert calls_of_sb3(theirs) >= {"step_wait", "update", "update_from_moments", "normalize_obs", "normalize_reward"}
    # The observations that episodes end with are SB3's business where they have several parts.
    assert calls_of_sb3(ours) <= ({"normalize_obs", "_normalize_obs"} if space == "dictionary" else set())


def test_other_dictionaries_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observations in an OrderedDict come back in one."""
    observation = Stream._observation
    monkeypatch.setattr(Stream, "_observation", lambda self, leading: OrderedDict(observation(self, leading)))
    theirs, ours = pair(PARTS, norm_obs_keys=["d", "a"])
    assert play(ours) == play(theirs)
    assert type(ours.step(np.zeros(3))[0]) is OrderedDict


def test_shared_moments_are_updated_for_each_part() -> None:
    """Two keys that somebody gave the same moments: both parts go in before either is normalised."""
    both = pair(PARTS, norm_obs_keys=["b", "d"])
    for env in both:
        env.obs_rms["d"] = env.obs_rms["b"]
    assert play(both[1]) == play(both[0])


@pytest.mark.parametrize("name", ["normalize_obs", "_normalize_obs", "normalize_reward", "_update_reward", "step_wait"])
@pytest.mark.parametrize("where", ["instance", "SB3's class", "derived class"])
def test_methods_that_somebody_replaced_are_called(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an instance, on SB3's class, or in a class derived from either: as often as SB3 calls them, with the same effect."""
    calls: list[Any] = []
    original = getattr(SB3, name)

    def replaced(self: Any, *given: Any) -> Any:
        calls.append(bits(given[:1]))
        return original(self, *given)

    found = []
    for kind in (SB3, VecNormalize):
        derived: Any = type("Derived", (kind,), {name: replaced})
        env = (derived if where == "derived class" else kind)(Stream(1, 3, box((4,))))
        if where == "instance":
            monkeypatch.setattr(env, name, lambda *given, env=env: replaced(env, *given), raising=True)
        if where == "SB3's class":
            monkeypatch.setattr(SB3, name, replaced)
        calls.clear()
        outcome = bits([env.reset(), *(env.step(np.zeros(3)) for _ in range(12))])
        found.append((outcome, list(calls), bits(env.obs_rms), bits(env.ret_rms)))
        assert calls
    assert found[0] == found[1]


def test_moments_that_somebody_replaced_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class derived from SB3's moments, SB3's with a method replaced on an instance, or on the class."""

    class Slow(RunningMeanStd):
        def update(self, arr: np.ndarray) -> None:
            super().update(arr * 0.5)

    def halves(moments: RunningMeanStd) -> Callable[[np.ndarray], None]:
        return lambda values: RunningMeanStd.update(moments, values * 0.5)

    theirs, ours = pair(box((4,)))
    plain = play(theirs)
    assert play(ours) == plain
    both = pair(box((4,)))
    for env in both:
        env.obs_rms, env.ret_rms = Slow(shape=(4,)), Slow(shape=())  # type: ignore[assignment]
    slow = play(both[0])
    assert play(both[1])[0] == slow[0] != plain[0]
    both = pair(box((4,)))
    for env in both:
        for moments in moments_of(env):
            monkeypatch.setattr(moments, "update", halves(moments))
    assert [bits(env.reset()) == bits(env.reset()) for env in both] == [False, False]
    assert bits(both[1].step(np.zeros(3))) == bits(both[0].step(np.zeros(3)))
    update = RunningMeanStd.update
    monkeypatch.setattr(RunningMeanStd, "update", lambda self, values: update(self, values * 0.5))
    theirs, ours = pair(box((4,)))
    assert play(ours)[0] == play(theirs)[0] == slow[0]


@pytest.mark.parametrize("state", ["warn", "raise"])
@pytest.mark.parametrize(
    ("n_envs", "norm_obs", "stream"),
    [
        (3, True, {"broken": 0.05, "scale": 1e30}),
        (3, True, {"broken": 0.05, "scale": 1e30, "reward_dtype": "float64"}),
        (1, False, {"scale": 1e154, "reward_dtype": "float64"}),
    ],
    ids=["not finite", "not finite, float64", "the moments of a return overflow"],
)
def test_numpy_warns_as_with_sb3(n_envs: int, norm_obs: bool, stream: dict[str, Any], state: Any) -> None:
    """Numbers that are not finite: at each step warned of as with SB3's, and an error where numpy is told to raise one."""
    outcomes = []
    for env in pair(box((4,), np.float64), n_envs, stream, norm_obs=norm_obs):
        found: list[Any] = []
        for _ in range(10):
            with np.errstate(all=state, under="ignore"), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    env.reset()
                    env.step(np.zeros(n_envs))
                except FloatingPointError as error:
                    found.append(type(error))
            found.append({str(one.message).partition(" encountered")[0] for one in caught})
        outcomes.append(found)
    assert outcomes[0] == outcomes[1]
    assert FloatingPointError in outcomes[0] if state == "raise" else set().union(*outcomes[0])
