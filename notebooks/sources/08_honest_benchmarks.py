# %% [markdown]
# # 08 Honest benchmarks: is it better, or was it luck?
#
# You changed a setting and the score went up by thirty points. Publish? In reinforcement learning the seed alone moves a score by more than
# that. This lesson measures how much, shows how easily one finds "improvements" in nothing at all, and gives you two numbers that
# survive bad luck.

# %%
import time

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import Curve, begin, compare, note, quick, table
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_training_env
from sb3_ppo_edu.lab.statistics.aggregates import bootstrap
from sb3_ppo_edu.lab.statistics.aggregates import interquartile_mean as library_iqm

begin()

# %% [markdown]
# ## The same thing twenty times
#
# PPO on CartPole for 20,480 steps, too few to solve it, so that there is something left to differ. The settings are the same every time;
# only the seed changes. **Predict** first: how many times the points of the worst run has the best?

# %%
my_times = None

# %%
STEPS = quick(20_480, 2048)


def score(seed, normalize=None, **changes):
    """Train once; the score is the mean of the last 20 training episodes."""
    settings = {"n_steps": 128, "batch_size": 256, "n_epochs": 10, "learning_rate": 1e-3, **changes}
    curve = Curve()
    task = EnvironmentSettings("CartPole-v1", normalize=normalize)
    env = make_training_env(task, n_envs=8, seed=100 * seed)
    EduPPO("MlpPolicy", env, seed=seed, **settings).learn(STEPS, callback=curve)
    return float(np.mean(curve.returns[-20:]))


began = time.perf_counter()
scores = np.array([score(seed) for seed in range(quick(20, 4))])
print(f"{len(scores)} trainings in {time.perf_counter() - began:.0f} seconds")
print("scores:", np.sort(scores).round().astype(int))
print(
    f"mean {scores.mean():.0f}, standard deviation {scores.std(ddof=1):.0f}, "
    f"lowest {scores.min():.0f}, highest {scores.max():.0f}"
)

# %%
compare(my_times, scores.max() / scores.min(), "Same settings; best run by worst run")

# %% [markdown]
# ## Finding improvements in nothing
#
# Now play researcher. Draw two groups of $n$ runs from these same scores, call one of them "ours", and see how large a difference comes out,
# although there is none.

# %%
generator = np.random.default_rng(0)
sizes = [1, 3, 5, 10, 20]
gaps = {}
for n in sizes:
    ours, theirs = (generator.choice(scores, size=(10_000, n)).mean(axis=1) for _ in range(2))
    gaps[n] = np.abs(ours - theirs)
table(
    ["seeds in each group", "typical difference", "in one case of ten more than"],
    [[str(n), float(np.median(gap)), float(np.quantile(gap, 0.9))] for n, gap in gaps.items()],
)

# %%
note(
    f'With three seeds, "ours is better by {np.median(gaps[3]):.0f} points" is what nothing at all '
    "looks like, on a normal day. And whoever tries five ideas reports the best of five."
)

# %% [markdown]
# ## A mean that forgives
#
# One collapsed run drags a mean down as far as it likes. The median throws away nearly everything. In between lies the **interquartile
# mean**: sort the runs, leave out a quarter at either end, average the rest. (Leave out $\lfloor n/4 \rfloor$ at each.)
#
# Rules for every exercise: your function leaves its arguments as they are (no `+=`, no sorting in place) and depends on
# nothing else. Numbers are floats, nothing is empty. A list with the right numbers is as good as an array. The check compares
# up to rounding.


# %% exercise="interquartile_mean" todo="how many runs are a quarter, and where are they once the runs are in order?"
def interquartile_mean(scores):
    """
    Average the middle half of the runs.

    :param scores: array of shape (runs,)
    :return: one number
    """
    ### BEGIN SOLUTION
    cut = len(scores) // 4
    return np.sort(scores)[cut : len(scores) - cut].mean()
    ### END SOLUTION


# %% check="interquartile_mean"
check("interquartile_mean", interquartile_mean)

# %%
with_a_collapse = np.append(scores, 9.0)
table(
    ["", "mean", "median", "interquartile mean"],
    [
        [name, float(numbers.mean()), float(np.median(numbers)), float(interquartile_mean(numbers))]
        for name, numbers in (("the runs", scores), ("and one that collapsed", with_a_collapse))
    ],
)

# %% [markdown]
# ## A number needs an interval
#
# How sure is such a number? Pretend that your runs are all the runs there are, draw as many from them again and again, with replacement, and look
# how the number moves. That is the **bootstrap**; the middle 95 % are its interval. (With few runs it is too narrow, since the worst run may not
# have happened yet.)

# %%
resampled = [
    interquartile_mean(generator.choice(scores, size=len(scores))) for _ in range(quick(5000, 200))
]
low, high = np.quantile(resampled, [0.025, 0.975])
theirs = bootstrap(scores, library_iqm)
print(f"yours:       {interquartile_mean(scores):.0f} [{low:.0f}, {high:.0f}]")
print(f"the package: {theirs.value:.0f} [{theirs.low:.0f}, {theirs.high:.0f}]")

# %% [markdown]
# ## Which is better?
#
# Two algorithms, some runs of each. A question that everybody understands: how often does a run of the first beat a run of the second? Compare each
# with each; a tie is half a win.


# %% exercise="probability_of_improvement" todo="how many duels are there, and what does a tie count?"
def probability_of_improvement(first, second):
    """
    Estimate how often the first algorithm beats the second.

    :param first: scores, array of shape (runs,)
    :param second: scores, array of shape (other_runs,)
    :return: one number from 0 to 1; 0.5 is a draw
    """
    ### BEGIN SOLUTION
    difference = first[:, None] - second[None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()
    ### END SOLUTION


# %% check="probability_of_improvement"
check("probability_of_improvement", probability_of_improvement)

# %% [markdown]
# A real question. The lecture (lecture 10 of Reinforcement Learning, Sogang University, autumn 2025) recommends to tune the learning rate
# first, and says that it is the setting that matters most. Five values, some seeds each, everything else as it was.

# %%
SEEDS = quick(5, 2)
RATES = quick([1e-4, 3e-4, 1e-3, 3e-3, 1e-2], [3e-4, 3e-3])
of_rate = {
    rate: np.array([score(seed, learning_rate=rate) for seed in range(SEEDS)]) for rate in RATES
}
CLIPS = quick([0.1, 0.2, 0.3], [0.1, 0.3])
of_clip = {
    clip: np.array([score(seed, clip_range=clip) for seed in range(SEEDS)]) for clip in CLIPS
}

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
for panel, of_value, label in (
    (axes[0], of_rate, "learning rate"),
    (axes[1], of_clip, "clip range"),
):
    middle = [bootstrap(numbers, library_iqm) for numbers in of_value.values()]
    panel.fill_between(list(of_value), [m.low for m in middle], [m.high for m in middle], alpha=0.2)
    panel.plot(list(of_value), [m.value for m in middle], "o-")
    for value, numbers in of_value.items():
        panel.plot([value] * len(numbers), numbers, ".", color="grey", markersize=5)
    panel.set_xlabel(label)
axes[0].set_xscale("log")
axes[0].set_ylabel("score: runs, IQM, 95% interval")
plt.show()

# %%
low_rate, high_rate = RATES[0], RATES[-2] if len(RATES) > 2 else RATES[-1]
table(
    ["question", "probability"],
    [
        [
            f"learning rate {high_rate:g} beats {low_rate:g}",
            probability_of_improvement(of_rate[high_rate], of_rate[low_rate]),
        ],
        [
            f"clip range {CLIPS[-1]} beats {CLIPS[0]}",
            probability_of_improvement(of_clip[CLIPS[-1]], of_clip[CLIPS[0]]),
        ],
    ],
)

# %% [markdown]
# The learning rate moves the score far beyond what seeds do. About the clip range five seeds say little, and "we could not tell" is a result, too. The
# package's study has more seeds and tasks, and comes to the same: `benchmarks/sensitivity`.
#
# Note what this does *not* show: that the best rate here is the best for a longer training, or another task. A benchmark answers the question that was
# asked of it.
#
# ## Normalisation and annealing
#
# Two more of the lecture's recommendations. **Normalisation** brings numbers to one scale that the learning rate fits: the advantages of each minibatch,
# the observations by their running mean and deviation, the rewards by the deviation of the discounted return. **Annealing** lets the learning rate (or
# ε) fall to 0 on a line: large steps while all is wrong, small ones at the end. One change at a time, on the same seeds.

# %%
ONE_CHANGE = {
    "learning rate annealed": {"learning_rate": lambda left: 1e-3 * left},
    "advantages not normalised": {"normalize_advantage": False},
    "observations normalised": {"normalize": {"norm_reward": False}},
    "rewards normalised": {"normalize": {"norm_obs": False}},
}
of_change = {"as it was": scores[:SEEDS]}
for name, changes in ONE_CHANGE.items():
    of_change[name] = np.array([score(seed, **changes) for seed in range(SEEDS)])
rows = []
for name, numbers in of_change.items():
    found = bootstrap(numbers, library_iqm)
    better = probability_of_improvement(numbers, of_change["as it was"])
    rows.append([name, f"{found.value:.0f} [{found.low:.0f}, {found.high:.0f}]", better])
table(["CartPole, one change", "IQM [95 %]", "P(better than as it was)"], rows)

# %% [markdown]
# Look at the intervals before you believe a row. One stands out of the noise, and hardly the one that you would have bet on: every reward is 1 here, so what is
# there to normalise? The *returns*. They grow towards 100, and a critic that begins near 0 is far from them; divided by their deviation they are within
# its reach. Of the other rows five seeds say little. And mind what was asked: this task, after 20,480 steps. An annealed rate pays at the end of a
# training that is long enough. The lander, whose rewards reach from −100 to 100, has all three normalisations in its settings. **Try** it without:
# `normalize=None` in its environment.
#
# ## The lecture's table
#
# The lecture's slide on benchmarks has two columns: what PPO should reach, and what random actions get. The second one takes seconds to verify.


# %%
def play_at_random(env_id, episodes):
    """Return the returns of random episodes."""
    env = gym.make(env_id)
    env.action_space.seed(0)
    returns = []
    for episode in range(episodes):
        env.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return np.array(returns)


LECTURE = {"CartPole-v1": (400, 20), "Pendulum-v1": (-200, -1500), "LunarLander-v3": (200, -150)}
rows = []
for env_id, (target, at_random) in LECTURE.items():
    returns = play_at_random(env_id, quick(100, 3))
    error = returns.std(ddof=1) / len(returns) ** 0.5
    rows.append([env_id, target, at_random, f"{returns.mean():.0f} ± {error:.0f}"])
table(["", "the lecture's target", "random, the lecture", "random, measured"], rows)

# %% [markdown]
# None of the three is within its error, and two are far off. A number without a command beside it cannot be checked, and so it is copied on.
#
# The first column takes longer. LunarLander for 500,000 steps with the settings that everybody takes, those of RL Baselines3 Zoo; five seeds each of the
# package's PPO and of Stable-Baselines3's, 100 episodes with the final policy: a quarter of an hour, so here are the scores
# ([rows](../../benchmarks/lecture/zoo-LunarLander-v3.csv); `execute(Run("eduppo", "LunarLander-v3", 0, 500_000))` from `sb3_ppo_edu.lab.runs` makes the
# first again). The target is 200.

# %%
EDUPPO = np.array([192.49, 70.38, 203.67, 233.02, 212.58])
SB3 = np.array([160.66, 171.99, 220.42, 224.07, 241.13])
rows = []
for name, numbers in (("EduPPO", EDUPPO), ("SB3's PPO", SB3)):
    found = bootstrap(numbers, library_iqm)
    rows.append(
        [
            name,
            f"{numbers.mean():.0f} ± {numbers.std(ddof=1):.0f}",
            f"{interquartile_mean(numbers):.0f} [{found.low:.0f}, {found.high:.0f}]",
            f"{(numbers >= 200).sum()} of {len(numbers)}",
        ]
    )
print(f"EduPPO is better with a probability of {probability_of_improvement(EDUPPO, SB3):.2f}")
table(["LunarLander-v3", "mean ± std", "IQM [95 %]", "seeds at 200"], rows)

# %% [markdown]
# "200+" is true of three seeds in five, on either side. And is SB3's better, 204 to 182? The two do the same mathematics. With five seeds, twenty points are
# what one bad run makes of a mean; the interquartile means are nearly equal, and either interval reaches from far below the target to above it.
#
# Settings, on the other hand, do make a difference: the same half million steps with [settings of the package](../../hyperparams/shared.yml), under which an action is
# held for three of them and both halves of the sky are one, end at 270 ± 21 (EduPPO) and 271 ± 20 (SB3's PPO), all ten runs above 200
# ([the whole table](../../benchmarks/lecture/lecture.md)). A benchmark is of an algorithm *with its settings*, and a table that does not name them says little.
#
# ## PPO among other algorithms
#
# The lecture grades PPO, A2C, TRPO, SAC, TD3 and DQN in words. The package's laboratory ran them: three seeds each, settings of RL Baselines3 Zoo, the
# mean return of the final policy over 100 episodes. The rows are those of version 0.1.0
# ([the page](../../benchmarks/peers/peers.md), with the lecture's words beside it, and the [rows](../../benchmarks/peers/runs.csv)).
#
# | | CartPole-v1, 50,000 steps | Pendulum-v1, 50,000 | LunarLander-v3, 100,000 |
# |---|---:|---:|---:|
# | EduPPO | 500 | −161 | −146 |
# | SB3's PPO | 500 | −161 | −178 |
# | REINFORCE | 366 | −1,495 | −568 |
# | A2C | 452 | −1,097 | −204 |
# | TRPO | 438 | −315 | 21 |
# | DQN | 500 | cannot act | 152 |
# | SAC | cannot act | −129 | cannot act |
# | TD3 | cannot act | −137 | cannot act |
# | random actions | 22 | −1,189 | −180 |
#
# **Read it as this lesson has taught you.** Three seeds, so differences of a few points are nothing. SAC and TD3 keep every step in a replay buffer and
# learn from it again and again: SAC solved Pendulum after 5,000 steps, PPO after 25,000. That is what "sample efficiency: very good" means, and it costs five
# or six networks instead of two, and far more computing for each step. DQN knows discrete actions only, SAC and TD3 continuous ones only; A2C, TRPO and PPO take both.
# A2C takes one step for each batch, as REINFORCE does; TRPO takes one long careful step; PPO takes many small ones that are clipped.
#
# And the last column? There PPO is no better than chance. These settings are made for a *million* steps, and were given a tenth of them; with settings made for
# 50,000, the activity's, the same algorithm lands. A column of such a table ranks settings as much as algorithms.
#
# When to take which: steps that are dear and continuous actions, SAC or TD3; steps that are cheap, discrete *and* continuous actions, or a policy that must not
# move far (people's language, lesson 11), PPO.
#
# ## A checklist
#
# 1. **Seeds**: decide how many before you start; five is little, twenty is good. Report all of them.
# 2. **The final policy**, not the best one seen: the maximum over a noisy curve is a lottery ticket that you buy once for every evaluation.
# 3. **Fresh seeds** for the comparison: settings that were tuned on seeds 0 to 3 look better there than anywhere else.
# 4. **The same starting states** for everybody, and enough episodes that their noise is not what you compare.
# 5. **Intervals**, and the raw rows beside them.
# 6. **The same care for the other side**: a baseline with default settings loses to anything that was tuned.
#
# `sb3-edu bench learn` does all of this; `sb3-edu tune` keeps its last seeds for the end.
