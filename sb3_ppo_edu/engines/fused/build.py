"""
Compiles the kernels in ``csrc/`` into one library for a platform: ``python build.py`` does it for this machine, in place.

Each source is compiled once for each instruction set and each of float and double; ``library.py`` chooses among the results
when it loads the library. ``csrc/cpu.c``, which asks the processor, is compiled once. ``csrc/driver*.c`` belong to the
sanitizers' program and not to the library.

The compiler is zig's clang, from the package ``ziglang``: it builds for every platform from every platform. Without it the
system's clang or gcc builds for this machine. This file needs nothing but Python, since the installation runs it alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "csrc"

# No contraction of a·b + c: where two instruction sets share their bits, the source says which operations are fused.
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-Wall", "-Wno-psabi")
REALS = {"f32": "float", "f64": "double"}

# Level -> the compiler's options. Without the width, clang cuts the 64-byte vectors of v4 into halves.
LEVELS = {
    "v2": ("-march=x86-64-v2",),
    "v3": ("-march=x86-64-v3",),
    "v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "arm64": (),
}
X86_LEVELS = ("v2", "v3", "v4")
ARM_LEVELS = ("arm64",)


class BuildFailed(RuntimeError):
    """The library was not built; the message says why."""


@dataclass(frozen=True)
class Target:
    """
    A platform that there is a library for.

    :param name: how the library's file and the command line call it
    :param zig: how zig calls it, with the oldest system that the library runs on
    :param wheel_tag: how a wheel's file name calls it
    :param levels: its instruction sets, lowest first
    :param suffix: ending of a library's name there
    """

    name: str
    zig: str
    wheel_tag: str
    levels: tuple[str, ...]
    suffix: str

    @property
    def library_name(self) -> str:
        """The library's file name; one checkout can hold those of several platforms."""
        return f"libsb3edu-{self.name}{self.suffix}"


TARGETS = {
    target.name: target
    for target in (
        Target("linux-x86_64", "x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64.manylinux2014_x86_64", X86_LEVELS, ".so"),
        Target("linux-aarch64", "aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64.manylinux2014_aarch64", ARM_LEVELS, ".so"),
        Target("musl-x86_64", "x86_64-linux-musl", "musllinux_1_2_x86_64", X86_LEVELS, ".so"),
        Target("musl-aarch64", "aarch64-linux-musl", "musllinux_1_2_aarch64", ARM_LEVELS, ".so"),
        Target("macos-x86_64", "x86_64-macos.11.0", "macosx_11_0_x86_64", X86_LEVELS, ".dylib"),
        Target("macos-aarch64", "aarch64-macos.11.0", "macosx_11_0_arm64", ARM_LEVELS, ".dylib"),
        Target("windows-x86_64", "x86_64-windows-gnu", "win_amd64", X86_LEVELS, ".dll"),
    )
}


@dataclass(frozen=True)
class Compiler:
    """
    A C compiler.

    :param name: ``zig``, ``clang`` or ``gcc``
    :param command: what starts it, up to its options
    """

    name: str
    command: tuple[str, ...]

    def options(self, target: Target, level: str | None = None) -> tuple[str, ...]:
        """
        Return what a target and an instruction set add to the command.

        :param target: platform to compile for
        :param level: instruction set; None for the platform's oldest processor
        :return: options, in this compiler's spelling
        """
        options = LEVELS[level] if level else ()
        if self.name != "zig":
            return options
        return "-target", target.zig, *(option.replace("x86-64-", "x86_64_") for option in options)


def host_target() -> Target | None:
    """
    Say which target this interpreter runs on.

    :return: the target; None where there is none for it
    """
    machine = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(platform.machine().lower())
    system = {"linux": "linux", "darwin": "macos", "win32": "windows"}.get(sys.platform)
    if system == "linux" and platform.libc_ver()[0] != "glibc":
        system = "musl"
    return TARGETS.get(f"{system}-{machine}") if sys.maxsize > 2**32 else None


def platform_name() -> str:
    """
    Describe this platform for a message.

    :return: system, machine and width of a pointer
    """
    return f"{sys.platform} on {platform.machine()}, {sys.maxsize.bit_length() + 1} bits"


def compilers(target: Target) -> list[Compiler]:
    """
    Look for compilers that can build for a target.

    :param target: platform to compile for
    :return: those found, best first
    """
    found = []
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.origin is not None:
        for zig in (Path(spec.origin).with_name("zig"), Path(spec.origin).with_name("zig.exe")):
            if zig.is_file():
                found.append(Compiler("zig", (str(zig), "cc")))
    if target == host_target():
        found += [Compiler(name, (path,)) for name in ("clang", "gcc") if (path := shutil.which(name))]
    return found


def library_sources(sources: Path) -> list[Path]:
    """
    List the files that a library is made of.

    :param sources: folder of the C sources
    :return: sources and headers, in a fixed order; the sanitizers' program is no part of it
    """
    files = (path for path in sources.iterdir() if path.suffix in (".c", ".h"))
    return sorted(path for path in files if not path.name.startswith("driver"))


def stamp(sources: Path, target: Target) -> str:
    """
    Compute what a library of these sources carries, so that an old one is recognised.

    :param sources: folder of the C sources
    :param target: platform that it is compiled for
    :return: hash of sources and options, 64 hexadecimal digits
    """
    digest = hashlib.sha256(repr((FLAGS, [(level, LEVELS[level]) for level in target.levels], target.zig)).encode())
    for path in library_sources(sources):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def stamp_of(library: Path) -> str | None:
    """
    Read a library's stamp without loading it.

    :param library: file of a library, of any platform
    :return: the stamp; None where there is no library or no stamp in it
    """
    try:
        found = re.search(rb"sb3edu-stamp:([0-9a-f]{64})", library.read_bytes())
    except OSError:
        return None
    return found.group(1).decode() if found else None


def built_by(library: Path) -> str | None:
    """
    Read which compiler built a library.

    :param library: file of a library, of any platform
    :return: the compiler's name; None if the file does not say
    """
    found = re.search(rb"sb3edu-stamp:[0-9a-f]{64} ([a-z]+)", library.read_bytes())
    return found.group(1).decode() if found else None


def project_of(folder: Path) -> Path | None:
    """
    Find the checkout, or the unpacked source distribution, that a folder with kernels lies in.

    :param folder: the package's folder ``engines/fused``
    :return: the folder of ``pyproject.toml``; None for an installed package
    """
    project = folder.resolve().parents[2]
    return project if (project / "pyproject.toml").is_file() else None


def run(command: Sequence[str], cache: Path, folder: Path) -> None:
    """
    Run a compiler, with zig's caches (tens of megabytes) in a folder of ours unless the user has named one.

    :param command: the command
    :param cache: folder for the caches
    :param folder: folder to run in; some linkers leave files there
    :raises BuildFailed: with what the compiler said
    """
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache / "local"), **os.environ}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise BuildFailed(f"{command[0]}: {error}") from error
    if done.returncode:
        raise BuildFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}".strip())
    sys.stderr.write(done.stderr)


def kernel_sources(sources: Path) -> list[Path]:
    """
    List the sources that are compiled once for each level and number type.

    :param sources: folder of the C sources
    :return: the library's sources, without headers and ``cpu.c``
    """
    return [path for path in library_sources(sources) if path.suffix == ".c" and path.name != "cpu.c"]


def compile_all(
    compiler: Compiler,
    target: Target,
    sources: Path,
    objects: Path,
    cache: Path,
    per_level: Sequence[Path],
    extra: Sequence[str] = (),
) -> list[Path]:
    """
    Compile every source, once for each instruction set and number type, as many at a time as there are processors.

    :param compiler: compiler
    :param target: platform to compile for
    :param sources: folder of the C sources
    :param objects: folder for the object files
    :param cache: folder for zig's caches
    :param per_level: the sources that are compiled for each level and number type
    :param extra: further options
    :return: the object files
    :raises BuildFailed: if one does not compile
    """
    about = f'-DSTAMP="{stamp(sources, target)} {compiler.name}"'
    commands = {objects / "cpu.o": (*compiler.options(target), about, str(sources / "cpu.c"))}
    for path, level, (dtype, real) in product(per_level, target.levels, REALS.items()):
        suffix = f"_{dtype}_{level}"
        names = (f"-DREAL={real}", f"-DSUFFIX={suffix}")
        commands[objects / f"{path.stem}{suffix}.o"] = (*compiler.options(target, level), *names, str(path))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pool_run = [
            pool.submit(run, (*compiler.command, *FLAGS, *extra, *options, "-c", "-o", str(result)), cache, objects)
            for result, options in commands.items()
        ]
    for one in pool_run:
        one.result()
    return list(commands)


def build_with(compiler: Compiler, target: Target, sources: Path, output: Path, cache: Path) -> None:
    """
    Build a library with one compiler and put it in place in one step: who loads it sees the old one or the new one.

    :param compiler: compiler
    :param target: platform to compile for
    :param sources: folder of the C sources
    :param output: file to write
    :param cache: folder for zig's caches
    :raises BuildFailed: if a source does not compile, or the file cannot be written
    """
    with tempfile.TemporaryDirectory() as folder:
        objects = compile_all(compiler, target, sources, Path(folder), cache, kernel_sources(sources))
        linked = Path(folder) / target.library_name
        link = (*compiler.command, *compiler.options(target), "-O3", "-shared", "-s", "-o", str(linked))
        run((*link, *map(str, objects), "-lm"), cache, Path(folder))
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
            os.close(handle)
            try:
                shutil.copyfile(linked, beside)
                os.chmod(beside, 0o755)
                os.replace(beside, output)
            except OSError:
                os.unlink(beside)
                raise
        except OSError as error:
            raise BuildFailed(f"{output} cannot be written: {error}") from error


def build_library(output: Path, target: Target, sources: Path = SOURCES, cache: Path | None = None) -> Compiler:
    """
    Build the library with the first compiler that can.

    :param output: file to write
    :param target: platform to compile for
    :param sources: folder of the C sources
    :param cache: folder for zig's caches; by default below the checkout's ``build/``
    :return: the compiler that did it
    :raises BuildFailed: with the reason, one for each compiler tried
    """
    project = project_of(HERE)
    if cache is None and project is not None:
        cache = project / "build" / "zig"
    reasons = []
    for compiler in compilers(target):
        try:
            with tempfile.TemporaryDirectory() as temporary:
                build_with(compiler, target, sources, output, cache or Path(temporary))
        except BuildFailed as error:
            reasons.append(str(error))
        else:
            return compiler
    if not reasons:
        here = " nor a clang or gcc on the path" if target == host_target() else ""
        reasons = [f"no C compiler: the package ziglang is not installed{here} (pip install ziglang)"]
    raise BuildFailed("\n".join(reasons))


def build_driver(output: Path, compiler: Compiler, target: Target, sources: Path = SOURCES, extra: Sequence[str] = ()) -> None:
    """
    Build the program that runs the kernels on cases from files (``csrc/driver.c`` describes them).

    :param output: file to write
    :param compiler: compiler
    :param target: platform to compile for
    :param sources: folder of the kernels and of ``driver_kernels.c``, the table of those that the program can call
    :param extra: further options, such as the sanitizers
    :raises BuildFailed: if a source does not compile
    """
    program = SOURCES / "driver.c"
    with tempfile.TemporaryDirectory() as folder:
        per_level = [*kernel_sources(sources), sources / "driver_kernels.c"]
        options = (f"-I{SOURCES}", *extra)
        objects = compile_all(compiler, target, sources, Path(folder), output.parent / "zig", per_level, options)
        link = (*compiler.command, *compiler.options(target), *FLAGS, *options, "-o", str(output), str(program))
        run((*link, *map(str, objects), "-lm"), output.parent / "zig", Path(folder))


# -- checking a library of any platform --------------------------------------------------------------------------------------


def machine_of(content: bytes) -> str:
    """
    Read the processor that a library is for from its header.

    :param content: an ELF, Mach-O or PE file
    :return: ``x86_64``, ``aarch64`` or ``unknown``
    """
    codes = {b"\x3e\0": "x86_64", b"\xb7\0": "aarch64"}  # ELF: e_machine
    if content[:4] == b"\xcf\xfa\xed\xfe":  # Mach-O, 64 bits: cputype
        codes = {b"\x07\0\0\x01": "x86_64", b"\x0c\0\0\x01": "aarch64"}
        return codes.get(content[4:8], "unknown")
    if content[:2] == b"MZ":  # PE: Machine, after the signature that 0x3c points to
        start = int.from_bytes(content[0x3C:0x40], "little") + 4
        codes = {b"\x64\x86": "x86_64", b"\x64\xaa": "aarch64"}
        return codes.get(content[start : start + 2], "unknown")
    return codes.get(content[18:20], "unknown") if content[:4] == b"\x7fELF" else "unknown"


def kernels_of(content: bytes) -> dict[tuple[str, str], set[str]]:
    """
    List the kernels that a library exports.

    :param content: a library's bytes
    :return: for each number type and level the names of its kernels
    """
    found: dict[tuple[str, str], set[str]] = {}
    for verb, dtype, level in re.findall(
        rb"\bsb3edu_([a-z0-9_]+)_(f32|f64)_(v2|v3|v4|arm64)\b", content.replace(b"\0_", b"\0 ")
    ):
        found.setdefault((dtype.decode(), level.decode()), set()).add(verb.decode())
    return found


def faults(library: Path, target: Target, sources: Path = SOURCES) -> list[str]:
    """
    Check what a library holds, without running it.

    :param library: the library
    :param target: platform that it should be for
    :param sources: folder of the C sources that it should be made of
    :return: what is wrong; empty where all is well
    """
    content = library.read_bytes()
    wrong = []
    expected, machine = target.name.split("-")[1], machine_of(content)
    if machine != expected:
        wrong.append(f"processor: found {machine}, expected {expected}")
    if stamp_of(library) != stamp(sources, target):
        wrong.append("not built from these sources")
    kernels = kernels_of(content)
    wanted = set(product(REALS, target.levels))
    if set(kernels) - wanted:
        wrong.append(f"kernels of another platform: {sorted(set(kernels) - wanted)}")
    verbs = set().union(*kernels.values())
    wrong += [
        f"{dtype}, {level}: no {verb}"
        for dtype, level in sorted(wanted)
        for verb in sorted(verbs - kernels.get((dtype, level), set()))
    ]
    newest = max((int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", content)), default=0)
    if newest > 17:
        wrong.append(f"needs glibc 2.{newest}, expected at most 2.17")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Build the library from the command line.

    :param arguments: the command's arguments
    :return: 0, or 1 where it was not built
    """
    parser = argparse.ArgumentParser(description="compile the kernels into a library")
    parser.add_argument("--target", choices=TARGETS, help="platform to compile for (default: this one)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: in place)")
    chosen = parser.parse_args(arguments)
    target = TARGETS[chosen.target] if chosen.target else host_target()
    if target is None:
        print(f"no kernels for this platform ({platform_name()}); there are for {', '.join(TARGETS)}", file=sys.stderr)
        return 1
    output = (chosen.output or HERE) / target.library_name
    try:
        compiler = build_library(output, target)
    except BuildFailed as error:
        print(f"the kernels were not built:\n{error}", file=sys.stderr)
        return 1
    print(f"{output} ({', '.join(target.levels)}; {compiler.name}, {output.stat().st_size // 1024} KB)")
    if compiler.name == "gcc":
        print("gcc's code for AVX-512 is slow: pip install ziglang, and build again", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
