"""Reinforce: its step is the policy gradient, its weights are the returns that are known, and it learns."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ppo_edu import EduPPO, Reinforce
from tests.environments import ACTION_SPACES, Probe
from tests.rollouts import (
    N_STEPS,
    POLICY_OF_OBSERVATION,
    TinyExtractor,
    collect,
    largest_difference,
    make_env,
    parameters_of,
    record,
    transitions,
)

LEARNING_RATE = 0.5


def make_reinforce(
    observation: str = "box", action: str = "box", n_envs: int = 1, env: dict[str, Any] | None = None, **arguments: Any
) -> Reinforce:
    """A small model with SGD and no gradient clipping, so that its step is learning rate times gradient."""
    policy_kwargs: dict[str, Any] = {"net_arch": [8], "optimizer_class": th.optim.SGD}
    if observation == "image":
        policy_kwargs["features_extractor_class"] = TinyExtractor
    defaults: dict[str, Any] = {
        "learning_rate": LEARNING_RATE,
        "n_steps": N_STEPS,
        "max_grad_norm": 1e9,
        "seed": 3,
        "device": "cpu",
        "policy_kwargs": policy_kwargs,
    }
    vec_env = make_env(observation, action, n_envs, **(env or {}))
    return Reinforce(POLICY_OF_OBSERVATION[observation], vec_env, **(defaults | arguments))


def dones_of(model: Reinforce) -> np.ndarray:
    """Which steps of the rollout ended an episode, shape (n_steps, n_envs)."""
    return np.vstack([model.rollout_buffer.episode_starts[1:], np.asarray(model._last_episode_starts)]).astype(bool)


def returns_by_hand(rewards: np.ndarray, dones: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns to go, summed forward from each step, and whether the episode's end was seen; (n_steps, n_envs)."""
    returns, known = np.zeros_like(rewards), np.zeros_like(dones)
    for t, env in np.ndindex(*rewards.shape):
        for k in range(t, len(rewards)):
            returns[t, env] += gamma ** (k - t) * rewards[k, env]
            if dones[k, env]:
                known[t, env] = True
                break
    return returns, known


def step_by_hand(model: Reinforce, weights: th.Tensor, targets: th.Tensor | None, ent_coef: float) -> dict[str, th.Tensor]:
    """The parameters after one step down -mean(log π · weight), the mean squared error of the critic, and the entropy."""
    policy, data = copy.deepcopy(model.policy), transitions(model)
    actions = data["actions"].long().flatten() if isinstance(model.action_space, spaces.Discrete) else data["actions"]
    values, log_prob, entropy = policy.evaluate_actions(data["observations"], actions)
    assert entropy is not None
    loss = -(log_prob * weights).mean() - ent_coef * entropy.mean()
    if targets is not None:
        loss = loss + 0.5 * ((values.flatten() - targets) ** 2).mean()
    gradients = th.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    with th.no_grad():
        for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
            if gradient is not None:
                parameter.sub_(LEARNING_RATE * gradient)
    return {name: parameter.detach() for name, parameter in policy.named_parameters()}


def flat(array: np.ndarray) -> th.Tensor:
    """Environment by environment, as ``transitions`` has it."""
    return th.as_tensor(array.swapaxes(0, 1).reshape(-1).astype(np.float32))


# -- the step ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTION_SPACES)
@pytest.mark.parametrize("engine", ["autograd", "numpy", "auto"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_step_is_the_policy_gradient(action: str, engine: Any, normalize: bool) -> None:
    """
    One update moves the parameters by the learning rate times mean(∇ log π · G), and leaves the critic alone.

    The clipped surrogate of EduPPO, at a ratio of 1, has that gradient. Unknown returns weigh 0, also where the others are
    standardised (by the standard deviation over the whole rollout, in which the unknown ones stand at the mean).
    """
    model = make_reinforce(action=action, n_envs=2, engine=engine, normalize_advantage=normalize, ent_coef=0.1)
    collect(model)
    returns, known = returns_by_hand(model.rollout_buffer.rewards, dones_of(model), model.gamma)
    assert 0 < known.mean() < 1, "the rollout should hold both finished and unfinished episodes"
    if normalize:
        deviation = np.where(known, returns - returns[known].mean(), 0.0)
        weights = flat(deviation / np.sqrt((deviation**2).sum() / (deviation.size - 1)))
    else:
        weights = flat(np.where(known, returns, 0.0))
    assert float(weights[~flat(known).bool()].abs().sum()) == 0.0
    expected = step_by_hand(model, weights, None, ent_coef=0.1)
    before = parameters_of(model)
    model.train()
    after = parameters_of(model)
    assert largest_difference(after, expected) < 1e-4
    assert largest_difference(after, before) > 1e-2
    for name in before:
        if "value" in name:
            assert th.equal(after[name], before[name]), name


@pytest.mark.parametrize("engine", ["autograd", "numpy", "auto"])
def test_the_step_with_a_baseline(engine: Any) -> None:
    """With a baseline the weight is G - V, the critic follows G, and the returns go on with V where the rollout ends."""
    model = make_reinforce(
        n_envs=2, engine=engine, baseline=True, ent_coef=0.1, env={"end_probability": 0.08, "time_limit": 10**6}
    )
    collect(model)
    buffer, dones = model.rollout_buffer, dones_of(model)
    returns, known = returns_by_hand(buffer.rewards, dones, model.gamma)
    assert 0 < known.mean() < 1
    with th.no_grad():
        last_values = model.policy.predict_values(th.as_tensor(model._last_obs)).flatten().numpy()
    remaining = np.arange(len(returns), 0, -1)[:, None]
    targets = returns + ~known * model.gamma**remaining * last_values
    expected = step_by_hand(model, flat(targets - buffer.values), flat(targets), ent_coef=0.1)
    model.train()
    assert largest_difference(parameters_of(model), expected) < 1e-4


def test_one_step_per_rollout() -> None:
    """However many environments there are, an update is one epoch of one minibatch with all transitions."""
    model = make_reinforce(n_envs=3)
    assert (model.n_epochs, model.batch_size) == (1, 3 * N_STEPS)
    recorder = record(model)
    model.learn(2 * 3 * N_STEPS)
    model.logger.dump()
    row = recorder.rows[-1]
    assert row["train/n_updates"] == 2
    assert row["train/ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert row["train/clip_fraction"] == 0.0


# -- the weights ---------------------------------------------------------------------------------------------------------


def test_returns_of_the_two_step_probe_by_hand() -> None:
    """
    Episodes of rewards (0, 1) with γ = 0.5, five steps: G = (0.5, 1, 0.5, 1), and the fifth step's is unknown.

    Mean and deviation of the known ones are 0.75 and 0.25.
    """
    for normalize, unknown in ((False, 0.0), (True, 0.75)):
        env = make_vec_env(lambda: Probe("discount", discrete=True), seed=0)
        model = Reinforce("MlpPolicy", env, n_steps=5, gamma=0.5, normalize_advantage=normalize, seed=0, device="cpu")
        recorder = record(model)
        collect(model)
        model.train()
        model.logger.dump()
        np.testing.assert_allclose(model.rollout_buffer.advantages.flatten(), [0.5, 1.0, 0.5, 1.0, unknown])
        np.testing.assert_allclose(model.rollout_buffer.returns.flatten(), [0.5, 1.0, 0.5, 1.0, 0.0])
        assert recorder.rows[-1]["train/known_returns"] == pytest.approx(0.8)


def test_an_episode_begun_in_the_rollout_before_counts() -> None:
    """The return to go needs only what comes after: the fifth step is unknown, the sixth, in the next rollout, is known."""
    env = make_vec_env(lambda: Probe("discount", discrete=True), seed=0)
    model = Reinforce("MlpPolicy", env, n_steps=5, gamma=0.5, seed=0, device="cpu")
    model.learn(10)
    np.testing.assert_allclose(model.rollout_buffer.advantages.flatten(), [1.0, 0.5, 1.0, 0.5, 1.0])


@pytest.mark.parametrize("baseline", [False, True])
def test_time_limits(baseline: bool) -> None:
    """Without a critic a time limit is an end like any other; with one, γ V of the last observation is added there."""
    model = make_reinforce(baseline=baseline, env={"end_probability": 0.0, "time_limit": 5})
    rewards: list[float] = []
    last_observations: list[np.ndarray] = []

    class Watcher(BaseCallback):
        def _on_step(self) -> bool:
            rewards.append(float(self.locals["rewards"][0]))
            last_observations.append(self.locals["infos"][0].get("terminal_observation"))
            return True

    with th.no_grad():
        model.policy.value_net.bias.fill_(3.0)
    untrained = copy.deepcopy(model.policy)
    model.learn(N_STEPS, callback=Watcher())
    expected = np.array(rewards, np.float32)
    if baseline:
        for t in range(4, N_STEPS, 5):
            with th.no_grad():
                expected[t] += model.gamma * float(untrained.predict_values(th.as_tensor(last_observations[t])[None]))
    np.testing.assert_allclose(model.rollout_buffer.rewards.flatten(), expected, rtol=1e-5)


def test_a_rollout_without_an_end_teaches_nothing_and_says_so() -> None:
    """No episode ends, so no return is known: a warning names n_steps and the remedy, and the policy stays as it is."""
    for normalize in (False, True):
        model = make_reinforce(normalize_advantage=normalize, env={"end_probability": 0.0, "time_limit": 10**6})
        collect(model)
        before = parameters_of(model)
        with pytest.warns(UserWarning, match=r"no episode ended within the rollout of n_steps=32.*baseline=True"):
            model.train()
        assert largest_difference(parameters_of(model), before) == 0.0


# -- arguments, files, spaces --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"baseline": 1}, ("baseline=1", "True or False")),
        ({"baseline": None}, ("baseline=None", "True or False")),
        ({"n_steps": 1}, ("n_steps=1", "integer ≥ 2")),
        ({"n_steps": 2.5}, ("n_steps=2.5", "integer ≥ 2")),
        ({"vf_coef": 0.5}, ("vf_coef=0.5", "expected with baseline=True", "found baseline=False")),
        ({"vf_coef": -0.5, "baseline": True}, ("vf_coef=-0.5", "≥ 0")),
        ({"gamma": 1.5}, ("gamma=1.5", "≤ 1")),
        ({"engine": "bogus"}, ("engine='bogus'", "expected one of")),
        ({"action_distribution": "cauchy"}, ("action_distribution='cauchy'", "expected one of")),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], parts: tuple[str, ...]) -> None:
    """Each wrong argument is a ValueError with its name, what was found, and what was expected."""
    with pytest.raises(ValueError) as error:
        make_reinforce(**arguments)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["batch_size", "n_epochs", "clip_range", "gae_lambda", "target_kl", "dual_clip"])
def test_what_makes_ppo_is_no_argument(name: str) -> None:
    """The arguments of PPO's repeated, clipped updates do not exist here."""
    arguments: dict[str, Any] = {name: 1}
    with pytest.raises(TypeError, match=name):
        make_reinforce(**arguments)


@pytest.mark.parametrize("baseline", [False, True])
def test_save_and_load(tmp_path: Path, baseline: bool) -> None:
    """A model comes back with its baseline, weights of the losses and distribution, and trains on."""
    model = make_reinforce(
        n_envs=2,
        baseline=baseline,
        vf_coef="lin_0.25" if baseline else None,
        ent_coef="lin_0.01",
        gamma=0.9,
        normalize_advantage=True,
        action_distribution="beta",
        engine="autograd",
    )
    model.learn(4 * N_STEPS)
    model.save(tmp_path / "model")
    loaded = Reinforce.load(tmp_path / "model", env=make_env(n_envs=2), device="cpu")
    assert loaded.baseline is baseline
    assert (loaded.gamma, loaded.gae_lambda, loaded.normalize_advantage) == (0.9, 1.0, True)
    assert (loaded.action_distribution, loaded.engine) == ("beta", "autograd")
    assert (loaded.n_epochs, loaded.batch_size) == (1, 2 * N_STEPS)
    loaded._current_progress_remaining = 1.0
    settings = loaded.update_settings()
    assert (settings.vf_coef, settings.ent_coef) == (0.25 if baseline else 0.0, 0.01)
    assert largest_difference(parameters_of(loaded), parameters_of(model)) == 0.0
    loaded.learn(4 * N_STEPS, reset_num_timesteps=False)
    assert loaded.num_timesteps == 8 * N_STEPS
    assert largest_difference(parameters_of(loaded), parameters_of(model)) > 0.0


def test_load_with_another_number_of_environments(tmp_path: Path) -> None:
    """The one minibatch grows with the environments that a loaded model is given."""
    make_reinforce(n_envs=2).save(tmp_path / "model")
    loaded = Reinforce.load(tmp_path / "model", env=make_env(n_envs=3), device="cpu")
    assert loaded.batch_size == 3 * N_STEPS
    loaded.learn(3 * N_STEPS)
    assert loaded._n_updates == 1


@pytest.mark.parametrize(
    ("observation", "action", "distribution"),
    [
        ("box", "box", "tanh_gaussian"),
        ("box", "box", "beta"),
        ("discrete", "multidiscrete", "gaussian"),
        ("dict", "multibinary", "gaussian"),
        ("image", "discrete", "gaussian"),
    ],
)
@pytest.mark.parametrize("baseline", [False, True])
def test_every_kind_of_space_trains(observation: str, action: str, distribution: str, baseline: bool) -> None:
    """Two rollouts change the policy and leave it finite."""
    model = make_reinforce(
        observation, action, n_envs=2, baseline=baseline, action_distribution=distribution, learning_rate=0.01
    )
    before = parameters_of(model)
    model.learn(4 * N_STEPS)
    after = parameters_of(model)
    assert largest_difference(after, before) > 0.0
    assert all(bool(th.isfinite(value).all()) for value in after.values())


def test_tensorboard_run_has_its_own_name(tmp_path: Path) -> None:
    """Runs of both algorithms in one folder can be told apart."""
    make_reinforce(tensorboard_log=str(tmp_path)).learn(N_STEPS)
    assert [path.name for path in tmp_path.iterdir()] == ["Reinforce_1"]


# -- learning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [False, True])
def test_prefers_the_good_action(baseline: bool) -> None:
    """The probe that rewards one of two actions is solved."""
    env = make_vec_env(lambda: Probe("action", discrete=True), n_envs=4, seed=0)
    model = Reinforce("MlpPolicy", env, learning_rate=0.1, n_steps=16, baseline=baseline, seed=0, device="cpu")
    model.learn(40 * 4 * 16)
    actions, _ = model.predict(np.zeros((1000, 1), np.float32))
    assert actions.mean() > 0.9


@pytest.mark.parametrize("baseline", [False, True])
def test_improves_on_cartpole(baseline: bool) -> None:
    """From some 20 steps at random to more than 60 within 16,384 steps."""
    model = Reinforce("MlpPolicy", "CartPole-v1", n_steps=512, baseline=baseline, seed=0, device="cpu")
    env = make_vec_env("CartPole-v1", seed=100)
    before, _ = evaluate_policy(model, env, n_eval_episodes=20, deterministic=False, warn=False)
    model.learn(32 * 512)
    after, _ = evaluate_policy(model, env, n_eval_episodes=20, deterministic=False, warn=False)
    assert isinstance(before, float) and isinstance(after, float)
    assert before < 40.0
    assert after > 60.0


def test_is_an_eduppo() -> None:
    """The lesson compares two classes that share all but what it is about."""
    assert issubclass(Reinforce, EduPPO)
    own = {name for name, value in vars(Reinforce).items() if callable(value)}
    assert own == {"__init__", "_take_over_attributes", "_bootstrap_time_limits", "train", "_weigh_by_returns", "learn"}
