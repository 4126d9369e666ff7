"""Symptoms of what a training comes to: returns, their scale, evaluations, NaN, and time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sb3_ppo_edu.doctor.diagnose import diagnose
from sb3_ppo_edu.doctor.record import Record
from tests.doctor_records import ROWS, TIME, make_record, names


def test_nan_is_found_at_once() -> None:
    """NaN needs no history, and the step at which it came is named."""
    record = make_record({"train/loss": math.nan}, rows=2)
    (finding,) = diagnose(record).findings
    assert finding.name == "nan-coming"
    assert finding.evidence[0].begin == 1024


def test_nan_before_the_first_update_is_found() -> None:
    """A training that broke down in its first rollout has no update, and is ill all the same."""
    diagnosis = diagnose(Record("x", np.empty(0), {}, not_finite={"train/loss": 12}))
    assert [finding.name for finding in diagnosis.findings] == ["nan-coming"]
    assert diagnosis.verdict == "ill"


def test_explained_variance_of_nan_is_no_fault() -> None:
    """Returns that are all equal have no variance to explain: NaN there is good health."""
    assert (
        names(make_record({"train/explained_variance": math.nan, "train/return_std": 1e-9}, without=("train/return_std",)))
        == []
    )


EVALUATIONS = {
    "stale": (np.linspace(30.0, 20.0, 10), True),
    "follows": (np.linspace(-900.0, 200.0, 10), False),
    "scatters": (np.array([20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 500.0, -300.0, 120.0, 20.0]), False),
    "nearly as good": (np.array([20.0] * 6 + [250.0] * 4), False),
    "four of them": (np.array([math.nan] * 6 + [20.0, 20.0, 21.0, 20.0]), True),
    "three of them": (np.array([math.nan] * 7 + [20.0, 21.0, 20.0]), False),
}


@pytest.mark.parametrize("kind", list(EVALUATIONS))
def test_poor_evaluation_is_behind_does_not_follow_and_is_certain(kind: str) -> None:
    """
    Training goes from 38 to 402 (tenths of the record), ten evaluations come with every fourth row.

    * from 30 to 20: behind by more than the whole rise of 364, and ill;
    * from -900 to 200, the last four at 17: as far behind, but they rise by more than training does, as of a young policy;
    * four last ones of 500, -300, 120 and 20: mean 85, standard error 165, so 402 is only 1.9 standard errors away;
    * 250 in the end: behind by 0.42 of the rise, less than 0.55;
    * four evaluations can be told from training, three cannot: of three, all are late ones.
    """
    evaluations, found = EVALUATIONS[kind]
    column = np.full(ROWS, math.nan)
    column[3::4] = evaluations
    assert ("poor-evaluation" in names(make_record({"eval/mean_reward": column}))) is found


@pytest.mark.parametrize(("explained", "found"), [(-0.02, True), (0.8, False)])
def test_return_on_its_way_to_nothing(explained: float, found: bool) -> None:
    """Returns from -50 to -25 in episodes that all reach the limit: less is done, unless the value function sees progress."""
    columns = {
        "rollout/ep_rew_mean": -50.0 + 25.0 * TIME,
        "rollout/ep_len_mean": 999.0,
        "train/explained_variance": explained,
        "train/episodes_truncated": 10.0,
    }
    assert ("does-nothing" in names(make_record(columns))) is found


@pytest.mark.parametrize(("reward", "first"), [(-1e-4, "reward-scale-too-small"), (0.0, "reward-never-seen")])
def test_small_rewards_are_told_from_none(reward: float, first: str) -> None:
    """The same return in every row and returns that deviate by 0.001: too small where steps cost 1e-4, not seen where 0."""
    columns = {
        "rollout/ep_rew_mean": -500.0,
        "rollout/ep_len_mean": 500.0,
        "train/return_std": 1e-3,
        "train/reward_mean": reward,
        "train/reward_std": 0.0,
        "train/episodes_truncated": 10.0,
    }
    assert names(make_record(columns))[0] == first


def test_large_returns_that_do_not_vary_are_not_small() -> None:
    """Returns of 50 ± 0.01, as of a policy that has solved its task: no rewards are too small."""
    columns = {"train/return_std": 0.01, "train/return_mean": 50.0}
    assert "reward-scale-too-small" not in names(make_record(columns))
    assert "reward-scale-too-small" in names(make_record({"train/return_std": 0.01, "train/return_mean": 0.02}))


def test_slower_with_evaluations_is_no_finding() -> None:
    """Nine times slower in the second half, as with evaluations that become long: nothing is said of the training."""
    columns = {"time/time_elapsed": np.cumsum(np.where(TIME < 0.5, 1.0, 9.0))}
    assert names(make_record(columns)) == []
