"""What the first edition has written is read, predicted with and trained on as it was then, and no test of it got lost."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import nbformat
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

import sb3_ppo_edu
from sb3_ppo_edu import EduPPO, zoo
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.serialization.statistics import load_statistics
from tests.first_edition.list_tests import test_functions as list_tests
from tests.first_edition.models import HERE, ROLLOUT, SAVED_MODELS, arithmetic, parameters_of, predict, train_on

TESTS = HERE.parent
EXPECTED = dict(np.load(HERE / "expected.npz"))
SAME_ARITHMETIC = json.loads((HERE / "record.json").read_text(encoding="utf-8"))["arithmetic"] == arithmetic()
"""Whether bits can be expected to be those of the first edition's machine."""
TRAINED_QUICKLY = sorted(SAVED_MODELS.keys() - {"compiled"})
READ_BY_SB3 = ("gaussian-mlp-autograd", "gaussian-cnn-autograd", "gaussian-multi_input-autograd", "gsde-mlp-autograd")


@pytest.fixture(autouse=True)
def _gymnasium_as_it_was() -> Iterator[None]:
    """Take back what importing rl_zoo3 does to gymnasium, in a test here or in one before it in the same process."""
    original = next(one for one in gym.wrappers.TimeLimit.__mro__ if one.__module__.startswith("gymnasium."))
    with pytest.MonkeyPatch.context() as patch:
        for owner in (gym.wrappers, gym.wrappers.common, gym.envs.registration):
            patch.setattr(owner, "TimeLimit", original, raising=False)
        yield


def of(prefix: str) -> Any:
    """Give the expected array of a name, or the dictionary of those below it."""
    found = {name.removeprefix(f"{prefix}/"): array for name, array in EXPECTED.items() if name.startswith(f"{prefix}/")}
    assert found
    return found.get("", found)


def load(name: str, **arguments: Any) -> EduPPO:
    """Load a model with the class that saved it."""
    algorithm: type[EduPPO] = getattr(sb3_ppo_edu, SAVED_MODELS[name].algorithm)
    return algorithm.load(HERE / "models" / name, device="cpu", **arguments)


def engine_option(model: EduPPO, name: str) -> Any:
    """Give an option of one engine: the first edition's attribute, or what became of it in ``engine_kwargs``."""
    return vars(model).get("engine_kwargs", vars(model))[name]


def check_parameters(name: str, found: np.ndarray, exact: bool) -> None:
    """Compare with the parameters that the first edition ended with, and make sure that it had moved them at all."""
    assert np.abs(found - parameters_of(load(name))).max() > 1e-3
    if exact and SAME_ARITHMETIC:
        np.testing.assert_array_equal(found, EXPECTED[f"{name}/parameters"])
    np.testing.assert_allclose(found, EXPECTED[f"{name}/parameters"], rtol=1e-4, atol=1e-4)


# -- models --------------------------------------------------------------------------------------------------------------


def test_every_policy_class_and_engine_is_there() -> None:
    """The files are those that models.py lists: nine policy classes, three engines, and nothing that nobody describes."""
    assert {path.stem for path in (HERE / "models").iterdir()} == set(SAVED_MODELS)
    models = [load(name) for name in SAVED_MODELS]
    assert len({type(model.policy) for model in models}) == 9
    assert {model.engine for model in models} == {"autograd", "fused", "auto"}


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", SAVED_MODELS)
def test_a_model_predicts_what_it_predicted(name: str, trusted: bool) -> None:
    """Trusted or not, a file becomes the model that it was: the same actions and values for the same observations."""
    model = load(name, trusted=trusted)
    actions, values = predict(model, of(f"observations/{SAVED_MODELS[name].observation}"))
    assert actions.dtype == EXPECTED[f"{name}/actions"].dtype
    np.testing.assert_allclose(actions, EXPECTED[f"{name}/actions"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values, EXPECTED[f"{name}/values"], rtol=1e-5, atol=1e-6)
    assert np.ptp(values) > 1e-3


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", TRAINED_QUICKLY)
def test_a_model_trains_on_as_it_did(name: str, trusted: bool) -> None:
    """
    Two more rollouts from a fixed seed end with the parameters of the first edition: with autograd its bits, else to rounding.

    The optimizer's state, the schedules and the options therefore are those that were saved.
    """
    saved = SAVED_MODELS[name]
    found = train_on(load(name, env=saved.make_env(), trusted=trusted))
    check_parameters(name, found, exact=saved.arguments.get("engine") == "autograd")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler itself
def test_a_compiled_model_trains_on_as_it_did() -> None:
    """A model that was saved with ``compile=True`` is compiled again, and ends with the same parameters to rounding."""
    model = load("compiled", env=SAVED_MODELS["compiled"].make_env())
    check_parameters("compiled", train_on(model), exact=False)
    assert "compile" in model.engine_reason


@pytest.mark.parametrize("name", READ_BY_SB3)
def test_sb3_trains_on_to_the_same_bits(name: str) -> None:
    """On any machine: SB3's own PPO, given the file, ends with the bits that EduPPO ends with."""
    env = SAVED_MODELS[name].make_env()
    theirs = train_on(PPO.load(HERE / "models" / name, env=env, device="cpu"))
    np.testing.assert_array_equal(theirs, train_on(load(name, env=SAVED_MODELS[name].make_env())))


@pytest.mark.parametrize("trusted", [True, False])
def test_old_options_keep_their_meaning(trusted: bool) -> None:
    """``bf16``, ``compile``, ``micro_batch_size``, schedules from text and the optimizer are what the model was given."""
    model = load("options", trusted=trusted, env=SAVED_MODELS["options"].make_env())
    assert engine_option(model, "bf16") is True
    assert model.micro_batch_size == 8
    assert isinstance(model.ent_coef, LinearSchedule)
    assert (model.lr_schedule(1.0), model.lr_schedule(0.5)) == pytest.approx((3e-4, 1.5e-4))
    assert isinstance(model.policy.optimizer, th.optim.RMSprop)
    assert engine_option(load("compiled", trusted=trusted), "compile") is True
    # In so short a training bfloat16 moves no parameter by more than rounding does.
    assert "bf16" in model.learn(ROLLOUT).engine_reason


def test_old_names_in_settings_are_read(tmp_path: Path) -> None:
    """A YAML file with the first edition's names of engine options trains, and its run is one that can be read."""
    arguments = ["--env", "CartPole-v1", "--config", str(HERE / "settings.yml"), "--folder", str(tmp_path), "--name", "run"]
    assert main(["train", *arguments, "--eval-episodes", "1", "--eval-freq", "1000", "--no-replay"]) == 0
    model = EduPPO.load(tmp_path / "run" / "model.zip", trusted=False)
    assert engine_option(model, "bf16") is True
    assert (model.num_timesteps, model.micro_batch_size) == (64, 16)


# -- runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the zoo's log folder, which training and watching write to."""
    return Path(shutil.copytree(HERE / "zoo", tmp_path_factory.mktemp("zoo") / "logs"))


@pytest.mark.parametrize("learning_rate", [0.0, 0.01])
def test_a_zoo_run_is_continued(zoo_folder: Path, learning_rate: float) -> None:
    """``-i`` goes on from the saved weights, distribution and statistics: without a learning rate nothing moves."""
    run = zoo_folder / "eduppo" / "Pendulum-v1_1"
    before = len(list(run.parent.iterdir()))
    given = ["--env", "Pendulum-v1", "-f", str(zoo_folder), "-i", str(run / "Pendulum-v1.zip"), "--eval-freq", "-1"]
    given += ["--seed", "5", "--device", "cpu", "--num-threads", "1", "--conf-file", str(HERE / "settings.yml")]
    assert zoo.main(["train", *given, "-params", f"learning_rate:{learning_rate}"]) == 0
    continued = EduPPO.load(run.parent / f"Pendulum-v1_{before + 1}" / "Pendulum-v1.zip", device="cpu")
    assert continued.action_distribution == "tanh_gaussian"
    saved = parameters_of(EduPPO.load(run / "Pendulum-v1.zip", device="cpu"))
    assert np.array_equal(saved, parameters_of(continued)) == (learning_rate == 0.0)


def test_a_zoo_run_is_watched(zoo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The zoo finds the run, builds its environment with the wrapper that its settings name, and plays an episode."""
    pytest.importorskip("requests", reason="the zoo's enjoy imports requests")
    given = ["--env", "Pendulum-v1", "-f", str(zoo_folder), "--exp-id", "1", "--no-render", "--device", "cpu"]
    # With an action repeated twice an episode of 200 steps has 100.
    assert zoo.main(["enjoy", *given, "-n", "120"]) == 0
    printed = capsys.readouterr().out
    assert "Episode Length 100" in printed
    assert "Mean reward: " in printed


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", ["autograd", "auto"])
def test_a_run_is_resumed(
    name: str, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    From its checkpoint at step 128 a run goes on to the model with which it once ended, or says that the bits are others.

    It may say so only with the default engine. The autograd engine's bits stay.
    """
    # From the folder that it was trained in: the checkpoint holds where evaluations go, relative to that.
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(HERE / "trained" / name, Path("trained") / name))
    assert main(["resume", str(run), "--eval-episodes", "3", "--no-replay", *(["--trust"] if trusted else [])]) == 0
    printed = capsys.readouterr().out
    assert "going on at step 128 of 256" in printed
    once, now = (parameters_of(EduPPO.load(path / "model.zip", device="cpu")) for path in (HERE / "trained" / name, run))
    assert EduPPO.load(run / "model.zip", device="cpu").num_timesteps == 256
    if SAME_ARITHMETIC and not np.array_equal(once, now):
        assert name == "auto" and "bits" in printed
    np.testing.assert_allclose(now, once, rtol=1e-4, atol=1e-4)
    with (run / "progress.csv").open(newline="") as new, (HERE / "trained" / name / "progress.csv").open(newline="") as old:
        columns = [[row["time/total_timesteps"] for row in csv.DictReader(file)] for file in (new, old)]
    assert columns[0] == columns[1]


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", ["autograd", "auto"])
def test_a_run_is_evaluated(name: str, trusted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Its model earns on the same starting states what it earned then, in an environment with the wrappers of its settings."""
    run = HERE / "trained" / name
    assert "sb3_ppo_edu.envs.wrappers.ActionRepeat" in (run / "settings.yml").read_text(encoding="utf-8")
    assert main(["evaluate", str(run), "--episodes", "3", *(["--trust"] if trusted else [])]) == 0
    row = re.search(r"trained +(-?[\d.]+) ± ([\d.]+)", capsys.readouterr().out)
    assert row is not None
    if SAME_ARITHMETIC:
        record = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["trained"]
        assert (float(row[1]), float(row[2])) == pytest.approx((record["mean"], record["std"]), abs=0.051)


# -- statistics and submissions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("kind", ["box", "dict"])
def test_statistics_normalise_as_they_did(kind: str, trusted: bool) -> None:
    """Trusted or not, saved statistics normalise the same observations to the same numbers."""
    name = next(name for name, saved in SAVED_MODELS.items() if saved.observation == kind and saved.action == "box")
    env = load_statistics(HERE / "statistics" / f"{kind}.pkl", SAVED_MODELS[name].make_env(), trusted=trusted)
    assert isinstance(env, VecNormalize)
    assert env.gamma == 0.9
    found: Any = env.normalize_obs(of(f"observations/{kind}"))
    expected = of(f"normalised/{kind}")
    for part in expected if isinstance(expected, dict) else [...]:
        np.testing.assert_allclose(found[part], expected[part], rtol=1e-6)


def test_a_students_notebook_is_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One point where the answer is right, none where a mask is forgotten or nothing is written, and the feedback says why."""
    folder, lessons = HERE / "submissions", TESTS.parent / "notebooks"
    assert main(["course", "grade", str(folder), "--output", str(tmp_path), "--notebooks", str(lessons)]) == 0
    with (tmp_path / "grades.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["submission"], row["lesson"], row["status"]) == ("student", "02_advantages", "graded")
    assert int(row["td_errors"]) > 0
    assert (row["compute_gae"], row["bootstrap_time_limits"]) == ("0", "0")
    assert "student: " in capsys.readouterr().out


def test_a_students_imports_and_checks_work() -> None:
    """What the notebook imports is still where it was, and its own check passes the right answer as it did."""
    notebook = nbformat.read(HERE / "submissions" / "student.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (imports,) = (source for source in cells if "from sb3_ppo_edu.functional.advantages import" in source)
    (answer,) = (source for source in cells if source.startswith("def td_errors("))
    names: dict[str, Any] = {}
    exec("\n".join([imports.replace("begin()", ""), answer, 'verdict = check("td_errors", td_errors)']), names)
    assert {"monte_carlo_returns", "n_step_returns", "begin", "quick", "table"} <= names.keys()
    assert names["verdict"].passed


# -- tests ---------------------------------------------------------------------------------------------------------------


def read_rows(name: str) -> list[dict[str, str]]:
    """Read one of the lists in the folder."""
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def lost(listed: list[str], there: list[str], replaced: list[dict[str, str]]) -> list[str]:
    """
    Say which tests are gone.

    :param listed: names of the first edition's test functions; a name may stand in several files
    :param there: names of the test functions that there are
    :param replaced: rows of replaced.csv
    :return: one line for each that is neither there nor replaced by one that is, and for each row that is wrong
    """
    missing = Counter(listed) - Counter(there)
    missing.subtract(row["name"] for row in replaced)
    found = [f"{name}: expected among the tests, or in replaced.csv" for name, count in missing.items() if count > 0]
    found += [f"replaced.csv, {name}: is no test of the first edition that is gone" for name in missing if missing[name] < 0]
    for row in replaced:
        if row["replacement"] not in there:
            found.append(f"replaced.csv, {row['name']}: there is no test {row['replacement']!r}")
        if not row["why"]:
            found.append(f"replaced.csv, {row['name']}: expected a reason")
    return found


def test_no_test_of_the_first_edition_is_lost() -> None:
    """Each of its test functions is there by name, as often as it was, or is replaced by one that is there, with a reason."""
    listed = [row["name"] for row in read_rows("tests.csv")]
    assert len(listed) == 891
    assert lost(listed, [name for _, name, _ in list_tests(TESTS)], read_rows("replaced.csv")) == []


def test_lost_tests_are_found() -> None:
    """A test that is gone, one of two with the same name, a replacement that is none, and a row that replaces nothing."""
    row = {"name": "test_a", "replacement": "test_c", "why": "merged"}
    assert lost(["test_a", "test_b"], ["test_c", "test_b"], [row]) == []
    assert lost(["test_a", "test_a"], ["test_a"], []) == ["test_a: expected among the tests, or in replaced.csv"]
    assert lost(["test_a"], ["test_b"], [row]) == ["replaced.csv, test_a: there is no test 'test_c'"]
    assert lost(["test_a"], ["test_c"], [{**row, "why": ""}]) == ["replaced.csv, test_a: expected a reason"]
    assert lost(["test_a"], ["test_a", "test_c"], [row]) == [
        "replaced.csv, test_a: is no test of the first edition that is gone"
    ]


def test_the_list_has_names_and_laws(tmp_path: Path) -> None:
    """Functions and methods of test classes are listed with their docstring's first sentence; helpers are not."""
    source = (
        'def test_a():\n    """One law, e.g. with 1.5 and 3. Another sentence."""\n\nclass TestB:\n    def test_c(self):\n'
        '        """\n        A law\n        in two lines\n\n        More.\n        """\n\n'
        "def helper():\n    def test_d(): ...\n"
    )
    (tmp_path / "test_x.py").write_text(source, encoding="utf-8")
    expected = [("test_x.py", "test_a", "One law, e.g. with 1.5 and 3"), ("test_x.py", "TestB.test_c", "A law in two lines")]
    assert list(list_tests(tmp_path)) == expected
