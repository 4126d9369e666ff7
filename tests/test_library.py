"""The kernels' library: compiled by what there is, loaded at the level that the processor has, or missing for a reason."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import copy2

import numpy as np
import pytest

from sb3_ppo_edu.engines.fused import build, library
from sb3_ppo_edu.engines.fused.library import LibraryMissing, choose_level, load_library

PROJECT = Path(__file__).resolve().parent.parent
TOY = PROJECT / "tests" / "toy_kernels"
ZIG_CACHE = PROJECT / "build" / "zig"
TARGET = build.host_target()
LEVELS = TARGET.levels if TARGET else ()

needs_compiler = pytest.mark.skipif(
    TARGET is None or not build.compilers(TARGET), reason="no C compiler here: neither ziglang, clang nor gcc"
)


def checkout(folder: Path) -> Path:
    """
    Lay out a checkout whose only kernel is the toy.

    :param folder: an empty folder
    :return: its folder of kernels
    """
    kernels = folder / "sb3_ppo_edu" / "engines" / "fused"
    (kernels / "csrc").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    for source in (TOY / "axpy.c", build.SOURCES / "cpu.c"):
        copy2(source, kernels / "csrc")
    return kernels


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the caller's environment chooses; zig's caches are shared, since filling them takes seconds."""
    monkeypatch.delenv(library.VARIABLE, raising=False)
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", os.environ.get("ZIG_GLOBAL_CACHE_DIR", str(ZIG_CACHE)))
    monkeypatch.setenv("ZIG_LOCAL_CACHE_DIR", os.environ.get("ZIG_LOCAL_CACHE_DIR", str(ZIG_CACHE / "local")))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that compiles C is found."""
    monkeypatch.setattr(build, "compilers", lambda target: [])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the toy's library, once."""
    kernels = checkout(tmp_path_factory.mktemp("checkout"))
    assert TARGET is not None
    build.build_library(kernels / TARGET.library_name, TARGET, kernels / "csrc", ZIG_CACHE)
    return kernels


def axpy(loaded: library.Library, dtype: str) -> list[float]:
    """
    Compute 2·(1, 2, 3) + (10, 20, 30) by the toy kernel.

    :param loaded: library with the toy
    :param dtype: ``f32`` or ``f64``
    :return: the result
    """
    real = {"f32": np.float32, "f64": np.float64}[dtype]
    scalar = {"f32": ctypes.c_float, "f64": ctypes.c_double}[dtype]
    x, y = np.array([1, 2, 3], real), np.array([10, 20, 30], real)
    kernel = loaded.function("axpy", dtype)
    kernel.argtypes, kernel.restype = (ctypes.c_size_t, scalar, ctypes.c_void_p, ctypes.c_void_p), None
    kernel(3, 2, x.ctypes.data, y.ctypes.data)
    return list(y)


# -- the choice of the instruction set ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processor", "wanted", "chosen"),
    [("v4", "", "v4"), ("v3", "", "v3"), ("v2", "", "v2"), ("v4", "v2", "v2"), ("v4", "v3", "v3"), ("v3", "v3", "v3")],
)
def test_highest_level_or_the_one_asked_for(processor: str, wanted: str, chosen: str) -> None:
    """The processor's own level is taken, or a lower one that is asked for."""
    assert choose_level(("v2", "v3", "v4"), processor, wanted) == chosen


@pytest.mark.parametrize(("processor", "wanted"), [("v3", "v4"), ("v2", "v3"), ("v2", "v4")])
def test_level_that_the_processor_lacks_is_refused(processor: str, wanted: str) -> None:
    """Asked for more than the processor has, both are named: its code would end the process."""
    with pytest.raises(ValueError, match=f"SB3_EDU_KERNELS={wanted}: this processor's level is {processor}"):
        choose_level(("v2", "v3", "v4"), processor, wanted)


@pytest.mark.parametrize("wanted", ["", "v2"])
def test_processor_without_any_level_has_no_kernels(wanted: str) -> None:
    """A processor below the lowest level gets no kernels, whatever is asked for."""
    with pytest.raises(LibraryMissing, match="level is v1, the kernels need v2 or higher"):
        choose_level(("v2", "v3", "v4"), "v1", wanted)


def level_by_flags(flags: set[str]) -> str:
    """
    Say by the psABI's table which level has these flags, in Linux' words for them.

    :param flags: flags of /proc/cpuinfo
    :return: ``v1`` to ``v4``
    """
    table = {
        "v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
        "v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
        "v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
    }
    level = "v1"
    for name, needed in table.items():
        if not set(needed.split()) <= flags:
            break
        level = name
    return level


@needs_compiler
def test_processor_is_recognised(built: Path) -> None:
    """The library's cpuid says what Linux says of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if "v2" not in LEVELS or not cpuinfo.exists():
        pytest.skip("only Linux on x86-64 lists what its processor has")
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    assert flags is not None
    assert load_library(built).level == level_by_flags(set(flags.group(1).split()))


# -- loading -----------------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("level", LEVELS)
def test_each_level_computes(built: Path, monkeypatch: pytest.MonkeyPatch, level: str, dtype: str) -> None:
    """Every level that this processor has is loaded when it is asked for, and its kernel computes in both number types."""
    if LEVELS.index(level) > LEVELS.index(load_library(built).level):
        pytest.skip(f"this processor has no {level}")
    monkeypatch.setenv(library.VARIABLE, level)
    loaded = load_library(built)
    assert loaded.level == level
    assert axpy(loaded, dtype) == [12.0, 24.0, 36.0]


def test_kernels_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """``SB3_EDU_KERNELS=off`` is a reason of its own."""
    monkeypatch.setenv(library.VARIABLE, "off")
    with pytest.raises(LibraryMissing) as missing:
        load_library()
    assert missing.value.reason == "SB3_EDU_KERNELS=off"


@pytest.mark.skipif(TARGET is None, reason="no kernels for this platform")
@pytest.mark.parametrize("wanted", ["v5", "V3", "on", "v1"])
def test_unknown_level_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """A word that is no level is named beside those that are."""
    monkeypatch.setenv(library.VARIABLE, wanted)
    with pytest.raises(ValueError, match=f"SB3_EDU_KERNELS={wanted}: expected {', '.join(LEVELS)} or off"):
        load_library()


def test_platform_without_kernels_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a platform that nothing is built for the reason names it and those that there are kernels for."""
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(LibraryMissing, match="on riscv64, 64 bits; there are for linux-x86_64, "):
        load_library(tmp_path)


@needs_compiler
def test_unknown_kernel_is_named(built: Path) -> None:
    """A kernel that is not there is named with number type and level."""
    loaded = load_library(built)
    with pytest.raises(ValueError, match=f"sb3edu_fly_f32_{loaded.level}: no such kernel in "):
        loaded.function("fly", "f32")


@pytest.mark.skipif(TARGET is None, reason="no kernels for this platform")
def test_damaged_library_is_a_reason(tmp_path: Path) -> None:
    """A file that is no library is a reason to do without, not a crash."""
    folder = tmp_path / "sb3_ppo_edu" / "engines" / "fused"
    folder.mkdir(parents=True)
    assert TARGET is not None
    (folder / TARGET.library_name).write_bytes(b"nonsense")
    with pytest.raises(LibraryMissing, match="cannot be loaded"):
        load_library(folder)


# -- old libraries and missing compilers -------------------------------------------------------------------------------------


@needs_compiler
def test_changed_source_is_compiled(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a checkout a library that is older than its sources is compiled anew, and the new one is loaded."""
    kernels = checkout(tmp_path)
    assert TARGET is not None
    path = kernels / TARGET.library_name
    build.build_library(path, TARGET, kernels / "csrc", ZIG_CACHE)
    source = kernels / "csrc" / "axpy.c"
    source.write_text(source.read_text().replace("a * x[i] + y[i]", "a * x[i] - y[i]"))
    assert build.stamp_of(path) != build.stamp(kernels / "csrc", TARGET)
    assert axpy(load_library(kernels), "f64") == [-8.0, -16.0, -24.0]
    assert "is older than its sources: compiling the kernels" in capfd.readouterr().err
    assert build.stamp_of(path) == build.stamp(kernels / "csrc", TARGET)
    assert [file.name for file in kernels.iterdir() if file.name != "csrc"] == [path.name]


@needs_compiler
@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(("old", "reason"), [(True, "is older than its sources"), (False, "is not there")])
def test_without_compiler_a_checkout_refuses(built: Path, tmp_path: Path, old: bool, reason: str) -> None:
    """A library that is not of these sources is not loaded, and what would mend it is named."""
    kernels = checkout(tmp_path)
    assert TARGET is not None
    if old:
        copy2(built / TARGET.library_name, kernels)
        (kernels / "csrc" / "axpy.c").write_text("/* changed */")
    missing = r"ziglang is not installed nor a clang or gcc on the path \(pip install ziglang\)"
    with pytest.raises(LibraryMissing, match=rf"{reason}, and cannot be built: no C compiler: the package {missing}"):
        load_library(kernels)


@needs_compiler
def test_source_with_an_error_is_a_reason(tmp_path: Path) -> None:
    """What the compiler says of a source that does not compile is in the reason; no half-made library is left."""
    kernels = checkout(tmp_path)
    (kernels / "csrc" / "axpy.c").write_text("int f(void) { return undeclared; }")
    with pytest.raises(LibraryMissing, match="undeclared"):
        load_library(kernels)
    assert [file.name for file in kernels.iterdir()] == ["csrc"]


@needs_compiler
def test_installed_package_takes_its_library_as_it_is(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a checkout nothing is compiled: the library there is loaded; where the build left a note, that is the reason."""
    monkeypatch.setattr(build, "build_library", None)
    folder = tmp_path / "site-packages" / "sb3_ppo_edu" / "engines" / "fused"
    folder.mkdir(parents=True)
    assert TARGET is not None
    copy2(built / TARGET.library_name, folder)
    assert axpy(load_library(folder), "f32") == [12.0, 24.0, 36.0]
    empty = tmp_path / "other" / "sb3_ppo_edu" / "engines" / "fused"
    empty.mkdir(parents=True)
    (empty / library.NOT_BUILT).write_text("there was no compiler\n")
    with pytest.raises(LibraryMissing, match=r"^there was no compiler$"):
        load_library(empty)


BUILD_ALONE = """
import sys
from collections.abc import Sequence
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import build
target, kernels = build.host_target(), Path(sys.argv[2])
build.build_library(kernels / target.library_name, target, kernels / "csrc", kernels.parent / "cache")
"""


@needs_compiler
def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    """Two processes that build the same library at once both succeed, and leave one whole file."""
    kernels = checkout(tmp_path)
    command = [sys.executable, "-c", BUILD_ALONE, str(build.HERE), str(kernels)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 2
    assert TARGET is not None
    assert sorted(file.name for file in kernels.iterdir()) == ["csrc", TARGET.library_name]
    assert axpy(load_library(kernels), "f64") == [12.0, 24.0, 36.0]


# -- other platforms and compilers, whose commands are computed and not run --------------------------------------------------

SYSTEMS = [
    ("linux", "x86_64", "glibc", "linux-x86_64"),
    ("linux", "aarch64", "glibc", "linux-aarch64"),
    ("linux", "x86_64", "", "musl-x86_64"),
    ("darwin", "arm64", "", "macos-aarch64"),
    ("win32", "AMD64", "", "windows-x86_64"),
    ("linux", "riscv64", "glibc", None),
    ("freebsd14", "amd64", "", None),
]


@pytest.mark.parametrize(("system", "machine", "libc", "name"), SYSTEMS)
def test_platform_is_recognised(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, libc: str, name: str) -> None:
    """Python's words for a system and a processor give the target; a Python of 32 bits has none."""
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.libc_ver", lambda: (libc, ""))
    assert build.host_target() == (name and build.TARGETS[name])
    monkeypatch.setattr("sys.maxsize", 2**31 - 1)
    assert build.host_target() is None


def test_systems_compilers_build_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ziglang the compilers on the path build for this machine, clang first, and none for another."""
    here, other = build.TARGETS["linux-x86_64"], build.TARGETS["macos-aarch64"]
    monkeypatch.setattr(build, "host_target", lambda: here)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert [compiler.command for compiler in build.compilers(here)] == [("/bin/clang",), ("/bin/gcc",)]
    assert build.compilers(other) == []


@pytest.mark.parametrize("name", build.TARGETS)
def test_zig_comes_first_for_every_platform(name: str) -> None:
    """Where the package ``ziglang`` is installed, its compiler is the first choice, and for other machines the only one."""
    pytest.importorskip("ziglang", reason="zig's compiler is not installed")
    found = build.compilers(build.TARGETS[name])
    assert found[0].name == "zig" and Path(found[0].command[0]).is_file()
    assert len(found) == 1 or build.TARGETS[name] == TARGET


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have run; each leaves the file that it is told to write."""
    ran: list[list[str]] = []

    def run(command: Sequence[str], cache: Path, folder: Path) -> None:
        ran.append(list(command))
        (folder / command[command.index("-o") + 1]).write_bytes(b"")

    monkeypatch.setattr(build, "run", run)
    return ran


@pytest.mark.parametrize("name", ["zig", "gcc"])
@pytest.mark.parametrize("target", build.TARGETS.values(), ids=lambda target: target.name)
def test_everything_is_compiled_for_each_platform(
    commands: list[list[str]], tmp_path: Path, target: build.Target, name: str
) -> None:
    """Each kernel is compiled once a number type and level, what asks the processor once, all for the target; then linked."""
    build.build_with(build.Compiler(name, (name,)), target, build.SOURCES, tmp_path / target.library_name, tmp_path)
    *compiled, linked = commands
    made = sorted(Path(command[command.index("-o") + 1]).name for command in compiled)
    kernels = {path.stem for path in build.SOURCES.glob("*.c") if not path.stem.startswith(("cpu", "driver"))}
    assert made == sorted(
        ["cpu.o", *(f"{one}_{dtype}_{level}.o" for one in kernels for dtype in ("f32", "f64") for level in target.levels)]
    )
    assert {Path(word).name for word in linked} >= set(made) and "-shared" in linked
    spelling = {"zig": "-march=x86_64_v3", "gcc": "-march=x86-64-v3"}[name]
    assert any(spelling in command for command in compiled) == ("v3" in target.levels)
    assert all((target.zig in command) == (name == "zig") for command in commands)


def test_sanitizers_program_is_linked_of_kernels_and_their_table(commands: list[list[str]], tmp_path: Path) -> None:
    """The program gets the table of the kernels for each number type and level beside them, with the further options."""
    target = build.TARGETS["linux-x86_64"]
    build.build_driver(tmp_path / "driver", build.Compiler("gcc", ("gcc",)), target, TOY, ["-fsanitize=address"])
    *compiled, linked = commands
    tables = {
        Path(command[-1 - command[::-1].index("-o") + 1]).name for command in compiled if "driver_kernels" in command[-3]
    }
    assert all("-fsanitize=address" in command for command in commands)
    assert {Path(word).name for word in linked} >= {"driver", "driver.c", *tables}


def test_library_that_cannot_be_put_in_place_leaves_nothing(commands: list[list[str]], tmp_path: Path) -> None:
    """A folder stands where the file should: the build fails by its name, and no half of a library stays beside it."""
    target = build.TARGETS["linux-x86_64"]
    (tmp_path / "here" / "file").mkdir(parents=True)
    with pytest.raises(build.BuildFailed, match="here cannot be written: "):
        build.build_with(build.Compiler("gcc", ("gcc",)), target, TOY, tmp_path / "here", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_compiler_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    """A command that cannot be started is named."""
    with pytest.raises(build.BuildFailed, match="no-such-compiler"):
        build.run([str(tmp_path / "no-such-compiler")], tmp_path, tmp_path)


def test_command_line_builds_or_says_why_not(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``build.py`` writes the library where it is told and says what it holds; without compiler or platform it ends with 1."""
    found = [build.Compiler("gcc", ("gcc",))]
    monkeypatch.setattr(build, "compilers", lambda target: found)
    arguments = ["--target", "linux-aarch64", "--output", str(tmp_path)]
    assert build.main(arguments) == 0
    said = capsys.readouterr()
    assert f"{tmp_path}/libsb3edu-linux-aarch64.so (arm64; gcc, 0 KB)" in said.out
    assert "gcc's code for AVX-512 is slow: pip install ziglang" in said.err
    found.clear()
    assert build.main(arguments) == 1
    assert "the kernels were not built:\nno C compiler" in capsys.readouterr().err
    monkeypatch.setattr(build, "host_target", lambda: None)
    assert build.main([]) == 1
    assert "no kernels for this platform" in capsys.readouterr().err


# -- what is in a library ----------------------------------------------------------------------------------------------------


@needs_compiler
def test_library_has_each_kernel_for_each_level(built: Path) -> None:
    """The library exports each kernel in both number types for every level of its platform, and is free of faults."""
    assert TARGET is not None
    content = (built / TARGET.library_name).read_bytes()
    assert build.kernels_of(content) == {(dtype, level): {"axpy"} for dtype in ("f32", "f64") for level in LEVELS}
    if build.built_by(built / TARGET.library_name) == "zig":  # a system's own compiler may need a newer glibc
        assert build.faults(built / TARGET.library_name, TARGET, built / "csrc") == []


ELF = b"\x7fELF" + bytes(14) + b"\x3e\0"
MACH = b"\xcf\xfa\xed\xfe\x0c\0\0\x01"
PE = b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0\x64\x86"


@pytest.mark.parametrize(
    ("target", "content", "fault"),
    [
        ("linux-x86_64", MACH, "processor: found aarch64, expected x86_64"),
        ("macos-aarch64", PE, "processor: found x86_64, expected aarch64"),
        ("linux-aarch64", b"text", "processor: found unknown, expected aarch64"),
        ("linux-x86_64", ELF, "not built from these sources"),
        ("linux-x86_64", ELF + b"\0sb3edu_act_f32_v2\0", "f64, v3: no act"),
        ("macos-aarch64", MACH + b"\0_sb3edu_act_f32_v2\0", "kernels of another platform: [('f32', 'v2')]"),
        ("linux-x86_64", ELF + b"GLIBC_2.29\0", "needs glibc 2.29, expected at most 2.17"),
    ],
)
def test_fault_of_a_library_is_found(tmp_path: Path, target: str, content: bytes, fault: str) -> None:
    """A library for another processor, of other sources, without a kernel for a level, or for too new a system is found."""
    path = tmp_path / "library"
    path.write_bytes(content)
    assert fault in build.faults(path, build.TARGETS[target])


def test_stamp_is_of_content_and_options_only(tmp_path: Path) -> None:
    """The stamp changes with a kernel, a header and the platform; not with the sanitizers' program or the line endings."""
    kernels = checkout(tmp_path) / "csrc"
    linux, windows = build.TARGETS["linux-x86_64"], build.TARGETS["windows-x86_64"]
    first = build.stamp(kernels, linux)
    (kernels / "driver.c").write_text("int main(void) { return 0; }")
    source = kernels / "axpy.c"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    assert build.stamp(kernels, linux) == first
    assert build.stamp(kernels, windows) != first
    (kernels / "vectors.h").write_text("#define LANES 16")
    assert build.stamp(kernels, linux) != first


def test_installation_compiles_without_the_package() -> None:
    """``build.py`` runs where only Python is installed: it imports nothing else."""
    code = (
        f"import sys; sys.argv[1:] = ['--help']; import runpy; runpy.run_path({str(build.HERE / 'build.py')!r}, run_name='x')"
    )
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
