"""
The exercises: what there is to write, what is right, what goes wrong, and the inputs that tell these apart.

Each exercise has one function that computes it with a set of *faults*. With none it is right (tests compare it with the
package's own function where there is one); with one it makes that mistake; with two it makes both. What a student's numbers
look like can so be compared with every mistake and every pair of mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sb3_ppo_edu.course.exercises import advantages, backward, densities, experiments, gauges, objectives, scores
from sb3_ppo_edu.course.exercises.observing import Answer, Case

Faults = frozenset[str]
Faulty = Callable[..., Any]
MakeCases = Callable[[np.random.Generator], list[Case]]

VISIBLE_SEED = 0
"""Seed of the inputs that students' checks use; graders take another one."""


@dataclass(frozen=True)
class Exercise:
    """
    One function to write.

    :param name: its name
    :param expects: what it returns, in a few words, for the report
    :param faulty: the function with a set of faults as its first argument
    :param mistakes: names of the faults that it knows, the more telling ones first
    :param make_cases: makes inputs from random numbers
    :param points: what it is worth
    """

    name: str
    expects: str
    faulty: Faulty
    mistakes: tuple[str, ...]
    make_cases: MakeCases
    points: int

    def cases(self, seed: int = VISIBLE_SEED) -> list[Case]:
        """
        Make inputs to try an answer on.

        :param seed: of the random numbers in them
        :return: the cases
        """
        return self.make_cases(np.random.default_rng(seed))

    def solution(self, *arguments: Any) -> Any:
        """
        Compute what is right.

        :param arguments: of the exercise
        :return: the result
        """
        return self.faulty(frozenset(), *arguments)

    def with_faults(self, *names: str) -> Answer:
        """
        Make an answer that makes mistakes.

        :param names: of the mistakes
        :return: the answer
        """
        faults = frozenset(names)
        return lambda *arguments: self.faulty(faults, *arguments)

    def wrong_answers(self) -> Iterator[tuple[tuple[str, ...], Answer]]:
        """
        List the answers with one mistake, then those with two.

        :return: pairs of the mistakes' names and the answer
        """
        for count in (1, 2):
            for names in combinations(self.mistakes, count):
                yield names, self.with_faults(*names)


_ALL = (
    Exercise(
        "discounted_returns",
        "the returns G_t of one episode, an array of the shape of the rewards",
        advantages.discounted_returns,
        (
            "no-discount",
            "own-reward-discounted",
            "own-reward-left-out",
            "whole-return-everywhere",
            "past-not-future",
            "reversed-in-time",
            "sign-flipped",
        ),
        advantages.return_cases,
        points=2,
    ),
    Exercise(
        "reinforce_loss",
        "one number to minimise",
        objectives.reinforce_loss,
        ("sign-flipped", "summed-not-averaged", "not-reduced", "probabilities-not-logs", "product-of-means", "no-gradient"),
        objectives.reinforce_cases,
        points=2,
    ),
    Exercise(
        "actor_critic_loss",
        "one number to minimise",
        objectives.actor_critic_loss,
        (
            "advantage-not-detached",
            "advantage-sign",
            "broadcast",
            "critic-detached",
            "value-sign",
            "vf-coef-missing",
            "factor-half",
            "summed-not-averaged",
            "no-gradient",
        ),
        objectives.actor_critic_cases,
        points=3,
    ),
    Exercise(
        "td_errors",
        "the TD errors δ_t, an array of the shape of the rewards",
        advantages.td_errors,
        (
            "bootstrap-on-termination",
            "mask-off-by-one",
            "mask-inverted",
            "no-gamma-on-next-value",
            "current-value-for-next",
            "no-baseline",
            "last-value-ignored",
            "sign-of-td-error",
        ),
        advantages.rollout_cases(with_lambda=False),
        points=2,
    ),
    Exercise(
        "compute_gae",
        "the advantages Â_t, an array of the shape of the rewards",
        advantages.compute_gae,
        (
            "mask-off-by-one",
            "bootstrap-on-termination",
            "mask-missing-in-td-error",
            "mask-missing-in-recursion",
            "mask-inverted",
            "lambda-missing",
            "gamma-missing-in-recursion",
            "no-gamma-on-next-value",
            "last-value-ignored",
            "current-value-for-next",
            "no-baseline",
            "returns-not-advantages",
            "reversed-in-time",
            "sign-flipped",
        ),
        advantages.rollout_cases(with_lambda=True),
        points=4,
    ),
    Exercise(
        "bootstrap_time_limits",
        "the rewards, with γ·V added where a time limit cut the episode off",
        advantages.bootstrap_time_limits,
        (
            "no-bootstrap-on-truncation",
            "bootstrap-on-every-end",
            "bootstrap-when-both",
            "bootstrap-not-discounted",
            "reward-replaced",
        ),
        advantages.time_limit_cases,
        points=2,
    ),
    Exercise(
        "normalize_advantages",
        "the standardised advantages, of the same shape",
        advantages.normalize_advantages,
        (
            "epsilon-missing",
            "population-std",
            "variance-for-std",
            "mean-not-subtracted",
            "not-divided",
            "single-becomes-nan",
            "scaled-by-maximum",
            "min-max-scaled",
            "wrong-axis",
            "sign-flipped",
        ),
        advantages.advantage_cases,
        points=3,
    ),
    Exercise(
        "probability_ratio",
        "the ratios r_t, one per transition",
        objectives.probability_ratio,
        ("ratio-not-exponentiated", "ratio-inverted", "ratio-of-log-probs", "old-not-detached", "no-gradient"),
        objectives.ratio_cases,
        points=2,
    ),
    Exercise(
        "clipped_objective",
        "the objective, one number per transition",
        objectives.clipped_objective,
        (
            "max-for-min",
            "only-clipped",
            "not-clipped",
            "clip-above-only",
            "clip-below-only",
            "clip-around-zero",
            "clip-bounds-swapped",
            "clip-the-product",
            "clip-the-advantage",
            "advantage-absolute",
            "objective-not-loss",
            "averaged-too-early",
        ),
        objectives.clipped_cases,
        points=3,
    ),
    Exercise(
        "compute_policy_loss",
        "one number to minimise",
        objectives.policy_loss,
        (
            "max-for-min",
            "ratio-not-exponentiated",
            "ratio-inverted",
            "ratio-of-log-probs",
            "sign-flipped",
            "only-clipped",
            "not-clipped",
            "clip-above-only",
            "clip-below-only",
            "clip-around-zero",
            "clip-bounds-swapped",
            "clip-the-product",
            "clip-the-advantage",
            "clip-log-ratio",
            "advantage-absolute",
            "summed-not-averaged",
            "not-reduced",
            "no-gradient",
        ),
        objectives.policy_cases,
        points=5,
    ),
    Exercise(
        "clipped_value_loss",
        "one number to minimise",
        objectives.clipped_value_loss,
        (
            "value-clip-min",
            "value-clip-no-max",
            "value-not-clipped",
            "value-clip-around-zero",
            "value-clip-around-return",
            "absolute-error",
            "factor-half",
            "summed-not-averaged",
            "not-reduced",
            "sign-flipped",
        ),
        objectives.value_cases,
        points=3,
    ),
    Exercise(
        "approx_kl",
        "one number, never negative",
        objectives.approx_kl,
        (
            "kl-k1",
            "kl-k2",
            "kl-sign",
            "kl-direction",
            "kl-ratio-not-exponentiated",
            "summed-not-averaged",
            "not-reduced",
        ),
        objectives.kl_cases,
        points=2,
    ),
    Exercise(
        "clip_fraction",
        "one number from 0 to 1",
        objectives.clip_fraction,
        ("fraction-one-sided", "count-not-fraction", "fraction-inside"),
        objectives.fraction_cases,
        points=1,
    ),
    Exercise(
        "total_loss",
        "one number to minimise",
        objectives.total_loss,
        ("entropy-bonus-sign", "coefficients-swapped", "coefficients-missing", "value-sign", "sign-flipped"),
        objectives.total_cases,
        points=1,
    ),
    Exercise(
        "compute_entropy_bonus",
        "one number, in nats",
        densities.gaussian_entropy,
        (
            "std-for-log-std",
            "std-not-squared",
            "actions-averaged",
            "actions-not-summed",
            "e-missing",
            "half-missing",
            "constant-missing",
            "entropy-sign",
            "summed-over-batch",
            "no-gradient",
        ),
        densities.log_std_cases,
        points=2,
    ),
    Exercise(
        "categorical_entropy",
        "one number, in nats",
        densities.categorical_entropy,
        (
            "logits-not-normalised",
            "softmax-over-batch",
            "sigmoid-for-softmax",
            "actions-mean-for-sum",
            "zero-log-zero",
            "entropy-sign",
            "summed-over-batch",
        ),
        densities.logit_cases,
        points=2,
    ),
    Exercise(
        "gaussian_log_prob",
        "the log-probabilities, one per action",
        densities.gaussian_log_prob,
        (
            "actions-not-summed",
            "actions-averaged",
            "std-for-log-std",
            "normaliser-missing",
            "log-std-normaliser-missing",
            "variance-forgotten",
            "summed-over-batch",
            "log-prob-sign",
        ),
        densities.gaussian_cases,
        points=3,
    ),
    Exercise(
        "squashed_log_prob",
        "the log-probabilities, one per action",
        densities.squashed_log_prob,
        (
            "jacobian-missing",
            "jacobian-sign",
            "jacobian-saturates",
            "jacobian-epsilon",
            "jacobian-twice-squashed",
            "jacobian-not-squared",
            "jacobian-averaged",
        ),
        densities.squashed_cases,
        points=3,
    ),
    Exercise(
        "surrogate_gradient",
        "the derivatives, one per transition",
        backward.surrogate_gradient,
        (
            "silent-on-both-sides",
            "never-silent",
            "ratio-not-differentiated",
            "mean-not-differentiated",
            "gradient-sign",
        ),
        backward.surrogate_cases,
        points=3,
    ),
    Exercise(
        "logits_gradient",
        "the derivatives, of the shape of the logits",
        backward.logits_gradient,
        (
            "only-the-action-taken",
            "normaliser-not-differentiated",
            "upstream-missing",
            "softmax-over-batch",
            "gradient-sign",
        ),
        backward.logits_cases,
        points=3,
    ),
    Exercise(
        "tanh_gradient",
        "the derivatives, of the shape of the outputs",
        backward.tanh_gradient,
        ("tanh-once-too-often", "tanh-not-squared", "upstream-missing"),
        backward.tanh_cases,
        points=1,
    ),
    Exercise(
        "weight_gradient",
        "the derivatives, of shape (n_outputs, n_inputs)",
        backward.weight_gradient,
        ("weights-transposed", "averaged-again", "product-of-sums"),
        backward.weight_cases,
        points=2,
    ),
    Exercise(
        "interquartile_mean",
        "one number",
        scores.interquartile_mean,
        ("plain-mean", "median-for-middle-half", "not-sorted", "cut-at-one-end", "cut-an-eighth"),
        scores.score_cases,
        points=2,
    ),
    Exercise(
        "probability_of_improvement",
        "one number from 0 to 1",
        scores.probability_of_improvement,
        ("pair-by-pair", "ties-lost", "ties-won", "means-compared", "other-way-round"),
        scores.pair_cases,
        points=2,
    ),
    Exercise(
        "explained_variance",
        "one number, at most 1",
        gauges.explained_variance,
        (
            "unexplained-share",
            "error-squared-for-variance",
            "std-ratio",
            "variance-of-predictions",
            "spread-of-predictions",
            "explained-of-nothing",
        ),
        gauges.explained_cases,
        points=2,
    ),
    Exercise(
        "learning_rate_advice",
        "−1, 0 or 1",
        gauges.learning_rate_advice,
        (
            "knob-wrong-way",
            "silenced-taken-for-slow",
            "clip-fraction-alone",
            "peak-for-trend",
            "mean-for-median",
            "last-update-only",
        ),
        gauges.reading_cases,
        points=2,
    ),
    Exercise(
        "first_difference",
        "the index of an update, or −1",
        experiments.first_difference,
        (
            "tolerance-for-bits",
            "nan-never-equal",
            "zero-for-never",
            "sums-compared",
            "all-for-any",
            "last-not-first",
            "counted-not-found",
            "numbered-from-one",
        ),
        experiments.run_pairs,
        points=2,
    ),
    Exercise(
        "score_within_budget",
        "one number, the score of one evaluation",
        experiments.score_within_budget,
        (
            "best-not-final",
            "decisions-for-steps",
            "budget-ignored",
            "budget-overdrawn",
            "budget-boundary-lost",
            "repeat-divided",
            "mean-of-run",
        ),
        experiments.budget_cases,
        points=2,
    ),
)

EXERCISES = {exercise.name: exercise for exercise in _ALL}
"""All exercises by name."""
