# %% [markdown]
# # 10 Memory and masks: what a policy cannot see, and what it must not do
#
# So far the policy saw everything that counts, and could do everything that it liked. Real tasks often take away one or the other: a camera
# shows no speeds, and a chess piece does not jump over the edge of the board. This lesson adds what is missing, twice: a **memory** for what cannot
# be seen, and a **mask** for what is not allowed. PPO itself stays as it is. Both times the interesting question is what happens in the *update*.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from stable_baselines3.common.vec_env import sync_envs_normalization

from sb3_ppo_edu import EduPPO, MaskableEduPPO, RecurrentEduPPO
from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.lesson import Curve, begin, quick, table
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env, make_training_env
from sb3_ppo_edu.envs.tic_tac_toe import TicTacToe

begin()

# %% [markdown]
# ## A photograph of a falling pole
#
# CartPole shows four numbers: position, velocity, angle, angular velocity. `CartPoleNoVel-v1` is the same cart with both velocities hidden,
# so that the policy gets photographs instead of a film. What is lost? Here is a policy that was trained on all four numbers, asked about three moments
# in which the pole stands one degree to the right of upright.

# %%
seeing = EduPPO(
    "MlpPolicy",
    make_training_env("CartPole-v1", n_envs=8),
    n_steps=128,
    batch_size=256,
    learning_rate=1e-3,
    seed=0,
)
seeing.learn(quick(40_960, 2048))

rows = []
for what, turning in (("falling", 0.6), ("standing", 0.0), ("coming back up", -0.6)):
    state = torch.tensor([[0.0, 0.0, 0.0175, turning]])
    with torch.no_grad():
        push = seeing.policy.get_distribution(state).distribution.probs[0, 1].item()
    rows.append([what, f"0, 0, 0.0175, {turning:g}", "0, 0, 0.0175, 0", push])
table(
    ["the pole is", "CartPole-v1 shows", "CartPoleNoVel-v1 shows", "P(push right), seeing all"],
    rows,
)

# %% [markdown]
# Three moments that need different actions, and one photograph. A policy $\pi(a \mid o)$ has to answer all three alike, however long it is trained.
# That is **partial observability**: the *state* is Markov, what happens next depends on nothing else; the *observation* is not.
#
# Two photographs in a row would do here, since their difference is the velocity. In general nobody knows how many are needed, so let the policy decide
# what to keep: give it a **memory** $h_t$ that it updates itself, and let it act on that, $\pi(a \mid h_t)$. The simplest one is
#
# $$h_t = \tanh\big(W_\text{in}\, x_t + W_\text{rec}\, (1 - \text{start}_t)\, h_{t-1}\big),$$
#
# where $\text{start}_t$ is 1 if step $t$ is the first of an episode: what happened in the last episode is nobody's business in this one. The LSTM that
# everybody uses is this with gates, which let it keep a number for longer.
#
# Mind the index. Lesson 02 had `dones[t]`: the episode ended *with* step $t$. Recurrent code has `episode_starts[t]`: it begins *at* step $t$. One is the
# other, shifted by a step, and mixing them up is the most frequent mistake here.
#
# Rules for every exercise: your function leaves its arguments as they are (`state[…] = 0` changes the caller's) and depends
# on nothing else. Nothing is empty, flags are numbers, 0 or 1, and what comes in with a gradient has one in the result.


# %% exercise="recurrent_states" todo="what does a step need from the one before, and what of it where an episode starts?"
def recurrent_states(inputs, episode_starts, state, w_in, w_rec):
    """
    Carry a memory through a rollout.

    :param inputs: x, tensor of shape (n_steps, n_envs, n_inputs)
    :param episode_starts: 1 where a step is the first of an episode, else 0, shape (n_steps, n_envs)
    :param state: h before the first step, shape (n_envs, n_units)
    :param w_in: W_in, shape (n_units, n_inputs)
    :param w_rec: W_rec, shape (n_units, n_units)
    :return: h after each step, shape (n_steps, n_envs, n_units), with gradients
    """
    ### BEGIN SOLUTION
    states = []
    for x, start in zip(inputs, episode_starts, strict=True):
        remembered = (1 - start)[:, None] * state
        state = torch.tanh(x @ w_in.T + remembered @ w_rec.T)
        states.append(state)
    return torch.stack(states)
    ### END SOLUTION


# %% check="recurrent_states"
check("recurrent_states", recurrent_states)

# %% [markdown]
# ## What a sequence is
#
# In lesson 04 an update shuffled single transitions. That is over: the gradient at step $t$ has to run back through $h_{t-1}, h_{t-2}, \ldots$, to
# the step that should have remembered something. The unit that is shuffled is now a **sequence** of consecutive steps.
#
# A rollout of one environment is cut in two kinds of places: where an episode begins, because nothing flows across; and at both ends of the
# rollout, because there is no more. A sequence that begins at the rollout's first step mostly begins in mid-episode: it starts from the *stored* state, a number
# without a gradient. So with `n_steps=32` nobody learns *directly* to remember something for 33 steps.
#
# (A list of whole numbers will do.)


# %% exercise="sequence_lengths" todo="where does a sequence begin? think of a rollout that starts in mid-episode, too"
def sequence_lengths(episode_starts):
    """
    Cut a rollout of one environment into sequences.

    :param episode_starts: 1 where a step is the first of an episode, else 0, array of shape (n_steps,)
    :return: number of steps of each sequence, in their order
    """
    ### BEGIN SOLUTION
    beginnings = np.flatnonzero(episode_starts)
    if len(beginnings) == 0 or beginnings[0] > 0:
        beginnings = [0, *beginnings]
    return np.diff([*beginnings, len(episode_starts)])
    ### END SOLUTION


# %% check="sequence_lengths"
check("sequence_lengths", sequence_lengths)

# %% [markdown]
# A rollout of eight environments under random actions; each bar is a sequence.

# %%
N_STEPS = 32
env = make_training_env("CartPoleNoVel-v1", n_envs=8, seed=1)
env.action_space.seed(1)
env.reset()
starts = np.zeros((2 * N_STEPS, 8), dtype=int)
for t in range(2 * N_STEPS - 1):
    _, _, dones, _ = env.step(np.array([env.action_space.sample() for _ in range(8)]))
    starts[t + 1] = dones  # what ends with step t begins anew at step t + 1
starts = starts[N_STEPS:]  # the second rollout: it begins in mid-episode

lengths = [sequence_lengths(starts[:, e]) for e in range(8)]
for e, of_environment in enumerate(lengths):
    for n, (length, left) in enumerate(
        zip(of_environment, np.cumsum([0, *of_environment]), strict=False)
    ):
        plt.barh(e, length - 0.25, left=left, color="C1" if n == 0 and starts[0, e] == 0 else "C0")
plt.xlabel("step of the rollout")
plt.ylabel("environment")
plt.title("blue: from an empty state; orange: from the stored one", fontsize=10)
plt.show()

together = np.concatenate(lengths)
print(f"{len(together)} sequences of {together.min()} to {together.max()} steps")
print(f"padded to the longest: {len(together) * together.max()} places for {together.sum()} steps")

# %% [markdown]
# To compute all sequences at once they are padded to the longest, and the padding must not teach anything: no sum and no count may hold it.
#
# What lies there may be NaN or infinite.


# %% exercise="padded_mean" todo="which places hold a step that was taken, and how many are there?"
def padded_mean(losses, lengths):
    """
    Average over the steps that were taken.

    :param losses: tensor of shape (n_sequences, longest); behind the end of a sequence there is anything
    :param lengths: steps of each sequence, integers, shape (n_sequences,)
    :return: one number
    """
    ### BEGIN SOLUTION
    taken = torch.arange(losses.shape[1]) < lengths[:, None]
    return losses[taken].mean()
    ### END SOLUTION


# %% check="padded_mean"
check("padded_mean", padded_mean)

# %% [markdown]
# ## With and without
#
# Three policies, the same settings (those of RL Baselines3 Zoo), the same 100,000 steps: one photograph, two photographs, and one photograph with an
# LSTM of 64 units. `RecurrentEduPPO` is PPO with the two changes above, and sb3-contrib's `RecurrentPPO` to the bit with `engine="autograd"`.

# %%
STEPS = quick(99_840, 1024)
SETTINGS = {
    "n_steps": N_STEPS,
    "batch_size": 256,
    "n_epochs": quick(20, 2),
    "learning_rate": lambda left: 1e-3 * left,
    "clip_range": lambda left: 0.2 * left,
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "seed": 0,
}
MEMORY = {
    "policy_kwargs": {
        "lstm_hidden_size": 64,
        "net_arch": [64],
        "activation_fn": torch.nn.ReLU,
        "ortho_init": False,
    }
}
PHOTOGRAPH = EnvironmentSettings("CartPoleNoVel-v1", normalize={"gamma": 0.98})
TWO = EnvironmentSettings("CartPoleNoVel-v1", normalize={"gamma": 0.98}, frame_stack=2)

models, curves = {}, {}
for name, algorithm, policy, task, more in (
    ("one photograph", EduPPO, "MlpPolicy", PHOTOGRAPH, {}),
    ("two photographs", EduPPO, "MlpPolicy", TWO, {}),
    ("one, and a memory", RecurrentEduPPO, "MlpLstmPolicy", PHOTOGRAPH, MEMORY),
):
    curves[name] = Curve()
    models[name] = algorithm(policy, make_training_env(task, n_envs=8, seed=0), **SETTINGS, **more)
    models[name].learn(STEPS, callback=curves[name])
    curves[name].draw(plt.gca(), name)
plt.axhline(475, color="grey", linestyle=":", label="solved")
plt.legend()
plt.show()

# %% [markdown]
# One photograph gets nowhere, and no setting will change that: try a larger network, or ten times the steps. With a memory the very same photographs are
# enough. (Two photographs are enough, too, and much cheaper. If you know how far back to look, stack frames; a memory is for when you do not.)
#
# Its curve is the least steady of the three: while the network learns what to remember, the states that it acts on change their meaning.
# **Try** `recurrent_cell="gru"`, four units instead of 64, or `"n_steps": 4`, which leaves sequences of four steps to learn from.
#
# ## The memory belongs to the caller
#
# `predict` keeps nothing. It takes the state and gives back the new one, and whoever plays has to carry it, and to say where episodes start. The
# classical accident: the training was fine, and the agent that was deployed is hopeless.
#
# **Predict** first, on paper: of 500 points, what does the policy with a memory earn if its state is forgotten after every step?


# %%
def play(model, task, remember, episodes=20):
    """Play with the most likely actions; return the mean return."""
    env = make_evaluation_env(task, n_envs=episodes, first_seed=10_000)
    sync_envs_normalization(model.get_env(), env)
    observations, state = env.reset(), None
    episode_starts, returns = np.ones(episodes, dtype=bool), np.full(episodes, np.nan)
    while np.isnan(returns).any():
        actions, after = model.predict(observations, state, episode_starts, deterministic=True)
        state = after if remember else None
        observations, _, episode_starts, infos = env.step(actions)
        for e in np.flatnonzero(episode_starts & np.isnan(returns)):
            returns[e] = infos[e]["episode"]["r"]
    return returns.mean()


rows = [["one photograph", play(models["one photograph"], PHOTOGRAPH, remember=False)]]
rows += [["two photographs", play(models["two photographs"], TWO, remember=False)]]
rows += [["memory, state carried on", play(models["one, and a memory"], PHOTOGRAPH, remember=True)]]
rows += [["memory, state forgotten", play(models["one, and a memory"], PHOTOGRAPH, remember=False)]]
table(["policy", "mean return of 20 episodes"], rows)

# %% [markdown]
# ## Where the velocity has gone
#
# Nobody told the LSTM what a velocity is. Is it in there? Play, write down the state of the LSTM and the true velocities that the policy never saw, and
# fit the one to the other with a straight line for each number. The table has the share of the variance that the line explains, on steps that it was not
# fitted to.

# %%
model = models["one, and a memory"]
env = make_evaluation_env(PHOTOGRAPH, n_envs=10, first_seed=20_000)
sync_envs_normalization(model.get_env(), env)
observations, state, episode_starts = env.reset(), None, np.ones(10, dtype=bool)
seen, remembered, velocities = [], [], []
for _ in range(quick(200, 40)):
    actions, state = model.predict(observations, state, episode_starts, deterministic=False)
    seen.append(observations)
    remembered.append(state[0][-1])
    velocities.append([single.unwrapped.state for single in env.unwrapped.envs])
    observations, _, episode_starts, _ = env.step(actions)
seen, remembered, velocities = (np.concatenate(x) for x in (seen, remembered, velocities))


def explained(inputs, target):
    """Fit on the even steps, and return the share of variance that is explained on the odd ones."""
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    weights = np.linalg.lstsq(inputs[::2], target[::2], rcond=None)[0]
    return 1 - (target - inputs @ weights)[1::2].var() / target[1::2].var()


rows = [
    [what, explained(seen, velocities[:, i]), explained(remembered, velocities[:, i])]
    for what, i in (("velocity of the cart", 1), ("angular velocity of the pole", 3))
]
table(["", "from the photograph", "from the memory"], rows)

# %% [markdown]
# ## What is not allowed
#
# Now the other way round. Tic-tac-toe shows everything, but a square that is taken cannot be taken again, and out of nine actions ever fewer are legal.
# Our opponent moves at random, and sometimes begins. A win is worth 1, a loss −1, and an illegal move loses the game.

# %%
game = TicTacToe(render_mode="ansi")
game.reset(seed=1)
for _ in range(2):
    game.step(np.flatnonzero(game.action_masks())[0])
print(game.render())
print("may be taken:", np.flatnonzero(game.action_masks()).tolist())

# %% [markdown]
# Why not leave it at the punishment? Because the agent then has to learn the *rules* by losing: in each of thousands of positions, for each
# illegal square. The punishment needs a size (too small: it cheats; too large: it fears everything). And a policy made by softmax never gives
# probability 0, so some day it does it again. But the rules are known. So take the illegal actions out of the distribution before it is one:
#
# $$\pi(a \mid s) = \frac{m_a\, e^{z_a}}{\sum_k m_k\, e^{z_k}}, \qquad m_k = 1 \text{ if action } k \text{ is legal, else } 0.$$
#
# In code the logit of an illegal action becomes $-10^8$, whose exponential is 0. (Why not $-\infty$? You will see in the entropy.)
#
# Each row has a legal action, and the actions taken are legal.


# %% exercise="masked_log_prob" todo="what happens to illegal actions before the softmax, and which entry of a row do you need?"
def masked_log_prob(logits, mask, actions):
    """
    Compute the log-probabilities of actions where not all are legal.

    :param logits: tensor of shape (batch, n_actions)
    :param mask: True where an action is legal, the same shape
    :param actions: the actions taken, integers, shape (batch,)
    :return: shape (batch,)
    """
    ### BEGIN SOLUTION
    log_probs = torch.where(mask, logits, -1e8).log_softmax(dim=-1)
    return log_probs[torch.arange(len(actions)), actions]
    ### END SOLUTION


# %% check="masked_log_prob"
check("masked_log_prob", masked_log_prob)

# %% [markdown]
# ## What the mask does to the ratio
#
# The rollout was played with masks. The update computes the log-probabilities again, and *has to use the mask of that very step*: it is stored in the
# rollout buffer beside the observation. What if it is forgotten? Let us look at the ratio before the first gradient step, when nothing has changed and it
# has to be 1.

# %%
generator = torch.Generator().manual_seed(0)
logits = torch.randn(6, 9, generator=generator)
taken = torch.tensor([0, 2, 4, 6, 7, 8])  # squares taken so far, in six positions
mask = torch.rand(6, 9, generator=generator).argsort(dim=1) >= taken[:, None]
actions = torch.where(mask, logits, -1e8).argmax(dim=1)
old = masked_log_prob(logits, mask, actions)

everything = torch.ones_like(mask)
with_mask = torch.exp(masked_log_prob(logits, mask, actions) - old)
without = torch.exp(masked_log_prob(logits, everything, actions) - old)
legal = (logits.softmax(dim=-1) * mask).sum(dim=-1)
table(
    ["free squares", "ratio with the mask", "ratio without", "probability of all legal moves"],
    [
        [str(9 - n), *row]
        for n, *row in zip(
            taken.tolist(), *(x.tolist() for x in (with_mask, without, legal)), strict=True
        )
    ],
)

# %% [markdown]
# Without the mask the ratio is the probability that the naked policy moves legally at all, far below $1 - \varepsilon$ late in the game: samples with a negative
# advantage are clipped away before anything was learned, and the others teach the policy to be legal, which it is already.
#
# With it, the normaliser runs over legal actions only, so no gradient at all reaches the logits of the illegal ones. What the network says there is
# never used, and never wrong.
#
# ## What the mask does to the entropy
#
# The entropy is that of the distribution that is really played. Write it for the masked one, and mind $0 \cdot \log 0$.
#
# Neither the entropy nor its gradient may be NaN.


# %% exercise="masked_entropy" todo="what is 0 · log 0 for an action with logit −∞, what for one with −1e8?"
def masked_entropy(logits, mask):
    """
    Compute the entropy over the legal actions.

    :param logits: tensor of shape (batch, n_actions)
    :param mask: True where an action is legal, the same shape
    :return: shape (batch,)
    """
    ### BEGIN SOLUTION
    log_probs = logits.masked_fill(~mask, -1e8).log_softmax(dim=-1)
    return -(log_probs.exp() * log_probs).sum(dim=-1)
    ### END SOLUTION


# %% check="masked_entropy"
check("masked_entropy", masked_entropy)

# %%
indifferent = torch.zeros(9, 9)
free = torch.tril(torch.ones(9, 9)).bool()
table(
    ["legal actions", "entropy of a policy without any preference"],
    [
        [str(n + 1), abs(entropy)]
        for n, entropy in enumerate(masked_entropy(indifferent, free).tolist())
    ],
)

# %% [markdown]
# It is $\log n$, and it shrinks from move to move although the policy has not learned anything. So a curve of `entropy_loss` depends on *which positions*
# were played, an entropy of 0.7 is much with two legal moves and little with nine, and where one move is left the bonus pushes nothing.
#
# ## A punishment and a mask
#
# The same game, the same settings; one agent is punished for illegal moves, the other cannot make them.

# %%
GAME_STEPS = quick(100_352, 2048)
TRAINING = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "ent_coef": 0.01,
    "gamma": 1.0,
    "seed": 0,
}
players = {}
for name, algorithm in (("punished", EduPPO), ("masked", MaskableEduPPO)):
    curve = Curve()
    players[name] = algorithm(
        "MlpPolicy", make_training_env("TicTacToe-v0", n_envs=8, seed=0), **TRAINING
    )
    players[name].learn(GAME_STEPS, callback=curve)
    curve.draw(plt.gca(), name, window=500)
plt.legend()
plt.show()


# %%
def outcomes(model, games, deterministic, masked):
    """Play games; return the shares of wins, draws and losses on the board, and of illegal moves."""
    game = TicTacToe()
    counts = {"won": 0, "drawn": 0, "lost": 0, "illegal": 0}
    for seed in range(games):
        (observation, _), over = game.reset(seed=seed), False
        while not over:
            legal = {"action_masks": game.action_masks()} if masked else {}
            action, _ = model.predict(observation, deterministic=deterministic, **legal)
            observation, reward, over, _, info = game.step(action)
        counts[
            "illegal" if "illegal_move" in info else {1: "won", 0: "drawn", -1: "lost"}[int(reward)]
        ] += 1
    return [count / games for count in counts.values()]


GAMES = quick(1000, 20)
rows = [
    [
        name,
        "most likely" if deterministic else "drawn",
        *outcomes(players[player], GAMES, deterministic, masked),
    ]
    for name, player, masked in (
        ("punished", "punished", False),
        ("masked", "masked", True),
        ("masked in training only", "masked", False),
    )
    for deterministic in (True, False)
]
table(["agent", "its moves", "won", "drawn", "lost", "illegal"], rows)

# %% [markdown]
# The masked agent never makes an illegal move: not seldom, *never*, from its first game on, so that all its experience is about playing well. The punished
# one has been told thousands of times and still loses about one game in ten that way; its curve lies below the other's from beginning to end. The last agent
# shows the price of masks. What it thinks of illegal moves is whatever the random weights said, so **a policy trained with masks has to be played with masks**. If
# nobody can tell the legal actions when it is deployed, punish.
#
# **What to remember.**
#
# - If two states look alike and need different actions, no amount of training helps; stack frames, or give the policy a memory.
# - The state goes in, the state comes out, and it is emptied *at* the step that starts an episode: in the rollout, in the update, and when you play.
# - An update goes through sequences from stored states; padding counts nowhere.
# - A mask is part of the action distribution: log-probability, ratio and entropy all use it, in the update the one that was stored.
#
# A card game needs both: cards that nobody shows you, and cards that you must not play. `MaskableRecurrentEduPPO` has both.
#
# **Further variants.** The lecture names three: PPO with a memory, which is this lesson; with hindsight, which needs an algorithm that learns from old data
# (see `notebooks/errata.md`); and with **curiosity**, for tasks that hardly ever pay. There the bonus is for what the agent could not foresee: a network
# learns to imitate a random one on the observations seen so far, and where it fails, something is new
# (RND, [Burda et al. 2018](https://arxiv.org/abs/1810.12894)). PPO itself does not change, only the reward does:
# [`Curiosity`](../../sb3_ppo_edu/vec_env/curiosity.py) wraps the environments. On a MountainCar that pays for nothing but the flag, 5 of 5 seeds came
# above -130 with curiosity and 2 of 5 without, whose other three never saw the flag; on CartPole, where every step pays, it changed nothing that shows
# ([rows](../../benchmarks/learning/curiosity.md)).
