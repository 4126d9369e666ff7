"""Values that are shown in errors, and taken as numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.checks import ArgumentError
from sb3_ppo_edu.functional.values import as_float, shown


class Mute:
    """Nothing that can be written."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, "0.1"),
        ("x" * 78, repr("x" * 78)),
        ("x" * 79, "'" + "x" * 39 + " …"),
        (10**400, "1" + "0" * 39 + " …"),
        (16**5000, "0x1" + "0" * 37 + " …"),
        ([16**5000], "<list>"),
        (list(range(1000)), repr(list(range(1000)))[:40] + " …"),
        (Mute(), "<Mute>"),
    ],
    ids=["number", "80 characters", "81 characters", "digits", "more digits than Python writes", "in a list", "list", "mute"],
)
def test_long_values_are_cut(value: Any, expected: str) -> None:
    """What 80 characters hold is shown whole; of more, the first 40."""
    assert shown(value) == expected


@pytest.mark.parametrize("number", [1.5, np.float32(1.5), np.float64(1.5), np.longdouble(1.5), th.tensor(1.5), np.array(1.5)])
def test_numbers_of_every_kind_are_taken(number: Any) -> None:
    """As Python's own."""
    assert type(as_float(number)) is float and as_float(number) == 1.5


@pytest.mark.parametrize("value", ["1", True, None, [1.0], 10**400, 1j, np.array([1.0])])
def test_what_is_no_number_is_nan(value: Any) -> None:
    """Text, booleans, and integers beyond a float among it."""
    assert math.isnan(as_float(value))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "learning_rate",
            "n_steps",
            "batch_size",
            "n_epochs",
            "gamma",
            "clip_range",
            "ent_coef",
            "max_grad_norm",
            "target_kl",
        ),
        *("stats_window_size", "seed", "vf_lambda", "vf_n_steps", "dual_clip", "micro_batch_size", "sde_sample_freq"),
    ],
)
def test_integers_beyond_every_number_are_refused_by_name(name: str) -> None:
    """Whether Python writes their digits or not, in a short sentence."""
    for value in (10**400, 10**5000):
        arguments: dict[str, Any] = {name: value}
        with pytest.raises(ArgumentError, match=f"^{name}=.* …: expected an? .*(integer|number)") as error:
            EduPPO("MlpPolicy", "CartPole-v1", device="cpu", **arguments)
        assert len(str(error.value)) < 250
