"""How often was the doctor right? Shares, tables and lists of a trial's rows, see ``trial.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from plant import FAULTS

from sb3_ppo_edu.doctor.symptoms import BY_NAME
from sb3_ppo_edu.lab.statistics.aggregates import wilson


def is_right(row: Mapping[str, str], places: int, bare: bool = False) -> bool:
    """
    Say whether a planted fault was named among the first findings; of two faults, one first and both among the first three.

    :param row: of a case with a fault
    :param places: 1 for the first, 3 for the first three
    :param bare: what was said without the settings
    """
    named = [row[("bare_" if bare else "") + place] for place in ("first", "second", "third")[:places]]
    hits = [any(symptom in named for symptom in FAULTS[one].symptoms) for one in row["fault"].split("+")]
    return any(hits) if places == 1 else all(hits)


def needs_settings(fault: str) -> bool:
    """
    Say whether a fault shows in the settings beside a log only.

    :param fault: one, or two joined by "+"
    :return: whether each symptom of one of them needs a setting
    """
    return any(
        all(any(need.startswith("settings/") for need in BY_NAME[symptom].needs) for symptom in FAULTS[one].symptoms)
        for one in fault.split("+")
    )


def summarize(rows: Sequence[Mapping[str, str]]) -> str:
    """Write the shares that the trial is about, what was named for each fault, and whether the remedies worked."""
    ill = [row for row in rows if row["fault"] != "none"]
    well = [row for row in rows if row["fault"] == "none"]
    single, pairs = ([row for row in ill if ("+" in row["fault"]) is paired] for paired in (False, True))
    seen = [row for row in ill if not needs_settings(row["fault"])]
    remedied = [row for row in ill if row.get("remedied_return")]
    lines = [
        "# The doctor's trial",
        "",
        f"{len(single)} trainings with a planted fault, {len(pairs)} with two, {len(well)} without one. In brackets: 95 % "
        "intervals (Wilson).",
        "",
        "| | cases | share | |",
        "|---|---:|---:|---|",
        share("planted fault named first", [is_right(row, 1) for row in ill]),
        share("planted fault among the first three; of two, both", [is_right(row, 3) for row in ill]),
        share("one fault: first", [is_right(row, 1) for row in single]),
        share("one fault: among the first three", [is_right(row, 3) for row in single]),
        share("two faults: one of them first", [is_right(row, 1) for row in pairs]),
        share("two faults: both among the first three", [is_right(row, 3) for row in pairs]),
        share("healthy run declared ill", [row["verdict"] == "ill" for row in well]),
        share("first advice raised the final return", [is_better(row) for row in remedied]),
        "",
        "The same logs without the settings beside them. Faults that show in settings only (discount, limit of the KL, limit "
        "of the gradient) are left out of the first two lines: they cannot be found there.",
        "",
        "| | cases | share | |",
        "|---|---:|---:|---|",
        share("planted fault named first", [is_right(row, 1, bare=True) for row in seen]),
        share("planted fault among the first three; of two, both", [is_right(row, 3, bare=True) for row in seen]),
        share("healthy run declared ill", [row["bare_verdict"] == "ill" for row in well]),
        "",
        "What was named first, by planted fault (right: it was the planted one, or nothing where none was):",
        "",
        "| planted | cases | right | among three | named first |",
        "|---|---:|---:|---:|---|",
    ]
    for fault in dict.fromkeys(row["fault"] for row in rows):
        of_fault = [row for row in rows if row["fault"] == fault]
        right, three = (
            sum(row["verdict"] != "ill" if fault == "none" else is_right(row, places) for row in of_fault) for places in (1, 3)
        )
        named = Counter(row["first"] or "nothing" for row in of_fault)
        shown = ", ".join(f"{name} {count}" for name, count in named.most_common())
        lines.append(f"| {fault} | {len(of_fault)} | {right} | {three} | {shown} |")
    return "\n".join([*lines, *remedies(remedied), *missed(rows)]) + "\n"


def is_better(row: Mapping[str, str]) -> bool:
    """
    Say whether following the first advice has raised the final return.

    :param row: of a case whose remedy was tried
    """
    return float(row["remedied_return"]) > float(row["final_return"])


def remedies(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """
    List what the first advice did, by planted fault.

    :param rows: of the cases whose remedy was tried
    """
    if not rows:
        return []
    lines = [
        "",
        "What the first advice did, by planted fault; final returns before → after where it did not raise them:",
        "",
        "| planted | tried | raised | where not |",
        "|---|---:|---:|---|",
    ]
    for fault in dict.fromkeys(row["fault"] for row in rows):
        tried = [row for row in rows if row["fault"] == fault]
        where = "; ".join(
            f"{row['env']} {row['changed']}: {float(row['final_return']):,.0f} → {float(row['remedied_return']):,.0f}"
            for row in tried
            if not is_better(row)
        )
        lines.append(f"| {fault} | {len(tried)} | {sum(map(is_better, tried))} | {where} |")
    return lines


def missed(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """List the cases in which the doctor was wrong."""
    wrong = [row for row in rows if (row["verdict"] == "ill" if row["fault"] == "none" else not is_right(row, 3))]
    lines = ["", "Where it was wrong: a fault that is not among the first three, or a finding where there is none.", ""]
    lines += ["| planted | environment | number | named |", "|---|---|---:|---|"]
    for row in wrong:
        named = ", ".join(filter(None, (row["first"], row["second"], row["third"]))) or "nothing"
        lines.append(f"| {row['fault']} | {row['env']} | {row['number']} | {named} |")
    return lines if wrong else []


def share(what: str, hits: Sequence[bool]) -> str:
    """
    Write one line of the table.

    :param hits: for each case, whether it holds
    :return: Markdown, with the Wilson interval
    """
    if not hits:
        return f"| {what} | – | – | |"
    share, low, high = wilson(sum(hits), len(hits))
    return f"| {what} | {sum(hits)} of {len(hits)} | {share:.0%} | [{low:.0%}, {high:.0%}] |"


def confusion(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """
    Count what was named first for each planted fault.

    :return: a table with a header: planted faults down, named symptoms across
    """
    faults = list(dict.fromkeys(row["fault"] for row in rows))
    names = sorted({row["first"] or "nothing" for row in rows})
    counts = Counter((row["fault"], row["first"] or "nothing") for row in rows)
    return [["planted", *names], *([fault, *(str(counts[fault, name]) for name in names)] for fault in faults)]
