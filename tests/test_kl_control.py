"""What follows the KL of an update: measured exactly, on every engine, saved, resumed, and off unless it is asked for."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import FloatSchedule

from sb3_ppo_edu import EduPPO, MaskableEduPPO, MaskableRecurrentEduPPO, RecurrentEduPPO, Reinforce
from sb3_ppo_edu.algorithms import kl_control
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.algorithms.checks import adaptive_rate
from sb3_ppo_edu.functional.kl import KLAdaptiveLearningRate, KLPenaltyObjective
from sb3_ppo_edu.functional.losses import approx_kl
from sb3_ppo_edu.functional.objectives import Objective
from sb3_ppo_edu.serialization.errors import UntrustedFileError
from sb3_ppo_edu.training.hyperparameters import load_hyperparameters
from tests.masked_environments import MaskedWalk
from tests.rollouts import N_STEPS, collect, largest_difference, make_env, make_model, parameters_of, transitions

PENALTY = f"{KLPenaltyObjective.__module__}.{KLPenaltyObjective.__name__}"
LARGE_STEPS: dict[str, Any] = {"learning_rate": "kl_0.001_0.5_1e-3_1", "n_epochs": 2, "batch_size": 16, "target_kl": 1e9}


def logged(model: Any) -> dict[str, Any]:
    """What the last update has logged."""
    return {key.removeprefix("train/"): value for key, value in model.logger.name_to_value.items()}


@th.no_grad()
def divergence_by_hand(before: Any, after: Any, data: dict[str, Any], action: str, masks: th.Tensor | None = None) -> float:
    """Mean over the states of the divergence, from what the action net gives, without torch's distributions."""
    inputs = {} if masks is None else {"action_masks": masks}
    given = [policy.get_distribution(data["observations"], **inputs) for policy in (before, after)]
    old, new = (vars(one).get("distributions") or one.distribution for one in given)
    if action == "box":
        m, s, n, t = (part.double() for part in (old.mean, old.stddev, new.mean, new.stddev))
        return float(((t / s).log() + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum(1).mean())
    if action == "multibinary" and masks is None:
        p, q = old.probs.double(), new.probs.double()
        return float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1).mean())
    pairs = zip(old, new, strict=True) if isinstance(old, list) else [(old, new)]
    total = th.zeros(())
    for one, other in pairs:
        logs = [part.logits.double().log_softmax(1) for part in (one, other)]
        total = total + (logs[0].exp() * (logs[0] - logs[1])).sum(1).mean()
    return float(total)


CASES: dict[str, dict[str, Any]] = {
    "box": {},
    "discrete": {"action": "discrete"},
    "multidiscrete": {"action": "multidiscrete", "observation": "dict"},
    "multibinary": {"action": "multibinary", "observation": "discrete"},
    "image": {"observation": "image"},
    "gSDE": {"use_sde": True},
    "tanh": {"action_distribution": "tanh_gaussian"},
    "parts": {"micro_batch_size": 8},
}


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_measured_is_the_exact_divergence_of_the_update(case: str, engine: Any) -> None:
    """
    From the policy that collected the rollout to the one after the last epoch, over all states of three environments.

    That also holds in a second update of the same rollout, which the first has flattened.
    """
    derived = case not in ("image", "gSDE") or (case, engine) == ("gSDE", "fused")
    model = make_model(n_envs=3, engine=engine if derived else "auto", **LARGE_STEPS, **CASES[case])
    collect(model)
    data, action = transitions(model), CASES[case].get("action", "box")
    before = make_model(**CASES[case]).policy
    for _ in range(2):
        before.load_state_dict(model.policy.state_dict())
        model.train()
        found = logged(model)["kl"]
        assert found == pytest.approx(divergence_by_hand(before, model.policy, data, action), rel=1e-4, abs=1e-7)
        assert found > 1e-5, "nothing moved, so nothing was shown"


@pytest.mark.parametrize("action", ["discrete", "multidiscrete"])
def test_masks_count(action: str) -> None:
    """With the masks that the rollout has stored: illegal actions have no part in it."""
    env = make_vec_env(lambda: MaskedWalk("box", action), n_envs=3, seed=3)
    model: Any = MaskableEduPPO(
        "MlpPolicy", env, n_steps=N_STEPS, seed=3, device="cpu", batch_size=32, learning_rate="kl_0.01_3e-3"
    )
    collect(model)
    data, before = transitions(model), copy.deepcopy(model.policy)
    assert type(model.rollout_buffer) is MaskableRolloutBuffer
    masks = th.as_tensor(model.rollout_buffer.action_masks.swapaxes(0, 1).reshape(3 * N_STEPS, -1).copy())
    model.train()
    found = logged(model)["kl"]
    assert found == pytest.approx(divergence_by_hand(before, model.policy, data, action, masks), rel=1e-4)
    free = divergence_by_hand(before, model.policy, data, action, th.ones_like(masks))
    assert abs(found - free) > 1e-2 * found


@th.no_grad()
def step_by_step(before: Any, after: Any, buffer: Any, masked: bool) -> float:
    """Mean divergence of two policies with a memory that each go through the rollout step by step, from its first state."""
    total = 0.0
    for env in range(buffer.n_envs):
        first = [state[0][:, [env]] for state in (buffer.hidden_states_pi, buffer.cell_states_pi)]
        memories = [tuple(map(th.tensor, first)) for _ in range(2)]
        for step in range(buffer.buffer_size):
            if buffer.episode_starts[step, env]:
                memories = [tuple(map(th.zeros_like, memory)) for memory in memories]
            given, masks = [], {"action_masks": buffer.action_masks[step, [env]]} if masked else {}
            for index, policy in enumerate((before, after)):
                observation = th.tensor(buffer.observations[step, [env]])
                found, memories[index] = policy.get_distribution(observation, memories[index], th.zeros(1), **masks)
                given.append(found.distribution)
            old, new = given
            if masked:
                logs = [part.logits.double().log_softmax(1) for part in given]
                total += float((logs[0].exp() * (logs[0] - logs[1])).sum())
            else:
                m, s, n, t = (part.double() for part in (old.mean, old.stddev, new.mean, new.stddev))
                total += float(((t / s).log() + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum())
    return total / int(buffer.n_envs * buffer.buffer_size)


@pytest.mark.parametrize("engine", ["autograd", "auto"])
@pytest.mark.parametrize(("cell", "masked"), [("lstm", False), ("gru", False), ("lstm", True)])
def test_with_a_memory_it_is_exact_too(cell: Any, masked: bool, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an update with a single minibatch, which its own estimates see nothing of; in one block of steps, and in several."""
    kind: Any = MaskableRecurrentEduPPO if masked else RecurrentEduPPO
    env = make_vec_env(lambda: MaskedWalk("box", "discrete"), n_envs=2, seed=3) if masked else make_env(n_envs=2)
    arguments: dict[str, Any] = {"n_epochs": 1, "learning_rate": "kl_1e-12_3e-2_1e-3_1", "recurrent_cell": cell}
    arguments |= {"n_steps": 2 * N_STEPS, "batch_size": 4 * N_STEPS, "engine": engine}
    for several in (False, True):
        nets: dict[str, Any] = {"lstm_hidden_size": 4, "net_arch": [4], "n_lstm_layers": 2}
        model = kind("MlpLstmPolicy", env, seed=3, device="cpu", policy_kwargs=nets, **arguments)
        model.learn(4 * N_STEPS)  # so that a rollout begins with a state
        collect(model)
        before, buffer = copy.deepcopy(model.policy.state_dict()), copy.deepcopy(model.rollout_buffer)
        assert buffer.episode_starts[1:].any() and buffer.hidden_states_pi[0].any()
        with monkeypatch.context() as patched:
            if several:
                patched.setattr(kl_control, "BLOCK", 14)
            model.train()
        after, old = model.policy, kind("MlpLstmPolicy", env, device="cpu", policy_kwargs=nets, **arguments).policy
        old.load_state_dict(before)
        found = logged(model)
        assert found["kl"] == pytest.approx(step_by_step(old, after, buffer, masked), rel=1e-3) and found["kl"] > 1e-5
        assert found["approx_kl"] == pytest.approx(0.0, abs=1e-6)
        assert model.learning_rate.rate == pytest.approx(3e-2 / 1.5**2)


class OwnBuffer(RolloutBuffer):
    """A buffer of a user's own, whose order is not known."""


def test_where_it_can_not_be_exact_the_estimate_stands_in() -> None:
    """
    With a rollout buffer of one's own: the mean k3 of the last epoch's minibatches, as it is logged.

    A single minibatch's is 0 before its step, so that such an update is refused, unless nothing follows.
    """
    given: dict[str, Any] = {**LARGE_STEPS, "learning_rate": "kl_1e-12_0.5_1e-3_1"}
    model: Any = make_model(rollout_buffer_class=OwnBuffer, **given)
    model.learn(2 * N_STEPS)
    values = logged(model)
    assert values["kl"] == pytest.approx(float(values["approx_kl"]), rel=1e-6) and values["kl"] > 0
    assert model.learning_rate.rate == pytest.approx(0.5 / 1.5**2)
    for single in ({"learning_rate": "kl_0.01"}, {"objective": KLPenaltyObjective()}):
        with pytest.raises(ArgumentError, match=r"n_epochs=1 with batch_size=32 of 32 transitions.*expected two minibatches"):
            make_model(rollout_buffer_class=OwnBuffer, **STEPS, **single).learn(N_STEPS)
    make_model(rollout_buffer_class=OwnBuffer, **STEPS, objective=KLPenaltyObjective(d_targ=None)).learn(N_STEPS)


@pytest.mark.parametrize(("target", "factor"), [(1e-9, 1 / 1.5), (1e3, 1.5)])
def test_the_rate_follows_after_each_update(target: float, factor: float) -> None:
    """
    One step of 1.5 an update, with which the next one begins: in the schedule, the optimizer, the log and the parameters.

    Those are a training's whose function of the progress gives the rates as worked out by hand.
    """
    arguments: dict[str, Any] = {"n_epochs": 3, "batch_size": 8, "target_kl": 1e9}
    model: Any = make_model(learning_rate=f"kl_{target}_1e-3", **arguments).learn(3 * N_STEPS)
    rate_at = partial(lambda factor, left: 1e-3 * factor ** max(round(3 * (1 - left)) - 1, 0), factor)
    expected = make_model(learning_rate=rate_at, **arguments).learn(3 * N_STEPS)
    assert model.learning_rate.rate == model.lr_schedule(0.3) == pytest.approx(1e-3 * factor**3)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * factor**2)
    assert logged(model)["learning_rate"] == pytest.approx(1e-3 * factor**2) and "beta" not in logged(model)
    assert largest_difference(parameters_of(model), parameters_of(expected)) < 1e-9


def test_an_update_that_goes_much_too_far_ends() -> None:
    """Above four times the target, by a minibatch's estimate, unless ``target_kl`` says where; without the rate it goes on."""
    for arguments, stops in (
        ({"learning_rate": "kl_1e-6_0.5_1e-3_1"}, True),
        ({"learning_rate": "kl_1e-6_0.5_1e-3_1", "target_kl": 1e9}, False),
        ({"learning_rate": "kl_1e9_0.5_1e-3_1"}, False),
        ({"learning_rate": 0.5}, False),
    ):
        given: dict[str, Any] = {"n_epochs": 9, "batch_size": 8, **arguments}
        model = make_model(**given)
        collect(model)
        model.train()
        assert (logged(model)["early_stop_epoch"] < 9) is stops
    rate = KLAdaptiveLearningRate.of("warmup_0.5_kl_0.01")
    assert (rate.limit(0.75), rate.limit(0.25)) == pytest.approx((0.02, 0.04))


def test_the_penaltys_weight_follows_after_each_update() -> None:
    """Doubled or halved once in an update, by the divergence that is logged; without a target it stays."""
    for target, beta in ((1e-9, 4.0), (1e3, 1.0), (None, 2.0)):
        model = make_model(objective=KLPenaltyObjective(d_targ=target, beta=2.0), n_epochs=3, learning_rate=0.1)
        collect(model)
        model.train()
        assert model.objective.beta == beta  # type: ignore[attr-defined]
        assert logged(model)["kl"] > 0 and logged(model)["learning_rate"] == 0.1 and logged(model)["beta"] == 2.0


def test_a_heavier_penalty_keeps_the_policy_nearer() -> None:
    """The same rollout and steps: the divergence falls as β rises."""
    found = []
    for beta in (0.01, 10.0):
        model = make_model(objective=KLPenaltyObjective(d_targ=None, beta=beta), n_epochs=20, learning_rate=0.02)
        collect(model)
        model.train()
        found.append(logged(model)["kl"])
    assert found[1] < 0.5 * found[0]


def test_off_by_default() -> None:
    """Nothing is measured and nothing new is logged; ``approx_kl`` and the rate stay SB3's."""
    model = make_model()
    collect(model)
    model.policy.get_distribution = None  # type: ignore[method-assign, assignment]
    model.train()
    assert {"kl", "beta"}.isdisjoint(logged(model))


# -- kept ----------------------------------------------------------------------------------------------------------------


def adaptive_model(**changes: Any) -> EduPPO:
    """A model with both."""
    objective = {PENALTY: {"d_targ": "warmup_0.3_0.01", "beta": 2.0, "clip": True}}
    return make_model(objective=objective, **{**LARGE_STEPS, **changes})


def go_on(model: EduPPO) -> tuple[list[bytes], float, float]:
    """Learn on, and tell what came of it."""
    model.set_random_seed(1)
    model.learn(2 * N_STEPS, reset_num_timesteps=False)
    parameters = [tensor.numpy().tobytes() for tensor in model.policy.state_dict().values()]
    return parameters, model.learning_rate.rate, model.objective.beta  # type: ignore[union-attr, attr-defined]


def test_saved_models_copies_and_pickles_go_on_with_the_same_bits(tmp_path: Path) -> None:
    """Loaded, trusted or not, copied and pickled: rate and β are those that were reached, and what is learned is the same."""
    model = adaptive_model()
    model.learn(2 * N_STEPS)
    rate, beta = model.learning_rate.rate, model.objective.beta  # type: ignore[union-attr, attr-defined]
    assert rate != 0.5 and beta != 2.0
    model.save(tmp_path / "model")
    twins: dict[str, Any] = {
        "loaded": EduPPO.load(tmp_path / "model", make_env(), device="cpu"),
        "untrusted": EduPPO.load(tmp_path / "model", make_env(), device="cpu", trusted=False),
        "copied": copy.deepcopy(model),
        "pickled": pickle.loads(pickle.dumps(model)),
    }
    twins["copied"].set_env(make_env())
    twins["pickled"].set_env(make_env())
    model.set_env(make_env())
    assert model.env is not None
    expected = go_on(model)
    for name, twin in twins.items():
        assert (twin.learning_rate.rate, twin.objective.beta) == (rate, beta), name
        assert adaptive_rate(twin.lr_schedule) is twin.learning_rate, name
        assert go_on(twin) == expected, name


def test_sb3_loads_the_file(tmp_path: Path) -> None:
    """There the rate stays where it was, as SB3 knows of no measurement."""
    model = adaptive_model().learn(2 * N_STEPS)
    model.save(tmp_path / "model")
    theirs = PPO.load(tmp_path / "model", make_env(), device="cpu")
    assert theirs.lr_schedule(0.5) == model.learning_rate.rate  # type: ignore[union-attr]
    theirs.learn(N_STEPS)


def test_a_strangers_file_may_name_it_but_not_replace_its_parts(tmp_path: Path) -> None:
    """``KLPenaltyObjective`` is on the list; an attribute in the place of a method is refused."""
    model = adaptive_model()
    model.objective.policy_loss = 3  # type: ignore[method-assign, assignment]
    model.save(tmp_path / "model")
    with pytest.raises(UntrustedFileError, match="an objective with attributes that replace a part of it"):
        EduPPO.load(tmp_path / "model", device="cpu", trusted=False)


def test_given_and_changed_as_any_schedule() -> None:
    """An object is as good as the text; ``load`` may change it; between trainings SB3's ``lr_schedule`` rules."""
    model = make_model(learning_rate=KLAdaptiveLearningRate(0.01, 2e-3))
    assert model.lr_schedule(1.0) == model.policy.optimizer.param_groups[0]["lr"] == 2e-3
    model.lr_schedule = lambda _: 0.125
    model.learn(N_STEPS)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.125 and "kl" not in logged(model)
    assert isinstance(make_model(learning_rate="warmup_0.1_kl_0.01").learning_rate, KLAdaptiveLearningRate)
    reinforce = Reinforce("MlpPolicy", make_env(), learning_rate="kl_1000_1e-3", n_steps=N_STEPS, device="cpu")
    reinforce.learn(N_STEPS)
    assert reinforce.lr_schedule(0.0) == pytest.approx(1.5e-3)


def given_where(where: str, rate: KLAdaptiveLearningRate, penalty: KLPenaltyObjective, tmp_path: Path) -> Any:
    """A model that is given both objects in one of the ways."""
    if where == "constructor":
        return make_model(learning_rate=rate, objective=penalty, **STEPS)
    if where == "load":
        make_model(**STEPS).save(tmp_path / "model")
        return EduPPO.load(tmp_path / "model", make_env(), device="cpu", learning_rate=rate, objective=penalty)
    model: Any = make_model(**STEPS)
    model.lr_schedule, model.objective = FloatSchedule(rate), penalty
    return model


STEPS: dict[str, Any] = {"n_epochs": 1, "batch_size": N_STEPS}


@pytest.mark.parametrize("where", ["constructor", "load", "attributes"])
def test_models_that_are_given_one_object_do_not_share_it(where: str, tmp_path: Path) -> None:
    """
    The first one's training moves neither the objects nor the second model, which learns the same: each has a copy.

    Its own copy it keeps from one training to the next.
    """
    rate, penalty = KLAdaptiveLearningRate(1e-9, 1e-3), KLPenaltyObjective(1e-9, beta=8.0)
    first, second = (given_where(where, rate, penalty, tmp_path) for _ in range(2))
    ends = []
    for model in (first, second):
        model.set_random_seed(1)
        model.learn(2 * N_STEPS)
        own = adaptive_rate(model.lr_schedule), model.objective
        assert (own[0].rate, own[1].beta) == (pytest.approx(1e-3 / 1.5**2), 32.0)  # type: ignore[union-attr]
        model.learn(N_STEPS)
        assert (adaptive_rate(model.lr_schedule), model.objective) == own and model.objective is own[1]
        ends.append(parameters_of(model))
    assert (rate.rate, penalty.beta) == (1e-3, 8.0)
    assert largest_difference(*ends) == 0


def test_other_objectives_stay_the_object_that_was_given() -> None:
    """A training does not change them, and their owner may."""

    class Own(Objective):
        """An objective of a user's own."""

    own = Own()
    model = make_model(objective=own)
    assert model.learn(N_STEPS).objective is own


def test_an_objective_may_be_named_with_its_arguments() -> None:
    """``{path: {argument: value}}``, as YAML and the command line have it; what it refuses is said by name."""
    model = make_model(objective={PENALTY: {"d_targ": 0.02}})
    assert isinstance(model.objective, KLPenaltyObjective) and model.objective.d_targ == 0.02
    assert isinstance(make_model(objective={PENALTY: None}).objective, KLPenaltyObjective)
    for wrong, message in (
        ({PENALTY: {"d_targ": 0}}, r"KLPenaltyObjective: it can't be made with \{'d_targ': 0\} \(d_targ=0: expected"),
        ({PENALTY: {"target": 1}}, "unexpected keyword argument 'target'"),
        ({"nothing": {}}, "objective='nothing': expected None, an objective"),
        ({PENALTY: {}, "other.Name": {}}, "objective=.*: expected None, an objective"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make_model(objective=wrong)


def test_estimates_of_single_actions_average_to_the_logged_one() -> None:
    """``approx_kl`` keeps SB3's operations: the mean of (r - 1) - log r in float32, to the bit."""
    log_ratio = th.from_numpy(np.random.default_rng(1).normal(0, 0.1, 101).astype(np.float32))
    assert approx_kl(log_ratio) == th.mean((th.exp(log_ratio) - 1) - log_ratio)
    assert approx_kl(log_ratio, "k1") == th.mean(-log_ratio)


def test_settings_name_it_and_a_strangers_may_too(tmp_path: Path) -> None:
    """A YAML file gives texts and the objective with its arguments; without trust ours is taken, and another refused."""
    lines = "CartPole-v1:\n  policy: MlpPolicy\n  learning_rate: warmup_0.1_kl_0.01\n  objective: {%s: {d_targ: 0.02}}\n"
    (tmp_path / "ours.yml").write_text(lines % PENALTY)
    found = load_hyperparameters("CartPole-v1", tmp_path / "ours.yml", trusted=False)
    assert found["learning_rate"] == "warmup_0.1_kl_0.01" and found["objective"] == {PENALTY: {"d_targ": 0.02}}
    (tmp_path / "other.yml").write_text(lines % "tests.test_objectives.KLPenalty")
    with pytest.raises(UntrustedFileError, match=r"found objective 'tests\.test_objectives\.KLPenalty'"):
        load_hyperparameters("CartPole-v1", tmp_path / "other.yml", trusted=False)
