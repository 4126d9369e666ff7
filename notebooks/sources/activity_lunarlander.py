# %% [markdown]
# # Activity: land on the Moon in 50,000 steps
#
# A lander falls towards the Moon. It has one main engine and two small ones at its sides, and it shall come down softly between
# two flags. You will write the three formulas that make a plain policy gradient a PPO, and put them into a training that lands
# it.
#
# | part | what | yours |
# |---|---|---|
# | 1 to 4 | environment, random baseline, network, GAE, a finished PPO to compare with | works as handed out |
# | 5 | **TODO 2**: `normalize_advantages` (medium) | 3 points |
# | 6 | **TODO 1**: `compute_policy_loss` (hard), **TODO 3**: `compute_entropy_bonus` (easy) | 7 points |
# | 7 | training with your functions, curves, `plots.png` | works once yours do |
# | challenges | KL early stopping, parallel environments, REINFORCE, discrete actions | 4 points |
#
# *Run All* takes a minute or so and stops at the first TODO. Under each TODO a cell says what is wrong, and why.

# %%
import time

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F

from sb3_ppo_edu import EduPPO, Reinforce
from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import (
    Curve,
    Films,
    begin,
    compare,
    film,
    play,
    play_randomly,
    quick,
    recipe,
    table,
)
from sb3_ppo_edu.envs.factory import make_training_env
from sb3_ppo_edu.functional.advantages import generalized_advantage_estimate

begin()
ENV_ID = "LunarLanderContinuous-v3"

# %% [markdown]
# ## 1. The environment
#
# Eight numbers come in: position, velocity, angle and angular velocity, and whether each leg touches the ground. Two numbers go
# out, each from −1 to 1: the main engine (off below 0) and the side engines (left below −0.5, right above 0.5).
# A safe landing between the flags pays 100 to 140 points on the way and 100 at the end, a crash costs 100, and fuel costs a little.
# 200 points on average count as solved.

# %%
env = gym.make(ENV_ID)
print("observations:", env.observation_space.shape, "  actions:", env.action_space)

# %% [markdown]
# ## 2. Acting at random
#
# Every later number will be compared with this one. (Each random action is held for four steps, as all actions are here.)

# %%
settings, _ = recipe(ENV_ID)
random_play = play_randomly(settings, episodes=quick(50, 5))
print(
    f"random actions: {np.mean(random_play.returns):.0f} ± {np.std(random_play.returns):.0f} points"
)

# %% [markdown]
# ## 3. Actor and critic
#
# The *actor* turns an observation into the mean of a Gaussian over actions; its log standard deviation is a parameter of its own.
# The *critic* turns it into a number, the return that it expects. Here the two share nothing but the observation; what a shared
# backbone does instead is measured in lesson 04.
#
# The settings are the package's own for this task, `hyperparams/eduppo.yml`. Two of its tricks do most of the work: each action is
# held for four steps, so that a decision has consequences, and a lander left of the pad is shown in a mirror, so that it has to
# learn only half as much. Observations and rewards are normalised by running statistics. Training counts *decisions*: 12,288 of
# them are 49,152 steps of the environment.

# %%
settings, lander = recipe(ENV_ID, seed=0)
model = EduPPO(settings.policy, lander, seed=0, **settings.algorithm)
print(model.policy.mlp_extractor)
print("log std of the two actions:", model.policy.log_std.tolist())
print(
    {
        name: settings.algorithm[name]
        for name in ("n_steps", "batch_size", "n_epochs", "clip_range", "gae_lambda", "ent_coef")
    }
)

# %% [markdown]
# ## 4. Advantages, and where you are going
#
# The **advantage** $\hat A_t$ says how much better than expected an action turned out. GAE computes it backwards:
#
# $$\delta_t = r_t + \gamma (1 - d_t) V(s_{t+1}) - V(s_t), \qquad \hat A_t = \delta_t + \gamma\lambda (1 - d_t) \hat A_{t+1}$$
#
# It is built in here (writing it is lesson 02). Three steps with a reward of 1 each, a critic that says 0.5 everywhere, and
# $\gamma = \lambda = 0.9$:

# %%
advantages = generalized_advantage_estimate(
    rewards=np.array([1.0, 1.0, 1.0]),
    values=np.array([0.5, 0.5, 0.5]),
    dones=np.array([0, 0, 1]),
    last_values=np.array(0.0),
    gamma=0.9,
    gae_lambda=0.9,
)
print("advantages:", advantages)

# %% [markdown]
# The first action gets the most credit: most came after it.
#
# Now a finished PPO, the package's, trains for 49,152 steps of the environment. This is the mark that yours has to reach.
#
# **Predict** first: how many points will it earn in an episode? (You have seen what random actions earn; 200 count as solved.)

# %%
my_points = None

# %%
STEPS = quick(settings.steps, 512)
before = film(model, settings)
finished_curve = Curve(settings)
began = time.perf_counter()
model.learn(STEPS, callback=finished_curve)
finished_seconds = time.perf_counter() - began
finished_play = play(model, settings, episodes=quick(50, 5))
print(
    f"{finished_seconds:.0f} seconds; the trained policy earns {np.mean(finished_play.returns):.0f} points, "
    f"at random it was {np.mean(random_play.returns):.0f}"
)

# %%
compare(my_points, round(np.mean(finished_play.returns)), "Points after the training")

# %% [markdown]
# Look at it: the same start, before the training and after.

# %%
Films({"before": before, "after": film(model, settings)})

# %%
figure, axes = plt.subplots()
finished_curve.draw(axes, "the finished PPO")
axes.axhline(np.mean(random_play.returns), color="grey", linestyle=":", label="random actions")
axes.axhline(200, color="black", linewidth=0.8, label="solved")
axes.legend()
plt.show()

# %% [markdown]
# The curve shows training episodes, in which the policy still tries things out; the number above is without that, which is why it
# is higher.
#
# ## 5. TODO 2: normalise the advantages
#
# Raw advantages may lie between −100 and 100 in one task and between −0.1 and 0.1 in another. Standardised to mean 0 and standard
# deviation 1, the same learning rate fits both, and in every batch some actions are encouraged and some discouraged:
#
# $$\hat A \leftarrow \frac{\hat A - \operatorname{mean}(\hat A)}{\operatorname{std}(\hat A) + 10^{-8}}$$
#
# Two edges: if all advantages are equal, the formula gives 0 up to rounding and not NaN (what is $10^{-8}$ for?), and a single advantage,
# which has no standard deviation, is returned as it is. The standard deviation is the one with $n - 1$, torch's default, of all numbers
# together, whatever their shape.
#
# Rules for every exercise: your function leaves its arguments as they are (no `-=`, no `x[t] = …` on them) and depends on nothing
# else. Nothing is empty. What is minimised has to be a tensor with its gradient. The check compares up to rounding, and no number lies
# exactly on a threshold.


# %% exercise="normalize_advantages" todo="what shall the mean and the spread of the result be? and which numbers have no spread?"
def normalize_advantages(advantages):
    """
    Standardise advantages.

    :param advantages: tensor of any shape, such as (batch,)
    :return: tensor of the same shape with mean 0 and standard deviation 1
    """
    ### BEGIN SOLUTION
    if advantages.numel() < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ### END SOLUTION


# %% check="normalize_advantages"
check("normalize_advantages", normalize_advantages)

# %%
raw = torch.tensor([-100.0, -20.0, 0.0, 30.0, 90.0])
print("raw:", raw.tolist())
print("normalised:", [round(x, 2) for x in normalize_advantages(raw).tolist()])

# %% [markdown]
# ## 6. TODO 1: the clipped surrogate objective
#
# The rollout was collected by the *old* policy. With each gradient step the new one moves away from it, and the advantages become
# hearsay. The **probability ratio** measures how far an action's probability has moved,
#
# $$r_t(\theta) = \frac{\pi_\theta(a_t|s_t)}{\pi_{\theta_{old}}(a_t|s_t)} = \exp\big(\log\pi_\theta(a_t|s_t) - \log\pi_{\theta_{old}}(a_t|s_t)\big),$$
#
# and PPO stops rewarding an action once its ratio has left $[1-\epsilon, 1+\epsilon]$ in the direction that the advantage wants:
#
# $$L^{CLIP}(\theta) = \frac1n\sum_t \min\big(r_t \hat A_t,\ \operatorname{clip}(r_t, 1-\epsilon, 1+\epsilon)\,\hat A_t\big)$$
#
# An optimizer minimises. What do you have to return?
#
# ($\epsilon = 0.2$ is the window from 0.8 to 1.2. The advantages come as they are to be used, and what the old policy did is
# a constant.)


# %% exercise="compute_policy_loss" todo="how likely is each action against before? which of two terms? what does an optimizer want?"
def compute_policy_loss(log_probs, old_log_probs, advantages, clip_epsilon=0.2):
    """
    Compute the policy loss of PPO.

    :param log_probs: log-probabilities under the policy that is trained, shape (batch,)
    :param old_log_probs: under the policy that acted, shape (batch,)
    :param advantages: shape (batch,)
    :param clip_epsilon: half the width of the window of trust
    :return: one number to minimise
    """
    ### BEGIN SOLUTION
    ratio = torch.exp(log_probs - old_log_probs)
    clipped_ratio = torch.clamp(ratio, 1 - clip_epsilon, 1 + clip_epsilon)
    return -torch.min(ratio * advantages, clipped_ratio * advantages).mean()
    ### END SOLUTION


# %% check="compute_policy_loss"
check("compute_policy_loss", compute_policy_loss)

# %% [markdown]
# The activity's own test has three transitions. Work the first number out by hand: ratios $e^0, e^{0.1}, e^{-0.1}$, all within the
# window, so the objective is $(1 + 1.105 - 0.905)/3 = 0.400$.

# %%
log_probs = torch.tensor([0.0, 0.1, -0.1])
old_log_probs = torch.tensor([0.0, 0.0, 0.0])
loss = compute_policy_loss(
    log_probs, old_log_probs, torch.tensor([1.0, 1.0, -1.0]), clip_epsilon=0.2
)
print(f"loss: {loss.item():.3f}")

# %% [markdown]
# ## TODO 3: the entropy bonus
#
# A policy that is sure too early stops looking. **Entropy** measures how unsure it is, and a bonus for it keeps it looking. For a
# Gaussian each dimension $i$ has a closed form, and independent dimensions add up:
#
# $$\mathcal H = \sum_i \tfrac12 \log(2\pi e\,\sigma_i^2)$$
#
# What you get is $\log\sigma$, of shape `(action_dim,)`, or `(batch, action_dim)` if the standard deviation depends on the state;
# then the result is the mean over the batch. The formula gets simpler if you use $\log\sigma^2 = 2\log\sigma$.
#
# Return the entropy itself, a tensor with its gradient; the coefficient comes later.


# %% exercise="compute_entropy_bonus" todo="put the logarithm of σ into the formula; over which axis do dimensions add up?"
def compute_entropy_bonus(log_std):
    """
    Compute the entropy of a Gaussian policy.

    :param log_std: log standard deviations, shape (action_dim,) or (batch, action_dim)
    :return: one number, in nats
    """
    ### BEGIN SOLUTION
    entropy = 0.5 * np.log(2 * np.pi * np.e) + log_std
    return entropy.sum(dim=-1).mean()
    ### END SOLUTION


# %% check="compute_entropy_bonus"
check("compute_entropy_bonus", compute_entropy_bonus)

# %%
for std in (2.0, 1.0, 0.5, 0.1):
    entropy = compute_entropy_bonus(torch.log(torch.tensor([std, std]))).item()
    print(f"std {std:3.1f} in two dimensions: {entropy:6.2f} nats")

# %% [markdown]
# The entropy of a *density* may be negative: 0.1 is narrower than an interval of length 1, whose entropy is 0.
#
# ## 7. Your PPO
#
# `MyPPO` is `EduPPO` with one method replaced: the update, with your three functions in it. Rollouts, GAE, normalisation and saving
# are inherited. This is the whole inner loop of PPO; find each of the three terms of
#
# $$\mathcal L = L^{policy} + c_v L^{value} - c_e \mathcal H .$$


# %%
class MyPPO(EduPPO):
    """PPO with an update of your own."""

    def entropy_bonus(self, observations):
        return compute_entropy_bonus(self.policy.log_std)

    def actions_taken(self, batch):
        return batch.actions

    def moved_too_far(self, log_probs, old_log_probs):
        return False

    def train(self):
        self._update_learning_rate(self.policy.optimizer)
        for epoch in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                values, log_probs, _ = self.policy.evaluate_actions(
                    batch.observations, self.actions_taken(batch)
                )
                assert log_probs.shape == batch.old_log_prob.shape  # or torch would broadcast
                advantages = normalize_advantages(batch.advantages)
                policy_loss = compute_policy_loss(
                    log_probs, batch.old_log_prob, advantages, self.clip_range(1.0)
                )
                value_loss = F.mse_loss(values.flatten(), batch.returns)
                entropy = self.entropy_bonus(batch.observations)
                loss = policy_loss + self.vf_coef * value_loss - self.ent_coef * entropy
                if self.moved_too_far(log_probs, batch.old_log_prob):
                    self.note(
                        epoch, policy_loss, value_loss, entropy, log_probs, batch.old_log_prob
                    )
                    return
                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
        self.note(epoch + 1, policy_loss, value_loss, entropy, log_probs, batch.old_log_prob)

    def note(self, epochs, policy_loss, value_loss, entropy, log_probs, old_log_probs):
        """Keep what the last minibatch of the update looked like."""
        log_ratio = (log_probs - old_log_probs).detach()
        numbers = {
            "policy loss": policy_loss.item(),
            "value loss": value_loss.item(),
            "KL divergence": (log_ratio.exp() - 1 - log_ratio).mean().item(),
            "entropy": entropy.item(),
            "epochs": epochs,
        }
        self.history = [*getattr(self, "history", []), numbers]


# %%
settings, lander = recipe(ENV_ID, seed=0)
mine = MyPPO(settings.policy, lander, seed=0, **settings.algorithm)
my_curve = Curve(settings)
began = time.perf_counter()
mine.learn(STEPS, callback=my_curve)
my_seconds = time.perf_counter() - began
my_play = play(mine, settings, episodes=quick(50, 5))

table(
    ["", "points", "± over episodes", "seconds to train"],
    [
        ["random actions", np.mean(random_play.returns), np.std(random_play.returns), "none"],
        [
            "the package's PPO",
            np.mean(finished_play.returns),
            np.std(finished_play.returns),
            finished_seconds,
        ],
        ["your PPO", np.mean(my_play.returns), np.std(my_play.returns), my_seconds],
    ],
)

# %% [markdown]
# And this is what it does:

# %%
Films({"before": before, "your PPO": film(mine, settings)})

# %% [markdown]
# Yours takes longer for the same mathematics: torch builds a graph for every minibatch, and the package's fast engine has the
# derivatives worked out by hand (lesson 06).
#
# `plots.png` is what you hand in, together with this notebook.

# %%
figure, axes = plt.subplots(2, 3, figsize=(11, 6))
finished_curve.draw(axes[0, 0], "the package's PPO")
my_curve.draw(axes[0, 0], "your PPO")
axes[0, 0].axhline(200, color="black", linewidth=0.8)
axes[0, 0].legend(fontsize=8)
for panel, name in zip(
    axes.flat[1:5], ("policy loss", "value loss", "KL divergence", "entropy"), strict=True
):
    panel.plot([numbers[name] for numbers in mine.history])
    panel.set_title(name)
    panel.set_xlabel("update")
axes[1, 2].hist(
    [random_play.returns, my_play.returns], bins=20, label=["random actions", "your PPO"]
)
axes[1, 2].set_xlabel("return of an episode")
axes[1, 2].legend(fontsize=8)
figure.savefig("plots.png", dpi=120)
plt.show()

# %% [markdown]
# **What to look for.** The entropy rises while nothing is known yet and the bonus has its way, then falls: the policy becomes sure of
# itself, slowly. The KL divergence
# of each update stays small (a few hundredths): clipping holds. The value loss does not go to 0, and need not: rewards are noisy, and
# the returns grow while the critic learns them.
#
# **One seed is an anecdote.** Before you say that a change is better, train several seeds of both; the package's table for this
# very task has twenty.
#
# ---
# ## Challenge 1: stop when the policy has moved too far
#
# Clipping is the first line of defence, a look at the KL divergence the second. The activity's hint estimates it by
# `mean(old_log_probs - log_probs)`, which is right on average but can come out *negative*, which no divergence is. Write the
# estimator that cannot, called k3: with $r$ the probability ratio,
#
# $$\widehat{KL}(\pi_{old}\,\|\,\pi_\theta) = \frac1n \sum_t \big((r_t - 1) - \log r_t\big)$$
#
# It is only watched, so a float will do; rounding may leave it a hair below 0.


# %% exercise="approx_kl" todo="you have log r; where does r come from? and what is it for equal policies?"
def approx_kl(log_probs, old_log_probs):
    """
    Estimate how far the new policy is from the old one.

    :param log_probs: under the policy that is trained, shape (batch,)
    :param old_log_probs: under the policy that acted, shape (batch,)
    :return: one number, never negative
    """
    ### BEGIN SOLUTION
    log_ratio = log_probs - old_log_probs
    return (torch.exp(log_ratio) - 1 - log_ratio).mean()
    ### END SOLUTION


# %% check="approx_kl"
check("approx_kl", approx_kl)

# %%
generator = torch.Generator().manual_seed(0)
old = torch.distributions.Normal(0.0, 1.0)
new = torch.distributions.Normal(0.1, 1.0)
k1, k3 = [], []
for _ in range(2000):
    actions = torch.randn(64, generator=generator)
    log_ratio = new.log_prob(actions) - old.log_prob(actions)
    k1.append(-log_ratio.mean().item())
    k3.append(approx_kl(new.log_prob(actions), old.log_prob(actions)).item())
truth = torch.distributions.kl_divergence(old, new).item()
table(
    ["2,000 batches of 64", "mean", "standard deviation", "share below 0"],
    [
        ["k1, the activity's", np.mean(k1), np.std(k1), np.mean(np.array(k1) < 0)],
        ["k3, yours", np.mean(k3), np.std(k3), np.mean(np.array(k3) < 0)],
        ["the truth", truth, "", ""],
    ],
)

# %% [markdown]
# Both are right on average; one of them you can use for a decision. Now the decision: an update ends as soon as a minibatch is
# further than 0.03 from the old policy.


# %%
class CarefulPPO(MyPPO):
    """Ends an update when the policy has moved too far."""

    def moved_too_far(self, log_probs, old_log_probs):
        return approx_kl(log_probs.detach(), old_log_probs).item() > 0.03


settings, lander = recipe(ENV_ID, seed=0)
careful = CarefulPPO(settings.policy, lander, seed=0, **settings.algorithm)
began = time.perf_counter()
careful.learn(STEPS)
careful_play = play(careful, settings, episodes=quick(50, 5))
table(
    ["", "points", "epochs per update", "seconds"],
    [
        ["all epochs", np.mean(my_play.returns), np.mean([h["epochs"] for h in mine.history]), my_seconds],
        ["stop at KL 0.03", np.mean(careful_play.returns), np.mean([h["epochs"] for h in careful.history]),
         time.perf_counter() - began],
    ],
)  # fmt: skip

# %% [markdown]
# Is it better? It is *cheaper*: many epochs are never run. Whether it scores higher one seed cannot tell; the settings were tuned
# without it.
#
# ## Challenge 2: parallel environments
#
# The activity promises that four environments in four processes collect data four times as fast. Measure it. `SyncVectorEnv` steps
# them one after the other in this process, `AsyncVectorEnv` in processes of their own.


# %%
def steps_per_second(env, n_envs, calls):
    env.reset(seed=0)
    began = time.perf_counter()
    for _ in range(calls):
        env.step(env.action_space.sample())
    env.close()
    return n_envs * calls / (time.perf_counter() - began)


CALLS = quick(2000, 50)
speeds = {
    "1 environment": steps_per_second(gym.make_vec(ENV_ID, 1, vectorization_mode="sync"), 1, CALLS),
    "4, one after the other": steps_per_second(
        gym.make_vec(ENV_ID, 4, vectorization_mode="sync"), 4, CALLS
    ),
    "4, in 4 processes": steps_per_second(
        gym.make_vec(ENV_ID, 4, vectorization_mode="async"), 4, CALLS
    ),
}
one = speeds["1 environment"]
table(
    ["LunarLander", "steps per second", "times one"],
    [[name, speed, speed / one] for name, speed in speeds.items()],
)

# %% [markdown]
# Surprised? A step of LunarLander takes some tens of microseconds; sending an action to another process and an observation back
# takes longer than that. Processes pay off where a step is *slow* (a camera, a large simulation) and where there are cores to spare. What four
# environments give in any case is more diverse data in each batch, and one call of the network for all four.
#
# ## Challenge 3: PPO against REINFORCE
#
# The same network, the same environments, the same number of steps of the environment. `Reinforce` takes one gradient step for each
# batch, since after that step the data is no longer its own.

# %%
SEEDS = range(quick(3, 1))
results = {"PPO": [], "REINFORCE": []}
curves = {"PPO": [], "REINFORCE": []}
for seed in SEEDS:
    for name in results:
        settings, lander = recipe(ENV_ID, seed=seed)
        if name == "PPO":
            learner = EduPPO(settings.policy, lander, seed=seed, **settings.algorithm)
        else:
            policy_kwargs = settings.algorithm["policy_kwargs"]
            learner = Reinforce(
                settings.policy,
                lander,
                n_steps=quick(256, 64),
                baseline=True,
                seed=seed,
                policy_kwargs=policy_kwargs,
            )
        curve = Curve(settings)
        learner.learn(STEPS, callback=curve)
        results[name].append(np.mean(play(learner, settings, episodes=quick(30, 5)).returns))
        curves[name].append(curve)

table(
    ["after 49,152 steps", "seeds", "mean", "lowest", "highest"],
    [
        [name, str(len(scores)), np.mean(scores), np.min(scores), np.max(scores)]
        for name, scores in results.items()
    ],
)

# %%
figure, axes = plt.subplots()
for colour, name in enumerate(curves):
    for seed, curve in enumerate(curves[name]):
        curve.draw(axes, name if seed == 0 else "_")
        axes.lines[-1].set_color(f"C{colour}")
axes.axhline(200, color="black", linewidth=0.8)
axes.legend()
plt.show()

# %% [markdown]
# Is that a fair fight? Not quite. With batches of 2,048 decisions REINFORCE takes *six* steps of the optimizer in all this time, PPO ten
# thousand, and nothing learns from six steps. Smaller batches are noisier and give more steps: **try** `n_steps=16` with
# `learning_rate=3e-3`, 96 steps, and look for its best settings on seeds that are not in the comparison, as it was done for PPO. What remains is
# the reason: after one step REINFORCE has to throw its data away, and PPO, thanks to the clip, uses each piece of it many times.
#
# ## Challenge 4: discrete actions
#
# CartPole has two actions, left and right. The network's output is now one *logit* per action, and
# $\pi(a|s) = \operatorname{softmax}(\text{logits})_a$. Of your three functions two stay as they are: only the entropy is another one,
#
# $$\mathcal H = -\sum_a \pi(a|s) \log \pi(a|s),$$
#
# averaged over the batch. Let a policy that is sure ($\pi \approx 0$ for the other actions) not end in NaN,
# neither its entropy nor the gradient.
#
# One trap is dealt with below: the buffer keeps actions as a column of shape (n, 1), and a categorical distribution wants n whole numbers. Given the column
# it returns n × n log-probabilities, without an error, and the policy learns nothing.


# %% exercise="categorical_entropy" todo="which function gives log π without ever taking the logarithm of 0?"
def categorical_entropy(logits):
    """
    Compute the mean entropy of categorical policies.

    :param logits: shape (batch, n_actions)
    :return: one number, in nats
    """
    ### BEGIN SOLUTION
    log_probs = F.log_softmax(logits, dim=-1)
    return -(log_probs.exp() * log_probs).sum(dim=-1).mean()
    ### END SOLUTION


# %% check="categorical_entropy"
check("categorical_entropy", categorical_entropy)


# %%
class MyDiscretePPO(MyPPO):
    """Your PPO for discrete actions: another entropy, and actions that are whole numbers."""

    def actions_taken(self, batch):
        return batch.actions.long().flatten()

    def entropy_bonus(self, observations):
        return categorical_entropy(self.policy.get_distribution(observations).distribution.logits)


settings, _ = recipe("CartPole-v1")
poles = make_training_env("CartPole-v1", n_envs=8, seed=0)
balancing = MyDiscretePPO(
    "MlpPolicy", poles, learning_rate=1e-3, n_steps=quick(256, 32), batch_size=256, seed=0
)
curve = Curve()
balancing.learn(quick(40_960, 256), callback=curve)
print(
    f"CartPole: {np.mean(play(balancing, settings, episodes=quick(30, 5)).returns):.0f} of 500 points"
)

# %%
figure, axes = plt.subplots()
curve.draw(axes, "your PPO on CartPole-v1")
axes.axhline(500, color="black", linewidth=0.8)
axes.legend()
plt.show()

# %% [markdown]
# Done. Save the notebook, and hand it in with `plots.png`. If you want to go on, lesson 02 takes GAE apart, lesson 03 the
# clipping, and lesson 04 builds everything you have inherited here from nothing.
