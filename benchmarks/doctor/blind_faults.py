"""Planted faults for a blind trial of a training doctor, and unusual but sound trainings it should leave alone.

Each fault names one cause. Its settings replace the base task's sound ones (see ``blind_parts.SOUND``), its wrapper goes
round every copy of the environment (outermost, as ``make_vec_env(wrapper_class=...)`` puts it), and its hook changes the
built model before it learns. Some need at least two parallel copies, or the number of copies in ``blind_parts.COPIES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import blind_hooks as h
import blind_parts as p
import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from stable_baselines3.common.monitor import Monitor
from torch import nn

from sb3_ppo_edu import EduPPO


@dataclass(frozen=True)
class Fault:
    """One planted training.

    :param name: A short name, one word with underscores.
    :param family: "settings", "environment", "algorithm", "data", "reward" or "evaluation"; "healthy" for a sound one.
    :param what: The planted cause in one sentence.
    :param base: The task.
    :param settings: EduPPO arguments that replace the base's sound ones.
    :param wrapper: Goes round each copy of the environment.
    :param model_hook: Changes the built model before it learns.
    :param steps: How long to train.
    """

    name: str
    family: str
    what: str
    base: str
    settings: dict[str, Any] = field(default_factory=dict)
    wrapper: Callable[[gym.Env], gym.Env] | None = None
    model_hook: Callable[[EduPPO], None] | None = None
    steps: int = 30_000


CART, SWING, ACRO, HILL = "CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"


def _of(family: str, *rows: tuple[Any, ...]) -> list[Fault]:
    """Faults of one family from rows of name, cause, base and the changed fields."""
    return [Fault(row[0], family, row[1], row[2], **row[3]) for row in rows]


def _set(steps: int = 30_000, **settings: Any) -> dict[str, Any]:
    return {"settings": settings, "steps": steps}


def _env(wrapper: Callable[[gym.Env], gym.Env], steps: int = 30_000, **settings: Any) -> dict[str, Any]:
    return {"wrapper": wrapper, "steps": steps, "settings": settings}


def _hook(hook: Callable[[EduPPO], None], steps: int = 30_000, **settings: Any) -> dict[str, Any]:
    return {"model_hook": hook, "steps": steps, "settings": settings}


def _net(**kwargs: Any) -> dict[str, Any]:
    return {"policy_kwargs": kwargs}


SETTINGS = _of(
    "settings",
    ("rate_far_too_high", "The learning rate is 0.1.", CART, _set(learning_rate=0.1)),
    ("rate_far_too_low", "The learning rate is 1e-7.", CART, _set(learning_rate=1e-7)),
    ("rate_ends_at_once", "The learning-rate schedule reaches zero after 3 percent of the training.", CART,
     _set(learning_rate=lambda left: 1e-3 * max(0.0, (left - 0.97) / 0.03))),
    ("rate_schedule_reversed", "The schedule takes what is left for what is done, so the rate rises to 0.05.", CART,
     _set(60_000, learning_rate=lambda left: 0.05 * (1.0 - left) + 1e-5)),
    ("clip_too_narrow", "The clip range is 0.0005, so no update can move the policy.", CART, _set(clip_range=0.0005)),
    ("clip_missing", "A clip range of 10 with many epochs and a high rate leaves the policy without a trust region.", CART,
     _set(clip_range=10.0, n_epochs=30, learning_rate=1e-2)),
    ("clip_schedule_ends", "The clip schedule falls to almost zero after a tenth of the training.", SWING,
     _set(40_000, clip_range=lambda left: 0.2 if left > 0.9 else 1e-4)),
    ("kl_limit_too_strict", "target_kl of 1e-6 stops each update after its first step or two.", CART, _set(target_kl=1e-6)),
    ("gradient_clip_too_tight", "max_grad_norm of 1e-8 lies far below the epsilon of Adam.", CART, _set(max_grad_norm=1e-8)),
    ("discount_too_short", "A discount of 0.5 cannot see a goal a hundred steps away.", ACRO, _set(60_000, gamma=0.5)),
    ("discount_zero", "A discount of zero: every action is judged by its own reward alone, which is always one.", CART,
     _set(gamma=0.0)),
    ("no_discount_endless_task", "No discount and lambda one in a task that never ends: returns are mostly noise.", SWING,
     _set(40_000, gamma=1.0, gae_lambda=1.0)),
    ("lambda_zero", "Lambda zero: the advantage trusts the critic after one step, before it knows anything.", ACRO,
     _set(60_000, gae_lambda=0.0)),
    ("entropy_bonus_drowns_task", "The entropy coefficient is 2, so the policy stays uniform.", CART, _set(ent_coef=2.0)),
    ("entropy_bonus_widens_gaussian", "The entropy coefficient is 0.5, so the Gaussian grows wider without end.", SWING,
     _set(40_000, ent_coef=0.5)),
    ("entropy_bonus_negative", "The entropy coefficient has the wrong sign and closes exploration.", ACRO,
     _set(60_000, ent_coef=-0.2)),
    ("entropy_bonus_grows", "The entropy schedule runs backwards: the bonus grows to 1 at the end.", CART,
     _set(60_000, ent_coef=lambda left: 1.0 - left)),
    ("critic_weight_zero", "vf_coef is zero, so the critic never learns.", SWING, _set(40_000, vf_coef=0.0)),
    ("critic_weight_starves_actor", "vf_coef of 1000 on a shared network leaves nothing of the clipped gradient.", SWING,
     _set(40_000, vf_coef=1000.0, shared_net_arch=[64, 64])),
    ("value_clip_too_narrow", "clip_range_vf of 0.01 holds the critic where returns are in the hundreds.", SWING,
     _set(40_000, clip_range_vf=0.01, gamma=0.98)),
    ("minibatch_of_two", "Minibatches of two: normalised advantages are always plus and minus 0.7.", CART,
     _set(n_steps=64, batch_size=2, n_epochs=1)),
    ("ragged_last_minibatch", "The batch size leaves a last minibatch of a single sample after each pass.", SWING,
     _set(40_000, n_steps=256, batch_size=1023)),
    ("rollout_of_two_steps", "Two steps for each rollout in a task whose reward comes after hundreds.", ACRO,
     _set(60_000, n_steps=2, batch_size=16, n_epochs=4)),
    ("rollout_takes_whole_budget", "n_steps is so long that the training holds only one or two updates.", CART,
     _set(n_steps=4096, batch_size=4096)),
    ("too_many_epochs", "A hundred epochs over every small rollout at a high rate.", CART,
     _set(n_epochs=100, learning_rate=1e-2)),
    ("too_few_gradient_steps", "One epoch with one minibatch at a small rate: a step for each rollout.", CART,
     _set(n_steps=256, batch_size=2048, n_epochs=1, learning_rate=1e-4)),
    ("network_too_small", "Both networks have one unit.", SWING, _set(40_000, **_net(net_arch={"pi": [1], "vf": [1]}))),
    ("sigmoids_ten_deep", "Ten sigmoid layers without orthogonal start: gradients vanish.", CART,
     _set(**_net(net_arch=[32] * 10, activation_fn=nn.Sigmoid, ortho_init=False))),
    ("exploration_closed_at_start", "log_std_init of -8: the agent tries nothing and ratios explode.", SWING,
     _set(40_000, **_net(log_std_init=-8.0))),
    ("exploration_saturates_bounds", "log_std_init of 5: nearly each action is cut off at a bound.", SWING,
     _set(40_000, **_net(log_std_init=5.0))),
    ("std_floor_too_high", "log_std_bounds keep the spread above four times the motor's range.", SWING,
     _set(40_000, log_std_bounds=(2.0, 3.0), **_net(log_std_init=2.1))),
    ("plain_sgd_at_adam_rate", "Plain gradient descent runs at a rate meant for Adam.", CART,
     _set(learning_rate=3e-4, **_net(optimizer_class=th.optim.SGD))),
    ("weight_decay_too_strong", "A weight decay of 1 pulls all weights to zero.", CART,
     _set(**_net(optimizer_kwargs={"weight_decay": 1.0, "eps": 1e-5}))),
    ("adam_epsilon_one", "Adam's epsilon is 1, larger than nearly any gradient.", CART,
     _set(learning_rate=3e-4, **_net(optimizer_kwargs={"eps": 1.0}))),
    ("adam_momentum_too_long", "Adam's first beta is 0.9999: steps follow gradients thousands of steps old.", CART,
     _set(learning_rate=3e-3, **_net(optimizer_kwargs={"betas": (0.9999, 0.9999), "eps": 1e-5}))),
    ("small_rewards_drowned", "Rewards of 0.001 without advantage normalisation: the entropy bonus of 0.01 wins.", CART,
     _env(p.pay(lambda reward: 0.001 * float(reward)), normalize_advantage=False, ent_coef=0.01)),
    ("raw_huge_advantages", "Rewards a thousand times larger, no normalisation, one shared network.", SWING,
     _env(p.pay(lambda reward: 1000.0 * float(reward)), 40_000, normalize_advantage=False, shared_net_arch=[64, 64])),
    ("no_exploration_sparse_goal", "White action noise that cancels out never climbs the hill; the agent learns to rest.",
     HILL, _set(40_000, use_sde=False, sde_sample_freq=-1, ent_coef=0.0)),
)  # fmt: skip

ENVIRONMENT = _of(
    "environment",
    ("observation_always_zero", "The observation is always zero.", CART, _env(p.observe(np.zeros_like))),
    ("velocities_missing", "Both velocities are missing from the observation.", CART,
     _env(p.observe(lambda seen: seen * [1, 0, 1, 0]))),
    ("observation_too_large", "Observations come a thousand times too large and saturate the units.", SWING,
     _env(p.observe(lambda seen: 1000.0 * seen), 40_000)),
    ("observation_too_small", "Observations come ten thousand times too small.", CART,
     _env(p.observe(lambda seen: 1e-4 * seen))),
    ("observation_far_from_zero", "A constant of 500 is added to each component.", CART,
     _env(p.observe(lambda seen: seen + 500.0))),
    ("one_component_in_other_units", "One component is in millionths, and outshouts the others.", CART,
     _env(p.observe(lambda seen: seen * [1e6, 1, 1, 1]))),
    ("observation_cut_too_tight", "Observations are cut off at plus and minus 0.02.", CART,
     _env(p.observe(lambda seen: np.clip(seen, -0.02, 0.02)))),
    ("observation_rounded", "Observations are rounded to whole numbers.", CART, _env(p.observe(np.round))),
    ("observation_cast_to_bytes", "Observations are cast to unsigned bytes, and negative numbers wrap round.", SWING,
     _env(p.as_bytes, 40_000)),
    ("angle_in_raw_degrees", "The angle comes as 0 to 360 degrees, unscaled, with a jump at the upright position.", SWING,
     _env(p.observe(lambda seen: [np.degrees(np.arctan2(seen[1], seen[0])) % 360.0, seen[2]], 2), 40_000)),
    ("sensor_noise_drowns_state", "Noise of twice the signal's size lies on every reading.", CART,
     _env(p.observe_with_chance(lambda seen, chance: seen + chance.normal(0.0, 2.0, seen.shape)))),
    ("readings_lost_become_zero", "A guard against bad numbers turns seven of ten readings into zeros.", CART,
     _env(p.observe_with_chance(lambda seen, chance: seen * (chance.random() > 0.7)))),
    ("slow_sensor", "The observation is refreshed only every tenth step.", CART, _env(p.slow_sensor(10))),
    ("late_observation", "The observation is six steps old.", CART, _env(p.late_observations(6))),
    ("components_shuffled", "The components change places in each episode.", CART, _env(p.ShuffledEachEpisode)),
    ("old_observation_at_reset", "Reset returns the last observation of the episode before.", CART,
     _env(p.OldObservationAtReset)),
    ("copies_overwrite_each_other", "The copies share one observation array, so each sees its neighbour's state.", CART,
     _env(p.crossed_copies())),
    ("hundreds_of_noise_inputs", "A thousand random numbers are appended to the observation.", SWING,
     _env(p.observe_with_chance(lambda seen, chance: np.concatenate([seen, chance.normal(0, 1, 1000)]), 1003), 40_000)),
    ("episode_never_ends_on_failure", "The fall of the pole does not end the episode.", CART,
     _env(p.failure_goes_on)),
    ("episode_ends_each_step", "Every step reports the end of the episode.", CART,
     _env(p.chain(p.outcome(lambda out, _: (out[0], out[1], True, out[3], out[4])), Monitor))),
    ("failure_reported_as_time_limit", "A fall is reported as a time limit, so its future is still counted.", CART,
     _env(p.outcome(lambda out, _: (out[0], out[1], False, out[2] or out[3], out[4])))),
    ("time_limit_reported_as_end", "A time limit of 25 steps is reported as a real end.", SWING,
     _env(p.chain(p.time_limit(25), p.outcome(lambda out, _: (*out[:2], out[2] or out[3], False, out[4])), Monitor), 40_000,
          gamma=0.99)),
    ("episodes_end_at_random", "Each step ends the episode with a chance of one in five.", CART,
     _env(p.chain(p.outcome(lambda out, chance: (*out[:2], bool(out[2] or chance.random() < 0.2), *out[3:])), Monitor))),
    ("time_limit_too_short_for_goal", "Episodes are cut after 40 steps, before any can reach the goal.", ACRO,
     _env(p.chain(p.time_limit(40), Monitor), 60_000)),
    ("reset_keeps_state", "Reset leaves the fallen pole where it lies.", CART, _env(p.ResetKeepsState)),
    ("same_start_every_episode", "Every episode starts from the same seed, so the agent learns one start by heart.", SWING,
     _env(p.SameStart, 40_000)),
    ("action_ignored", "The environment carries out a random action whatever the agent says.", CART,
     _env(p.act_with_chance(lambda action, chance: int(chance.integers(2))))),
    ("random_actions_on_top", "An outer exploration layer replaces most actions without telling the learner.", CART,
     _env(p.act_with_chance(lambda action, chance: int(chance.integers(2)) if chance.random() < 0.8 else action))),
    ("unlogged_action_noise", "The motor adds noise of three times its range to each action.", SWING,
     _env(p.act_with_chance(lambda action, chance: action + chance.normal(0.0, 6.0, action.shape)), 40_000)),
    ("late_action", "Each action is carried out six steps late.", CART, _env(p.late_actions(6, 0))),
    ("commands_lost", "Nine of ten commands are lost and the last one stays in force.", CART,
     _env(p.hold_action(1, lost=0.9))),
    ("action_held_too_long", "Each action is held for 15 steps of the simulator.", CART, _env(p.hold_action(15))),
    ("controls_swap_each_episode", "Left and right are swapped in a random half of the episodes.", CART,
     _env(p.ControlsSwapEachEpisode)),
    ("rules_change_half_way", "Left and right are swapped for good half-way through.", CART,
     _env(p.rules_change(3750), 60_000)),
    ("one_action_unreachable", "Both actions push to the left.", CART, _env(p.act(lambda action: 0))),
    ("torque_cut_to_steps", "The torque is cut to whole steps of 2, so nearly all actions mean zero.", SWING,
     _env(p.act(lambda action: np.trunc(action / 2.0) * 2.0), 40_000)),
    ("action_scale_too_large", "Actions are multiplied by 100 on the way to the motor.", SWING,
     _env(p.act(lambda action: 100.0 * action), 40_000)),
    ("action_rescaled_twice", "Actions are divided by the motor's range twice over and hardly reach it.", SWING,
     _env(p.act(lambda action: action / 16.0), 40_000)),
    ("action_bounds_one_sided", "The declared action bounds are 0 to 2, so the motor only turns one way.", SWING,
     _env(p.action_bounds(0.0, 2.0), 40_000)),
    ("time_step_too_small", "The simulator's time step is a hundred times too small for anything to happen.", SWING,
     _env(p.physics(dt=0.0005), 40_000)),
    ("load_too_heavy", "The load is so heavy that the motor cannot lift it.", SWING, _env(p.physics(g=60.0), 40_000)),
    ("goal_out_of_reach", "The goal lies behind the wall at the end of the track.", HILL,
     _env(p.physics(goal_position=0.7), 40_000)),
)  # fmt: skip

REWARD = _of(
    "reward",
    ("reward_sign", "The reward has the wrong sign, so falling is best.", CART, _env(p.pay(lambda reward: -float(reward)))),
    ("reward_constant", "The reward is always one in a task of fixed length.", SWING, _env(p.pay(lambda _: 1.0), 40_000)),
    ("reward_zero", "The reward is always zero.", ACRO, _env(p.pay(lambda _: 0.0), 60_000)),
    ("reward_clipped_to_sign", "Only the reward's sign is kept, and it is always minus one.", SWING,
     _env(p.pay(lambda reward: float(np.sign(reward))), 40_000)),
    ("reward_at_the_end", "The whole return is paid on the last of 200 steps, with a discount of 0.9.", SWING,
     _env(p.RewardAtTheEnd, 40_000)),
    ("reward_late", "Rewards come 40 steps late and leak into the next episode.", SWING, _env(p.late_reward(40), 40_000)),
    ("reward_noise", "Noise with a spread of 300 lies on a reward between -16 and 0.", SWING,
     _env(p.pay_with_chance(lambda reward, chance: reward + chance.normal(0.0, 300.0)), 40_000)),
    ("reward_glitches", "One step in 300 pays plus or minus 100,000.", CART,
     _env(p.pay_with_chance(lambda reward, chance: reward if chance.random() > 1 / 300 else chance.choice([-1e5, 1e5])))),
    ("reward_too_large", "The reward is a million for each step and the critic cannot follow.", CART,
     _env(p.pay(lambda reward: 1e6 * float(reward)))),
    ("reward_too_small", "The reward is 1e-9 for each step, below the critic's own noise.", CART,
     _env(p.pay(lambda reward: 1e-9 * float(reward)))),
    ("reward_mean_subtracted", "A home-made normaliser also subtracts the mean, and nothing is left of a constant one.", CART,
     _env(p.RewardMinusMean)),
    ("reward_of_first_state", "The reward of the first state is paid all through the episode.", SWING,
     _env(p.RewardOfFirstState, 40_000)),
    ("bad_rewards_filtered_out", "An outlier filter turns every reward below -4 into zero, so hanging down is free.", SWING,
     _env(p.pay(lambda reward: 0.0 if reward < -4.0 else float(reward)), 40_000)),
    ("shaping_pays_spinning", "A speed bonus is worth more than the upright position.", SWING,
     _env(p.pay_for(lambda seen, _, reward: reward + seen[2] ** 2), 40_000)),
    ("action_cost_drowns_task", "A cost on torque is so high that doing nothing is best.", SWING,
     _env(p.pay_for(lambda _, action, reward: reward - 20.0 * float(np.square(action).sum())), 40_000)),
    ("living_bonus_avoids_goal", "A bonus for each step makes it best never to reach the goal.", ACRO,
     _env(p.pay(lambda reward: float(reward) + 2.0), 60_000)),
    ("step_cost_removed", "Without the step cost only the goal pays, and the first policies never find it.", ACRO,
     _env(p.pay(lambda reward: float(reward) + 1.0), 60_000)),
    ("ending_is_cheapest", "High speed ends the episode, and as all rewards are negative it hurries to end it.", SWING,
     _env(p.chain(p.outcome(lambda out, _: (*out[:2], bool(out[2] or abs(out[0][2]) > 4.0), *out[3:])), Monitor), 40_000,
          gamma=0.99)),
)  # fmt: skip

DATA = _of(
    "data",
    ("statistics_of_another_task", "The normaliser uses the frozen statistics of some other task.", CART,
     _hook(h.normalised(h.foreign_statistics, norm_reward=False))),
    ("statistics_restart", "The normaliser's statistics start afresh after every update.", CART, _hook(h.statistics_restart)),
    ("normalised_reward_cut", "Normalised rewards are cut off at 0.01, which leaves only their sign.", SWING,
     _hook(h.normalised(norm_obs=False, clip_reward=0.01), 40_000)),
    ("normalised_observation_cut", "Normalised observations are cut off at 0.001.", CART,
     _hook(h.normalised(norm_reward=False, clip_obs=0.001))),
    ("observations_out_of_line", "Stored observations are three steps out of line with their actions.", CART,
     _hook(h.edit_buffer(lambda buffer, _: setattr(buffer, "observations", np.roll(buffer.observations, 3, axis=0))))),
    ("observations_rounded_in_buffer", "The buffer stores observations as whole numbers.", CART,
     _hook(h.edit_buffer(lambda buffer, _: np.round(buffer.observations, out=buffer.observations)))),
    ("clipped_actions_stored", "The buffer stores the clipped action, with the log-probability of the unclipped one.", SWING,
     _hook(h.edit_buffer(lambda buffer, _: np.clip(buffer.actions, -2.0, 2.0, out=buffer.actions)), 40_000,
           **_net(log_std_init=1.5))),
    ("best_action_stored", "The buffer stores the most likely action in place of the one taken.", CART,
     _hook(h.edit_buffer(h.record_best_action))),
    ("old_log_probs_zero", "The stored log-probabilities are all zero.", CART,
     _hook(h.edit_buffer(lambda buffer, _: buffer.log_probs.fill(0.0)))),
    ("first_rollout_forever", "A cache returns the first rollout for ever.", CART, _hook(h.first_rollout_forever())),
    ("same_rows_drawn", "The sampler only ever draws the first 16 rows.", CART, _hook(h.same_rows)),
    ("minibatches_in_time_order", "Minibatches are consecutive steps of one copy, never shuffled.", SWING,
     _hook(h.time_order, 40_000)),
    ("rewards_shuffled", "Rewards are stored in random order.", SWING,
     _hook(h.edit_buffer(lambda buffer, _: np.random.shuffle(buffer.rewards), before_returns=True), 40_000)),
    ("noise_only_in_update", "Augmentation noise is added in the update but not while acting.", CART,
     _hook(h.edit_evaluation(lambda evaluate, seen, actions: evaluate(seen + 2.0 * th.randn_like(seen), actions)))),
)  # fmt: skip

ALGORITHM = _of(
    "algorithm",
    ("advantages_all_positive", "The absolute advantage is used, so every action is praised.", CART,
     _hook(h.edit_buffer(lambda buffer, _: np.abs(buffer.advantages, out=buffer.advantages)), normalize_advantage=False)),
    ("advantages_shuffled", "Advantages belong to other steps than they are given to.", CART,
     _hook(h.edit_buffer(h.shuffle_advantages))),
    ("advantages_negated", "The policy loss has the wrong sign.", CART,
     _hook(h.edit_buffer(lambda buffer, _: np.negative(buffer.advantages, out=buffer.advantages)))),
    ("discount_above_one", "The advantage estimate uses a discount of 1.05 and values run away.", SWING,
     _hook(lambda model: setattr(model.rollout_buffer, "gamma", 1.05), 40_000)),
    ("end_mask_lost", "The advantage estimate ignores where episodes end.", CART,
     _hook(h.edit_buffer(lambda buffer, _: buffer.episode_starts.fill(0.0), before_returns=True))),
    ("end_mask_off_by_one", "The marks of the episodes' ends are one step late.", CART,
     _hook(h.edit_buffer(lambda buffer, _: setattr(buffer, "episode_starts", np.roll(buffer.episode_starts, 1, axis=0)),
                         before_returns=True))),
    ("no_value_after_rollout", "The future after each short rollout counts as zero.", ACRO,
     _hook(h.drop_last_value, 60_000, n_steps=16)),
    ("critic_target_is_advantage", "The critic learns the advantages in place of the returns.", SWING,
     _hook(h.edit_buffer(lambda buffer, _: setattr(buffer, "returns", buffer.advantages.copy())), 40_000)),
    ("value_loss_sign", "The value loss has the wrong sign.", CART,
     _hook(h.edit_gradients(h.critic_parameters, lambda gradient: -gradient))),
    ("old_log_probs_recomputed", "The old log-probabilities are computed afresh, so nothing is ever clipped.", CART,
     _hook(h.edit_samples(h.ratio_is_always_one), n_epochs=30, learning_rate=1e-2)),
    ("log_probs_averaged_over_batch", "Log-probabilities are averaged over the batch, the wrong axis.", CART,
     _hook(h.edit_evaluation(h.average_log_probs))),
    ("actor_frozen", "The actor's weights never change.", CART, _hook(h.freeze(h.actor_parameters))),
    ("critic_frozen", "The critic's weights never change.", SWING, _hook(h.freeze(h.critic_parameters), 40_000)),
    ("spread_frozen_wide", "The Gaussian starts wide and its spread is not among the trained parameters.", SWING,
     _hook(h.freeze(lambda policy: [policy.log_std]), 40_000, **_net(log_std_init=2.0))),
    ("optimiser_holds_old_network", "The network was replaced after the optimiser was built.", CART,
     _hook(h.optimiser_holds_old_network)),
    ("gradients_add_up", "Gradients are never set back to zero.", CART, _hook(h.gradients_add_up)),
    ("gradient_noise", "Noise far larger than the gradient is added to it.", CART,
     _hook(h.edit_gradients(lambda policy: list(policy.parameters()), lambda gradient: th.randn_like(gradient)))),
    ("many_steps_per_gradient", "Every gradient is applied 40 times.", CART, _hook(h.many_steps(40))),
    ("steps_skipped", "A guard against bad numbers skips 99 of 100 steps.", CART, _hook(h.skip_steps(0.99))),
    ("weights_in_16_bits", "Weights are kept in 16 bits, where steps of a small rate are lost to rounding.", CART,
     _hook(h.around_step(h.store_as_bfloat16), learning_rate=3e-5)),
    ("weights_restored_each_update", "A checkpoint is loaded again after each update.", CART, _hook(h.weights_restored)),
    ("old_actor_acts", "The copy of the policy that acts is never brought up to date.", CART, _hook(h.old_actor_acts)),
    ("dropout_in_rollout", "The actor acts with dropout of one half, and is updated with other masks.", CART,
     _hook(h.dropout_in_rollout)),
    ("units_all_dead", "The biases start so low that no rectified unit ever opens.", CART,
     _hook(h.with_policy(h.dead_units), **_net(activation_fn=nn.ReLU))),
    ("policy_starts_certain", "The last layer starts so large that the first policy never explores.", CART,
     _hook(h.with_policy(lambda policy: policy.action_net.weight.mul_(1e5)))),
    ("critic_starts_far_off", "The critic starts at 100,000 where returns are about a hundred.", CART,
     _hook(h.with_policy(lambda policy: policy.value_net.bias.fill_(1e5)))),
    ("critic_output_squashed", "The critic's output passes through a tanh.", SWING, _hook(h.squash_critic, 40_000)),
)  # fmt: skip

EVALUATION = _of(
    "evaluation",
    ("evaluates_in_training_copies", "Evaluation steps the training copies and training goes on from old observations.", CART,
     _hook(h.after_update(h.evaluate_in_training_environment), n_steps=16)),
    ("evaluation_feeds_statistics", "Evaluation data in other units is counted into the training normaliser.", CART,
     _hook(h.evaluation_feeds_statistics)),
    ("best_of_one_episode_kept", "The weights of the single luckiest episode so far are put back after each update.", CART,
     _hook(h.keep_best_of_one_episode)),
    ("success_always_reported", "Each episode is marked as a success, whatever came of it.", ACRO,
     _env(p.outcome(lambda out, _: (*out[:4], {**out[4], "is_success": True})), 60_000, learning_rate=1e-6)),
    ("only_good_episodes_reported", "Episodes shorter than 30 steps are left out of the report.", CART,
     _env(p.misreport(lambda report: report if report["l"] >= 30 else None), learning_rate=1e-6)),
    ("shaped_return_reported", "The reported return is mostly a bonus that has nothing to do with the task.", SWING,
     _env(lambda env: Monitor(p.pay_for(lambda seen, _, reward: reward + 50.0 * abs(seen[2]))(env)), 40_000)),
    ("returns_never_cleared", "The reported return also holds all the returns before it, so its curve always rises.", CART,
     _env(lambda env: p.NeverEndingSum(Monitor(env)), learning_rate=1e-6)),
)  # fmt: skip

FAULTS: list[Fault] = SETTINGS + ENVIRONMENT + REWARD + DATA + ALGORITHM + EVALUATION

HEALTHY: list[Fault] = _of(
    "healthy",
    ("plain_cart", "The base task as it is.", CART, _set()),
    ("plain_swing", "The base task as it is.", SWING, _set(50_000)),
    ("plain_acrobot", "The base task as it is.", ACRO, _set(60_000)),
    ("still_rising", "A small rate: slow, steady, and not yet finished.", CART, _set(learning_rate=2e-4)),
    ("rate_falls_to_zero", "The rate falls to zero in a straight line.", CART, _set(learning_rate=lambda left: 2e-3 * left)),
    ("clip_falls_to_zero", "Rate and clip range both fall in a straight line.", CART,
     _set(learning_rate=lambda left: 2e-3 * left, clip_range=lambda left: 0.3 * left + 0.01)),
    ("one_large_minibatch", "A single minibatch for each pass, with twenty passes.", CART, _set(batch_size=512, n_epochs=20)),
    ("small_minibatches_few_passes", "Minibatches of 32 with four passes.", CART, _set(batch_size=32, n_epochs=4)),
    ("short_rollouts", "Rollouts of 32 steps, shorter than an episode.", CART, _set(n_steps=32, batch_size=256, n_epochs=20)),
    ("long_view", "A discount of 0.999.", CART, _set(gamma=0.999)),
    ("shorter_view", "A discount of 0.95 and lambda 0.8.", CART, _set(gamma=0.95, gae_lambda=0.8)),
    ("lambda_one", "Lambda one, plain returns minus the critic.", CART, _set(gae_lambda=1.0)),
    ("some_entropy", "An entropy coefficient of 0.01.", CART, _set(ent_coef=0.01)),
    ("narrow_clip", "A clip range of 0.1.", CART, _set(clip_range=0.1)),
    ("wide_clip", "A clip range of 0.35.", CART, _set(clip_range=0.35)),
    ("kl_limit", "A reasonable target_kl of 0.03.", CART, _set(target_kl=0.03)),
    ("loose_gradient_clip", "Gradients are in effect not clipped.", CART, _set(max_grad_norm=100.0)),
    ("no_normalised_advantage", "No advantage normalisation, with rewards of a fitting size.", CART,
     _set(normalize_advantage=False)),
    ("small_network", "Networks of 16 units.", CART, _set(**_net(net_arch=[16]))),
    ("wide_network", "Networks of twice 256 units.", CART, _set(learning_rate=5e-4, **_net(net_arch=[256, 256]))),
    ("rectified_units", "ReLU in place of tanh.", CART, _set(**_net(activation_fn=nn.ReLU))),
    ("shared_network", "Actor and critic share their layers.", CART, _set(shared_net_arch=[64, 64])),
    ("with_layer_norm", "Layer normalisation.", CART, _set(layer_norm=True)),
    ("other_optimiser", "AdamW with a light weight decay.", CART,
     _set(**_net(optimizer_class=th.optim.AdamW, optimizer_kwargs={"weight_decay": 1e-3, "eps": 1e-5}))),
    ("reward_scaled_and_normalised", "Rewards are a hundred times larger and then normalised.", CART,
     _env(lambda env: NormalizeReward(p.pay(lambda reward: 100.0 * float(reward))(env)))),
    ("reward_a_tenth", "Rewards are a tenth of the usual.", SWING, _env(p.pay(lambda reward: 0.1 * float(reward)), 50_000)),
    ("only_failure_costs", "Zero for each step and minus one for a fall.", CART,
     _env(p.outcome(lambda out, _: (out[0], -1.0 if out[2] else 0.0, *out[2:])))),
    ("mild_reward_noise", "Noise with a spread of 0.3 lies on the reward.", CART,
     _env(p.pay_with_chance(lambda reward, chance: reward + chance.normal(0.0, 0.3)))),
    ("mirrored_observation", "All components have the other sign, always.", CART, _env(p.observe(np.negative))),
    ("relabelled_actions", "Left and right are swapped, always.", CART, _env(p.act(lambda action: 1 - action))),
    ("doubled_observation", "Each component appears twice.", CART, _env(p.observe(lambda seen: np.tile(seen, 2), 8))),
    ("four_noise_inputs", "Four small random numbers are appended to the observation.", CART,
     _env(p.observe_with_chance(lambda seen, chance: np.concatenate([seen, chance.normal(0, 0.1, 4)]), 8))),
    ("mild_sensor_noise", "Noise of 0.01 lies on each reading.", CART,
     _env(p.observe_with_chance(lambda seen, chance: seen + chance.normal(0.0, 0.01, seen.shape)))),
    ("normalised_observation", "Observations are normalised by running statistics.", CART, _env(NormalizeObservation)),
    ("vector_normalised", "Observations and rewards are normalised across copies.", CART, _hook(h.normalised())),
    ("short_episodes", "Episodes are cut at 100 steps, so the best return is 100.", CART,
     _env(p.chain(p.time_limit(100), Monitor))),
    ("action_held_two_steps", "Each action is held for two steps.", CART, _env(p.hold_action(2))),
    ("sticky_actions", "One command in ten is lost.", CART, _env(p.hold_action(1, lost=0.1))),
    ("longer_pole", "The pole is twice as long.", CART, _env(p.physics(length=1.0, polemass_length=0.1))),
    ("unit_actions", "The agent acts in -1 to 1 and the wrapper rescales once.", SWING, _env(p.unit_actions, 50_000)),
    ("state_dependent_noise", "State-dependent exploration, fresh noise every fourth step.", SWING,
     _set(50_000, use_sde=True, sde_sample_freq=4)),
)  # fmt: skip
