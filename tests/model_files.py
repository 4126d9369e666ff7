"""Files of models and statistics for the tests of untrusted files, and what changes their parts."""

from __future__ import annotations

import base64
import functools
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_edu import EduPPO
from tests.environments import RandomWalk

TIME_LIMIT = 2.0
"""Seconds within which a bad file is refused."""

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu", "seed": 1}
NETWORK = {"net_arch": [8]}
FALLING: dict[str, Any] = {"learning_rate": "lin_0.001"}


def make_walk(observation: str = "box", action: str = "box") -> DummyVecEnv:
    """One environment of the given spaces."""
    return DummyVecEnv([lambda: RandomWalk(observation, action)])


def members_of(content: bytes) -> dict[str, bytes]:
    """Read an archive's members with the standard library alone."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Write an archive with the given members, in this order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def replacing(content: bytes, name: str, new: bytes | None) -> bytes:
    """Replace, add or (with None) take away a member."""
    members = {**members_of(content), name: new}
    return archive_of([(key, value) for key, value in members.items() if value is not None])


def with_attribute(content: bytes, name: str, value: Any) -> bytes:
    """Replace an attribute in the JSON of a model's file."""
    data = json.loads(members_of(content)["data"])
    return replacing(content, "data", json.dumps({**data, name: value}).encode())


def serialized(pickled: bytes) -> dict[str, str]:
    """Pickle in the form in which Stable-Baselines3 puts one into its JSON."""
    return {":type:": "<class 'object'>", ":serialized:": base64.b64encode(pickled).decode()}


@functools.cache
def saved_model() -> bytes:
    """Save a model that has trained; give its file's content."""
    model = EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, **FALLING, **SMALL)
    model.learn(16)
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


@functools.cache
def saved_statistics() -> bytes:
    """Save a ``VecNormalize`` that has seen a few steps; give its file's content."""
    env = VecNormalize(make_walk())
    env.reset()
    env.action_space.seed(0)
    for _ in range(5):
        env.step(np.array([env.action_space.sample()]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vecnormalize.pkl"
        env.save(str(path))
        return path.read_bytes()
