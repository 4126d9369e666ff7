"""Odd changes to a built model for the planted faults: each name here is a hook, or a function that returns one.

A hook changes the model in place before it learns. It only touches what Stable-Baselines3 makes public: the policy, its
optimiser, the rollout buffer, ``train`` and the environment.
"""

# ruff: noqa: B010 - a plain setattr shows that a method is replaced on purpose
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_ppo_edu import EduPPO

Hook = Callable[[EduPPO], None]


# --- models: general hooks --------------------------------------------------------------------------------------------


def actor_parameters(policy: nn.Module) -> list[nn.Parameter]:
    """The parameters that only the actor uses."""
    starts = ("mlp_extractor.policy_net", "action_net", "log_std")
    return [value for name, value in policy.named_parameters() if name.startswith(starts)]


def critic_parameters(policy: nn.Module) -> list[nn.Parameter]:
    """The parameters that only the critic uses."""
    return [value for name, value in policy.named_parameters() if name.startswith(("mlp_extractor.value_net", "value_net"))]


def with_policy(change: Callable[[Any], object]) -> Hook:
    """Change the policy once, without gradients."""

    def hook(model: EduPPO) -> None:
        with th.no_grad():
            change(model.policy)

    return hook


def around_step(change: Callable[[Any, Callable[[], Any]], object]) -> Hook:
    """Call ``change(policy, step)`` in place of each optimiser step."""

    def hook(model: EduPPO) -> None:
        step = model.policy.optimizer.step

        def changed(*_: Any, **__: Any) -> None:
            change(model.policy, step)

        setattr(model.policy.optimizer, "step", changed)

    return hook


def edit_gradients(choose: Callable[[Any], list[nn.Parameter]], change: Callable[[th.Tensor], th.Tensor]) -> Hook:
    """Change the chosen gradients just before each optimiser step."""

    def before(policy: Any, step: Callable[[], Any]) -> None:
        for parameter in choose(policy):
            if parameter.grad is not None:
                parameter.grad = change(parameter.grad)
        step()

    return around_step(before)


def edit_buffer(change: Callable[[Any, EduPPO], object], before_returns: bool = False) -> Hook:
    """Change the rollout just after (or just before) its returns and advantages are computed."""

    def hook(model: EduPPO) -> None:
        compute = model.rollout_buffer.compute_returns_and_advantage

        def changed(**given: Any) -> None:
            if before_returns:
                change(model.rollout_buffer, model)
            compute(**given)
            if not before_returns:
                change(model.rollout_buffer, model)

        setattr(model.rollout_buffer, "compute_returns_and_advantage", changed)

    return hook


def edit_samples(change: Callable[[Any, Any], Any]) -> Hook:
    """Change each minibatch as it leaves the buffer: ``change(samples, policy)``."""

    def hook(model: EduPPO) -> None:
        draw = model.rollout_buffer._get_samples
        setattr(model.rollout_buffer, "_get_samples", lambda *given: change(draw(*given), model.policy))

    return hook


def edit_evaluation(change: Callable[[Any, Any, Any], Any]) -> Hook:
    """Replace ``policy.evaluate_actions`` by ``change(evaluate, observations, actions)``."""

    def hook(model: EduPPO) -> None:
        evaluate = model.policy.evaluate_actions
        setattr(model.policy, "evaluate_actions", lambda seen, actions: change(evaluate, seen, actions))

    return hook


def after_update(change: Callable[[EduPPO], object]) -> Hook:
    """Do ``change(model)`` after every update."""

    def hook(model: EduPPO) -> None:
        train = model.train

        def changed() -> None:
            train()
            change(model)

        setattr(model, "train", changed)

    return hook


# --- models: networks and optimiser -----------------------------------------------------------------------------------


def freeze(choose: Callable[[Any], list[nn.Parameter]]) -> Hook:
    """The chosen parameters never change."""

    def hook(model: EduPPO) -> None:
        for parameter in choose(model.policy):
            parameter.requires_grad_(False)

    return hook


def optimiser_holds_old_network(model: EduPPO) -> None:
    """The networks are replaced by equal ones after the optimiser was built for the old ones."""
    for name in ("mlp_extractor", "action_net", "value_net"):
        setattr(model.policy, name, copy.deepcopy(getattr(model.policy, name)))


def gradients_add_up(model: EduPPO) -> None:
    """Gradients are never set back to zero."""
    setattr(model.policy.optimizer, "zero_grad", lambda *_, **__: None)


def many_steps(times: int) -> Hook:
    """Each gradient is applied many times."""
    return around_step(lambda _, step: [step() for _ in range(times)])


def skip_steps(chance: float) -> Hook:
    """Most steps are skipped, as an over-careful guard against bad numbers does."""
    return around_step(lambda _, step: step() if float(th.rand(1)) > chance else None)


def store_as_bfloat16(policy: Any, step: Callable[[], Any]) -> None:
    """Round the weights to 16 bits after each step."""
    step()
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(parameter.bfloat16().float())


def dead_units(policy: Any) -> None:
    """Biases so low that no rectified unit ever opens."""
    for layer in policy.mlp_extractor.modules():
        if isinstance(layer, nn.Linear):
            layer.bias.fill_(-100.0)


def dropout_in_rollout(model: EduPPO) -> None:
    """The actor has dropout, and it also acts with it."""
    extractor = model.policy.mlp_extractor
    extractor.policy_net = nn.Sequential(extractor.policy_net, nn.Dropout(0.5))
    training_mode = model.policy.set_training_mode
    setattr(model.policy, "set_training_mode", lambda _: training_mode(True))


def squash_critic(model: EduPPO) -> None:
    """The critic's output passes through a tanh although returns are far outside -1 to 1."""
    setattr(model.policy, "value_net", nn.Sequential(model.policy.value_net, nn.Tanh()))


def old_actor_acts(model: EduPPO) -> None:
    """Rollouts come from a copy of the first policy that is never brought up to date."""
    first = copy.deepcopy(model.policy)
    setattr(model.policy, "forward", first.forward)


def weights_restored(model: EduPPO) -> None:
    """The first weights are loaded again after every update."""
    first = copy.deepcopy(model.policy.state_dict())
    after_update(lambda trained: trained.policy.load_state_dict(first))(model)


# --- models: data -----------------------------------------------------------------------------------------------------


def first_rollout_forever() -> Hook:
    """The learner always gets the first rollout, for example through a cache."""
    names = ("observations", "actions", "rewards", "values", "log_probs", "advantages", "returns", "episode_starts")
    kept: dict[str, np.ndarray] = {}

    def change(buffer: Any, _: EduPPO) -> None:
        for name in names:
            setattr(buffer, name, kept.setdefault(name, getattr(buffer, name).copy()).copy())

    def hook(model: EduPPO) -> None:
        kept.clear()
        edit_buffer(change)(model)

    return hook


def same_rows(model: EduPPO) -> None:
    """The sampler only ever returns the first 16 rows."""
    draw = model.rollout_buffer._get_samples
    setattr(model.rollout_buffer, "_get_samples", lambda rows, *rest: draw(rows % 16, *rest))


def time_order(model: EduPPO) -> None:
    """Minibatches are consecutive steps of one copy."""
    buffer, get = model.rollout_buffer, model.rollout_buffer.get

    def ordered(batch_size: int | None = None) -> Iterator[Any]:
        next(iter(get(batch_size)))
        total = buffer.buffer_size * buffer.n_envs
        size = batch_size or total
        for start in range(0, total, size):
            yield buffer._get_samples(np.arange(start, min(start + size, total)))

    setattr(buffer, "get", ordered)


def record_best_action(buffer: Any, model: EduPPO) -> None:
    """Store the most likely action in place of the one that was taken."""
    seen = buffer.observations.reshape(-1, buffer.observations.shape[-1])
    best, _ = model.policy.predict(seen, deterministic=True)
    buffer.actions[:] = best.reshape(buffer.actions.shape)


def shuffle_advantages(buffer: Any, _: EduPPO) -> None:
    """Give every step the advantage of some other step."""
    buffer.advantages = np.random.permutation(buffer.advantages.ravel()).reshape(buffer.advantages.shape)


def ratio_is_always_one(samples: Any, policy: Any) -> Any:
    """Compute the old log-probabilities afresh for each minibatch, with the current policy."""
    discrete = policy.action_space.shape == ()
    actions = samples.actions.long().flatten() if discrete else samples.actions
    with th.no_grad():
        log_prob = policy.evaluate_actions(samples.observations, actions)[1]
    return samples._replace(old_log_prob=log_prob)


def average_log_probs(evaluate: Any, seen: Any, actions: Any) -> Any:
    """Average the log-probabilities over the batch, the wrong axis."""
    values, log_prob, entropy = evaluate(seen, actions)
    return values, log_prob.mean().expand(log_prob.shape), entropy


def drop_last_value(model: EduPPO) -> None:
    """The rollout's last value is taken as zero: the world is thought to end with every rollout."""
    compute = model.rollout_buffer.compute_returns_and_advantage

    def changed(last_values: th.Tensor, dones: np.ndarray) -> None:
        compute(last_values=th.zeros_like(last_values), dones=dones)

    setattr(model.rollout_buffer, "compute_returns_and_advantage", changed)


# --- models: normalisation and evaluation -----------------------------------------------------------------------------


def normalised(change: Callable[[VecNormalize], object] | None = None, **options: Any) -> Hook:
    """Put a normaliser round the environment; ``change`` it once, before learning."""

    def hook(model: EduPPO) -> None:
        assert model.env is not None
        model.env = model._vec_normalize_env = VecNormalize(model.env, **options)
        if change is not None:
            change(model.env)

    return hook


def foreign_statistics(env: VecNormalize) -> None:
    """Use the frozen statistics of some other task."""
    env.training = False
    env.obs_rms.mean[:], env.obs_rms.var[:] = 40.0, 400.0  # type: ignore[attr-defined]


def statistics_restart(model: EduPPO) -> None:
    """The normaliser's statistics are thrown away after every update."""
    normalised(norm_reward=False)(model)

    def restart(trained: EduPPO) -> None:
        env = trained.get_vec_normalize_env()
        assert env is not None
        env.obs_rms = RunningMeanStd(shape=trained.observation_space.shape or ())  # type: ignore[assignment]

    after_update(restart)(model)


def evaluation_feeds_statistics(model: EduPPO) -> None:
    """Evaluation data in other units is counted into the training normaliser after every update."""
    normalised(norm_reward=False)(model)

    def evaluate(trained: EduPPO) -> None:
        env = trained.get_vec_normalize_env()
        assert env is not None
        env.obs_rms.update(1000.0 * np.random.randn(512, *(trained.observation_space.shape or ())))

    after_update(evaluate)(model)


def evaluate_in_training_environment(trained: EduPPO) -> None:
    """Evaluate for a few steps on the training copies, and go on as if nothing had moved them."""
    assert trained.env is not None
    seen: Any = trained.env.reset()
    for _ in range(15):
        seen = trained.env.step(trained.predict(seen, deterministic=True)[0])[0]


def keep_best_of_one_episode(model: EduPPO) -> None:
    """After every update the weights of the single luckiest episode so far are put back."""
    best: dict[str, Any] = {"score": -np.inf, "weights": copy.deepcopy(model.policy.state_dict())}

    def restore(trained: EduPPO) -> None:
        score = max((float(episode["r"]) for episode in list(trained.ep_info_buffer or [])[-8:]), default=-np.inf)
        if score > best["score"]:
            best.update(score=score, weights=copy.deepcopy(trained.policy.state_dict()))
        trained.policy.load_state_dict(best["weights"])

    after_update(restore)(model)
