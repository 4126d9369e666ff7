"""Models on the Hugging Face Hub, against one on this machine: what is sent, what comes back, and that no code of it runs."""

from __future__ import annotations

import io
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stable_baselines3 import PPO

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.saving import StatisticsWarning
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.training.hub import check_repo_id, model_card
from sb3_ppo_edu.training.resume import resumed_for
from tests.local_hub import LocalHub

constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed (extra 'hub')")

WORDS = "train --env CartPole-v1 --steps 64 --n-steps 32 --n-envs 1 --batch-size 32 --n-epochs 1 --eval-episodes 3 --normalize"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub that ``huggingface_hub`` takes for the real one, with a cache of its own."""
    local = LocalHub()
    with local.running() as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
        yield local


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run."""
    folder = tmp_path_factory.mktemp("runs")
    assert main([*WORDS.split(), "--folder", str(folder), "--name", "small"]) == 0
    return folder / "small"


def test_a_run_goes_there_and_comes_back(hub: LocalHub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pushed and fetched, the model predicts the same, with its statistics; a new repository is private."""
    assert main(["push", str(run), "someone/cart"]) == 0
    assert "/someone/cart" in capsys.readouterr().out
    assert hub.private == {"someone/cart": True}
    sent = hub.files["someone/cart"]
    assert {"README.md", "model.zip", "settings.yml", "evaluation.json", "replay.gif"} <= set(sent)
    assert all("/" not in name for name in sent), "checkpoints and monitors stay at home"
    assert sent["model.zip"] == (run / "model.zip").read_bytes()
    with pytest.warns(StatisticsWarning):
        fetched, own = EduPPO.from_hub("someone/cart"), EduPPO.load(run / "model.zip")
    observations = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)
    assert np.array_equal(
        fetched.predict(observations, deterministic=True)[0], own.predict(observations, deterministic=True)[0]
    )
    assert fetched.normalization() is not None


def test_public_must_be_said(hub: LocalHub, run: Path) -> None:
    """With --public the repository is created for everybody."""
    assert main(["push", str(run), "someone/open", "--public"]) == 0
    assert hub.private == {"someone/open": False}


def test_card_says_what_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The metadata that the Hub reads, the figures of the evaluation, the command that made it, and how to use it."""
    text = model_card(run, "someone/cart")
    _, metadata, body = text.split("---\n", 2)
    found = yaml.safe_load(metadata)
    assert found["library_name"] == "stable-baselines3" and "CartPole-v1" in found["tags"]
    evaluation = yaml.safe_load((run / "evaluation.json").read_text())
    trained = evaluation["trained"]
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == f"{trained['mean']:.2f} +/- {trained['std']:.2f}"
    assert f"| this model | {trained['mean']:.1f} ± {trained['std']:.1f} |" in body
    assert "sb3-edu train --env CartPole-v1" in body and 'EduPPO.from_hub("someone/cart")' in body
    assert main(["push", str(run), "someone/cart", "--card"]) == 0
    assert capsys.readouterr().out.strip() == text.strip()


def test_card_has_every_command_that_made_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that `resume --steps` made longer was made by both commands, and is not done again by the first alone."""
    folder = tmp_path / "longer"
    folder.mkdir()
    record = yaml.safe_load((run / "settings.yml").read_text())
    once = resumed_for(record, Path("runs/x y"), 128)
    assert once == resumed_for({**record, "resumed": once}, Path("runs/x y"), 128) == ["sb3-edu resume 'runs/x y' --steps 128"]
    (folder / "settings.yml").write_text(yaml.safe_dump({**record, "resumed": once}))
    assert f"{record['command']}\n{once[0]}\n```" in model_card(folder, "someone/cart")
    assert main(["reproduce", str(folder)]) == 2
    assert "has made the run longer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "repo_id", ["name", "a/b/c", "/b", "a/", "a/b c", "../x", "a/b--c", "a/b.git", "a/-b", "https://hub/a/b", "a/" + "x" * 96]
)
@pytest.mark.parametrize("words", [[], ["--card"]])
def test_names_that_the_hub_has_not_are_refused(
    words: list[str], repo_id: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OWNER/NAME is checked before the Hub is asked, and for the card too."""
    assert main(["push", str(run), repo_id, *words]) == 2
    assert f"repository {repo_id!r}: expected OWNER/NAME, such as someone/ppo-CartPole-v1" in capsys.readouterr().err


@pytest.mark.parametrize("repo_id", ["someone/ppo-CartPole-v1", "a/b", "some-one_2/x.y"])
def test_names_that_the_hub_has_are_taken(repo_id: str) -> None:
    """Letters, digits, and what stands between them."""
    check_repo_id(repo_id)


@pytest.mark.parametrize("words", [[], ["--card"]])
def test_what_is_no_run_is_not_sent(words: list[str], hub: LocalHub, tmp_path: Path) -> None:
    """A folder without model and settings: exit code 2, and nothing is created."""
    assert main(["push", str(tmp_path), "someone/nothing", *words]) == 2
    assert hub.files == {}


@pytest.mark.parametrize("name", ["model.zip", "replay.gif", "progress.csv"])
def test_links_are_not_followed(
    name: str, hub: LocalHub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run from somebody else may hold a link to a file of one's own: nothing is sent, and the link is named."""
    folder = tmp_path / "theirs"
    shutil.copytree(run, folder)
    (tmp_path / "own").write_bytes((run / "model.zip").read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "own")
    assert main(["push", str(folder), "someone/cart"]) == 2
    assert f"{name}: found a link, expected a file" in capsys.readouterr().err
    assert hub.files == {}


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"trained": {"n": 1, "mean": "x"}}'])
def test_a_damaged_evaluation_is_named(content: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file, in one sentence."""
    folder = tmp_path / "damaged"
    shutil.copytree(run, folder)
    (folder / "evaluation.json").write_text(content)
    assert main(["push", str(folder), "someone/cart", "--card"]) == 2
    assert "evaluation.json: found " in capsys.readouterr().err


def zipped(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A file of SB3's PPO."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    change(vars(model))
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def test_files_of_sb3_are_found(hub: LocalHub) -> None:
    """As SB3's own repositories have them: one .zip with a name of its own; of two, none is guessed."""
    content = zipped(lambda attributes: None)
    hub.files["sb3/ppo-CartPole-v1"] = {"ppo-CartPole-v1.zip": content, "README.md": b"", "args.yml": b""}
    assert EduPPO.from_hub("sb3/ppo-CartPole-v1").n_steps == 8
    hub.files["sb3/two"] = {"a.zip": content, "b.zip": content}
    with pytest.raises(
        ValueError, match=r"hub sb3/two: found a.zip, b.zip; expected model.zip or a single .zip file, or name"
    ):
        EduPPO.from_hub("sb3/two")
    assert EduPPO.from_hub("sb3/two", "b.zip").n_steps == 8
    hub.files["sb3/many"] = {f"{index}\x1b[31m.zip": content for index in range(9)}
    with pytest.raises(ValueError, match=r"^[^\x1b]* and 4 more; expected [^\x1b]*$"):
        EduPPO.from_hub("sb3/many")
    hub.files["sb3/none"] = {"README.md": b""}
    with pytest.raises(ValueError, match=r"hub sb3/none: found no .zip file among 1"):
        EduPPO.from_hub("sb3/none")
    with pytest.raises(OSError, match="hub nobody/nothing: "):
        EduPPO.from_hub("nobody/nothing")


def test_a_hub_that_is_not_there_is_said(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a network: one sentence, not a traceback."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as without a network, but nothing is tried again for seconds
    with pytest.raises(OSError, match="hub someone/cart: "):
        EduPPO.from_hub("someone/cart")
    assert main(["push", str(run), "someone/cart"]) == 2
    assert "error: hub someone/cart: " in capsys.readouterr().err


class Planted:
    """Something whose pickle runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Note that it was read."""
        return (exec, ("import builtins; builtins.it_ran = True",))


def test_no_code_of_a_fetched_file_runs(hub: LocalHub) -> None:
    """Unless ``trusted=True`` is given; the refusal names the type."""
    hub.files["bad/model"] = {"model.zip": zipped(lambda attributes: attributes.update(planted=Planted()))}
    with pytest.raises(ValueError, match="exec"):
        EduPPO.from_hub("bad/model")
    assert "it_ran" not in vars(sys.modules["builtins"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"needs huggingface_hub, .*pip install 'sb3-ppo-edu\[hub\]'"):
        EduPPO.from_hub("someone/cart")


def test_the_file_is_a_zip(hub: LocalHub, run: Path) -> None:
    """What the store gave back is what was put into it, byte by byte: the model's members are all there."""
    assert main(["push", str(run), "someone/cart"]) == 0
    with zipfile.ZipFile(io.BytesIO(hub.files["someone/cart"]["model.zip"])) as archive:
        assert {"data", "policy.pth", "vecnormalize.pkl"} <= set(archive.namelist())
