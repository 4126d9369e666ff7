"""``sb3-edu doctor``: read the record of a training and say what is wrong with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sb3_ppo_edu.cli.display import TextConsole
from sb3_ppo_edu.cli.refusals import DONE, RefusedError, refusing_bad_input
from sb3_ppo_edu.doctor.diagnose import Diagnosis, command, compare, diagnose, symptoms_as_markdown
from sb3_ppo_edu.doctor.record import read_record
from sb3_ppo_edu.doctor.symptoms import BY_NAME, SYMPTOMS

DESCRIPTION = """\
Read what a training has logged, name what is wrong with it, and say what to try first. RUN is the run's folder, its
progress.csv, or a TensorBoard events file; runs of Stable-Baselines3's own PPO will do. What was not logged is not examined.
"""

EXAMPLES = """\
examples:
  sb3-edu doctor runs/lander
  sb3-edu doctor logs/PPO_1 --output report
  sb3-edu doctor --compare runs/lander runs/lander-again
  sb3-edu doctor --symptoms

exit codes: 0 examined, whatever the verdict, 2 bad input
"""


def add_doctor(commands: Any, _: Sequence[str]) -> None:
    """Add ``sb3-edu doctor``."""
    parser = commands.add_parser(
        "doctor",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.set_defaults(command=doctor, parser=parser)
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="the run's folder, progress.csv or events file")
    parser.add_argument("--compare", type=Path, nargs="+", metavar="RUN", help="compare these runs, two or more")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where doctor.json and doctor.html go (default: the run)")
    parser.add_argument("--symptoms", action="store_true", help="print the table of all symptoms as Markdown")
    parser.add_argument("--no-page", dest="page", action="store_false", help="print only, write nothing")


def doctor(arguments: argparse.Namespace) -> int:
    """
    Diagnose a run, or compare several; return the exit code.

    :raises RefusedError: if what was given is no record of a PPO training
    """
    console = TextConsole(highlight=False)
    if arguments.symptoms:
        print(symptoms_as_markdown(), end="")
        return DONE
    given = [*([] if arguments.run is None else [arguments.run]), *(arguments.compare or [])]
    if arguments.compare is not None and len(given) < 2:
        raise RefusedError(f"--compare {given[0]}: one run; expected two or more to compare")
    if not given:
        raise RefusedError("RUN: not given; expected a run's folder, such as runs/lander, or --compare RUN RUN")
    with refusing_bad_input():
        records = [read_record(path) for path in given]
    if len(records) > 1:
        comparison = compare(records)
        for one in comparison.diagnoses:
            console.print(f"[bold]{escape(one.record.source)}[/bold]: {escape(one.summary)}", soft_wrap=True)
        console.print(comparison.summary, soft_wrap=True, markup=False)
        if arguments.page:
            # Imported here: drawing takes longer than all the rest.
            from sb3_ppo_edu.lab.doctor_page import write_comparison

            with refusing_bad_input():
                console.print(f"{write_comparison(comparison, arguments.output or Path('runs'))}", soft_wrap=True)
        return DONE
    diagnosis = diagnose(records[0])
    print_diagnosis(console, diagnosis)
    if arguments.page:
        from sb3_ppo_edu.doctor.callback import write_report
        from sb3_ppo_edu.lab.doctor_page import write_page

        folder = arguments.output or (given[0] if given[0].is_dir() else given[0].parent)
        with refusing_bad_input():
            console.print()
            for path in (write_page(diagnosis, folder), write_report(diagnosis, folder)):
                console.print(str(path), soft_wrap=True, markup=False)
    return DONE


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Print verdict, findings and what to try first."""
    record = diagnosis.record
    console.print(f"[bold]{diagnosis.verdict}[/bold]: ", end="")
    console.print(diagnosis.summary, soft_wrap=True, markup=False)
    for note in record.notes:
        console.print(note, soft_wrap=True, markup=False)
    if diagnosis.findings:
        console.print()
        console.print(findings_table(diagnosis))
        first = BY_NAME[diagnosis.findings[0].name]
        console.print("\n[bold]What to try first[/bold]")
        console.print(f"  {first.remedy}", soft_wrap=True, markup=False)
        line = command(record, first)
        if line is not None:
            console.print(f"  {line}", soft_wrap=True, markup=False)
    if diagnosis.not_examined:
        console.print(
            f"\n{len(diagnosis.not_examined)} of {len(SYMPTOMS)} symptoms not examined: {escape(reasons(diagnosis))}",
            style="dim",
        )


def findings_table(diagnosis: Diagnosis) -> Table:
    """List the findings in a table."""
    table = Table(box=None, padding=(0, 2))
    table.add_column("finding")
    table.add_column("confidence", justify="right")
    table.add_column("evidence")
    for finding in diagnosis.findings:
        title = BY_NAME[finding.name].title
        if finding.explained_by is not None:
            title = f"  [dim]{title}[/dim]"
        piece = finding.evidence[0]
        table.add_row(title, f"{finding.confidence:.0%}", escape(f"{piece.key}: {piece.text}"))
    return table


def reasons(diagnosis: Diagnosis, most: int = 4) -> str:
    """Say why symptoms were not examined: at most ``most`` reasons, each once."""
    different: Sequence[str] = list(dict.fromkeys(diagnosis.not_examined.values()))
    return "; ".join(different[:most]) + ("; …" if len(different) > most else "")
