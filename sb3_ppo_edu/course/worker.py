"""
The process in which submissions run. Started by the grader with this file's path, it does not import the package.

It reads one JSON object from standard input (sources of the code cells, exercises with their inputs, limits) and writes one
line of JSON for each exercise. Each runs in a child of its own: whatever a submission does to Python, to torch or to itself
ends with that child, and all that comes out is numbers, which the grader judges elsewhere.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import importlib.util
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

PACKAGE = "sb3_ppo_edu"
MOST_BYTES = 4 << 20
"""Of numbers from one exercise."""
TAIL = 2000
"""Characters of what a submission printed that are kept."""


def load(path: Path) -> ModuleType:
    """Load a module by its path, without its package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


class NoPackage(MetaPathFinder):
    """Refuses to import the package whose functions are asked for."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """
        Refuse the package, and leave all else to others.

        :raises ImportError: for the package
        """
        if name.split(".")[0] == PACKAGE:
            raise ImportError(f"{name}: answers are graded without the package; write them yourself")


def answer_one(task: dict[str, Any], statements: Any, slicing: ModuleType, observing: ModuleType) -> dict[str, Any]:
    """
    Define one function and run it on its inputs.

    :param task: name and cases
    :param statements: of the submission
    :param slicing: the module
    :param observing: the module
    :return: observations, or what is wrong
    """
    module = slicing.slice_for(task["name"], statements)
    if module is None:
        return {"status": "missing"}
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    problems = []
    for statement in module.body:
        # One by one: what fails may not be needed after all, and if it is, the call will say so.
        try:
            part = ast.Module([statement], type_ignores=[])
            exec(
                compile(part, "<submission>", "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True), namespace
            )
        except BaseException as error:
            problems.append(f"{type(error).__name__}: {error}")
    if task["name"] not in namespace:
        return {"status": "undefined", "message": "; ".join(problems)[:500]}
    answer = namespace[task["name"]]
    cases = [observing.case_from_json(case) for case in task["cases"]]
    return {"status": "observed", "observations": [one.to_json() for one in observing.observe(answer, cases)]}


def run_child(task: dict[str, Any], setup: dict[str, Any], modules: dict[str, ModuleType], statements: Any) -> dict[str, Any]:
    """
    Run one exercise in a child, within its limits.

    :param task: name and cases
    :param setup: limits
    :param modules: loaded by their paths
    :param statements: of the submission
    :return: what came of it
    """
    printed = Path(f"printed-{task['name']}.txt")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_the_child(task, setup, modules, statements, printed, writing)
    os.close(writing)
    text = _read(reading, time.monotonic() + setup["wall_seconds"])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, ended = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        tail = printed.read_bytes()[-TAIL:].decode(errors="replace")
    if text is None:
        return {"status": "too long", "printed": tail}
    try:
        result = json.loads(text)
        return {**result, "printed": tail} if isinstance(result, dict) else {"status": "killed", "printed": tail}
    except ValueError:
        cause = "too long" if os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGXCPU else "killed"
        return {"status": cause, "printed": tail}


def _be_the_child(
    task: dict[str, Any], setup: dict[str, Any], modules: dict[str, ModuleType], statements: Any, printed: Path, writing: int
) -> NoReturn:
    """Run the submission's code and end, whatever happens."""
    try:
        os.setsid()
        sink = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(sink, descriptor)
        # The grader's end of things is none of the submission's business.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(3, writing)
        os.closerange(writing + 1, 256)
        modules["confinement"].limit_resources(setup["cpu_seconds"], setup["memory"], setup["output"])
        # Standard streams are text, and full lines go out at once.
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False, encoding="utf-8")
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, encoding="utf-8")
        result = answer_one(task, statements, modules["slicing"], modules["observing"])
        data = json.dumps(result).encode()
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)


def _read(descriptor: int, until: float) -> bytes | None:
    """Read all that a child writes, but not for ever and not without end."""
    parts, size = [], 0
    try:
        while size <= MOST_BYTES:
            ready, _, _ = select.select([descriptor], [], [], max(until - time.monotonic(), 0.0))
            if not ready:
                return None
            part = os.read(descriptor, 1 << 16)
            if not part:
                break
            parts.append(part)
            size += len(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


def main() -> None:
    """Read the setup, confine this process, and run one exercise after the other."""
    setup = json.load(sys.stdin)
    here = Path(__file__).resolve().parent
    paths = (here / "confinement.py", here / "slicing.py", here / "exercises" / "observing.py")
    modules = {path.stem: load(path) for path in paths}
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.meta_path.insert(0, NoPackage())
    places = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev", sys.prefix, sys.base_prefix]
    confined = modules["confinement"].confine_files(os.getcwd(), places)
    if not setup["network_namespace"]:
        modules["confinement"].refuse_sockets()
    import torch

    torch.set_num_threads(1)
    statements = modules["slicing"].statements(setup["cells"])
    print(json.dumps({"files_confined": confined}), file=results, flush=True)
    for task in setup["tasks"]:
        outcome = run_child(task, setup, modules, statements)
        print(json.dumps({"exercise": task["name"], **outcome}), file=results, flush=True)


if __name__ == "__main__":
    main()
