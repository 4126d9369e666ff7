"""
Builds a wheel for every platform and checks what is in it: ``make wheels``. What it found goes to ``wheels.md``.

zig compiles for all of them from any of them. Where this machine can run a wheel's library, by itself or by qemu, a program in
C calls the library's kernels with what the tests gave them, and compares with what they returned here. The other wheels were
built, never run. The first build for a platform compiles parts of its C library: seconds, for Windows a minute.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from sb3_ppo_edu.engines.fused import build
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.version import __version__

PROJECT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
TESTS = "tests/test_kernels.py"

# Target -> the loader of its C library, and the package of Debian that brings it to other systems.
LOADERS = {
    "linux-aarch64": (Path("/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1"), "libc6-arm64-cross"),
    "musl-x86_64": (Path("/lib/ld-musl-x86_64.so.1"), "musl"),
}
# No such package: its program has the kernels' sources in it, and no library at all.
STATIC = "musl-aarch64"


def build_wheel(target: build.Target, folder: Path) -> Path:
    """
    Build a platform's wheel.

    :param target: the platform
    :param folder: where the wheel goes
    :return: the wheel
    """
    command = [sys.executable, "-c", BUILD, str(folder)]
    environment = {**os.environ, "SB3_EDU_TARGET": target.name}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{target.name}: {done.stdout}{done.stderr}")
    return folder / done.stdout.split()[-1]


def find_qemu() -> str | None:
    """
    Look for what runs programs for arm64.

    :return: its path; None where there is none
    """
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def runner(target: build.Target) -> tuple[list[str], str] | None:
    """
    Find out how this machine runs a target's programs.

    :param target: the target
    :return: the command in front of a program and what to call it; None where it can't
    """
    host = build.host_target()
    if target == host:
        return [], "here"
    loader, _ = LOADERS.get(target.name, (None, ""))
    reachable = target.name == STATIC or (loader is not None and loader.exists())
    if host is None or not sys.platform.startswith("linux") or not reachable:
        return None
    if target.levels == host.levels:
        return [], "here"
    qemu = find_qemu() if target.levels == build.ARM_LEVELS else None
    root = ["-L", str(loader.parent.parent)] if loader is not None else []
    return ([qemu, *root], "under qemu") if qemu else None


def build_program(target: build.Target, library: Path, folder: Path) -> tuple[Path, str]:
    """
    Build the program that calls kernels with cases from files, against a wheel's library.

    :param target: the target
    :param library: the wheel's library, in the folder
    :param folder: where the program goes
    :return: the program, and what of the wheel it runs
    """
    compiler, program, cache = build.compilers(target)[0], folder / "driver", PROJECT / "build" / "zig"
    if target.name == STATIC:
        build.build_driver(program, compiler, target)
        return program, "its sources, in a static program"
    per_level = [build.SOURCES / "driver_kernels.c"]
    objects = build.compile_all(compiler, target, build.SOURCES, folder, cache, per_level, (f"-I{build.SOURCES}",))
    dynamic = ("-dynamic",) if target.name.startswith("musl") else ()
    link = (*compiler.command, *compiler.options(target), *build.FLAGS, *dynamic, f"-I{build.SOURCES}", "-o", str(program))
    sources = (str(build.SOURCES / "driver.c"), *map(str, objects), str(library), f"-Wl,-rpath,{library.parent}", "-lm")
    build.run((*link, *sources), cache, folder)
    return program, "its library"


def check_wheel(wheel: Path, target: build.Target, cases: Sequence[str]) -> tuple[list[str], str]:
    """
    Check what a wheel holds; where this machine can, run its kernels.

    :param wheel: the wheel
    :param target: the platform that it is for
    :param cases: files with calls of kernels and what they gave
    :return: what is wrong, and what was tried
    """
    wrong = [] if wheel.name.endswith(f"-py3-none-{target.wheel_tag}.whl") else [f"tag: expected py3-none-{target.wheel_tag}"]
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        inside = [name for name in archive.namelist() if "libsb3edu-" in name]
        if inside != [f"sb3_ppo_edu/engines/fused/{target.library_name}"]:
            return [*wrong, f"libraries: found {inside}, expected {target.library_name}"], "not run"
        library = Path(archive.extract(inside[0], folder))
        wrong += build.faults(library, target)
        found = runner(target)
        if found is None:
            return wrong, "built, never run"
        command, where = found
        program, what = build_program(target, library, Path(folder))
        ran = subprocess.run([*command, str(program), *cases], capture_output=True, text=True, check=False)
        if ran.returncode:
            wrong.append(f"{ran.stdout[-300:]}{ran.stderr[-300:]}".strip())
        return wrong, f"{what} ran {where}: {(ran.stdout.splitlines() or ['nothing'])[-1]}"


def write_cases() -> list[str]:
    """
    Let the tests of the kernels write down their calls.

    :return: the files
    """
    folder = PROJECT / "build" / "cases"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pytest", "--quiet", "-m", "not slow", TESTS]
    done = subprocess.run(command, cwd=PROJECT, env={**os.environ, "SB3_EDU_CASES": str(folder)}, check=False)
    if done.returncode:
        raise SystemExit(f"{TESTS} failed, so there are no cases")
    return sorted(map(str, folder.iterdir()))


def main() -> int:
    """
    Build and check the wheels.

    :return: 0, or 1 where one is wrong
    """
    parser = argparse.ArgumentParser(description="build and check a wheel for every platform")
    parser.add_argument("--output", type=Path, default=PROJECT / "dist", help="folder for the wheels")
    parser.add_argument("--cases", type=Path, help="folder of cases to run (default: those that the tests write)")
    parser.add_argument("targets", nargs="*", help=f"platforms (default: all): {', '.join(build.TARGETS)}")
    chosen = parser.parse_args()
    cases = sorted(map(str, chosen.cases.iterdir())) if chosen.cases else write_cases()
    failed, lines = False, []
    for name in chosen.targets or build.TARGETS:
        target = build.TARGETS[name]
        wheel = build_wheel(target, chosen.output)
        wrong, tried = check_wheel(wheel, target, cases)
        failed |= bool(wrong)
        size = wheel.stat().st_size // 1024
        print(f"{name:15} {', '.join(target.levels):10} {size:6} KB  {tried}  {'; '.join(wrong)}", flush=True)
        lines.append(f"| {name} | {', '.join(target.levels)} | {size} | {'; '.join(wrong) or 'right'} | {tried} |")
    if not chosen.targets:
        write_page(lines, len(cases))
    return int(failed)


def write_page(lines: Sequence[str], n_cases: int) -> None:
    """
    Write down what was found.

    :param lines: of the table, one a wheel
    :param n_cases: number of cases
    """
    qemu = find_qemu()
    version = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout if qemu else "no qemu"
    packages = ", ".join(package for _, package in LOADERS.values())
    text = f"""# The wheels

One wheel a platform, `py3-none`, with one library in it. "Content" is what can be seen without running it: the tag, the
processor, the kernels of each instruction set in both number types, the stamp of these sources, and that no glibc newer than
2.17 is asked for. "Run" are {n_cases} calls of act, value, gradients and apply in float32 and float64, which the tests of the
kernels have written, at every instruction set of the processor that runs them: float64 to 1e-9, float32 to 1e-3.

| wheel | instruction sets | KB | content | run |
|---|---|---:|---|---|
{chr(10).join(lines)}

Made by `make wheels` (`python benchmarks/wheels/wheels.py`) on {machine()}; sb3_ppo_edu {__version__}, ziglang
{importlib.metadata.version("ziglang")}, {version.splitlines()[0]}. What runs libraries of other platforms are Debian's
packages qemu-user-static, {packages}; without them these were built, never run.
"""
    (Path(__file__).with_name("wheels.md")).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
