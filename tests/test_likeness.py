"""Likeness: who copies is pointed out, whatever was renamed; who writes what everybody writes is not."""

from __future__ import annotations

import pytest

from sb3_ppo_edu.course import forms, slicing
from sb3_ppo_edu.course.likeness import Form, Known, find_likenesses
from tests.lessons import LESSONS

LESSON = LESSONS["02_advantages"]
ORIGINAL = """\
def compute_gae(rewards, values, dones, next_value, gamma, lam):
    # from the last step to the first
    out = np.zeros_like(rewards)
    following, carried = next_value, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        alive = 1.0 - dones[t]
        surprise = rewards[t] + gamma * following * alive - values[t]
        carried = surprise + alive * gamma * lam * carried
        out[t], following = carried, values[t]
    return out
"""
RENAMED = '''\
def compute_gae(r, v, d, last, discount, decay):
    """My own work."""
    result = np.zeros_like(r)

    after, memory = last, 0.0
    for step in range(len(r) - 1, -1, -1):
        going = 1.0 - d[step]  # the mask
        delta: float = r[step] + discount * after * going - v[step]
        memory = delta + going * discount * decay * memory
        result[step], after = memory, v[step]
    return result
'''
ANOTHER = """\
def compute_gae(rewards, values, dones, next_value, gamma, lam):
    steps = len(rewards)
    nexts = np.append(values[1:], next_value)
    deltas = rewards + gamma * nexts * (1 - dones) - values
    weights = gamma * lam * (1 - dones)
    advantages = deltas.copy()
    for t in reversed(range(steps - 1)):
        advantages[t] += weights[t] * advantages[t + 1]
    return advantages
"""
SHORT = "def td_errors(r, v, d, n, g):\n    after = np.append(v[1:], n)\n    return r + g * after * (1 - d) - v\n"


def own(*cells: str) -> dict[str, Form]:
    """Take from code cells what tells something of who has written them."""
    known, found = Known(LESSON), slicing.statements(cells)
    slices = {name: slicing.slice_for(name, found) for name in LESSON.exercises}
    return {name: known.own(forms.forms(one.body)) for name, one in slices.items() if one is not None}


def test_copy_is_pointed_out() -> None:
    """Other names, comments, docstrings and annotations make no other function; another idea does."""
    (pair,) = find_likenesses({"ada": own(ORIGINAL), "bob": own(RENAMED), "eve": own(ANOTHER)})
    assert pair == ("ada", "bob", ("compute_gae",), 1.0)


def test_copy_with_a_change_is_pointed_out() -> None:
    """One expression written in another way leaves most of it."""
    changed = RENAMED.replace("1.0 - d[step]", "(1 - d[step])").replace("r[step] + discount", "r[step] + (discount)")
    changed = changed.replace("0.0\n", "0\n").replace("len(r) - 1, -1, -1", "r.shape[0] - 1, -1, -1")
    (pair,) = find_likenesses({"ada": own(ORIGINAL), "bob": own(changed)})
    assert 0.7 <= pair.share < 1.0


@pytest.mark.parametrize("cells", [(SHORT,), ("def td_errors(r, v, d, n, g):\n    raise NotImplementedError('TODO')",)])
def test_short_functions_are_alike_by_themselves(cells: tuple[str, ...]) -> None:
    """A few lines that two have written the same are no evidence."""
    assert find_likenesses({"ada": own(*cells), "bob": own(*cells)}) == []


def test_what_all_have_is_not_counted() -> None:
    """What was handed out, what the reference does, and what many have come to, is nobody's own."""
    sources = [cell.source for cell in LESSON.cells if cell.cell_type == "code"]
    assert not any(own(*sources).values())
    assert find_likenesses({name: own(ORIGINAL) for name in "abcd"}) == []
    assert len(find_likenesses({name: own(ORIGINAL) for name in "abc"})) == 3
