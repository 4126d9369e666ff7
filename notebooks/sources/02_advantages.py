# %% [markdown]
# # 02 Advantages: who deserves the credit?
#
# An episode is over, and it went well. Which of its hundred actions was it? The *advantage* of an action says how much better
# than expected things went because of it. In this lesson you build the estimator that PPO uses, break it the way the listing
# of the lecture does (lecture 10 of Reinforcement Learning, Sogang University, autumn 2025), and measure what its dial $\lambda$
# trades for what.
#
# You need: the discounted return $G_t = r_t + \gamma G_{t+1}$, and a critic $V(s)$ that guesses it.

# %%
import matplotlib.pyplot as plt
import numpy as np

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import begin, compare, explore, quick, table
from sb3_ppo_edu.functional.advantages import monte_carlo_returns, n_step_returns

begin()

# %% [markdown]
# ## One step of surprise
#
# Before step $t$ the critic expected $V(s_t)$. After it we know the reward and where it led, so a better guess is
# $r_t + \gamma V(s_{t+1})$. The difference is the **TD error**, the surprise of one step:
#
# $$\delta_t = r_t + \gamma\,(1 - d_t)\,V(s_{t+1}) - V(s_t)$$
#
# $d_t = 1$ if the episode ended *with* step $t$: then nothing follows, and whatever is stored next belongs to another episode.
# A rollout is cut off wherever the buffer is full, so the value of the observation after its last step comes as an extra argument.
#
# Rules for every exercise: your function leaves its arguments as they are (no `+=`, no sorting in place) and depends on
# nothing else. Numbers are floats, flags are 0.0 or 1.0, nothing is empty. A list with the right numbers is as good as an
# array. The check compares up to rounding.


# %% exercise="td_errors" todo="whose value follows the last step of the rollout, and whose follows a step that ended an episode?"
def td_errors(rewards, values, dones, next_value, gamma=0.99):
    """
    Compute the TD errors of a rollout.

    :param rewards: array of shape (n_steps,), or (n_steps, n_envs) for several environments side by side
    :param values: V(s_t), the same shape
    :param dones: 1.0 where the episode ended with that step, the same shape
    :param next_value: V of the observation after the last step, a number or shape (n_envs,)
    :param gamma: discount factor
    :return: shape of rewards
    """
    ### BEGIN SOLUTION
    next_values = np.concatenate([values[1:], np.asarray(next_value)[None]])
    return rewards + gamma * next_values * (1.0 - dones) - values
    ### END SOLUTION


# %% check="td_errors"
check("td_errors", td_errors)

# %% [markdown]
# The lecture's toy example: three steps, a reward of 1 each, a critic that says 0.5 everywhere, and then the end. By hand,
# $\delta_2 = 1 + 0 - 0.5 = 0.5$ and $\delta_1 = \delta_0 = 1 + 0.9 \cdot 0.5 - 0.5 = 0.95$.

# %%
TOY = {
    "rewards": np.ones(3),
    "values": np.full(3, 0.5),
    "dones": np.array([0.0, 0.0, 1.0]),
    "next_value": 0.0,
}
print("TD errors:", td_errors(**TOY, gamma=0.9))

# %% [markdown]
# ## All later surprises, fading
#
# $\delta_t$ alone is short-sighted. If the action at $t$ pays off ten steps later, the surprise happens *there*. Generalized
# advantage estimation credits an action with all later surprises, each step away counting $\gamma\lambda$ less:
#
# $$\hat A_t = \delta_t + \gamma\lambda\,\delta_{t+1} + (\gamma\lambda)^2\,\delta_{t+2} + \dots
# \qquad\text{or}\qquad \hat A_t = \delta_t + \gamma\lambda\,(1 - d_t)\,\hat A_{t+1}$$
#
# The second form is the one to program: start at the last step and walk backwards.


# %% exercise="compute_gae" todo="the second form, from the end: what is the estimate where nothing follows?"
def compute_gae(rewards, values, dones, next_value, gamma=0.99, lam=0.95):
    """
    Compute generalized advantage estimates; arguments as for td_errors.

    :param lam: λ, from 0 (the TD error alone) to 1 (the return minus the value)
    :return: shape of rewards
    """
    ### BEGIN SOLUTION
    deltas = td_errors(rewards, values, dones, next_value, gamma)
    advantages = np.zeros_like(deltas)
    advantage = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + gamma * lam * (1.0 - dones[t]) * advantage
        advantages[t] = advantage
    return advantages
    ### END SOLUTION


# %% check="compute_gae"
check("compute_gae", compute_gae)

# %%
print("advantages:", compute_gae(**TOY, gamma=0.9, lam=0.9))

# %% [markdown]
# Check one by hand: $\hat A_1 = 0.95 + 0.81 \cdot 0.5 = 1.355$.
#
# ## An error you will see in the wild
#
# The lecture's listing masks with `dones[t + 1]`, though its rollout stores `done` *after* the step, as ours does. Here are both
# on two episodes of four steps. In the first, everything is as expected; the second brings a reward of 10 at once.


# %%
def lecture_gae(rewards, values, dones, next_value, gamma, lam):
    """The listing as it stands; it shifts the mask by one step."""
    shifted = np.concatenate([dones[1:], dones[-1:]])
    return compute_gae(rewards, values, shifted, next_value, gamma, lam)


rewards = np.array([0.0, 0.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0])
values = np.zeros(8)
dones = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
right = compute_gae(rewards, values, dones, 0.0, 0.99, 0.95)
shifted = lecture_gae(rewards, values, dones, 0.0, 0.99, 0.95)

figure, axes = plt.subplots()
steps = np.arange(8)
axes.bar(steps - 0.2, right, width=0.4, label="mask of the step itself")
axes.bar(steps + 0.2, shifted, width=0.4, label="mask of the next step")
axes.axvline(3.5, color="black", linewidth=0.8)
axes.text(1.5, 10.4, "first episode", ha="center")
axes.text(5.5, 10.4, "second episode", ha="center")
axes.set_ylim(0, 11.5)
axes.set_xlabel("step")
axes.set_ylabel("advantage")
axes.legend(loc="center right")
plt.show()
print(
    "with the shifted mask the last action of episode one gets",
    shifted[3].round(2),
    "for a reward of episode two",
)

# %% [markdown]
# Nothing crashes, and an agent trained with it may even learn, only worse. Such errors are found by small examples with known
# answers, and by nothing else.
#
# ## Two ends of a dial
#
# $\lambda = 0$ leaves the TD error, $\lambda = 1$ the whole return minus the value. In between, GAE is a weighted mean of all
# n-step estimates.

# %%
generator = np.random.default_rng(0)
rollout = {
    "rewards": generator.normal(size=6),
    "values": generator.normal(size=6),
    "dones": np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
    "next_value": 0.3,
}
for_library = {**rollout, "last_values": np.array(rollout["next_value"])}
del for_library["next_value"]
returns = monte_carlo_returns(*[for_library[key] for key in ("rewards", "dones", "last_values")])
one_step = n_step_returns(**for_library, n=1)
table(
    ["step", *(str(t) for t in range(6))],
    [
        ["λ = 0", *compute_gae(**rollout, lam=0.0)],
        ["one-step return − V", *(one_step - rollout["values"])],
        ["λ = 0.95", *compute_gae(**rollout, lam=0.95)],
        ["λ = 1", *compute_gae(**rollout, lam=1.0)],
        ["Monte Carlo return − V", *(returns - rollout["values"])],
    ],
)

# %% [markdown]
# And what is $\lambda$ for one action? Let a surprise of 1 happen $k$ steps later: how much of it arrives? (A slider is below where you
# run this yourself.)


# %%
def draw_credit(axes, lam):
    later = np.arange(40)
    surprises = np.eye(40)  # a rollout in each column, each with its surprise in another step
    arrived = compute_gae(
        surprises, np.zeros((40, 40)), np.zeros((40, 40)), np.zeros(40), 0.99, lam
    )
    axes.bar(later, arrived[0])
    axes.set_xlabel("steps between action and surprise")
    axes.set_ylabel("share that arrives")
    axes.text(18, 0.9, f"sum: {arrived[0].sum():.1f}")


explore(draw_credit, "λ", [0.0, 0.9, 0.99])

# %% [markdown]
# ## Bias and variance, measured
#
# Which $\lambda$ is best? A task small enough to know the truth: 30 steps of pure noise (rewards from $\mathcal N(0, 1)$), except
# that the *good* first action brings one extra point in step 10. The critic has learned that noise is worth nothing and has not
# noticed the extra point, so $V = 0$. The truth: the good action is better than the bad one by $\gamma^{10}$.
#
# An estimate from 100 episodes of each kind can be wrong in two ways: on average (bias), and by luck (variance).
#
# **Predict** first: which λ of 0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98 and 1 has the least error of both together?

# %%
my_lambda = None

# %%
GAMMA, STEPS, DELAY, EPISODES, REPEATS = 0.99, 30, 10, 100, quick(400, 20)
truth = GAMMA**DELAY
lambdas = np.array([0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0])
generator = np.random.default_rng(1)
shape = (STEPS, REPEATS * EPISODES)
good, bad = generator.normal(size=shape), generator.normal(size=shape)
good[DELAY] += 1.0
zeros, ends = np.zeros(shape), np.zeros(shape)
ends[-1] = 1.0

bias, spread = [], []
for lam in lambdas:
    first = [compute_gae(rewards, zeros, ends, zeros[0], GAMMA, lam)[0] for rewards in (good, bad)]
    estimates = (first[0] - first[1]).reshape(REPEATS, EPISODES).mean(axis=1)
    bias.append(estimates.mean() - truth)
    spread.append(estimates.std())
bias, spread = np.array(bias), np.array(spread)
error = np.sqrt(bias**2 + spread**2)

figure, axes = plt.subplots()
positions = np.arange(len(lambdas))
axes.plot(positions, np.abs(bias), "o-", label="bias")
axes.plot(positions, spread, "s-", label="standard deviation")
axes.plot(positions, error, "k^--", label="both: root mean square error")
axes.set_xticks(positions, [f"{lam:g}" for lam in lambdas])
axes.set_xlabel("λ")
axes.set_ylabel("error of the estimated advantage")
axes.legend()
plt.show()
print(
    f"the truth is {truth:.3f}; least error, {error.min():.2f}, at λ = {lambdas[error.argmin()]:g}"
)

# %%
compare(my_lambda, lambdas[error.argmin()], "The λ with the least error")

# %% [markdown]
# With $\lambda = 0$ the action never hears of its merit: ten steps away, $(\gamma\lambda)^{10}$ of it arrives, which is nothing.
# With $\lambda = 1$ all of it arrives, with the noise of thirty rewards. The best $\lambda$ depends on how long consequences take,
# how noisy rewards are, and above all on the critic: one that *sees* the extra point coming makes small $\lambda$ safe.
#
# **Try**: set `DELAY` to 2, or `EPISODES` to 1000, and say before you run it where the minimum goes.
#
# ## A time limit is not an end
#
# Many tasks are cut off by a clock: gymnasium then says `truncated` and not `terminated`. The lander did not crash; we only
# stopped watching. What would have come is worth $\gamma V(s_{final})$, and a common way to account for it, SB3's and ours, adds that
# to the last reward and then treats the step as an end.
#
# All arguments but $\gamma$ are flat here, one entry for each step, and `final_values[i]` already belongs to step `i`.


# %% exercise="bootstrap_time_limits" todo="in which steps has the clock alone ended the episode, and what would have come after?"
def bootstrap_time_limits(rewards, terminated, truncated, final_values, gamma=0.99):
    """
    Add to the rewards what a time limit has cut off.

    :param rewards: shape (n,)
    :param terminated: 1.0 where the task itself ended
    :param truncated: 1.0 where the time limit was reached; both may be 1.0 in the same step
    :param final_values: V of the observation after each step
    :param gamma: discount factor
    :return: shape (n,)
    """
    ### BEGIN SOLUTION
    cut_off = truncated * (1.0 - terminated)
    return rewards + gamma * final_values * cut_off
    ### END SOLUTION


# %% check="bootstrap_time_limits"
check("bootstrap_time_limits", bootstrap_time_limits)

# %% [markdown]
# How much does it matter? A pole that is balanced perfectly earns 1 per step for ever, so every state is worth
# $1/(1-\gamma) = 100$. With a limit of 50 steps, and the limit treated as an end, the returns that the critic is trained on say
# otherwise:

# %%
LIMIT = 50
ends = np.zeros(LIMIT)
ends[-1] = 1.0
plain = monte_carlo_returns(np.ones(LIMIT), ends, np.array(0.0), 0.99)
mended_rewards = bootstrap_time_limits(
    np.ones(LIMIT), np.zeros(LIMIT), ends, np.full(LIMIT, 100.0), 0.99
)
mended = monte_carlo_returns(mended_rewards, ends, np.array(0.0), 0.99)

figure, axes = plt.subplots()
axes.plot(mended, label="time limit bootstrapped")
axes.plot(plain, label="time limit taken for an end")
axes.set_ylim(0, 110)
axes.set_xlabel("step of the episode")
axes.set_ylabel("return that the critic learns")
axes.legend()
plt.show()

# %% [markdown]
# The lower curve falls although nothing in the *state* changes: the same pole, as upright in step 49 as in step 0, is said to be
# worth 1 instead of 100. A critic that sees no clock cannot learn that, and every advantage suffers.
#
# **What to remember.** An advantage is a sum of surprises. The mask belongs to the step that ended. $\lambda$ trades bias for
# variance, and a time limit is not an end.
