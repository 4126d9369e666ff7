"""Import paths of the first edition: what users, lessons and saved files name goes on to be the same object."""

from __future__ import annotations

import importlib
import json
import pickle
import pkgutil
import re
import sys
import warnings
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent

# What README, notebooks, settings, benchmarks, the cases of the issues and saved files name: module -> names in it.
MOVED = {
    "advantages": ["generalized_advantage_estimate", "monte_carlo_returns", "n_step_returns"],
    "arguments": ["parse_schedule"],
    "bench": [],
    "bench.algorithms": ["ALGORITHMS", "FILES"],
    "bench.doctor_page": ["write_page"],
    "bench.learning": ["LANDER"],
    "bench.rows": ["append_rows", "machine", "read_rows"],
    "bench.runs": ["Run", "execute"],
    "bench.speed.cases": ["ALGORITHMS", "CASES"],
    "bench.speed.rows": ["conditions"],
    "bench.speed.runs": ["make_env", "make_model"],
    "bench.speed.suite": ["ONE_THREAD"],
    "bench.statistics.aggregates": ["bootstrap", "interquartile_mean", "wilson"],
    "bench.statistics.comparisons": ["equivalence"],
    "buffers": ["add_transition", "compute_returns_and_advantage"],
    "distributions": ["BetaDistribution", "TanhGaussianDistribution"],
    "envs.adapters": ["adapt"],
    "guard": ["FiniteGuard", "NonFiniteStepError"],
    "hyperparameters": ["bundled_file", "load_hyperparameters"],
    "losses": ["approx_kl", "clipped_surrogate_loss", "entropy_loss", "normalize_advantages", "value_loss"],
    "ppo": ["EduPPO"],
    "reinforce": ["Reinforce"],
    "rerun": ["resume_run"],
    "runs": ["RunSettings", "evaluate_run", "settings_from_hyperparameters", "start_run", "versions"],
    "teaching": ["check"],
    "teaching.exercises": ["EXERCISES"],
    "trust": ["DamagedFileError", "UntrustedFileError", "load_statistics"],
    "workers": ["WatchedSubprocVecEnv", "WorkerError"],
}
STAYED = {
    "checkpoint": ["CheckpointError", "ExactCheckpoint", "Resumable"],
    "checkpoint.files": ["CheckpointError", "latest_good"],
    "checkpoint.plain": ["pack", "unpack"],
    "course.lesson": ["Curve", "begin", "play", "play_randomly", "quick", "recipe", "table"],
    "distributed": ["DataParallel", "join", "launched", "leave"],
    "doctor.callback": ["TrainingDoctor"],
    "doctor.diagnose": ["Diagnosis", "diagnose"],
    "doctor.record": ["Record", "read_record"],
    "doctor.symptoms": ["BY_NAME", "RETURN"],
    "engines": ["AutogradEngine", "NonFiniteUpdateError"],
    "envs.factory": ["make_evaluation_env", "make_training_env"],
    "envs.wrappers": ["ActionRepeat", "LanderSymmetry"],
    "policies": [
        "BetaCnnPolicy",
        "BetaMultiInputPolicy",
        "BetaPolicy",
        "TanhGaussianCnnPolicy",
        "TanhGaussianMultiInputPolicy",
        "TanhGaussianPolicy",
    ],
    "vec_env": ["InProcessVecEnv"],
    "version": ["__version__"],
    "zoo": ["main", "register"],
}

NAMING = [
    PROJECT / "README.md",
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted((PROJECT / "docs" / "guides").glob("*.md")),
    *sorted((PROJECT / "hyperparams").rglob("*.yml")),
    *sorted((PROJECT / "notebooks").rglob("*.md")),
    *sorted((PROJECT / "notebooks").rglob("*.py")),
    *sorted((PROJECT / "notebooks").rglob("*.ipynb")),
    *sorted((PROJECT / "benchmarks").rglob("*.py")),
]


def import_anew(path: str) -> tuple[object, list[warnings.WarningMessage]]:
    """
    Import a module as if nobody had used an old path before.

    :param path: its dotted name
    :return: the module, and the warnings of deprecation
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("sb3_ppo_edu.") and getattr(module, "__name__", name) != name:
            del sys.modules[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(path)
    return module, [warning for warning in caught if issubclass(warning.category, DeprecationWarning)]


def same_object(found: object) -> bool:
    """
    Tell whether a class or function is the one that lies where it says it does.

    :param found: what an import gave
    :return: False for a second copy; True for what doesn't say where it lies
    """
    home = getattr(found, "__module__", None)
    if home is None or not hasattr(found, "__qualname__"):
        return True
    module = importlib.import_module(home)
    return module.__name__ == home and getattr(module, found.__qualname__) is found


@pytest.mark.parametrize("path", MOVED)
def test_old_path_gives_the_same_object(path: str) -> None:
    """A module that moved is imported by its old path with one DeprecationWarning, which names both, and is no copy."""
    module, warned = import_anew(f"sb3_ppo_edu.{path}")
    assert [warning.category for warning in warned] == [DeprecationWarning]
    room = f"sb3_ppo_edu.{path.split('.')[0]}"
    assert re.search(rf"\b{room}(\.\w+)*\b.*\bsb3_ppo_edu(\.\w+)+", str(warned[0].message))
    assert all(same_object(getattr(module, name)) for name in MOVED[path])


@pytest.mark.parametrize("path", STAYED)
def test_path_that_stayed_does_not_warn(path: str) -> None:
    """What may go on to be imported as before says nothing."""
    module, warned = import_anew(f"sb3_ppo_edu.{path}")
    assert warned == []
    assert all(same_object(getattr(module, name)) for name in STAYED[path])


@pytest.mark.parametrize("path", [*MOVED, *STAYED])
def test_old_pickles_name_the_same_objects(path: str) -> None:
    """A pickle that names something by its old path gives what the new path gives."""
    for name in {**MOVED, **STAYED}[path]:
        if name.startswith("_"):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found = pickle.loads(f"csb3_ppo_edu.{path}\n{name}\n.".encode())
        assert same_object(found)


def named_paths(text: str) -> set[str]:
    """
    Find what a text names of the package.

    :param text: source, settings, or a page
    :return: dotted names; of ``from a import b`` the module
    """
    return set(re.findall(r"\bsb3_ppo_edu(?:\.\w+)+(?<!\.py)(?<!\.md)", text))


def outdated(text: str) -> list[str]:
    """
    List what a text names by a path that moved or leads nowhere.

    :param text: source, settings, or a page
    :return: dotted names
    """
    old = {f"sb3_ppo_edu.{path}" for path in MOVED}
    found = []
    for path in sorted(named_paths(text)):
        parts = path.split(".")
        if old & {".".join(parts[: length + 1]) for length in range(len(parts))}:
            found.append(path)
            continue
        try:
            pkgutil.resolve_name(path)
        except (ImportError, AttributeError):
            found.append(path)
    return found


@pytest.mark.parametrize("path", NAMING, ids=lambda path: str(path.relative_to(PROJECT)))
def test_what_we_show_uses_the_new_paths(path: Path) -> None:
    """README, lessons, settings and benchmarks name nothing by a path that moved or leads nowhere."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    assert outdated(text) == []


def test_outdated_paths_are_found() -> None:
    """Old paths and such that lead nowhere are found in code and prose; others pass."""
    text = "from sb3_ppo_edu.ppo import EduPPO, see `sb3_ppo_edu.envs.wrappers.ActionRepeat`, sb3_ppo_edu.envs.nothing. Ends."
    assert outdated(text) == ["sb3_ppo_edu.envs.nothing", "sb3_ppo_edu.ppo"]


def test_copy_is_told_from_the_object() -> None:
    """A function that says it lies where another lies is a copy."""

    def copy() -> None: ...

    assert same_object(pickle.loads)
    copy.__module__, copy.__qualname__ = "pickle", "loads"
    assert not same_object(copy)
    assert same_object(3)
