"""The learning experiments: who runs, on which seeds, and for how many of the environment's steps."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sb3_ppo_edu.lab.experiments import SUITES
from sb3_ppo_edu.lab.learning import FIRST_LANDER_SEED, LANDER, PARITY, Entry, Task, decisions, runs_of
from sb3_ppo_edu.training.hyperparameters import bundled_file

SEARCH = Path(__file__).parent.parent / "benchmarks" / "lunarlander" / "search.py"


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The search for LunarLander's settings."""
    pytest.importorskip("optuna", reason="Optuna is not installed (extra 'lab')")
    spec = importlib.util.spec_from_file_location("search", SEARCH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "search", module)
    spec.loader.exec_module(module)
    return module


def test_a_run_has_whole_rollouts_within_its_environment_steps() -> None:
    """
    An action is held for 4 steps and a rollout has 256 decisions: 50,000 steps are 12,500 decisions, 48 rollouts 12,288.

    Without wrappers and settings nothing is rounded; an entry's own number of steps comes before the task's.
    """
    assert decisions(Entry("eduppo", "own"), "LunarLander-v3", 50_000) == 12_288
    assert decisions(Entry("reinforce", "zoo"), "CartPole-v1", 50_001) == 50_001
    assert decisions(Entry("dqn", "zoo", steps=300), "CartPole-v1", 50_000) == 300


def test_entries_have_their_own_numbers_of_seeds() -> None:
    """Of three seeds, one entry has all and one the first; seed by seed, counted from the first."""
    task = Task("CartPole-v1", 1_000, 450.0, 50.0, (Entry("ppo", "defaults"), Entry("random", "defaults", seeds=1)))
    runs = runs_of([task], 40, evaluations=3)(range(3))
    assert [(run.algorithm, run.seed) for run in runs] == [("ppo", 40), ("random", 40), ("ppo", 41), ("ppo", 42)]
    assert {run.evaluations for run in runs} == {3}


def test_both_engines_are_compared_on_as_many_pairs_as_it_takes() -> None:
    """128 on LunarLander-v3, 64 on Pendulum-v1, 20 on HalfCheetah-v5 with each engine; SB3's PPO has the first of them."""
    runs = SUITES["parity"].runs(range(SUITES["parity"].seeds))
    for env, pairs, reference in (("LunarLander-v3", 128, 5), ("Pendulum-v1", 64, 5), ("HalfCheetah-v5", 20, 2)):
        seeds = {
            name: sorted(run.seed for run in runs if (run.env, run.algorithm) == (env, name))
            for name in ("eduppo", "eduppo-autograd", "ppo")
        }
        assert seeds["eduppo"] == seeds["eduppo-autograd"] and len(seeds["eduppo"]) == pairs
        assert seeds["ppo"] == seeds["eduppo"][:reference]
    assert [task.margin for task in PARITY if task.env == "LunarLander-v3"] == [20.0]


def test_landers_variants_have_their_wrappers_and_the_same_number_of_seeds(search: ModuleType) -> None:
    """None, one and both; twenty seeds each that no search has used."""
    runs = SUITES["lander"].runs(range(20))
    for task in LANDER:
        for name in ("own", "lander-none", "lander-repeat", "lander-both"):
            seeds = [run.seed for run in runs if (run.env, run.algorithm, run.settings) == (task.env, "eduppo", name)]
            assert seeds == list(range(FIRST_LANDER_SEED, FIRST_LANDER_SEED + 20))
    trials = search.RUNS  # no search has more trials than trainings
    searched = range(search.FIRST_SEED, search.FIRST_SEED + search.SEEDS * trials)
    earlier = [*range(1000, 1008), *range(2000, 2064), *range(4000, 4020), *range(30_000, 40_000)]
    assert not {*searched, *earlier} & {run.seed for run in runs}


@pytest.mark.parametrize("wrappers", ["none", "repeat", "both"])
def test_landers_settings_are_those_that_the_search_has_found(search: ModuleType, wrappers: str) -> None:
    """What lies in ``hyperparams/`` is what ``search.py --write`` writes from its tables."""
    assert bundled_file(f"lander-{wrappers}.yml").read_text(encoding="utf-8") == search.settings_file(wrappers)


def test_the_best_trial_on_all_seeds_is_chosen(search: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three trials the one that ended early does not count, however good; of the others the higher one does."""
    monkeypatch.setattr(search, "table_of", lambda env_id, wrappers: tmp_path / f"{env_id}-{wrappers}.csv")
    for number, (score, runs) in enumerate([(180.0, 8), (229.0, 2), (210.0, 8)]):
        search.append_row(tmp_path / "LunarLander-v3-none.csv", {"trial": number, "score": score, "runs": runs})
    assert search.best("LunarLander-v3", "none")["trial"] == "2"
    assert "trial" not in search.best("LunarLander-v3", "both")


def test_every_search_has_the_same_space(search: ModuleType) -> None:
    """But for how long an action is held, the same settings with the same ranges, with wrappers and without."""
    optuna = pytest.importorskip("optuna")

    def space(wrappers: str) -> dict[str, object]:
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
        search.suggest(trial, "LunarLanderContinuous-v3", wrappers)
        return {name: found for name, found in trial.distributions.items() if name != "action_repeat"}

    assert space("none") == space("repeat") == space("both")
