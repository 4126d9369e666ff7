"""A policy in an ONNX file: acts as ``predict`` does, on its own, for every kind of observation, action and memory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_ppo_edu import EduPPO, MaskableEduPPO, MaskableRecurrentEduPPO, RecurrentEduPPO
from sb3_ppo_edu.algorithms.saving import StatisticsWarning
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.export import onnx_file
from sb3_ppo_edu.export.graph import ExportError
from sb3_ppo_edu.vec_env.action_masks import choices_of
from tests.environments import RandomWalk
from tests.masked_environments import MaskedWalk
from tests.model_files import serialized, with_attribute
from tests.small_runs import train_and_save

N = 1000
README = Path(onnx_file.__file__).with_name("README.md")
SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu", "seed": 1}

CASES: dict[str, tuple[type[EduPPO], str, str, str, bool, dict[str, Any]]] = {
    # algorithm, policy, observation, action, whether VecNormalize is around, further arguments
    "discrete": (EduPPO, "MlpPolicy", "box", "discrete", True, {}),
    "multidiscrete": (EduPPO, "MlpPolicy", "discrete", "multidiscrete", False, {}),
    "multibinary": (EduPPO, "MlpPolicy", "box", "multibinary", False, {}),
    "gaussian": (EduPPO, "MlpPolicy", "box", "box", True, {}),
    "tanh": (EduPPO, "MlpPolicy", "box", "box", False, {"action_distribution": "tanh_gaussian"}),
    "beta": (EduPPO, "MlpPolicy", "box", "box", True, {"action_distribution": "beta"}),
    "gsde": (EduPPO, "MlpPolicy", "box", "box", False, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "dict": (EduPPO, "MultiInputPolicy", "dict", "box", True, {}),
    "critic": (EduPPO, "MultiInputPolicy", "dict", "box", True, {"critic_keys": ["vector"]}),
    "cnn": (EduPPO, "CnnPolicy", "image", "discrete", False, {}),
    "masks": (MaskableEduPPO, "MlpPolicy", "box", "multidiscrete", True, {}),
    "lstm": (
        RecurrentEduPPO,
        "MlpLstmPolicy",
        "box",
        "box",
        True,
        {"policy_kwargs": {"lstm_hidden_size": 8, "n_lstm_layers": 2}},
    ),
    "gru and masks": (MaskableRecurrentEduPPO, "MlpLstmPolicy", "box", "multibinary", False, {"recurrent_cell": "gru"}),
}


def make_model(name: str) -> EduPPO:
    """Build a model whose parameters are as far from their start as a training's, and whose statistics have seen steps."""
    algorithm, policy, observation, action, normalized, arguments = CASES[name]
    kind = MaskedWalk if "mask" in name else RandomWalk
    env: Any = DummyVecEnv([lambda: kind(observation, action)])
    if normalized:
        env = VecNormalize(env, clip_obs=2.0, norm_obs_keys=["vector"] if observation == "dict" else None)
        env.obs_rms = read_moments(env)
    model = algorithm(policy, env, **SMALL, **arguments)
    th.manual_seed(3)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    return model


def read_moments(env: VecNormalize) -> Any:
    """Give moments of which the mean is large beside the deviation, where float32 must not cancel."""
    rms: Any = env.obs_rms
    for one in rms.values() if isinstance(rms, dict) else [rms]:
        one.mean, one.var = 1000.0 + np.arange(one.mean.size) / 3.0, 0.01 + np.arange(one.mean.size, dtype=float)
    return rms


def observations_for(model: EduPPO, rng: np.random.Generator) -> Any:
    """Draw observations as the environment gives them."""
    env = model.get_vec_normalize_env()
    space = model.get_env().unwrapped.envs[0].observation_space  # type: ignore[union-attr]
    if isinstance(space, spaces.Dict):
        vector = 1000.0 + 2.0 * rng.standard_normal((N, 3))
        return {"vector": vector.astype(np.float32), "choice": rng.integers(0, 4, N)}
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, space.n, N)
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (N, *space.shape), dtype=np.uint8)
    values = 3.0 * rng.standard_normal((N, *space.shape)) + (0.0 if env is None else 1000.0)
    return values.astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_file_acts_as_predict(name: str, tmp_path: Path) -> None:
    """
    On 1,000 observations as the environment gives them the file's actions and states are those of ``predict``, to 1e-5.

    What only the critic is given is no input of the file.
    """
    model, arguments = make_model(name), CASES[name][-1]
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.export(tmp_path / "policy")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    rng = np.random.default_rng(5)
    observations = observations_for(model, rng)
    env = model.get_vec_normalize_env()
    given: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    if "action_masks" in model.further_inputs:
        given["action_masks"] = inputs["action_masks"] = draw_masks(rng, choices_of(model.action_space))
    if "lstm_states" in model.further_inputs:
        lstm: Any = model.policy.lstm_actor
        shape = (lstm.num_layers, N, lstm.hidden_size)
        states = [np.tanh(rng.standard_normal(shape)).astype(np.float32) for _ in range(2)]
        inputs["hidden_state"], inputs["episode_start"] = states[0], rng.random(N) < 0.5
        if "gru" not in name:
            inputs["cell_state"] = states[1]
        given |= {"state": tuple(states), "episode_start": inputs["episode_start"]}
    expected, after = model.predict(
        observations if env is None else env.normalize_obs(observations), deterministic=True, **given
    )
    parts = observations if isinstance(observations, dict) else {"": observations}
    seen = {key for key in parts if key not in arguments.get("critic_keys", ())}
    inputs |= {f"observation.{key}" if key else "observation": parts[key] for key in seen}
    inputs["noise"] = np.zeros((N, noise_width(session)), np.float32)
    outputs = dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))
    assert outputs["action"].dtype == expected.dtype
    np.testing.assert_allclose(outputs["action"], expected, rtol=0, atol=1e-5)
    if after is not None:
        np.testing.assert_allclose(outputs["next_hidden_state"], after[0], rtol=0, atol=1e-5)
        if "next_cell_state" in outputs:
            np.testing.assert_allclose(outputs["next_cell_state"], after[1], rtol=0, atol=1e-5)
    if name != "beta":  # whose deterministic action is the mean
        np.testing.assert_allclose(outputs["stochastic_action"], expected, rtol=0, atol=1e-5)
    assert all(th.equal(value, before[key]) for key, value in model.policy.state_dict().items())


def draw_masks(rng: np.random.Generator, choices: list[int]) -> np.ndarray:
    """Draw masks that leave one class of each choice at least."""
    masks = [rng.random((N, size)) < 0.5 for size in choices]
    for mask in masks:
        mask[np.arange(N), rng.integers(0, mask.shape[1], N)] = True
    return np.concatenate(masks, axis=1)


def noise_width(session: Any) -> int:
    """Read how many numbers of noise an observation takes."""
    return next(int(one.shape[1]) for one in session.get_inputs() if one.name == "noise")


def small_model(env: Any = "CartPole-v1", policy: Any = "MlpPolicy", **arguments: Any) -> EduPPO:
    """Build a model with a small network."""
    return EduPPO(policy, env, policy_kwargs={"net_arch": [8], **arguments}, **SMALL)


def test_example_plays_an_episode_alone(tmp_path: Path) -> None:
    """The ten lines of the page play the episode that ``predict`` plays, without this package, SB3 and torch."""
    model = small_model()
    model.export(tmp_path / "policy.onnx")
    env, total, over = gym.make("CartPole-v1"), 0.0, False
    observation, _ = env.reset(seed=0)
    while not over:
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    example = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    assert len([line for line in example[1].splitlines() if line]) <= 10
    code = example[1] + "import sys; print(*sorted({'torch', 'stable_baselines3', 'sb3_ppo_edu'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{total}\n\n"


def test_export_leaves_the_model_alone(tmp_path: Path) -> None:
    """Random streams, training mode and what a copy needs are as before, and the file can be made a second time."""
    model = small_model(RandomWalk("box", "box")).learn(16)
    state, mode, distribution = th.get_rng_state(), model.policy.training, vars(model.policy.action_dist).copy()
    first = model.export(tmp_path / "policy.onnx").read_bytes()
    assert th.equal(th.get_rng_state(), state)
    assert model.policy.training is mode
    assert vars(model.policy.action_dist) == distribution
    assert model.export(str(tmp_path / "policy")).read_bytes() == first
    assert str(tmp_path.parent).encode() not in first
    assert b"site-packages" not in first
    model.learn(16)


def test_loaded_model_has_its_statistics(tmp_path: Path) -> None:
    """A model that was loaded without environments, trusted or not, is exported with the statistics of its file."""
    model = make_model("gaussian")
    model.save(tmp_path / "model.zip")
    content = model.export(tmp_path / "policy").read_bytes()
    for trusted in (True, False):
        with pytest.warns(StatisticsWarning):
            loaded = EduPPO.load(tmp_path / "model.zip", device="cpu", trusted=trusted)
        assert loaded.export(tmp_path / "loaded").read_bytes() == content


class Unlike(ActorCriticPolicy):
    """Acts in another way than its distribution says."""

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        """Take the unlikeliest action."""
        return 1 - super()._predict(observation, deterministic)


class Odd(FlattenExtractor):
    """A network whose course hangs on values."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Give observations, or nothing."""
        return super().forward(observations) if observations.sum() > 0.0 else super().forward(0.0 * observations)


def stacked_behind() -> EduPPO:
    """Stack frames that have been normalised."""
    return small_model(VecFrameStack(VecNormalize(make_vec_env("CartPole-v1", 1)), 2))


def not_finite() -> EduPPO:
    """A policy whose value function is NaN, which no action shows."""
    model = small_model()
    policy: Any = model.policy
    th.nn.init.constant_(policy.value_net.bias, float("nan"))
    return model


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (not_finite, r"found NaN or infinity in value_net\.bias, expected finite weights"),
        (lambda: small_model(policy=Unlike), "the file and predict agree in .*, expected all"),
        (lambda: small_model(features_extractor_class=Odd), "torch can't turn the policy ActorCriticPolicy into a graph"),
        (stacked_behind, "found VecFrameStack between VecNormalize and the policy"),
    ],
)
def test_what_cannot_be_exported_is_refused(make: Callable[[], EduPPO], expected: str, tmp_path: Path) -> None:
    """What a file would not do as ``predict`` does is refused with the reason, and no file is left."""
    with pytest.raises(ExportError, match=expected):
        make().export(tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", "none/policy.onnx"])
def test_a_path_without_folder_or_name_is_refused(path: str) -> None:
    """At once, before anything is exported."""
    with pytest.raises(ExportError, match=f"export: found path='{path or '.'}', expected a file in a folder that is there"):
        EduPPO("MlpPolicy", "CartPole-v1", device="cpu").export(path)


@pytest.mark.parametrize(("folder", "path"), [("policy", "policy"), ("policy.onnx", "policy"), ("policy.onnx", "policy.onnx")])
def test_a_folder_is_no_file(folder: str, path: str, tmp_path: Path) -> None:
    """Nothing is written into it or beside it."""
    (tmp_path / folder).mkdir()
    with pytest.raises(ExportError, match=f"export: found path='.*{path}', expected a file in .*, and .*{folder} is one"):
        EduPPO("MlpPolicy", "CartPole-v1", device="cpu").export(tmp_path / path)
    assert [*tmp_path.rglob("*")] == [tmp_path / folder]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"path": None}, "found path=None, expected the name of a file"),
        ({"env": "CartPole-v1"}, r"model.normalized\('CartPole-v1'\)"),
    ],
)
def test_other_arguments_are_refused(given: dict[str, Any], expected: str) -> None:
    """In one sentence."""
    with pytest.raises(ExportError, match=expected):
        EduPPO("MlpPolicy", "CartPole-v1", device="cpu").export(**{"path": "policy.onnx", **given})


@pytest.mark.parametrize("missing", onnx_file.NEEDED)
def test_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a package of the extra one error says which, and how to get it."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"export needs {missing}, .*'sb3-ppo-edu\[export\]'"):
        small_model().export(tmp_path / "policy.onnx")


def test_command_exports_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``sb3-edu export`` leaves the file of the run's policy, with statistics; it replaces nothing, and follows no link."""
    run = train_and_save(tmp_path / "run")
    assert main(["export", str(tmp_path / "run")]) == 0
    written = tmp_path / "run" / "policy.onnx"
    assert capsys.readouterr().out.split() == [str(written)]
    observations = np.random.default_rng(0).standard_normal((N, 4)).astype(np.float32)
    env = run.model.get_vec_normalize_env()
    assert env is not None
    session = onnxruntime.InferenceSession(written)
    noise = np.zeros((N, noise_width(session)), np.float32)
    (found,) = session.run(["action"], {"observation": observations, "noise": noise})
    assert (found == run.model.predict(env.normalize_obs(observations), deterministic=True)[0]).all()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "elsewhere")
    for output in (written, tmp_path / "link.onnx"):
        assert main(["export", str(tmp_path / "run"), "--output", str(output)]) == 2
        assert f"--output {output}: it exists, and nothing that exists is overwritten" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


def test_command_passes_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stranger's run is read as ``evaluate`` reads it: what would run code is refused, and nothing is written."""
    train_and_save(tmp_path / "run")
    model = tmp_path / "run" / "model.zip"
    model.write_bytes(with_attribute(model.read_bytes(), "clip_range", serialized(b"cposix\nsystem\n.")))
    assert main(["export", str(tmp_path / "run")]) == 2
    assert "posix.system" in capsys.readouterr().err
    assert not (tmp_path / "run" / "policy.onnx").exists()
