# %% [markdown]
# # 09 Final project: an experiment that somebody else can repeat
#
# You know the algorithm, you can read its gauges, and you know what a number is worth. What is left is the craft around it: one class
# for every kind of task, runs that survive a power cut, files that load a year later, and results that come out again. This lesson walks
# through all of it once, small enough to finish in a minute or two; your project does the same with a task of your own.

# %%
import tempfile
from pathlib import Path

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import Curve, begin, play, play_randomly, quick, recipe, table
from sb3_ppo_edu.lab.statistics.aggregates import bootstrap, interquartile_mean
from sb3_ppo_edu.training.hyperparameters import load_hyperparameters

begin()
workshop = tempfile.TemporaryDirectory()
folder = Path(workshop.name)

# %% [markdown]
# ## One class for all
#
# Discrete or continuous is the policy's business. The losses, the loop and the logs are the same.

# %%
rows = []
for env_id in ("CartPole-v1", "Pendulum-v1"):
    model = EduPPO("MlpPolicy", env_id, seed=0, device="cpu", n_steps=quick(2048, 128))
    model.learn(quick(4096, 256))
    head, reason = str(model.policy.action_net), model.engine_reason.split(":")[0]
    rows.append([env_id, str(model.action_space), head, reason])
table(["task", "actions", "policy head", "engine"], rows)

# %% [markdown]
# ## Same seed, same bits
#
# The first demand on an experiment is that it comes out twice. "The curves look alike" is no test: a difference in the last bit of one number is
# invisible today, and another policy a thousand steps later. So compare bits; and where two runs part, ask *when*, because what comes after the first
# difference is only its consequence.
#
# Both runs have the same shape. A NaN in the same place of both is no difference; a NaN against a number is one. ($0.0$ and
# $-0.0$ do not occur together.) As ever, a function leaves its arguments as they are.


# %% exercise="first_difference" todo="is NaN equal to NaN? it has to be here; and what if nothing differs?"
def first_difference(first, second):
    """
    Find the update at which two runs part.

    :param first: numbers of a run after each update, array of shape (updates, numbers)
    :param second: the other run's, the same shape
    :return: index of the first update in which any number differs, -1 if there is none
    """
    ### BEGIN SOLUTION
    equal = (first == second) | (np.isnan(first) & np.isnan(second))
    differing = np.flatnonzero(~equal.all(axis=1))
    return int(differing[0]) if len(differing) else -1
    ### END SOLUTION


# %% check="first_difference"
check("first_difference", first_difference)

# %% [markdown]
# Four runs, each with a diary of all its parameters. Page 0 is how they begin; another page follows after each update.
#
# **Predict** first, on paper: on which page do a run with the fused engine and one with the autograd engine part, from the same seed?


# %%
def parameters_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


class Diary(BaseCallback):
    """Notes all parameters before each rollout, and at the end."""

    def __init__(self):
        super().__init__()
        self.pages = []

    def _on_rollout_start(self):
        self.pages.append(parameters_of(self.model).numpy())

    def _on_training_end(self):
        self.pages.append(parameters_of(self.model).numpy())

    def _on_step(self):
        return True


def pendulum():
    """Four pendulums that can be put back to where they were."""
    return make_vec_env("Pendulum-v1", 4, env_kwargs={"render_mode": None}, wrapper_class=Resumable)


SETTINGS = {"n_steps": 256, "batch_size": 128, "gamma": 0.9, "learning_rate": 1e-3, "device": "cpu"}
STEPS = quick(16_384, 2048)


def run(seed, **changes):
    diary = Diary()
    model = EduPPO("MlpPolicy", pendulum(), seed=seed, **SETTINGS, **changes)
    return model.learn(STEPS, callback=diary), np.array(diary.pages)


first, pages = run(seed=3)
others = {
    "the same seed": run(seed=3)[1],
    "another seed": run(seed=4)[1],
    "the same seed, engine autograd": run(seed=3, engine="autograd")[1],
}
rows = []
for name, other in others.items():
    page = first_difference(pages, other)
    gap = np.abs(pages - other).max(axis=1)
    rows.append([name, "never" if page < 0 else f"page {page}", gap[1], gap[-1]])
table(["compared with seed 3", "they part at", "largest difference on page 1", "at the end"], rows)

# %% [markdown]
# The two engines do the same mathematics and add up in another order. After the first update that is a rounding; at the end there are two different
# policies. Neither is wrong. But only "never" is a repetition.
#
# "Never" holds on one machine with one version of torch. So a report names both, and the lock file of the project pins them.
#
# ## Save and load
#
# A saved model is parameters, settings and the optimizer's state; it predicts the same actions.

# %%
first.save(folder / "pendulum")
loaded = EduPPO.load(folder / "pendulum", device="cpu")
observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
same = np.array_equal(
    first.predict(observations, deterministic=True)[0],
    loaded.predict(observations, deterministic=True)[0],
)
print("same actions after loading:", same)

# %% [markdown]
# A model file is a pickle inside, and a pickle can run programs. For an untrusted file there is `EduPPO.load(path, trusted=False)`.
#
# ## Pull the plug
#
# `load` and `learn` again is *not* resuming: environments start anew, random streams too, and the result is another one. An exact checkpoint holds
# everything that decides the future. Here the power fails in the middle of a rollout. (What the callback saves when a training *fails* is thrown
# away: a power cut leaves no time for that.)


# %%
lights = {"out at": STEPS * 2 // 3}


class PowerCut(BaseCallback):
    """Ends the training by force."""

    def _on_step(self):
        if self.num_timesteps >= lights["out at"]:
            raise RuntimeError("the lights went out")
        return True


def callbacks():
    return [ExactCheckpoint(STEPS // 5, folder / "checkpoints"), PowerCut()]


interrupted = EduPPO("MlpPolicy", pendulum(), seed=3, **SETTINGS)
try:
    interrupted.learn(STEPS, callback=callbacks())
except RuntimeError as error:
    print(f"after {interrupted.num_timesteps:,} steps: {error}")
sorted((folder / "checkpoints").iterdir())[-1].unlink()

lights["out at"] = np.inf
resumed = EduPPO.resume(folder / "checkpoints", pendulum(), device="cpu")
print(f"resumed at {resumed.num_timesteps:,} steps")
resumed.learn(STEPS, callback=callbacks())
print(
    "equal to the training that nothing interrupted:",
    torch.equal(parameters_of(resumed), parameters_of(first)),
)

# %% [markdown]
# On the command line: `sb3-edu train … --checkpoint-freq 10000`, `sb3-edu resume RUN`, and `sb3-edu reproduce RUN`, which does a whole run again and
# compares it bit by bit.
#
# ## Settings that have a source
#
# Where do settings come from? Not from memory. The package's YAML says for each task where they were found, in the form that RL Baselines3 Zoo reads, so that
# `python -m sb3_ppo_edu.zoo train --env CartPole-v1` uses the same.

# %%
for name, value in load_hyperparameters("CartPole-v1").items():
    print(f"{name}: {value}")

# %% [markdown]
# ## Equal budgets
#
# Two runs are compared after the same number of *environment* steps. Where an action is held for several steps, as for the lander, a decision costs
# that many. And what a run has reached is its last evaluation, not its best: the maximum over many noisy evaluations is a lottery with many tickets.
#
# At least one evaluation lies within the budget.


# %% exercise="score_within_budget" todo="in which unit is the budget, in which are the decisions? then, which evaluations count?"
def score_within_budget(decisions, scores, budget, action_repeat=1):
    """
    Look up what a run had reached when its budget was spent.

    :param decisions: made before each evaluation, rising, array of shape (evaluations,)
    :param scores: of the evaluations, the same shape
    :param budget: steps of the environment; an evaluation exactly at the budget counts
    :param action_repeat: steps of the environment that one decision takes
    :return: score of the last evaluation within the budget
    """
    ### BEGIN SOLUTION
    return scores[decisions * action_repeat <= budget][-1]
    ### END SOLUTION


# %% check="score_within_budget"
check("score_within_budget", score_within_budget)

# %% [markdown]
# ## A small benchmark, done properly
#
# The checklist of lesson 08: seeds decided before, the final policy, the same starting states for all, a baseline, an interval. One task here; your project has
# two. Each run is evaluated six times on its way.


# %%
class Exams(BaseCallback):
    """Evaluates the policy every so many decisions."""

    def __init__(self, settings, every):
        super().__init__()
        self.settings, self.every = settings, every
        self.decisions, self.scores = [], []

    def _examine(self):
        if self.num_timesteps >= self.every * (len(self.scores) + 1):
            evaluation = play(self.model, self.settings, episodes=quick(10, 2))
            self.decisions.append(self.num_timesteps)
            self.scores.append(float(np.mean(evaluation.returns)))

    def _on_rollout_start(self):
        self._examine()

    def _on_training_end(self):
        self._examine()

    def _on_step(self):
        return True


SEEDS = quick(5, 2)
BUDGET = quick(30_720, 768)
rows, finals = [], []
figure, axes = plt.subplots()
for seed in range(SEEDS):
    settings, env = recipe("CartPole-v1", seed=seed)
    exams = Exams(settings, BUDGET // 6)
    model = EduPPO(settings.policy, env, seed=seed, device="cpu", **settings.algorithm)
    model.learn(BUDGET, callback=exams)
    decisions, scores = np.array(exams.decisions), np.array(exams.scores)
    axes.plot(decisions, scores, "o-", color="C0", alpha=0.6)
    finals.append(score_within_budget(decisions, scores, BUDGET))
    halfway = score_within_budget(decisions, scores, BUDGET // 2)
    rows.append([f"seed {seed}", halfway, finals[-1], scores.max()])
axes.set_xlabel("steps of the environment")
axes.set_ylabel("return, 10 episodes")
plt.show()
rows.append(["mean", *np.mean([row[1:] for row in rows], axis=0)])
table(["", "after half of the budget", "at its end", "best of six"], rows)

# %%
at_random = np.mean(play_randomly(settings, episodes=quick(30, 4)).returns)
result = bootstrap(np.array(finals), interquartile_mean)
print(f"EduPPO, IQM of {SEEDS} seeds: {result.value:.0f} [{result.low:.0f}, {result.high:.0f}]")
print(f"random actions: {at_random:.0f}")

# %% [markdown]
# The last column is never below the one beside it, whatever the algorithm: that is what a maximum does. Look for a seed that had its best evaluation
# behind it. (On CartPole nothing is above 500, which hides much of this.)
#
# ## A task of your own
#
# Anything with `reset` and `step` will do. This one has an answer that you know, which makes it a *test* of an algorithm rather than a task: the
# reward is 1 for the action that the observation asks for.


# %%
class Echo(gym.Env):
    """Sixteen steps; the observation says which of three actions earns a point."""

    observation_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._ask(), {}

    def _ask(self):
        self.wanted = int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.wanted]

    def step(self, action):
        reward = float(action == self.wanted)
        self.steps += 1
        return self._ask(), reward, self.steps == 16, False, {}


curve = Curve()
model = EduPPO(
    "MlpPolicy",
    make_vec_env(Echo, 8, vec_env_cls=DummyVecEnv),
    n_steps=64,
    learning_rate=3e-3,
    gamma=0.0,
    seed=0,
)
model.learn(quick(8192, 512), callback=curve)
print(f"the last 20 episodes: {np.mean(curve.returns[-20:]):.1f} of 16 points")
workshop.cleanup()

# %% [markdown]
# ## Your project
#
# 1. **A question**, in one sentence with a question mark, that an experiment can answer with *no*. ("Does the KL rule help with large learning
#    rates?" is one; "PPO on MuJoCo" is not.)
# 2. **Two tasks**, one of them discrete. At least one must be quick enough for ten seeds.
# 3. **A prediction**, written down and dated before the first run.
# 4. **Runs**: seeds, budget and settings decided before; the baseline tuned with the same effort. Use `sb3-edu bench learn` or a script of your own.
# 5. **A report** of two pages: the question, one figure with intervals, one table with all seeds, what surprised you, and what the experiment
#    cannot say. The command that makes each number stands beside it.
# 6. **Reproduction**: hand your folder to a classmate. The project is finished when *they* get your numbers.
