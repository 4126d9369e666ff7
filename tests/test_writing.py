"""Writing into a stranger's folder: nothing outside of it is opened, whatever links and names lie there."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.checkpoint import CheckpointError, files
from sb3_ppo_edu.checkpoint.confinement import confined
from sb3_ppo_edu.checkpoint.files import UnfitStateError
from sb3_ppo_edu.checkpoint.logs import cut
from sb3_ppo_edu.checkpoint.plain import pack, unpack
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.course.grade_book import GradeBook
from sb3_ppo_edu.serialization.errors import UntrustedFileError
from sb3_ppo_edu.serialization.writing import open_through_no_link, refuse_links, write_atomically
from sb3_ppo_edu.training.resume import resume_run
from sb3_ppo_edu.training.run import Run, close_run, learn, start_run
from tests.small_runs import settings_for

PRECIOUS = "precious\nprecious\n"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Lay down a file that nobody may touch."""
    path = tmp_path / "victim"
    path.write_text(PRECIOUS)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a run with checkpoints."""
    run = start_run(settings_for(checkpoint_freq=64), tmp_path_factory.mktemp("runs") / "run")
    learn(run)
    close_run(run)
    return run


def test_a_link_is_replaced_and_not_followed(tmp_path: Path, victim: Path) -> None:
    """Neither one in the file's place, nor one under the temporary name; both files are the folder's own afterwards."""
    (tmp_path / "page.html").symlink_to(victim)
    (tmp_path / ".partial-page.html").symlink_to(victim)
    write_atomically(tmp_path / "page.html", lambda path: path.write_text("page"))
    assert (tmp_path / "page.html").read_text() == "page"
    assert not (tmp_path / "page.html").is_symlink()
    assert victim.read_text() == PRECIOUS


def test_a_link_is_not_opened(tmp_path: Path, victim: Path) -> None:
    """Where a file is written on, a link is an error."""
    (tmp_path / "log.txt").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        open_through_no_link(tmp_path / "log.txt", os.O_WRONLY)
    with pytest.raises(OSError, match="symbolic links"):
        cut(tmp_path / "log.txt", 3)
    assert victim.read_text() == PRECIOUS


def test_checkpoints_are_not_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    """The name under which a checkpoint is written is known beforehand."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"{files.PARTIAL}checkpoint-{8:012d}.zip").symlink_to(victim)
    assert files.save(tmp_path / "c", 8, {"a": b"b"}, 1).is_file()
    assert victim.read_text() == PRECIOUS


def test_feedback_is_not_written_through_a_link(tmp_path: Path) -> None:
    """The folder of submissions may hold a link where feedback goes."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "feedback").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UntrustedFileError, match="feedback: found a symbolic link"):
        GradeBook(tmp_path)


@pytest.mark.parametrize(
    "place", ["progress.csv", "evaluations.npz", "monitor/0.monitor.csv", "monitor", "checkpoints", ".partial-model.zip"]
)
def test_links_in_a_run_are_refused_before_it_goes_on(place: str, trained: Run, tmp_path: Path) -> None:
    """Libraries open their files themselves: a run with any link in it goes on only with trust."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    target = tmp_path / "elsewhere"
    if (folder / place).exists():
        (folder / place).rename(target)
    else:
        target.write_text(PRECIOUS)
    (folder / place).symlink_to(target)
    with pytest.raises(UntrustedFileError, match=f"{place}: found a symbolic link.*--trust"):
        resume_run(folder)
    assert not (folder / ".lock").exists() or not (folder / ".lock").read_bytes()


def test_a_run_may_be_a_link(trained: Run, tmp_path: Path) -> None:
    """It is the user who names the run's folder."""
    (tmp_path / "run").symlink_to(trained.folder)
    refuse_links(tmp_path / "run")


def change_checkpoint(run: Path, change: Any) -> Path:
    """Change the state in a run's newest checkpoint, and leave no other."""
    newest, *older = files.all_in(run / "checkpoints")
    for one in older:
        one.unlink()
    members = files.read(newest)
    state = unpack(members["state.bin"])
    change(state)
    files.save(run / "checkpoints", int(newest.stem[-12:]), {**members, "state.bin": pack(state)}, 1)
    return newest


@pytest.mark.parametrize("kind", ["csv", "json", "log", "tensorboard", "shell"])
@pytest.mark.parametrize("name", ["{victim}", "../victim", "sub/progress.csv", "..", "settings.yml"])
def test_state_names_no_other_files(kind: str, name: str, trained: Run, tmp_path: Path, victim: Path) -> None:
    """A log file is one in the run's folder, of a name that logs have."""
    state = unpack(files.read(files.all_in(trained.folder / "checkpoints")[0])["state.bin"])
    state["logger"]["outputs"] = [{"kind": kind, "files": {name.format(victim=victim): 1}, "keys": ["x"]}]
    with pytest.raises(CheckpointError, match="found the log file"):
        confined(state, EduPPO, "file")


def test_state_overwrites_nothing_elsewhere(trained: Run, tmp_path: Path, victim: Path) -> None:
    """Where a callback, a wrapper or the model writes is what the resumed training says, not what the state says."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)

    def spoil(state: dict[str, Any]) -> None:
        state["model"].update(tensorboard_log=str(tmp_path / "tensorboard"), _custom_logger=False)
        for one in state["callbacks"]:
            one["attributes"].update(log_path=str(tmp_path / "log"), best_model_save_path=str(tmp_path / "best"))
        for _, attributes, _ in state["env"]["layers"]:
            attributes["video_folder"] = str(tmp_path / "film")

    change_checkpoint(folder, spoil)
    before = sorted(os.listdir(tmp_path))
    run = resume_run(folder, steps=192)
    learn(run)
    close_run(run)
    assert run.model.num_timesteps >= 192
    assert sorted(os.listdir(tmp_path)) == before


def test_state_imports_nothing(trained: Run, tmp_path: Path) -> None:
    """An objective in the state is a name like others."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    change_checkpoint(folder, lambda state: state.update(objective={"path": "antigravity.Objective", "attributes": {}}))
    with pytest.raises(ValueError, match=r"the objective 'antigravity\.Objective'"):
        resume_run(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
@pytest.mark.parametrize("place", ["checkpoints/checkpoint-000000009999.zip", "monitor/9.monitor.csv"])
def test_a_pipe_in_a_run_is_refused(place: str, trained: Run, tmp_path: Path) -> None:
    """Whoever reads from a pipe that nobody writes into waits without end."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    os.mkfifo(folder / place)
    with pytest.raises(UntrustedFileError, match=f"{place}: found a pipe"):
        resume_run(folder)


def test_state_replaces_no_object_and_no_method(trained: Run, tmp_path: Path) -> None:
    """Numbers take the place of numbers, not of the environment in a wrapper, the model in a callback, or what either does."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)

    def spoil(state: dict[str, Any]) -> None:
        for one in state["callbacks"]:
            one["attributes"].update(
                callback=7,
                callback_on_new_best=7,
                model=7,
                eval_env=7,
                parent=7,
                locals=7,
                training_env=7,
                _on_step=7,
                on_step=7,
            )
        for _, attributes, _ in state["env"]["layers"]:
            attributes.update(venv=7, envs=7, step_wait=7, reset=7)
        for one in state["env"]["envs"]:
            for _, attributes in one["wrappers"]:
                attributes.update(env=7, step=7, reset=7, results_writer=7, close=7)

    change_checkpoint(folder, spoil)
    run = resume_run(folder, steps=192)
    learn(run)
    close_run(run)
    assert run.model.num_timesteps >= 192


def test_state_opens_no_crowd_of_files(trained: Run) -> None:
    """A logger has an output or two of each kind, of which TensorBoard's starts a thread."""
    state = unpack(files.read(files.all_in(trained.folder / "checkpoints")[0])["state.bin"])
    state["logger"]["outputs"] = state["logger"]["outputs"][:1] * 100
    with pytest.raises(CheckpointError, match="file: found 100 outputs"):
        confined(state, EduPPO, "file")


def test_settings_in_a_state_are_a_mapping(trained: Run, tmp_path: Path) -> None:
    """They are compared with the run's own before anything else is looked at."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    newest = change_checkpoint(folder, lambda state: state.update(settings="x"))
    with pytest.raises(ValueError, match=f"{newest.name}: found settings='x' in it, expected a mapping"):
        resume_run(folder)


def test_state_changes_no_network(trained: Run, tmp_path: Path) -> None:
    """What the resumed run saves describes the networks that it has trained, not those that a state asks for."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    asked = {"policy_kwargs": {"net_arch": [10**12]}, "use_sde": True, "shared_net_arch": [10**12], "layer_norm": True}
    change_checkpoint(folder, lambda state: state["model"].update(asked))
    run = resume_run(folder, steps=192)
    try:
        saved = {name: getattr(run.model, name) for name in asked}
    finally:
        close_run(run)
    assert saved == {name: getattr(trained.model, name) for name in asked}


def test_state_calls_no_compiler(trained: Run, tmp_path: Path) -> None:
    """A compiler writes its files where it likes; the settings have no such option, and the state may not bring it."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    newest = change_checkpoint(folder, lambda state: state["model"].update(engine="autograd", engine_kwargs={"compile": True}))
    with pytest.raises(UntrustedFileError, match=f"{newest.name}: found engine_kwargs=.*which runs a compiler.*--trust"):
        resume_run(folder)


@pytest.mark.parametrize("content", [b"", b"[1]\0", b"[" * 100_000 + b"\0", b'{"dict":{"a":{"tensor":["load",[1],0]}}}\0'])
def test_a_damaged_state_is_named(content: bytes, trained: Run, tmp_path: Path) -> None:
    """The refusal says which file it is."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    newest = files.all_in(folder / "checkpoints")[0]
    files.save(folder / "checkpoints", int(newest.stem[-12:]), {**files.read(newest), "state.bin": content}, 1)
    with pytest.raises(ValueError, match=f"{newest.name}: found no "):
        resume_run(folder)


@pytest.mark.parametrize(
    ("part", "value"),
    [("parameters", "/etc/hostname"), ("parameters", 1e308), ("callbacks", {}), ("iteration", "x"), ("env", None)],
)
def test_a_state_of_another_form_is_refused(part: str, value: Any, trained: Run) -> None:
    """SB3 would take parameters that are no dictionary for a file's name, and read that."""
    state = unpack(files.read(files.all_in(trained.folder / "checkpoints")[0])["state.bin"])
    with pytest.raises(CheckpointError, match=f"file: found no state of a training: {part} is {type(value).__name__}"):
        confined({**state, part: value}, EduPPO, "file")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("rollout", {"steps": 10**9}),
        ("random", {"python": "x"}),
        ("model", {"gamma": None}),
        ("model", {"n_steps": 10**30}),
        ("parameters", {"policy": {}}),
    ],
)
def test_a_state_that_does_not_fit_is_refused(part: str, change: dict[str, Any], trained: Run, tmp_path: Path) -> None:
    """Whatever does not go back into the training is said in a sentence with the file's name."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    newest = change_checkpoint(folder, lambda state: state[part].update(change))
    with pytest.raises((ValueError, UnfitStateError), match=f"{newest.name}: "), ExitStack() as opened:
        run = resume_run(folder, steps=192)
        opened.callback(close_run, run)
        learn(run)


def test_a_state_that_does_not_fit_is_bad_input(trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line's training has other callbacks than this run's, which is found before the first step."""
    newest = files.all_in(shutil.copytree(trained.folder, tmp_path / "run") / "checkpoints")[0]
    assert main(["resume", str(tmp_path / "run"), "--steps", "192"]) == 2
    assert f"{newest.name}: callbacks: found " in capsys.readouterr().err
