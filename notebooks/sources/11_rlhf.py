# %% [markdown]
# # 11 PPO from human feedback: a language model that wants to please
#
# "The clipped surrogate objective and GAE you learned today are core components underlying many RLHF-style training pipelines",
# says the lecture (lecture 10 of Reinforcement Learning, Sogang University, autumn 2025, on language models), and stops there. Here
# is such a pipeline, whole, with a language of twelve words: a reference model, people's preferences, a reward model learned from them,
# PPO with a price on leaving the reference. It is so small that the best policy there is can be computed. And it goes wrong as the
# large ones do: the reward rises, and what people wanted falls.
#
# The order of the steps is that of [Ziegler et al. 2019](https://arxiv.org/abs/1909.08593),
# [Stiennon et al. 2020](https://arxiv.org/abs/2009.01325) and [Ouyang et al. 2022](https://arxiv.org/abs/2203.02155).

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import begin, note, quick, table
from sb3_ppo_edu.functional.advantages import generalized_advantage_estimate
from sb3_ppo_edu.functional.losses import (
    average,
    clipped_surrogate_loss,
    kl_estimates,
    normalize_advantages,
    value_loss,
)

begin()

# %% [markdown]
# ## 1. A language model
#
# A message has eight words. The first is the **prompt**; the model writes the other seven, each from the word before it and its place
# in the message. In the words of lesson 01: a state is a place and a word, an action is the next word, a message is an episode.

# %%
WORDS = ["yes", "no", "please", "the", "a", "train", "room", "is", "late", "free", "thanks", "."]
NUMBER = {word: number for number, word in enumerate(WORDS)}
LENGTH = 8
PROMPTS = torch.tensor([NUMBER[word] for word in ("yes", "no", "please", "the")])


def write_corpus(n_messages, seed=0):
    """Messages as people write them: some with a thanks, hardly any with two."""
    rng = np.random.default_rng(seed)
    messages = []
    for _ in range(n_messages):
        words = []
        while len(words) < LENGTH:
            opening = rng.choice(["yes", "no", "please", ""], p=[0.25, 0.25, 0.2, 0.3])
            noun, adjective = rng.choice(["train", "room"]), rng.choice(["late", "free"])
            words += [opening] * bool(opening)
            words += [rng.choice(["the", "a"], p=[0.7, 0.3]), noun, "is", adjective]
            words += ["thanks"] * rng.choice([0, 1, 2], p=[0.68, 0.3, 0.02]) + ["."]
        messages.append([NUMBER[word] for word in words[:LENGTH]])
    return torch.tensor(messages)


# Every place and every word before it, 7 × 12 of them: all that a policy can be asked.
PLACES = torch.arange(LENGTH - 1)
CONTEXTS = torch.cat(
    [
        torch.eye(LENGTH - 1)[:, None].expand(-1, len(WORDS), -1),
        torch.eye(len(WORDS))[None].expand(LENGTH - 1, -1, -1),
    ],
    dim=-1,
)


def make_network(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, outputs))


def table_of(policy):
    """Log π(next word | place, word before), for all of them: shape (7, 12, 12)."""
    return policy(CONTEXTS).log_softmax(dim=-1)


def taken(log_probs, messages):
    """Log-probabilities of the words that were written, shape (n_messages, 7)."""
    return log_probs[PLACES, messages[:, :-1], messages[:, 1:]]


def write(log_probs, prompts):
    """Complete each prompt by drawing word after word."""
    messages = prompts[:, None]
    for place in PLACES:
        choices = log_probs[place, messages[:, -1]].exp()
        messages = torch.cat([messages, torch.multinomial(choices, 1)], dim=1)
    return messages


def show(message):
    return " ".join(WORDS[number] for number in message)


# %% [markdown]
# **Pre-training** is supervised: make the words of the corpus likely. What comes out is the **reference** $\pi_{ref}$; it writes like
# people, as far as a model can that sees a single word back.

# %%
torch.manual_seed(0)
corpus = write_corpus(quick(4000, 1000))
policy = make_network(CONTEXTS.shape[-1], len(WORDS))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for _ in range(quick(300, 60)):
    optimizer.zero_grad()
    (-taken(table_of(policy), corpus).mean()).backward()
    optimizer.step()
pretrained = policy.requires_grad_(False)
REFERENCE = table_of(pretrained)

some_prompts = PROMPTS.repeat(quick(1000, 100))
by_reference = write(REFERENCE, some_prompts)
for message in by_reference[:6]:
    print(show(message))

# %% [markdown]
# ## 2. What people want, and what they say
#
# People like a message that says thanks, once: 2 points. Each further one is a point less, for who is thanked five times feels mocked.
# And nobody likes a "no": one point less each. The computer is never told this. It only sees *choices*: two messages that the reference
# wrote to the same prompt, and which of them somebody preferred. As people do, they choose the better one more often, not always.


# %%
def true_quality(messages):
    """What people think of each message. No training ever sees it."""
    thanks = (messages == NUMBER["thanks"]).sum(dim=1)
    refusals = (messages == NUMBER["no"]).sum(dim=1)
    return 2.0 * (thanks > 0) - (thanks - 1).clamp(min=0) - refusals


def ask_people(n_pairs):
    """Pairs of messages by the reference, the preferred one first."""
    prompts = PROMPTS[torch.randint(len(PROMPTS), (n_pairs,))]
    one, other = write(REFERENCE, prompts), write(REFERENCE, prompts)
    prefers_one = torch.rand(n_pairs) < torch.sigmoid(true_quality(one) - true_quality(other))
    chosen = torch.where(prefers_one[:, None], one, other)
    return chosen, torch.where(prefers_one[:, None], other, one)


# %% [markdown]
# A **reward model** $R$ gives each message a number, such that differences explain choices. With the model of Bradley and Terry,
#
# $$P(\text{chosen over rejected}) = \sigma\big(R(\text{chosen}) - R(\text{rejected})\big), \qquad
# \sigma(x) = \frac1{1+e^{-x}},$$
#
# and the loss is what it always is for a probability: the mean of $-\log P$ of what was observed. Mind large differences: in float32
# $\sigma(-120)$ is 0.
#
# Rules for every exercise: your function leaves its arguments as they are (no `-=` on them) and depends on nothing else. A
# loss is a tensor, and its gradient has to be finite too.


# %% exercise="bradley_terry_loss" todo="how surprised is the model by each choice? average it, in a form that stays finite"
def bradley_terry_loss(chosen, rejected):
    """
    Compute the loss of a reward model.

    :param chosen: rewards of the messages that people preferred, shape (pairs,)
    :param rejected: rewards of the others, shape (pairs,)
    :return: one number to minimise, finite for any finite rewards
    """
    ### BEGIN SOLUTION
    return F.softplus(rejected - chosen).mean()
    ### END SOLUTION


# %% check="bradley_terry_loss"
check("bradley_terry_loss", bradley_terry_loss)

# %% [markdown]
# Our reward model is as simple as can be: a number for each word, added up over the message. On messages of the reference that is
# nearly right, since people seldom say thanks twice.


# %%
def counts(messages):
    return F.one_hot(messages, len(WORDS)).sum(dim=-2).float()


def agreement(judge, chosen, rejected):
    """Share of choices that somebody would have made in the same way; a tie is half a choice."""
    margin = judge(chosen) - judge(rejected)
    return ((margin > 0).float() + 0.5 * (margin == 0)).mean().item()


worth = torch.zeros(len(WORDS), requires_grad=True)  # of each word
chosen, rejected = ask_people(quick(4000, 500))
optimizer = torch.optim.Adam([worth], lr=0.05)
for _ in range(quick(300, 60)):
    optimizer.zero_grad()
    # A little weight decay: what the choices say nothing about stays near 0.
    loss = bradley_terry_loss(counts(chosen) @ worth, counts(rejected) @ worth)
    (loss + 1e-3 * worth.square().sum()).backward()
    optimizer.step()
worth.requires_grad_(False)


def reward_model(messages):
    return counts(messages) @ worth


new_pairs = ask_people(2000)
order = worth.argsort(descending=True).tolist()
table(
    ["the worth of", *(WORDS[i] for i in order)], [["a word", *(f"{worth[i]:.2f}" for i in order)]]
)

# %%
twice = ((by_reference == NUMBER["thanks"]).sum(dim=1) > 1).float().mean().item()
note(
    f"It agrees with {agreement(reward_model, *new_pairs):.0%} of new choices; who knew the true "
    f"quality would agree with {agreement(true_quality, *new_pairs):.0%}, since people waver. It has "
    f"learned that a *thanks* is worth {worth[NUMBER['thanks']]:.1f} points, each time: only "
    f"{twice:.1%} of the messages that it saw had two."
)

# %% [markdown]
# ## 3. The objective, and its price
#
# If the reward model were the truth, one would maximise it. It is a guess that is good near the reference. So leaving the
# reference costs something: $\beta$ points for each nat of KL divergence,
#
# $$J(\pi) = \mathbb E_{x\sim\pi}\big[R(x)\big] - \beta\,KL(\pi\,\|\,\pi_{ref}), \qquad
# KL(\pi\,\|\,\pi_{ref}) = \mathbb E_{x\sim\pi}\sum_t \big(\log\pi(x_t|\dots) - \log\pi_{ref}(x_t|\dots)\big).$$
#
# The sum suggests how PPO can be used unchanged: put the price into the **reward of each token**. Every word pays $\beta$ times its own log
# ratio, when it is written; the last one earns the reward model's score as well.
#
# $KL$ is estimated by the log ratio itself here; these rewards are constants, so their gradient is of no interest.


# %% exercise="token_rewards_with_kl" todo="what does each word pay for itself, and who is there when the score comes?"
def token_rewards_with_kl(log_probs, ref_log_probs, scores, beta=0.1):
    """
    Compute the reward of each word.

    :param log_probs: of the words under the policy that wrote them, shape (n_tokens, n_messages)
    :param ref_log_probs: of the same words under the reference, the same shape
    :param scores: of the reward model, shape (n_messages,)
    :param beta: price of a nat
    :return: shape (n_tokens, n_messages)
    """
    ### BEGIN SOLUTION
    rewards = -beta * (log_probs - ref_log_probs)
    rewards[-1] += scores
    return rewards
    ### END SOLUTION


# %% check="token_rewards_with_kl"
check("token_rewards_with_kl", token_rewards_with_kl)

# %% [markdown]
# ## 4. The best there is
#
# For this objective the best policy is known in closed form:
#
# $$\pi^*(x) = \frac1Z\,\pi_{ref}(x)\;e^{R(x)/\beta}, \qquad J(\pi^*) = \beta\log Z.$$
#
# For a large model nobody can sum over all messages to get $Z$. Here one can, backwards from the last word as in dynamic programming, since
# the reward adds up over words. That gives a judge for PPO that is not PPO.


# %%
def best_policy(beta):
    """Log π* as a table, and log Z of each prompt."""
    log_z = torch.zeros(len(WORDS))
    tables = []
    for place in reversed(range(LENGTH - 1)):
        unnormalised = REFERENCE[place] + worth / beta + log_z
        log_z = torch.logsumexp(unnormalised, dim=1)
        tables.insert(0, unnormalised - log_z[:, None])
    return torch.stack(tables), log_z[PROMPTS] + worth[PROMPTS] / beta


def measure(log_probs):
    """Expected reward and KL divergence to the reference, exactly: no message is drawn."""
    words = torch.zeros(len(WORDS)).index_fill(0, PROMPTS, 1 / len(PROMPTS))
    reward, divergence = words @ worth, 0.0
    for now, before in zip(log_probs, REFERENCE, strict=True):
        divergence = divergence + words @ (now.exp() * (now - before)).sum(dim=1)
        words = words @ now.exp()
        reward = reward + words @ worth
    return reward.item(), divergence.item()


BETA = 1.0
best, log_z = best_policy(BETA)
reward, divergence = measure(best)
print(
    f"J(π*) from its two parts {reward - BETA * divergence:.4f}, as β log Z {BETA * log_z.mean():.4f}"
)

# %% [markdown]
# ## 5. PPO
#
# Lesson 04 again, with messages for rollouts. The critic sees which words have been written so far; it has to guess what the score will be.
# $\gamma$ is 1: a message is short, and the score at its end counts in full. The losses are the package's own.


# %%
def prefixes(messages):
    """What the critic sees before each word: the words so far, the last one, the place."""
    so_far = F.one_hot(messages[:, :-1], len(WORDS)).float()
    places = torch.eye(LENGTH - 1).expand(len(messages), -1, -1)
    return torch.cat([so_far.cumsum(dim=1), so_far, places], dim=-1)


def critic_advantages(critic, messages, rewards, lam=0.95):
    """GAE and the critic's targets, both of shape (n_messages, 7)."""
    with torch.no_grad():
        values = critic(prefixes(messages)).squeeze(-1).T.numpy()
    dones = np.zeros_like(values)
    dones[-1] = 1.0
    advantages = generalized_advantage_estimate(
        rewards.numpy(), values, dones, np.zeros_like(values[0]), 1.0, lam
    )
    return torch.as_tensor(advantages).T, torch.as_tensor(advantages + values).T


GROUP = 8  # messages for each prompt
N_PROMPTS = 32


def train(beta, updates, seed=0, algorithm="ppo", after_update=lambda log_probs: None):
    """Fine-tune a copy of the reference; return its table."""
    torch.manual_seed(seed)
    policy = copy.deepcopy(pretrained).requires_grad_(True)
    critic = make_network(prefixes(by_reference[:1]).shape[-1], 1)
    optimizer = torch.optim.Adam([*policy.parameters(), *critic.parameters()], lr=5e-3)
    annealing = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, updates)
    for _ in range(updates):
        prompts = PROMPTS[torch.randint(len(PROMPTS), (N_PROMPTS,))].repeat_interleave(GROUP)
        with torch.no_grad():
            log_probs = table_of(policy)
        messages = write(log_probs, prompts)
        old, reference = taken(log_probs, messages), taken(REFERENCE, messages)
        rewards = token_rewards_with_kl(old.T, reference.T, reward_model(messages), beta)
        if algorithm == "ppo":
            advantages, returns = critic_advantages(critic, messages, rewards)
        else:
            of_messages = group_advantages(rewards.sum(dim=0).reshape(N_PROMPTS, GROUP))
            advantages = of_messages.reshape(-1, 1).expand(-1, LENGTH - 1)
        for _ in range(4):
            for batch in torch.randperm(len(messages)).split(64):
                now = taken(table_of(policy), messages[batch])
                ratio = (now - old[batch]).exp().flatten()
                weights = normalize_advantages(advantages[batch].flatten())
                loss = average(clipped_surrogate_loss(ratio, weights, 0.2))
                if algorithm == "ppo":
                    values = critic(prefixes(messages[batch])).flatten()
                    target = returns[batch].flatten()
                    loss = loss + 0.5 * average(value_loss(values, target, target))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        annealing.step()
        after_update(table_of(policy).detach())
    return table_of(policy).detach()


UPDATES = quick(60, 4)
tuned = train(BETA, UPDATES)
rows = []
for name, log_probs in {"reference": REFERENCE, "PPO": tuned, "the best there is": best}.items():
    reward, divergence = measure(log_probs)
    rows.append([name, reward, divergence, reward - BETA * divergence])
table([f"β = {BETA}", "reward R", "KL to the reference", "J"], rows)

# %% [markdown]
# Is it the *same policy*, and not only as good? The closed form says that for every message $\log\frac{\pi^*(x)}{\pi_{ref}(x)} =
# \frac{R(x)}{\beta} - \log Z$: a straight line. So draw messages, and plot one against the other.

# %%
drawn = write(tuned, some_prompts)
log_ratio = (taken(tuned, drawn) - taken(REFERENCE, drawn)).sum(dim=1)
position = some_prompts[:, None].eq(PROMPTS).float() @ log_z
expected = reward_model(drawn) / BETA - position
figure, axes = plt.subplots(figsize=(5, 4))
for prompt in PROMPTS:
    of_prompt = some_prompts == prompt
    axes.plot(expected[of_prompt], log_ratio[of_prompt], ".", markersize=4, label=WORDS[prompt])
ends = [expected.min().item(), expected.max().item()]
axes.plot(ends, ends, color="black", linewidth=0.8)
axes.set_xlabel("R / β − log Z: what the best policy has")
axes.set_ylabel("log π / π_ref of PPO's policy")
axes.legend(title="prompt")
plt.show()
print(f"correlation {np.corrcoef(expected, log_ratio)[0, 1]:.3f}")

# %% [markdown]
# ## 6. What happens when leaving is cheap
#
# Now lower β. Before you run the next cell, **predict**: at which of these prices are *people* happiest, and what does a message look like
# when β is 0?

# %%
BETAS = quick([5.0, 2.0, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0], [1.0, 0.1, 0.0])
my_prediction = None  # a number from the list

# %%
rows, examples, policies = [], [], {}
for beta in BETAS:
    log_probs = policies[beta] = train(beta, UPDATES)
    messages = write(log_probs, some_prompts)
    reward, divergence = measure(log_probs)
    rows.append([beta, divergence, reward, true_quality(messages).mean().item()])
    examples.append([f"{beta:g}", show(messages[0]), show(messages[1])])
of_ppo = np.array(rows)
happiest = of_ppo[of_ppo[:, 3].argmax()]

exact = []
for beta in np.geomspace(5.0, 0.02, quick(40, 8)):
    log_probs, _ = best_policy(beta)
    reward, divergence = measure(log_probs)
    exact.append(
        [beta, divergence, reward, true_quality(write(log_probs, some_prompts)).mean().item()]
    )
exact = np.array(exact)

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
for panel, column, label in (
    (axes[0], 0, "β, the price of a nat"),
    (axes[1], 1, "KL to the reference, in nats"),
):
    for colour, (index, name) in enumerate(
        ((2, "the reward model's score"), (3, "what people think"))
    ):
        panel.plot(
            exact[:, column], exact[:, index], color=f"C{colour}", label=f"{name}, best policy"
        )
        shown = of_ppo[of_ppo[:, column] > 0]
        panel.plot(shown[:, column], shown[:, index], "o", color=f"C{colour}", label=f"{name}, PPO")
    panel.set_xlabel(label)
axes[0].set_xscale("log")
axes[0].invert_xaxis()
axes[0].set_ylabel("points a message")
axes[1].legend(fontsize=8)
plt.show()
table(["β", "a message", "another"], examples)

# %%
note(
    f"People were happiest at β = {happiest[0]:g} ({happiest[3]:.1f} points; you said "
    f"{my_prediction}). At β = {BETAS[-1]:g} the reward model gives {of_ppo[-1, 2]:.1f} points, and "
    f"people {of_ppo[-1, 3]:.1f}."
)

# %% [markdown]
# That is **reward hacking**, also called over-optimisation: the measure became the target. No one planted a bug. The reward model is right about
# the messages that it has seen; PPO, as it should, goes where the score is highest, and that is where it has seen nothing.
# [Gao et al. 2022](https://arxiv.org/abs/2210.10760) measured the same hump with real language models, over the root of the KL divergence.
# Two things help, and both are done: a price on leaving, and asking people again about what the *new* policy writes.
#
# Does the reward model notice? Ask it about pairs where it matters:

# %%
hacked = messages
moderate = write(best_policy(BETA)[0], some_prompts)
better = true_quality(moderate) > true_quality(hacked)
print(
    f"the better one by true quality is the better one by reward: "
    f"{agreement(reward_model, moderate[better], hacked[better]):.0%} of {better.sum()} pairs"
)

# %% [markdown]
# ## 7. What GRPO leaves out
#
# A critic for a language model is a second language model. **GRPO** ([Shao et al. 2024](https://arxiv.org/abs/2402.03300), the
# DeepSeekMath paper) does without: it writes a *group* of messages to the same prompt and takes their mean for a baseline. All
# words of a message get the same advantage. The clipped objective stays.


# %% exercise="group_advantages" todo="a message is as good as it is better than its own group, in units of the group's spread"
def group_advantages(scores):
    """
    Compare each message with the others that answer the same prompt.

    :param scores: shape (n_prompts, group_size)
    :return: standardised within each group (n − 1, and 1e-8 added to the standard deviation), the same shape
    """
    ### BEGIN SOLUTION
    centre = scores.mean(dim=1, keepdim=True)
    return (scores - centre) / (scores.std(dim=1, keepdim=True) + 1e-8)
    ### END SOLUTION


# %% check="group_advantages"
check("group_advantages", group_advantages)

# %% [markdown]
# What is a baseline worth? At one and the same policy, the reference, the gradient of $J$ from 256 messages, over and over: how noisy is it
# with each baseline? (The critic here has been trained on other messages of the same policy. Nothing is standardised, so that all of them
# estimate the same gradient.) **Predict** the order before you run it.

# %%
my_order = "?"


def noise_of(advantages_of, batches):
    """Length of the mean gradient, and the noise of one batch around it."""
    gradients = []
    for seed in range(batches):
        torch.manual_seed(1000 + seed)
        learner = copy.deepcopy(pretrained).requires_grad_(True)
        prompts = PROMPTS[torch.randint(len(PROMPTS), (N_PROMPTS,))].repeat_interleave(GROUP)
        messages = write(REFERENCE, prompts)
        log_probs = taken(table_of(learner), messages)
        gradient = torch.autograd.grad(
            (log_probs * advantages_of(messages)).sum(dim=1).mean(), list(learner.parameters())
        )
        gradients.append(torch.cat([part.flatten() for part in gradient]))
    gradients = torch.stack(gradients)
    length, noise = gradients.mean(dim=0).norm().item(), gradients.std(dim=0).norm().item()
    return length, noise, noise / length


def of_scores(baseline):
    """The same advantage for all words: the score minus something."""
    return lambda messages: (reward_model(messages) - baseline(reward_model(messages)))[:, None]


def group_mean(scores):
    return scores.reshape(-1, GROUP).mean(dim=1).repeat_interleave(GROUP)


critic = make_network(prefixes(by_reference[:1]).shape[-1], 1)
optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
for _ in range(quick(400, 20)):
    messages = write(REFERENCE, PROMPTS[torch.randint(len(PROMPTS), (256,))])
    error = critic(prefixes(messages)).squeeze(-1) - reward_model(messages)[:, None]
    optimizer.zero_grad()
    error.square().mean().backward()
    optimizer.step()


def with_critic(lam):
    def advantages_of(messages):
        no_price = torch.zeros(LENGTH - 1, len(messages))
        rewards = token_rewards_with_kl(no_price, no_price, reward_model(messages), 0.0)
        return critic_advantages(critic, messages, rewards, lam)[0]

    return advantages_of


baselines = {
    "none": of_scores(lambda scores: 0.0),
    "none, 5 points more for everyone": of_scores(lambda scores: -5.0),
    "mean of all messages": of_scores(lambda scores: scores.mean()),
    "mean of the group (GRPO)": of_scores(group_mean),
    "critic, λ = 1": with_critic(1.0),
    "critic, λ = 0.95 (PPO)": with_critic(0.95),
}
rows = [
    [name, *noise_of(advantages_of, quick(200, 5))] for name, advantages_of in baselines.items()
]
table(["baseline", "length of the gradient", "noise of a batch", "noise / length"], rows)

# %%
relative = {name: ratio for name, _, _, ratio in rows}
shifted = relative["none, 5 points more for everyone"] / relative["none"]
of_group, of_critic = (
    relative[name] / relative["mean of all messages"] - 1
    for name in ("mean of the group (GRPO)", "critic, λ = 0.95 (PPO)")
)
note(
    f"You said: {my_order}. Choices fix the reward only up to a constant, and 5 points more for "
    f"everyone, which mean nothing, make the noise {shifted:.1f} times as large: some baseline there "
    f"must be. Against the mean of all messages, the group's mean changes it by {of_group:+.0%}, and "
    f"a critic, which sees each word arrive, by {of_critic:+.0%}. (The group's gradient is shorter by "
    f"a factor of 1 − 1/{GROUP}, since each message is in its own yardstick.)"
)

# %% [markdown]
# But a critic has to learn first, and costs parameters. So let both train, from the same start to the same optimum. The price of the KL
# divergence is in the score for both here; GRPO as published puts it into the loss instead, as the estimator k3 of
# [Schulman's note](http://joschu.net/blog/kl-approx.html). (Then the division by the group's spread touches the score and not the price, and
# β means something else for every prompt.)

# %%
SEEDS = quick(3, 1)
curves = {"ppo": [], "group": []}
for algorithm, of_algorithm in curves.items():
    for seed in range(SEEDS):
        curve = []

        def look(log_probs, curve=curve):
            reward, divergence = measure(log_probs)
            curve.append(reward - BETA * divergence)

        train(BETA, UPDATES, seed, algorithm, look)
        of_algorithm.append(curve)

figure, axes = plt.subplots()
optimum = BETA * log_z.mean().item()
axes.axhline(optimum, color="black", linewidth=0.8, label="the best there is")
for colour, (algorithm, name) in enumerate(
    (("ppo", "critic (PPO)"), ("group", "group mean (GRPO)"))
):
    for seed, curve in enumerate(curves[algorithm]):
        axes.plot(curve, color=f"C{colour}", label=name if seed == 0 else "_")
axes.set_xlabel("update of 256 messages")
axes.set_ylabel("J, exactly")
axes.legend()
plt.show()
parameters = {
    name: sum(p.numel() for p in net.parameters())
    for name, net in (("policy", pretrained), ("critic", critic))
}
rows = []
for algorithm, name in (("ppo", "critic (PPO)"), ("group", "group mean (GRPO)")):
    ends = [curve[-1] for curve in curves[algorithm]]
    trained = parameters["policy"] + parameters["critic"] * (algorithm == "ppo")
    rows.append([name, np.mean(ends), optimum - np.mean(ends), f"{trained:,}"])
table(["", "J at the end", "short of the best by", "parameters to train"], rows)

# %% [markdown]
# Both estimators of the price, k1 and k3, are right on average. Which is the quieter one depends on how far the policy has gone:

# %%
rows = []
for beta, log_probs in policies.items():
    if beta > 0:
        drawn = write(log_probs, some_prompts)
        to_reference = (taken(REFERENCE, drawn) - taken(log_probs, drawn)).flatten()
        k1, k3 = kl_estimates(to_reference, "k1"), kl_estimates(to_reference, "k3")
        exact_price = measure(log_probs)[1] / (LENGTH - 1)
        rows.append(
            [
                f"{beta:g}",
                exact_price,
                k1.mean().item(),
                k1.std().item(),
                k3.mean().item(),
                k3.std().item(),
            ]
        )
table(["β", "KL of a word, exact", "k1: mean", "k1: std", "k3: mean", "k3: std"], rows)

# %% [markdown]
# Near the reference k3 is the quieter one, far from it k1: k3 holds $\pi_{ref}/\pi$, and a word that the policy has almost given up, drawn once in a
# while, has an enormous one.
#
# **Try**: `ask_people` about messages of the hacked policy too, train the reward model again, and look at the hump. Or let the reward model see
# more than counts (a feature "thanks twice or more"): what does it learn about what it has seen too rarely?
#
# **What to remember.** A reward model is a guess that holds near the data it came from; β says how far you trust it. The best policy for that
# objective is known, $\pi_{ref}\,e^{R/\beta}/Z$, and PPO finds it. A group is a baseline without a network: it knows the prompt, and not
# which word it was.
