"""Images at less cost: memory that an update keeps, which changes no bit, and ``channels_last``, which rounds otherwise."""

from __future__ import annotations

import copy
import re
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.engines import NonFiniteUpdateError, UnsupportedPolicyError, autograd, memory
from sb3_ppo_edu.engines.autograd import in_channels_last
from sb3_ppo_edu.engines.sequences import SequenceEngine
from tests.environments import RandomWalk
from tests.rollouts import largest_difference, make_model, parameters_of, update_settings
from tests.sequences import filled_buffer, make_image_policy
from tests.test_parity import assert_same_models

CHANNELS_LAST: dict[str, Any] = {"engine_kwargs": {"channels_last": True}}
N_ENVS, N_STEPS = 4, 16


def frames(seed: int = 3) -> VecEnv:
    """Images of 36 × 36 with four channels."""
    return VecFrameStack(make_vec_env(partial(RandomWalk, "image", "discrete"), N_ENVS, seed=seed, wrapper_class=Resumable), 4)


def image_model(algorithm: Any = EduPPO, **arguments: Any) -> Any:
    """SB3's policy for images, with few features, on small images."""
    engine = {} if algorithm is PPO else {"engine": "autograd"}
    small: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 32, "n_epochs": 2, "seed": 3, "device": "cpu"}
    policy_kwargs = {"features_extractor_kwargs": {"features_dim": 32}, **arguments.pop("policy_kwargs", {})}
    return algorithm("CnnPolicy", frames(), policy_kwargs=policy_kwargs, **{**small, **engine, **arguments})


# -- memory --------------------------------------------------------------------------------------------------------------


def test_kept_memory_has_sb3s_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that keeps its memory ends with SB3's weights and optimizer."""
    monkeypatch.setattr(autograd, "LARGE", 0)
    theirs, ours = (image_model(algorithm).learn(3 * N_STEPS * N_ENVS) for algorithm in (PPO, EduPPO))
    assert_same_models(ours, theirs)


def pages_of_an_array() -> int:
    """Pages that the system hands out for an array of 64 MB, more than what the C library keeps by itself."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    th.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    """Memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(memory.glibc() is None or memory.is_set_by_user(), reason="the allocator is not glibc's, as it comes")
def test_freed_memory_is_found_again() -> None:
    """What is freed is used again while it is kept, and goes back to the system afterwards."""
    assert memory.keep_freed_memory()
    try:
        assert min(pages_of_an_array() for _ in range(5)) < 100
        kept = resident_bytes()
    finally:
        memory.return_freed_memory()
    assert kept - resident_bytes() > 0.9 * 2**26


@pytest.mark.skipif(memory.glibc() is None or memory.is_set_by_user(), reason="the allocator is not glibc's, as it comes")
def test_every_option_is_one_that_the_allocator_takes() -> None:
    """The C library refuses an option that it does not know, and a threshold above its largest."""
    for option, value in (*memory.KEPT.items(), *memory.USUAL.items()):
        assert memory.glibc().mallopt(option, value) == 1


HEADER = Path("/usr/include/malloc.h")


@pytest.mark.skipif(not HEADER.exists(), reason="the C library's headers are not installed")
def test_options_are_those_of_the_c_librarys_header() -> None:
    """``mallopt`` takes numbers, which only the header explains."""
    defined = dict(re.findall(r"# *define (M_\w+) +(-\d+)", HEADER.read_text(encoding="utf-8")))
    for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD", "MMAP_MAX"):
        assert getattr(memory, name) == int(defined[f"M_{name}"])


@pytest.mark.parametrize(("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.check=3")])
def test_an_allocator_that_the_user_has_set_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the allocator in the environment are the user's."""
    monkeypatch.setenv(name, value)
    assert not memory.keep_freed_memory()


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_another_systems_allocator_stays(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C library is not glibc nothing is set, and nothing fails."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(memory, "glibc", memory.glibc.__wrapped__)
    assert not memory.keep_freed_memory()
    memory.return_freed_memory()


@pytest.mark.parametrize("ends", ["whole", "early", "failed"])
def test_memory_is_kept_for_one_update(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an update's first large minibatch to its end, however it ends; small minibatches keep nothing."""
    calls: list[str] = []

    def keep() -> bool:
        calls.append("keep")
        return True

    monkeypatch.setattr(autograd, "keep_freed_memory", keep)
    monkeypatch.setattr(autograd, "return_freed_memory", lambda: calls.append("return"))
    model = image_model(target_kl=1e-9 if ends == "early" else None)
    size = 32 * 4 * 36 * 36
    monkeypatch.setattr(autograd, "LARGE", size + 1)
    model.learn(N_STEPS * N_ENVS)
    assert calls == []
    monkeypatch.setattr(autograd, "LARGE", size)
    if ends == "failed":
        model.rollout_buffer.advantages[:] = np.nan
        with pytest.raises(NonFiniteUpdateError):
            model.train()
    else:
        model.train()
    assert calls == ["keep", "return"]


# -- channels last -------------------------------------------------------------------------------------------------------


def distances(options: dict[str, bool], look: Callable[..., None]) -> tuple[float, float]:
    """How far parameters move in an update by plain gradient descent, and how far apart they are with options."""
    ends = []
    for kwargs in ({}, options):
        model = image_model(engine_kwargs=kwargs, policy_kwargs={"optimizer_class": th.optim.SGD}, learning_rate=0.1)
        before = parameters_of(model)
        if kwargs:
            model.policy.features_extractor.cnn[0].register_forward_pre_hook(look)
        model.learn(N_STEPS * N_ENVS)
        ends.append(parameters_of(model))
    return largest_difference(before, ends[0]), largest_difference(*ends)


def test_channels_last_takes_the_same_steps() -> None:
    """Convolutions get images with the channels of a pixel side by side, in updates only; weights agree to rounding."""
    seen: list[tuple[bool, bool]] = []

    def look(module: th.nn.Module, given: tuple[th.Tensor]) -> None:
        seen.append((th.is_grad_enabled(), given[0].is_contiguous(memory_format=th.channels_last)))

    moved, apart = distances(CHANNELS_LAST["engine_kwargs"], look)
    assert {last for updates, last in seen if updates} == {True}
    assert 0 < apart < 1e-4 * moved


@pytest.mark.parametrize("asked", [False, True])
def test_images_of_sequences_have_the_layout_that_is_asked_for(asked: bool) -> None:
    """For policies with a memory, too, it is torch's usual one where nothing is said."""
    policy = make_image_policy()
    engine: Any = SequenceEngine(policy, **({"channels_last": True} if asked else {}))
    seen: list[bool] = []
    policy.features_extractor.register_forward_pre_hook(lambda module, given: seen.append(given[0].is_contiguous()))
    for minibatch in engine.minibatches(filled_buffer(policy, n_steps=12, n_envs=3), 16):
        engine.gradients(minibatch, update_settings())
    assert set(seen) == {not asked}


def test_channels_last_with_bfloat16() -> None:
    """Both options together: the steps go where the reference's go."""
    moved, apart = distances({"channels_last": True, "bf16": True}, lambda *_: None)
    assert 1e-4 * moved < apart < 0.1 * moved


def test_channels_last_leaves_the_policy_its_layout(tmp_path: Path) -> None:
    """Parameters, gradients and the optimizer's state keep torch's usual layout; copies and files go on as the model does."""
    model = image_model(**CHANNELS_LAST)
    model.learn(N_STEPS * N_ENVS)
    for parameter in model.policy.parameters():
        state = model.policy.optimizer.state[parameter]
        assert all(tensor.is_contiguous() for tensor in (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"]))
    model.save(tmp_path / "model.zip")
    model.predict(frames().reset())  # SB3's policies hold the last distribution, which can't be copied with its graph,
    model.env = None  # nor can SB3's stack of frames
    others = [copy.deepcopy(model), EduPPO.load(tmp_path / "model.zip", device="cpu")]
    for one in (model, *others):
        assert one.engine_kwargs == CHANNELS_LAST["engine_kwargs"]
        one.set_env(frames(5))
        one.set_random_seed(5)
        one.learn(N_STEPS * N_ENVS, reset_num_timesteps=False)
    for other in others:
        assert_same_models(other, model)


def test_channels_last_resumes_to_the_bit(tmp_path: Path) -> None:
    """A checkpoint knows the option: what goes on from it ends as the training that was never interrupted."""
    total = 3 * N_STEPS * N_ENVS
    whole = image_model(**CHANNELS_LAST)
    whole.learn(total, callback=ExactCheckpoint(N_STEPS * N_ENVS, tmp_path, keep=9))
    first = sorted(tmp_path.glob("*.zip"))[0]
    resumed = EduPPO.resume(first, env=frames(), device="cpu")
    assert resumed.engine_kwargs == CHANNELS_LAST["engine_kwargs"]
    resumed.learn(total, callback=ExactCheckpoint(N_STEPS * N_ENVS, tmp_path, keep=9))
    assert_same_models(resumed, whole)


def test_parts_that_are_no_images_stay() -> None:
    """Of a dictionary only images are laid out anew."""
    observations = {"image": th.rand(2, 4, 3, 5), "vector": th.rand(2, 4)}
    found: Any = in_channels_last(observations)
    assert found["image"].is_contiguous(memory_format=th.channels_last)
    assert found["vector"] is observations["vector"]
    assert th.equal(found["image"], observations["image"])


def test_channels_last_needs_images() -> None:
    """Where no observation is an image, learn refuses the option by name; it is a flag, and the autograd engine's."""
    for engine in ("auto", "autograd"):
        with pytest.raises(UnsupportedPolicyError, match=r"channels_last=True with observations in Box\(.*expected images"):
            make_model(engine=engine, **CHANNELS_LAST).learn(32)
    with pytest.raises(UnsupportedPolicyError, match="engine='fused': channels_last=True is for the autograd engine"):
        image_model(**{**CHANNELS_LAST, "engine": "fused"}).learn(N_STEPS * N_ENVS)
    with pytest.raises(ArgumentError, match="channels_last=1: expected True or False"):
        make_model(engine_kwargs={"channels_last": 1})
    assert image_model(engine="auto", **CHANNELS_LAST).engine_reason.startswith("autograd: channels_last=True")


def test_a_processor_without_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a processor lacks the instructions, the reason says that the option is slow; of another kind nothing is known."""
    for found, says in (
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True}, False),
        ({"architecture": "aarch64"}, False),
    ):
        monkeypatch.setattr(th.cpu, "get_capabilities", lambda found=found: found, raising=False)
        for engine in ("auto", "autograd"):
            reason = make_model(engine=engine, engine_kwargs={"bf16": True}).engine_reason
            assert ("lacks instructions for bfloat16" in reason) == says
        assert "bfloat16" not in make_model(engine="autograd").engine_reason
