"""The sandbox: an attack costs its own points and reaches nothing, neither what it needs to cheat nor what is others'."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sb3_ppo_edu.course import confinement, system_calls
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.observing import case_to_json
from sb3_ppo_edu.course.grading import verdict_on
from sb3_ppo_edu.course.sandbox import Limits, Sandbox

LIMITS = Limits(wall_seconds=20.0, cpu_seconds=4, memory=300 << 20, output=100_000)
CONFINED = pytest.mark.skipif(
    not sys.platform.startswith("linux") or confinement.file_rules([]) is None, reason="needs Linux with Landlock and seccomp"
)
RIGHT = "    return ((ratio - 1).abs() > clip_range).float().mean()"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One worker for all attacks, each of which would be seen by those that follow."""
    with Sandbox(LIMITS) as one:
        yield one


def attempt(sandbox: Sandbox, body: str) -> tuple[bool, str]:
    """
    Hand in a function that tries something before it returns the right number.

    :param body: Python; "PACKAGE" stands for the package's folder
    :return: whether it has its points, and what it printed
    """
    lines = body.replace("PACKAGE", str(Path(confinement.__file__).parents[1])).splitlines()
    cell = "\n".join(["import torch", "def clip_fraction(ratio, clip_range):", *(f"    {line}" for line in lines), RIGHT])
    exercise = EXERCISES["clip_fraction"]
    cases = [case_to_json(case) for case in exercise.cases(7)]
    outcome = sandbox.ask({"do": "run", "name": exercise.name, "cells": [cell], "cases": cases})
    return verdict_on(exercise.name, outcome, 7, "").passed, str(outcome["printed"])


REFUSED = {
    "reads the reference": "open('PACKAGE/course/exercises/objectives.py').read()",
    "imports the reference": "import sys; sys.meta_path[:] = sys.meta_path[1:]\nimport sb3_ppo_edu.course.exercises.catalogue",
    "loads the reference by its path": "import runpy; runpy.run_path('PACKAGE/course/exercises/catalogue.py')",
    "imports a ready-made PPO": "import stable_baselines3",
    "reads its own worker": "import sys; open(sys.modules['__main__'].__file__).read()",
    "lists the processes": "import os; os.listdir('/proc')",
    "reads its parent's command line": "import os; open(f'/proc/{os.getppid()}/cmdline').read()",
    "reads its parent's environment": "import os; open(f'/proc/{os.getppid()}/environ').read()",
    "reads its parent's memory": "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
    "reads who has an account": "open('/etc/passwd').read()",
    "reads a folder of others": "import os; os.listdir('/tmp')",
    "writes beside itself": "open('mine', 'w')",
    "writes into the libraries": "import torch, os; open(os.path.join(os.path.dirname(torch.__file__), 'x.pth'), 'w')",
    "writes for others": "open('/dev/shm/mine', 'w')",
    "starts a process": "import os; os.fork()",
    "starts a command": "import subprocess; subprocess.run(['true'])",
    "becomes a command": "import os; os.execv('/bin/true', ['true'])",
    "kills its parent": "import os; os.kill(os.getppid(), 9)",
    "kills its parent's group": "import os; os.killpg(os.getpgid(os.getppid()), 9)",
    "limits its parent": "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
    "slows its parent": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "raises its own limits": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))",
    "opens more files": "held = [open('/dev/null') for _ in range(1000)]",
    "opens a socket": "import _socket; _socket.socket()",
    "changes rights": "import os; os.chmod('/tmp', 0o1777)",
    "leaves a message": (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.shmget(1234, 4096, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'shmget')"
    ),
    "traces its parent": (
        "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.ptrace(16, os.getppid(), 0, 0) < 0: raise OSError(ctypes.get_errno(), 'ptrace')"
    ),
    "ends its process": "import os; os._exit(0)",
    "asks another architecture": (
        "import ctypes, mmap\n"
        "code = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes.fromhex('b814000000cd80c3'))\n"  # getpid by i386's number
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()"
    ),
}
"""Each of these raises or ends, so the right number behind it never comes."""


@CONFINED
@pytest.mark.parametrize("what", sorted(REFUSED))
def test_is_refused(sandbox: Sandbox, what: str) -> None:
    """Nothing of the grader's or of others can be read, written, signalled or slowed, and no process starts."""
    assert attempt(sandbox, REFUSED[what])[0] is False
    assert attempt(sandbox, "pass")[0] is True


def test_does_what_honest_ones_do(sandbox: Sandbox) -> None:
    """Libraries, threads, temporary text, random numbers and warnings are at hand."""
    honest = (
        "import io, json, math, random, threading, warnings, scipy.signal, numpy as np\n"
        "one = threading.Thread(target=print, args=('hello',)); one.start(); one.join()\n"
        "np.random.default_rng().normal(); random.random(); torch.rand(3); warnings.warn('careful')\n"
        "open('/dev/null', 'w').write('x')"
    )
    passed, printed = attempt(sandbox, honest)
    assert passed, printed
    assert "hello" in printed


@CONFINED
def test_memory_holds_nothing_of_others(sandbox: Sandbox) -> None:
    """A process's whole memory is searched for a text of an earlier submission: the worker never saw it."""
    secret = "the_answer_of_ada"
    attempt(sandbox, f"{secret} = 1")
    search = (
        "import gc\nwanted = '_'.join(['the', 'answer', 'of', 'ada'])\n"
        "held = [part for one in gc.get_objects() if type(one) in (dict, list, tuple)\n"
        "        for part in (one.values() if type(one) is dict else one) if type(part) is str]\n"
        "print(any(wanted in text for text in held))"
    )
    passed, printed = attempt(sandbox, search)
    assert passed and "True" not in printed and "False" in printed


def test_system_calls_are_those_of_the_headers() -> None:
    """The numbers of the list are those that this system's headers give, for both architectures, where they are installed."""
    headers = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))
    if not all(header.exists() for header in headers):
        pytest.skip("no headers of Linux")
    for column, header in enumerate(headers):
        words = [line.split() for line in header.read_text(encoding="ascii").splitlines() if line.startswith("#define __NR_")]
        numbers = {word[1].removeprefix("__NR_"): word[2] for word in words if len(word) == 3}
        for name, both in system_calls.REFUSED.items():
            assert str(both[column]) == numbers.get(name, "None"), name


FORGED = {
    "huge": '{"status": "observed", "observations": [{"case": "x", "kind": "", "shape": [], "values": [1' + "0" * 400 + "]}]}",
    "deep": "[" * 100_000,
    "shape": '{"status": "observed", "observations": [{"shape": [3, 1e999]}]}',
    "list": "[1]",
    "status": '{"status": {"a": 1}, "message": 5}',
}


@pytest.mark.parametrize("what", sorted(FORGED))
def test_forged_results_do_not_stop_the_grader(sandbox: Sandbox, what: str) -> None:
    """Whatever is written in a result's place is worth no points, and no exception of the grader's."""
    write = f"try: os.write(fd, {FORGED[what]!r}.encode())"
    forge = f"import os\nfor fd in range(3, 64):\n    {write}\n    except OSError: pass\nos._exit(0)"
    assert attempt(sandbox, forge)[0] is False


@pytest.mark.parametrize("name", ["cells", "numbers"])
def test_bombs_of_text_are_survived(sandbox: Sandbox, name: str) -> None:
    """A submission that is hard to parse is parsed where it harms nobody."""
    cell = {"cells": "x = " + "(" * 50_000, "numbers": "def clip_fraction(a, b):\n    return " + "-" * 200_000 + "1"}[name]
    assert sandbox.ask({"do": "read", "cells": [cell], "names": ["clip_fraction"]}).get("forms", {}) in ({}, None)
    assert attempt(sandbox, "pass")[0] is True


GRADER = """
from sb3_ppo_edu.course.sandbox import Sandbox
sandbox = Sandbox()
print(sandbox.process.pid, flush=True)
cell = "def f():\\n    import signal, time\\n    signal.signal(15, signal.SIG_IGN)\\n    time.sleep(1000)"
sandbox.ask({"do": "run", "name": "f", "cells": [cell], "cases": [{"name": "", "differentiable": [], "arguments": []}]})
"""


def children(parent: int) -> list[int]:
    """List the processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


@CONFINED
def test_nothing_is_left_behind() -> None:
    """A submission's process ends with the worker, and the worker with the grader, even where that one is killed."""
    grader = subprocess.Popen([sys.executable, "-c", GRADER], stdout=subprocess.PIPE, text=True)
    assert grader.stdout is not None
    worker = int(grader.stdout.readline())
    until = time.monotonic() + 60.0
    while not (running := children(worker)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(running) == 1
    grader.kill()
    grader.communicate()
    while any(Path(f"/proc/{one}").exists() for one in (worker, *running)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{one}").exists() for one in (worker, *running))


def test_a_killed_worker_is_replaced(sandbox: Sandbox) -> None:
    """Where memory was short and the worker was killed, the next request starts another, and nobody loses points."""
    os.kill(sandbox.process.pid, signal.SIGKILL)
    assert attempt(sandbox, "pass")[0] is True
