# %% [markdown]
# # 06 Backpropagation of PPO, by hand
#
# `loss.backward()` is magic that you can take apart. A PPO network is two layers and a softmax, its loss is a `min` and a mean,
# and the derivative of each fits in a line. Put together they are the package's *numpy* engine, and behind its *fused* engine too:
# the same gradients, several times as fast, because nothing has to be recorded on the way forward.
#
# You need the chain rule, and one habit: every function takes the derivative of the loss with respect to its *output* (what comes
# "from above") and gives that with respect to its *input*.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.distributions import Categorical

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import begin, quick, table
from sb3_ppo_edu.functional.losses import average, clipped_surrogate_loss

begin()

# %% [markdown]
# ## 1. The loss
#
# $$L = -\frac1n\sum_t \min\big(r_t\hat A_t,\ \operatorname{clip}(r_t)\,\hat A_t\big), \qquad r_t = e^{\log\pi(a_t|s_t) - \log\pi_{old}(a_t|s_t)}$$
#
# With respect to $\log\pi(a_t|s_t)$: where the `min` picks the clipped term and the ratio is beyond its end, the term is a constant
# (lesson 03: one corner of each picture). Everywhere else it is $-\frac1n r_t\hat A_t$, since the derivative of $e^x$ is $e^x$.
#
# Rules for every exercise: your function leaves its arguments as they are (no `+=`, no sorting in place) and depends on
# nothing else. Numbers are floats, nothing is empty. A list with the right numbers is as good as an array. The check compares
# up to rounding. No ratio lies exactly on an end of the window.


# %% exercise="surrogate_gradient" todo="in which corner does the loss no longer depend on the ratio? and what is d r / d log π?"
def surrogate_gradient(ratio, advantages, clip_range=0.2):
    """
    Differentiate PPO's policy loss with respect to the log-probabilities.

    :param ratio: array of shape (batch,)
    :param advantages: shape (batch,)
    :param clip_range: ε
    :return: shape (batch,)
    """
    ### BEGIN SOLUTION
    enough = np.where(advantages > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
    return np.where(enough, 0.0, -ratio * advantages / len(ratio))
    ### END SOLUTION


# %% check="surrogate_gradient"
check("surrogate_gradient", surrogate_gradient)

# %% [markdown]
# ## 2. The softmax
#
# $\log\pi(a) = z_a - \log\sum_b e^{z_b}$ for the logits $z$. Making one action likelier makes the others less likely, so *every*
# logit has a derivative:
#
# $$\frac{\partial \log\pi(a)}{\partial z_b} = \mathbb 1[a = b] - \pi(b)$$
#
# (Logits may be large: subtract the largest one before `exp`.)
#
# (The logits of one state may be far larger than those of another, and not every action need have been taken.)


# %% exercise="logits_gradient" todo="a row of derivatives for each transition: which column is special, and what is it weighed with?"
def logits_gradient(logits, actions, upstream):
    """
    Differentiate the log-probabilities of the actions taken with respect to the logits.

    :param logits: array of shape (batch, n_actions)
    :param actions: whole numbers, shape (batch,)
    :param upstream: derivative of the loss with respect to each log-probability, shape (batch,)
    :return: shape (batch, n_actions)
    """
    ### BEGIN SOLUTION
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return (np.eye(logits.shape[1])[actions] - probabilities) * upstream[:, None]
    ### END SOLUTION


# %% check="logits_gradient"
check("logits_gradient", logits_gradient)

# %% [markdown]
# ## 3. The layers
#
# For $y = \tanh(x)$ the slope is $1 - \tanh^2(x) = 1 - y^2$: if you keep the output you need nothing else.
#
# (Outputs may have any shape.)


# %% exercise="tanh_gradient" todo="chain rule: what can you say about the slope if you have kept y?"
def tanh_gradient(outputs, upstream):
    """
    Carry a derivative back through tanh.

    :param outputs: y = tanh(x)
    :param upstream: derivative of the loss with respect to y, the same shape
    :return: derivative with respect to x, the same shape
    """
    ### BEGIN SOLUTION
    return (1.0 - outputs**2) * upstream
    ### END SOLUTION


# %% check="tanh_gradient"
check("tanh_gradient", tanh_gradient)

# %% [markdown]
# For a linear layer $y = xW^\top + b$ each transition pushes the weight $W_{oi}$ by its input $x_i$ times its derivative from above $g_o$,
# and the pushes of the batch add up. Backwards to the input it is $gW$, and to the bias the sum of $g$.
#
# (The mean over the batch is in the loss, and so in `upstream` already.)


# %% exercise="weight_gradient" todo="which product of two matrices adds up over the batch and has the shape of W?"
def weight_gradient(inputs, upstream):
    """
    Differentiate a linear layer with respect to its weights.

    :param inputs: x, shape (batch, n_inputs)
    :param upstream: derivative of the loss with respect to the outputs, shape (batch, n_outputs)
    :return: shape of W, (n_outputs, n_inputs)
    """
    ### BEGIN SOLUTION
    return upstream.T @ inputs
    ### END SOLUTION


# %% check="weight_gradient"
check("weight_gradient", weight_gradient)

# %% [markdown]
# ## 4. All together
#
# The actor of lesson 04, forward and backward, with your four functions and no graph.


# %%
def forward(weights, observations):
    """Return the logits, and the outputs of the layers on the way."""
    first = np.tanh(observations @ weights["W1"].T + weights["b1"])
    second = np.tanh(first @ weights["W2"].T + weights["b2"])
    return second @ weights["W3"].T + weights["b3"], first, second


def policy_gradients(weights, observations, actions, old_log_probs, advantages):
    """Differentiate the policy loss with respect to every weight."""
    logits, first, second = forward(weights, observations)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    ratio = np.exp(log_probs[np.arange(len(actions)), actions] - old_log_probs)
    # And now back, step by step.
    at_logits = logits_gradient(logits, actions, surrogate_gradient(ratio, advantages))
    before_second = tanh_gradient(second, at_logits @ weights["W3"])
    before_first = tanh_gradient(first, before_second @ weights["W2"])
    return {
        "W3": weight_gradient(second, at_logits),
        "b3": at_logits.sum(axis=0),
        "W2": weight_gradient(first, before_second),
        "b2": before_second.sum(axis=0),
        "W1": weight_gradient(observations, before_first),
        "b1": before_first.sum(axis=0),
    }


generator = np.random.default_rng(0)
sizes = [8, 64, 64, 4]
weights = {}
for layer in (1, 2, 3):
    weights[f"W{layer}"] = (
        generator.normal(size=(sizes[layer], sizes[layer - 1])) / sizes[layer - 1] ** 0.5
    )
    weights[f"b{layer}"] = generator.normal(size=sizes[layer]) * 0.1
observations = generator.normal(size=(64, 8))
actions = generator.integers(4, size=64)
old_log_probs = np.log(generator.uniform(0.1, 0.6, size=64))
advantages = generator.normal(size=64)
mine = policy_gradients(weights, observations, actions, old_log_probs, advantages)


def by_torch(weights, observations, actions, old_log_probs, advantages):
    """Let autograd do the same."""
    parameters = {name: torch.tensor(array, requires_grad=True) for name, array in weights.items()}
    first = torch.tanh(torch.tensor(observations) @ parameters["W1"].T + parameters["b1"])
    second = torch.tanh(first @ parameters["W2"].T + parameters["b2"])
    policy = Categorical(logits=second @ parameters["W3"].T + parameters["b3"], validate_args=False)
    ratio = torch.exp(policy.log_prob(torch.tensor(actions)) - torch.tensor(old_log_probs))
    average(clipped_surrogate_loss(ratio, torch.tensor(advantages), 0.2)).backward()
    return {name: parameter.grad.numpy() for name, parameter in parameters.items()}


theirs = by_torch(weights, observations, actions, old_log_probs, advantages)
table(
    ["", "shape", "largest entry", "largest difference from autograd"],
    [
        [
            name,
            str(mine[name].shape),
            np.abs(mine[name]).max(),
            np.abs(mine[name] - theirs[name]).max(),
        ]
        for name in mine
    ],
)

# %% [markdown]
# Equal to the last digit or two of float64. A test without autograd, for the day when you write a layer that it does not know: change one weight a little and
# look at the loss. Here is why "a little" has an optimum.


# %%
def loss_at(change):
    moved = {**weights, "W1": weights["W1"].copy()}
    moved["W1"][0, 0] += change
    logits, _, _ = forward(moved, observations)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    ratio = np.exp(log_probs[np.arange(64), actions] - old_log_probs)
    return -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages).mean()


changes = 10.0 ** np.arange(-14, 0)
errors = [abs((loss_at(h) - loss_at(-h)) / (2 * h) - mine["W1"][0, 0]) for h in changes]
figure, axes = plt.subplots()
axes.loglog(changes, errors, "o-")
axes.set_xlabel("change of the weight")
axes.set_ylabel("error of the difference quotient")
plt.show()
print(f"best: {min(errors):.0e}, with a change of {changes[int(np.argmin(errors))]:.0e}")

# %% [markdown]
# Left of the optimum the subtraction eats the digits, right of it the curve is not straight. (Check in float64: float32 begins with half
# of the digits.)
#
# ## 5. What it buys
#
# Time your backward pass, forward included, against autograd's. **Predict** first, on paper: how many times as fast is it?


# %%
def microseconds(function, repeats):
    function(weights, observations, actions, old_log_probs, advantages)
    began = time.perf_counter()
    for _ in range(repeats):
        function(weights, observations, actions, old_log_probs, advantages)
    return 1e6 * (time.perf_counter() - began) / repeats


REPEATS = quick(500, 10)
by_hand, by_graph = microseconds(policy_gradients, REPEATS), microseconds(by_torch, REPEATS)
print(f"by hand {by_hand:.0f} µs, autograd {by_graph:.0f} µs: {by_graph / by_hand:.1f} times")

# %% [markdown]
# The arithmetic is the same. What is saved is the bookkeeping: a graph of some thirty nodes, built and thrown away for each
# minibatch. With matrices this small it costs more than the numbers do. The package's numpy engine has the critic and the entropy as
# well, and leaves clipping and the optimizer's step to torch; its fused engine does all that over one flat array. Both keep SB3's random
# streams. The whole training:

# %%
rows = []
for engine in ("autograd", "numpy", "fused"):
    model = EduPPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", engine=engine)
    began = time.perf_counter()
    model.learn(quick(16_384, 2048))
    rows.append([engine, time.perf_counter() - began])
table(["engine", "seconds"], rows)

# %% [markdown]
# The derivation of the rest, value clipping, Gaussians, squashing, stands beside the engine:
# [`sb3_ppo_edu/engines/derivation/README.md`](../../sb3_ppo_edu/engines/derivation/README.md).
#
# **What to remember.** Backwards through a function is one multiplication by its slope. Keep what the slope needs, and nothing else. And a
# derivative that has not been compared with something is a guess.
