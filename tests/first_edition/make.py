"""
Make the files in this folder with the code of the first edition, version 0.1.0, and with no other.

In a checkout::

    git worktree add ../first 9c7c941
    cp -r tests/first_edition ../first/tests/
    cd ../first && OMP_NUM_THREADS=1 python -m tests.first_edition.make made

``made/`` then holds what belongs beside this script. Everything runs in there with relative paths, so that no file names a
folder of the machine.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

import sb3_ppo_edu
from tests.first_edition.models import (
    HERE,
    N_ENVS,
    ROLLOUT,
    SAVED_MODELS,
    SavedModel,
    arithmetic,
    constructor_arguments,
    draw_observations,
    predict,
    train_on,
)

COMMIT = "9c7c941548774541619e8ecd4eed7a5aebd6af2d"
"""The last of the first edition."""

RUN = (
    "--env LunarLanderContinuous-v3 --folder trained --steps 256 --n-envs 2 --n-steps 32 --batch-size 32 --n-epochs 2 "
    "--eval-freq 128 --eval-episodes 3 --no-replay --checkpoint-freq 128 --device cpu --policy-kwargs '{net_arch: [8]}'"
)
RUNS = {"autograd": "--engine autograd", "auto": "--engine auto"}
ZOO_RUN = (
    "--env Pendulum-v1 -f zoo --eval-freq 64 --eval-episodes 2 --seed 3 --device cpu --num-threads 1 --conf-file settings.yml"
)

ANSWERS = {
    "td_errors": """
    following = np.append(values[1:], np.asarray(next_value)[None], axis=0)
    return rewards + (1.0 - dones) * gamma * following - values
""",
    # The mask is forgotten.
    "compute_gae": """
    deltas = td_errors(rewards, values, dones, next_value, gamma)
    result = np.zeros_like(deltas)
    following = 0.0
    for t in range(len(deltas) - 1, -1, -1):
        following = deltas[t] + gamma * lam * following
        result[t] = following
    return result
""",
}
"""What the student has written; the third exercise is left as it was."""


def main(target: Path) -> None:
    """
    Make everything.

    :param target: a new folder to make it in
    """
    checkout = Path(sb3_ppo_edu.__file__).parents[1]
    git = ["git", "-C", str(checkout)]
    found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "sb3_ppo_edu"], capture_output=True, text=True, check=True).stdout
    if found != COMMIT or changed:
        sys.exit(
            f"{checkout}: found commit {found}, {changed or 'unchanged'}; expected the first edition's, {COMMIT}, unchanged"
        )
    target.mkdir(parents=True)
    os.environ["PYTHONPATH"] = str(checkout)
    th.set_num_threads(1)
    os.chdir(target)
    expected = make_models(Path("models")) | make_statistics(Path("statistics"))
    np.savez_compressed("expected.npz", allow_pickle=False, **expected)
    make_zoo_run()
    for name, arguments in RUNS.items():
        make_run(name, arguments)
    make_submission(checkout / "notebooks" / "student" / "02_advantages.ipynb")
    record = {"commit": COMMIT, "version": "0.1.0", "python": sys.version.split()[0], "arithmetic": arithmetic()}
    Path("record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def make_models(folder: Path) -> dict[str, Any]:
    """
    Train and save the models, load each and train it on.

    :param folder: to save them in
    :return: what the first edition then predicts, and which parameters it ends with
    """
    folder.mkdir()
    expected: dict[str, Any] = {}
    for name, saved in SAVED_MODELS.items():
        algorithm: Any = getattr(sb3_ppo_edu, saved.algorithm)
        model = algorithm(saved.policy, saved.make_env(), **constructor_arguments(saved))
        model.learn(ROLLOUT)
        model.save(folder / name)
        observations = draw_observations(saved.observation)
        actions, values = predict(algorithm.load(folder / name, device="cpu"), observations)
        # Training on goes first through a file, as it does for those who read it.
        after = train_on(algorithm.load(folder / name, env=saved.make_env(), device="cpu"))
        expected |= {f"{name}/actions": actions, f"{name}/values": values, f"{name}/parameters": after}
    for kind in {saved.observation for saved in SAVED_MODELS.values()}:
        drawn = draw_observations(kind)
        for part, array in (drawn if isinstance(drawn, dict) else {"": drawn}).items():
            expected[f"observations/{kind}/{part}"] = array
    return expected


def make_statistics(folder: Path) -> dict[str, Any]:
    """
    Save the statistics of VecNormalize for arrays and for dictionaries of observations.

    :param folder: to save them in
    :return: the observations of :func:`draw_observations`, normalised with them
    """
    folder.mkdir()
    expected: dict[str, Any] = {}
    for kind in ("box", "dict"):
        keys = ["vector"] if kind == "dict" else None
        env = VecNormalize(SavedModel(observation=kind).make_env(), gamma=0.9, norm_obs_keys=keys)
        env.seed(3)
        env.reset()
        for _ in range(20):
            env.step(np.zeros((N_ENVS, 2), np.float32))
        env.save(str(folder / f"{kind}.pkl"))
        normalised: Any = env.normalize_obs(draw_observations(kind))
        for part, array in (normalised if isinstance(normalised, dict) else {"": normalised}).items():
            expected[f"normalised/{kind}/{part}"] = array
    return expected


def make_zoo_run() -> None:
    """Train through the zoo, and leave out the command, which names the interpreter, and what nothing here reads."""
    shutil.copy(HERE / "settings.yml", ".")
    subprocess.run([sys.executable, "-m", "sb3_ppo_edu.zoo", "train", *shlex.split(ZOO_RUN)], check=True)
    for pattern in ("*.monitor.csv", "command.txt", "best_model.zip"):
        for path in Path("zoo").rglob(pattern):
            path.unlink()


def make_run(name: str, arguments: str) -> None:
    """
    Train from the command line, and take the folder back to what an interruption in the middle would have left.

    Model, logs and evaluations stay those of the training's end: what a resumed run is to end with.

    :param name: of the run
    :param arguments: further ones of the command line
    """
    command = shlex.split(f"{RUN} --name {name} {arguments}")
    subprocess.run([sys.executable, "-m", "sb3_ppo_edu", "train", *command], check=True)
    folder = Path("trained") / name
    (folder / "checkpoints" / "checkpoint-000000000256.zip").unlink()
    (folder / "learning_curve.png").unlink()


def make_submission(path: Path) -> None:
    """
    Fill some answers into a student's notebook.

    :param path: of the notebook as it is handed out
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        for name, answer in ANSWERS.items():
            if cell["cell_type"] == "code" and source.startswith(f"def {name}("):
                # The stub is one statement behind the docstring.
                cell["source"] = (source[: source.index("    raise NotImplementedError")] + answer.strip("\n")).splitlines(
                    True
                )
    Path("submissions").mkdir()
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    (Path("submissions") / "student.ipynb").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
