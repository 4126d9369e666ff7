# %% [markdown]
# # 07 Debugging: read the gauges before you turn the knobs
#
# A broken PPO does not crash. It trains, prints numbers, and learns a little or nothing, and there are a dozen settings that could be
# to blame. Most people start turning knobs. This lesson is about looking first: a handful of gauges tells most faults apart.
#
# Seven patients wait. Six have one fault each, planted; one is healthy. You look at their gauges, write down what you
# think, write a rule for the most important knob, and then ask the doctor.

# %%
import base64
import dataclasses
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import sync_envs_normalization

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import Curve, begin, compare, note, quick, recipe, table
from sb3_ppo_edu.doctor.diagnose import diagnose
from sb3_ppo_edu.doctor.record import read_record
from sb3_ppo_edu.doctor.symptoms import BY_NAME
from sb3_ppo_edu.envs.factory import make_evaluation_env, make_training_env
from sb3_ppo_edu.functional.advantages import (
    generalized_advantage_estimate,
    monte_carlo_returns,
)
from sb3_ppo_edu.training.evaluation import evaluate

begin()

# %% [markdown]
# ## The gauges
#
# | gauge | what it says | healthy |
# |---|---|---|
# | `approx_kl` | how far an update moves the policy, in nats | 0.003 to 0.03, below 0.05 |
# | `clip_fraction` | share of ratios that left the window | 0.05 to 0.3 |
# | `entropy` | how undecided the policy is; at most $\log 2 \approx 0.69$ for two actions | falls slowly |
# | `explained_variance` | how much of the returns the critic predicts; 1 is all, 0 as good as a constant | towards 1 |
# | `value_loss` | the critic's error, in squared points | follows the returns |
#
# Look at KL and clip fraction first: they say whether the policy moves too far, or not at all. Then ask whether the critic learns, and
# last what the entropy does.
#
# ## One gauge, taken apart
#
# KL and clip fraction you wrote in lesson 03. The critic's gauge is a share of a variance: how much less do its errors $G - V$ vary than the
# returns $G$ themselves?
#
# $$EV = 1 - \frac{\operatorname{Var}(G - V)}{\operatorname{Var}(G)}$$
#
# If all returns are equal there is nothing to explain, and the gauge says NaN.
#
# Rules for every exercise: your function leaves its arguments as they are (no `+=`, no sorting in place) and depends on
# nothing else. Numbers are floats, nothing is empty. A list with the right numbers is as good as an array. The check compares
# up to rounding. Whether you ask for equal returns with `np.var` or with `np.ptp` makes no difference to the check, though it
# does for numbers such as 0.1, whose computed variance is not exactly 0.


# %% exercise="explained_variance" todo="what is a critic's error, and when is there nothing to explain?"
def explained_variance(values, returns):
    """
    Compute how much of the returns a critic explains.

    :param values: what the critic predicted, array of shape (batch,)
    :param returns: what came of it, shape (batch,)
    :return: one number, at most 1; NaN where all returns are equal
    """
    ### BEGIN SOLUTION
    if returns.var() == 0:
        return np.nan
    return 1 - (returns - values).var() / returns.var()
    ### END SOLUTION


# %% check="explained_variance"
check("explained_variance", explained_variance)

# %% [markdown]
# Four critics, and the value loss of each beside its gauge:

# %%
returns = np.array([10.0, 20.0, 30.0, 40.0])
critics = {
    "nearly right": np.array([12.0, 19.0, 33.0, 38.0]),
    "off by 100 everywhere": returns + 100.0,
    "says 25 to everything": np.full(4, 25.0),
    "has it upside down": returns[::-1],
}
table(
    ["the critic", "explained variance", "value loss"],
    [
        [name, explained_variance(values, returns), ((returns - values) ** 2).mean()]
        for name, values in critics.items()
    ],
)

# %% [markdown]
# The second critic is wrong by 100 everywhere, and its gauge says that all is well. Its value loss does not. A gauge measures what it measures;
# that is why there are several.
#
# Is such a critic harmful? It depends on what is made of it. Here is an episode of twenty steps and two critics, the second 100 higher,
# with the advantages as PPO uses them, standardised:

# %%
rewards, ends = np.ones(20), np.zeros(20)
ends[-1] = 1.0
right = monte_carlo_returns(rewards, ends, np.array(0.0), 0.99)
right = right + np.random.default_rng(0).normal(size=20)


def standardised(values, gae_lambda):
    advantages = generalized_advantage_estimate(
        rewards, values, ends, np.array(0.0), 0.99, gae_lambda
    )
    return (advantages - advantages.mean()) / advantages.std(ddof=1)


rows = []
for gae_lambda in (1.0, 0.95, 0.0):
    good, shifted = standardised(right, gae_lambda), standardised(right + 100.0, gae_lambda)
    rows.append([f"λ = {gae_lambda:g}", np.abs(good - shifted).max(), good[-1], shifted[-1]])
table(["", "largest difference", "last step, right critic", "last step, 100 higher"], rows)

# %% [markdown]
# With $\lambda = 1$ the advantage is $G - V$; all are 100 too small, and subtracting the mean takes that away: no harm done. With GAE it is not a
# constant. A TD error inside the episode is off by $(\gamma - 1)\cdot 100$ only, the one at the end, where nothing follows, by $-100$: and the
# last actions are blamed.
#
# ## The patients
#
# All learn CartPole (500 points at most) from the same settings; what is wrong with each is packed away so that you do not see it by accident.

# %%
HEALTHY = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "gae_lambda": 0.95,
}
SEALED = (
    "eyJBIjogeyJlbnRfY29lZiI6IDEuMH0sICJCIjoge30sICJDIjogeyJjbGlwX3JhbmdlIjogMC4wMDV9"
    "LCAiRCI6IHsibGVhcm5pbmdfcmF0ZSI6IDAuMDV9LCAiRSI6IHsidmZfY29lZiI6IDAuMH0sICJGIjog"
    "eyJsZWFybmluZ19yYXRlIjogMWUtMDZ9LCAiRyI6IHsibl9lcG9jaHMiOiAxMDB9fQ=="
)
patients = json.loads(base64.b64decode(SEALED))
STEPS = quick(40_960, 3072)


def train(changes):
    """Train with what is wrong, and return what was logged."""
    with tempfile.TemporaryDirectory() as folder:
        env = make_training_env("CartPole-v1", n_envs=8, seed=0)
        model = EduPPO("MlpPolicy", env, seed=0, **{**HEALTHY, **changes})
        model.set_logger(configure(folder, ["csv"]))
        model.learn(STEPS)
        model.logger.close()
        return read_record(Path(folder))


records = {name: train(changes) for name, changes in patients.items()}

# %%
GAUGES = {
    "return": "rollout/ep_rew_mean",
    "KL": "train/approx_kl",
    "clip fraction": "train/clip_fraction",
    "entropy": "train/entropy_loss",
    "explained variance": "train/explained_variance",
}


def draw(names):
    _, axes = plt.subplots(
        len(names), len(GAUGES), figsize=(12, 1.9 * len(names)), sharex=True, squeeze=False
    )
    for row, name in zip(axes, names, strict=True):
        for panel, (gauge, key) in zip(row, GAUGES.items(), strict=True):
            steps, values = records[name].series(key)
            panel.plot(steps, -values if gauge == "entropy" else values)
            panel.tick_params(labelsize=7)
        row[0].set_ylabel(f"patient {name}", fontsize=12)
        row[1].axhspan(0.003, 0.03, color="C2", alpha=0.15)
        row[2].axhspan(0.05, 0.3, color="C2", alpha=0.15)
        row[0].set_ylim(0, 510)
        row[3].set_ylim(-0.02, 0.72)
        row[4].set_ylim(-1.1, 1.1)
    for panel, gauge in zip(axes[0], GAUGES, strict=True):
        panel.set_title(gauge, fontsize=10)
    plt.show()


draw(list(patients))

# %% [markdown]
# Green bands are where KL and clip fraction usually lie. Mind the scales: KL and clip fraction have their own in each row.
#
# **Your turn.** Before you go on, write down what you think each patient has. The possibilities: `healthy`, `learning rate too high`,
# `learning rate too low`, `clip range too tight`, `too many epochs`, `entropy bonus too large`, `critic not trained`.

# %%
my_guess = {
    "A": "?",
    "B": "?",
    "C": "?",
    "D": "?",
    "E": "?",
    "F": "?",
    "G": "?",
}

# %% [markdown]
# ## A rule for one knob
#
# The learning rate is the knob that most people turn first, and often the wrong one. Here is a rule for when to turn it, from the *medians* of two
# gauges over all updates, since a single peak is no trend:
#
# - KL above 0.05: lower it, **−1**.
# - KL below 0.003, *and* a clip fraction below 0.05: raise it, **1**.
# - Otherwise leave it, **0**. If the policy hardly moves and much *is* clipped, it is not too slow. It is silenced.
#
# *Above* and *below* mean just that: on the number itself nothing is done. 0.05 is not the end of the healthy band but well
# beyond it. For an even number of updates the median is the mean of the two in the middle.


# %% exercise="learning_rate_advice" todo="one number for each gauge first; then, in which order do you ask?"
def learning_rate_advice(approx_kl, clip_fraction):
    """
    Say which way the learning rate should go.

    :param approx_kl: of each update, array of shape (updates,)
    :param clip_fraction: of each update, shape (updates,)
    :return: -1 for a lower one, 1 for a higher one, 0 where it is not to blame
    """
    ### BEGIN SOLUTION
    divergence = np.median(approx_kl)
    if divergence > 0.05:
        return -1
    return int(divergence < 0.003 and np.median(clip_fraction) < 0.05)
    ### END SOLUTION


# %% check="learning_rate_advice"
check("learning_rate_advice", learning_rate_advice)

# %%
ADVICE = {-1: "lower it", 0: "leave it", 1: "raise it"}
rows = []
for name, record in records.items():
    divergence = record.series("train/approx_kl")[1]
    clipped = record.series("train/clip_fraction")[1]
    advice = ADVICE[learning_rate_advice(divergence, clipped)]
    rows.append([name, np.median(divergence), np.median(clipped), advice])
table(["patient", "median KL", "median clip fraction", "the learning rate"], rows)

# %% [markdown]
# One of them hardly moves and is to be left alone: much of it is *clipped*. Where the rule says "raise it", look at the *entropy* before you
# follow. A rule knows only the gauges that it reads.
#
# ## A diagnosis from gauges
#
# More gauges, more rules, in an order: first what the policy does, then the critic, and each rule only where none before it holds. Every limit is
# one that you could have read from the pictures, and no setting is looked at.


# %%
def gauges_of(record):
    """Numbers that the pictures show: medians over the training, and how it ends."""
    explained = record.series("train/explained_variance")[1]
    last = len(explained) * 3 // 4
    return {
        "KL": np.median(record.series("train/approx_kl")[1]),
        "clipped": np.median(record.series("train/clip_fraction")[1]),
        "entropy at the end": -np.median(record.series("train/entropy_loss")[1][last:]) / np.log(2),
        "explained at best": explained.max(),
        "explained at the end": np.median(explained[last:]),
        "return": record.series("rollout/ep_rew_mean")[1][-1],
    }


RULES = [
    ("learning rate too high", lambda g: g["KL"] > 0.05),
    ("clip range too tight", lambda g: g["KL"] < 0.003 and g["clipped"] > 0.3),
    ("learning rate too low", lambda g: g["KL"] < 1e-4 and g["clipped"] < 0.001),
    ("entropy bonus too large", lambda g: g["entropy at the end"] > 0.9),
    ("critic not trained", lambda g: g["explained at best"] < 0.1),
    ("too many epochs", lambda g: g["explained at best"] > 0.9 and g["explained at the end"] < 0.2),
    ("healthy", lambda g: True),
]
gauges = {name: gauges_of(record) for name, record in records.items()}
by_gauges = {
    name: next(fault for fault, holds in RULES if holds(of_patient))
    for name, of_patient in gauges.items()
}
table(
    ["patient", *gauges["A"], "by the gauges", "you"],
    [[name, *gauges[name].values(), by_gauges[name], my_guess[name]] for name in records],
)

# %% [markdown]
# These rules fit seven patients and one task; they were written after looking. The doctor, `sb3-edu doctor RUN`, has more of them, each with the
# source of its limits. A log usually holds settings as well (`train/ent_coef`, `train/clip_range`, …), and then a diagnosis is easy to come by: it
# is read off the label. So ask it twice: with the gauges alone, and with everything.

# %%
LABELS = ("learning_rate", "clip_range", "ent_coef", "vf_coef", "n_updates")


def without_labels(record):
    """The same record with what was measured, and without what was set."""
    columns = {
        key: column
        for key, column in record.columns.items()
        if not key.endswith(LABELS) and not key.startswith("settings/")
    }
    return dataclasses.replace(record, columns=columns, settings={})


def opinion(record):
    found = diagnose(record)
    return BY_NAME[found.findings[0].name].title if found.findings else found.summary.split(":")[0]


rows = [
    [
        name,
        by_gauges[name],
        opinion(without_labels(record)),
        opinion(record),
        str(patients[name] or "nothing"),
    ]
    for name, record in records.items()
]
table(["patient", "your rules", "the doctor, gauges alone", "with the settings", "planted"], rows)

# %% [markdown]
# Without labels the doctor names only what it is sure of for any task and any log, and what it does not name it takes for healthy. That is a
# limit to know: a clean bill of health says that nothing was found.
#
# ## What tells them apart

# %%
patient = {fault: name for name, fault in by_gauges.items()}
told = {
    "learning rate too high": "median KL {KL:.2f}, whole policies thrown away; "
    "it may *still* earn points for a while",
    "learning rate too low": "KL {KL:.0e} and {clipped:.0%} clipped: nothing moves",
    "clip range too tight": "from afar like the one before, KL {KL:.0e}; but {clipped:.0%} of its "
    "ratios are clipped. It would like to move and is silenced at once",
    "entropy bonus too large": "it ends with {entropy at the end:.0%} of the largest entropy that "
    "there is: the bonus is worth more than the pole. It moves little because it is held where it is",
    "critic not trained": "a return of {return:.0f}, and a critic that at best explains "
    "{explained at best:.2f}. **A return that rises is no proof of health**",
    "too many epochs": "a return of {return:.0f} and a KL in the band, since clipping holds; but the "
    "explained variance was {explained at best:.2f} and ends at {explained at the end:.2f}: its "
    "critic learns the last returns by heart",
}
note(
    "\n\n".join(
        f"**{patient[fault]}**, {fault}: {text.format(**gauges[patient[fault]])}."
        for fault, text in told.items()
        if fault in patient
    )
)

# %% [markdown]
# ## A remedy is an experiment
#
# Change *one* thing, with the same seed, and look at the same gauges again.

# %%
records["D mended"] = train({"learning_rate": 1e-3})
draw(["D", "D mended"])
for name in ("D", "D mended"):
    returns = records[name].series("rollout/ep_rew_mean")[1]
    print(f"{name}: return {returns[-1]:.0f}. {diagnose(records[name]).summary}")

# %% [markdown]
# **Try**: what the rule said about A, `train({"ent_coef": 1.0, "learning_rate": 1e-2})`. Or break it in a way of your own: `train({"gamma": 0.3})`, `train({"max_grad_norm": 1e-6})`, `train({"batch_size": 1024, "n_epochs": 1})`;
# guess the gauges before you look.
#
# ## Good training, poor evaluation
#
# A last kind of patient has no fault in its training at all: all gauges are well, the curve rises, and then the agent is handed over and crashes.
# Three things differ between a training and an evaluation. In training, actions are *drawn*; in the evaluation one takes the most likely ones. In
# training, observations are normalised by running *statistics* that belong to the environment and not to the network: whoever hands over the network
# alone has lost them. And the *task* may be another: another wrapper, another version, another season.
#
# The lander of the activity, trained once, and four evaluations that differ from the right one in one thing each. **Predict** first, before you
# run it: which of `actions drawn`, `statistics forgotten`, `action repeat forgotten`, `wind` costs most?

# %%
my_culprit = None

# %%
settings, lander = recipe("LunarLanderContinuous-v3", seed=0)
pilot = EduPPO(settings.policy, lander, seed=0, **settings.algorithm)
curve = Curve(settings)
pilot.learn(quick(settings.steps, 512), callback=curve)


def examine(changes=None, statistics=True, deterministic=True):
    """Returns of 30 episodes from starts that the training has not seen."""
    task = dataclasses.replace(settings.environment, **(changes or {}))
    env = make_evaluation_env(task, n_envs=10, first_seed=10_000)
    if statistics:
        sync_envs_normalization(lander, env)
    returns = evaluate(pilot, env, quick(30, 10), deterministic=deterministic).returns
    env.close()
    return np.array(returns)


no_repeat = [wrapper for wrapper in settings.environment.wrapper if "Symmetry" in str(wrapper)]
examined = {
    "in training, at its end": np.array(curve.returns[-30:]),
    "as it should be": examine(),
    "actions drawn": examine(deterministic=False),
    "statistics forgotten": examine(statistics=False),
    "action repeat forgotten": examine({"wrapper": no_repeat}),
    "wind": examine({"kwargs": {"enable_wind": True}}),
}
table(
    ["the lander, evaluated", "points", "±", "share above 200"],
    [[name, x.mean(), x.std(), f"{(x > 200).mean():.0%}"] for name, x in examined.items()],
)

# %%
mistakes = {name: x.mean() for name, x in list(examined.items())[2:]}
compare(my_culprit, min(mistakes, key=mistakes.get), "What costs most")

# %% [markdown]
# So, when an evaluation disappoints: evaluate in the *training* environment with its statistics first, and change one thing after the other until the
# points are gone. Drawn actions and most likely ones rarely differ much once a policy is sure. Statistics belong to the model: `EduPPO.save` keeps them in
# its file, and `model.normalized(env)` gives them back; with SB3's own PPO save them beside it, `VecNormalize.save`. And a policy that does worse under wind
# has not been overtrained. It was never asked to fly in wind.
#
# In your own trainings, the doctor can sit beside and warn: `model.learn(…, callback=TrainingDoctor("report"))`, from
# `sb3_ppo_edu.doctor.callback`, with SB3's own PPO too.
#
# **What to remember.** KL and clip fraction first, then the critic, then the entropy. One change at a time. And no single number, least of all
# the return, says that all is well.
