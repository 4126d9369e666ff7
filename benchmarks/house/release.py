"""
What a release needs, checked by one command: ``make release`` (some minutes; it publishes nothing).

1. The version is the same in the package, in ``CITATION.cff`` and in the newest heading of ``CHANGELOG.md``; everything is
   committed; ``repository`` in ``setup.cfg`` is filled in.
2. The source distribution and a wheel for each platform are built into ``dist/``, and twine finds their metadata right.
3. The source distribution and this platform's wheel are each installed into an environment with nothing in it, away from the
   checkout, where the first Python lines of the README train and ``sb3-edu`` answers.

What it gave goes to ``release.md``. Then, by hand: ``git tag v0.2.0 && git push --tags``, ``python -m twine upload dist/*``,
and the notes of the version from the changelog into the release's page. ``--five-lines`` only runs the README's lines with the
Python that runs this.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SDIST = "from setuptools import build_meta; build_meta.build_sdist('dist')"


def five_lines() -> str:
    """Read the README's first Python lines."""
    found = re.search(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def version() -> str:
    """Read the package's version, without importing it."""
    text = (PROJECT / "sb3_ppo_edu" / "version.py").read_text(encoding="utf-8")
    return str(re.findall(r'__version__ = "(.*)"', text)[0])


def what_is_missing() -> list[str]:
    """List what keeps this checkout from being released."""
    missing = []
    named = re.findall(r"^version: (.*)$", (PROJECT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    if named != [version()]:
        missing.append(f"CITATION.cff: found version {', '.join(named)}, expected {version()}")
    newest = re.findall(r"^## \[(.*)\]", (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    if newest != version():
        missing.append(f"CHANGELOG.md: the newest heading is [{newest}], expected [{version()}] with a date")
    settings = ConfigParser()
    settings.read(PROJECT / "setup.cfg", encoding="utf-8")
    if not settings["publish"]["repository"]:
        missing.append("setup.cfg: [publish] repository is empty, expected the address that all URLs are made from")
    status = subprocess.run(["git", "status", "--porcelain"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    if status:
        missing.append(f"git: {len(status.splitlines())} changed or untracked files, expected none")
    return missing


def say(*command: object, cwd: Path = PROJECT) -> None:
    """Show a command, and run it."""
    print("+", *command, flush=True)
    subprocess.run([str(word) for word in command], cwd=cwd, check=True)


def programs_in(environment: Path) -> Path:
    """Create an empty environment, and name the folder of its programs."""
    venv.create(environment, with_pip=True)
    return environment / ("Scripts" if sys.platform == "win32" else "bin")


def check_metadata(distributions: Sequence[Path]) -> None:
    """Let twine look at the metadata, as the package index will."""
    with tempfile.TemporaryDirectory() as place:
        python = programs_in(Path(place) / "env") / "python"
        say(python, "-m", "pip", "install", "--quiet", "twine", cwd=Path(place))
        say(python, "-m", "twine", "check", "--strict", *distributions)


def try_out(distribution: Path) -> tuple[float, float]:
    """Install a distribution into an empty environment, run what the README says away from the checkout; seconds of both."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        programs = programs_in(folder / "env")
        say(programs / "python", "-m", "pip", "install", "--quiet", distribution, cwd=folder)
        installed = time.monotonic()
        say(programs / "python", "-c", five_lines(), cwd=folder)
        say(programs / "sb3-edu", "--version", cwd=folder)
        return installed - start, time.monotonic() - installed


def page(distributions: Sequence[Path], tried: Mapping[Path, tuple[float, float]]) -> str:
    """
    Write down what was built and tried.

    :param distributions: files
    :param tried: for those that were installed: seconds to install with all they need, and to do what the README says
    """
    rows = []
    for file in distributions:
        took = "{:.0f} s, then the README's lines: {:.0f} s".format(*tried[file]) if file in tried else "not installed here"
        rows.append(f"| `{file.name}` | {file.stat().st_size // 1024} | {took} |")
    return f"""# Release {version()}

What `make release` built. What was tried was installed with all that it needs into an environment with nothing in it: Python
{platform.python_version()}, {platform.system()} {platform.machine()}; the source distribution compiles its kernels there.

| file | KB | installed and tried |
|---|---:|---|
{chr(10).join(rows)}
"""


def main() -> int:
    """Check, build and try out; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--five-lines", action="store_true", help="only run the README's lines, here")
    parser.add_argument("--anyway", action="store_true", help="build and try out although something is missing")
    given = parser.parse_args()
    if given.five_lines:
        say(sys.executable, "-c", five_lines(), cwd=Path.cwd())
        return 0
    missing = what_is_missing()
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    if missing and not given.anyway:
        return 1
    shutil.rmtree(PROJECT / "dist", ignore_errors=True)
    # What zig compiles of the C libraries takes a minute, and is the same for all that is built here.
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(PROJECT / "build" / "zig"))
    say(sys.executable, "-c", SDIST)
    # Imported here: the README's lines are to be tried with whatever is installed.
    from sb3_ppo_edu.engines.fused import build

    say(sys.executable, PROJECT / "benchmarks" / "wheels" / "wheels.py", *build.TARGETS)
    distributions = sorted((PROJECT / "dist").iterdir())
    check_metadata(distributions)
    here = build.host_target()
    mine = [file for file in distributions if file.suffix == ".gz" or (here is not None and here.wheel_tag in file.name)]
    text = page(distributions, {file: try_out(file) for file in mine})
    Path(__file__).with_name("release.md").write_text(text, encoding="utf-8")
    print(f"{len(distributions)} distributions of {version()} are in dist/ and work.")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
