"""Some environments' part of batched observations: taken and put back in every form that a space has."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from hypothesis import given
from hypothesis import strategies as st

from sb3_ppo_edu.vec_env.autoreset import put_rows, rows

FLAT = st.sampled_from([spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(5), spaces.MultiBinary(3)])
SPACES = st.recursive(
    FLAT,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: spaces.Tuple(parts)),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(lambda parts: spaces.Dict(parts)),
    ),
    max_leaves=5,
)
N_ENVS = 4


@given(SPACES, st.sets(st.integers(0, N_ENVS - 1)), st.integers(0, 99))
def test_some_rows_are_replaced_and_the_others_stay(space: spaces.Space, chosen: set[int], seed: int) -> None:
    """After ``put_rows`` the chosen environments have the new observations and the others their own; ``rows`` are copies."""
    batched = batch_space(space, N_ENVS)
    batched.seed(seed)
    old, new = batched.sample(), batched.sample()
    expected = [list(iterate(batched, new if index in chosen else old))[index] for index in range(N_ENVS)]
    expected = [repr(one) for one in expected]
    indices = np.array(sorted(chosen), dtype=int)
    taken, before = rows(old, indices), repr(rows(old, indices))
    put_rows(old, indices, rows(new, indices))
    assert [repr(one) for one in iterate(batched, old)] == expected
    assert repr(taken) == before
