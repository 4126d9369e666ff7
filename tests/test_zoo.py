"""The zoo room: what reaches the zoo, what it does with ``EduPPO``, and how a command that cannot work is refused."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_edu import EduPPO, zoo
from sb3_ppo_edu.functional.schedules import TextSchedule
from sb3_ppo_edu.training.algorithms import ALGORITHMS
from sb3_ppo_edu.training.hyperparameters import bundled_file, load_hyperparameters, read_blocks

SETTINGS = """
CartPole-v1: &small
  policy: MlpPolicy
  n_timesteps: 128
  n_envs: 2
  n_steps: 32
  batch_size: 32
  n_epochs: 1
  normalize: true
  learning_rate: lin_0.001
  ent_coef: lin_0.01
  clip_range_vf: null
  policy_kwargs: "dict(net_arch=[8])"
Pendulum-v1: *small
"""


@pytest.fixture(scope="module", autouse=True)
def _gymnasium_as_it_was() -> Iterator[None]:
    """Take back what importing rl_zoo3 does to gymnasium, for the tests of other modules in the same process."""
    with pytest.MonkeyPatch.context() as patch:
        for owner in (gym.wrappers, gym.wrappers.common, gym.envs.registration):
            patch.setattr(owner, "TimeLimit", gym.wrappers.TimeLimit, raising=False)
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file of settings for trainings that take no time."""
    path = tmp_path_factory.mktemp("settings") / "small.yml"
    path.write_text(SETTINGS)
    return str(path)


def train(settings: str, folder: Path, *arguments: str, env: str = "CartPole-v1") -> int:
    """Train through the zoo without evaluation."""
    given = ["--env", env, "-f", str(folder), "--eval-freq", "-1", "--seed", "3", "--device", "cpu", "--num-threads", "1"]
    return zoo.main(["train", *given, "--conf-file", settings, *arguments])


@pytest.fixture(scope="module")
def agents(settings: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the log folder of two agents trained through the zoo, each with two evaluations on the way."""
    folder = tmp_path_factory.mktemp("agents")
    for seed in ("1", "2"):
        assert train(settings, folder, "--eval-freq", "64", "--eval-episodes", "2", "--seed", seed) == 0
    return folder


# What is asked of the zoo


def test_importing_the_room_imports_no_zoo() -> None:
    """rl_zoo3 patches gymnasium when it is imported, so only a call may import it."""
    code = "import sys, sb3_ppo_edu.zoo; sys.exit('rl_zoo3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_register_makes_eduppo_known_everywhere() -> None:
    """The zoo's modules share one dictionary of algorithms; the search and the loader of its trials have theirs."""
    zoo.register()
    zoo.register()
    import rl_zoo3
    from rl_zoo3 import exp_manager, hyperparams_opt
    from rl_zoo3 import train as train_module

    for module in (rl_zoo3, exp_manager, train_module):
        assert module.ALGOS["eduppo"] is EduPPO
    assert hyperparams_opt.HYPERPARAMS_SAMPLER["eduppo"] is hyperparams_opt.sample_ppo_params
    assert hyperparams_opt.HYPERPARAMS_CONVERTER["eduppo"] is hyperparams_opt.convert_onpolicy_params


CONF = ["--conf-file", str(bundled_file())]


@pytest.mark.parametrize(
    ("verb", "given", "added"),
    [
        ("train", ["--env", "X"], ["--algo", "eduppo", *CONF]),
        ("train", ["--algo", "eduppo"], CONF),
        ("train", ["--algo=eduppo"], CONF),
        ("train", ["--alg", "eduppo"], CONF),
        ("train", ["--algo", "ppo"], []),
        ("train", ["-conf", "my.yml"], ["--algo", "eduppo"]),
        ("train", ["--conf-file=my.yml"], ["--algo", "eduppo"]),
        ("train", ["--algo", "ppo", "--conf-file", "my.yml"], []),
        ("train", ["-optimize", "-params", "n_steps:8", "-P", "-i", "a.zip"], ["--algo", "eduppo", *CONF]),
        ("enjoy", ["--env", "X"], ["--algo", "eduppo"]),
        ("enjoy", ["--algo", "sac"], []),
        ("plot_train", ["-a", "ppo"], []),
        ("plot_train", ["-e", "X"], ["--algo", "eduppo"]),
        ("all_plots", ["-a", "ppo", "eduppo", "-e", "X"], []),
        ("all_plots", ["-e", "X"], ["--algos", "eduppo"]),
        ("plot_from_file", ["-i", "x.pkl"], []),
        ("benchmark", ["--no-hub"], []),
    ],
)
def test_only_what_is_missing_is_added(verb: str, given: list[str], added: list[str]) -> None:
    """``--algo`` where a verb has it, ``--conf-file`` for training EduPPO; the rest arrives as it was given, in order."""
    assert zoo._with_defaults(verb, given) == [*added, *given]


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` says what there is; so does no verb at all."""
    assert zoo.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in zoo.VERBS)
    assert zoo.main([]) == 0
    assert capsys.readouterr().out == text


def test_help_of_a_verb_is_the_zoos(capsys: pytest.CaptureFixture[str]) -> None:
    """``train --help`` is answered by the zoo, under our command's name, with our key among the algorithms."""
    with pytest.raises(SystemExit) as stop:
        zoo.main(["train", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: python -m sb3_ppo_edu.zoo train")
    assert "--optimize-hyperparameters" in text
    assert "eduppo" in text


def test_nothing_is_left_changed(agents: Path) -> None:
    """The zoo's command gets its own ``sys.argv``, children and experiment manager only for as long as it runs."""
    argv, call = sys.argv, subprocess.call
    with contextlib.suppress(SystemExit):
        zoo.main(["record_training", "--help"])
    assert (sys.argv, subprocess.call) == (argv, call)
    manager = importlib.import_module("rl_zoo3.train").ExperimentManager
    assert manager is importlib.import_module("rl_zoo3.exp_manager").ExperimentManager


# The settings


@pytest.mark.parametrize("env_id", read_blocks(bundled_file()))
def test_the_zoo_reads_our_file_as_it_is(env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo's own experiment manager, which evaluates text, finds the same values in each block as our reading does."""
    zoo.register()
    from rl_zoo3.exp_manager import ExperimentManager

    monkeypatch.setitem(gym.registry, "TestGame-v0", gym.envs.registration.EnvSpec("TestGame-v0", "ale_py.env:AtariEnv"))
    registered = {"default": "Blackjack-v1", "atari": "TestGame-v0"}.get(env_id, env_id)
    ours = load_hyperparameters(registered)
    manager = ExperimentManager(argparse.Namespace(), "eduppo", registered, str(tmp_path), config=str(bundled_file()))
    theirs, env_wrapper, *_ = manager._preprocess_hyperparams(manager.read_hyperparameters()[0])

    assert (manager.n_envs, manager.n_timesteps) == (ours.pop("n_envs", 1), ours.pop("n_timesteps"))
    assert manager.frame_stack == ours.pop("frame_stack", None)
    assert (env_wrapper is None) == (ours.pop("env_wrapper", None) is None)
    normalize = ours.pop("normalize")
    assert bool(normalize) == manager.normalize
    # The zoo's `true` leaves VecNormalize's switches at their defaults, which are True.
    assert manager.normalize_kwargs == {key: value for key, value in (normalize or {}).items() if key == "gamma"}
    assert set(theirs) == set(ours)
    for key in set(ours) - {"learning_rate", "clip_range"}:
        assert theirs[key] == ours[key]
    for key in {"learning_rate", "clip_range"} & set(ours):
        start = float(str(ours[key]).removeprefix("lin_"))
        assert theirs[key](0.5) == (start / 2 if str(ours[key]).startswith("lin_") else start)


def test_training_leaves_what_the_zoo_leaves(agents: Path) -> None:
    """The folder is named after the key; model, statistics, evaluations and settings are where the zoo's tools look."""
    run = agents / "eduppo" / "CartPole-v1_1"
    for name in ("CartPole-v1.zip", "CartPole-v1/vecnormalize.pkl", "CartPole-v1/config.yml", "best_model.zip"):
        assert (run / name).is_file()
    assert np.load(run / "evaluations.npz")["results"].shape == (2, 2)
    assert EduPPO.load(run / "CartPole-v1.zip", device="cpu").num_timesteps == 128


def test_schedules_are_eduppos_own(agents: Path) -> None:
    """``lin_…`` works for the entropy coefficient too, ``null`` for value clipping; the file of settings keeps the text.

    The saved model holds no class of rl_zoo3, so loading it does not import rl_zoo3.
    """
    run = agents / "eduppo" / "CartPole-v1_1"
    model = EduPPO.load(run / "CartPole-v1.zip", device="cpu")
    assert isinstance(model.ent_coef, LinearSchedule)
    assert model.lr_schedule(0.25) == pytest.approx(0.00025)
    assert model.clip_range_vf is None
    assert b"rl_zoo3" not in zipfile.ZipFile(run / "CartPole-v1.zip").read("data")
    saved = yaml.unsafe_load((run / "CartPole-v1" / "config.yml").read_text())
    assert (saved["ent_coef"], saved["learning_rate"], saved["clip_range_vf"]) == ("lin_0.01", "lin_0.001", None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("learning_rte:0.1", "settings of CartPole-v1: unknown hyperparameter 'learning_rte' (did you mean 'learning_rate'?)"),
        ("learning_rate:'cosine_0.1'", "learning_rate='cosine_0.1': expected a number, a schedule, or a string such as"),
        ("vf_lambda:2", "vf_lambda=2: expected a finite number ≥ 0 and ≤ 1"),
        ("ent_coef:'lin_x'", "ent_coef='lin_x': expected a number, a schedule"),
        ("layer_norm:'yes'", "layer_norm='yes': expected True or False"),
        ("critic_keys:'state'", "critic_keys='state': expected "),
    ],
)
def test_wrong_settings_are_refused(
    wrong: str, message: str, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is trained or written: exit status 2, one line that says what is wrong, no traceback."""
    assert train(settings, tmp_path, "-params", wrong) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_other_algorithms_are_the_zoos_business(tmp_path: Path) -> None:
    """``--algo ppo`` trains SB3's PPO with the zoo's own settings, converted by the zoo's own rules."""
    arguments = ["--algo", "ppo", "--env", "CartPole-v1", "-f", str(tmp_path), "-n", "64", "--eval-freq", "-1"]
    assert zoo.main(["train", *arguments, "--device", "cpu", "-params", "n_envs:1", "n_epochs:1", "batch_size:32"]) == 0
    saved = zipfile.ZipFile(tmp_path / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip").read("data")
    assert b"rl_zoo3.utils" in saved


def test_training_environments_have_no_render_mode(settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a render mode some environments do work that no one sees (LunarLander its exhaust particles)."""
    import rl_zoo3.exp_manager

    modes: list[Any] = []

    def recording(*args: Any, **kwargs: Any) -> VecEnv:
        env = make_vec_env(*args, **kwargs)
        modes.extend(env.get_attr("render_mode"))
        return env

    monkeypatch.setattr(rl_zoo3.exp_manager, "make_vec_env", recording)
    assert train(settings, tmp_path, "--eval-freq", "64") == 0
    assert modes == [None] * 3


# Continue, search, load a trial


def test_a_saved_agent_is_continued(settings: str, tmp_path: Path) -> None:
    """``-i`` keeps network, distribution and statistics of the saved agent and goes on from its weights.

    With a learning rate of 0 the weights after the second training are those after the first; with another they move. The
    distribution is not repeated on the command line: it is an argument of the algorithm, and so is kept.
    """
    assert train(settings, tmp_path, "-params", "action_distribution:'tanh_gaussian'", env="Pendulum-v1") == 0
    first = tmp_path / "eduppo" / "Pendulum-v1_1" / "Pendulum-v1.zip"
    saved = EduPPO.load(first, device="cpu")
    for number, learning_rate in ((2, 0.0), (3, 0.01)):
        assert train(settings, tmp_path, "-i", str(first), "-params", f"learning_rate:{learning_rate}", env="Pendulum-v1") == 0
        folder = tmp_path / "eduppo" / f"Pendulum-v1_{number}"
        continued = EduPPO.load(folder / "Pendulum-v1.zip", device="cpu")
        assert continued.action_distribution == "tanh_gaussian"
        pairs = zip(saved.policy.parameters(), continued.policy.parameters(), strict=True)
        assert all(torch.equal(before, after) for before, after in pairs) == (learning_rate == 0)
        statistics = VecNormalize.load(str(folder / "Pendulum-v1" / "vecnormalize.pkl"), make_vec_env("Pendulum-v1")).obs_rms
        assert isinstance(statistics, RunningMeanStd)
        # 128 steps and the first observation of each of the 2 environments, twice, and the 1e-4 it starts from.
        assert statistics.count == pytest.approx(2 * (128 + 2), abs=0.001)


TRIALS: list[dict[str, Any]] = [
    {"n_steps_pow": 5, "batch_size_pow": 5, "n_epochs": 1, "net_arch": "tiny", "one_minus_gamma": gamma}
    for gamma in (0.03, 0.02)
]


@pytest.fixture
def study(tmp_path: Path, settings: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[EduPPO], list[str]]:
    """Search with two small trials, and return the models built and the arguments that name the study."""
    pytest.importorskip("pandas", reason="the zoo's report of a search needs pandas")
    import optuna

    storage = str(tmp_path / "study.log")
    backend = optuna.storages.journal.JournalFileBackend(storage)  # type: ignore[attr-defined]
    prepared = optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="s", direction="maximize")
    for trial in TRIALS:
        prepared.enqueue_trial(trial)
    models: list[EduPPO] = []

    class Recorded(EduPPO):
        """EduPPO that keeps every model built of it."""

        @functools.wraps(EduPPO.__init__)  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            models.append(self)

    monkeypatch.setitem(ALGORITHMS, "eduppo", Recorded)
    named = ["--storage", storage, "--study-name", "s", "--no-optim-plots"]
    search = ["-optimize", "-n", "64", "--n-trials", "2", "--n-evaluations", "1", "--eval-episodes", "1", *named]
    ours = ["action_distribution:'tanh_gaussian'", "dual_clip:3.0", "shared_net_arch:[8]", "layer_norm:True", "vf_n_steps:3"]
    assert train(settings, tmp_path, *search, "-params", *ours, "vf_coef:'cos_1_0.5'", env="Pendulum-v1") == 0
    return models, named


def test_a_search_keeps_what_eduppo_adds(study: tuple[list[EduPPO], list[str]]) -> None:
    """Each trial takes the sampled values, and our arguments from the settings; policy_kwargs are the search's own."""
    models, _ = study
    assert [model.gamma for model in models] == [0.97, 0.98]
    for model in models:
        assert (model.action_distribution, model.dual_clip) == ("tanh_gaussian", 3.0)
        assert (model.n_steps, model.batch_size, model.n_epochs) == (32, 32, 1)
        assert model.policy_kwargs["net_arch"] == {"pi": [64], "vf": [64]}
        shared: Any = model.policy.mlp_extractor.shared_net
        assert [type(layer) for layer in shared][:2] == [torch.nn.Linear, torch.nn.LayerNorm] and shared[0].out_features == 8
        assert model.vf_n_steps == 3 and vars(model)["vf_coef"] == TextSchedule("cos_1_0.5")


def test_a_trial_is_loaded_by_its_number(study: tuple[list[EduPPO], list[str]], settings: str, tmp_path: Path) -> None:
    """``--trial-id`` replaces the file's settings by the trial's, and the command line both; trial 0 is a trial too."""
    _, named = study
    for number, gamma in ((0, 0.97), (1, 0.98)):
        arguments = ["--trial-id", str(number), *named, "-params", "n_steps:16"]
        assert train(settings, tmp_path / str(number), *arguments, env="Pendulum-v1") == 0
        model = EduPPO.load(tmp_path / str(number) / "eduppo" / "Pendulum-v1_1" / "Pendulum-v1.zip", device="cpu")
        assert (model.gamma, model.n_epochs, model.n_steps) == (gamma, 1, 16)


def test_a_search_without_pandas_is_refused_at_once(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The zoo would find out when it writes the report, after all trials."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert train(settings, tmp_path, "-optimize", "--n-trials", "1") == 2
    assert "the report of a hyperparameter search needs the package pandas" in capsys.readouterr().err


# Watch, record, plot


def test_enjoy_shows_the_agent(agents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The agent is found by our key and played; its returns are printed."""
    pytest.importorskip("requests", reason="the zoo's enjoy imports requests")
    assert zoo.main(["enjoy", "--env", "CartPole-v1", "-f", str(agents), "-n", "60", "--no-render", "--device", "cpu"]) == 0
    assert "Mean reward: " in capsys.readouterr().out


def test_recording_records(agents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained without a render mode, the agent is recorded with one: the film has frames of the pole, and they differ."""
    imageio = pytest.importorskip("imageio.v3")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert zoo.main(["record_video", "--env", "CartPole-v1", "-f", str(agents), "--exp-id", "1", "-n", "12"]) == 0
    (film,) = (agents / "eduppo" / "CartPole-v1_1" / "videos").glob("*.mp4")
    frames = np.asarray(imageio.imread(film, plugin="FFMPEG"))
    assert len(frames) >= 12
    assert frames.shape[1:] == (400, 600, 3)
    assert frames[0].std() > 10
    assert not np.array_equal(frames[0], frames[-1])


def test_the_plots_find_the_agent(agents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The zoo's plots look for folders and evaluations under our key; its table then holds a number."""
    pytest.importorskip("seaborn", reason="the zoo's plots import seaborn")
    pytest.importorskip("pandas", reason="the zoo's plots import pandas")
    import matplotlib

    matplotlib.use("agg")
    found = ["-e", "CartPole-v1", "-f", str(agents)]
    assert zoo.main(["plot_train", *found, "-w", "2"]) == 0
    assert zoo.main(["all_plots", *found, "--no-display", "-o", str(tmp_path / "plots"), "-l", "here"]) == 0
    assert "|CartPole-v1 |" in capsys.readouterr().out
    assert zoo.main(["plot_from_file", "-i", str(tmp_path / "plots.pkl"), "-o", str(tmp_path / "plots.svg")]) == 0
    assert (tmp_path / "plots.svg").stat().st_size > 1000


def test_verbs_that_start_verbs_start_ours() -> None:
    """record_training and benchmark start processes, which would not know ``eduppo``; other processes are left alone."""
    called: list[Sequence[str]] = []

    def call(command: Sequence[str], **kwargs: Any) -> int:
        called.append(command)
        return len(kwargs)

    ours = zoo._calling_this_module(call)
    assert ours(["python", "-m", "rl_zoo3.record_video", "--env", "X"], cwd="a") == 1
    ours(["python", "enjoy.py", "--algo", "eduppo"])
    ours(["python", "-m", "other"])
    here = [sys.executable, "-m", "sb3_ppo_edu.zoo"]
    assert called == [
        [*here, "record_video", "--env", "X"],
        [*here, "enjoy", "--algo", "eduppo"],
        ["python", "-m", "other"],
    ]


@pytest.mark.slow
def test_verbs_that_start_verbs_work(agents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From end to end: a film of the training is put together, and the table of the benchmark has our agent."""
    pytest.importorskip("pandas")
    pytest.importorskip("requests")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(zoo.__file__).parents[1]), *sys.path]))
    monkeypatch.chdir(tmp_path)
    film = tmp_path / "film"
    assert zoo.main(["record_training", "--env", "CartPole-v1", "-f", str(agents), "-n", "20", "-o", str(film)]) == 0
    assert (film / "training.mp4").stat().st_size > 1000
    benchmark = ["--no-hub", "--log-dir", str(agents), "--benchmark-dir", str(tmp_path / "benchmark"), "-n", "300"]
    assert zoo.main(["benchmark", *benchmark]) == 0
    assert "|eduppo|CartPole-v1|" in (tmp_path / "benchmark.md").read_text()


def test_ffmpeg_is_put_on_the_path_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo calls ffmpeg by name. While it does, the name leads somewhere; afterwards the PATH is as it was."""
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setenv("PATH", "/nowhere")
    with zoo._ffmpeg():
        assert subprocess.run(["ffmpeg", "-version"], capture_output=True, check=True).stdout.startswith(b"ffmpeg")
    assert os.environ["PATH"] == "/nowhere"
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(zoo.ZooError, match="record_training needs the program ffmpeg"), zoo._ffmpeg():
        pass


# Refusals


@pytest.mark.parametrize(
    ("verb", "package"),
    [(name, package) for name, verb in zoo.VERBS.items() for package in verb.packages],
)
def test_a_missing_package_is_named(
    verb: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the zoo imports without declaring it is asked for by name, with the command that installs it."""
    for name in zoo.VERBS[verb].packages:
        monkeypatch.setitem(sys.modules, name, argparse if name != package else None)
    assert zoo.main([verb]) == 2
    assert f"the zoo's {verb} needs the package {package}, which is not installed: pip install" in capsys.readouterr().err


def test_packages_that_do_not_fit_are_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that the zoo imports and an installed package no longer has is reported as that, without a traceback."""
    # Whole first: its packages need that module themselves when they are imported.
    importlib.import_module("rl_zoo3")
    monkeypatch.setitem(sys.modules, "huggingface_sb3.push_to_hub", None)
    assert zoo.main(["push_to_hub", "--env", "CartPole-v1", "-f", "logs", "-orga", "me"]) == 2
    assert "and the packages installed here do not fit: import of huggingface_sb3.push_to_hub" in capsys.readouterr().err


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error is answered with what was probably meant, and with all there is."""
    assert zoo.main(["trian", "--env", "X"]) == 2
    assert "unknown verb 'trian' (did you mean 'train'?); expected one of train, enjoy, " in capsys.readouterr().err


def test_all_algorithms_are_registered() -> None:
    """Each is known by its key, and has a search."""
    zoo.register()
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    for name, cls in ALGORITHMS.items():
        assert ALGOS[name] is cls
        assert name in HYPERPARAMS_SAMPLER
        assert name in HYPERPARAMS_CONVERTER
