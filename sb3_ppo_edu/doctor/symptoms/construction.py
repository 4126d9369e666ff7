"""
What a training is made of: networks, optimizer, the number of its steps, and whether it does what its settings say.

The settings are those that a training logs itself, see :mod:`sb3_ppo_edu.algorithms.logged_settings`. Limits with no source
are calibration: healthy trainings of ``benchmarks/doctor/own_faults.py`` and of its ``train`` split.
"""

from __future__ import annotations

import math

import numpy as np

from sb3_ppo_edu.doctor.findings import Band, Change, Finding, Symptom, beyond, current, evidence_of, find, median, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.consequences import LEARNING, OUTCOME, VALUE
from sb3_ppo_edu.doctor.symptoms.metrics import (
    EXPLAINED_BAND,
    KL,
    KL_BAND,
    RETURN,
    RETURN_BAND,
    epochs_per_update,
    rollout_size,
)
from sb3_ppo_edu.doctor.symptoms.outcome import no_progress

GAIN, SURPRISE, ENTROPY = "doctor/improvement", "train/surprise", "train/entropy_loss"


def parameters_not_trained(record: Record) -> Finding | None:
    """Find parameters that no update moves."""
    trained = record.number("trained")
    kl, policy = float(np.abs(record.values(KL)).max(initial=0.0)), record.values("train/grad_norm_policy")
    if record.has(KL) and kl < 1e-9:
        return find(
            "parameters-not-trained", 1.0, evidence_of(record, KL, f"at most {show(kl)} nats: the policy stands still")
        )
    if len(policy) and not policy.any():
        text = f"{show(float(policy.max()))} in all updates: no gradient reaches the policy"
        return find("parameters-not-trained", 1.0, evidence_of(record, "train/grad_norm_policy", text))
    if trained is None or trained > 0.999:
        return None
    text = f"the optimizer moves {trained:.1%} of the parameters, usual 100 %"
    return find("parameters-not-trained", beyond(trained, 0.99, 0.4), evidence_of(record, "settings/trained", text), most=0.9)


def update_backwards(record: Record) -> Finding | None:
    """Find updates after which good actions are not likelier than before."""
    gain = median(record, GAIN)
    text = f"advantages correlate by {show(gain)} with how much likelier the update made their actions; healthy above 0.1"
    return find("update-backwards", beyond(max(-gain, 1e-9), 0.1, 0.25), evidence_of(record, GAIN, text))


def update_without_gain(record: Record) -> Finding | None:
    """Find updates that have nothing to do with advantages, in a training whose return does not rise."""
    gain = median(record, GAIN)
    if no_progress(record) is None:
        return None
    text = f"advantages correlate by {show(gain)} with how much likelier the update made their actions; healthy above 0.1"
    return find("update-without-gain", beyond(max(abs(gain), 1e-9), 0.04, 0.01), evidence_of(record, GAIN, text), most=0.65)


def sampling_wrong(record: Record) -> Finding | None:
    """Find actions that are not sampled from the policy: their mean log-probability is not minus its entropy."""
    surprise, entropy = record.columns[SURPRISE], -record.columns[ENTROPY]
    both = np.isfinite(surprise) & np.isfinite(entropy)
    if not both.any() or record.setting("use_sde"):
        return None
    # A distribution's surprise deviates from its entropy by about as much as an action's does over the root of their number.
    gaps = (surprise - entropy)[both]
    gap = float(np.median(gaps[: max(len(gaps) // 2, 1)]))
    text = f"actions are {show(abs(gap))} nats {'less' if gap > 0 else 'more'} likely than the policy's entropy says"
    return find("sampling-wrong", beyond(abs(gap), 0.15, 0.5), evidence_of(record, SURPRISE, text))


def optimizer_unusual(record: Record) -> Finding | None:
    """Find an optimizer other than Adam, or one whose options take its steps away."""
    eps, decay, momentum = (record.number(name) for name in ("optimizer_eps", "weight_decay", "momentum"))
    rate = current(record, "learning_rate")
    judged = [
        (beyond(eps or 1e-9, 3e-3, 0.3), "optimizer_eps", f"{show(eps or 0)}, usual 1e-8 to 1e-5: it divides every step"),
        (beyond(decay or 1e-9, 0.03, 1.0), "weight_decay", f"{show(decay or 0)}, usual 0: it pulls all weights to 0"),
        (beyond(1 - (momentum or 0.0), 0.012, 1e-3), "momentum", f"{show(momentum or 0)}, usual 0.9: it keeps old gradients"),
    ]
    if record.setting("adaptive") is False and rate is not None:
        text = f"no Adam: steps grow with the gradient, and a learning rate of {show(rate)} is made for Adam"
        judged.append((beyond(rate, 0.02, 2e-3), "adaptive", text))
    position, name, text = max(judged)
    return find("optimizer-unusual", position, evidence_of(record, f"settings/{name}", text), most=0.9)


def network_too_small(record: Record) -> Finding | None:
    """Find a hidden layer through which hardly anything passes."""
    width = record.number("layer_width")
    if width is None:
        return None
    text = f"{show(width)} units in the narrowest hidden layer, usual 64 and more"
    return find("network-too-small", beyond(width, 7.0, 2.0), evidence_of(record, "settings/layer_width", text), most=0.9)


def too_few_updates(record: Record) -> Finding | None:
    """Find updates of so few gradient steps that most of what was collected goes unused."""
    epochs, size, batch = epochs_per_update(record), rollout_size(record), record.number("batch_size")
    if epochs is None or size is None or not batch or record.number("target_kl") is not None:
        return None
    steps = epochs * math.ceil(size / batch)
    text = f"{show(steps)} gradient steps on a rollout of {show(size)} transitions, usual 20 and more"
    return find("too-few-updates", beyond(steps, 7.0, 1.5), evidence_of(record, "settings/batch_size", text), most=0.85)


def too_few_rollouts(record: Record) -> Finding | None:
    """Find a training that is over after a few large rollouts."""
    size, updates = rollout_size(record), record.updates
    if size is None or size < 4096:
        return None
    text = f"{updates} updates in all, from rollouts of {show(size)} transitions"
    return find("too-few-rollouts", beyond(updates, 5.5, 2.0), evidence_of(record, KL, text), most=0.8)


def batch_too_small(record: Record) -> Finding | None:
    """Find minibatches of a handful of transitions."""
    batch = record.number("batch_size")
    if batch is None:
        return None
    text = f"{show(batch)} transitions in a minibatch, usual 32 to 4,096: advantages are normalised over so few"
    return find("batch-too-small", beyond(batch, 7.0, 2.0), evidence_of(record, "settings/batch_size", text), most=0.85)


def lambda_too_low(record: Record) -> Finding | None:
    """Find a λ that leaves advantages to the value function's guesses."""
    value = record.number("gae_lambda")
    if value is None:
        return None
    text = f"{show(value)}, usual 0.9 to 1: the advantage looks {show(1 / max(1 - value, 1e-3))} steps ahead"
    return find(
        "lambda-too-low", beyond(max(value, 1e-3), 0.65, 0.2), evidence_of(record, "settings/gae_lambda", text), most=0.85
    )


def value_weight_too_large(record: Record) -> Finding | None:
    """Find a value loss with so much weight that clipping leaves the policy nothing."""
    weight = current(record, "vf_coef")
    if weight is None:
        return None
    key = "train/vf_coef" if record.has("train/vf_coef") else "settings/vf_coef"
    return find(
        "value-weight-too-large",
        beyond(weight, 6.0, 60.0),
        evidence_of(record, key, f"{show(weight)}, usual 0.25 to 1"),
        most=0.85,
    )


def rate_ends_early(record: Record) -> Finding | None:
    """Find a learning rate that falls to nothing long before the training ends."""
    rates = record.values("train/learning_rate")
    if len(rates) < 6 or rates[0] <= 0:
        return None
    gone = float((rates < 0.05 * rates[0]).mean())
    text = f"below a twentieth of its start in {gone:.0%} of the updates"
    return find("rate-ends-early", beyond(gone, 0.25, 0.6), evidence_of(record, "train/learning_rate", text), most=0.85)


def starts_certain(record: Record) -> Finding | None:
    """Find a policy that is certain before it has learned anything."""
    texts, position = [], -1.0
    if (actions := record.number("n_actions")) is not None and actions > 1 and record.has(SURPRISE):
        share = float(record.values(SURPRISE)[0]) / math.log(actions)
        texts = [evidence_of(record, SURPRISE, f"{share:.0%} of the largest entropy in the first rollout, usual 99 %")]
        position = beyond(max(share, 1e-9), 0.8, 0.3)
    elif record.has("train/std") and not record.setting("use_sde"):
        start = float(record.values("train/std")[0])
        texts = [
            evidence_of(record, "train/std", f"a standard deviation of {show(start)} in the first update, usual 0.3 to 1")
        ]
        position = beyond(start, 0.12, 0.02)
    return find("starts-certain", position, *texts, most=0.95)


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        name="parameters-not-trained",
        title="Parameters are not trained: frozen, or not given to the optimizer",
        needs=("settings/trained|train/grad_norm_policy|train/approx_kl",),
        healthy="the optimizer moves all parameters",
        source="arithmetic",
        meaning="What is frozen stays as it was at first.",
        remedy="Look at requires_grad of the policy's parameters, and at those in policy.optimizer.param_groups.",
        not_when="features that were learned before and are kept on purpose.",
        examine=parameters_not_trained,
        bands=(KL_BAND, Band("train/grad_norm", 0.1, 10.0, log=True)),
        explains=(*LEARNING, "max-grad-norm-too-small"),
        min_updates=2,
    ),
    Symptom(
        name="update-backwards",
        title="Updates make good actions less likely: the loss or the advantages have the wrong sign",
        needs=(GAIN,),
        healthy="a correlation above 0.1 of advantage and log-ratio",
        source="policy gradient theorem; the limits are calibration",
        meaning="The policy is driven away from what has proved good.",
        remedy="Check the sign of the policy loss and of the advantages.",
        not_when="a learning rate of 0; an objective that is not a return's.",
        examine=update_backwards,
        bands=(Band(GAIN, 0.1, 1.0), RETURN_BAND),
        explains=(*OUTCOME, *VALUE, "entropy-collapse"),
        min_updates=2,
    ),
    Symptom(
        name="update-without-gain",
        title="Updates have nothing to do with advantages: they are mixed up with other actions', or are noise",
        needs=(GAIN, RETURN),
        healthy="a correlation above 0.1 of advantage and log-ratio",
        source="policy gradient theorem; the limits are calibration",
        meaning="Actions and advantages do not belong together, or advantages follow from nothing that the policy sees.",
        remedy="Check that minibatches keep actions and their advantages together.",
        not_when="a return that rises.",
        examine=update_without_gain,
        bands=(Band(GAIN, 0.1, 1.0), RETURN_BAND),
        explains=("no-progress",),
    ),
    Symptom(
        name="sampling-wrong",
        title="Actions are not sampled from the policy that is trained",
        needs=(SURPRISE, ENTROPY),
        healthy="actions as likely as the policy's entropy says",
        source="definition of the entropy: the mean of minus the log-probability; the limits are calibration",
        meaning="Actions are taken greedily, at random, or by another policy.",
        remedy="Sample from the distribution whose log-probability is stored (deterministic=False).",
        not_when="entropies that are estimated; state-dependent exploration.",
        examine=sampling_wrong,
        bands=(Band(SURPRISE, None, None),),
        explains=(*LEARNING, "ratio-not-one"),
        min_updates=1,
    ),
    Symptom(
        name="optimizer-unusual",
        title="The optimizer is not the usual Adam: its kind, epsilon, momentum or weight decay",
        needs=("settings/adaptive|settings/optimizer_eps|settings/weight_decay",),
        healthy="Adam, epsilon up to 1e-5, no weight decay",
        source="SB3 (Adam, 1e-5); the limits are calibration",
        meaning="Steps are far smaller or larger than the learning rate says, or weights are pulled to 0.",
        remedy="Leave policy_kwargs without optimizer_class and optimizer_kwargs.",
        not_when="a learning rate that was searched for with that optimizer.",
        examine=optimizer_unusual,
        bands=(KL_BAND,),
        explains=LEARNING,
        min_updates=2,
    ),
    Symptom(
        name="network-too-small",
        title="The network is too small",
        needs=("settings/layer_width",),
        healthy="hidden layers of 64 units and more",
        source="SB3 (64), Andrychowicz et al. 2020 (16 to 512 tried); the limit is calibration",
        meaning="Hardly anything of the observation passes through.",
        remedy='Use policy_kwargs "dict(net_arch=[64, 64])".',
        not_when="tasks that a linear policy solves.",
        examine=network_too_small,
        changes=(Change("policy_kwargs", "dict(net_arch=[64, 64])"),),
        bands=(EXPLAINED_BAND, RETURN_BAND),
        explains=LEARNING,
        min_updates=2,
    ),
    Symptom(
        name="too-few-updates",
        title="Too few gradient steps for each rollout: epochs are few and minibatches large",
        needs=("settings/batch_size", "train/n_updates|settings/n_epochs"),
        healthy="20 gradient steps a rollout and more",
        source="SB3 (320), PPO paper (480 on MuJoCo); the limit is calibration",
        meaning="Most of what was collected goes unused.",
        remedy="Lower batch_size to 64, raise n_epochs to 10.",
        not_when="very many environments with a large learning rate.",
        examine=too_few_updates,
        changes=(Change("batch_size", 64),),
        bands=(KL_BAND, RETURN_BAND),
        explains=("learning-rate-too-low", *LEARNING),
        min_updates=2,
    ),
    Symptom(
        name="too-few-rollouts",
        title="The training is over after a few rollouts: they are too long, or the training is too short",
        needs=(KL, "time/iterations|settings/n_steps"),
        healthy="dozens of updates",
        source="RL Baselines3 Zoo (30 and more); the limits are calibration",
        meaning="The policy is improved a few times only, and each time from what an old one has collected.",
        remedy="Lower n_steps to 512, or train for longer.",
        not_when="a training that goes on later.",
        examine=too_few_rollouts,
        changes=(Change("n_steps", 512),),
        bands=(KL_BAND, RETURN_BAND),
        explains=LEARNING,
        min_updates=1,
    ),
    Symptom(
        name="batch-too-small",
        title="Minibatches are too small",
        needs=("settings/batch_size",),
        healthy="32 transitions and more",
        source="RL Baselines3 Zoo (8 to 4,096); the limit is calibration",
        meaning="Each step follows the noise of a few transitions, and normalising their advantages makes them all ±1.",
        remedy="Raise batch_size to 64.",
        not_when="rollouts that are as short.",
        examine=batch_too_small,
        changes=(Change("batch_size", 64),),
        bands=(KL_BAND, RETURN_BAND),
        explains=("learning-rate-too-high", "value-overfits", *LEARNING),
        min_updates=2,
    ),
    Symptom(
        name="lambda-too-low",
        title="gae_lambda is too low: advantages are the value function's guesses",
        needs=("settings/gae_lambda",),
        healthy="0.9 to 1",
        source="GAE paper (0.9 to 0.99 best); RL Baselines3 Zoo (0.8 to 1); the limit is calibration",
        meaning="The advantage is one step's reward and the difference of two guesses, which at first know nothing.",
        remedy="Set gae_lambda to 0.95.",
        not_when="a value function that was learned before.",
        examine=lambda_too_low,
        changes=(Change("gae_lambda", 0.95),),
        bands=(EXPLAINED_BAND, RETURN_BAND),
        explains=LEARNING,
        min_updates=2,
    ),
    Symptom(
        name="value-weight-too-large",
        title="The value loss has too much weight",
        needs=("train/vf_coef|settings/vf_coef",),
        healthy="vf_coef 0.25 to 1",
        source="PPO paper (1), SB3 (0.5); the limits are calibration",
        meaning="Both losses are clipped by one norm: what the value part takes, the policy does not get.",
        remedy="Set vf_coef to 0.5.",
        not_when="rewards that are tiny.",
        examine=value_weight_too_large,
        changes=(Change("vf_coef", 0.5),),
        bands=(Band("train/grad_norm", 0.1, 10.0, log=True), KL_BAND),
        explains=("value-dominates", "learning-rate-too-low", *LEARNING),
        min_updates=2,
    ),
    Symptom(
        name="rate-ends-early",
        title="The learning rate has fallen to nothing long before the end",
        needs=("train/learning_rate",),
        healthy="above a twentieth of its start for three quarters of the training",
        source="arithmetic; the limits are calibration",
        meaning="From then on nothing is learned.",
        remedy="Let the schedule last as long as the training: lin_3e-4.",
        not_when="a model that is finished by then.",
        examine=rate_ends_early,
        changes=(Change("learning_rate", "lin_3e-4"),),
        bands=(Band("train/learning_rate", 1e-5, 1e-3, log=True), KL_BAND),
        explains=("learning-rate-too-low", "no-progress"),
    ),
    Symptom(
        name="starts-certain",
        title="The policy is certain before it has learned anything",
        needs=("train/surprise|train/std",),
        healthy="all actions about as likely in the first rollout; standard deviation 0.3 to 1",
        source="SB3 (last layer's weights times 0.01), Andrychowicz et al. 2020 (0.5); the limits are calibration",
        meaning="It hardly tries anything but its first guess.",
        remedy="Leave ortho_init on and log_std_init at 0; do not scale the weights of action_net.",
        not_when="a model that was trained before, or imitates.",
        examine=starts_certain,
        bands=(Band(ENTROPY, None, None), Band("train/std", 0.1, 1.0, log=True)),
        explains=(*LEARNING, "learning-rate-too-high", "action-without-effect"),
        min_updates=1,
    ),
)
