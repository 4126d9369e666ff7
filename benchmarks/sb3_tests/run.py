"""Run SB3's and sb3-contrib's own tests of PPO with our algorithms in its place: ``python benchmarks/sb3_tests/run.py``.

The tests come from the two source distributions, in the versions that are installed, and are kept in ``build/``, never in the
repository. What is put in place of PPO, and which tests are about it, stands in ``eduppo_as_ppo.py`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
ENGINES = ("auto", "autograd")
CONSTRUCTING = {"stable-baselines3": {"2.9.2": 99}, "sb3-contrib": {"2.9.2": 46}}
"""By package and version, how many of its tests construct one of ours on a machine without CUDA, without those left out."""


def download(folder: Path, package: str, release: str) -> Path:
    """
    Download a package's tests, unless they are there.

    :param folder: where to keep them
    :param package: its name
    :param release: its version
    :return: the folder with its ``tests`` and its pytest settings, and without the package itself
    """
    root = folder / f"{package.replace('-', '_')}-{release}"
    if (root / "tests").is_dir():
        return root
    requirement = f"{package}=={release}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-binary", ":all:", "--dest", str(folder), requirement], check=True)
    with tarfile.open(folder / f"{root.name}.tar.gz") as archive:
        for name in sorted(archive.getnames()):
            inside = Path(name).relative_to(root.name)
            if inside in (Path("pyproject.toml"), Path("setup.cfg")) or (
                inside.parent == Path("tests") and inside.suffix == ".py"
            ):
                (root / inside).parent.mkdir(parents=True, exist_ok=True)
                file = archive.extractfile(name)
                assert file is not None, f"{name}: expected a file in the archive"
                (root / inside).write_bytes(file.read())
    return root


def run_tests(root: Path, engine: str, arguments: list[str]) -> dict[str, str]:
    """
    Run the tests that are about PPO, in a process of their own.

    :param root: folder with ``tests``
    :param engine: the engine to run them with
    :param arguments: further arguments of pytest
    :return: for each test that constructed one of ours how it ended: "passed", "failed" or "skipped"
    """
    outcomes = root / f"{engine}.json"
    outcomes.unlink(missing_ok=True)
    files = [str(path) for path in sorted((root / "tests").glob("test_*.py")) if "PPO" in path.read_text(encoding="utf-8")]
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "eduppo_as_ppo",
        "-p",
        "no:cacheprovider",
        "--quiet",
        "-rf",
        "--tb",
        "short",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(PROJECT), os.environ.get("PYTHONPATH", "")]),
        "SB3_TESTS_ENGINE": engine,
        "SB3_TESTS_OUTCOMES": str(outcomes),
    }
    subprocess.run([*pytest, *arguments, *files], cwd=root, env=environment, check=False)
    if not outcomes.is_file():
        raise SystemExit(f"engine {engine}: pytest ended before the tests did, see above")
    found: dict[str, str] = json.loads(outcomes.read_text(encoding="utf-8"))
    return found


def main() -> int:
    """
    Run the tests with each engine and print how many passed.

    :return: 0 if all passed and none is missing, else 1
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", nargs="+", default=ENGINES, choices=("auto", "autograd", "numpy", "fused"))
    parser.add_argument("--folder", type=Path, default=PROJECT / "build" / "sb3_tests", help="where to keep the tests")
    parser.add_argument("--package", nargs="+", default=list(CONSTRUCTING), choices=list(CONSTRUCTING), help="whose tests")
    given, arguments = parser.parse_known_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    lines, complete = [], True
    for package in given.package:
        release = version(package)
        root = download(given.folder.resolve(), package, release)
        lines.append(f"{package} {release}'s tests that construct PPO, with ours in its place:")
        for engine in given.engine:
            outcomes = run_tests(root, engine, arguments)
            counts = Counter(outcomes.values())
            expected = None if arguments else CONSTRUCTING[package].get(release)
            ran = counts["passed"] + counts["failed"]
            complete = complete and counts["failed"] == 0 and ran > 0 and ran >= (expected or 0)
            missing = f"; expected at least {expected}" if expected and ran < expected else ""
            lines.append(f"engine {engine}: {counts['passed']} passed, {counts['failed']} failed{missing}")
            lines += [f"  {outcome}: {test}" for test, outcome in outcomes.items() if outcome == "failed"]
    print(*lines, sep="\n")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
