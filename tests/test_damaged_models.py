"""Damaged files of models: each is named, with what is wrong with it, before a model is built."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.serialization.errors import DamagedFileError
from sb3_ppo_edu.serialization.statistics import load_statistics
from tests.hostile_pickles import Call
from tests.model_files import (
    NETWORK,
    TIME_LIMIT,
    archive_of,
    make_walk,
    members_of,
    replacing,
    saved_model,
    serialized,
    with_attribute,
)


@pytest.fixture(scope="module")
def saved() -> bytes:
    """Content of the file of a model that has trained."""
    return saved_model()


def other_algorithm(algorithm: type[Any]) -> bytes:
    """Save a model of another algorithm."""
    file = io.BytesIO()
    algorithm("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs=NETWORK).save(file)
    return file.getvalue()


def encrypted(content: bytes) -> bytes:
    """Mark every member as encrypted, in the directory and before the member."""
    changed = bytearray(content)
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = 0
        while (start := changed.find(signature, start)) >= 0:
            changed[start + offset] |= 1
            start += 4
    return bytes(changed)


def flipped(content: bytes, position: int) -> bytes:
    """Flip all bits of one byte."""
    changed = bytearray(content)
    changed[position] ^= 0xFF
    return bytes(changed)


def pickled_space(space: spaces.Space) -> dict[str, str]:
    """A space as SB3 saves it."""
    return serialized(cloudpickle.dumps(space))


def tensors(value: Any, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    th.save(value, file, **options)
    return file.getvalue()


def with_inner_bomb(content: bytes) -> bytes:
    """Compress the weights inside their member: a little file that becomes large."""
    inner = members_of(members_of(content)["policy.pth"])
    inner["archive/data/0"] = bytes(2**24)
    return replacing(content, "policy.pth", archive_of(list(inner.items()), zipfile.ZIP_DEFLATED))


def serialized_part(content: bytes, attribute: str, change: Callable[[str], Any]) -> bytes:
    """Change the base64 of one attribute."""
    value = json.loads(members_of(content)["data"])[attribute]
    return with_attribute(content, attribute, {**value, ":serialized:": change(value[":serialized:"])})


def member_start(content: bytes, name: str) -> int:
    """Find the first byte of a stored member's content."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        header = archive.getinfo(name).header_offset
    lengths = struct.unpack("<HH", content[header + 26 : header + 30])
    return header + 30 + int(sum(lengths))


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda good: b"", "0 bytes"),
    "not a zip": (lambda good: b"hello" * 100, "not an intact zip"),
    "pickle": (lambda good: pickle.dumps({"policy": 1}), "not an intact zip"),
    "a tenth": (lambda good: good[: len(good) // 10], "not an intact zip"),
    # The weights are a zip of their own: where a file is cut behind them, that one's directory is found.
    "half": (lambda good: good[: len(good) // 2], "not an intact zip|before the first member"),
    "without its last byte": (lambda good: good[:-1], "not an intact zip|damaged"),
    "only the directory": (lambda good: good[-500:], "not an intact zip|damaged"),
    "begins with noise": (lambda good: bytes(1000) + good[1000:], "not an intact zip|damaged"),
    "weights flipped": (lambda good: flipped(good, member_start(good, "policy.pth") + 700), "CRC"),
    "JSON flipped": (lambda good: flipped(good, member_start(good, "data") + 9), "CRC"),
    "bytes before it": (lambda good: b"#!/bin/sh\n" + good, "10 bytes before"),
    "zeros": (lambda good: bytes(len(good)), "not an intact zip"),
    "empty zip": (lambda good: archive_of([]), "found no data"),
    "no data": (lambda good: replacing(good, "data", None), "found no data"),
    "no weights": (lambda good: replacing(good, "policy.pth", None), "found no policy.pth"),
    "no optimizer": (lambda good: replacing(good, "policy.optimizer.pth", None), "found no policy.optimizer.pth"),
    "path traversal": (lambda good: replacing(good, "../evil", b"x"), r"the name '\.\./evil'"),
    "absolute path": (lambda good: replacing(good, "/etc/evil", b"x"), "the name '/etc/evil'"),
    "backslashes": (lambda good: replacing(good, "..\\evil", b"x"), "the name"),
    "drive": (lambda good: replacing(good, "C:evil", b"x"), "the name"),
    "folder": (lambda good: replacing(good, "folder/", b""), "the name"),
    "encrypted": (encrypted, "encrypted; expected members without"),
    "bzip2": (lambda good: archive_of(list(members_of(good).items()), zipfile.ZIP_BZIP2), "compressed by method"),
    "zip bomb": (
        lambda good: archive_of([*members_of(good).items(), ("bomb", bytes(2**27))], zipfile.ZIP_DEFLATED),
        "members of",
    ),
    "zip bomb inside the weights": (with_inner_bomb, "policy.pth"),
    "unknown tensors": (lambda good: replacing(good, "policy.features.pth", tensors({})), "policy.features.pth"),
    "weights no archive": (lambda good: replacing(good, "policy.pth", b"\x80\x02}q\x00."), "policy.pth"),
    "weights in the old format": (
        lambda good: replacing(good, "policy.pth", tensors({}, _use_new_zipfile_serialization=False)),
        "policy.pth",
    ),
    "weights empty": (lambda good: replacing(good, "policy.pth", tensors({})), "Missing key"),
    "weights no dictionary": (lambda good: replacing(good, "policy.pth", tensors([1, 2])), "no model can be built"),
    "weights with code": (lambda good: replacing(good, "policy.pth", tensors(Call(os.getcwd))), "more than tensors"),
    "weights of another shape": (
        lambda good: replacing(good, "policy.pth", tensors({"log_std": th.zeros(7)})),
        "no model can be built",
    ),
    "optimizer of another network": (
        lambda good: replacing(good, "policy.optimizer.pth", tensors({"state": {}, "param_groups": []})),
        "no model can be built",
    ),
    "JSON broken": (lambda good: replacing(good, "data", b'{"policy_class": '), "broken JSON"),
    "JSON a list": (lambda good: replacing(good, "data", b"[1, 2]"), "broken JSON"),
    "JSON no text": (lambda good: replacing(good, "data", b"\xff\xfe\xfa\x00"), "broken JSON"),
    "JSON nested deeply": (lambda good: replacing(good, "data", b"[" * 100_000), "broken JSON"),
    "JSON empty": (lambda good: replacing(good, "data", b"{}"), "found no"),
    "base64 broken": (lambda good: serialized_part(good, "lr_schedule", lambda code: code[:-3]), "'lr_schedule'.*base64"),
    "base64 no text": (lambda good: serialized_part(good, "lr_schedule", lambda code: 7), "'lr_schedule'.*base64"),
    "pickle cut off": (lambda good: serialized_part(good, "action_space", lambda code: code[:400]), "'action_space'.*pickle"),
    "A2C": (lambda good: other_algorithm(A2C), "found no batch_size"),
    "DQN": (lambda good: other_algorithm(DQN), "found no clip_range"),
    "other action space": (
        lambda good: with_attribute(good, "action_space", pickled_space(spaces.Discrete(4))),
        "no model can be built",
    ),
    "other observation space": (
        lambda good: with_attribute(good, "observation_space", pickled_space(spaces.Box(-1, 1, (99,)))),
        "no model can be built",
    ),
    "space no space": (lambda good: with_attribute(good, "observation_space", 5), "found a space without what it needs"),
    "policy no class": (lambda good: with_attribute(good, "policy_class", "os.system"), "no model can be built"),
    "policy another class": (
        lambda good: with_attribute(good, "policy_class", serialized(cloudpickle.dumps(th.nn.ReLU))),
        "no model can be built",
    ),
    "no base64": (lambda good: with_attribute(good, "clip_range", {":serialized:": "!"}), "'clip_range': found broken base64"),
    "steps no number": (lambda good: with_attribute(good, "n_steps", "many"), "no model can be built"),
    "network too large": (lambda good: with_attribute(good, "policy_kwargs", {"net_arch": [30_000] * 3}), "net_arch"),
    "policy_kwargs no dictionary": (lambda good: with_attribute(good, "policy_kwargs", [1]), "no model can be built"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_is_named(name: str, saved: bytes, tmp_path: Path) -> None:
    """A damaged file ends within the time limit in an error that names it and what is wrong with it."""
    damage, message = DAMAGED[name]
    path = tmp_path / "model.zip"
    path.write_bytes(damage(saved))
    started = time.perf_counter()
    with pytest.raises(DamagedFileError, match=message) as error:
        EduPPO.load(path, device="cpu", trusted=False)
    assert time.perf_counter() - started < TIME_LIMIT
    assert str(path) in str(error.value)
    assert "expected" in str(error.value)


def test_duplicate_member_is_refused(saved: bytes, tmp_path: Path) -> None:
    """Two members of one name are refused, since one might be checked and the other loaded."""
    path = tmp_path / "model.zip"
    with pytest.warns(UserWarning, match="Duplicate"):
        path.write_bytes(archive_of([*members_of(saved).items(), ("data", b"{}")]))
    with pytest.raises(DamagedFileError, match="two members named 'data'"):
        EduPPO.load(path, device="cpu", trusted=False)


def test_absent_file_and_folder(tmp_path: Path) -> None:
    """A file that is not there, and a folder in its place, are named."""
    with pytest.raises(FileNotFoundError, match=r"absent.*no such file"):
        EduPPO.load(tmp_path / "absent", device="cpu", trusted=False)
    with pytest.raises(DamagedFileError, match=r"cannot be read \(Is a directory\)"):
        EduPPO.load(tmp_path, device="cpu", trusted=False)
    with pytest.raises(FileNotFoundError, match=r"absent.pkl.*no such file"):
        load_statistics(tmp_path / "absent.pkl", make_walk(), trusted=False)


def test_environment_with_other_spaces_is_refused(saved: bytes) -> None:
    """An environment whose spaces are not the model's is refused, with both named by SB3; the file is not blamed."""
    with pytest.raises(ArgumentError, match="Observation spaces do not match"):
        EduPPO.load(io.BytesIO(saved), env=make_walk("discrete"), device="cpu", trusted=False)


def test_compressed_archive_is_read(saved: bytes) -> None:
    """A model's file that was packed again with compression is still read."""
    packed = archive_of(list(members_of(saved).items()), zipfile.ZIP_DEFLATED)
    assert EduPPO.load(io.BytesIO(packed), device="cpu", trusted=False).num_timesteps == 16
