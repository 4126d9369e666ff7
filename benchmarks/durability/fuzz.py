"""Files of settings with anything in them: each is right, or refused in one sentence, in a moment and in little memory.

``python benchmarks/durability/fuzz.py --files 100`` makes one small run, and changes its ``settings.yml``, and a file in the
zoo's form, at random: values of other types, huge numbers, aliases, depth, unknown and repeated keys, names, NaN, tags, text
that is no YAML. ``evaluate``, ``resume``, ``reproduce`` and ``train --config`` each read as many such files, each in a
process forked from this one. A file is right if the command does its work with it. Otherwise the command has to exit with 2
and say why in one sentence that names the file. CPU time and memory are counted above those of an honest evaluation of one
episode. Rows go to ``fuzz.csv``, a table to ``fuzz.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import re
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Read when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import yaml
from odd_settings import ZOO, draw_files

# Every optimizer imports it, which takes longer than all else here: once, before processes are forked.
from torch import _dynamo  # noqa: F401

from sb3_ppo_edu.cli import main as command_line
from sb3_ppo_edu.lab import plots  # noqa: F401
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.training.settings import versions

MOST_SECONDS, MOST_MEGABYTES, LONGEST_SENTENCE = 1.0, 100.0, 3000
"""What a refusal may take above an honest evaluation, and how many characters it may have."""

ADDRESS_SPACE, CPU_SECONDS, PATIENCE = 8 * 2**30, 15, 600.0
"""Bytes beyond which a process gets no memory, seconds of CPU time after which it is ended, and seconds in all."""


@dataclass
class Row:
    """What a command did with a file."""

    command: str
    file: int
    size: int
    outcome: str
    exit_code: int
    cpu_seconds: float
    seconds: float
    megabytes: float
    said: str


def run(words: list[str], folder: Path) -> tuple[int, float, float, float, str]:
    """
    Run a command in a process of its own.

    :return: exit code, CPU seconds, seconds, megabytes at most, and what it wrote to standard error
    """
    complaints = folder / "stderr.txt"
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        code: Any = 1
        try:
            os.setsid()
            os.chdir(folder)
            for descriptor, name in ((0, os.devnull), (1, os.devnull), (2, str(complaints))):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            limit = pages * resource.getpagesize() + ADDRESS_SPACE
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
            code = command_line(words)
            sys.stdout.flush()
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code if isinstance(code, int) else 1)
    while True:
        number, status, used = os.wait4(child, os.WNOHANG)
        if number:
            break
        if time.monotonic() - begin > PATIENCE:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    seconds = time.monotonic() - begin
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # workers that it has left
    said = complaints.read_text(encoding="utf-8", errors="replace") if complaints.exists() else ""
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, seconds, used.ru_maxrss / 1024, said


TRAIN = ["train", "--env", "CartPole-v1", "--steps", "64", "--eval-episodes", "1", "--no-replay"]


def prepare(folder: Path) -> dict[str, tuple[list[str], Path]]:
    """Make a small run, and give each command's words, with the file that it reads."""
    zoo = folder / "zoo.yml"
    zoo.write_text(yaml.safe_dump(ZOO), encoding="utf-8")
    code, *_, said = run([*TRAIN, "--config", "zoo.yml", "--checkpoint-freq", "32", "--folder", ".", "--name", "r"], folder)
    if code != 0:
        raise RuntimeError(f"an honest training ended with exit code {code}: {said}")
    record = folder / "r" / "settings.yml"
    return {
        "evaluate": (["evaluate", "r", "--episodes", "1"], record),
        "resume": (["resume", "r", "--steps", "64", "--eval-episodes", "1", "--no-replay"], record),
        "reproduce": (["reproduce", "r"], record),
        "train --config": ([*TRAIN, "--config", "zoo.yml", "--folder", ".", "--name", "new"], zoo),
    }


def judge(code: int, said: str, name: str) -> str:
    """Say whether a command did right: work, a training that ended in a sentence, or a refusal that names the file."""
    trained = "training:" in said
    # Without the progress bar, and warnings with the line that they are from.
    kept = re.sub(r"\S+: \w*Warning: .*\n  .*", "", said)
    lines = [line for line in re.split(r"[\r\n]+", kept) if line.strip() and not line.startswith("training:")]
    if code == 0 or (code == -signal.SIGXCPU and trained):  # a training takes as long as its settings say
        return "right"
    if "Traceback" in said:
        return f"wrong: {lines[-1][:200]}"
    if code == 1:  # reproduce found a difference, or a training ended in numbers that are not finite
        return "right"
    if code != 2:
        return f"wrong: exit code {code}"
    if len(lines) != 1 or name not in said or len(lines[0]) > LONGEST_SENTENCE:
        return f"wrong: {len(lines)} lines, {len(said)} characters, {'with' if name in said else 'without'} the file's name"
    return "failed in training" if trained else "refused"


def measure(count: int, seed: int, folder: Path, report: Callable[[Row, bytes], None]) -> list[Row]:
    """Let each command read so many files."""
    commands = prepare(folder / "right")
    honest = [run(commands["evaluate"][0], folder / "right") for _ in range(5)]
    cpu, memory = statistics.median(one[1] for one in honest), statistics.median(one[3] for one in honest)
    rows = []
    for number, (command, (words, path)) in enumerate(commands.items()):
        right = yaml.safe_load(path.read_text(encoding="utf-8"))
        for index, content in enumerate([path.read_bytes(), *draw_files(count, seed + number, right)]):
            place = Path(tempfile.mkdtemp(dir=folder))
            shutil.copytree(folder / "right", place, dirs_exist_ok=True)
            (place / path.relative_to(folder / "right")).write_bytes(content)
            code, own, seconds, most, said = run(words, place)
            outcome = judge(code, said, path.name)
            more, above = own - cpu, most - memory
            if (outcome == "refused" or command == "evaluate") and (more > MOST_SECONDS or above > MOST_MEGABYTES):
                outcome = f"wrong: {more:.1f} s and {above:.0f} MB more than an honest evaluation"
            said = said.replace(f"{place}/", "").strip()[:300] if outcome != "right" else ""
            rows.append(
                Row(command, index, len(content), outcome, code, round(more, 2), round(seconds, 2), round(above, 1), said)
            )
            report(rows[-1], content)
            shutil.rmtree(place)
    return rows


def main() -> int:
    """Measure, and write rows and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100, help="for each command")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where rows and table go")
    parser.add_argument("--keep", type=Path, help="a folder for the files with which something is wrong")
    given = parser.parse_args()

    def report(row: Row, content: bytes) -> None:
        print(row, flush=True)
        if given.keep is not None and row.outcome.startswith("wrong"):
            given.keep.mkdir(parents=True, exist_ok=True)
            (given.keep / f"{row.command.split()[0]}-{row.file}.yml").write_bytes(content)

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "right").mkdir()
        rows = measure(given.files, given.seed, Path(folder), report)
    with (given.folder / "fuzz.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    (given.folder / "fuzz.md").write_text(page(rows, given), encoding="utf-8")
    return int(any(row.outcome.startswith("wrong") for row in rows))


def page(rows: list[Row], given: argparse.Namespace) -> str:
    """Write the page."""
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = [
        "# Settings with anything in them",
        "",
        "Files of settings, changed at random, each read by a command in a process of its own. Right is a file with which the",
        "command does its work (a training may still end in numbers that are not finite, which it says, and takes as long as",
        "its settings say); refused is one with which it exits with 2 and one sentence that names the file, some only in",
        "training, when a callback or a wrapper is called. What refusals take most is above the median of honest",
        "evaluations of one episode, by `sb3-edu evaluate --episodes 1`;",
        f"at most {MOST_SECONDS:g} s and {MOST_MEGABYTES:g} MB are allowed.",
        "",
        "| command | files | right | refused | failed in training | wrong | most CPU time of refusals, s | most memory, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for command in dict.fromkeys(row.command for row in rows):
        own = [row for row in rows if row.command == command and row.file > 0]
        refused = [row for row in own if row.outcome == "refused"]
        counts = [len(own), *(sum(row.outcome == one for row in own) for one in ("right", "refused", "failed in training"))]
        most = [max((getattr(row, name) for row in refused), default=0.0) for name in ("cpu_seconds", "megabytes")]
        numbers = [*map(str, counts), str(len(own) - sum(counts[1:])), f"{most[0]:+.2f}", f"{most[1]:+.1f}"]
        lines.append(f"| `{command}` | {' | '.join(numbers)} |")
    command = f"python benchmarks/durability/fuzz.py --files {given.files} --seed {given.seed}"
    return "\n".join([*lines, "", f"Made by `{command}` on {machine()}; {listed}.", ""])


if __name__ == "__main__":
    sys.exit(main())
