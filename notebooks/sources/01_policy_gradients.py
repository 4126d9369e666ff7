# %% [markdown]
# # 01 From REINFORCE to actor-critic
#
# Try something, see how it went, and do more of what went well. That is the whole of policy gradients, and REINFORCE is that
# sentence as a formula. In this lesson you write it, see why nobody uses it bare, add a critic, and drive it into the ground
# with a step that is too large. PPO is the answer to that last part.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import Categorical

from sb3_ppo_edu import Reinforce
from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import Curve, begin, note, quick, table
from sb3_ppo_edu.envs.factory import make_training_env

begin()

# %% [markdown]
# ## What an action led to
#
# An action can only be praised for what came after it. The **return** from step $t$ on adds up the later rewards, each step away
# counting $\gamma$ less:
#
# $$G_t = r_t + \gamma r_{t+1} + \gamma^2 r_{t+2} + \dots = r_t + \gamma\,G_{t+1}$$
#
# Rules for every exercise: your function leaves its arguments as they are (no `-=`, no `x[t] = …` on them) and depends on
# nothing else. Numbers are floats, nothing is empty. Arrays may be answered with lists; what is minimised has to be a tensor
# with its gradient. The check compares up to rounding.


# %% exercise="discounted_returns" todo="each return needs the one after it: at which end of the episode do you know one?"
def discounted_returns(rewards, gamma=0.99):
    """
    Compute the returns of one finished episode.

    :param rewards: array of shape (n_steps,)
    :param gamma: discount factor
    :return: shape (n_steps,)
    """
    ### BEGIN SOLUTION
    returns = np.zeros_like(rewards)
    following = 0.0
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * following
        returns[t] = following
    return returns
    ### END SOLUTION


# %% check="discounted_returns"
check("discounted_returns", discounted_returns)

# %%
print("three rewards of 1, γ = 0.9:", discounted_returns(np.ones(3), 0.9))

# %% [markdown]
# ## REINFORCE
#
# The policy $\pi_\theta$ draws actions at random, so its performance $J(\theta) = \mathbb E[G_0]$ is an expectation, and its gradient is
# one as well:
#
# $$\nabla_\theta J = \mathbb E\Big[\sum_t \gamma^t\, \nabla_\theta \log\pi_\theta(a_t|s_t)\; G_t\Big]$$
#
# In words: make each action likelier in proportion to what followed. No model of the world is needed, only samples. An optimizer
# minimises, so the loss has a minus sign.
#
# Nearly everybody leaves $\gamma^t$ out, this lesson, the lecture and SB3 too, since with it late steps would teach next to nothing.
# For $\gamma = 1$ that is the same. Otherwise it is a useful direction that is no longer $\nabla J$; more on that below.
#
# What you write is averaged over the batch: minus the mean of the products. `returns` is a constant and is used as it comes.


# %% exercise="reinforce_loss" todo="which actions shall become likelier, and what does an optimizer do with a loss?"
def reinforce_loss(log_probs, returns):
    """
    Compute the loss of REINFORCE.

    :param log_probs: log π of the actions taken, shape (batch,)
    :param returns: what followed, shape (batch,)
    :return: one number to minimise
    """
    ### BEGIN SOLUTION
    return -(log_probs * returns).mean()
    ### END SOLUTION


# %% check="reinforce_loss"
check("reinforce_loss", reinforce_loss)

# %% [markdown]
# Is it right? On a slot machine with three arms everything can be worked out: $J = \sum_a \pi(a)\,R(a)$. Compare the true gradient
# with the average over samples.

# %%
PAYS = torch.tensor([1.0, 2.0, 4.0])


def sampled_gradients(n_batches, batch_size, offset=0.0, baseline=0.0, seed=0):
    """Gradients of J with respect to the logits, one for each batch of pulls."""
    torch.manual_seed(seed)
    gradients = []
    for _ in range(n_batches):
        logits = torch.zeros(3, requires_grad=True)
        policy = Categorical(logits=logits)
        arms = policy.sample((batch_size,))
        loss = reinforce_loss(policy.log_prob(arms), PAYS[arms] + offset - baseline)
        gradients.append(-torch.autograd.grad(loss, logits)[0])
    return torch.stack(gradients)


logits = torch.zeros(3, requires_grad=True)
(truth,) = torch.autograd.grad((Categorical(logits=logits).probs * PAYS).sum(), logits)
sampled = sampled_gradients(quick(2000, 200), 20)
table(
    ["gradient of J", "arm 0", "arm 1", "arm 2"],
    [
        ["the truth", *truth.tolist()],
        ["mean of REINFORCE", *sampled.mean(0).tolist()],
        ["its standard deviation", *sampled.std(0).tolist()],
    ],
)

# %% [markdown]
# Right on average, and noisy, in a game with one state and three arms:

# %%
note(
    f"One batch of 20 pulls is off by {sampled.std(0).norm() / truth.norm():.0%} of the gradient's "
    f"own length; the mean of {len(sampled):,} batches by {(sampled.mean(0) - truth).norm() / truth.norm():.1%}."
)

# %% [markdown]
# ## The same game, paid 10 more
#
# Suppose that each arm pays 10 more. Nothing that matters has changed. But now every pull looks like a success, all arms are pushed up,
# and only the *differences* between pushes teach anything. Subtracting a **baseline** $b$ mends that, and is free:
# $\mathbb E[\nabla\log\pi\cdot b] = b\,\nabla\sum_a\pi(a) = 0$.

# %%
mean_pay = PAYS.mean().item()
variants = {
    "as it was": {},
    "10 more": {"offset": 10.0},
    "10 more, minus a baseline": {"offset": 10.0, "baseline": 10.0 + mean_pay},
}
rows = []
for name, arguments in variants.items():
    gradients = sampled_gradients(quick(2000, 200), 20, **arguments)
    right_way = (gradients @ truth > 0).float().mean().item()
    rows.append([name, *gradients.mean(0).tolist(), gradients.std(0).mean().item(), right_way])
table(["", "arm 0", "arm 1", "arm 2", "noise", "share uphill"], rows)

# %% [markdown]
# The same mean every time; the noise is another matter. What was to be expected anyway is a good baseline, and a simple one.
#
# ## What leaving out $\gamma^t$ can do
#
# An episode of two steps that look alike to the policy. *Left* in the first step earns 1 at once and 3 in the next; *left* in the
# second step costs 3. With $\gamma = \frac12$ always left is worth $1 + \frac12(3 - 3) = 1$, never left 0; without discounting it is 1
# and 0 too. Which way do the two gradients point? All four episodes can be written down, so nothing is estimated.
#
# **Predict** first: will both find "always left"?

# %%
GAMMA = 0.5


def train_on_two_steps(keep_factor, steps=300):
    """Probability of left after each step of gradient ascent, with or without the factor γ^t."""
    logit, history = torch.zeros(1, requires_grad=True), []
    for _ in range(steps):
        left = torch.sigmoid(logit)
        direction = 0.0
        for first in (1, 0):
            for second in (1, 0):
                rewards = np.array([1.0 * first, 3.0 * first - 3.0 * second])
                log_probs = torch.log(torch.cat([left if a else 1 - left for a in (first, second)]))
                factors = torch.tensor([1.0, GAMMA if keep_factor else 1.0])
                returns = torch.as_tensor(discounted_returns(rewards, GAMMA))
                chance = log_probs.sum().exp().detach()
                direction = direction + chance * (factors * log_probs * returns).sum()
        (gradient,) = torch.autograd.grad(direction, logit)
        logit = (logit + gradient).detach().requires_grad_(True)
        history.append(left.item())
    return history


figure, axes = plt.subplots(figsize=(6, 2.8))
for keep_factor, name in ((True, "with γ^t: the gradient of J"), (False, "without")):
    axes.plot(train_on_two_steps(keep_factor), label=name)
axes.set_xlabel("step of gradient ascent")
axes.set_ylabel("P(left), worth as much")
axes.legend()
plt.show()

# %% [markdown]
# Without the factor it ends at the *worst* policy, worst with discounting and worst without. It counts the cost of the second step in full
# and the gain that the first one brings there by $\gamma$ only, which no return does. With several parameters it is, in general, not even the gradient
# of any function ([Thomas 2014](https://proceedings.mlr.press/v32/thomas14.html);
# [Nota and Thomas 2020](https://arxiv.org/abs/1906.07073), whose example is of the same kind). It takes states that look alike and a
# $\gamma$ far from 1. With $\gamma = 0.99$ and rich observations it hardly ever shows, and so everybody gets away with it, as we do from
# here on.
#
# ## Actor and critic
#
# In a game with many states, what was to be expected depends on the state: so a second network, the **critic**, learns
# $V(s) \approx \mathbb E[G]$, and the actor is trained on the **advantage** $\hat A_t = G_t - V(s_t)$.
#
# Both losses go into one number, and there is a trap: $V$ appears in both. In the critic's loss it is what learns. In the actor's it is
# part of a *weight*, a constant. Let the gradient through there and the critic learns to flatter the actor.
#
# $$\mathcal L = -\frac1n\sum_t \log\pi_\theta(a_t|s_t)\;\hat A_t \;+\; c_v\,\frac1n\sum_t \big(G_t - V(s_t)\big)^2$$


# %% exercise="actor_critic_loss" todo="V has two roles: in which of the two losses may a gradient reach it? and compare the shapes first"
def actor_critic_loss(log_probs, values, returns, vf_coef=0.5):
    """
    Compute the loss of an actor-critic.

    :param log_probs: log π of the actions taken, shape (batch,)
    :param values: from the critic, shape (batch, 1): a column, as a linear layer gives it
    :param returns: shape (batch,)
    :param vf_coef: weight of the critic's loss
    :return: one number to minimise
    """
    ### BEGIN SOLUTION
    values = values.squeeze(-1)
    advantages = (returns - values).detach()
    policy_loss = -(log_probs * advantages).mean()
    value_loss = ((returns - values) ** 2).mean()
    return policy_loss + vf_coef * value_loss
    ### END SOLUTION


# %% check="actor_critic_loss"
check("actor_critic_loss", actor_critic_loss)

# %% [markdown]
# ## On CartPole
#
# Balance a pole on a cart: 1 point a step, 500 at most. The package's `Reinforce`, without and with a critic, three seeds each. Note that
# one seed would have told you whatever you like.

# %%
STEPS = quick(80_000, 4096)
figure, axes = plt.subplots()
rows = []
for colour, baseline in enumerate((False, True)):
    name = "with a critic" if baseline else "without"
    finals = []
    for seed in range(quick(3, 1)):
        env = make_training_env("CartPole-v1", n_envs=4, seed=seed)
        curve = Curve()
        Reinforce("MlpPolicy", env, n_steps=512, baseline=baseline, seed=seed).learn(
            STEPS, callback=curve
        )
        curve.draw(axes, name if seed == 0 else "_")
        axes.lines[-1].set_color(f"C{colour}")
        finals.append(np.mean(curve.returns[-20:]))
    rows.append([name, str([round(float(x)) for x in finals]), np.mean(finals)])
axes.legend()
plt.show()
table(["REINFORCE", "last 20 episodes, by seed", "mean"], rows)

# %% [markdown]
# ## Too large a step
#
# A neural network does not know that its outputs are probabilities of the *next* data. Change it too much, and the new policy collects
# garbage, learns from garbage, and never comes back: a supervised learner that overshoots sees the same data set again, a
# policy does not. Here is the critic's REINFORCE with six learning rates.
#
# **Predict** first, on paper: with which of them does a run lose the most of what it once had?

# %%
RATES = quick([1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1], [1e-2, 3e-1])
best, last = [], []
curves = {}
for rate in RATES:
    of_seeds = []
    for seed in range(quick(2, 1)):
        env = make_training_env("CartPole-v1", n_envs=4, seed=seed)
        curve = Curve()
        Reinforce(
            "MlpPolicy", env, learning_rate=rate, n_steps=512, baseline=True, seed=seed
        ).learn(STEPS, callback=curve)
        running = np.convolve(curve.returns, np.ones(20) / 20, "valid")
        of_seeds.append((running.max(), running[-1]))
        curves[rate, seed] = curve
    best.append([one for one, _ in of_seeds])
    last.append([one for _, one in of_seeds])

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
for numbers, marker, label in ((best, "^", "best 20 episodes"), (last, "o", "last 20 episodes")):
    axes[0].semilogx(RATES, np.mean(numbers, axis=1), marker=marker, label=label)
axes[0].set_xlabel("learning rate")
axes[0].set_ylabel("return, mean over seeds")
axes[0].legend()
for rate in (RATES[0], RATES[-2], RATES[-1]):
    curves[rate, 0].draw(axes[1], f"learning rate {rate:g}")
axes[1].legend(fontsize=8)
plt.show()

# %% [markdown]
# Where the two lines on the left part, runs *had* a good policy and lost it. In numbers:

# %%
worst = (np.mean(best, axis=1) - np.mean(last, axis=1)).argmax()
note(
    f"Most was lost at a learning rate of {RATES[worst]:g}: from {np.mean(best[worst]):.0f} points "
    f"to {np.mean(last[worst]):.0f}. The largest, {RATES[-1]:g}, ended at {np.mean(last[-1]):.0f}."
)

# %% [markdown]
# A run that ends near 9 points has become certain of one action. The other is never drawn, so no sample speaks for it; and the sample of an action
# with $\pi \approx 1$ moves its logit by $1 - \pi$ times the advantage, which is almost nothing. The policy is not punished for that:
# it has gone silent. An average over good and bad runs would hide all that; look at the curves.
#
# A small learning rate is safe and slow, and what is safe today may be too large tomorrow. What we really want to bound is
# not the step of the *parameters* but how far the *policy* moves. TRPO does that with a constraint and second derivatives. PPO
# does it with a `min` and a `clip`: lesson 03.
#
# **What to remember.** The policy gradient is right on average and noisy. A baseline costs nothing and takes noise away; the critic is
# a baseline that learns, detached where it is a weight. And the danger is not a wrong gradient but a step that is too long.
