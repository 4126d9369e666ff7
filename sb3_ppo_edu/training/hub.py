"""Models on the Hugging Face Hub: ``EduPPO.from_hub`` and ``sb3-edu push``. Needs the extra ``hub``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ppo_edu.envs.factory import action_repeat
from sb3_ppo_edu.serialization.errors import reason
from sb3_ppo_edu.serialization.extras import need
from sb3_ppo_edu.serialization.text import printable
from sb3_ppo_edu.training.algorithms import algorithm_named
from sb3_ppo_edu.training.folder import EVALUATION_FILE, MODEL_FILE, NORMALIZATION_FILE, PROGRESS_FILE, SETTINGS_FILE
from sb3_ppo_edu.training.saved_run import open_run
from sb3_ppo_edu.training.settings import read_settings

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)

PUSHED = (MODEL_FILE, NORMALIZATION_FILE, SETTINGS_FILE, EVALUATION_FILE, PROGRESS_FILE, "learning_curve.png", "replay.gif")
"""What of a run's folder others can use; checkpoints and monitors stay at home."""
SHOWN = 5
"""File names that an error lists."""


def hub() -> ModuleType:
    """
    Import the library of the Hub.

    :raises ImportError: if it is missing, with the remedy
    """
    found: ModuleType = need("huggingface_hub", "hub", "the Hugging Face Hub")
    return found


@contextmanager
def reaching(repo_id: str) -> Iterator[None]:
    """
    Say in one way that the Hub can't be reached, has no such repository or refuses: its library has many.

    :raises OSError: with what the library says
    """
    try:
        yield
    except Exception as error:
        raise OSError(printable(f"hub {repo_id}: {error}")) from error


def from_hub(
    cls: type[Algorithm], repo_id: str, filename: str | None, revision: str | None, trusted: bool, **kwargs: Any
) -> Algorithm:
    """
    Fetch a model and load it: what :meth:`sb3_ppo_edu.EduPPO.from_hub` does.

    :param cls: class of the model
    :param repo_id: such as ``"someone/ppo-CartPole-v1"``
    :param filename: the model's file in it; None for ``model.zip``, or else the only ``.zip`` file
    :param revision: branch, tag or commit
    :param trusted: as for ``load``
    :param kwargs: further arguments of ``load``
    :raises ValueError: if no file there must be the model, or the file is refused
    :raises OSError: if the Hub can't be reached, or has no such repository or file
    """
    api = hub().HfApi()
    if filename is None:
        with reaching(repo_id):
            files = api.list_repo_files(repo_id, revision=revision)
        found = [name for name in files if name.endswith(".zip")]
        filename = MODEL_FILE if MODEL_FILE in found else found[0] if len(found) == 1 else None
        if filename is None:
            more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
            listed = printable(", ".join([*sorted(found)[:SHOWN], *more])) or f"no .zip file among {len(files)}"
            raise ValueError(
                f"hub {repo_id}: found {listed}; expected {MODEL_FILE} or a single .zip file, or name one: filename=…"
            )
    with reaching(repo_id):
        path = api.hf_hub_download(repo_id, filename, revision=revision)
    loaded: Algorithm = cls.load(path, trusted=trusted, **kwargs)
    return loaded


REPO_ID = re.compile(r"(?!.*(?:--|\.\.|\.git$))[A-Za-z0-9](?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)
"""OWNER/NAME as the Hub has them."""
LONGEST_REPO_ID = 96


def check_repo_id(repo_id: str) -> None:
    """
    Check the name of a repository, as far as that can be done without the Hub.

    :param repo_id: such as ``"someone/ppo-CartPole-v1"``
    :raises ValueError: if the Hub has no such names
    """
    if not REPO_ID.fullmatch(repo_id) or len(repo_id) > LONGEST_REPO_ID:
        raise ValueError(
            f"repository {repo_id!r}: expected OWNER/NAME, such as someone/ppo-CartPole-v1: letters, digits, _, - and ., the "
            f"latter two within a word and not twice together, {LONGEST_REPO_ID} characters at most, no .git at the end"
        )


def push(folder: Path, repo_id: str, *, public: bool = False) -> str:
    """
    Copy a run to the Hub, with a model card that says what it reached and how to use it.

    :param folder: the run's
    :param repo_id: such as ``"someone/ppo-CartPole-v1"``; created if it is not there
    :param public: create it for everybody to see; what exists stays as it is
    :return: its address
    :raises ValueError: if the folder is no run's, or one of these files is a link
    :raises OSError: if the Hub can't be reached, or refuses
    """
    open_run(folder)  # refuses what is no run's
    for name in PUSHED:
        if (folder / name).is_symlink():  # somebody else's run may lead to anything of one's own
            raise ValueError(f"push {folder / name}: found a link, expected a file: links are not followed")
    api = hub().HfApi()
    card = model_card(folder, repo_id).encode("utf-8")
    add = hub().CommitOperationAdd
    operations = [add("README.md", card), *(add(name, folder / name) for name in PUSHED if (folder / name).is_file())]
    with reaching(repo_id):
        address = str(api.create_repo(repo_id, private=not public, exist_ok=True))
        api.create_commit(repo_id, operations, commit_message=f"The run {folder.absolute().name}")
    return address


def model_card(folder: Path, repo_id: str) -> str:
    """
    Describe a run for those who find it.

    :param folder: the run's
    :param repo_id: where it will be
    :return: Markdown, with the metadata that the Hub reads at its head
    :raises ValueError: if the Hub has no such repositories, or the folder is no run's
    """
    check_repo_id(repo_id)
    settings = read_settings(folder / SETTINGS_FILE)
    env_id = settings["environment"]["id"]
    algorithm = algorithm_named(settings.get("algo", "eduppo")).__name__
    repeats = action_repeat(settings["environment"].get("wrapper"))
    steps = f"{settings['steps'] * repeats:,} steps of the environment"
    if repeats > 1:
        steps += f" ({settings['steps']:,} decisions, each held for {repeats})"
    metadata = {
        "library_name": "stable-baselines3",
        "tags": [env_id, "reinforcement-learning", "stable-baselines3", algorithm],
    }
    figures = "It has not been evaluated."
    if (folder / EVALUATION_FILE).is_file():
        try:
            figures, mean = described_evaluation(json.loads((folder / EVALUATION_FILE).read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"push {folder / EVALUATION_FILE}: found {reason(error)}, expected an evaluation as `sb3-edu train` writes it"
            ) from error
        metadata["model-index"] = [
            {
                "name": algorithm,
                "results": [
                    {
                        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
                        "dataset": {"name": env_id, "type": env_id},
                        "metrics": [{"type": "mean_reward", "value": mean, "name": "mean_reward", "verified": False}],
                    }
                ],
            }
        ]
    pictures = [f"![{name}]({name})" for name in ("replay.gif", "learning_curve.png") if (folder / name).is_file()]
    return f"""---
{json.dumps(metadata, indent=1, ensure_ascii=False)}
---

# {algorithm} on {env_id}

Trained for {steps} with [`sb3_ppo_edu`](https://pypi.org/project/sb3-ppo-edu), seed {settings["seed"]}:

```bash
{chr(10).join([settings["command"], *settings.get("resumed", [])])}
```

{figures}

{chr(10).join(pictures)}

## Use

```python
from sb3_ppo_edu import {algorithm}

model = {algorithm}.from_hub("{repo_id}")
```

With the wrappers and the normalisation that it was trained in, which `settings.yml` names:

```bash
hf download {repo_id} --local-dir runs/{repo_id.rpartition("/")[2]}
sb3-edu evaluate runs/{repo_id.rpartition("/")[2]}
```

No code from these files runs while they are read. All settings and versions are in `settings.yml`.
"""


def described_evaluation(found: dict[str, Any]) -> tuple[str, str]:
    """Give the table of an evaluation, and the mean return as the Hub has it."""
    lines = [
        f"| {name} | {one['mean']:.1f} ± {one['std']:.1f} | {one['min']:.1f} | {one['max']:.1f} |"
        for name, one in (("this model", found["trained"]), ("random actions", found["random"]))
    ]
    what = f"Return over {found['trained']['n']} episodes from the same starts:"
    head = f"{what}\n\n| | mean ± std | lowest | highest |\n|---|---:|---:|---:|"
    return "\n".join([head, *lines]), f"{found['trained']['mean']:.2f} +/- {found['trained']['std']:.2f}"
