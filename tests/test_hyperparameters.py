"""The room of the settings: each test states what a file of settings must hold to, or how it is refused."""

from __future__ import annotations

import csv
import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.envs.factory import action_repeat, import_wrappers
from sb3_ppo_edu.training.hyperparameters import (
    ZOO_KEYS,
    bundled_file,
    check_environment,
    find_block,
    legal_keys,
    load_hyperparameters,
    load_zoo_settings,
    parse_expression,
    read_blocks,
    zoo_file,
)

BLOCKS = (
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "LunarLander-v3",
    "LunarLanderContinuous-v3",
    "BipedalWalker-v3",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Walker2d-v5",
    "Ant-v5",
    "Humanoid-v5",
    "MinAtar/Breakout-v1",
    "MinAtar/SpaceInvaders-v1",
    "MinAtar/Asterix-v1",
)


@pytest.fixture
def atari() -> Any:
    """Register a game that looks like an Atari game, for the length of a test."""
    gym.register("TestGame-v0", entry_point="ale_py.env:AtariEnv")
    yield "TestGame-v0"
    del gym.registry["TestGame-v0"]


def write(folder: Path, text: str) -> Path:
    """Write a file of settings."""
    path = folder / "settings.yml"
    path.write_text(text, encoding="utf-8")
    return path


# What the file holds


def test_the_bundled_file_has_the_promised_blocks() -> None:
    """The classic, Box2D, MuJoCo and MinAtar environments, ``atari`` and ``default`` have a block each, and nobody else."""
    assert set(read_blocks(bundled_file())) == {*BLOCKS, "atari", "default"}


@pytest.mark.parametrize("env_id", BLOCKS)
def test_every_block_builds_its_model_and_trains(env_id: str) -> None:
    """Each block's arguments are EduPPO's: the model they describe is built, and learns from short rollouts."""
    if env_id.startswith("MinAtar/"):
        pytest.importorskip("minatar", reason="needs the extra lab")
    elif gym.spec(env_id).entry_point.startswith("gymnasium.envs.mujoco"):  # type: ignore[union-attr]
        pytest.importorskip("mujoco", reason="needs the extra mujoco")
    settings = load_hyperparameters(env_id)
    n_envs = min(settings.pop("n_envs", 1), 2)
    normalize, n_timesteps = settings.pop("normalize"), settings.pop("n_timesteps")
    assert n_timesteps >= 10_000
    wrap = import_wrappers(settings.pop("env_wrapper", None))
    env = make_vec_env(env_id, n_envs, env_kwargs={"render_mode": None}, wrapper_class=wrap)
    if normalize:
        env = VecNormalize(env, **normalize)
    settings.update(n_steps=min(settings["n_steps"], 16), batch_size=8, n_epochs=1)
    model = EduPPO(env=env, device="cpu", seed=0, **settings)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(2 * 16 * n_envs)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.policy.parameters(), strict=True))
    env.close()


def test_the_atari_block_names_arguments_of_eduppo_only() -> None:
    """The games are not installed here, so of their block the names and the policy are checked."""
    block = read_blocks(bundled_file())["atari"]
    assert set(block) <= set(legal_keys())
    assert (block["policy"], block["frame_stack"]) == ("CnnPolicy", 4)


def test_values_are_ready_for_use() -> None:
    """Text becomes a dictionary, whole floats become integers, and rewards are scaled with the algorithm's own discount."""
    settings = load_hyperparameters("LunarLanderContinuous-v3")
    assert settings["policy_kwargs"] == {"log_std_init": -0.5}
    assert settings["normalize"] == {"norm_obs": True, "norm_reward": True, "gamma": settings["gamma"]}
    cheetah = load_hyperparameters("HalfCheetah-v5")["n_timesteps"]
    assert (cheetah, type(cheetah)) == (1_000_000, int)


@pytest.mark.parametrize(
    ("env_id", "file"),
    [("LunarLander-v3", "eduppo.yml"), ("LunarLanderContinuous-v3", "eduppo.yml"), ("LunarLander-v3", "shared.yml")],
)
def test_the_landers_settings_stay_within_fifty_thousand_steps(env_id: str, file: str) -> None:
    """Whole rollouts of decisions, times the steps that each is held for, are at most 50,000 environment steps."""
    settings = load_hyperparameters(env_id, bundled_file(file))
    assert settings["n_timesteps"] % (settings["n_envs"] * settings["n_steps"]) == 0
    assert 45_000 < settings["n_timesteps"] * action_repeat(settings["env_wrapper"]) <= 50_000


def test_shared_settings_are_those_that_sb3s_ppo_takes() -> None:
    """Each block of ``shared.yml`` has arguments of SB3's PPO alone, and stands beside one that goes beyond them."""
    theirs = {*inspect.signature(PPO.__init__).parameters, *ZOO_KEYS}
    blocks, own = read_blocks(bundled_file("shared.yml")), read_blocks(bundled_file())
    for env_id, block in blocks.items():
        assert set(block) <= theirs
        assert not set(own[env_id]) <= theirs, f"{env_id}: SB3's PPO takes EduPPO's own settings: no need for others"


def test_a_checkout_and_an_installed_package_find_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked for in the package first (installed), then beside it (checkout); in neither, both are named."""
    package = tmp_path / "sb3_ppo_edu"
    monkeypatch.setattr("sb3_ppo_edu.training.hyperparameters.__file__", str(package / "training" / "hyperparameters.py"))
    inside, beside = package / "hyperparams" / "eduppo.yml", tmp_path / "hyperparams" / "eduppo.yml"
    with pytest.raises(FileNotFoundError) as error:
        bundled_file()
    assert str(inside) in str(error.value)
    assert str(beside) in str(error.value)
    for path in (beside, inside):
        path.parent.mkdir(parents=True)
        path.write_text("default: {}")
        assert bundled_file() == path


@pytest.mark.slow
def test_the_settings_learn(tmp_path: Path) -> None:
    """CartPole-v1 reaches 475 and Pendulum-v1 -250, on three seeds each."""
    targets = {"CartPole-v1": 475.0, "Pendulum-v1": -250.0}
    chosen = ["--envs", *targets, "--algorithms", "eduppo", "--seeds", "3", "--folder", str(tmp_path)]
    assert main(["bench", "learn", "--suite", "lecture", *chosen]) == 0
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert all(float(row["final_mean"]) >= targets[row["env"]] for row in rows)


# The look-up


def test_lookup_is_own_block_then_atari_then_default(atari: str) -> None:
    """As in the zoo: a block of the environment's own wins; an Atari game falls to ``atari``, the rest to ``default``."""
    blocks: dict[str, dict[str, Any]] = {"CartPole-v1": {"n_steps": 1}, "atari": {"n_steps": 2}, "default": {"n_steps": 3}}
    assert find_block(blocks, "CartPole-v1", "f") == ("CartPole-v1", {"n_steps": 1})
    assert find_block(blocks, atari, "f") == ("atari", {"n_steps": 2})
    assert find_block(blocks, "Acrobot-v1", "f") == ("default", {"n_steps": 3})


def test_no_fitting_block_is_an_error(atari: str) -> None:
    """Neither an own block nor the one to fall back on: the error names both, and what the file has."""
    with pytest.raises(ValueError, match=r"f.yml: expected a block 'Acrobot-v1' or 'default', found CartPole-v1"):
        find_block({"CartPole-v1": {}}, "Acrobot-v1", "f.yml")
    with pytest.raises(ValueError, match="expected a block 'TestGame-v0' or 'atari', found default"):
        find_block({"default": {}}, atari, "f.yml")


def test_overrides_come_before_the_preparation(tmp_path: Path) -> None:
    """An override replaces the block's value, and what is derived from it (the rewards' discount) follows."""
    path = write(tmp_path, "CartPole-v1: {gamma: 0.9, normalize: true, n_steps: 8}")
    settings = load_hyperparameters("CartPole-v1", path, {"gamma": 0.5, "policy_kwargs": "dict(net_arch=[4])"})
    assert settings == {
        "gamma": 0.5,
        "n_steps": 8,
        "policy_kwargs": {"net_arch": [4]},
        "normalize": {"norm_obs": True, "norm_reward": True, "gamma": 0.5},
    }


def test_a_dotted_policy_is_imported(tmp_path: Path) -> None:
    """The zoo imports a policy that is named by its path; a path that leads nowhere, or to no class, is refused."""
    path = write(tmp_path, "default: {policy: stable_baselines3.common.policies.ActorCriticPolicy}")
    assert load_hyperparameters("CartPole-v1", path)["policy"] is ActorCriticPolicy
    with pytest.raises(ValueError, match=r"policy: 'torch.nn.Nothing': expected the dotted name of"):
        load_hyperparameters("CartPole-v1", path, {"policy": "torch.nn.Nothing"})
    with pytest.raises(ValueError, match=r"expected 'math.pi' to be a class, found float"):
        load_hyperparameters("CartPole-v1", path, {"policy": "math.pi"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (False, False),
        (True, {"norm_obs": True, "norm_reward": True}),
        ({"norm_reward": False}, {"norm_reward": False}),
        ("{'norm_obs': True, 'norm_reward': False}", {"norm_obs": True, "norm_reward": False}),
        ("dict(norm_obs=False, clip_obs=5.0)", {"norm_obs": False, "clip_obs": 5.0}),
    ],
)
def test_normalize_in_all_forms_of_the_zoo(tmp_path: Path, value: Any, expected: Any) -> None:
    """A switch, a mapping, or text that the zoo would evaluate: the result is VecNormalize's arguments, or False."""
    path = write(tmp_path, "default: {}")
    assert load_hyperparameters("CartPole-v1", path, {"normalize": value})["normalize"] == expected


# Expressions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dict(net_arch=[64, 32], log_std_init=-0.5)", {"net_arch": [64, 32], "log_std_init": -0.5}),
        ("dict(net_arch=dict(pi=[1], vf=[2]), ortho_init=False)", {"net_arch": {"pi": [1], "vf": [2]}, "ortho_init": False}),
        ("dict(activation_fn=nn.ReLU)", {"activation_fn": torch.nn.ReLU}),
        ("{'activation_fn': th.nn.Tanh, 'x': None}", {"activation_fn": torch.nn.Tanh, "x": None}),
        ("torch.nn.ELU", torch.nn.ELU),
        ("th.optim.SGD", torch.optim.SGD),
        ("dict(optimizer_class=RMSpropTFLike, betas=(0.9, 1e-3))", {"optimizer_class": RMSpropTFLike, "betas": (0.9, 0.001)}),
        ("  dict(\n a=1\n )  ", {"a": 1}),
    ],
)
def test_expressions_of_the_zoo_are_read(text: str, expected: Any) -> None:
    """Numbers, text, containers, ``dict(…)`` and classes of networks and optimizers mean what they mean in Python."""
    assert parse_expression(text, "policy_kwargs") == expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()",
        "dict(a=open('x'))",
        "[x for x in (1, 2)]",
        "(lambda: 1)()",
        "dict([('a', 1)])",
        "dict(**{'a': 1})",
        "{**{'a': 1}}",
        "{[1]: 2}",
        "1 + 1",
        "9 ** 9 ** 9",
        "-'a'",
        "nn.functional",
        "nn.Parameter",
        "nn.Module.__init__",
        "nn.__builtins__",
        "os.path",
        "b'a'",
        "dict(",
        "",
    ],
)
def test_nothing_else_is_run(text: str) -> None:
    """Calls, arithmetic, comprehensions, attributes other than the classes named, broken text: refused, and not evaluated."""
    with pytest.raises(ValueError, match="policy_kwargs: cannot read"):
        parse_expression(text, "policy_kwargs")


def test_a_misspelt_class_names_the_nearest() -> None:
    """``nn.Relu`` is not there; the error says what is."""
    with pytest.raises(ValueError, match=r"'nn.Relu' is no Module class of torch.nn \(did you mean 'ReLU'\?\)"):
        parse_expression("dict(activation_fn=nn.Relu)", "policy_kwargs")


# Refusals


def test_legal_keys_are_the_arguments_of_eduppo_and_the_zoos() -> None:
    """What one run decides (device, seed, …) is no setting of an environment; all other arguments and the zoo's keys are."""
    legal = legal_keys()
    assert {"policy", "learning_rate", "action_distribution", *ZOO_KEYS} <= set(legal)
    assert not {"self", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"} & set(legal)
    assert list(legal) == sorted(legal)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("engine_kwargs: dict(bf16=True)", {"bf16": True}),
        ("engine_kwargs: {compile: true}", {"compile": True}),
        ("bf16: true", {"bf16": True}),
        ("{bf16: true, engine_kwargs: dict(compile=True)}", {"bf16": True, "compile": True}),
    ],
)
def test_the_engines_options_are_read_under_old_names_too(text: str, options: dict[str, bool], tmp_path: Path) -> None:
    """An expression, a mapping, and what were arguments of their own become ``engine_kwargs``; no old name is left."""
    block = text if text.startswith("{") else f"{{{text}}}"
    settings = load_hyperparameters("CartPole-v1", write(tmp_path, f"CartPole-v1: {block}"))
    assert settings == {"engine_kwargs": options, "normalize": False}


def test_an_old_name_that_contradicts_is_refused(tmp_path: Path) -> None:
    """The error says which file and block, and which two settings."""
    path = write(tmp_path, "CartPole-v1: {bf16: true, engine_kwargs: {bf16: false}}")
    with pytest.raises(ValueError) as error:
        load_hyperparameters("CartPole-v1", path)
    assert str(error.value).startswith(
        f"{path}, block 'CartPole-v1': bf16=True with engine_kwargs={{'bf16': False}}: expected"
    )


def test_a_misspelt_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """The error says which file, which block, what was found, what is near, and what is legal."""
    path = write(tmp_path, "CartPole-v1: {learning_rte: 0.1}")
    with pytest.raises(ValueError) as error:
        load_hyperparameters("CartPole-v1", path)
    message = str(error.value)
    assert message.startswith(
        f"{path}, block 'CartPole-v1': unknown hyperparameter 'learning_rte' (did you mean 'learning_rate'?)"
    )
    assert "expected one of action_distribution, " in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default: {seed: 1}", "'seed' belongs to one run"),
        (
            "default: {learning_rate: 1e-3}",
            r"learning_rate='1e-3' is text to YAML, expected a number: write 0.001 or !!float 1e-3",
        ),
        ("default: {n_steps: '8'}", r"n_steps='8' is text to YAML, expected a number: write 8$"),
        ("default: {n_steps: 1e3}", r"n_steps='1e3' is text to YAML, expected a number: write 1000$"),
        ("default: {n_envs: 0}", "n_envs: expected a whole number of at least 1, found 0"),
        ("default: {n_envs: true}", "n_envs: expected a whole number of at least 1, found True"),
        ("default: {n_timesteps: 10.5}", "n_timesteps: expected a whole number of at least 1, found 10.5"),
        ("default: {n_timesteps: .inf}", "n_timesteps: expected a whole number of at least 1, found inf"),
        ("default: {policy_kwargs: 3}", "policy_kwargs: expected a mapping or text such as .*, found int 3"),
        ("default: {policy_kwargs: '[1]'}", r"policy_kwargs: expected a mapping or text such as .*, found list \[1\]"),
        ("default: {normalize: {norm_obs: x}}", "normalize: norm_obs='x': expected True or False"),
        ("default: {normalize: {clip_obs: -1}}", "normalize: clip_obs=-1: expected a number > 0"),
        ("default: {normalize: {norm_obs_keys: a}}", "normalize: norm_obs_keys='a': expected None or a list of keys"),
        ("default: {normalize: {norm_ob: true}}", r"normalize: unknown argument 'norm_ob' \(did you mean 'norm_obs'\?\)"),
        ("default: {normalize: }", "normalize: expected a mapping .*, found nothing"),
        ("default: 3", "block 'default': expected a mapping from names to values, found int 3"),
        ("- default", r"expected a mapping from environment ids to settings, found list \['default'\]"),
        ("", "expected a mapping from environment ids to settings, found nothing"),
        ("default: {", "not readable as YAML"),
        ("CartPole-v1: {}", "expected a block 'Acrobot-v1' or 'default', found CartPole-v1"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """Each error begins with the file and says what was found and expected."""
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        load_hyperparameters("Acrobot-v1", path)
    assert str(error.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A wrong path is told from a wrong content."""
    with pytest.raises(FileNotFoundError, match=r"nowhere.yml: no such file; expected a YAML file"):
        load_hyperparameters("CartPole-v1", tmp_path / "nowhere.yml")


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPol-v1", r"environment 'CartPol-v1': .* \(did you mean 'CartPole-v1'\?\)"),
        ("cartpole-v1", r"\(did you mean 'CartPole-v1'\?\)"),
        ("LunarLander", r"\(did you mean 'LunarLander"),
        ("Qwxyz", "found no such id$"),
        ("ALE/Nothing-v5", r"sb3-ppo-edu\[atari\]|Atari games are written ale_py:ALE/Pong-v5"),
        ("no_such_module:CartPole-v1", "the module 'no_such_module' cannot be imported"),
    ],
)
def test_an_unknown_environment_is_refused_with_the_nearest(env_id: str, message: str) -> None:
    """Gymnasium's registry decides; the error names the nearest id that it has."""
    with pytest.raises(ValueError, match=message):
        load_hyperparameters(env_id)


def test_a_module_that_registers_the_environment_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``module:id`` is gymnasium's own form for environments that a package registers when it is imported."""
    (tmp_path / "my_environments.py").write_text("import gymnasium\ngymnasium.register('Mine-v0', entry_point='x:Y')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert check_environment("my_environments:Mine-v0") == "Mine-v0"
    del gym.registry["Mine-v0"]


def test_the_zoos_settings_of_other_algorithms() -> None:
    """They are those of rl_zoo3's own files, prepared like ours; overrides go over them."""
    found = load_zoo_settings("dqn", "CartPole-v1", {"n_timesteps": 1e3})
    theirs = yaml.safe_load(zoo_file("dqn").read_text(encoding="utf-8"))["CartPole-v1"]
    assert found["n_timesteps"] == 1000
    assert found["policy_kwargs"] == {"net_arch": [256, 256]}
    assert found["learning_rate"] == theirs["learning_rate"]
    with pytest.raises(FileNotFoundError, match=r"ppq.yml: expected it among the settings of rl_zoo3"):
        load_zoo_settings("ppq", "CartPole-v1")


def test_the_zoos_settings_of_an_older_version_serve_where_it_knows_no_newer() -> None:
    """It knows HalfCheetah-v4 and no v5, which so does not fall to the block for all others."""
    theirs = yaml.safe_load(zoo_file("ppo").read_text(encoding="utf-8"))
    assert "HalfCheetah-v5" not in theirs
    assert load_zoo_settings("ppo", "HalfCheetah-v5")["clip_range"] == theirs["HalfCheetah-v4"]["clip_range"] == 0.1
