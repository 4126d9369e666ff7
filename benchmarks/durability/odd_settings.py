"""Files of settings as nobody would write them: what is right, changed at random; ``fuzz.py`` and tests draw them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sb3_ppo_edu.training.hyperparameters import legal_keys

ZOO = {
    "CartPole-v1": {
        "n_timesteps": 64,
        "n_envs": 2,
        "policy": "MlpPolicy",
        "policy_kwargs": "dict(net_arch=[8], activation_fn=nn.ReLU)",
        "n_steps": 32,
        "batch_size": 32,
        "n_epochs": 2,
        "learning_rate": "lin_1e-3",
        "clip_range": 0.2,
        "gamma": 0.98,
        "normalize": {"norm_obs": True, "clip_obs": 5.0},
        "env_kwargs": {"sutton_barto_reward": False},
        "env_wrapper": [{"sb3_ppo_edu.envs.wrappers.ActionRepeat": {"repeat": 2}}],
        "callback": {"stable_baselines3.common.callbacks.StopTrainingOnMaxEpisodes": {"max_episodes": 1000}},
    }
}
"""Settings in the zoo's form that are right."""


class Plain(str):
    """A part of a YAML file that is written as it is."""


ODD = [Plain(text) for text in (
    *(".nan", ".inf", "-.inf", "1e400", "0x" + "f" * 5000, "9" * 5000, "190:20:30", "1_0", "0o17", "!!float 1e6"),
    *("!!float ''", "2001-12-14", "2001-99-99", "!!timestamp x", "!!int x", "!!int ''", "!!bool maybe", "!!null x"),
    *("!!str 5", "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]"),
    *("!!python/object/apply:os.system [id]", "!!python/name:os.system", "!x y", "*none", "&a [1, *a]", "&b {c: *b}"),
    *("'", "{", "]", '"', "%", "=", "<<", "{<<: {a: 1}}", "{<<: 5}", "{[a]: 1}", "{{a: 1}: 2}", "[" * 90 + "]" * 90),
    *("{a: " * 90 + "}" * 90, "[" * 3000, "[" * 99 + "]" * 99, '"\\ud800"', '"\\u2028"', '"\\e[31m"', '"\\0"'),
    *(f"[{'1, ' * 3000}1]", f'"{"x" * 20000}"', f"{{{', '.join(f'k{i}: {i}' for i in range(1000))}}}"),
)]  # fmt: skip
"""What YAML has besides plain values."""
NUMBERS = [-1, 0, 1, 2, 3, 7, 64, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 10**400, 1e-320, 1e-9, 0.5, 1.5, 1e9, 1e308]
NAMES = [
    *("", ".", "..", "a.b", "os.system", "__main__.x", "sb3_ppo_edu.cli.main"),
    *("sb3_ppo_edu.envs.wrappers.ActionRepeat", "nn.ReLU", "stable_baselines3.common.callbacks.EvalCallback"),
    *("stable_baselines3.common.vec_env.VecNormalize", "MlpPolicy", "CnnPolicy", "gymnasium.wrappers.RecordVideo"),
    *("gymnasium.wrappers.TimeLimit", "gymnasium.wrappers.FlattenObservation", "Pendulum-v1"),
    *("gymnasium.wrappers.TransformReward", "stable_baselines3.common.vec_env.VecMonitor", "CartPole-v1", "x:y"),
    *("GymV21Environment-v0", "stable_baselines3.common.policies.ActorCriticPolicy"),
    *("stable_baselines3.common.buffers.RolloutBuffer", "torch.nn.Linear"),
    *("stable_baselines3.common.callbacks.CheckpointCallback", "sb3_ppo_edu.doctor.callback.TrainingDoctor", "human"),
    *("rgb_array", "lin_1e-3", "lin_nan", "lin_", "auto", "subproc", "workers", "cuda", "cuda:99", "fused", "numpy"),
    *("1e-3", "1e5", "inf", "None", "dict(a=1)", "dict(net_arch=[8])", "dict(net_arch=[10**9])", "dict(", "(" * 500),
    *("-" * 5000 + "1", "lambda: 1", "{'a': [1]}", "dict(net_arch=[1000000000])", "dict(net_arch=-1)", "a\nb"),
    *("a\x1b[31mb", "läuft ☃", "\ud800", "\u2028", "\u202eabc", "/etc/passwd", "sb3-edu train", "sb3-edu train --env"),
    *("sb3-edu train --help", "sb3-edu train --env CartPole-v1 --config no.yml", "rm -rf /", "sb3-edu train --env x:y"),
    *("sb3-edu train --env CartPole-v1 --no-such", "sb3-edu train 'x", "sb3-edu train --env CartPole-v1 --seed x"),
]  # fmt: skip
"""Text: names, modes, expressions, schedules, command lines, and what a terminal obeys."""


class Pairs(list[Any]):
    """A mapping as a list of ``[key, value]``, so that a key may be there twice, or be of any kind."""


SCALARS = st.one_of(
    *(st.sampled_from(one) for one in (ODD, NUMBERS, NAMES)),
    *(st.none(), st.booleans(), st.integers(-5, 70), st.floats(), st.text(max_size=8)),
)
KEYS = st.one_of(
    st.sampled_from(ODD), st.sampled_from(NAMES), st.sampled_from(legal_keys()), st.text(max_size=8), st.integers()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner).map(list), max_size=2).map(Pairs),
    max_leaves=4,
)
LEVELS = "".join(f"l{i}: &l{i} [{','.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 11))
WHOLE = [b"", b"null", b"- 1", b"text", b"{}", b"\xff\xfe", b"\x00" * 100, b"- " * 20_000, b"[" * 60_000, b"- 1\n" * 40_000]
WHOLE += [
    b"l0: &l0 [x,x,x,x,x,x,x,x,x]\n" + LEVELS.encode(),
    b"a: &a {<<: *a}",
    b"x: " * 10_000,
    b"--- a\n--- b\n",
    b"{" * 99 + b"}" * 99,
]
WHOLE += [
    b"CartPole-v1: {a: 1}",
    b"? " * 20_000,
    b"!" * 60_000,
    b"&a " * 20_000,
    b"a: |\n" + b" b\n" * 15_000,
    b"'" + b"''" * 30_000,
]
"""Files that are no settings from the first byte."""


def as_pairs(value: Any) -> Any:
    """Turn mappings into lists of pairs."""
    if isinstance(value, dict):
        return Pairs([key, as_pairs(one)] for key, one in value.items())
    return [as_pairs(one) for one in value] if isinstance(value, list) else value


def as_yaml(value: Any) -> str:
    """Write a value in YAML's form with brackets."""
    if isinstance(value, Plain):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{as_yaml(key)}: {as_yaml(one)}" for key, one in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}[str(value)]
    return json.dumps(value)


def slots(value: Any) -> Iterator[tuple[Any, int]]:
    """List the places where a value stands: in a pair, or in a list."""
    for index, one in enumerate(value if isinstance(value, list) else []):
        place, at = (one, 1) if isinstance(value, Pairs) else (value, index)
        yield place, at
        yield from slots(place[at])


def mappings(value: Any) -> Iterator[Pairs]:
    """List the mappings in a value."""
    if isinstance(value, Pairs):
        yield value
    for one in value if isinstance(value, list) else []:
        yield from mappings(one[1] if isinstance(value, Pairs) else one)


@st.composite
def files(draw: Callable[..., Any], right: dict[str, Any]) -> bytes:
    """
    Draw a file of settings: mostly the right ones with one to three changes, sometimes something else.

    :param right: settings that are right
    """
    if draw(st.integers(0, 19)) == 0:
        return bytes(draw(st.sampled_from(WHOLE) | st.binary(max_size=64)))
    changed = as_pairs(right)
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        change = draw(st.sampled_from([*["value"] * 8, *["add"] * 2, "key", "twice", "drop", "alias"]))
        places, inside = list(slots(changed)), list(mappings(changed))
        if change == "value" and places:
            place, at = draw(st.sampled_from(places))
            place[at] = draw(VALUES)
        elif change == "alias" and len(places) > 1:
            first, second = sorted(draw(st.lists(st.integers(0, len(places) - 1), min_size=2, max_size=2, unique=True)))
            (place, at), (other, there) = places[first], places[second]
            place[at], other[there] = Plain(f"&one {as_yaml(draw(VALUES))}"), Plain("*one")
        elif inside and (pairs := draw(st.sampled_from(inside))):
            at = draw(st.integers(0, len(pairs) - 1))
            if change == "key":
                pairs[at][0] = draw(KEYS)
            elif change == "drop":
                del pairs[at]
            else:
                pairs.insert(at, [draw(KEYS) if change == "add" else pairs[at][0], draw(VALUES)])
    text = as_yaml(changed).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 19)) == 0:
        at = draw(st.integers(0, len(text)))
        odd = bytes(draw(st.sampled_from((b"", b"\t", b"\x00", b"\xff", b": ", b"#", b"\n", b"*", b"&"))))
        return text[:at] + odd + text[at + 1 :]
    return text


def draw_files(count: int, seed: int, right: dict[str, Any]) -> list[bytes]:
    """Draw so many different files."""
    drawn: dict[bytes, None] = {}

    @hypothesis.seed(seed)
    @settings(max_examples=4 * count, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(files(right))
    def note(file: bytes) -> None:
        drawn[file] = None

    note()
    # Hypothesis begins with what is simple, and goes on to what is like what it has drawn.
    return random.Random(seed).sample(list(drawn), count)
