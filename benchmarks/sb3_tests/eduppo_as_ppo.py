"""A pytest plugin: SB3's and sb3-contrib's own tests with our algorithms in the place of theirs.

The names are replaced when pytest loads this module, which is before it imports a test, so that ``from stable_baselines3
import PPO`` finds ours. Of the tests those are kept that may construct such a class, and of these those are counted that did.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sb3_contrib
import stable_baselines3

from sb3_ppo_edu import EduPPO, MaskableEduPPO, RecurrentEduPPO

ENGINE_VARIABLE, OUTCOMES_VARIABLE = "SB3_TESTS_ENGINE", "SB3_TESTS_OUTCOMES"
"""Environment variables: the engine, and the file that the outcomes are written to."""

ALGORITHM_PARAMETERS = ("model_class", "model_name", "algo")
"""Names under which SB3's tests take an algorithm."""

NOT_OURS = {
    "test_only_sde_squashed": "squashed actions without gSDE are what action_distribution='tanh_gaussian' is for",
    "test_sb3_import_without_optional_deps": "it imports stable_baselines3 anew, without what is put in its place",
}
"""Tests that are left out, and why."""


class InPlace:
    """What is done to an algorithm of ours that stands in the place of another: it has the engine that is asked for."""

    constructed = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        InPlace.constructed += 1
        super().__init__(*args, **{"engine": os.environ.get(ENGINE_VARIABLE, "auto"), **kwargs})

    def learn(self, *args: Any, **kwargs: Any) -> Any:
        """Train, with the other's name of the run in TensorBoard."""
        inner: Any = super()
        return inner.learn(*args, **{"tb_log_name": type(self).__name__, **kwargs})


class PPO(InPlace, EduPPO):
    """``EduPPO`` under SB3's name."""


class MaskablePPO(InPlace, MaskableEduPPO):
    """``MaskableEduPPO`` under sb3-contrib's name."""


class RecurrentPPO(InPlace, RecurrentEduPPO):
    """``RecurrentEduPPO`` under sb3-contrib's name."""


stable_baselines3.PPO = PPO  # type: ignore[misc, assignment]
sb3_contrib.MaskablePPO = MaskablePPO  # type: ignore[misc, assignment]
sb3_contrib.RecurrentPPO = RecurrentPPO  # type: ignore[misc, assignment]

OURS: tuple[Any, ...] = (PPO, MaskablePPO, RecurrentPPO, "ppo")
"""By which parameters of a test it is known to be about one of them."""


def may_construct_ours(item: pytest.Function) -> bool:
    """
    Tell whether a test is about PPO: one of its parameters is, or it names PPO and no parameter names an algorithm.

    :param item: a test
    :return: False only where it can't construct a class of ours
    """
    algorithms = [item.callspec.params.get(name) for name in ALGORITHM_PARAMETERS] if hasattr(item, "callspec") else []
    if any(algorithm is not None for algorithm in algorithms):
        return any(algorithm in OURS for algorithm in algorithms)
    return "PPO" in inspect.getsource(item.function)


class Outcomes:
    """
    Writes how the tests ended that constructed a class of ours.

    :param path: the file to write them to at the end, or None
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.outcomes: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Forget a test that did not construct a class of ours, unless it failed."""
        before = InPlace.constructed
        result = yield
        if InPlace.constructed == before and self.outcomes.get(item.nodeid) != "failed":
            self.outcomes.pop(item.nodeid, None)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test ended; what failed in any phase has failed."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """Write the outcomes."""
        if self.path is not None:
            self.path.write_text(json.dumps(self.outcomes, indent=1), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Have the outcomes written."""
    path = os.environ.get(OUTCOMES_VARIABLE)
    config.pluginmanager.register(Outcomes(Path(path) if path else None))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are not about PPO, and those in :data:`NOT_OURS`."""
    kept = [
        item
        for item in items
        if isinstance(item, pytest.Function) and item.originalname not in NOT_OURS and may_construct_ours(item)
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
