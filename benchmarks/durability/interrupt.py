"""Interrupt ``sb3-edu train`` and ``resume`` a hundred times, move and copy the run in between, compare what it comes to.

``python benchmarks/durability/interrupt.py --stops 100`` trains small cases to the end, each in a process that nobody
disturbs. Then it starts the same trainings and stops each once or twice at drawn moments: while it starts, at a step, while it
evaluates. Drawn are SIGKILL, SIGTERM, SIGHUP, Ctrl-C once and three times, sent to the process alone or to its group, as
terminals do. In between the run stays where it is, is moved, or is copied, and the copy goes on; ``resume`` is called
from the folder beside it, from the run itself, from elsewhere and by its absolute path. At the end parameters, optimizer,
``progress.csv`` (clocks aside), evaluations and episodes have to be those of the undisturbed training, and what was copied
from has to be unchanged byte for byte. Rows go to ``interrupt.csv``, tables to ``interrupt.md``.

Most processes are forked from this one, which has imported what they need; one training in ``--fresh`` is started anew.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

# Read when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every optimizer imports it, which takes longer than a training here: once, before processes are forked.
from torch import _dynamo  # noqa: F401

from sb3_ppo_edu.cli import main as command_line
from sb3_ppo_edu.lab import plots  # noqa: F401
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.training.compare import contents
from sb3_ppo_edu.training.run import trained_steps
from sb3_ppo_edu.training.settings import versions

# Environments in processes of their own are forked from one that has imported what they need.
multiprocessing.set_forkserver_preload(["sb3_ppo_edu.training.run"])

STEPS = 1200
TRAIN = ["--steps", str(STEPS), "--n-envs", "2", "--n-steps", "64", "--batch-size", "32", "--n-epochs", "2"]
TRAIN += ["--checkpoint-freq", "100", "--eval-freq", "500", "--eval-episodes", "2", "--no-replay", "--seed", "3"]
RESUME = ["--eval-episodes", "2", "--no-replay"]
CASES = {
    "CartPole, fused": ["--env", "CartPole-v1", "--engine", "fused"],
    "CartPole, workers, fused": ["--env", "CartPole-v1", "--vec-env", "workers", "--engine", "fused"],
    "LunarLanderContinuous, normalised, fused": ["--env", "LunarLanderContinuous-v3", "--normalize", "--engine", "fused"],
    "LunarLanderContinuous, normalised, autograd": [
        "--env",
        "LunarLanderContinuous-v3",
        "--normalize",
        "--engine",
        "autograd",
    ],
    "Pendulum, subproc, autograd": ["--env", "Pendulum-v1", "--vec-env", "subproc", "--engine", "autograd"],
}
SIGNALS = (("SIGKILL", 1), ("SIGTERM", 1), ("SIGHUP", 1), ("SIGINT", 1), ("SIGINT", 3))
PLACES = ("stays", "moved", "copied")
FROM = ("beside it", "in the run", "elsewhere", "absolute")
NAMES = ("b", "a run", "läuft", "-b")
DEADLINE = 300.0


@dataclass
class Stop:
    """One interruption, and what became of the training that it belongs to."""

    training: int
    case: str
    process: str
    moment: str
    signal: str
    times: int
    sent_to: str
    stopped_at: int
    exit_code: int
    then: str
    resumed_from: str
    exit_is_right: bool
    model_is_left: bool
    parameters: bool = False
    optimizer: bool = False
    progress: bool = False
    evaluations: bool = False
    episodes: bool = False
    original_unchanged: bool = True


@dataclass
class Training:
    """A run on its way: where it is now, and what it was copied from, each with its files' digests."""

    case: str
    folder: Path
    log: Path
    fresh: bool
    originals: list[tuple[Path, dict[str, str]]] = field(default_factory=list)

    def steps(self) -> int:
        """Steps of the newest checkpoint, -1 if there is none."""
        names = [path.stem.split("-")[1] for path in (self.folder / "checkpoints").glob("checkpoint-*.zip")]
        return max((int(name) for name in names if name.isdigit()), default=-1)

    def train(self) -> list[str]:
        """Give the words that start it."""
        return ["train", *CASES[self.case], *TRAIN, "--folder", str(self.folder.parent), f"--name={self.folder.name}"]

    def resume(self, where: str, elsewhere: Path) -> tuple[list[str], Path]:
        """Give the words that go on with it, and the working directory."""
        cwd = {"beside it": self.folder.parent, "in the run": self.folder, "elsewhere": elsewhere, "absolute": Path("/")}[
            where
        ]
        path = self.folder if where == "absolute" else Path(os.path.relpath(self.folder, cwd))
        return ["resume", *RESUME, "--", str(path)], cwd

    def start(self, words: list[str], cwd: Path) -> int:
        """Run ``sb3-edu`` in a process of its own group; return its number."""
        child = os.fork()
        if child:
            return child
        code: Any = 1
        try:
            os.setsid()
            os.chdir(cwd)
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            if self.fresh:
                os.execv(sys.executable, [sys.executable, "-m", "sb3_ppo_edu", *words])
            code = command_line(words)
            sys.stdout.flush()
        except SystemExit as ended:
            code = ended.code
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code if isinstance(code, int) else 1)


def wait(child: int, until: Callable[[], bool] = lambda: False) -> int | None:
    """Wait for the end of a process, or until something holds; return its exit code, negative for a signal, or None."""
    deadline = time.monotonic() + DEADLINE
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if until():
            return None
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise RuntimeError(f"process {child} did not end in {DEADLINE:g} s")
        time.sleep(0.003)


def to_the_end(training: Training, words: list[str], cwd: Path) -> None:
    """Go on, undisturbed."""
    code = wait(training.start(words, cwd))
    if code != 0:
        raise RuntimeError(
            f"sb3-edu {' '.join(words)} in {cwd}: exit code {code}; see {training.log.read_text(encoding='utf-8')[-2000:]}"
        )


def digest(folder: Path) -> dict[str, str]:
    """Give each file's contents' digest."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def result(folder: Path) -> dict[str, Any]:
    """Read what must not depend on interruptions."""
    model = folder / "model.zip"
    monitors = sorted((folder / "monitor").glob("*.csv"))
    episodes = [[row[:2] for row in csv.reader(path.read_text(encoding="utf-8").splitlines()[1:])] for path in monitors]
    return {
        "parameters": contents(model, "policy.pth"),
        "optimizer": contents(model, "policy.optimizer.pth"),
        "progress": contents(folder / "progress.csv", ""),
        "evaluations": [contents(folder / name, "") for name in ("evaluations.npz", "evaluation.json")],
        "episodes": [path.name for path in monitors] + episodes,
    }


def stop_one(training: Training, child: int, drawn: random.Random, start_takes: float, number: int) -> Stop:
    """Stop a process at a drawn moment."""
    before = training.steps()
    moment = drawn.choices(("start", "step", "end"), (15, 70, 15))[0]
    step = {"start": -1, "step": drawn.randint(min(max(before, 0), STEPS - 1), STEPS - 1), "end": STEPS}[moment]
    delay = drawn.uniform(0, {"start": start_takes, "step": 0.1, "end": 1.0}[moment])
    name, times = drawn.choice(SIGNALS)
    to_group = drawn.random() < 0.5
    code = wait(child, lambda: moment == "start" or training.steps() >= step)
    begin = time.monotonic()
    if code is None:
        code = wait(child, lambda: time.monotonic() - begin > delay)
    at = training.steps()
    if code is None:
        for _ in range(times):
            # It is not waited for before the end, so that its number stays its own.
            (os.killpg if to_group else os.kill)(child, signal.Signals[name])
            time.sleep(drawn.uniform(0, 0.05))
        code = wait(child)
        assert code is not None
    value = signal.Signals[name].value
    after = training.steps()
    # SIGKILL asks nobody; before the first step and after the last there is nothing to add to what is there.
    asked = name != "SIGKILL" and code == 128 + value and max(before, 0) < at < STEPS
    left = trained_steps(training.folder / "model.zip")
    is_left = (left >= at if times > 1 else left == after > 0) if asked else True
    return Stop(
        training=number,
        case=training.case,
        process="fresh" if training.fresh else "forked",
        moment=moment,
        signal=name,
        times=times,
        sent_to="group" if to_group else "process",
        stopped_at=after,
        exit_code=code,
        then="",
        resumed_from="",
        exit_is_right=code in (0, -value, 128 + value),
        model_is_left=is_left,
    )


def displace(training: Training, drawn: random.Random, folder: Path) -> str:
    """Move or copy the run, or leave it."""
    then = drawn.choice(PLACES)
    if not training.folder.exists() or then == "stays":
        return "stays"
    place = Path(tempfile.mkdtemp(dir=folder)) / drawn.choice(NAMES)
    if then == "moved":
        training.folder.rename(place)
    else:
        shutil.copytree(training.folder, place)
        training.originals.append((training.folder, digest(training.folder)))
    training.folder = place
    return then


def disturb(case: str, number: int, drawn: random.Random, folder: Path, start_takes: float, fresh: bool) -> list[Stop]:
    """Start a training, stop it once or twice, go on to the end; compare what was copied from."""
    place = Path(tempfile.mkdtemp(dir=folder))
    training = Training(case, place / drawn.choice(NAMES), place / "log.txt", fresh)
    words, cwd = training.train(), place
    stops: list[Stop] = []
    for _ in range(drawn.choice((1, 2))):
        stops.append(stop_one(training, training.start(words, cwd), drawn, start_takes, number))
        stops[-1].then, where = displace(training, drawn, folder), drawn.choice(FROM)
        code = None
        if training.steps() <= 0 and (training.steps() < 0 or drawn.random() < 0.5):
            # As a batch job does: train ... || resume ...
            stops[-1].resumed_from = "train, else resume"
            code = wait(training.start(training.train(), place))
            if code not in (0, 2):
                raise RuntimeError(
                    f"train after a start that was stopped: exit code {code}; see {training.log.read_text(encoding='utf-8')}"
                )
        words, cwd = training.resume(where, place)
        if code == 0:
            break
        stops[-1].resumed_from = stops[-1].resumed_from or where
    else:
        to_the_end(training, words, cwd)
    for stop in stops:
        stop.original_unchanged = all(digest(original) == files for original, files in training.originals)
        for what, value in result(training.folder).items():
            setattr(stop, what, value == UNDISTURBED[case][what])
    return stops


UNDISTURBED: dict[str, dict[str, Any]] = {}
"""What each case comes to if nobody disturbs it."""


def measure(stops: int, fresh: int, seed: int, folder: Path, report: Callable[[Stop], None]) -> list[Stop]:
    """Train undisturbed, then stop and go on, case by case in turn."""
    starts: dict[bool, float] = {}
    for case in CASES:
        for anew in (False, True) if not starts else (False,):
            place = Path(tempfile.mkdtemp(dir=folder))
            training = Training(case, place / "b", place / "log.txt", anew)
            begin = time.monotonic()
            child = training.start(training.train(), place)
            code = wait(child, lambda one=training: one.steps() >= 0)  # type: ignore[misc]
            starts.setdefault(anew, time.monotonic() - begin)
            code = wait(child) if code is None else code
            if code != 0:
                raise RuntimeError(f"{case}: exit code {code}; see {training.log.read_text(encoding='utf-8')[-2000:]}")
            found = result(training.folder)
            if UNDISTURBED.setdefault(case, found) != found:
                raise RuntimeError(f"{case}: two undisturbed trainings differ; expected the same bits")
    drawn = random.Random(seed)
    rows: list[Stop] = []
    for number in itertools.count():
        if len(rows) >= stops:
            return rows
        anew = number % fresh == fresh - 1
        new = disturb(list(CASES)[number % len(CASES)], number, drawn, folder, starts[anew], anew)
        rows += new
        for row in new:
            report(row)
    raise AssertionError


def main() -> int:
    """Measure, and write rows and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=100, help="how many, at least")
    parser.add_argument("--fresh", type=int, default=10, help="of how many trainings one has processes that are not forked")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where rows and tables go")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(given.stops, given.fresh, given.seed, Path(folder).resolve(), lambda row: print(row, flush=True))
    with (given.folder / "interrupt.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    (given.folder / "interrupt.md").write_text(page(rows, given), encoding="utf-8")
    return 0 if all(getattr(row, name) for row in rows for name in JUDGED) else 1


JUDGED = [one.name for one in fields(Stop) if one.type == "bool"]
"""What has to be true of each stop."""


def page(rows: list[Stop], given: argparse.Namespace) -> str:
    """Write the page."""
    command = f"python benchmarks/durability/interrupt.py --stops {given.stops} --fresh {given.fresh} --seed {given.seed}"
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = [
        "# Interrupted, moved, copied, and resumed",
        "",
        f"{max(row.training for row in rows) + 1} trainings of {STEPS:,} steps by `sb3-edu train`, stopped {len(rows)} times",
        "while they start, at a step, or while they evaluate; then left, moved, or copied, and gone on with by",
        "`sb3-edu resume` from one of four working directories. For how many of the stops the process ended with the exit",
        "code of its signal, a model was left where a signal asks for one, the training ended with what the undisturbed one",
        "has, and the run that was copied from kept each byte:",
        "",
        *table(
            rows, "signal", lambda row: f"{row.signal}{'' if row.times == 1 else f' {row.times} times'} to the {row.sent_to}"
        ),
        "",
        *table(rows, "case", lambda row: row.case),
        "",
        *table(rows, "then", lambda row: row.then),
        "",
        *table(rows, "gone on with from", lambda row: row.resumed_from),
        "",
        *table(rows, "moment", lambda row: f"{row.moment}, {row.process}"),
    ]
    return "\n".join([*lines, "", f"Made by `{command}` on {machine()}; {listed}.", ""])


def table(rows: list[Stop], heading: str, name: Callable[[Stop], str]) -> list[str]:
    """Write the lines of a table: how many stops of each kind, and of how many of them all is true."""
    lines = [
        "| " + " | ".join([heading, "stops", *(one.replace("_", " ") for one in JUDGED)]) + " |",
        "| --- | " + " | ".join(["---:"] * (len(JUDGED) + 1)) + " |",
    ]
    for kind in sorted({name(row) for row in rows}):
        own = [row for row in rows if name(row) == kind]
        counts = [len(own), *(sum(getattr(row, one) for row in own) for one in JUDGED)]
        lines.append("| " + " | ".join([kind, *map(str, counts)]) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
