"""Models with masks are saved, read from strangers, copied and resumed like others."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_edu import EduPPO, MaskableEduPPO, MaskableRecurrentEduPPO, RecurrentEduPPO
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.envs.wrappers import MasksFromInfo
from sb3_ppo_edu.serialization.errors import UntrustedFileError
from sb3_ppo_edu.serialization.names import check_named
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.beside_sb3 import assert_same_values
from tests.masked_environments import MaskedWalk, ToldMasks
from tests.rollouts import TinyExtractor

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "device": "cpu", "seed": 1}
STEPS = 160
ALGORITHMS = (MaskableEduPPO, MaskableRecurrentEduPPO)


def make_model(algorithm: Any = MaskableEduPPO, policy: str = "MlpPolicy", kind: Any = MaskedWalk, **env: Any) -> Any:
    """A small model."""
    made = make_vec_env(lambda: kind(**env), 2, seed=2)
    network: dict[str, Any] = {"features_extractor_class": TinyExtractor} if policy == "CnnPolicy" else {"net_arch": [8]}
    if issubclass(algorithm, MaskableRecurrentEduPPO):
        policy, network["lstm_hidden_size"] = policy.replace("Policy", "LstmPolicy"), 6
    return algorithm(policy, made, policy_kwargs=network, **SMALL)


FILES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "ours": (MaskableEduPPO, "MlpPolicy", {}),
    "ours-dict": (MaskableEduPPO, "MultiInputPolicy", {"observation": "dict", "action": "multibinary"}),
    "ours-memory": (MaskableRecurrentEduPPO, "MlpPolicy", {"kind": ToldMasks}),
    "ours-memory-dict": (MaskableRecurrentEduPPO, "MultiInputPolicy", {"observation": "dict", "action": "multidiscrete"}),
    "ours-told": (MaskableEduPPO, "MlpPolicy", {"kind": ToldMasks, "action": "multidiscrete"}),
    "theirs": (MaskablePPO, "MlpPolicy", {"action": "multidiscrete"}),
    "theirs-dict": (MaskablePPO, "MultiInputPolicy", {"observation": "dict"}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_strangers_file_is_read(name: str, tmp_path: Path) -> None:
    """A model with masks, ours or sb3-contrib's, is the same whether its pickles are run or read by the list."""
    algorithm, policy, env = FILES[name]
    model = make_model(algorithm, policy, **env).learn(32)
    model.save(tmp_path / "model")
    kind = algorithm if issubclass(algorithm, MaskableEduPPO) else MaskableEduPPO
    one, other = (kind.load(tmp_path / "model", device="cpu", trusted=trusted) for trusted in (True, False))
    assert_same_values(other.policy.state_dict(), model.policy.state_dict(), "policy")
    assert_same_values(other.policy.optimizer.state_dict(), model.policy.optimizer.state_dict(), "optimizer")
    assert set(vars(one)) == set(vars(other))
    assert other.policy_class is type(model.policy)
    assert type(other.rollout_buffer) is type(model.rollout_buffer)


def test_images_of_a_strangers_file(tmp_path: Path) -> None:
    """A policy for images is no larger than its weights, which the size check counts by its default extractor."""
    env = make_vec_env(lambda: MaskedWalk("image"), 1, seed=2)
    MaskableEduPPO("CnnPolicy", env, **SMALL).save(tmp_path / "model")
    assert MaskableEduPPO.load(tmp_path / "model", device="cpu", trusted=False).policy.net_arch == []


def test_a_strangers_own_class_is_refused(tmp_path: Path) -> None:
    """A features extractor of the file's own stays a matter of trust."""
    make_model(policy="CnnPolicy", observation="image").save(tmp_path / "model")
    with pytest.raises(UntrustedFileError, match="TinyExtractor"):
        MaskableEduPPO.load(tmp_path / "model", device="cpu", trusted=False)


def test_names_of_masks_in_files() -> None:
    """A file may name sb3-contrib's callback for masks, but not where it writes."""
    name, where = "sb3_contrib.common.maskable.callbacks.MaskableEvalCallback", "config.yml"
    check_named(name, (BaseCallback,), where, "callback")
    with pytest.raises(UntrustedFileError, match="best_model_save_path"):
        check_named(name, (BaseCallback,), where, "callback", {"best_model_save_path": "/etc"})


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentEduPPO])
@pytest.mark.parametrize("trusted", [True, False])
def test_a_memory_goes_on_with_masks(algorithm: Any, trusted: bool, tmp_path: Path) -> None:
    """A model without masks, sb3-contrib's or ours, has the same weights with them, and keeps to what is legal from there."""
    env = make_vec_env(lambda: MaskedWalk(strict=False), 2, seed=2)
    network = {"net_arch": [8], "lstm_hidden_size": 6}
    model = algorithm("MlpLstmPolicy", env, policy_kwargs=network, **SMALL).learn(32)
    model.save(tmp_path / "model")
    strict = make_vec_env(MaskedWalk, 2, seed=2)
    loaded = MaskableRecurrentEduPPO.load(tmp_path / "model", env=strict, device="cpu", trusted=trusted)
    assert_same_values(loaded.policy.state_dict(), model.policy.state_dict(), "policy")
    assert loaded.learn(64).num_timesteps == 64


def test_files_of_the_other_algorithm_are_refused(tmp_path: Path) -> None:
    """Policies with and without masks are not taken for each other."""
    make_model(MaskableRecurrentEduPPO).save(tmp_path / "both")
    with pytest.raises(ValueError, match=r"policy=.*Masked.*found action_masks too: use MaskableRecurrentEduPPO"):
        EduPPO.load(tmp_path / "both", device="cpu")
    PPO("MlpPolicy", "CartPole-v1", **SMALL).save(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"policy=.*ActorCriticPolicy.*expected a class derived from sb3-contrib's"):
        MaskableEduPPO.load(tmp_path / "plain", device="cpu")
    make_model().save(tmp_path / "masks")
    with pytest.raises(ValueError, match=r"policy=.*Maskable.*found action_masks too: use MaskableEduPPO"):
        EduPPO.load(tmp_path / "masks", device="cpu")


@pytest.mark.parametrize("algorithm", [EduPPO, RecurrentEduPPO, MaskableRecurrentEduPPO])
def test_another_algorithms_strange_file_is_named(algorithm: Any, tmp_path: Path) -> None:
    """An intact file of another algorithm is not called damaged where nothing in it is trusted."""
    make_model().save(tmp_path / "model")
    with pytest.raises(ArgumentError, match=r"model .*: found another algorithm's, policy=.*MaskableEduPPO"):
        algorithm.load(tmp_path / "model", trusted=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike(clone: Any, algorithm: Any) -> None:
    """A copy without the environments' memory goes on to the same bits, and with an engine of its own."""
    model = make_model(algorithm).learn(32)
    before = copy.deepcopy(model.policy.state_dict())
    model.policy.action_dist.distribution = None  # torch copies no tensor of a graph; SB3's own policies fail there too
    other = clone(model)
    for one in (model, other):
        one.set_env(make_vec_env(MaskedWalk, 2, seed=4))
        one.set_random_seed(5)
        one.learn(64, reset_num_timesteps=False)
    assert_same_values(other.policy.state_dict(), model.policy.state_dict(), "policy")
    assert any(not th.equal(value, before[name]) for name, value in other.policy.state_dict().items())


class Interrupt(BaseCallback):
    """Ends the training at a step by an exception that nobody expects."""

    at = 0

    def _on_step(self) -> bool:
        if self.num_timesteps >= Interrupt.at > 0:
            raise KeyboardInterrupt
        return True


def train(folder: Path, algorithm: Any, kind: Any, moments: tuple[int, ...] = ()) -> list[Any]:
    """Train to the end, interrupted at some moments and resumed each time."""

    def make_envs() -> Any:
        return make_vec_env(kind, 2, seed=3, vec_env_cls=InProcessVecEnv, wrapper_class=Resumable)

    model = make_model(algorithm)
    model.set_env(make_envs())
    model.set_random_seed(1)
    for moment in (*moments, 0):
        Interrupt.at = moment
        try:
            model.learn(STEPS, callback=[ExactCheckpoint(14, folder, handle_signals=False), Interrupt()])
        except KeyboardInterrupt:
            np.random.seed(), th.seed()  # what was in memory is gone
            model = algorithm.resume(folder, make_envs(), device="cpu")
            assert set(model.resumed_envs) == {"replayed"}
            if algorithm is MaskableRecurrentEduPPO:
                assert any(state.any() for states in model._last_lstm_states for state in states)
    return [model.policy.state_dict(), model.policy.optimizer.state_dict()["state"], th.rand(1), float(np.random.random())]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", [MaskedWalk, ToldMasks, lambda: MasksFromInfo(ToldMasks())], ids=["method", "info", "both"])
def test_interrupted_trainings_end_as_undisturbed_ones(kind: Any, algorithm: Any, tmp_path: Path) -> None:
    """Masks by the method and masks in infos: a training interrupted in the middle of rollouts ends with the same bits."""
    undisturbed = train(tmp_path / "a", algorithm, kind)
    assert_same_values(train(tmp_path / "b", algorithm, kind, (46, 110)), undisturbed, "training")
