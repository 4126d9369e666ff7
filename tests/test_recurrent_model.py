"""RecurrentEduPPO as a model: files both ways, copies, resuming, refusals, parts of minibatches, GRUs, acting with a state."""

from __future__ import annotations

import copy
import io
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from sb3_contrib import RecurrentPPO
from sb3_contrib.ppo_mask.policies import MlpPolicy
from sb3_contrib.ppo_recurrent.policies import MlpLstmPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

from sb3_ppo_edu import EduPPO, MaskableRecurrentEduPPO, RecurrentEduPPO
from sb3_ppo_edu.algorithms.checks import ArgumentError
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.doctor.callback import TrainingDoctor
from sb3_ppo_edu.engines import gradient_shares
from sb3_ppo_edu.policies.recurrent import MlpGruPolicy
from sb3_ppo_edu.serialization.errors import DamagedFileError
from sb3_ppo_edu.serialization.models import check_model
from sb3_ppo_edu.serialization.sizes import check_sizes
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.environments import RandomWalk
from tests.masked_environments import MaskedWalk
from tests.test_parity import assert_same_models, assert_same_values
from tests.test_parity import make_env as parity_env
from tests.test_recurrent import CASES, N_STEPS, kwargs, make_model

SMALL: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 16, "n_epochs": 2, "seed": 3, "device": "cpu", **kwargs()}
OBSERVATIONS = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)


def small(cls: type[Any] = RecurrentEduPPO, policy: Any = "MlpLstmPolicy", n_envs: int = 2, **arguments: Any) -> Any:
    """A small model on random walks."""
    env = InProcessVecEnv([partial(RandomWalk, action="discrete")] * n_envs)
    return cls(policy, env, **{**SMALL, **arguments})


def test_a_memory_without_masks_of_ones_own_is_refused() -> None:
    """``MaskableRecurrentEduPPO`` says which class is missing."""

    class Own(MlpLstmPolicy):
        """A policy of a user's own."""

    with pytest.raises(ValueError, match=r"expected a class derived from .*MaskedMixin and sb3-contrib's RecurrentActor"):
        small(MaskableRecurrentEduPPO, Own)


def zeros(n_envs: int, n_units: int, n_arrays: int = 2) -> Any:
    """States of a small model."""
    return (np.zeros((1, n_envs, n_units), np.float32),) * n_arrays


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("algorithm", [RecurrentEduPPO, MaskableRecurrentEduPPO])
def test_states_of_other_observations_are_refused(algorithm: Any, cell: str) -> None:
    """``predict`` goes on from states and episode starts of as many environments as there are observations."""
    model = small(algorithm, recurrent_cell=cell)
    units = model.policy.lstm_actor.hidden_size
    shape = rf"expected two arrays of shape \(1, 2, {units}\), \(n_layers, n_envs, n_units\)"
    for state, starts, words in (
        (zeros(1, units), None, rf"state: found \[\(1, 1, {units}\), \(1, 1, {units}\)\], {shape}"),
        (zeros(2, units + 1), None, rf"state: found .*{shape}"),
        (zeros(2, units, 1), None, rf"state: found \[\(1, 2, {units}\)\], {shape}"),
        (zeros(2, units)[0], None, rf"state: found .*{shape}"),
        ((), None, rf"state: found \[\], {shape}"),
        ("state", None, rf"state: found state, {shape}"),
        (zeros(2, units), [0, 2], r"episode_start=\[0, 2\]: expected True or False for each of 2 observations"),
        (None, [0.5, 0], r"episode_start=\[0.5, 0.0\]: expected"),
        (None, [True] * 3, r"episode_start=\[True, True, True\]: expected"),
        (zeros(2, units), "yes", "episode_start='yes': expected"),
    ):
        with pytest.raises(ValueError, match=words):
            model.predict(OBSERVATIONS, state, starts)
    _, after = model.predict(OBSERVATIONS, zeros(2, units), [1, 0])
    assert [part.shape for part in after] == [(1, 2, units)] * 2


@pytest.mark.parametrize("algorithm", [RecurrentEduPPO, MaskableRecurrentEduPPO])
def test_a_training_goes_on_from_states_of_its_environments_only(algorithm: Any) -> None:
    """States that are set have the shape of those that are there."""
    model = small(algorithm)
    states = model._last_lstm_states
    shape = tuple(states.pi[0].shape)
    less = type(states)(*(tuple(state[:, :1] for state in pair) for pair in states))
    with pytest.raises(ValueError, match=rf"_last_lstm_states: found tensors of shapes .*each of {re.escape(str(shape))}"):
        model._last_lstm_states = less
    with pytest.raises(ValueError, match="_last_lstm_states=None: expected RNNStates"):
        model._last_lstm_states = None
    model._last_lstm_states = states


# -- files -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["defaults", "action-discrete-4envs", "observation-dict-4envs", "shared-lstm-two-layers"])
def test_model_of_sb3_contrib_continues_to_the_bit(name: str, tmp_path: Path) -> None:
    """A model saved by RecurrentPPO loads, also when nothing of its file is trusted, and goes on as it would have there."""
    case = CASES[name]
    total = 2 * N_STEPS * case.n_envs
    model, _ = make_model(RecurrentPPO, case)
    model.learn(total).save(tmp_path / "model")
    continued = []
    ways: list[tuple[Any, dict[str, Any]]] = [(RecurrentPPO, {}), (RecurrentEduPPO, {}), (RecurrentEduPPO, {"trusted": False})]
    for algorithm, given in ways:
        other = algorithm.load(tmp_path / "model", env=parity_env(case, seed=8), device="cpu", **given)
        if isinstance(other, RecurrentEduPPO):
            other.engine = "autograd"
        other.set_random_seed(5)
        continued.append(other.learn(total, reset_num_timesteps=False))
    theirs, *ours = continued
    for one in ours:
        assert_same_models(one, theirs)


def test_sb3_contrib_loads_our_model_and_acts_alike(tmp_path: Path) -> None:
    """A model of ours loads into RecurrentPPO; both give the same actions and states, step after step."""
    small().learn(N_STEPS * 2).save(tmp_path / "model")
    models = [algorithm.load(tmp_path / "model", device="cpu") for algorithm in (RecurrentPPO, RecurrentEduPPO)]
    states: list[Any] = [None, None]
    for step in range(4):
        starts = np.array([step == 0, step == 2])
        found = [
            model.predict(OBSERVATIONS, state, starts, deterministic=True) for model, state in zip(models, states, strict=True)
        ]
        np.testing.assert_array_equal(found[0][0], found[1][0])
        states = [state for _, state in found]
        np.testing.assert_array_equal(states[0], states[1])
    assert np.abs(states[0]).max() > 0


def test_batch_size_none_of_a_file_is_the_whole_rollout(tmp_path: Path) -> None:
    """What sb3-contrib keeps as None becomes the number of transitions that a rollout has."""
    env = InProcessVecEnv([partial(RandomWalk, action="discrete")] * 2)
    RecurrentPPO("MlpLstmPolicy", env, **{**SMALL, "batch_size": None}).save(tmp_path / "model")
    assert RecurrentEduPPO.load(tmp_path / "model", env=env, device="cpu").batch_size == 2 * N_STEPS
    assert small(batch_size=None).batch_size == 2 * N_STEPS


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_untrusted_file_is_the_same_model(cell: str, tmp_path: Path) -> None:
    """Read with the list of harmless types, a model of ours is what it is when its pickles are run."""
    small(recurrent_cell=cell).learn(N_STEPS * 2).save(tmp_path / "model")
    trusted, untrusted = (RecurrentEduPPO.load(tmp_path / "model", device="cpu", trusted=one) for one in (True, False))
    assert_same_models(untrusted, trusted)
    assert untrusted.recurrent_cell == cell


@pytest.mark.parametrize(
    "asked",
    [
        {"policy_kwargs": {"lstm_hidden_size": 20_000}},
        {"policy_kwargs": {"lstm_hidden_size": 6, "n_lstm_layers": 10_000}},
        {"policy_kwargs": {"lstm_hidden_size": -20_000}},
        {"n_steps": 2**20, "n_envs": 64},
    ],
)
def test_memory_that_a_stranger_asks_for_is_counted(asked: dict[str, Any]) -> None:
    """Units and layers count before the policy is built, and stored states before the rollout is."""
    file = io.BytesIO()
    small().save(file)
    file.seek(0)
    attributes = check_model(file, RecurrentEduPPO).attributes
    with pytest.raises(DamagedFileError, match="bytes"):
        check_sizes({**attributes, **asked}, 20_000, "model")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_train_as_the_original(duplicate: Any) -> None:
    """A copy has the states of the original, and goes on with the same bits; the original keeps its own."""
    model = small(engine="autograd").learn(N_STEPS * 2)
    model.policy.action_dist = type(model.policy.action_dist)(model.action_space.n)  # torch copies no graph
    twin = duplicate(model)
    assert_same_values(twin._last_lstm_states, model._last_lstm_states, "states")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    results = []
    for one in (twin, model):
        if one is model:
            assert all(map(th.equal, before, model.policy.parameters()))
        one.set_random_seed(7)
        results.append(one.learn(N_STEPS * 2))
    assert_same_models(*results)


# -- resuming --------------------------------------------------------------------------------------------------------------


class Interrupt(BaseCallback):
    """Ends the training at a step, as a kill would: the first time."""

    at = 0

    def _on_step(self) -> bool:
        if self.num_timesteps == Interrupt.at:
            Interrupt.at = 0
            raise KeyboardInterrupt
        return True


@pytest.mark.parametrize("arguments", [{"engine": "autograd"}, {"recurrent_cell": "gru"}], ids=["lstm", "gru"])
def test_interrupted_training_ends_as_an_undisturbed_one(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed in mid-rollout from the checkpoint alone, hidden states included, a training ends with the same bits."""

    def make() -> Any:
        return InProcessVecEnv([lambda: Resumable(RandomWalk(action="discrete", time_limit=40))] * 2)

    def callbacks(name: str) -> list[BaseCallback]:
        return [ExactCheckpoint(20, tmp_path / name, handle_signals=False), Interrupt()]

    total = 4 * N_STEPS * 2
    undisturbed = RecurrentEduPPO("MlpLstmPolicy", make(), **SMALL, **arguments).learn(total, callbacks("a"))
    interrupted = RecurrentEduPPO("MlpLstmPolicy", make(), **SMALL, **arguments)
    monkeypatch.setattr(Interrupt, "at", 2 * N_STEPS * 2 + 26)
    with pytest.raises(KeyboardInterrupt):
        interrupted.learn(total, callbacks("b"))
    resumed = RecurrentEduPPO.resume(tmp_path / "b", make(), device="cpu")
    assert any(state.abs().max() > 0 for state in resumed._last_lstm_states.pi)
    resumed.learn(total, callbacks("b"))
    assert_same_models(resumed, undisturbed)
    assert_same_values(resumed._last_lstm_states, undisturbed._last_lstm_states, "states")


# -- refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"policy": "MlpPolicy"},
            r"policy='MlpPolicy': expected one of 'MlpLstmPolicy'.*without a memory.*by EduPPO.*MaskableEduPPO",
        ),
        ({"policy": EduPPO.policy_aliases["MlpPolicy"]}, r"policy=ActorCriticPolicy: found one without a memory.*expected"),
        ({"policy": MlpPolicy}, r"policy=MaskableActorCriticPolicy: found one without a memory.*; MaskableEduPPO trains"),
        ({"policy": 3}, r"policy=3: found one without a memory"),
        (kwargs(shared_lstm=True), r"policy_kwargs: found shared_lstm=True with enable_critic_lstm=True.*expected one"),
        (
            kwargs(shared_lstm=True, enable_critic_lstm=False, share_features_extractor=False),
            r"policy_kwargs: found shared_lstm=True with share_features_extractor=False, expected",
        ),
        (kwargs(lstm_hidden_size=0), r"policy_kwargs: lstm_hidden_size=0: expected an integer ≥ 1"),
        (kwargs(lstm_hidden_size=2.5), r"policy_kwargs: lstm_hidden_size=2.5: expected an integer ≥ 1"),
        (kwargs(n_lstm_layers=-1), r"policy_kwargs: n_lstm_layers=-1: expected an integer ≥ 1"),
        (kwargs(lstm_kwargs=5), "policy_kwargs: lstm_kwargs=5: expected None or a dict of torch's arguments"),
        (
            kwargs(lstm_kwargs={"bidirectional": True}),
            r"policy_kwargs: found lstm_kwargs with bidirectional=True, expected a plain LSTM.*: leave bidirectional out",
        ),
        (kwargs(lstm_kwargs={"dtype": th.float64}), r"lstm_kwargs with dtype=torch.float64, expected .*: leave dtype out"),
        ({"recurrent_cell": "rnn"}, r"recurrent_cell='rnn': expected one of 'lstm', 'gru'"),
        *(
            ({name: True}, rf"RecurrentEduPPO: {name}=True: this class has no such argument, EduPPO has: leave it out")
            for name in ("recompute_advantages", "layer_norm", "rollout_buffer_class")
        ),
        ({"layer_norms": True}, r"layer_norms=True: no argument has this name"),
        ({"batch_size": 0}, r"batch_size=0: expected an integer ≥ 2"),
        ({"engine": "numpy"}, r"engine='numpy': the policy has a memory: use engine='auto' or 'autograd'"),
        ({"engine": "numpy", "recurrent_cell": "gru"}, r"engine='numpy': the policy has a memory: use"),
        ({"engine": "fused", "engine_kwargs": {"whole_sequences": True}}, r"whole_sequences=True is for the autograd engine"),
        ({"engine": "autograd", "engine_kwargs": {"bf16": True}}, r"bf16=True for a policy with a memory, expected"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    """What is wrong is named, with what was found and what is expected; the same with masks."""
    unmasked: dict[type[Any], dict[str, Any]] = {RecurrentEduPPO: {}, MaskableRecurrentEduPPO: {"use_masking": False}}
    for cls, given in unmasked.items():
        with pytest.raises((ValueError, TypeError), match=message):
            small(cls, **arguments).learn(1, **given)


def test_dictionaries_need_the_policy_for_them() -> None:
    """A policy for arrays is refused before a step is taken."""
    env = InProcessVecEnv([partial(RandomWalk, "dict", "discrete")])
    with pytest.raises(ValueError, match="policy='RecurrentActorCriticPolicy': expected 'MultiInputLstmPolicy' for obs"):
        RecurrentEduPPO("MlpLstmPolicy", env, **SMALL)


@pytest.mark.parametrize("algorithm", [RecurrentEduPPO, MaskableRecurrentEduPPO])
def test_multidiscrete_observations_are_refused_with_a_way_round(algorithm: Any) -> None:
    """Torch's LSTM does not take the number that SB3 counts; flattened to one-hot numbers they train."""
    env = MaskedWalk(strict=False)
    env.observation_space = spaces.MultiDiscrete([2, 3])
    with pytest.raises(
        ArgumentError, match=r"MultiDiscrete\(\[2 3\]\): found .*gymnasium.wrappers.FlattenObservation"
    ) as error:
        algorithm("MlpLstmPolicy", env, **SMALL)
    assert isinstance(error.value.__cause__, TypeError)
    flat: Any = FlattenObservation(env)
    flat.action_masks = env.action_masks
    assert algorithm("MlpLstmPolicy", flat, **SMALL).learn(N_STEPS).num_timesteps == N_STEPS


def test_whole_sequences_are_for_policies_with_a_memory() -> None:
    """The option means nothing elsewhere, and is refused there."""
    model = EduPPO("MlpPolicy", "CartPole-v1", device="cpu", engine="autograd", engine_kwargs={"whole_sequences": True})
    with pytest.raises(ValueError, match=r"whole_sequences=True for a policy without a memory"):
        model.learn(1)


def test_sequences_longer_than_the_buffer_are_refused() -> None:
    """A rollout longer than the buffer that stores its states is refused before a step is taken."""
    model = small()
    model.n_steps = 2 * N_STEPS
    with pytest.raises(ValueError, match=rf"n_steps={2 * N_STEPS}: expected {N_STEPS}, which the model was built with"):
        model.learn(1)
    assert model.num_timesteps == 0


def test_file_of_a_policy_without_memory_is_refused(tmp_path: Path) -> None:
    """A model of EduPPO is none of RecurrentEduPPO."""
    EduPPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").save(tmp_path / "model")
    with pytest.raises(ValueError, match="without a memory"):
        RecurrentEduPPO.load(tmp_path / "model", device="cpu")


# -- accumulated gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["time-limits", "observation-dict-4envs", "shared-lstm-two-layers"])
def test_parts_of_a_minibatch_have_its_gradient(name: str) -> None:
    """Minibatches computed in parts, which end where sequences do, train as whole ones to rounding."""
    results = []
    for arguments in ({}, {"micro_batch_size": 8}):
        model, _ = make_model(RecurrentEduPPO, CASES[name], batch_size=32, **arguments)
        model.learn(N_STEPS * model.n_envs)
        results.append(model.policy.state_dict())
    one, other = results
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-5


# -- GRUs ------------------------------------------------------------------------------------------------------------------


def test_saved_policies_keep_the_sizes_of_their_memory(tmp_path: Path) -> None:
    """A policy of ours that is saved by itself is loaded by its class, and has the same parameters."""
    masked: Any = partial(MaskedWalk, action="discrete")
    models = [small(recurrent_cell="gru")]
    models += [MaskableRecurrentEduPPO("MlpLstmPolicy", masked(), **SMALL, recurrent_cell=cell) for cell in ("lstm", "gru")]
    for model in models:
        model.policy.save(tmp_path / "policy.zip")
        loaded = type(model.policy).load(tmp_path / "policy.zip")
        assert_same_values(loaded.state_dict(), model.policy.state_dict(), type(model.policy).__name__)


def test_gru_by_name_and_by_class() -> None:
    """Both ways build GRUs for actor and critic, whose parameters are all of the optimizer's."""
    for given in ({"recurrent_cell": "gru"}, {"policy": MlpGruPolicy}):
        model = small(**given)
        assert model.recurrent_cell == "gru"
        assert type(model.policy.lstm_actor) is type(model.policy.lstm_critic) is nn.GRU
        assert {id(one) for group in model.policy.optimizer.param_groups for one in group["params"]} == {
            id(one) for one in model.policy.parameters()
        }


def test_gru_goes_through_sequences_as_torch_does() -> None:
    """With starts anywhere, outputs are those of a GRU that is called step by step with its state set to zero at each."""
    th.manual_seed(0)
    gru = nn.GRU(4, 3, num_layers=2)
    features, hidden = th.randn(2, 7, 4), th.randn(2, 2, 3)
    starts = th.zeros(2, 7)
    starts[0, 0] = starts[1, 3] = starts[0, 6] = 1.0
    found, (last, unused) = MlpGruPolicy._process_sequence(
        features.reshape(14, 4), (hidden, th.zeros_like(hidden)), starts.flatten(), gru
    )
    expected = []
    for step in range(7):
        hidden = hidden * (1 - starts[:, step]).view(1, 2, 1)
        output, hidden = gru(features[:, step][None], hidden)
        expected.append(output[0])
    th.testing.assert_close(found.reshape(2, 7, 3), th.stack(expected, dim=1))
    th.testing.assert_close(last, hidden)
    assert not unused.any()


@pytest.mark.parametrize("n_envs", [1, 2])
def test_gru_trains_alike_by_steps_and_by_sequences(n_envs: int) -> None:
    """With whole sequences a GRU learns what it learns where the policy resets its state, to rounding."""
    results = []
    for engine in ("autograd", "auto"):
        model = small(n_envs=n_envs, recurrent_cell="gru", engine=engine).learn(2 * N_STEPS * n_envs)
        results.append(model.policy.state_dict())
    one, other = results
    assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-5


# -- evaluating ------------------------------------------------------------------------------------------------------------


def test_evaluation_hands_states_on() -> None:
    """SB3's evaluation of a model of ours is that of sb3-contrib's model with the same weights."""
    ours = small(n_envs=2).learn(2 * N_STEPS)
    theirs = small(RecurrentPPO, n_envs=2)
    theirs.set_parameters(ours.get_parameters())
    found = []
    for model in (ours, theirs):
        env = InProcessVecEnv([partial(RandomWalk, action="discrete")] * 2)
        env.seed(4)
        found.append(evaluate_policy(model, env, 6, return_episode_rewards=True, warn=False))
    assert found[0] == found[1]


def test_doctor_watches() -> None:
    """The doctor finds the advantages of a rollout right; of separate LSTMs each belongs to one part of the gradient."""
    doctor = TrainingDoctor(folder=None, page=None, every=1, verbose=0)
    model = small().learn(2 * 2 * N_STEPS, callback=doctor)
    assert doctor.diagnosis is not None
    assert np.nanmax(doctor.record().columns["doctor/gae_error"]) < 1e-5
    shares = gradient_shares(model.policy)
    assert shares["policy"] > 0
    assert sum(share**2 for share in shares.values()) == pytest.approx(1.0)
