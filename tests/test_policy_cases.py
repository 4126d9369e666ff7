"""Copies, saved files, numbers and NaN: what users reported, each with what SB3 does beside it."""

from __future__ import annotations

import copy
import functools
import io
import multiprocessing
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import joblib  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_ppo_edu import EduPPO
from tests import optimizer_changes, policy_changes
from tests.beside_sb3 import (
    BOX,
    DISCRETE,
    N_STEPS,
    SB3,
    SMALL,
    Outcome,
    assert_close,
    assert_same_bits,
    engine_parameters,
    make,
)

ENGINES = engine_parameters("autograd", "auto", "fused", "numpy")
TWO_ROLLOUTS = 1e-4

# -- what users reported, with SB3's default networks ----------------------------------------------------------------------

REPORTED: dict[str, tuple[str, policy_changes.Function]] = {
    "frozen actor tower": (DISCRETE, policy_changes.freeze_actor_tower),
    "frozen log_std": (BOX, policy_changes.freeze_log_std),
    "new head": (BOX, policy_changes.new_head),
    "new tower": (BOX, lambda model: policy_changes.towers(model, "dropout", activation=th.nn.ReLU, which="policy_net")),
    "new log_std": (BOX, policy_changes.new_log_std),
    "behaviour cloning": (DISCRETE, optimizer_changes.pretrained_actor),
    "critic warm-up": (DISCRETE, optimizer_changes.pretrained_critic),
    "state cleared": (DISCRETE, optimizer_changes.state_cleared),
    "empty state loaded": (DISCRETE, optimizer_changes.state_loaded_empty),
}


@functools.cache
def reported(kind: str, name: str, learned: bool, rollouts: int) -> Outcome:
    """Learn or not, do what the report says, and learn."""
    env, change = REPORTED[name]
    model = make(kind, env, n_steps=64, batch_size=32, n_epochs=2, learning_rate=3e-4, ent_coef=0.0, policy_kwargs=None)
    if learned:
        model.learn(64)
    change(model)
    return Outcome.of(model.learn(64 * rollouts))


@pytest.mark.parametrize("engine", ENGINES[:2])
@pytest.mark.parametrize("rollouts", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("learned", [False, True], ids=["fresh", "learned"])
@pytest.mark.parametrize("name", REPORTED)
def test_what_users_reported(name: str, learned: bool, rollouts: int, engine: str) -> None:
    """Layers frozen, modules replaced, optimizers pretrained and reset: SB3's bits, by default SB3 to a ten-thousandth."""
    ours, theirs = (reported(kind, name, learned, rollouts) for kind in (engine, SB3))
    if engine == "autograd":
        assert_same_bits(ours, theirs)
    assert_close(ours, theirs, TWO_ROLLOUTS)


# -- copies --------------------------------------------------------------------------------------------------------------


def by_joblib(model: Any) -> Any:
    """Through a file of joblib's."""
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


def by_torch(model: Any) -> Any:
    """Through a file of torch's."""
    file = io.BytesIO()
    th.save(model, file)
    file.seek(0)
    return th.load(file, weights_only=False)


def by_save(model: Any) -> Any:
    """Through SB3's zip."""
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return type(model).load(file, env=model.get_env(), device="cpu")


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "cloudpickle": lambda model: cloudpickle.loads(cloudpickle.dumps(model)),
    "joblib": by_joblib,
    "th.save": by_torch,
    "save and load": by_save,
}


def settle(model: Any) -> None:
    """Let the policy keep a distribution without a graph: torch copies no graph, and SB3 keeps the last minibatch's."""
    model.predict(np.zeros(model.observation_space.shape, np.float32))


@functools.cache
def copied(kind: str, way: str, learned: bool, total: int = 2 * N_STEPS) -> tuple[Outcome, Outcome]:
    """Copy a model, train the copy, then the model itself."""
    model = make(kind, DISCRETE)
    if learned:
        model.learn(N_STEPS)
        settle(model)
    twin = COPIES[way](model)
    trained = Outcome.of(twin.learn(total))
    return trained, Outcome.of(model.learn(total))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("learned", [False, True], ids=["fresh", "learned"])
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_and_its_original_train_as_sb3s(way: str, learned: bool, engine: str) -> None:
    """However a model is copied, before or after ``learn``: copy and original train, each by itself, as SB3's do."""
    compare = assert_same_bits if engine == "autograd" else functools.partial(assert_close, tolerance=TWO_ROLLOUTS)
    for ours, theirs in zip(copied(engine, way, learned), copied(SB3, way, learned), strict=True):
        compare(ours, theirs)
    twin, model = (outcome.model.policy for outcome in copied(engine, way, learned))
    assert not {one.data_ptr() for one in twin.parameters()} & {one.data_ptr() for one in model.parameters()}


def learn_elsewhere(model: Any) -> dict[str, np.ndarray]:
    """Train in another process."""
    th.set_num_threads(1)
    return {name: tensor.numpy() for name, tensor in model.learn(2 * N_STEPS).policy.state_dict().items()}


@pytest.mark.slow
def test_a_spawned_process_trains_as_sb3s() -> None:
    """A model that was sent to a spawned process trains there as SB3's does."""
    found = {}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for kind in (SB3, "autograd", "auto"):
            model = make(kind).learn(N_STEPS)
            settle(model)
            found[kind] = pool.apply(learn_elsewhere, (model,))
    for name, theirs in found[SB3].items():
        np.testing.assert_array_equal(found["autograd"][name], theirs, name)
        np.testing.assert_allclose(found["auto"][name], theirs, atol=TWO_ROLLOUTS, err_msg=name)


# -- sizes and memory ----------------------------------------------------------------------------------------------------


def sizes(model: Any) -> dict[str, int]:
    """Bytes of a policy, pickled and saved in all ways that users know."""
    settle(model)
    policy = model.policy
    found = {"pickle": len(pickle.dumps(policy)), "cloudpickle": len(cloudpickle.dumps(policy))}
    for name, thing in {"policy": policy, "weights": policy.state_dict(), "optimizer": policy.optimizer.state_dict()}.items():
        file = io.BytesIO()
        th.save(thing, file)
        found[f"th.save of {name}"] = len(file.getvalue())
    file = io.BytesIO()
    model.save(file)
    with zipfile.ZipFile(file) as archive:
        found |= {one.filename: one.file_size for one in archive.infolist() if one.filename.endswith(".pth")}
    return found


def storages(model: Any) -> None:
    """Every parameter, gradient and state of the optimizer has memory of its own, and no more than it needs."""
    tensors = {name: parameter.data for name, parameter in model.policy.named_parameters()}
    for index, state in enumerate(model.policy.optimizer.state.values()):
        tensors |= {f"{name} {index}": one for name, one in state.items() if isinstance(one, th.Tensor)}
    for name, tensor in tensors.items():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == len(tensors)


class Inspector(BaseCallback):
    """A user's callback that pickles and saves while training goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, int]] = {}

    def inspect(self, when: str) -> None:
        """Take down sizes, and look at the memory."""
        self.found[when] = sizes(self.model)
        storages(self.model)

    def _on_training_start(self) -> None:
        self.inspect("training start")

    def _on_step(self) -> bool:
        if self.n_calls == N_STEPS + 3:
            self.inspect("step")
        return True

    def _on_rollout_end(self) -> None:
        self.inspect("rollout end")


@functools.cache
def inspected(kind: str) -> dict[str, dict[str, int]]:
    """Sizes before, during and after a training, with SB3's default networks."""
    inspector = Inspector()
    model = make(kind, BOX, policy_kwargs=None)
    found = {"before": sizes(model)}
    model.learn(2 * N_STEPS, callback=inspector)
    found["after"] = sizes(model)
    storages(model)
    return found | inspector.found


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_saved_has_sb3s_size(engine: str) -> None:
    """A policy pickled or saved before, during or after ``learn`` has SB3's size within 5 %; no storage is shared."""
    for when, theirs in inspected(SB3).items():
        ours = inspected(engine)[when]
        assert ours.keys() == theirs.keys()
        for name, size in theirs.items():
            assert ours[name] == pytest.approx(size, rel=0.05), f"{name}, {when}"


@pytest.mark.parametrize("engine", ENGINES)
def test_who_holds_the_memory_sees_the_training(engine: str) -> None:
    """As in SB3, weights are trained in place: a ``state_dict``, a numpy array or another process that has them sees it."""
    model = make(engine)
    held = model.policy.state_dict()
    array = model.policy.action_net.weight.detach().numpy()
    before = {name: tensor.clone() for name, tensor in held.items()}
    model.learn(2 * N_STEPS)
    for name, tensor in model.policy.state_dict().items():
        assert not th.equal(tensor, before[name]), name
        assert th.equal(tensor, held[name]), name
    np.testing.assert_array_equal(array, model.policy.action_net.weight.detach().numpy())


# -- only learn needs an engine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", engine_parameters("fused", "numpy"))
def test_only_learn_needs_an_engine(engine: str, tmp_path: Path) -> None:
    """Constructor, ``predict``, ``save`` and ``load`` need no engine; ``learn`` says which one can't be had, and why."""
    model = make(engine, BOX, policy_kwargs={"activation_fn": th.nn.Softplus})
    settle(model)
    model.save(tmp_path / "model.zip")
    loaded = EduPPO.load(tmp_path / "model.zip", env=gym.make(BOX), device="cpu")
    settle(loaded)
    for one in (model, loaded):
        with pytest.raises(ValueError, match=f"^engine='{engine}': .*one supported activation"):
            one.learn(N_STEPS)
        assert one.num_timesteps == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_loading_needs_no_engine_for_a_changed_policy(engine: str, tmp_path: Path) -> None:
    """A model whose policy an engine can't serve any more is saved and loaded as ever."""
    model = make(engine)
    policy_changes.pruned(model)
    settle(model)
    model.save(tmp_path / "model.zip")


# -- NaN -----------------------------------------------------------------------------------------------------------------


class Glitch(gym.Wrapper[Any, Any, Any, Any]):
    """A sensor that gives NaN from its tenth step on, and a count of what the environment receives after that."""

    def __init__(self, env: gym.Env[Any, Any], sensor: bool = True) -> None:
        super().__init__(env)
        self.sensor, self.steps, self.after, self.nan_actions = sensor, 0, 0, 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.after += self.steps > 10
        self.nan_actions += bool(np.isnan(np.asarray(action, dtype=float)).any())
        observation, *rest = self.env.step(np.nan_to_num(action))
        return (observation * np.nan if self.sensor and self.steps >= 10 else observation), *rest


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("env", [BOX, DISCRETE])
def test_no_action_is_nan(env: str, engine: str) -> None:
    """After an observation with NaN training stops: no NaN action and no further step reach the environment."""
    glitch = Glitch(gym.make(env))
    with pytest.raises(ValueError):
        make(engine, glitch, n_steps=64).learn(64)
    assert (glitch.nan_actions, glitch.after, glitch.steps) == (0, 0, 10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("part", ["action_net", "value_net", "log_std"])
def test_training_stops_where_the_policys_output_is_not_finite(part: str, engine: str) -> None:
    """Where action, value or log-probability is NaN, whatever the observation, training stops before the next step."""
    glitch = Glitch(gym.make(BOX), sensor=False)

    def spoil(local: dict[str, Any], _: dict[str, Any]) -> bool:
        if glitch.steps == 10:
            with th.no_grad():
                (local["self"].policy.log_std if part == "log_std" else getattr(local["self"].policy, part).bias).fill_(th.nan)
        return True

    with pytest.raises(ValueError):
        make(engine, glitch, n_steps=64).learn(64, callback=spoil)
    assert (glitch.nan_actions, glitch.after) == (0, 0)


class Imputing(FlattenExtractor):
    """A features extractor that replaces NaN by zero."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Features."""
        return super().forward(observations).nan_to_num()


@pytest.mark.parametrize("engine", ["autograd", "auto"])
def test_a_policy_may_impute_nan(engine: str) -> None:
    """A policy whose features extractor replaces NaN trains as in SB3: only its output has to be finite."""
    ours, theirs = (
        Outcome.of(
            make(kind, Glitch(gym.make(BOX)), policy_kwargs={"features_extractor_class": Imputing, "net_arch": [8]}).learn(32)
        )
        for kind in (engine, SB3)
    )
    assert_same_bits(ours, theirs)


# -- settings ------------------------------------------------------------------------------------------------------------

WRONG: list[dict[str, Any]] = [
    {"gamma": 2.0},
    {"gae_lambda": -1.0},
    {"n_epochs": 0},
    {"batch_size": 0},
    {"batch_size": 1},
    {"n_steps": 1.5},
    {"n_steps": 1},
    {"max_grad_norm": -1.0},
    {"target_kl": -1.0},
    {"vf_coef": -1.0},
    {"clip_range": -0.2},
    {"clip_range_vf": 0.0},
    {"learning_rate": "quick"},
    {"vf_clip_mode": "maximum"},
    {"vf_clip_mode": "max"},
    {"kl_check": "epoch"},
    {"engine": "quantum"},
    {"micro_batch_size": 3},
    {"normalize_advantage": "no"},
    {"log_std_bounds": (1.0, -1.0)},
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours in a file."""
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    make("auto").save(path)
    return path


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "untrusted"])
@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_load_refuses_what_the_constructor_refuses(wrong: dict[str, Any], trusted: bool, saved: Path) -> None:
    """A wrong setting given to ``load`` is refused there, with the constructor's words."""
    with pytest.raises(ValueError) as constructor:
        make("auto", **wrong) if "engine" not in wrong else make(wrong["engine"])
    with pytest.raises(ValueError) as load:
        EduPPO.load(saved, env=gym.make(DISCRETE), device="cpu", trusted=trusted, **wrong)
    refusal = str(constructor.value).split(": ")[0]
    # Of a file that is not trusted every error begins with its name.
    assert str(load.value).startswith(refusal) if trusted else refusal in str(load.value)


def test_load_refuses_a_setting_that_does_not_exist(saved: Path) -> None:
    """A misspelled setting is refused by name, in the constructor too."""
    with pytest.raises(TypeError, match="n_step=128"):
        make("auto", n_step=128)
    with pytest.raises((TypeError, ValueError), match=r"\bn_step\b"):
        EduPPO.load(saved, env=gym.make(DISCRETE), device="cpu", n_step=128)


def test_load_takes_what_is_right(saved: Path) -> None:
    """Right settings are taken: numbers, strings, functions, those of the zoo's ``enjoy`` and SB3's own attributes."""
    taken: dict[str, Any] = {
        "n_steps": 32,
        "gamma": 0.9,
        "clip_range": "lin_0.1",
        "learning_rate": lambda _: 1e-4,
        "seed": 3,
        "verbose": 0,
    }
    model = EduPPO.load(saved, env=gym.make(DISCRETE), device="cpu", tensorboard_log=None, **taken)
    assert (model.n_steps, model.rollout_buffer.buffer_size, model.gamma, model.seed) == (32, 32, 0.9, 3)
    assert callable(model.clip_range)
    assert model.clip_range(0.5) == pytest.approx(0.05)
    model.learn(32)
    zoo = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    settle(EduPPO.load(saved, custom_objects=zoo, device="cpu"))


# -- numbers -------------------------------------------------------------------------------------------------------------

NUMBERS = {"float32": np.float32(0.1), "float16": np.float16(0.1), "tensor": th.tensor(0.1), "array": np.array(0.1)}
NAMES = ("learning_rate", "clip_range", "clip_range_vf", "ent_coef", "vf_coef", "gamma", "gae_lambda", "max_grad_norm")


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("name", [*NAMES, "target_kl"])
def test_numbers_of_numpy_and_torch_are_numbers(name: str, kind: str, saved: Path) -> None:
    """A number of numpy's or torch's is taken as ``float(x)``: SB3's bits for that, by constructor and by ``load``."""
    number = NUMBERS[kind]
    plain: dict[str, Any] = {name: float(number)}
    theirs = Outcome.of(make(SB3, **plain).learn(N_STEPS))
    for model in (make("auto", **{name: number}), EduPPO.load(saved, device="cpu", **{name: number})):
        found = getattr(model, name)
        assert callable(found) or type(found) is float
        assert (found(1.0) if callable(found) else found) == float(number)
    assert_same_bits(Outcome.of(make("autograd", **{name: number}).learn(N_STEPS)), theirs)


@pytest.mark.parametrize(
    "wrong", [np.float32(np.nan), th.tensor([0.1, 0.2]), th.tensor(True), np.bool_(True), np.array([0.1]), "0.1", 1j], ids=repr
)
@pytest.mark.parametrize("name", ["gamma", "clip_range", "clip_range_vf", "learning_rate", "target_kl"])
def test_what_is_no_number_is_refused_under_its_name(name: str, wrong: Any) -> None:
    """An array of several numbers, a truth value, NaN or text is refused, under the argument's own name."""
    with pytest.raises(ValueError, match=f"^{name}="):
        make("auto", **{name: wrong})


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    """A count of numpy's is taken as ``int(x)``; one with a fraction is refused."""
    counts = {name: np.int64(SMALL[name]) for name in ("n_steps", "batch_size", "n_epochs")}
    assert_same_bits(Outcome.of(make("autograd", **counts).learn(N_STEPS)), Outcome.of(make(SB3).learn(N_STEPS)))
    with pytest.raises(ValueError, match=r"^n_steps="):
        make("autograd", n_steps=np.float64(16.5))
