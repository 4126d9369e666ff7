"""
The process from which submissions start. The grader starts it with this file's path, so that it does not hold the package.

It loads Python and torch once, then forks for each request. It never sees what a request says: it only hands on three open
files, from which the child reads and to which it writes. So no child can find another submission, another's result or
anything of the grader's in its memory, whatever it does there; and all that comes out is numbers, which the grader judges
elsewhere.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

PACKAGE = Path(__file__).resolve().parent.parent
MODULES = ("confinement", "forms", "slicing", "system_calls", "exercises/observing")
"""Of this folder: all that a child has of the package."""


def load(path: Path) -> ModuleType:
    """Load a module by its path, without its package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


class NoPackage(MetaPathFinder):
    """
    Refuses in words to import what has the answers; where files are confined, they are not to be read either.

    :param hidden: how such names begin
    """

    def __init__(self, hidden: tuple[str, ...]) -> None:
        self.hidden = hidden

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """
        Refuse the package, and leave all else to others.

        :raises ImportError: for the package
        """
        if name.split(".")[0] in self.hidden:
            raise ImportError(f"{name}: answers are graded without this package; write them yourself")


class Worker:
    """
    Forks for each request.

    :param modules: of the package, by their names
    """

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self.modules = modules
        self.rules = modules["confinement"].file_rules(modules["confinement"].readable_places(PACKAGE))

    def serve(self, control: socket.socket) -> None:
        """
        Fork whenever three files come: the request, where to write the answer, where to print. End the child when told to.

        :param control: the grader's
        """
        while True:
            message, files, _, _ = socket.recv_fds(control, 1, 3)
            if not message:
                return
            child = os.fork()
            if child == 0:
                control.close()
                self.be_the_child(*files)
            for file in files:
                os.close(file)
            told = control.recv(1)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
            _, ended = os.waitpid(child, 0)
            if not told:
                return
            control.sendall(ended.to_bytes(4, "little"))

    def be_the_child(self, reading: int, writing: int, printing: int) -> NoReturn:
        """Read the request, answer it, and end, whatever happens."""
        try:
            os.setsid()
            self.modules["confinement"].end_with_parent()
            with open(reading, encoding="utf-8") as file:
                request = json.load(file)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for descriptor in (1, 2):
                os.dup2(printing, descriptor)
            os.close(printing)
            self.confine(request["limits"], writing)
            # Standard streams are text, and full lines go out at once.
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False, encoding="utf-8")
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, encoding="utf-8")
            data = json.dumps(self.answer(request)).encode()
            while data:
                data = data[os.write(writing, data) :]
        finally:
            os._exit(0)

    def confine(self, limits: dict[str, int], writing: int) -> None:
        """
        Leave this process what a function of numbers needs, and nothing else.

        :param limits: arguments of ``limit_resources``
        :param writing: the one file that stays open, beside the standard ones and the rules
        """
        confinement = self.modules["confinement"]
        kept = {writing, self.rules}
        for descriptor in range(3, 256):
            if descriptor not in kept:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")  # where memory is scarce, this process goes first
        confinement.limit_resources(**limits)
        if self.rules is not None:
            confinement.confine_files(self.rules)
        confinement.drop_capabilities()
        if not self.modules["system_calls"].confine_calls():
            confinement.refuse_sockets()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """
        Do what is asked for: try the confinement, read a submission, or run one function of it.

        :param request: with "do"
        """
        if request["do"] == "probe":
            return {"holes": self.modules["confinement"].holes(Path(__file__))}
        slicing = self.modules["slicing"]
        found = slicing.statements(request["cells"])
        if request["do"] == "read":
            defined = {name for one in found for name in slicing.names_defined(one)}
            slices = {name: slicing.slice_for(name, found) for name in sorted(defined.intersection(request["names"]))}
            return {"forms": {name: self.modules["forms"].forms(module.body) for name, module in slices.items()}}
        return answer_one(request, found, slicing, self.modules["observing"])


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


def main() -> None:
    """Load what all submissions need, and wait for requests."""
    control = socket.socket(fileno=os.dup(0))
    modules = {Path(name).name: load(PACKAGE / "course" / f"{name}.py") for name in MODULES}
    sys.meta_path.insert(0, NoPackage(modules["confinement"].HIDDEN))
    import torch

    torch.set_num_threads(1)
    Worker(modules).serve(control)
    os._exit(0)  # torch takes its time to tidy up


if __name__ == "__main__":
    main()
