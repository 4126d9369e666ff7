# %% [markdown]
# # 07 Debugging: read the gauges before you turn the knobs
#
# A broken PPO does not crash. It trains, prints numbers, and learns a little or nothing, and there are a dozen settings that could be
# to blame. Most people start turning knobs. This lesson is about looking first: a handful of gauges tells most faults apart.
#
# Seven patients wait. Six have one fault each, planted; one is healthy. You look at their gauges, write down what you
# think, and then ask the doctor.

# %%
import base64
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from stable_baselines3.common.logger import configure

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.course.lesson import begin, quick, table
from sb3_ppo_edu.doctor.diagnose import diagnose
from sb3_ppo_edu.doctor.record import read_record
from sb3_ppo_edu.doctor.symptoms import BY_NAME
from sb3_ppo_edu.envs.factory import make_training_env

begin()

# %% [markdown]
# ## The gauges
#
# | gauge | what it says | healthy |
# |---|---|---|
# | `approx_kl` | how far an update moves the policy, in nats | 0.003 to 0.03, below 0.05 |
# | `clip_fraction` | share of ratios that left the window | 0.05 to 0.3 |
# | `entropy` | how undecided the policy is; at most $\log 2 \approx 0.69$ for two actions | falls slowly |
# | `explained_variance` | how much of the returns the critic predicts; 1 is all, 0 as good as a constant | towards 1 |
# | `value_loss` | the critic's error, in squared points | follows the returns |
#
# Look at KL and clip fraction first: they say whether the policy moves too far, or not at all. Then ask whether the critic learns, and
# last what the entropy does.
#
# ## The patients
#
# All learn CartPole (500 points at most) from the same settings; what is wrong with each is packed away so that you do not see it by accident.

# %%
HEALTHY = {
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "gae_lambda": 0.95,
}
SEALED = "eyJBIjogeyJlbnRfY29lZiI6IDEuMH0sICJCIjoge30sICJDIjogeyJjbGlwX3JhbmdlIjogMC4wMDV9LCAiRCI6IHsibGVhcm5pbmdfcmF0ZSI6IDAuMDV9LCAiRSI6IHsidmZfY29lZiI6IDAuMH0sICJGIjogeyJsZWFybmluZ19yYXRlIjogMWUtMDZ9LCAiRyI6IHsibl9lcG9jaHMiOiAxMDB9fQ=="
patients = json.loads(base64.b64decode(SEALED))
STEPS = quick(40_960, 6144)


def train(changes):
    """Train with what is wrong, and return what was logged."""
    with tempfile.TemporaryDirectory() as folder:
        env = make_training_env("CartPole-v1", n_envs=8, seed=0)
        model = EduPPO("MlpPolicy", env, seed=0, **{**HEALTHY, **changes})
        model.set_logger(configure(folder, ["csv"]))
        model.learn(STEPS)
        model.logger.close()
        return read_record(Path(folder))


records = {name: train(changes) for name, changes in patients.items()}

# %%
GAUGES = {
    "return": "rollout/ep_rew_mean",
    "KL": "train/approx_kl",
    "clip fraction": "train/clip_fraction",
    "entropy": "train/entropy_loss",
    "explained variance": "train/explained_variance",
}


def draw(names):
    _, axes = plt.subplots(
        len(names), len(GAUGES), figsize=(12, 1.9 * len(names)), sharex=True, squeeze=False
    )
    for row, name in zip(axes, names, strict=True):
        for panel, (gauge, key) in zip(row, GAUGES.items(), strict=True):
            steps, values = records[name].series(key)
            panel.plot(steps, -values if gauge == "entropy" else values)
            panel.tick_params(labelsize=7)
        row[0].set_ylabel(f"patient {name}", fontsize=12)
        row[1].axhspan(0.003, 0.03, color="C2", alpha=0.15)
        row[2].axhspan(0.05, 0.3, color="C2", alpha=0.15)
        row[0].set_ylim(0, 510)
        row[3].set_ylim(-0.02, 0.72)
        row[4].set_ylim(-1.1, 1.1)
    for panel, gauge in zip(axes[0], GAUGES, strict=True):
        panel.set_title(gauge, fontsize=10)
    plt.show()


draw(list(patients))

# %% [markdown]
# Green bands are where KL and clip fraction usually lie. Mind the scales: each panel has its own.
#
# **Your turn.** Before you go on, write down what you think each patient has. The possibilities: `healthy`, `learning rate too high`,
# `learning rate too low`, `clip range too tight`, `too many epochs`, `entropy bonus too large`, `critic not trained`.

# %%
my_guess = {
    "A": "?",
    "B": "?",
    "C": "?",
    "D": "?",
    "E": "?",
    "F": "?",
    "G": "?",
}

# %% [markdown]
# ## The doctor's opinion
#
# `sb3-edu doctor RUN` reads what a training has logged and looks for 37 symptoms, each with the source of its limits. Here is what it
# says to the seven, and what it rests on.

# %%
rows = []
for name, record in records.items():
    opinion = diagnose(record)
    if opinion.findings:
        first = opinion.findings[0]
        evidence = f"{first.evidence[0].key}: {first.evidence[0].text}"
        rows.append([name, my_guess[name], BY_NAME[first.name].title, evidence])
    else:
        rows.append([name, my_guess[name], opinion.summary.split(":")[0], ""])
table(["patient", "you", "the doctor", "first piece of evidence"], rows)

# %%
print("what was planted:")
for name, changes in patients.items():
    print(f"  {name}: {changes or 'nothing'}")

# %% [markdown]
# ## What tells them apart
#
# **D and F** are the two ends of one knob. Too high: the KL divergence has peaks of whole nats, each one a policy thrown away, and the
# entropy falls to 0; it may *still* earn points for a while. Too low: KL and clip fraction are 0 to any number of digits, nothing moves.
#
# **C** looks like F from afar, a return that does not rise. But half of its ratios are *clipped*: the policy would like to move and is
# silenced at once. With a small learning rate nobody would have been clipped.
#
# **A**: the entropy stays near $\log 2$. The bonus is worth more than the pole.
#
# **E** learns as well as the healthy one. Only the explained variance, 0 from the first update to the last, shows that its critic predicts
# nothing; on a longer task the noise of its advantages would have told. **A return that rises is not a proof of health.**
#
# **G** is the cruel one. Its return is the best of all, and its KL lies in the band: clipping holds. But it trains ten times as long on
# each rollout, and its critic learns the last returns by heart: the explained variance climbs towards 1 and then falls below 0. On this
# task one gets away with it.
#
# ## A remedy is an experiment
#
# Change *one* thing, with the same seed, and look at the same gauges again.

# %%
before = records["D"]
records["D mended"] = train({"learning_rate": 1e-3})
draw(["D", "D mended"])
for name in ("D", "D mended"):
    steps, returns = records[name].series("rollout/ep_rew_mean")
    divergence = np.median(records[name].series("train/approx_kl")[1])
    print(
        f"{name}: return {returns[-1]:.0f}, median KL {divergence:.3f}: {diagnose(records[name]).summary}"
    )

# %% [markdown]
# **Try**: break it in a way of your own. `train({"gamma": 0.3})`, `train({"max_grad_norm": 1e-6})`, `train({"batch_size": 1024, "n_epochs": 1})`;
# guess the gauges before you look.
#
# In your own trainings, the doctor can sit beside and warn: `model.learn(…, callback=TrainingDoctor("report"))`, from
# `sb3_ppo_edu.doctor.callback`, with SB3's own PPO too.
#
# **What to remember.** KL and clip fraction first, then the critic, then the entropy. One change at a time. And no single number, least of all
# the return, says that all is well.
