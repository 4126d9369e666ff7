"""``sb3-edu course``: build the notebooks, verify them, and grade what comes back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from sb3_ppo_edu.cli.display import TextConsole
from sb3_ppo_edu.cli.flags import positive_int
from sb3_ppo_edu.cli.refusals import DONE, FAILED, RefusedError, print_help, refusing_bad_input

DESCRIPTION = """\
The lessons in notebooks/: one text source each, from which the student's notebook and the one with solutions are built.
"""

EXAMPLES = """\
examples:
  sb3-edu course build
  sb3-edu course check
  sb3-edu course grade submissions --output grades
  sb3-edu course grade submissions --output grades --resume

exit codes: 0 done, 1 something must not be handed out, 2 bad input
"""

NEEDS = "sb3-edu course: expected jupytext, nbclient and nbformat (pip install 'sb3-ppo-edu[course]'), which handle notebooks"


def add_course(commands: Any, _: Sequence[str]) -> None:
    """Add ``sb3-edu course``."""
    parser = commands.add_parser(
        "course",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.set_defaults(command=print_help, parser=parser)
    verbs = parser.add_subparsers(metavar="VERB")

    build = verbs.add_parser("build", help="write the notebooks from their sources")
    build.set_defaults(command=build_course, parser=build)

    check = verbs.add_parser("check", help="say what must not be handed out")
    check.set_defaults(command=check_course, parser=check)
    check.add_argument("--no-execute", dest="execute", action="store_false", help="do not run the notebooks")

    grade = verbs.add_parser("grade", help="grade a folder of submissions")
    grade.set_defaults(command=grade_course, parser=grade)
    grade.add_argument("folder", type=Path, metavar="FOLDER", help="with one .ipynb file for each submission")
    grade.add_argument("--output", type=Path, metavar="DIR", help="where grades.csv and feedback/ go (default: FOLDER)")
    grade.add_argument(
        "--seed",
        type=positive_int,
        metavar="N",
        help="of the hidden inputs (default: a random one, kept in the output folder)",
    )
    grade.add_argument("--jobs", type=positive_int, metavar="N", help="submissions at a time (default: one a core)")
    grade.add_argument(
        "--resume", action="store_true", help="go on with an earlier run: files that have not changed keep their grades"
    )
    for verb in (build, check, grade):
        verb.add_argument(
            "--notebooks", type=Path, default=Path("notebooks"), metavar="DIR", help="of the lessons (default: %(default)s)"
        )


def require_notebook_packages() -> None:
    """
    Refuse to go on without the packages of the extra.

    :raises RefusedError: if one is missing
    """
    lacking = [name for name in ("jupytext", "nbclient", "nbformat") if find_spec(name) is None]
    if lacking:
        raise RefusedError(f"{NEEDS}; found no {', '.join(lacking)}")


def build_course(arguments: argparse.Namespace) -> int:
    """Write the notebooks; return the exit code."""
    require_notebook_packages()
    from sb3_ppo_edu.course.building import build

    console = TextConsole(highlight=False)
    with refusing_bad_input():
        for path in build(arguments.notebooks):
            console.print(str(path), soft_wrap=True)
    warn_without_address(console)
    return DONE


def warn_without_address(console: Console) -> None:
    """Say that notebooks do not know where the project lives, if so. It is no failure: they run wherever the package is."""
    from sb3_ppo_edu.course.building import without_address

    if missing := without_address():
        console.print(f"[yellow]Warning:[/yellow] {missing}.", soft_wrap=True)


def check_course(arguments: argparse.Namespace) -> int:
    """Verify the notebooks; return the exit code."""
    require_notebook_packages()
    from sb3_ppo_edu.course.verifying import verify

    console = TextConsole(highlight=False)
    with refusing_bad_input():
        findings = verify(
            arguments.notebooks, execute=arguments.execute, progress=lambda name: console.print(f"[dim]{name}[/dim]")
        )
    for finding in findings:
        console.print(str(finding), soft_wrap=True, markup=False)
    warn_without_address(console)
    if not findings:
        console.print("Ready to be handed out.")
    return FAILED if findings else DONE


def grade_course(arguments: argparse.Namespace) -> int:
    """Grade submissions; return the exit code."""
    require_notebook_packages()
    from sb3_ppo_edu.course.building import read_lessons
    from sb3_ppo_edu.course.grade_book import CSV_NAME, FEEDBACK_FOLDER, LIKENESS_NAME
    from sb3_ppo_edu.course.grading import grade_folder
    from sb3_ppo_edu.envs.backends import processors

    console = TextConsole(highlight=False)
    output = arguments.output or arguments.folder

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    with refusing_bad_input():
        alike = grade_folder(
            arguments.folder,
            read_lessons(arguments.notebooks),
            output,
            arguments.seed,
            jobs=arguments.jobs or processors(),
            resume=arguments.resume,
            progress=say,
        )
    say(f"{output / CSV_NAME}, and feedback in {output / FEEDBACK_FOLDER}")
    if alike:
        say(f"{len(alike)} pairs of submissions are the same but for names and comments: see {output / LIKENESS_NAME}")
    return DONE
