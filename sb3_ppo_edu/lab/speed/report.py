"""The report of the speed experiment: tables and words, made from the rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from sb3_ppo_edu.lab.formatting import NOTHING, interval
from sb3_ppo_edu.lab.page import Page, Picture, Section, Table
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES, PEERS, REFERENCE
from sb3_ppo_edu.lab.speed.further import (
    ALONE,
    CALLBACKS_EVERY,
    FIRST_UPDATE,
    IMPORTS,
    LATER_UPDATES,
    ROLLOUTS_WITH_CALLBACKS,
    THEIR_WORK,
    WITH_CALLBACKS,
)
from sb3_ppo_edu.lab.speed.plots import draw_glance, draw_split
from sb3_ppo_edu.lab.speed.report_sizes import updates
from sb3_ppo_edu.lab.speed.rows import (
    EndToEndRow,
    FurtherRow,
    SplitRow,
    Tables,
    read_tables,
)
from sb3_ppo_edu.lab.speed.summary import (
    FLOOR,
    FLOOR_PARTS,
    PARTS,
    WITHOUT_STOPWATCHES,
    algorithms_in,
    cases_in,
    estimate,
    further_median,
    median_of,
    parts_of,
    shares_of_floor,
    speedups,
)
from sb3_ppo_edu.lab.statistics.aggregates import Interval

COMMAND = "sb3-edu bench speed"


def read_page(folder: Path) -> Page:
    """
    Make the report from the rows of a folder.

    :param folder: where the CSV files are
    :return: the report
    :raises ValueError: if there are no rows, or a file has other columns
    """
    tables = read_tables(folder)
    if not any(tables):
        expected = ", ".join(tables.by_file())
        raise ValueError(f"{folder}: found no rows, expected some in {expected}; measure first: {COMMAND} --folder {folder}")
    return make_page(tables)


def make_page(tables: Tables) -> Page:
    """
    Make the report.

    :param tables: all rows, at least one
    :return: the report
    """
    sections = []
    if tables.end_to_end:
        sections += [trainings(tables), aims(tables), processor_time(tables.end_to_end)]
        if not set(algorithms_in(tables.end_to_end)).isdisjoint(PEERS):
            sections.append(peers(tables.end_to_end))
        sections.append(memory(tables.end_to_end))
    if tables.split:
        sections.append(split(tables.split))
        if any(row.algorithm == FLOOR for row in tables.split):
            sections.append(floor(tables.split))
    if tables.further:
        sections += waiting(tables.further)
    if tables.grid:
        sections += updates(tables.grid)
    quick = any(row.size == "quick" for row in chain(*tables))
    lead = ["**These are quick runs, shortened to try the command out. They are no result.**"] if quick else []
    return Page("How fast EduPPO trains", lead, [*sections, method(tables)], made_by(tables, quick))


def in_seconds(value: float | None) -> str:
    """
    Write a time.

    :param value: seconds, if there are any
    :return: such as "3.71 s"
    """
    return NOTHING if value is None else f"{value:.2f} s"


def repetitions_of(rows: Sequence[EndToEndRow] | Sequence[SplitRow]) -> int:
    """
    Count the repetitions.

    :param rows: the rows
    :return: the largest number of repetitions of a case and algorithm
    """
    return len({row.repetition for row in rows})


def made_by(tables: Tables, quick: bool) -> str:
    """
    Say what the rows were made with.

    :param tables: all rows
    :param quick: whether there are rows of quick runs
    :return: a paragraph
    """
    threads, machine, versions = (
        "; ".join(dict.fromkeys(str(getattr(row, name)) for row in chain(*tables)))
        for name in ("threads", "machine", "versions")
    )
    return (
        f"Made by `{COMMAND}{' --quick' if quick else ''}` on {machine}, with {threads} thread in each process; {versions}. "
        f"Every number comes from the rows beside this file; `{COMMAND} --report-only` writes it anew from them."
    )


def trainings(tables: Tables) -> Section:
    """
    Write how much faster trainings are.

    :param tables: all rows, some of trainings
    :return: the section
    """
    rows = tables.end_to_end
    steps = sorted({row.steps for row in rows})
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    text = [
        "How many times as fast as SB3's PPO: 2.00 means the same training in half the time. Wall clock of `learn` over a "
        f"few rollouts, {span} steps, median of up to {repetitions_of(rows)} repetitions, in brackets its 95% bootstrap "
        "interval.",
        *notes(own(rows)),
    ]
    picture = Picture("glance.png", draw_glance(rows, tables.split), "Seconds of trainings, shorter is better")
    return Section("Trainings", text, speedup_table(rows, own(rows), "wall_seconds"), picture)


def own(rows: Sequence[EndToEndRow]) -> list[str]:
    """
    List which of EduPPO's engines there are rows of.

    :param rows: of the trainings
    :return: keys of ``ALGORITHMS``
    """
    return [name for name in algorithms_in(rows) if ALGORITHMS[name].engine is not None]


def notes(algorithms: Sequence[str]) -> list[str]:
    """
    Explain the columns.

    :param algorithms: keys of ``ALGORITHMS``
    :return: one note each
    """
    explained = {
        "autograd": "**autograd** is the engine that ends with the same bits as SB3's PPO.",
        "numpy": "**numpy** is the derivation: each backward pass by hand, one way to do each thing.",
        "fused-dummy": "**kernels, in SB3's DummyVecEnv**: compiled kernels and the lean rollout loop, with SB3's own vector "
        "environment. SB3's PPO has it in all rows.",
        "fused": '**kernels** is what `EduPPO` takes by itself where it can (`engine="auto"`), with `InProcessVecEnv`, which '
        "its users have. So have autograd and numpy.",
        "fused-two-cores": "**a second core**: a process of its own steps part of the environments.",
    }
    render = (
        "**As users run it**: SB3's `make_vec_env` sets a render mode, for which LunarLander simulates its exhaust; EduPPO's "
        "environments have none. In all other rows nobody's have one."
    )
    return [*(text for name, text in explained.items() if name in algorithms), render]


def aims(tables: Tables) -> Section:
    """
    Write what was to be reached, and what was.

    :param tables: all rows, some of trainings
    :return: the section
    """

    def cells(aim: float | None, reached: Interval | None, percent: bool = False) -> list[str]:
        """An aim and what was reached, in strong type where it was missed."""
        if aim is None or reached is None:
            return [NOTHING, NOTHING]
        written = [f"≥ {100 * aim:.0f}%", f"{100 * reached.value:.0f}%"] if percent else [f"≥ {aim:g}", f"{reached.value:.2f}"]
        return written if reached.value >= aim else [written[0], f"**{written[1]}**"]

    lines = []
    for key in cases_in(tables.end_to_end):
        wanted = CASES[key].aims
        dummy, in_process = (estimate(speedups(tables.end_to_end, key, name)) for name in ("fused-dummy", "fused"))
        share = estimate(shares_of_floor(tables.split, key))
        found = [*cells(wanted.dummy, dummy), *cells(wanted.in_process, in_process), *cells(wanted.share, share, True)]
        if set(found) != {NOTHING}:
            lines.append([CASES[key].title, *found])
    text = (
        "What the kernels were to reach, and what they reach here; what is missed stands in strong type. Ratios differ from "
        "machine to machine, so that the floor's share of the time counts as well: 100% would be a training that takes no "
        "longer than its environments and its matrix products alone."
    )
    header = [
        "training",
        "aim in SB3's DummyVecEnv",
        "times as fast",
        "aim in EduPPO's",
        "times as fast",
        "aim",
        "floor's share",
    ]
    return Section("Aims", [text], Table(header, lines))


def speedup_table(rows: Sequence[EndToEndRow], others: Sequence[str], quantity: str) -> Table:
    """
    Write ratios to SB3's PPO.

    :param rows: of the trainings
    :param others: keys of ``ALGORITHMS``
    :param quantity: "wall_seconds" or "cpu_seconds"
    :return: the table
    """
    lines = []
    for case in cases_in([row for row in rows if row.algorithm in others]):
        ratios = [interval(estimate(speedups(rows, case, name, quantity))) for name in others]
        lines.append([CASES[case].title, in_seconds(median_of(rows, case, REFERENCE, quantity)), *ratios])
    return Table(["training", f"{ALGORITHMS[REFERENCE].title} takes", *(ALGORITHMS[name].title for name in others)], lines)


def processor_time(rows: Sequence[EndToEndRow]) -> Section:
    """
    Write the ratios of processor time.

    :param rows: of the trainings
    :return: the section
    """
    others = [name for name in algorithms_in(rows) if name != REFERENCE]
    text = (
        "The same for the processor time of the process, all its threads together. Other work on the machine disturbs it less."
    )
    return Section("Processor time", [text], speedup_table(rows, others, "cpu_seconds"))


def peers(rows: Sequence[EndToEndRow]) -> Section:
    """
    Write how fast other implementations are, and what SBX's compiler takes.

    :param rows: of the trainings, some of them theirs
    :return: the section
    """
    names = [name for name in PEERS if name in algorithms_in(rows)]
    table = speedup_table(rows, names, "wall_seconds")
    compiled = [median_of(rows, case, "sbx", "compile_seconds") for case in cases_in(rows)]
    known = [seconds for seconds in compiled if seconds is not None]
    text = ["How many times as fast as SB3's PPO other implementations are, with settings as near as theirs come."]
    if known:
        text.append(
            f"**SBX** compiles while it trains, which counts, since its users wait for it: {min(known):.1f} to "
            f"{max(known):.1f} s by JAX's own report. **Compiled before** is a second `learn` of the same model."
        )
    if "cleanrl" in names:
        text.append(
            "**CleanRL** is its script for the environment's actions, with Gymnasium's `SyncVectorEnv`, from the first reset "
            "to the end. A step in which an environment resets counts there as one of the training; the script for continuous "
            "actions also normalises observations and rewards."
        )
    return Section("Other implementations", text, table)


def memory(rows: Sequence[EndToEndRow]) -> Section:
    """
    Write how much memory the trainings took.

    :param rows: of the trainings
    :return: the section
    """
    names = algorithms_in(rows)

    def cell(case: str, name: str) -> str:
        peak, before = (median_of(rows, case, name, f"memory_{when}_mib") for when in ("peak", "before"))
        return NOTHING if peak is None or before is None else f"{peak:.0f} ({before:.0f})"

    lines = [[CASES[case].title, *(cell(case, name) for name in names)] for case in cases_in(rows)]
    text = (
        "Largest resident memory of the process in MiB, in parentheses what it had before `learn`: libraries (SB3 and EduPPO "
        "in every process), environments, networks. Medians."
    )
    return Section("Memory", [text], Table(["training", *(ALGORITHMS[name].title for name in names)], lines))


def split(rows: Sequence[SplitRow]) -> Section:
    """
    Write where the time goes.

    :param rows: of the parts of trainings
    :return: the section
    """
    lines = []
    for case in cases_in(rows):
        for name in algorithms_in(rows):
            parts = parts_of(rows, case, name)
            if parts:
                seconds = [parts[part] for part in PARTS]
                cells = [f"{value:.3f}" for value in (*seconds, sum(seconds))]
                lines.append([CASES[case].title, ALGORITHMS[name].title, *cells])
    text = (
        f"Seconds of each part, medians of {repetitions_of(rows)} trainings of their own with stopwatches around the parts "
        "of the very loop that trains, the lean one included. "
        '"rest" is what remains: the rollout buffer, values to bootstrap from, callbacks, logs.'
    )
    table = Table(["training", "algorithm", *PARTS, "all"], lines, names=2)
    beside = any(row.algorithm == REFERENCE for row in rows)
    picture = Picture("split.png", draw_split(rows), "Where the time goes") if beside else None
    return Section("Where the time goes", [text], table, picture)


def floor(rows: Sequence[SplitRow]) -> Section:
    """
    Write how far the kernels are from what their work takes at least.

    :param rows: of the parts of trainings, the floor among them
    :return: the section
    """
    lines = []
    for case in cases_in(rows):
        least = parts_of(rows, case, FLOOR)
        if least:
            parts, own_parts = [least[part] for part in FLOOR_PARTS], parts_of(rows, case, "fused")
            taken = own_parts.get(WITHOUT_STOPWATCHES, sum(own_parts.get(part, 0.0) for part in PARTS))
            seconds = [f"{value:.3f}" for value in (taken, *parts, sum(parts))]
            share = estimate(shares_of_floor(rows, case))
            reached = NOTHING if share is None else f"{100 * share.value:.0f}%"
            bare = least.get("bare environment")
            lines.append([CASES[case].title, *seconds, reached, NOTHING if bare is None else f"{bare:.3f}"])
    header = ["training", ALGORITHMS["fused"].title, *FLOOR_PARTS, "floor", "its share", "bare environment"]
    text = (
        "What the work of the kernels' training takes at least, in seconds, measured in its process, right after it: "
        "**environment**, its vector environment stepped alone with the same actions; **acting** and **update**, nothing but "
        "the networks' matrix products, as many and of the same shapes, by numpy, torch or the kernels' own products, "
        "whichever is fastest, into memory allocated beforehand, no activation, sampling, loss, shuffling or optimizer. Its "
        "share is of the same training without stopwatches. The last column is not part of the floor: the same steps "
        "without a vector environment."
    )
    return Section("The floor", [text], Table(header, lines))


def waiting(rows: Sequence[FurtherRow]) -> list[Section]:
    """
    Write what else users wait for.

    :param rows: of imports, updates and callbacks
    :return: the sections
    """
    sections = []
    imports = [[f"`{statement}`", in_seconds(further_median(rows, "import", "", name))] for name, statement in IMPORTS.items()]
    if any(row.kind == "import" for row in rows):
        text = "In a fresh interpreter, whose own start is not counted. Medians."
        sections.append(Section("The import", [text], Table(["statement", "takes"], imports)))
    lines = []
    for name in ALGORITHMS:
        first, later = (further_median(rows, "updates", name, part) for part in (FIRST_UPDATE, LATER_UPDATES))
        if first is not None and later is not None:
            lines.append([ALGORITHMS[name].title, f"{1000 * first:.1f}", f"{1000 * later:.1f}", f"{first / later:.1f}"])
    if lines:
        case = next(row.case for row in rows if row.kind == "updates")
        text = f"Milliseconds of `train()` in {CASES[case].title}: the first one, and the median of all later ones."
        sections.append(Section("The first update", [text], Table(["algorithm", "first", "later", "ratio"], lines)))
    alone, beside, work = (further_median(rows, "callbacks", "fused", part) for part in (ALONE, WITH_CALLBACKS, THEIR_WORK))
    if alone is not None and beside is not None and work is not None:
        case = next(row.case for row in rows if row.kind == "callbacks")
        text = (
            f"{CASES[case].title}, {ROLLOUTS_WITH_CALLBACKS} rollouts, with `EvalCallback` and `CheckpointCallback` every "
            f"{CALLBACKS_EVERY:,} steps and the progress bar: {beside:.2f} s, of which {work:.2f} s are the evaluations' own "
            f"episodes and the files. Without any callback {alone:.2f} s. So the training itself keeps "
            f"{100 * alone / (beside - work):.0f}% of its speed (aim: 85%)."
        )
        sections.append(Section("With callbacks", [text]))
    return sections


def method(tables: Tables) -> Section:
    """
    Write how it was measured.

    :param tables: all rows
    :return: the section
    """
    files = [name for name, rows in tables.by_file().items() if rows]
    items = [
        "Each training runs in a fresh process, limited to one thread in every library, without warm-up. Only `learn` is "
        "timed.",
        "The algorithms take turns within a repetition, and another one begins each time, so that a machine that slows down "
        "slows all of them. Ratios are taken within a repetition, where all have the same seed.",
        "The kernels' row of a training in `split.csv` has beside its parts the same training without stopwatches.",
        "The intervals are percentile bootstrap intervals of the median: for five repetitions or fewer, from the smallest to "
        "the largest ratio.",
        "The zoo's settings are those of `hyperparams/ppo.yml` in rl_zoo3 2.9.2, trained for a few rollouts only.",
        f"Raw rows: {', '.join(f'[{name}]({name})' for name in files)}.",
    ]
    return Section("How it was measured", items)
