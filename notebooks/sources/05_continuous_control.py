# %% [markdown]
# # 05 Continuous control: actions that are numbers
#
# A lander's throttle, a joint's torque: actions are numbers now, and they have bounds. The policy becomes a density, and
# densities are slippery: they may be larger than 1, their entropy may be negative, and if you squeeze the axis they change. This lesson
# shows what has to be right, what may be left out, and why the second list is shorter than the lecture says (lecture 10 of
# Reinforcement Learning, Sogang University, autumn 2025).

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import Normal

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import Curve, begin, compare, explore, play, quick, recipe, table
from sb3_ppo_edu.functional.distributions import BetaDistribution, TanhGaussianDistribution

begin()

# %% [markdown]
# ## The log-probability of an action
#
# The network gives a mean $\mu$ for each of the action's dimensions; the log standard deviations are parameters of their own. The
# dimensions are drawn independently, so the action's density is a product and its logarithm a sum *over dimensions*:
#
# $$\log\pi(a|s) = \sum_i \Big(-\tfrac12\Big(\frac{a_i-\mu_i}{\sigma_i}\Big)^2 - \log\sigma_i - \tfrac12\log 2\pi\Big)$$
#
# Rules for every exercise: your function leaves its arguments as they are (no `-=`, no `x[t] = …` on them) and depends on
# nothing else. Numbers are floats, nothing is empty. What is trained with has to be a tensor that keeps its gradient. The
# check compares up to rounding, and no number lies exactly on a threshold.


# %% exercise="gaussian_log_prob" todo="the formula above, on tensors: which axis does the sum run over, and what stays?"
def gaussian_log_prob(actions, mean, log_std):
    """
    Compute the log-probability of actions under a diagonal Gaussian.

    :param actions: shape (batch, action_dim)
    :param mean: shape (batch, action_dim)
    :param log_std: shape (action_dim,)
    :return: shape (batch,)
    """
    ### BEGIN SOLUTION
    standardised = (actions - mean) / torch.exp(log_std)
    return (-0.5 * standardised**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(dim=-1)
    ### END SOLUTION


# %% check="gaussian_log_prob"
check("gaussian_log_prob", gaussian_log_prob)

# %% [markdown]
# Why sum and not average? Because the ratio must be that of the *whole* action. With $d$ dimensions an average gives the $d$-th root
# of the ratio, and the window $1\pm\epsilon$ means something else for every robot:

# %%
rows = []
for dimensions in (1, 6, 17):
    actions = torch.zeros(1, dimensions)
    old_mean, new_mean = torch.full_like(actions, 0.3), torch.full_like(actions, 0.25)
    log_std = torch.full((dimensions,), -0.5)
    log_ratio = gaussian_log_prob(actions, new_mean, log_std) - gaussian_log_prob(
        actions, old_mean, log_std
    )
    rows.append(
        [f"{dimensions} dimensions", log_ratio.exp().item(), (log_ratio / dimensions).exp().item()]
    )
table(["each mean moved by 0.05", "ratio", "with a mean instead of the sum"], rows)

# %% [markdown]
# ## Bounds
#
# The environment takes actions from −1 to 1, a Gaussian gives any number. Three ways out, and what the environment then sees:
# **clip** what is outside; **squash** with $y = \tanh(u)$; or use a distribution that lives between bounds, the **Beta**.

# %%
torch.manual_seed(0)
SAMPLES = 50_000
raw = 0.6 + 0.7 * torch.randn(SAMPLES)
beta = BetaDistribution(1).proba_distribution(torch.tensor([[1.5, -1.0]]).expand(SAMPLES, 2))
seen = {
    "clipped Gaussian": raw.clamp(-1, 1),
    "tanh of a Gaussian": torch.tanh(raw),
    "Beta": torch.tanh(beta.sample().flatten() / 2),
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
for panel, (name, actions) in zip(axes, seen.items(), strict=True):
    panel.hist(actions.numpy(), bins=np.linspace(-1, 1, 41), density=True)
    panel.set_title(name)
    panel.set_xlabel("action")
axes[0].set_ylabel("density")
plt.show()
print(
    f"{(raw.abs() > 1).float().mean():.0%} of the Gaussian's actions are outside, and end on a bound"
)

# %% [markdown]
# Clipping is SB3's default and ours. It works, as long as you keep to one rule: log-probabilities are those of the *raw* action, which is what
# the buffer stores. For the policy two raw actions 1.2 and 3 are different; for the environment they are the same. The gradient there
# is *not* mere noise: on average over all actions beyond a bound, $\nabla\log\pi(u)$ is exactly $\nabla\log P(\text{beyond})$, and
# that is what should be learned. But its spread around this average is noise that nobody needs.
# [Fujita and Maeda 2018](https://arxiv.org/abs/1802.07564) put the average in its place. How much does that save? One action, a reward for
# being near 0.9, the gradient with respect to $\mu$:

# %%


def clipped_log_prob(raw_actions, policy):
    """Log π inside the bounds; beyond one of them the logarithm of the probability of being beyond."""
    low, high = torch.tensor(-1.0), torch.tensor(1.0)
    beyond = torch.where(
        raw_actions > 0, torch.log(1 - policy.cdf(high)), torch.log(policy.cdf(low))
    )
    return torch.where(raw_actions.abs() > 1, beyond, policy.log_prob(raw_actions))


rows = []
for center in (0.0, 0.6, 1.2, 2.0):
    mu = torch.full((SAMPLES,), center, requires_grad=True)
    policy = Normal(mu, 0.7)
    actions = policy.sample()
    rewards = 1 - (actions.clamp(-1, 1) - 0.9) ** 2
    row = [f"μ = {center:g}", f"{(actions.abs() > 1).float().mean():.0%}"]
    for log_prob in (policy.log_prob(actions), clipped_log_prob(actions, policy)):
        (gradient,) = torch.autograd.grad((log_prob * rewards).sum(), mu, retain_graph=True)
        row += [gradient.mean().item(), gradient.std().item()]
    rows.append(row)
table(["", "beyond", "raw: mean", "raw: std", "clipped: mean", "clipped: std"], rows)

# %% [markdown]
# The means agree, the second spread is never the larger one, and the difference grows with the share beyond. A baseline, which is what a critic is, takes
# away a good part of it as well.
#
# ## What squeezing does to a density
#
# For $y = \tanh(u)$ the density of $y$ is that of $u$ divided by the slope: where tanh is flat, a lot of $u$ is pressed into little $y$.
#
# $$\log p(y) = \log\mathcal N(u;\mu,\sigma) - \sum_i \log\big(1-\tanh^2 u_i\big)$$
#
# The last term is the **Jacobian**. Far out $\tanh u$ rounds to exactly 1 in float32 and $\log 0$ is $-\infty$, so use the same function
# written differently: $\log(1-\tanh^2 u) = 2\,\big(\log 2 - u - \operatorname{softplus}(-2u)\big)$.
#
# You may call your `gaussian_log_prob`. It has to hold for $|u|$ up to 20, and $10^{-6}$ inside of the logarithm is not it:
# that is off by half a per cent of the slope at $|u| = 5$ and useless beyond.


# %% exercise="squashed_log_prob" todo="you have the density of u: what does squeezing do to it, in a form that survives a large u?"
def squashed_log_prob(raw_actions, mean, log_std):
    """
    Compute the log-probability of y = tanh(u) from the raw action u.

    :param raw_actions: u, shape (batch, action_dim)
    :param mean: of u, shape (batch, action_dim)
    :param log_std: of u, shape (action_dim,)
    :return: shape (batch,)
    """
    ### BEGIN SOLUTION
    log_slope = 2 * (np.log(2) - raw_actions - torch.nn.functional.softplus(-2 * raw_actions))
    return gaussian_log_prob(raw_actions, mean, log_std) - log_slope.sum(dim=-1)
    ### END SOLUTION


# %% check="squashed_log_prob"
check("squashed_log_prob", squashed_log_prob)

# %% [markdown]
# A density integrates to 1. That is a test that needs no reference:

# %%
y = torch.linspace(-0.99999, 0.99999, 200_001, dtype=torch.float64)[:, None]
u = torch.atanh(y)
mean, log_std = (
    torch.tensor([[0.6]], dtype=torch.float64),
    torch.log(torch.tensor([0.7], dtype=torch.float64)),
)
with_jacobian = torch.exp(squashed_log_prob(u, mean, log_std))
without = torch.exp(gaussian_log_prob(u, mean, log_std))
print(
    f"the integral over all y is {torch.trapezoid(with_jacobian, y[:, 0]):.4f} with the Jacobian, "
    f"{torch.trapezoid(without, y[:, 0]):.4f} without"
)

# %% [markdown]
# What does σ do to it? (A slider is below where you run this yourself.)


# %%
def draw_density(axes, std):
    y = torch.linspace(-0.999, 0.999, 400)[:, None]
    density = squashed_log_prob(
        torch.atanh(y), torch.tensor([[0.3]]), torch.log(torch.tensor([std]))
    )
    axes.plot(y, density.exp())
    axes.set_ylim(0, 2.5)
    axes.set_xlabel("action tanh(u), mean of u 0.3")


explore(draw_density, "σ", [0.3, 0.9, 2.5])

# %% [markdown]
# ## May one leave it out?
#
# The lecture says that coursework may. For the **ratio** it is even exactly right: the Jacobian depends on $u$ alone, not on the
# policy, so it stands above and below and cancels.

# %%
u = torch.tensor([[0.3], [2.0], [-4.0]])
old, new = torch.tensor([[0.6]]), torch.tensor([[0.7]])
log_std = torch.log(torch.tensor([0.7]))
correct = squashed_log_prob(u, new, log_std) - squashed_log_prob(u, old, log_std)
left_out = gaussian_log_prob(u, new, log_std) - gaussian_log_prob(u, old, log_std)
print("log ratio with:   ", correct.numpy().round(4))
print("log ratio without:", left_out.numpy().round(4))

# %% [markdown]
# For the **entropy** it is wrong, and the difference grows as you train. The Gaussian's entropy rises with $\sigma$ for ever. The
# entropy of the *action* does not: a wide Gaussian, squashed, sits at both bounds.
#
# **Predict** first: at which σ is the action's entropy largest? (The pictures above may help; the mean is 0 now.)

# %%
my_sigma = None

# %%
stds = torch.linspace(0.05, 4.0, 80)
of_raw = Normal(0.0, stds).entropy()
squashed = TanhGaussianDistribution(1).proba_distribution(
    torch.zeros(80, 1), torch.log(stds[:, None])
)
of_action = squashed.entropy()
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5))
axes[0].plot(stds, of_raw, label="of u, without the Jacobian")
axes[0].plot(stds, of_action, label="of the action tanh(u)")
axes[0].axhline(np.log(2), color="black", linewidth=0.8)
axes[0].text(1.4, 0.8, "log 2: uniform, the most there is")
axes[0].set_xlabel("σ")
axes[0].set_ylabel("entropy in nats")
axes[0].legend()
for std in (0.5, 0.9, 3.0):
    axes[1].hist(
        torch.tanh(std * torch.randn(SAMPLES)).numpy(),
        bins=60,
        density=True,
        histtype="step",
        label=f"σ = {std}",
    )
axes[1].set_xlabel("action")
axes[1].legend()
plt.show()
compare(my_sigma, stds[of_action.argmax()].item(), "The action's entropy is largest at σ")

# %% [markdown]
# An entropy bonus without the Jacobian pushes $\sigma$ up without end: the policy that it calls most curious throws full left or
# full right. With it, the bonus stops at that $\sigma$, where actions are spread almost evenly.
#
# ## A bonus that does nothing
#
# The entropy of a squashed Gaussian has no formula. SB3 then takes the mean of $-\log\pi$ over the stored actions. The *number* is right on
# average; the *gradient* is not. Differentiated at the policy that drew the actions, its expectation is zero, the very fact that
# made baselines free. Measure it:

# %%
true_gradients, fallback_gradients = [], []
torch.manual_seed(0)
for _ in range(quick(300, 20)):
    log_std = torch.zeros(1, requires_grad=True)
    policy = TanhGaussianDistribution(1).proba_distribution(torch.zeros(256, 1), log_std)
    actions = policy.sample().detach()
    true_gradients.append(
        torch.autograd.grad(policy.entropy().mean(), log_std, retain_graph=True)[0].item()
    )
    fallback_gradients.append(
        torch.autograd.grad(-policy.log_prob(actions).mean(), log_std)[0].item()
    )
table(
    ["d entropy / d log σ, at σ = 1", "mean", "standard deviation"],
    [
        ["exact (quadrature)", np.mean(true_gradients), np.std(true_gradients)],
        [
            "mean of −log π over its own actions",
            np.mean(fallback_gradients),
            np.std(fallback_gradients),
        ],
    ],
)

# %% [markdown]
# At $\sigma = 1$ the exact gradient asks for *less* spread, since the action's entropy is past its peak. The substitute asks, on average, for
# nothing: pure noise. (The expectation is a smooth integral in one dimension, so `EduPPO` does it by quadrature, without noise.)
#
# ## Why the raw action is stored
#
# Could the buffer keep $y$ and get $u$ back by $\tanh^{-1}$? In float32 not far out:

# %%
rows = []
for value in (1.0, 4.0, 8.0, 9.5, 12.0):
    u = torch.tensor(value)
    rows.append(
        [
            f"u = {value:g}",
            f"{torch.tanh(u).item():.8f}",
            f"{torch.atanh(torch.tanh(u)).item():.4f}",
        ]
    )
table(["", "tanh(u)", "and back"], rows)

# %% [markdown]
# ## Three policies on Pendulum
#
# Swing up a pendulum; returns run from about −1200 (random) to −150. The torque is bounded, and good policies use the bounds.

# %%
figure, axes = plt.subplots()
rows = []
for colour, name in enumerate(("gaussian", "tanh_gaussian", "beta")):
    scores = []
    for seed in range(quick(2, 1)):
        settings, env = recipe("Pendulum-v1", seed=seed)
        model = EduPPO(
            settings.policy, env, seed=seed, action_distribution=name, **settings.algorithm
        )
        curve = Curve(settings)
        model.learn(quick(61_440, 4096), callback=curve)
        curve.draw(axes, name if seed == 0 else "_")
        axes.lines[-1].set_color(f"C{colour}")
        scores.append(np.mean(play(model, settings, episodes=quick(30, 4)).returns))
    rows.append([name, str([round(float(score)) for score in scores]), np.mean(scores)])
axes.legend()
plt.show()
table(["action_distribution", "return, by seed", "mean"], rows)

# %% [markdown]
# All three learn. Two seeds do not make a ranking, and on an easy task like this there need not be one; the bounded ones matter where a policy
# would otherwise spend its life outside of the bounds.
#
# **What to remember.** Log-probabilities add up over dimensions. The Jacobian cancels in the ratio and not in the entropy. Store what
# was drawn, not what the environment got. And test densities: they integrate to 1.
