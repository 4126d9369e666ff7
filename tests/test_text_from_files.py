"""Text from files is text: no terminal obeys it, no browser runs it, no shell is given it unquoted; near names are found."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest
from rich.table import Table

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.cli.display import TextConsole
from sb3_ppo_edu.doctor.diagnose import command
from sb3_ppo_edu.doctor.symptoms import BY_NAME
from sb3_ppo_edu.lab.page import marked
from sb3_ppo_edu.serialization.text import did_you_mean, printable
from tests.doctor_records import make_record

TITLE = "\x1b]0;title\x07"
"""What gives a terminal's window another title."""


def test_control_characters_are_spelled_out() -> None:
    """Escapes, bells, carriage returns, marks of direction; line ends, tabs and letters of all languages stay."""
    assert printable(f"a{TITLE}b\r\u202e\x9b") == r"a\x1b]0;title\x07b\r\u202e\x9b"
    assert printable("é 漢字\tb\n") == "é 漢字\tb\n"


def test_the_console_prints_no_control_characters() -> None:
    """As a line, in a table, with and without markup; its own styles are sent as they are."""
    file = io.StringIO()
    console = TextConsole(file=file, force_terminal=True, color_system="standard", width=80, highlight=False)
    table = Table()
    table.add_column(TITLE)
    table.add_row(TITLE)
    for printed in (TITLE, f"[bold]{TITLE}[/bold]", table):
        console.print(printed)
    console.print(TITLE, markup=False)
    assert "\x1b]0;" not in file.getvalue()
    assert file.getvalue().count(r"\x1b]0;title\x07") == 5
    assert "\x1b[1m" in file.getvalue()


def test_a_refusal_prints_no_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names what a file says."""
    (tmp_path / "model.zip").write_bytes(b"")
    (tmp_path / "settings.yml").write_text(
        'seed: 1\nsteps: 1\nn_envs: 1\nalgorithm: {}\nthreads: {torch: 1}\nenvironment: {id: "a\\e]0;title\\a:b"}'
    )
    assert main(["evaluate", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert r"\x1b]0;title" in error
    assert "\x1b" not in error


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "JavaScript:x", "//x.org", "\x01javascript:x"])
def test_only_the_web_and_files_become_links(address: str) -> None:
    """What is no link stays as it was written."""
    assert "<a" not in marked(f"[details]({address})")


@pytest.mark.parametrize("address", ["https://example.org/a?b=c", "http://example.org", "runs.csv"])
def test_links_are_links(address: str) -> None:
    """Addresses on the web, and files beside the page."""
    assert marked(f"[x]({address})") == f'<a href="{address}">x</a>'


@pytest.mark.parametrize(
    ("trained", "words"),
    [
        ("sb3-edu train --env X --name a --seed 3", ["sb3-edu", "train", "--env", "X", "--seed", "3"]),
        ("sb3-edu train --env X;echo yours #", ["sb3-edu", "train", "--env", "X;echo", "yours", "#"]),
        ("sb3-edu train --env '$(id)' --trust", ["sb3-edu", "train", "--env", "$(id)"]),
        (f"sb3-edu train --env X {TITLE}", ["sb3-edu", "train", "--env", "a b;c"]),
        ("sb3-edu train --env 'X", ["sb3-edu", "train", "--env", "a b;c"]),
        ("sb3-edu trainer; echo yours", ["sb3-edu", "train", "--env", "a b;c"]),
    ],
)
def test_the_line_to_paste_is_quoted(trained: str, words: list[str]) -> None:
    """A shell reads every word of it as one word, and nothing of a stranger's command is trusted anew."""
    symptom = BY_NAME["learning-rate-too-high"]
    line = command(make_record(None, {"command": trained, "env": "a b;c"}), symptom)
    assert line is not None
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = list(lexer)
    assert found[: len(words)] == words
    assert found[len(words)].startswith("--")


@pytest.mark.parametrize(
    ("found", "said"), [("n_step", " (did you mean 'n_steps'?)"), ("N_STEPS", " (did you mean 'n_steps'?)"), ("zebra", "")]
)
def test_the_nearest_name_is_found(found: str, said: str) -> None:
    """What was probably meant is named, whatever its case; where nothing is near, nothing is."""
    assert did_you_mean(found, ["n_steps", "n_epochs"]) == said
