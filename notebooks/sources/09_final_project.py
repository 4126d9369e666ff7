# %% [markdown]
# # 09 Final project: an experiment that somebody else can repeat
#
# You know the algorithm, you can read its gauges, and you know what a number is worth. What is left is the craft around it: one class
# for every kind of task, runs that survive a power cut, files that load a year later, and results that come out again. This lesson walks
# through all of it once, small enough to finish in a minute; your project does the same with a task of your own.

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
from sb3_ppo_edu.bench.statistics.aggregates import bootstrap, interquartile_mean
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.course.lesson import Curve, begin, play, play_randomly, quick, recipe, table
from sb3_ppo_edu.hyperparameters import load_hyperparameters

begin()
workshop = tempfile.TemporaryDirectory()
folder = Path(workshop.name)

# %% [markdown]
# ## One class for all
#
# Discrete or continuous is the policy's business. The losses, the loop and the logs are the same.

# %%
for env_id in ("CartPole-v1", "Pendulum-v1"):
    model = EduPPO("MlpPolicy", env_id, seed=0, device="cpu").learn(quick(4096, 2048))
    print(
        f"{env_id}: {model.action_space}, policy head {model.policy.action_net}, engine {model.engine_reason}"
    )

# %% [markdown]
# ## Same seed, same bits
#
# The first demand on an experiment is that it comes out twice. Train twice from one seed and compare, not the curves but the parameters.


# %%
def parameters_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


def pendulum():
    """Four pendulums that can be put back to where they were."""
    return make_vec_env("Pendulum-v1", 4, env_kwargs={"render_mode": None}, wrapper_class=Resumable)


SETTINGS = {"n_steps": 256, "batch_size": 128, "gamma": 0.9, "learning_rate": 1e-3, "device": "cpu"}
STEPS = quick(16_384, 2048)
first = EduPPO("MlpPolicy", pendulum(), seed=3, **SETTINGS).learn(STEPS)
second = EduPPO("MlpPolicy", pendulum(), seed=3, **SETTINGS).learn(STEPS)
other = EduPPO("MlpPolicy", pendulum(), seed=4, **SETTINGS).learn(STEPS)
print("same seed, same bits:", torch.equal(parameters_of(first), parameters_of(second)))
print("another seed:", torch.equal(parameters_of(first), parameters_of(other)))

# %% [markdown]
# That holds on one machine with one version of torch. So a report names both, and the lock file of the project pins them.
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
# A model file is a pickle inside, and a pickle can run programs. For a file from a stranger there is `EduPPO.load(path, trusted=False)`.
#
# ## Pull the plug
#
# `load` and `learn` again is *not* resuming: environments start anew, random streams too, and the result is another one. An exact checkpoint holds
# everything that decides the future. Here a training is interrupted in the middle of a rollout.


# %%
lights = {"out at": STEPS * 5 // 8}


class PowerCut(BaseCallback):
    """Ends the training by force."""

    def _on_step(self):
        if self.num_timesteps >= lights["out at"]:
            raise RuntimeError("the lights went out")
        return True


def callbacks():
    return [ExactCheckpoint(STEPS // 4, folder / "checkpoints"), PowerCut()]


interrupted = EduPPO("MlpPolicy", pendulum(), seed=3, **SETTINGS)
try:
    interrupted.learn(STEPS, callback=callbacks())
except RuntimeError as error:
    print(f"after {interrupted.num_timesteps:,} steps: {error}")

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
# ## A small benchmark, done properly
#
# The checklist of lesson 08: seeds decided before, the final policy, the same starting states for all, a baseline, an interval. One task here; your project has
# two.

# %%
SEEDS = quick(5, 2)
settings, _ = recipe("CartPole-v1")
finals, figure_axes = [], plt.subplots()
for seed in range(SEEDS):
    settings, env = recipe("CartPole-v1", seed=seed)
    model = EduPPO(settings.policy, env, seed=seed, device="cpu", **settings.algorithm)
    curve = Curve(settings)
    model.learn(quick(30_720, 512), callback=curve)
    curve.draw(figure_axes[1], f"seed {seed}")
    finals.append(float(np.mean(play(model, settings, episodes=quick(30, 4)).returns)))
figure_axes[1].legend(fontsize=8)
plt.show()
at_random = float(np.mean(play_randomly(settings, episodes=quick(30, 4)).returns))
result = bootstrap(np.array(finals), interquartile_mean)
table(
    ["CartPole-v1, 30,720 steps", "return", "interval or seeds"],
    [
        ["EduPPO, IQM", f"{result.value:.0f}", f"{result.low:.0f} to {result.high:.0f}"],
        [
            "its seeds",
            f"{np.mean(finals):.0f} on average",
            ", ".join(f"{final:.0f}" for final in finals),
        ],
        ["random actions", f"{at_random:.0f}", ""],
    ],
)

# %% [markdown]
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
