# %% [markdown]
# # 04 PPO from scratch, to the last bit
#
# All of PPO in one notebook: network, rollouts, advantages, losses, the loop. Nothing is inherited, nothing hidden. At the end your
# PPO trains beside the package's from the same seed, and we compare every parameter, not roughly but bit by bit.
#
# That is less vain than it sounds. "It learns, so it is right" is how wrong implementations survive: PPO forgives a lot. Equality
# does not.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import set_random_seed
from torch import nn
from torch.distributions import Categorical
from torch.nn import functional as F

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import Curve, begin, compare, note, quick, table
from sb3_ppo_edu.envs.factory import make_training_env

begin()

# %% [markdown]
# ## 1. The network
#
# Two separate towers, actor and critic (section 8 tries one for both). The initialisation is part of the algorithm: orthogonal matrices, scaled so that the first policy is
# almost uniform (gain 0.01 at the actor's end), which is a better start than a random opinion.


# %%
class ActorCritic(nn.Module):
    """A policy over discrete actions, and a value."""

    def __init__(self, observation_size, n_actions, width=64):
        super().__init__()
        self.actor_body = nn.Sequential(
            nn.Linear(observation_size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.critic_body = nn.Sequential(
            nn.Linear(observation_size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.actor_head = nn.Linear(width, n_actions)
        self.critic_head = nn.Linear(width, 1)
        gains = {
            "actor_body": 2**0.5,
            "critic_body": 2**0.5,
            "actor_head": 0.01,
            "critic_head": 1.0,
        }
        for name, gain in gains.items():
            for layer in getattr(self, name).modules():
                if isinstance(layer, nn.Linear):
                    nn.init.orthogonal_(layer.weight, gain)
                    nn.init.zeros_(layer.bias)

    def policy(self, observations):
        return Categorical(logits=self.actor_head(self.actor_body(observations)))

    def value(self, observations):
        return self.critic_head(self.critic_body(observations)).flatten()


# %% [markdown]
# ## 2. Collecting experience
#
# For `n_steps` steps, in all environments at once: ask the policy, act, note everything. Note *when* things are noted: the observation that the
# action was taken in, and `done` **after** the step. A vectorised environment resets itself, so the next observation may
# belong to a new episode already; where only the clock ended the old one, its true last observation is in `infos`, and its value is added
# to the reward (lesson 02).


# %%
def collect(net, envs, observations, n_steps, gamma):
    """Play; return the rollout in arrays of shape (n_steps, n_envs, ...), and where things stand."""
    rollout = {
        name: [] for name in ("observations", "actions", "log_probs", "values", "rewards", "dones")
    }
    finished = []
    for _ in range(n_steps):
        with torch.no_grad():
            policy = net.policy(torch.as_tensor(observations))
            actions = policy.sample()
            log_probs, values = policy.log_prob(actions), net.value(torch.as_tensor(observations))
        next_observations, rewards, dones, infos = envs.step(actions.numpy())
        for i, info in enumerate(infos):
            if "episode" in info:
                finished.append(info["episode"]["r"])
            if dones[i] and info["TimeLimit.truncated"]:
                with torch.no_grad():
                    rewards[i] += (
                        gamma
                        * net.value(torch.as_tensor(info["terminal_observation"][None])).item()
                    )
        for name, what in (
            ("observations", observations),
            ("actions", actions.numpy()),
            ("log_probs", log_probs.numpy()),
            ("values", values.numpy()),
            ("rewards", rewards.astype(np.float32)),
            ("dones", dones.astype(np.float32)),
        ):
            rollout[name].append(np.array(what))
        observations = next_observations
    with torch.no_grad():
        last_values = net.value(torch.as_tensor(observations)).numpy()
    return (
        {name: np.stack(parts) for name, parts in rollout.items()},
        observations,
        last_values,
        finished,
    )


# %% [markdown]
# ## 3. Advantages
#
# $\delta_t = r_t + \gamma(1-d_t)V(s_{t+1}) - V(s_t)$ and $\hat A_t = \delta_t + \gamma\lambda(1-d_t)\hat A_{t+1}$, backwards from the
# last step.
#
# Rules for every exercise: your function leaves its arguments as they are (no `-=`, no `x[t] = …` on them) and depends on
# nothing else. A loss has to be a tensor with its gradient. The checks compare up to rounding. Whether the *bits* are those
# of `EduPPO` the end of the lesson shows, and there the order of additions counts, and that float32 stays float32.


# %% exercise="compute_gae" todo="lesson 02, with a column for each environment: which shapes does next_value have to meet?"
def compute_gae(rewards, values, dones, next_value, gamma=0.99, lam=0.95):
    """
    Compute generalized advantage estimates.

    :param rewards: shape (n_steps, n_envs)
    :param values: V of the observations acted in, the same shape
    :param dones: 1.0 where the episode ended with that step, the same shape
    :param next_value: V of the observations after the last step, shape (n_envs,)
    :param gamma: discount factor
    :param lam: λ
    :return: shape (n_steps, n_envs)
    """
    ### BEGIN SOLUTION
    next_values = np.concatenate([values[1:], np.asarray(next_value)[None]])
    deltas = rewards + gamma * next_values * (1.0 - dones) - values
    advantages, advantage = np.zeros_like(deltas), np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + gamma * lam * (1.0 - dones[t]) * advantage
        advantages[t] = advantage
    return advantages
    ### END SOLUTION


# %% check="compute_gae"
check("compute_gae", compute_gae, lesson="04")

# %% [markdown]
# ## 4. The losses
#
# Advantages are standardised in each minibatch (with $n-1$; a single one is returned as it is):
#
# $\hat A \leftarrow (\hat A - \operatorname{mean}) / (\operatorname{std} + 10^{-8})$, so that equal advantages become 0 and
# not NaN.


# %% exercise="normalize_advantages" todo="how many advantages does a standard deviation take?"
def normalize_advantages(advantages):
    """
    Standardise advantages.

    :param advantages: shape (batch,)
    :return: shape (batch,)
    """
    ### BEGIN SOLUTION
    if advantages.numel() < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ### END SOLUTION


# %% check="normalize_advantages"
check("normalize_advantages", normalize_advantages, lesson="04")

# %% [markdown]
# The clipped surrogate, as a loss:
#
# The advantages come as they are to be used, and old log-probabilities are constants already.


# %% exercise="compute_policy_loss" todo="lesson 03's objective; what is left to make of it one number to minimise?"
def compute_policy_loss(log_probs, old_log_probs, advantages, clip_epsilon=0.2):
    """
    Compute the policy loss of PPO.

    :param log_probs: under the policy that is trained, shape (batch,)
    :param old_log_probs: under the policy that acted, shape (batch,)
    :param advantages: shape (batch,)
    :param clip_epsilon: ε
    :return: one number to minimise
    """
    ### BEGIN SOLUTION
    ratio = torch.exp(log_probs - old_log_probs)
    clipped = torch.clamp(ratio, 1 - clip_epsilon, 1 + clip_epsilon)
    return -torch.min(advantages * ratio, advantages * clipped).mean()
    ### END SOLUTION


# %% check="compute_policy_loss"
check("compute_policy_loss", compute_policy_loss)

# %% [markdown]
# And all three together. Which one shall become large, and so has a minus?


# %% exercise="total_loss" todo="for each of the three: shall it become small or large?"
def total_loss(policy_loss, value_loss, entropy, vf_coef=0.5, ent_coef=0.01):
    """
    Add up PPO's loss.

    :param policy_loss: one number
    :param value_loss: one number
    :param entropy: the mean entropy of the policy
    :param vf_coef: weight of the value loss
    :param ent_coef: weight of the entropy
    :return: one number to minimise
    """
    ### BEGIN SOLUTION
    return policy_loss - ent_coef * entropy + vf_coef * value_loss
    ### END SOLUTION


# %% check="total_loss"
check("total_loss", total_loss)

# %% [markdown]
# ## 5. The loop
#
# The algorithm box of the paper, line by line: roll out; advantages; for some epochs, shuffled minibatches; one clipped gradient step
# for each.


# %%
def train(env_id, total_steps, n_envs=2, n_steps=128, batch_size=64, n_epochs=4, learning_rate=3e-4, gamma=0.99,
          lam=0.95, clip_epsilon=0.2, vf_coef=0.5, ent_coef=0.01, max_grad_norm=0.5, seed=0):  # fmt: skip
    """Train PPO; return the network and the returns of finished episodes."""
    envs = make_vec_env(env_id, n_envs, env_kwargs={"render_mode": None})
    set_random_seed(seed)
    envs.action_space.seed(seed)
    envs.seed(seed)
    net = ActorCritic(envs.observation_space.shape[0], envs.action_space.n)
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate, eps=1e-5)
    observations = envs.reset()
    returns = []

    for _ in range(-(-total_steps // (n_steps * n_envs))):
        rollout, observations, last_values, finished = collect(
            net, envs, observations, n_steps, gamma
        )
        returns += finished
        rollout["advantages"] = compute_gae(
            rollout["rewards"], rollout["values"], rollout["dones"], last_values, gamma, lam
        )
        rollout["returns"] = rollout["advantages"] + rollout["values"]
        # From (n_steps, n_envs, ...) to one row per transition, environment after environment.
        flat = {
            name: torch.as_tensor(array.swapaxes(0, 1).reshape(-1, *array.shape[2:]))
            for name, array in rollout.items()
        }

        for _ in range(n_epochs):
            order = np.random.permutation(n_steps * n_envs)
            for start in range(0, len(order), batch_size):
                batch = {
                    name: tensor[order[start : start + batch_size]] for name, tensor in flat.items()
                }
                policy = net.policy(batch["observations"])
                advantages = normalize_advantages(batch["advantages"])
                policy_loss = compute_policy_loss(
                    policy.log_prob(batch["actions"]), batch["log_probs"], advantages, clip_epsilon
                )
                value_loss = F.mse_loss(batch["returns"], net.value(batch["observations"]))
                loss = total_loss(
                    policy_loss, value_loss, policy.entropy().mean(), vf_coef, ent_coef
                )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), max_grad_norm)
                optimizer.step()
    envs.close()
    return net, returns


# %% [markdown]
# ## 6. The comparison
#
# The package's PPO with the same arguments. `engine="autograd"` is its readable engine, the one that equals Stable-Baselines3's PPO to the
# bit; so you are being compared with SB3, too.

# %%
TOTAL = quick(8192, 512)
SETTINGS = {"n_steps": 128, "batch_size": 64, "n_epochs": 4, "ent_coef": 0.01}

net, _ = train("CartPole-v1", TOTAL, **SETTINGS)


def theirs(engine):
    envs = make_vec_env("CartPole-v1", 2, env_kwargs={"render_mode": None})
    return EduPPO("MlpPolicy", envs, seed=0, device="cpu", engine=engine, **SETTINGS).learn(TOTAL)


model = theirs("autograd")
rows = []
for mine, (name, other) in zip(net.parameters(), model.policy.named_parameters(), strict=True):
    difference = (mine - other).abs().max().item()
    rows.append(
        [name, str(tuple(mine.shape)), "yes" if torch.equal(mine, other) else "no", difference]
    )
table([f"after {TOTAL:,} steps", "shape", "equal to the bit", "largest difference"], rows)

# %% [markdown]
# Nine thousand parameters, as many random draws, hundreds of steps of Adam, and not one bit differs. (If yours differ by something like
# 1e-6, you add in another order: floating-point addition is not associative, and a rounding grows. If they differ by more, something *is*
# different. A good way to find it: train for one rollout and one epoch, and compare.)
#
# How easily equality is lost is worth seeing. The lecture (lecture 10 of Reinforcement Learning, Sogang University, autumn 2025) normalises
# the advantages of the whole batch instead of each minibatch's.
# Is that wrong? No; it is another algorithm. **Predict** first, for this and for the package's fast engine, which adds up in another order: what
# is the largest difference of a parameter from yours, 0, some 1e-7, or more than 0.01?

# %%
my_fused, my_batch = None, None

# %%
per_batch = EduPPO(
    "MlpPolicy", make_vec_env("CartPole-v1", 2, env_kwargs={"render_mode": None}), seed=0, device="cpu",
    engine="autograd", advantage_normalization="batch", **SETTINGS,
).learn(TOTAL)  # fmt: skip
fused = theirs("fused")


def distance(other):
    pairs = zip(net.parameters(), other.policy.parameters(), strict=True)
    return max((mine - theirs).abs().max().item() for mine, theirs in pairs)


table(
    ["compared with yours", "largest difference"],
    [
        ["autograd engine", distance(model)],
        ["fused engine: the same mathematics, other rounding", distance(fused)],
        ["advantages normalised over the whole rollout", distance(per_batch)],
    ],
)

# %%
compare(my_fused, distance(fused), "The fused engine differs by")

# %%
compare(
    my_batch,
    distance(per_batch),
    "Advantages normalised over the whole rollout make a difference of",
)

# %% [markdown]
# ## 7. It learns, too

# %%
STEPS = quick(40_960, 512)
began = time.perf_counter()
_, returns = train(
    "CartPole-v1",
    STEPS,
    n_envs=8,
    n_steps=256,
    batch_size=256,
    n_epochs=10,
    learning_rate=1e-3,
    ent_coef=0.0,
)
seconds = time.perf_counter() - began
figure, axes = plt.subplots()
axes.plot(returns, ".", markersize=2, color="grey")
axes.plot(np.convolve(returns, np.ones(20) / 20, "valid"), color="C0")
axes.set_xlabel("episode")
axes.set_ylabel("return")
plt.show()
print(
    f"{STEPS:,} steps in {seconds:.0f} seconds; the last 20 episodes: {np.mean(returns[-20:]):.0f} of 500"
)

# %% [markdown]
# ## 8. One tower or two?
#
# The lecture's network has *one* body for both, with two heads: features that help to foresee the return may help to act, and for images, where the
# body is the expensive part, nearly everybody shares it. But then both losses pull the same weights. How hard does each of them pull? One rollout
# with a fresh network whose critic uses the actor's body, and the gradient of each loss with respect to it. (A fresh actor's last layer,
# with its gain of 0.01, lets a hundredth of the actor's pull through, for the beginning: take two zeros off the ratio, and see what is left.)


# %%
class OneTower(ActorCritic):
    """Actor and critic with one body."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.critic_body = self.actor_body


set_random_seed(0)
envs = make_vec_env("CartPole-v1", 8, seed=0, env_kwargs={"render_mode": None})
sharing = OneTower(4, 2)
rollout, _, last_values, _ = collect(sharing, envs, envs.reset(), quick(128, 32), 0.99)
envs.close()
advantages = compute_gae(rollout["rewards"], rollout["values"], rollout["dones"], last_values)
returns = torch.as_tensor(advantages + rollout["values"]).flatten()
observations = torch.as_tensor(rollout["observations"]).flatten(0, 1)
log_probs = sharing.policy(observations).log_prob(torch.as_tensor(rollout["actions"]).flatten())
weights = normalize_advantages(torch.as_tensor(advantages).flatten())
policy_loss = compute_policy_loss(log_probs, log_probs.detach(), weights)
value_loss = 0.5 * F.mse_loss(sharing.value(observations), returns)
pulls = []
for loss in (policy_loss, value_loss):
    of_body = torch.autograd.grad(loss, list(sharing.actor_body.parameters()), retain_graph=True)
    pulls.append(torch.cat([part.flatten() for part in of_body]).norm().item())
table(
    ["loss", "length of its gradient in the body"],
    [["policy", pulls[0]], ["0.5 × value", pulls[1]]],
)

# %%
note(
    f"The critic pulls {pulls[1] / pulls[0]:,.0f} times as hard: its loss is in squared points of return, "
    "the actor's has no unit, since advantages are standardised. And then `max_grad_norm` shortens the sum of "
    "both to 0.5, so that next to nothing of the actor's part is left."
)

# %% [markdown]
# What does that do to learning? The same 20,480 steps with the package's PPO (which has such a body as `shared_net_arch`), two towers against one,
# and one with the critic's loss turned down.

# %%
SHARED = {"shared_net_arch": [64, 64], "policy_kwargs": {"net_arch": []}}
VARIANTS = {
    "two towers": {},
    "one tower": SHARED,
    "one tower, vf_coef = 0.005": {**SHARED, "vf_coef": 0.005},
}
rows = []
for name, changes in VARIANTS.items():
    finals = []
    for seed in range(quick(5, 1)):
        curve = Curve()
        EduPPO(
            "MlpPolicy",
            make_training_env("CartPole-v1", n_envs=8, seed=100 * seed),
            seed=seed,
            n_steps=128,
            batch_size=256,
            learning_rate=1e-3,
            **changes,
        ).learn(quick(20_480, 1024), callback=curve)
        finals.append(np.mean(curve.returns[-20:]))
    rows.append([name, str(sorted(round(float(score)) for score in finals)), np.mean(finals)])
table(["CartPole", "last 20 episodes, by seed", "mean"], rows)

# %% [markdown]
# One tower is not wrong. It brings one more number that has to fit the task, the weight of the critic's loss against the *scale of the returns*
# (or returns brought to one scale: lesson 08). Two small towers do not ask for it, and cost little. By default SB3 shares the layers that see images, and no others.
#
# **What to remember.** PPO is some hundred lines, and each of them is a decision: when `done` is noted, what a time limit means, over what
# advantages are normalised, how weights begin. Two implementations are equal only if all of them are. When you write your own, have
# something to be equal *to*.
