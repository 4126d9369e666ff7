"""
What only Linux has, and what becomes of it elsewhere: a sentence, or a way that other systems have.

Nothing here runs on macOS or Windows; .github/workflows does. What they lack is taken away instead, see ``like_windows``.
"""

from __future__ import annotations

import ast
import errno
import io
import math
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch.distributed as dist

from sb3_ppo_edu import zoo
from sb3_ppo_edu.cli.printing import quoted, typed
from sb3_ppo_edu.cli.streams import standard_streams
from sb3_ppo_edu.course import confinement
from sb3_ppo_edu.course.grading import grade_folder
from sb3_ppo_edu.distributed import affinity, process_group
from sb3_ppo_edu.envs import backends
from sb3_ppo_edu.lab.speed.watches import memory_mib
from sb3_ppo_edu.vec_env import shared_memory, workers

PROJECT = Path(__file__).resolve().parent.parent
ON_WINDOWS = """
from tests.like_windows import become
become()
from sb3_ppo_edu.cli import main
sizes = "--n-steps 32 --n-envs 2 --batch-size 32 --n-epochs 1 --eval-freq 96 --checkpoint-freq 64".split()
ends = "--eval-episodes 1 --no-replay".split()
print(main(["train", "--env", "CartPole-v1", "--steps", "128", "--folder", "runs", "--name", "a", "--doctor", *sizes, *ends]))
print(main(["resume", "runs/a", "--steps", "256", *ends]))
print(main(["evaluate", "runs/a", "--episodes", "1"]))
print(main(["doctor", "runs/a"]))
print(main(["train", "--env", "CartPole-v1", "--folder", "runs", "--name", "b", "--policy-kwargs", "dict(no=1)"]))
"""


def is_text_without_encoding(call: ast.Call) -> bool:
    """Tell whether a call opens a text file in whatever encoding the system has."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    owner = getattr(getattr(call.func, "value", None), "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or name not in ("open", "fdopen", "read_text", "write_text", "TemporaryFile", "NamedTemporaryFile"):
        return False
    if name in ("read_text", "write_text"):
        return True
    if owner in ("os", "tarfile") and name == "open":
        return False
    place = 0 if "Temporary" in name or (name == "open" and owner) else 1
    mode = given.get("mode", call.args[place] if len(call.args) > place else None)
    if mode is None:
        return "Temporary" not in name  # whose own default is bytes
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


@pytest.mark.parametrize("folder", ["sb3_ppo_edu", "benchmarks", "docs"])
def test_text_files_have_an_encoding(folder: str) -> None:
    """No file is opened as text in the system's encoding, which Windows has as cp1252."""
    found = []
    for path in (PROJECT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and is_text_without_encoding(node):
                found.append(f"{path.relative_to(PROJECT)}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("path.open('x')", True),
        ("path.read_text()", True),
        ("open(path, 'rb')", False),
        ("path.open('xb')", False),
        ("os.open(path, flags)", False),
        ("path.write_text(text, encoding='utf-8')", False),
    ],
)
def test_missing_encodings_are_found(code: str, found: bool) -> None:
    """Text in either mode and by either way; bytes and descriptors have none."""
    (statement,) = ast.parse(code).body
    assert is_text_without_encoding(statement.value) is found  # type: ignore[attr-defined]


def test_training_where_windows_is(tmp_path: Path) -> None:
    """
    Training, checkpoints, resuming, evaluating and the doctor work where there is nothing of what only POSIX has.

    Open files are neither renamed nor deleted there, text is ASCII unless said otherwise (stricter than cp1252), and the
    output's letters are cp1252's. A run that cannot start is refused in a sentence and leaves no folder.
    """
    words = {
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "cp1252",
        "SB3_EDU_KERNELS": "off",
    }
    environment = {**os.environ, **words, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", ON_WINDOWS], cwd=tmp_path, env=environment, capture_output=True, check=False)
    said = done.stderr.decode("cp1252")
    assert done.returncode == 0 and "Traceback" not in said, said
    codes = [line for line in done.stdout.decode("cp1252").splitlines() if line.isdigit()]
    assert codes == ["0", "0", "0", "0", "2"], said
    assert "sb3-edu train: error: " in said
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]
    names = [path.name for path in (tmp_path / "runs").rglob("*")]
    assert "model.zip" in names and not any(set(name) & set('<>:"|?*\\') for name in names)


def test_grading_is_refused_where_code_cannot_be_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fork or resource limits no submission is run."""
    (tmp_path / "a.ipynb").write_text('{"cells": [], "metadata": {}}', encoding="utf-8")
    monkeypatch.delattr(os, "fork")
    with pytest.raises(ValueError, match="grading runs strangers' code within limits that linux does not have"):
        grade_folder(tmp_path, [], tmp_path)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(ValueError, match="expected Linux, which confines it best, or macOS"):
        grade_folder(tmp_path, [], tmp_path)


def test_limits_that_macos_does_not_take_leave_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory cannot be limited, time and files are."""
    taken = []

    def setrlimit(which: int, limits: tuple[int, int]) -> None:
        if which == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        taken.append(which)

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    confinement.limit_resources(1, 1, 1)
    assert taken == [resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NOFILE]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert confinement.file_rules([]) is None


def test_memory_is_unknown_where_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc the system's own count, in bytes on macOS and in KiB elsewhere; without that nan."""
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    counted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert memory_mib(peak=True) >= counted / 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert counted / 1024**2 <= memory_mib(peak=True) < counted / 1024
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(memory_mib(peak=False))


def test_processes_are_spawned_where_there_is_no_forkserver(monkeypatch: pytest.MonkeyPatch) -> None:
    """By every backend with processes of its own, and none is held to a processor."""
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert workers.context_of(None).get_start_method() == "spawn"
    asked: dict[str, Any] = {}
    monkeypatch.setattr(backends, "BoundedAsyncVectorEnv", lambda *_, **given: asked.update(given))
    monkeypatch.setattr(backends, "EnvProcesses", lambda *_, **__: None)
    backends.gymnasium_async([])
    assert asked["context"] == "spawn"
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    places: list[Any] = []
    monkeypatch.setattr(shared_memory, "ShareWorker", lambda env_fns, context, timeout, place: places.append(place))
    monkeypatch.setattr(shared_memory, "shut", lambda *_: None)
    made = shared_memory.SharedMemoryVecEnv([lambda: gym.make("CartPole-v1")] * 2)
    assert [place.cpu for place in places] == [None]
    made.close()


def test_several_processes_meet_without_libuv(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch for Windows has none; the processors and threads that only Linux tells are no part of the meeting."""
    asked: dict[str, Any] = {}

    def store(*_: Any, **given: Any) -> None:
        asked.update(given)
        raise dist.DistError("nobody")

    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process_group, "TCPStore", store)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(process_group.LostProcessError, match="found nobody"):
        process_group.join(rendezvous_timeout=0.1)
    assert asked["use_libuv"] is False
    for name in ("sched_getaffinity", "sched_setaffinity", "sched_setscheduler", "SCHED_BATCH"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(affinity, "thread_names", dict)
    affinity.schedule_gloo_as_batch()
    affinity.set_own_affinity(["a []", "a []"], 0)


def test_what_is_printed_can_be_typed_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the quotes of its shell; a program on another drive by its whole path."""

    def on_another_drive(path: object) -> str:
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr(os.path, "relpath", on_another_drive)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "executable", "/a place/python")
    monkeypatch.setenv("PATH", "")
    assert typed("tensorboard") == '"/a place/tensorboard"'
    assert quoted(Path("runs/a b")) == '"runs/a b"'


class Gone(io.TextIOWrapper):
    """A pipe whose reader has gone, as Windows tells it."""

    gone = True

    def flush(self) -> None:
        """Find the argument invalid."""
        if self.gone:
            raise OSError(errno.EINVAL, "Invalid argument")


def test_a_reader_may_leave_on_windows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is an invalid argument; elsewhere such an error is one."""
    for platform in ("linux", "win32"):
        with (tmp_path / "out").open("wb", buffering=0) as file:
            pipe = Gone(file, encoding="utf-8")
            monkeypatch.setattr(sys, "stdout", pipe)
            monkeypatch.setattr(sys, "platform", platform)
            try:
                with standard_streams():
                    print("to nobody")
                assert platform == "win32"
            except OSError:
                assert platform == "linux"
            finally:
                monkeypatch.undo()
                pipe.gone = False
                pipe.detach()


def test_letters_that_an_output_lacks_are_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in cp1252 has no λ; a training whose output goes there goes on."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    with standard_streams():
        print("λ ± 1", flush=True)
    assert written.getvalue().decode("cp1252").strip() == "? ± 1"


def test_ffmpeg_is_copied_where_links_are_for_administrators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What imageio brings stands on the PATH under the name that Windows looks for."""
    program = tmp_path / "ffmpeg-win-x86_64-v7.exe"
    program.write_bytes(b"program")
    brought = type("imageio_ffmpeg", (), {"get_ffmpeg_exe": staticmethod(lambda: str(program))})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("importlib.import_module", lambda name: brought)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "platform", "win32")
    with zoo._ffmpeg():
        first = Path(os.environ["PATH"].split(os.pathsep)[0])
        assert [(path.name, path.read_bytes(), path.is_symlink()) for path in first.iterdir()] == [
            ("ffmpeg.exe", b"program", False)
        ]
