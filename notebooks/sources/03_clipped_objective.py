# %% [markdown]
# # 03 The clipped objective: how far to trust old data
#
# A policy gradient is right for one step. After it the policy is another one, and the data were collected by the old. Throwing them
# away after one step is honest and wasteful; going on with them for ten is PPO. This lesson is about the small piece of
# mathematics that makes this safe, and about what exactly it does: less than most people think, and in a cleverer place.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import Categorical

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import begin, compare, explore, note, quick, table

begin()

# %% [markdown]
# ## The ratio
#
# Actions were drawn from $\pi_{old}$; we ask about $\pi_\theta$. Importance sampling mends that: weigh each action by how much likelier it
# has become,
#
# $$r_t(\theta) = \frac{\pi_\theta(a_t|s_t)}{\pi_{old}(a_t|s_t)}, \qquad
# \mathbb E_{a\sim\pi_{old}}\big[r_t(\theta)\,\hat A_t\big] = \mathbb E_{a\sim\pi_\theta}\big[\hat A_t\big].$$
#
# Networks give log-probabilities, so the quotient is the exponential of a difference. The old policy is past: no gradient may flow
# into it, even if the tensor that you are given still has a graph.
#
# Rules for every exercise: your function leaves its arguments as they are (no `-=`, no `x[t] = …` on them) and depends on
# nothing else. Numbers are floats, nothing is empty. What is trained with has to be a tensor that keeps its gradient. The
# check compares up to rounding, and no number lies exactly on a threshold.


# %% exercise="probability_ratio" todo="a quotient of probabilities, from their logarithms; which of the two may learn?"
def probability_ratio(log_probs, old_log_probs):
    """
    Compute how much likelier each action has become.

    :param log_probs: under the policy that is trained, shape (batch,)
    :param old_log_probs: under the policy that acted, shape (batch,)
    :return: shape (batch,)
    """
    ### BEGIN SOLUTION
    return torch.exp(log_probs - old_log_probs.detach())
    ### END SOLUTION


# %% check="probability_ratio"
check("probability_ratio", probability_ratio)

# %% [markdown]
# At the start $\pi_\theta = \pi_{old}$ and every ratio is 1. Its *gradient* there is that of $\log\pi_\theta$: the first step of
# PPO is an ordinary policy gradient step. The rest of this lesson is about the second.

# %%
logits = torch.zeros(3, requires_grad=True)
log_probs = Categorical(logits=logits).log_prob(torch.tensor([0, 1, 2, 0]))
advantages = torch.tensor([1.0, -0.5, 0.3, 2.0])
(of_ratio,) = torch.autograd.grad(
    (probability_ratio(log_probs, log_probs.detach()) * advantages).mean(),
    logits,
    retain_graph=True,
)
(of_log_prob,) = torch.autograd.grad((log_probs * advantages).mean(), logits)
print("gradient through the ratio:   ", of_ratio.tolist())
print("gradient of the policy, log π:", of_log_prob.tolist())

# %% [markdown]
# ## The window, and the min
#
# Weighed like this, nothing stops an optimizer from making a good action a hundred times likelier on the strength of one estimate.
# PPO takes the *smaller* of two terms:
#
# $$L_t = \min\big(r_t\hat A_t,\ \operatorname{clip}(r_t, 1-\epsilon, 1+\epsilon)\,\hat A_t\big)$$
#
# Write it for each transition, without mean and without minus sign: the objective, larger is better.


# %% exercise="clipped_objective" todo="two terms for each transition; which of them is the pessimist's?"
def clipped_objective(ratio, advantages, clip_range=0.2):
    """
    Compute PPO's objective, transition by transition.

    :param ratio: shape (batch,)
    :param advantages: shape (batch,)
    :param clip_range: ε
    :return: shape (batch,)
    """
    ### BEGIN SOLUTION
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    return torch.min(ratio * advantages, clipped * advantages)
    ### END SOLUTION


# %% check="clipped_objective"
check("clipped_objective", clipped_objective)

# %% [markdown]
# ## Look at it
#
# The two pictures of the PPO paper, drawn by your function, and below them what an optimizer feels: the slope.


# %%
def draw(clip_range=0.2):
    _, axes = plt.subplots(2, 2, figsize=(9, 5), sharex=True)
    for column, advantage in enumerate((1.0, -1.0)):
        ratio = torch.linspace(0.4, 1.8, 281, requires_grad=True)
        objective = clipped_objective(ratio, torch.full_like(ratio, advantage), clip_range)
        (slope,) = torch.autograd.grad(objective.sum(), ratio)
        top, bottom = axes[:, column]
        top.plot(
            ratio.detach(), (ratio * advantage).detach(), ":", color="grey", label="not clipped"
        )
        top.plot(ratio.detach(), objective.detach(), color="C2", linewidth=2.5, label="PPO")
        top.set_title("a good action (Â = 1)" if advantage > 0 else "a bad action (Â = −1)")
        bottom.plot(ratio.detach(), slope, color="C1")
        bottom.set_xlabel("probability ratio r")
        for panel in (top, bottom):
            panel.axvspan(1 - clip_range, 1 + clip_range, color="C0", alpha=0.1)
            panel.axvline(1.0, color="black", linewidth=0.8)
    axes[0, 0].set_ylabel("objective")
    axes[1, 0].set_ylabel("slope")
    axes[0, 0].legend()
    plt.show()


draw()

# %% [markdown]
# Where the slope is 0, the transition no longer says anything. That is in *one* corner of each picture:
#
# | | ratio too small ($r < 1-\epsilon$) | in the window | ratio too large ($r > 1+\epsilon$) |
# |---|---|---|---|
# | good action | pulls back up | pulls up | **silent**: enough |
# | bad action | **silent**: enough | pushes down | pushes back down |
#
# The four corners are why there is a `min`. With the clip alone, all of them would be silent, and a good action that has become
# unlikely by accident could never recover.
#
# What does ε do? A wide window silences late, a narrow one at once. (Where you run this yourself, there is a slider below.)


# %%
def draw_objectives(axes, clip_range):
    ratio = torch.linspace(0.4, 1.8, 281)
    for colour, advantage in (("C2", 1.0), ("C1", -1.0)):
        objective = clipped_objective(ratio, torch.full_like(ratio, advantage), clip_range)
        axes.plot(ratio, objective, color=colour, label=f"Â = {advantage:+.0f}")
    axes.axvspan(1 - clip_range, 1 + clip_range, color="C0", alpha=0.1)
    axes.set_xlabel("probability ratio r")
    axes.legend(fontsize=8)


explore(draw_objectives, "ε", [0.05, 0.2, 0.5])

# %% [markdown]
# ## Does clipping keep the ratio in the window?
#
# No. The slope vanishes *outside*, but nothing pulls back in, and every other transition of the batch goes on moving the same network.
# Measure it: a policy over 8 actions in 64 states, 512 transitions with random advantages, and many steps of Adam on the same data.
#
# **Predict** first: how large is the largest ratio after a hundred clipped steps? The window ends at 1.2.

# %%
my_largest = None


# %%
def reuse(objective, steps, learning_rate=0.02, seed=0):
    """Train a small policy on one batch again and again; note KL and ratios."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(64, 8, generator=generator, requires_grad=True)
    states = torch.randint(64, (512,), generator=generator)
    old = Categorical(logits=logits.detach().clone())
    actions = torch.multinomial(old.probs[states], 1, generator=generator).flatten()
    advantages = torch.randn(512, generator=generator)
    old_log_probs = old.logits[states, actions]
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    divergences, largest = [], []
    for _ in range(steps):
        now = Categorical(logits=logits)
        ratio = probability_ratio(now.logits[states, actions], old_log_probs)
        optimizer.zero_grad()
        (-objective(ratio, advantages).mean()).backward()
        optimizer.step()
        divergences.append(
            torch.distributions.kl_divergence(old, Categorical(logits=logits.detach()))
            .mean()
            .item()
        )
        largest.append(ratio.max().item())
    return divergences, largest


STEPS = quick(100, 10)
plain = reuse(lambda ratio, advantages: ratio * advantages, STEPS)
clipped = reuse(clipped_objective, STEPS)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
for panel, index, label in ((axes[0], 0, "KL(old ‖ new)"), (axes[1], 1, "largest ratio")):
    panel.semilogy(plain[index], label="not clipped")
    panel.semilogy(clipped[index], label="clipped")
    panel.set_xlabel("steps on the same data")
    panel.set_ylabel(label)
axes[1].axhline(1.2, color="black", linewidth=0.8)
axes[0].legend()
plt.show()
print(
    f"after {STEPS} steps: KL {plain[0][-1]:.2f} not clipped, {clipped[0][-1]:.3f} clipped; "
    f"largest ratio {plain[1][-1]:.1f} and {clipped[1][-1]:.2f}, where the window ends at 1.2"
)

# %%
compare(my_largest, clipped[1][-1], "The largest ratio, clipped")

# %%
note(
    f"Clipped, the KL divergence is {plain[0][-1] / clipped[0][-1]:.0f} times smaller. In the first half "
    f"of the steps it rose by {clipped[0][STEPS // 2] - clipped[0][0]:.3f}, in the second "
    f"by {clipped[0][-1] - clipped[0][STEPS // 2]:.3f}: as one "
    "transition after the other falls silent, there is less and less left that pushes."
)

# %% [markdown]
# So clipping brakes, and the more transitions are silent the harder; once *all* are, the gradient is 0 and only Adam's momentum carries on. What it
# does not do is bound anything: neither a ratio nor the divergence has a limit that the window would set. So two things are watched in every
# training: how many ratios have left the window, and the KL divergence.
#
# ## The two gauges
#
# The **clip fraction** is the share of transitions with $|r_t - 1| > \epsilon$.
#
# (A number without a gradient: a float will do.)


# %% exercise="clip_fraction" todo="a ratio can leave the window on two sides; how do you turn yes and no into a share?"
def clip_fraction(ratio, clip_range=0.2):
    """
    Compute the share of ratios outside of the window.

    :param ratio: shape (batch,)
    :param clip_range: ε
    :return: one number from 0 to 1
    """
    ### BEGIN SOLUTION
    return ((ratio - 1.0).abs() > clip_range).float().mean()
    ### END SOLUTION


# %% check="clip_fraction"
check("clip_fraction", clip_fraction)

# %% [markdown]
# The **KL divergence** $\mathbb E_{a\sim\pi_{old}}[\log\pi_{old} - \log\pi_\theta]$ can be estimated from the very actions that we
# have. The lecture (lecture 10 of Reinforcement Learning, Sogang University, autumn 2025) asks to watch it and names no estimator; its
# activity takes the mean of $-\log r$ (k1), which is right on average, yet negative for many a batch. The mean of
# $(r - 1) - \log r$ (k3) is right on average too, since $\mathbb E_{\pi_{old}}[r] = 1$, and never negative, since
# $\log r \le r - 1$.
#
# Never negative but for rounding, that is. It is only watched, so a float will do.


# %% exercise="approx_kl" todo="you have log r; where does r come from? and what is it for equal policies?"
def approx_kl(log_probs, old_log_probs):
    """
    Estimate KL(old ‖ new) by k3.

    :param log_probs: under the policy that is trained, shape (batch,)
    :param old_log_probs: under the policy that acted, shape (batch,)
    :return: one number, never negative
    """
    ### BEGIN SOLUTION
    log_ratio = log_probs - old_log_probs
    return (torch.exp(log_ratio) - 1.0 - log_ratio).mean()
    ### END SOLUTION


# %% check="approx_kl"
check("approx_kl", approx_kl)

# %%
generator = torch.Generator().manual_seed(0)
rows = []
for distance in (0.02, 0.1, 0.5):
    k1, k3 = [], []
    for _ in range(quick(1000, 50)):
        actions = torch.randn(64, generator=generator)
        new, old = -0.5 * (actions - distance) ** 2, -0.5 * actions**2
        k1.append((old - new).mean().item())
        k3.append(approx_kl(new, old).item())
    share = np.mean(np.array(k1) < 0)
    rows.append(
        [
            f"mean moved by {distance}",
            distance**2 / 2,
            np.mean(k1),
            np.std(k1),
            share,
            np.mean(k3),
            np.std(k3),
        ]
    )
table(
    ["Gaussians, batches of 64", "truth", "k1 mean", "k1 std", "k1 below 0", "k3 mean", "k3 std"],
    rows,
)

# %% [markdown]
# For small changes, the ones that PPO makes, k1's noise is larger than the number that it estimates, and many times larger where they are smallest.
#
# There is a third one, k2, the mean of $\frac12(\log r)^2$: never negative, as quiet as k3 nearby, and wrong on average, the more so
# the further the policy has gone. Here are all three as the distance grows. Where does each cross lie against the black line?


# %%
def draw_estimators(axes, distance):
    actions = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    log_ratio = 0.5 * actions**2 - 0.5 * (actions - distance) ** 2
    estimates = {
        "k1": -log_ratio,
        "k2": 0.5 * log_ratio**2,
        "k3": log_ratio.exp() - 1 - log_ratio,
    }
    for place, of_batches in enumerate(estimates.values()):
        of_batches = of_batches.mean(dim=1) / (distance**2 / 2)
        axes.plot(torch.full((500,), place) + 0.3 * torch.rand(500) - 0.15, of_batches, ".", ms=2)
        axes.plot(place, of_batches.mean(), "kx", markersize=9)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(3), estimates)
    axes.set_ylim(-2, 4)
    axes.set_ylabel("estimate / truth")


explore(draw_estimators, "distance", [0.1, 0.5, 1.5])

# %% [markdown]
# ## Three fences on one picture
#
# Why is there a fence at all? A batch knows the old policy's states and the old policy's advantages. The **surrogate** made of them is
# right for the old policy and near it. TRPO ([Schulman et al. 2015](https://arxiv.org/abs/1502.05477), after
# [Kakade and Langford 2002](https://dl.acm.org/doi/10.5555/645531.656005)) proves how wrong it can be:
#
# $$J(\pi) \;\ge\; \underbrace{J(\pi_{old}) + \mathbb E_{s\sim\pi_{old},\,a\sim\pi}[A(s,a)]}_{\text{surrogate}}
# \;-\; \frac{4\gamma\max|A|}{(1-\gamma)^2}\;\max_s KL\big(\pi_{old}\,\|\,\pi\big).$$
#
# A task with two states and two actions, in which all three can be computed. The policy has the same parameters for both states, as a
# network shares most of its own, and moves towards what the advantages ask for on average:

# %%
GAMMA = 0.8
MOVES = torch.tensor([[0.0, 0.5], [0.9, 0.5]])  # P(next state is 1 | state, action)
REWARDS = torch.tensor([[-1.0, -1.0], [2.0, -2.0]])
START = torch.tensor([1.0, 0.0])


def solve(policy):
    """Return, advantages and discounted visits of a policy of shape (states, actions)."""
    to_one = (policy * MOVES).sum(dim=1)
    system = torch.eye(2) - GAMMA * torch.stack([1 - to_one, to_one], dim=1)
    values = torch.linalg.solve(system, (policy * REWARDS).sum(dim=1))
    action_values = REWARDS + GAMMA * (values[0] + MOVES * (values[1] - values[0]))
    visits = torch.linalg.solve(system.T, START)
    return START @ values, action_values - values[:, None], visits


def divergence(old, new):
    return (old * torch.log(old / new)).sum(dim=-1)


old_policy = torch.full((2, 2), 0.5)
old_return, task_advantages, visits = solve(old_policy)
push = visits @ task_advantages
steepness = 4 * GAMMA * task_advantages.abs().max() / (1 - GAMMA) ** 2
lengths = 4 * torch.linspace(0.0, 1.0, 201) ** 3  # close together at the start
lines = {"true return": [], "surrogate": [], "guaranteed": []}
for length in lengths:
    new = (old_policy.log() + length * push / push.abs().max()).softmax(dim=1)
    gain = visits @ (new * task_advantages).sum(dim=1)
    bound = old_return + gain - steepness * divergence(old_policy, new).max()
    for line, height in zip(lines.values(), (solve(new)[0], old_return + gain, bound), strict=True):
        line.append(height.item())

# %% [markdown]
# And an update with three actions in one state, so that all policies lie in a triangle. Three fences around the same surrogate, all
# climbed with the same plain gradient: the **constraint** $KL \le \delta$, reached by TRPO's single natural step; the **penalty**
# $-\beta\,KL$; and the **clip**. TRPO's step is not along the gradient $g$ of the parameters but along $F^{-1}g$, with the Fisher matrix $F$, the
# second derivative of the KL divergence: the direction that gains most for the divergence it costs, however the network is parametrised.

# %%
OLD = torch.tensor([0.5, 0.3, 0.2])
GOOD = torch.tensor([-1.0, 0.5, 2.0])
GOOD = GOOD - OLD @ GOOD  # advantages
DELTA = 0.05

gradient = OLD * GOOD
fisher = torch.diag(OLD) - torch.outer(OLD, OLD)
natural = torch.linalg.pinv(fisher) @ gradient
stretch = (2 * DELTA / (gradient @ natural)).sqrt()
natural_step = (OLD.log() + stretch * natural).softmax(dim=0)
beta = 1 / stretch  # the penalty whose optimum is that step, to second order


def climb(objective, steps, rate=0.2):
    """Plain gradient ascent on logits; every policy on the way."""
    logits, path = OLD.log().requires_grad_(True), [OLD]
    for _ in range(steps):
        (slope,) = torch.autograd.grad(objective(logits.softmax(dim=0)), logits)
        logits = (logits + rate * slope).detach().requires_grad_(True)
        path.append(logits.softmax(dim=0).detach())
    return torch.stack(path)


CLIMB = quick(300, 10)
paths = {
    "no fence": climb(lambda new: new @ GOOD, CLIMB),
    f"penalty, β = {beta:.1f}": climb(lambda new: new @ GOOD - beta * divergence(OLD, new), CLIMB),
    "clip, ε = 0.2": climb(lambda new: OLD @ clipped_objective(new / OLD, GOOD, 0.2), CLIMB),
    f"natural step, δ = {DELTA}": torch.stack([OLD, natural_step]),
}

figure, axes = plt.subplots(1, 2, figsize=(10, 4))
for colour, (name, line) in zip(("C2", "C0", "C1"), lines.items(), strict=True):
    axes[0].plot(lengths, line, color=colour, label=name)
axes[0].set_ylim(min(lines["true return"]) - 0.1, max(lines["surrogate"]) + 0.1)
axes[0].set_xlabel("length of the step")
axes[0].set_ylabel("return")
axes[0].legend()

first, third = torch.meshgrid(*[torch.linspace(0.01, 0.98, 150)] * 2, indexing="ij")
inside = torch.stack([first, 1 - first - third, third], dim=-1)
heights = torch.where(inside[..., 1] > 0.005, divergence(OLD, inside.clamp(min=0.005)), torch.nan)
axes[1].contour(first, third, heights, levels=[DELTA], colors="black", linewidths=0.8)
for name, path in paths.items():
    axes[1].plot(path[:, 0], path[:, 2], ".-", markersize=3, label=name)
axes[1].plot(*OLD[[0, 2]], "o", color="black")
axes[1].fill([0.4, 0.6, 0.6, 0.4], [0.16, 0.16, 0.24, 0.24], color="C0", alpha=0.1)
axes[1].set_xlim(0.25, 0.75)
axes[1].set_ylim(0.05, 0.45)
axes[1].set_xlabel("probability of the bad action")
axes[1].set_ylabel("probability of the best action")
axes[1].legend(fontsize=8)
plt.show()
rows = []
for name, path in paths.items():
    ratio = path[-1] / OLD
    rows.append(
        [
            name,
            (path[-1] @ GOOD).item(),
            divergence(OLD, path[-1]).item(),
            (ratio - 1).abs().max().item(),
        ]
    )
table(["where it ends", "surrogate", "KL", "largest |r − 1|"], rows)

# %%
safe, highest = np.argmax(lines["guaranteed"]), np.argmax(lines["true return"])
note(
    "Left: the surrogate touches the true return at 0, with the same slope, and goes on rising where "
    f"the true one has long been falling, to {lines['true return'][-1]:.1f} from {old_return:.1f}. "
    "The guarantee is true and far too careful: its best step is "
    f"{lengths[safe]:.4f} long, that of the true return {lengths[highest]:.2f}. "
    "So TRPO takes a δ by hand instead.\n\nRight: the natural step ends at a KL of "
    f"{divergence(OLD, natural_step):.3f} where δ is {DELTA} (the line), since it knows the divergence "
    "to second order only. The clip knows a box and no divergence; it ends where all three actions "
    "are silent, a little outside: an action that is still pushed takes the others along."
)

# %% [markdown]
# A constraint needs second derivatives (conjugate gradients, a line search); a penalty needs the right β, which differs from task to task and changes
# within one ([`KLPenaltyObjective`](../../sb3_ppo_edu/functional/kl.py) adapts it); the clip needs nothing, and promises least.
#
# ## Clipping the critic
#
# The same thought, applied to the value: do not let it move by more than $\epsilon_v$ per update. With
# $V^{clip} = V_{old} + \operatorname{clip}(V - V_{old}, -\epsilon_v, \epsilon_v)$ and the return $R$,
#
# $$L^{VF} = \frac1n \sum_t \max\big((V_t - R_t)^2,\ (V^{clip}_t - R_t)^2\big).$$
#
# It is a *loss*, so pessimism is a max.
#
# (Some codes have another factor ½ here. This formula has none.)


# %% exercise="clipped_value_loss" todo="what is clipped: the value, or its change? and which error does a pessimist take?"
def clipped_value_loss(values, old_values, returns, clip_range_vf=0.2):
    """
    Compute the value loss of the lecture.

    :param values: of the critic that is trained, shape (batch,)
    :param old_values: of the critic during the rollout, shape (batch,)
    :param returns: what they should have been, shape (batch,)
    :param clip_range_vf: how far a value may move, in units of the return
    :return: one number
    """
    ### BEGIN SOLUTION
    clipped = old_values + torch.clamp(values - old_values, -clip_range_vf, clip_range_vf)
    return torch.max((values - returns) ** 2, (clipped - returns) ** 2).mean()
    ### END SOLUTION


# %% check="clipped_value_loss"
check("clipped_value_loss", clipped_value_loss)

# %%
values = torch.linspace(-1.0, 3.0, 401, requires_grad=True)
old_value, target = torch.tensor(1.0), torch.tensor(2.0)
lecture = torch.stack(
    [clipped_value_loss(v[None], old_value[None], target[None], 0.5) for v in values]
)
without_max = (old_value + (values - old_value).clamp(-0.5, 0.5) - target) ** 2
figure, axes = plt.subplots()
axes.plot(
    values.detach(), ((values - target) ** 2).detach(), ":", color="grey", label="not clipped"
)
axes.plot(values.detach(), without_max.detach(), color="C1", label="clipped, no max (SB3)")
axes.plot(values.detach(), lecture.detach(), color="C2", label="the lecture's, with max")
axes.axvspan(0.5, 1.5, color="C0", alpha=0.1)
axes.axvline(2.0, color="black", linewidth=0.8)
axes.text(2.03, 7.5, "return")
axes.set_xlabel("value (it was 1 in the rollout)")
axes.set_ylabel("loss")
axes.legend()
plt.show()

# %% [markdown]
# Left of the window the value has moved *away* from the return. The lecture's loss has a slope there and brings it back; without
# the max, which SB3 omits, it is flat: a value that got lost stays lost. `EduPPO` has both (`vf_clip_mode`).
#
# And does it help at all? "Often improves sample efficiency", says the lecture; large studies found no benefit or harm
# ([Andrychowicz et al. 2020](https://arxiv.org/abs/2006.05990)). In SB3 it is off by default, and note the unit: $\epsilon_v = 0.2$ is
# a fifth of a *point of return*, which is a lot in one task and nothing in another.
#
# **What to remember.** The ratio is 1 at the first step. Clipping silences a transition that has gone far enough in the direction
# its advantage wanted, and only that. It slows, it does not bound: watch KL and clip fraction.
