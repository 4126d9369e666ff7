"""Several processes train one policy: the same bits in all of them, and what one process would have learned."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint.files import all_in
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.distributed.affinity import available_cpus, schedule_gloo_as_batch, set_own_affinity, share_of_cpus
from sb3_ppo_edu.distributed.averaging import Moments
from sb3_ppo_edu.distributed.normalization import increment_between
from sb3_ppo_edu.distributed.process_group import format_ranks, launched
from sb3_ppo_edu.engines import EngineWrapper
from sb3_ppo_edu.envs.factory import EnvironmentSettings
from sb3_ppo_edu.training.settings import EVALUATIONS_PER_RUN, RunSettings, share_of
from tests.torchrun_process import ENVS, SEED, STEPS, UPDATES, build, parameters, same_environment, unbroken

PROJECT = Path(__file__).parents[1]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def processes(words: list[str], size: int = 2, started: int | None = None) -> list[subprocess.Popen[str]]:
    """Start processes as torchrun does, each with its rank."""
    common = {**ENV, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size if started is None else started)
    ]


def words_for(folder: Path, *jobs: tuple[str, dict[str, Any]], **times: float) -> list[str]:
    """Write the command of a process that does jobs."""
    return ["-m", "tests.torchrun_process", json.dumps(jobs), json.dumps(times), str(folder)]


ROUNDING = 2e-5

LEARNING: list[dict[str, Any]] = [
    {"engine": "fused"},
    {
        "engine": "autograd",
        "advantage_normalization": "batch",
        "recompute_advantages": True,
        "ent_coef": 0.01,
        "vf_lambda": 0.6,
    },
    {
        "engine": "fused",
        "micro_batch_size": 8,
        "clip_range_vf": 0.2,
        "shared_net_arch": [8],
        "layer_norm": True,
        "vf_n_steps": 3,
        "clip_range": "warmup_0.1_cos_0.3_0.1",
    },
    {"algo": "maskableeduppo", "engine": "fused"},
    {"algo": "recurrenteduppo", "engine": "autograd", "policy_kwargs": {"lstm_hidden_size": 8}},
    {"algo": "recurrenteduppo", "engine": "fused", "micro_batch_size": 8, "policy_kwargs": {"lstm_hidden_size": 8}},
    {"algo": "maskablerecurrenteduppo", "engine": "fused", "recurrent_cell": "gru", "policy_kwargs": {"lstm_hidden_size": 8}},
]
FOLLOWING: dict[str, Any] = {
    "target_kl": None,
    "learning_rate": "kl_0.003_1e-3",
    "objective": {"sb3_ppo_edu.functional.kl.KLPenaltyObjective": {"d_targ": 0.003}},
}
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"learns {index}": ("same_rollouts", given) for index, given in enumerate(LEARNING)},
    **{engine: ("own_rollouts", {"engine": engine}) for engine in ("autograd", "fused")},
    "kl": ("own_rollouts", {"target_kl": 1e-5}),
    "follows the kl": ("own_rollouts", FOLLOWING),
    **{where: ("not_finite", {"where": where}) for where in ("returns", "advantages")},
    "stopped": ("stopped", {}),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Let two processes do all jobs, one after the other: for each, and for "process", what came of it in either."""
    folder = tmp_path_factory.mktemp("two")
    started = processes(words_for(folder, *JOBS.values()))
    outputs = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(outputs)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    jobs = {name: [rank["found"][index] for rank in ranks] for index, name in enumerate(JOBS)}
    return {**jobs, "process": [rank["process"] for rank in ranks]}


# -- what is learned -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(LEARNING)))
def test_two_processes_learn_what_one_does(found: dict[str, list[Any]], index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Two processes with half the environments each end with the parameters of one with all, to rounding, over 10 updates.

    Minibatches are whole rollouts, so that both see the same; each process draws its rows of the noise that one would draw.
    The same with masks and with a memory, whose sequences are cut alike.
    """
    one = build(same_environment(**LEARNING[index]), ENVS, 0, **LEARNING[index])
    before = parameters(one)
    unbroken(monkeypatch)
    one.learn(ENVS * STEPS * UPDATES)
    both = found[f"learns {index}"]
    for process in both:
        assert process["steps"] == one.num_timesteps == ENVS * STEPS * UPDATES
        np.testing.assert_allclose(process["parameters"], parameters(one), rtol=0, atol=ROUNDING)
    assert np.abs(parameters(one) - before).max() > 100 * ROUNDING, "nothing was learned, so nothing was shown"
    assert both[0]["prints"] == both[1]["prints"] and len(set(both[0]["prints"])) == UPDATES


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_parameters_are_the_same_bits_after_every_update(found: dict[str, list[Any]], engine: str) -> None:
    """With noise, seeds and minibatches of their own, KL stops and normalisation, processes stay together to the bit."""
    first, second = found[engine]
    assert len(set(first["prints"])) == 20
    assert first == second, "parameters, moments, episodes or counts differ"
    assert first["steps"] == ENVS * STEPS * 20 and len(first["episodes"]) == 4, (
        "20 rollouts of 16 steps: an episode for each of 4"
    )
    # Every observation and reset of all four environments is in the moments, and 1e-4 to begin with.
    resets = ENVS * (1 + 20 * STEPS // 200)
    assert first["moments"]["observation observation"][1] == pytest.approx(ENVS * STEPS * 20 + resets - ENVS + 1e-4, abs=ENVS)


def test_what_follows_the_kl_is_the_same_in_both(found: dict[str, list[Any]]) -> None:
    """The mean of both measurements rules, so that rate, penalty and what is learned stay together to the bit."""
    first, second = found["follows the kl"]
    assert first == second and len(set(first["prints"])) == 20
    rate, beta, kl = first["adaptive"]
    assert rate != 1e-3 and beta != 1.0 and kl > 0


def test_processes_keep_out_of_each_others_way(found: dict[str, list[Any]]) -> None:
    """
    Gloo's network thread waits for its turn, and each process has processors of its own, where there are enough.

    Gloo's threads end with the training: one that outlives the interpreter aborts the process (pytorch #190489).
    """
    for process in found["process"]:
        assert process["policies"]["gloo_tcp_loop"] == os.SCHED_BATCH
        assert process["policies"]["pt_gloo_runloop"] == os.SCHED_OTHER
        assert process["threads that stay"] == []
    able = os.sched_getaffinity(0)
    shares = [set(process["cpus"]) for process in found["process"]]
    assert shares[0] | shares[1] == able
    assert len(able) < 2 or not shares[0] & shares[1]


def test_a_sandbox_may_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system lets no process set its scheduling, or tells of no threads, training goes on as it is."""

    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr("sb3_ppo_edu.distributed.affinity.thread_names", lambda: {0: "gloo_tcp_loop"})
    schedule_gloo_as_batch()
    set_own_affinity([f"host {available_cpus()}"], 0)


@given(st.sets(st.integers(0, 200), min_size=1, max_size=64), st.integers(1, 70))
def test_processors_are_shared_out(able: set[int], size: int) -> None:
    """Each process of a machine gets as many, none twice; with too few, and where they differ already, nothing changes."""
    own = sorted(able)
    shares = [share_of_cpus([f"host {own}"] * size, rank, own) for rank in range(size)]
    if size > len(own):
        assert shares == [own] * size
    else:
        assert sorted(cpu for share in shares for cpu in share) == own
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert share_of_cpus([f"host {own}", "host [1000]"], 0, own) == own
    assert share_of_cpus([f"host {own}", f"another {own}"], 1, own) == own


def test_a_kl_stop_is_everyones(found: dict[str, list[Any]]) -> None:
    """The averaged KL stops all processes at the same minibatch: the number of updates is the same, and smaller."""
    first, second = found["kl"]
    assert first["n_updates"] == second["n_updates"] < 20 * 5


@pytest.mark.parametrize("where", ["returns", "advantages"])
def test_a_nan_in_one_process_ends_all(found: dict[str, list[Any]], where: str) -> None:
    """The process with the NaN is named everywhere, and nobody waits for it."""
    first, second = found[where]
    assert first["steps"] == second["steps"] == 128
    for error in (first["error"], second["error"]):
        assert "rank 1: " in error and "rank 0" not in error and "ranks" not in error


def test_a_wish_to_stop_is_everyones(found: dict[str, list[Any]]) -> None:
    """A callback that ends training in one process ends it in all after that rollout, with the same parameters."""
    first, second = found["stopped"]
    assert first == second
    # It asks in the second rollout of 64 steps; in the third nobody takes more than the first step.
    assert first["steps"] == 2 * 64 + 4


# -- faults --------------------------------------------------------------------------------------------------------------


def test_a_process_that_never_arrives_is_named(tmp_path: Path) -> None:
    """With one of two processes started, it gives up in the stated time and says which is missing."""
    begin = time.monotonic()
    (process,) = processes(words_for(tmp_path, rendezvous_timeout=2), started=1)
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and time.monotonic() - begin < 30
    assert re.search(
        r"rank 0 of 2: rank 1 did not arrive at 127.0.0.1:\d+ within 2 s; expected torchrun with the same", output
    )


def test_a_process_that_hangs_is_named(tmp_path: Path) -> None:
    """The others wait as long as was said, then end and name the one that is behind."""
    started = processes(words_for(tmp_path, ("hangs", {}), timeout=3))
    output = started[0].communicate(timeout=60)[0]
    started[1].kill()
    started[1].communicate()
    assert started[0].returncode != 0
    assert re.search(r"LostProcessError: rank 0 of 2: rank 1 did not reach synchronization point \d+ within 3 s", output), (
        output
    )


def settings_file(folder: Path) -> Path:
    """Write settings of a short training."""
    block = {"n_timesteps": 5_000, "normalize": True, "n_envs": 4, "n_steps": 32, "batch_size": 64, "n_epochs": 2}
    path = folder / "settings.yml"
    path.write_text(yaml.safe_dump({"Pendulum-v1": block}), encoding="utf-8")
    return path


def train_words(folder: Path, name: str) -> list[str]:
    """Words of a command line that trains it."""
    settings = ["--config", str(settings_file(folder)), "--checkpoint-freq", "512", "--eval-freq", "20000"]
    rest = ["--eval-episodes", "1", "--no-replay", "--folder", str(folder), "--name", name]
    return ["-m", "sb3_ppo_edu", "train", "--env", "Pendulum-v1", *settings, *rest]


def wait_for_checkpoints(folder: Path, number: int) -> None:
    """Wait until a process has made some."""
    for _ in range(600):
        if len(all_in(folder)) >= number:
            return
        time.sleep(0.1)
    raise AssertionError(f"{folder}: no {number} checkpoints")


def bits(folder: Path) -> bytes:
    """Parameters of a run's model."""
    return parameters(EduPPO.load(folder / "model.zip", device="cpu")).tobytes()


def steps_logged(folder: Path) -> list[str]:
    """Steps in a run's log."""
    header, *rows = (folder / "progress.csv").read_text().splitlines()
    column = header.split(",").index("time/total_timesteps")
    return [row.split(",")[column] for row in rows]


def test_torchrun_and_a_killed_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The command of the guide: torchrun, two processes, one folder, one log; and one process can't resume it.

    Then the same training without torchrun and SIGKILL of one process: the other says which and ends; resumed, both end as
    torchrun's, which nobody has disturbed, to the bit. One test, since the undisturbed training takes ten seconds.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    done = subprocess.run([*command, *train_words(tmp_path, "whole")], env=ENV, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 environments in each of 2 processes") == 1
    assert steps_logged(tmp_path / "whole") == [str(128 * rollout) for rollout in range(1, 41)]
    record = yaml.safe_load((tmp_path / "whole" / "settings.yml").read_text())
    assert (record["processes"], record["n_envs"], record["seed"]) == (2, 2, 0)
    other = yaml.safe_load((tmp_path / "whole" / "rank-1" / "settings.yml").read_text())
    assert (other["processes"], other["n_envs"], other["seed"]) == (2, 2, 2)
    assert not (tmp_path / "whole" / "rank-1" / "progress.csv").exists()
    assert main(["resume", str(tmp_path / "whole")]) == 2
    assert "found one process, expected the 2 that it was made by: torchrun" in capsys.readouterr().err

    killed = processes(train_words(tmp_path, "killed"))
    wait_for_checkpoints(tmp_path / "killed" / "rank-1" / "checkpoints", 2)
    begin = time.monotonic()
    killed[1].send_signal(signal.SIGKILL)
    output = killed[0].communicate(timeout=60)[0]
    killed[1].communicate()
    assert killed[0].returncode == 1 and time.monotonic() - begin < 30
    assert "rank 0 of 2: rank 1 ended" in output, output
    resumed = processes(["-m", "sb3_ppo_edu", "resume", str(tmp_path / "killed")])
    outputs = [process.communicate(timeout=200)[0] for process in resumed]
    assert [process.returncode for process in resumed] == [0, 0], outputs
    assert "going on at step" in outputs[0] and "going on" not in outputs[1]
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")
    assert steps_logged(tmp_path / "killed") == steps_logged(tmp_path / "whole")


# -- parts ---------------------------------------------------------------------------------------------------------------


values = arrays(np.float64, st.integers(1, 9), elements=st.floats(-1e3, 1e3))


@given(st.lists(values, min_size=1, max_size=4))
def test_moments_of_parts_are_those_of_the_whole(parts: list[np.ndarray]) -> None:
    """Whatever the parts, mean and deviation (n - 1) are numpy's of all numbers at once."""
    everything = np.concatenate(parts)
    found = Moments.merge([Moments.of(part) for part in parts])
    assert found.number == len(everything)
    if len(everything) > 1:
        mean, std = found.mean_and_std
        assert mean == pytest.approx(everything.mean(), abs=1e-9)
        assert std == pytest.approx(everything.std(ddof=1), rel=1e-9, abs=1e-6)


@given(st.lists(values, min_size=2, max_size=4))
def test_what_was_added_to_running_moments_is_found_again(parts: list[np.ndarray]) -> None:
    """Undoing ``RunningMeanStd.update`` and doing it again elsewhere gives the same moments."""
    moments = RunningMeanStd(shape=())
    moments.update(parts[0])
    before = dict(vars(moments))
    for part in parts[1:]:
        moments.update(part)
    again = RunningMeanStd(shape=())
    vars(again).update(before)
    again.update_from_moments(*increment_between(before, moments))
    assert again.count == pytest.approx(moments.count)
    assert float(again.mean) == pytest.approx(float(moments.mean), rel=1e-6, abs=1e-6)
    assert float(again.var) == pytest.approx(float(moments.var), rel=1e-5, abs=1e-5)
    assert increment_between(before, _with(before))[2] == 0.0


def _with(state: dict[str, Any]) -> RunningMeanStd:
    """Running moments in a state."""
    moments = RunningMeanStd(shape=())
    vars(moments).update(state)
    return moments


def test_a_run_is_shared_out() -> None:
    """Environments and minibatches are divided, seeds count up over all environments, steps are those of the whole."""
    whole = RunSettings(EnvironmentSettings("CartPole-v1"), algorithm={"batch_size": 256}, steps=1000, seed=7, n_envs=8)
    parts = [share_of(whole, rank, 4) for rank in range(4)]
    assert [part.seed for part in parts] == [7, 9, 11, 13]
    assert {(part.n_envs, part.algorithm["batch_size"], part.steps, part.processes) for part in parts} == {(2, 64, 1000, 4)}
    # EvalCallback counts calls, of which each is a step of every environment of all processes.
    assert parts[0].eval_freq is not None and parts[0].eval_freq // parts[0].n_envs == (1000 // EVALUATIONS_PER_RUN) // 8
    default = share_of(RunSettings(EnvironmentSettings("CartPole-v1"), n_envs=2), 0, 2)
    assert default.algorithm["batch_size"] == 32
    for wrong, message in (({"n_envs": 3}, "n_envs=3"), ({"n_envs": 4, "algorithm": {"batch_size": 7}}, "batch_size=7")):
        with pytest.raises(ValueError, match=f"{message}: expected a multiple of the 2 processes"):
            share_of(RunSettings(EnvironmentSettings("CartPole-v1"), **wrong), 0, 2)


def test_names_and_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are named by rank; a process alone is not launched as one of several."""
    assert format_ranks([1]) == "rank 1" and format_ranks([0, 2]) == "ranks 0, 2"
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert launched()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not launched()


def test_training_alone_again(tmp_path: Path) -> None:
    """What averages is gone after training: the model saves, loads and trains by itself, counting its own steps."""
    model = build("Pendulum-v1", 2, 0)

    class OfTwo(BaseCallback):
        """Begins to average, as ``DataParallel`` does."""

        def _on_training_start(self) -> None:
            model.session.n_processes, model.session.around_engine = 2, EngineWrapper

        def _on_step(self) -> bool:
            return isinstance(model.attach_engine(), EngineWrapper)

    model.learn(STEPS * 2, callback=OfTwo())
    assert model.session.n_processes == 1 and model.num_timesteps == STEPS * 2 * 2
    assert model.session.around_engine is None and not isinstance(model.attach_engine(), EngineWrapper)
    model.save(tmp_path / "model")
    loaded = EduPPO.load(tmp_path / "model", device="cpu", env=model.env)
    assert loaded.session.n_processes == 1 and loaded.seed == SEED
    loaded.learn(STEPS * 2)
    assert loaded.num_timesteps == STEPS * 2
