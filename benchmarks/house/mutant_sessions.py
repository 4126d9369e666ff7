"""One session of tests, in a fork of a process that has imported torch already: that saves seconds each time."""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mutant_drawing import ROOMS

PACKAGE = "sb3_ppo_edu"

MEMORY = 16 * 2**30
"""Bytes of address space that a session may take: a mutant that never stops appending takes no more."""


def preload(root: Path) -> None:
    """Import what every session needs and no mutant changes, with the tests' own settings."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    runpy.run_path(str(root / "tests" / "conftest.py"))
    for name in ("stable_baselines3", "gymnasium", "coverage", "pytest_cov", "pytest_timeout", "_hypothesis_pytestplugin"):
        importlib.import_module(name)


HOUR = 3600.0
"""Seconds that a session may take."""


class Watch:
    """
    A plugin of pytest that chooses tests and writes down what they do.

    :param wanted: the tests to run, in this order; None for all
    :param cpu: seconds of processor time that a test may take
    :param tracer: notes the lines that each test reaches, if somebody wants to know
    """

    def __init__(self, wanted: Sequence[str] | None, cpu: int, tracer: Any = None) -> None:
        self.wanted, self.cpu, self.tracer, self.test, self.begin = wanted, cpu, tracer, "", 0.0
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep the tests that are wanted."""
        if self.wanted is not None:
            by_name = {item.nodeid: item for item in items}
            items[:] = [by_name[name] for name in self.wanted if name in by_name]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """What is reached from here on is reached by this test."""
        self.begin = processor_time()
        limit = int(time.process_time()) + self.cpu
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        self._reached_by(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """What is reached from here on is reached by all."""
        self.seconds[nodeid] = round(processor_time() - self.begin, 3)
        self._reached_by("")

    def pytest_fixture_setup(self, fixturedef: Any) -> None:
        """What a fixture of several tests reaches is reached by all."""
        if fixturedef.scope != "function" and self.tracer:
            self.tracer.switch_context("")

    def pytest_runtest_call(self) -> None:
        """The fixtures stand: back to the test."""
        self._reached_by(self.test)

    def _reached_by(self, test: str) -> None:
        self.test = test
        if self.tracer:
            self.tracer.switch_context(test)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note whether a test failed."""
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        """Note a file that cannot be imported."""
        if report.failed:
            self.failed.append(report.nodeid)


def processor_time() -> float:
    """Seconds that this process and those that it has waited for have computed, however busy the machine was."""
    return sum(os.times()[:4])


@dataclass
class Session:
    """
    What became of a session.

    :param failed: the tests that failed, the first one first; if the process died, what ended it
    :param seconds: of processor time that each test took
    :param lines: for each file of the rooms, by line, the tests that reach it, "" for all
    """

    failed: list[str]
    seconds: dict[str, float]
    lines: dict[str, dict[str, list[str]]]


def inside(root: Path, arguments: Sequence[str], wanted: Sequence[str] | None, cpu: int, trace: bool) -> Session:
    """Run pytest in this process, which is a fork with nothing else to do."""
    import coverage
    import pytest

    tracer: Any = None
    if trace:
        tracer = coverage.Coverage(data_file=None, config_file=False, include=[f"{root}/{PACKAGE}/{room}/*" for room in ROOMS])
        tracer.start()
    watch = Watch(wanted, cpu, tracer)
    code = pytest.main([*arguments], plugins=[watch])
    lines: dict[str, dict[str, list[str]]] = {}
    if tracer:
        tracer.stop()
        data = tracer.get_data()
        for path in data.measured_files():
            reached = {str(line): tests for line, tests in data.contexts_by_lineno(path).items()}
            lines[Path(path).relative_to(root / PACKAGE).as_posix()] = reached
    if code not in (0, 1, 5) and not watch.failed:
        watch.failed = [f"pytest exits with {int(code)}"]
    return Session(watch.failed, watch.seconds, lines)


def options(folder: Path) -> list[str]:
    """Give pytest's options: a test that waits for ever is stopped by it, one that computes for ever by the limit."""
    return ["-q", "--tb=short", "-m", "not slow", "-p", "no:cacheprovider", "--timeout", "600", f"--basetemp={folder / 't'}"]


def fresh_session(root: Path, folder: Path, file: str, cpu: int, without: Sequence[str]) -> str:
    """
    Run a test file up to its first failing test in a process that no fork has prepared, as everybody does.

    :param root: of a scratch copy
    :param folder: for what the session leaves
    :param file: the test file
    :param cpu: seconds of processor time that it may take
    :param without: tests that fail anyway
    :return: the test that failed, or what else happened; empty if all pass
    """
    command = [sys.executable, "-m", "pytest", *options(folder), "-x", "-rfE", file]
    command += [option for test in without for option in ("--deselect", test)]
    limit = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_CPU, ({cpu}, {cpu + 5})); "
    command[1:3] = ["-c", limit + "sys.argv[0] = 'pytest'; runpy.run_module('pytest', run_name='__main__')"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=HOUR)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    failed: list[str] = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, flags=re.MULTILINE)
    if process.returncode in (0, 5):
        return ""
    return failed[0] if failed else f"{file} ends with {process.returncode}"


def session(root: Path, folder: Path, wanted: Sequence[str] | str, cpu: int, trace: bool) -> Session:
    """
    Run tests in a fork of this process.

    :param root: of a scratch copy
    :param folder: for what the session leaves
    :param wanted: a test file, all of whose tests run; or tests of one file, which run in this order
    :param cpu: seconds of processor time that a test, or importing what it needs, may take
    :param trace: whether to note the lines that each test reaches; if not, the first failing test is the last
    :return: what became of it
    """
    file, chosen = (wanted, None) if isinstance(wanted, str) else (wanted[0].partition("::")[0], wanted)
    arguments = [*options(folder), *(() if trace else ("-x",)), file]
    result = folder / "session.json"
    result.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for to, source in ((0, nothing), (1, output), (2, output)):
                os.dup2(source, to)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu, resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            os.chdir(root)
            os.environ["PYTHONPATH"] = str(root)
            sys.path.insert(0, str(root))
            found = inside(root, arguments, chosen, cpu, trace)
            result.write_text(json.dumps(asdict(found)), encoding="utf-8")
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    end, status = time.monotonic() + HOUR, None
    try:
        while status is None and time.monotonic() < end:
            time.sleep(0.05)
            ended, code = os.waitpid(child, os.WNOHANG)
            status = code if ended else None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # and what its tests have started
        if status is None:
            os.waitpid(child, 0)
    if result.exists():
        return Session(**json.loads(result.read_text(encoding="utf-8")))
    ended_by = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else 0
    if status is None or ended_by in (signal.SIGXCPU, signal.SIGKILL):
        why = "the time was up"
    else:
        why = signal.Signals(ended_by).name if ended_by else "the process ended"
    return Session([f"{why} in {file}"], {}, {})
