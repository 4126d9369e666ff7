"""Building environments: one seed per episode, the zoo's order of wrappers, the environment's own rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecTransposeImage

from sb3_ppo_edu.envs.factory import (
    EnvironmentSettings,
    EpisodeSeeds,
    action_repeat,
    check_harmless,
    import_wrappers,
    make_evaluation_env,
    make_training_env,
    named_with_kwargs,
)
from sb3_ppo_edu.serialization.errors import UntrustedFileError
from sb3_ppo_edu.serialization.names import import_named


class Reseeded(gym.Env[Any, Any]):
    """Two steps, each observing the seed of the episode; rewards 3 and 4."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Remember the seed."""
        super().reset(seed=seed)
        self.seed = -1.0 if seed is None else seed
        self.steps = 0
        return np.array([self.seed], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count the steps."""
        self.steps += 1
        return np.array([self.seed], np.float32), 2.0 + self.steps, self.steps == 2, False, {}


gym.register("Reseeded-v0", f"{__name__}:Reseeded")


def test_each_episode_has_its_seed() -> None:
    """Episodes start from first, first + stride, …, whatever seed reset is given, and tell it in their last info only."""
    env = EpisodeSeeds(Reseeded(), first=5, stride=3)
    for expected in (5, 8, 11):
        observation, _ = env.reset(seed=99)
        assert observation[0] == expected
        assert "episode_seed" not in env.step(0)[4]
        assert env.step(0)[4]["episode_seed"] == expected


@pytest.mark.parametrize(("n_envs", "first"), [(1, [20]), (3, [22, 21, 20])])
def test_environments_share_out_the_seeds(n_envs: int, first: list[int]) -> None:
    """Of n environments the last one starts from the first seed, and each goes on by n: no two play the same episode."""
    env: Any = make_evaluation_env(EnvironmentSettings("Reseeded-v0"), n_envs, first_seed=20)
    np.testing.assert_array_equal(env.reset()[:, 0], first)
    env.step([0] * n_envs)
    # The vectorised environment resets by itself.
    np.testing.assert_array_equal(env.step([0] * n_envs)[0][:, 0], np.array(first) + n_envs)


def test_training_environments_count_up_from_the_seed(tmp_path: Path) -> None:
    """Training environments start from seed, seed + 1, …, draw nothing, and write SB3's monitor files."""
    env: Any = make_training_env(EnvironmentSettings("Reseeded-v0"), 2, 7, tmp_path / "monitor")
    np.testing.assert_array_equal(env.reset()[:, 0], [7, 8])
    assert env.render_mode is None
    assert sorted(path.name for path in (tmp_path / "monitor").iterdir()) == ["0.monitor.csv", "1.monitor.csv"]
    env.close()


def test_lunar_lander_is_built_without_render_mode() -> None:
    """Real environments too are made without a render mode, which make_vec_env would set if it were given an id."""
    assert make_training_env(EnvironmentSettings("LunarLander-v3"), 1, 0).render_mode is None


def test_evaluation_leaves_statistics_and_rewards_alone() -> None:
    """Normalised observations come with rewards as they are and statistics that stay; in training both move."""
    settings = EnvironmentSettings("Reseeded-v0", normalize={"gamma": 0.5})
    environments: list[Any] = [make_training_env(settings, 1, 0), make_evaluation_env(settings)]
    counts = []
    for env in environments:
        assert isinstance(env, VecNormalize)
        assert env.gamma == 0.5
        env.reset()
        env.ret_rms.var = np.array(100.0)
        statistics: Any = env.obs_rms
        before = statistics.count
        _, rewards, _, _ = env.step(np.array([0]))
        counts.append(statistics.count - before)
    np.testing.assert_array_equal(rewards, [3.0])
    np.testing.assert_allclose(counts, [1, 0])


def test_evaluation_takes_saved_statistics(tmp_path: Path) -> None:
    """Observations are normalised with the statistics in the file."""
    settings = EnvironmentSettings("Reseeded-v0", normalize={})
    training: Any = make_training_env(settings, 1, 0)
    training.obs_rms.mean[:], training.obs_rms.var[:] = 4.0, 9.0
    training.save(str(tmp_path / "statistics.pkl"))
    env: Any = make_evaluation_env(settings, first_seed=10, statistics=tmp_path / "statistics.pkl")
    # (10 - 4) / sqrt(9 + 1e-8)
    np.testing.assert_allclose(env.reset(), [[2.0]], rtol=1e-6)


def test_wrappers_stand_in_the_zoos_order() -> None:
    """Monitor, single wrappers, vectorised wrappers, normalisation, frames, transposition; evaluation looks like training."""
    settings = EnvironmentSettings(
        "CartPole-v1",
        wrapper=[{"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 3}}, "gymnasium.wrappers.FlattenObservation"],
        vec_wrapper="stable_baselines3.common.vec_env.VecCheckNan",
        frame_stack=2,
        normalize={},
    )
    training, evaluation = make_training_env(settings, 2, 0), make_evaluation_env(settings, 2)
    for env in (training, evaluation):
        names = []
        layer: Any = env
        while hasattr(layer, "venv"):
            names.append(type(layer).__name__)
            layer = layer.venv
        assert names == ["VecFrameStack", "VecNormalize", "VecCheckNan"]
        single = layer.envs[0]
        assert isinstance(single, gym.wrappers.FlattenObservation)
        assert isinstance(single.env, gym.wrappers.TimeLimit)
        assert env.observation_space.shape == (8,)
    assert isinstance(training, VecFrameStack)


def test_images_are_transposed() -> None:
    """Images of height × width × channels become channels × height × width, in a dictionary too; other spaces stay."""
    gym.register("FakeImage-v0", "stable_baselines3.common.envs:FakeImageEnv")
    settings = EnvironmentSettings("FakeImage-v0", kwargs={"screen_height": 40, "screen_width": 36, "n_channels": 3})
    for env in (make_training_env(settings, 1, 0), make_evaluation_env(settings)):
        assert isinstance(env, VecTransposeImage)
        assert env.observation_space.shape == (3, 40, 36)
    gym.register("FakeDict-v0", "stable_baselines3.common.envs:SimpleMultiObsEnv")
    env = make_training_env(EnvironmentSettings("FakeDict-v0", kwargs={"channel_last": True}), 1, 0)
    assert isinstance(env, VecTransposeImage)
    assert not isinstance(make_training_env(EnvironmentSettings("CartPole-v1"), 1, 0), VecTransposeImage)


def test_monitor_keywords_survive_yaml() -> None:
    """Info keywords, a list once they were in YAML, reach the monitor as the tuple that it needs."""
    env = make_training_env(EnvironmentSettings("Reseeded-v0", monitor_kwargs={"info_keywords": []}), 1, 0)
    assert env.get_attr("info_keywords") == [()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            EnvironmentSettings("CartPole-v1", kwargs={"gravty": 1}),
            "CartPole-v1 cannot be built with env_kwargs={'gravty': 1}",
        ),
        (EnvironmentSettings("CartPole-v1", monitor_kwargs={"a": 1}), "monitor_kwargs={'a': 1}"),
        (EnvironmentSettings("FrozenLake-v1", normalize={}), "normalize={}: FrozenLake-v1 cannot be normalised"),
        (EnvironmentSettings("CartPole-v1", wrapper="gymnasium.wrappers.Nothing"), "'gymnasium.wrappers.Nothing'"),
    ],
)
def test_what_cannot_be_built_is_refused(settings: EnvironmentSettings, message: str) -> None:
    """An argument that an environment or wrapper does not take is a ValueError that names both."""
    with pytest.raises(ValueError) as caught:
        make_training_env(settings, 1, 0)
    assert message in str(caught.value)


def test_names_with_arguments() -> None:
    """The zoo's form: nothing, a name, a name with arguments, or a list of those."""
    assert named_with_kwargs(None) == []
    assert named_with_kwargs("a.b") == [("a.b", {})]
    assert named_with_kwargs(["a.b", {"c.d": {"e": 1}}, {"f.g": None}]) == [("a.b", {}), ("c.d", {"e": 1}), ("f.g", {})]
    with pytest.raises(ValueError, match=r"3: expected a dotted name"):
        named_with_kwargs([3])
    with pytest.raises(ValueError, match=r"expected a dotted name"):
        named_with_kwargs([{"a.b": {}, "c.d": {}}])


def test_import_by_name() -> None:
    """A dotted name gives the object; anything else is a ValueError with the name."""
    assert import_named("gymnasium.wrappers.TimeLimit") is gym.wrappers.TimeLimit
    for name in ("gymnasium.wrappers.Nothing", "no_such_package.Thing", "Thing"):
        with pytest.raises(ValueError, match=name):
            import_named(name)


def test_no_wrapper_is_no_change() -> None:
    """Without names the environment itself comes back."""
    env = Reseeded()
    assert import_wrappers(None)(env) is env


@pytest.mark.parametrize(
    ("wrapper", "repeats"),
    [
        (None, 1),
        ("gymnasium.wrappers.FlattenObservation", 1),
        ("sb3_ppo_edu.envs.wrappers.ActionRepeat", 4),
        ("stable_baselines3.common.atari_wrappers.AtariWrapper", 4),
        ({"stable_baselines3.common.atari_wrappers.AtariWrapper": {"frame_skip": 2}}, 2),
        ([{"sb3_ppo_edu.envs.wrappers.ActionRepeat": {"repeat": 3}}, "sb3_ppo_edu.envs.wrappers.LanderSymmetry"], 3),
    ],
)
def test_repeated_actions_are_counted(wrapper: Any, repeats: int) -> None:
    """Environment steps for each decision, as the wrappers themselves take them."""
    assert action_repeat(wrapper) == repeats


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"id": "some.module:Env-v0"}, "some.module:Env-v0"),
        ({"wrapper": "os.system"}, "os.system"),
        ({"wrapper": {"subprocess.Popen": {"args": "true"}}}, "subprocess.Popen"),
        ({"wrapper": ["gymnasium.wrappers.TimeAwareObservation", "evil.module.Wrapper"]}, "evil.module.Wrapper"),
        ({"wrapper": "tests.environments.RandomWalk"}, "tests.environments.RandomWalk"),
        ({"wrapper": "gymnasium.make"}, "gymnasium.make"),
        ({"wrapper": "gymnasium.Env"}, "gymnasium.Env"),
        ({"wrapper": "stable_baselines3.common.save_util.load_from_pkl"}, "load_from_pkl"),
        ({"wrapper": "sb3_ppo_edu.__main__.main"}, "__main__"),
        ({"vec_wrapper": "builtins.exec"}, "builtins.exec"),
    ],
)
def test_settings_from_strangers_call_wrappers_only(settings: dict[str, Any], found: str) -> None:
    """Anything but a wrapper from a well-known package is refused by name, with the flag that allows it."""
    with pytest.raises(UntrustedFileError, match="--trust") as error:
        check_harmless(EnvironmentSettings(**{"id": "CartPole-v1", **settings}), "settings.yml")
    assert found in str(error.value)
    assert str(error.value).startswith("settings.yml")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"wrapper": "sb3_ppo_edu.envs.wrappers.ActionRepeat"},
        {"wrapper": [{"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 5}}, "rl_zoo3.wrappers.HistoryWrapper"]},
        {"vec_wrapper": "stable_baselines3.common.vec_env.VecMonitor"},
    ],
)
def test_usual_settings_are_harmless(settings: dict[str, Any]) -> None:
    """Wrappers of the packages that everyone has pass."""
    check_harmless(EnvironmentSettings(**{"id": "CartPole-v1", **settings}), "settings.yml")
