"""The doctor's page: verdict, findings with the pictures they rest on, what to try first, metrics with healthy bands."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from sb3_ppo_edu.doctor.callback import PAGE_FILE
from sb3_ppo_edu.doctor.diagnose import Comparison, Diagnosis, command, evidence_keys
from sb3_ppo_edu.doctor.findings import Band, Finding
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms import BY_NAME, SYMPTOMS
from sb3_ppo_edu.doctor.symptoms.metrics import EXPLAINED_BAND, KL_BAND, RETURN_BAND
from sb3_ppo_edu.lab.page import Page, Picture, Section, Table, to_html
from sb3_ppo_edu.lab.plots import BLUE, GREEN, GREY, VERMILLION
from sb3_ppo_edu.serialization.writing import write_atomically
from sb3_ppo_edu.version import __version__

OVERVIEW = (
    RETURN_BAND,
    KL_BAND,
    Band("train/clip_fraction", 0.05, 0.3),
    EXPLAINED_BAND,
    Band("train/entropy_loss", None, None),
    Band("train/std", 0.1, 1.0, log=True),
    Band("train/value_loss", None, None, log=True),
    Band("train/grad_norm", 0.1, 10.0, log=True),
    Band("train/ratio_max", None, 2.0, log=True),
)
"""Metrics that every page shows, those to look at first in front."""

PANELS_PER_ROW = 3
COLOURS = (BLUE, VERMILLION, GREEN, GREY)
VERDICTS = {"ill": "Something is wrong", "healthy": "Healthy", "unknown": "Not enough to say"}


# --------------------------------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------------------------------


def draw_metrics(records: Sequence[Record], bands: Sequence[Band]) -> Figure:
    """
    Draw metrics over steps, each with its healthy band.

    :param records: of one run, or of several in different colours
    :param bands: metrics, of which those are drawn that were recorded
    :return: the figure
    """
    shown = [band for band in bands if any(record.has(band.key) for record in records)]
    rows = max((len(shown) + PANELS_PER_ROW - 1) // PANELS_PER_ROW, 1)
    columns = min(max(len(shown), 1), PANELS_PER_ROW)
    figure = Figure(figsize=(3.4 * columns, 2.5 * rows), dpi=130, layout="constrained")
    for place, band in enumerate(shown):
        draw_metric(figure.add_subplot(rows, columns, place + 1), records, band)
    return figure


def draw_metric(axes: Axes, records: Sequence[Record], band: Band) -> None:
    """
    Draw one metric with its healthy band.

    :param axes: where
    :param records: of the runs
    :param band: the metric
    """
    values = np.concatenate([record.series(band.key)[1] for record in records])
    log = band.log and bool((values > 0).all())
    if log:
        axes.set_yscale("log")
    for record, colour in zip(records, COLOURS, strict=False):
        steps, series = record.series(band.key)
        axes.plot(steps, series, color=colour, linewidth=1.4, marker="o" if len(steps) < 30 else None, markersize=2.5)
    low, high = axes.get_ylim()
    if band.low is not None or band.high is not None:
        # A band with one end goes on beyond what is shown.
        bottom = min(low, (band.high or 0.0) * 0.5) if band.low is None else band.low
        top = max(high, band.low or 0.0) if band.high is None else band.high
        axes.axhspan(bottom, top, color=GREEN, alpha=0.15, linewidth=0)
        if log:
            low, high = min(low, bottom * 0.8), max(high, top * 1.25)
        else:
            margin = 0.04 * (max(high, top) - min(low, bottom))
            low, high = min(low, bottom - margin), max(high, top + margin)
    axes.set_ylim(low, high)
    axes.set_title(band.key, loc="left", fontsize=9)
    axes.tick_params(labelsize=7.5)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)


# --------------------------------------------------------------------------------------------------------------------------
# One run
# --------------------------------------------------------------------------------------------------------------------------


def make_page(diagnosis: Diagnosis) -> Page:
    """
    Make the page of one run.

    :param diagnosis: of the run
    :return: the page
    """
    record = diagnosis.record
    sections = [*advice(diagnosis), *(finding_section(record, finding) for finding in diagnosis.findings)]
    picture = Picture(
        "doctor-metrics.png",
        draw_metrics([record], OVERVIEW),
        "What was logged over the steps of the training. Green is the healthy range, where there is one.",
    )
    sections.append(Section("What was logged", picture=picture))
    sections.append(Section("What was looked for", examined_text(diagnosis), table=examined_table(diagnosis)))
    return Page("The doctor's report", lead(diagnosis), sections, made_by())


def lead(diagnosis: Diagnosis) -> list[str]:
    """
    Say the verdict.

    :param diagnosis: of the run
    :return: paragraphs
    """
    record = diagnosis.record
    end = int(record.steps[-1]) if len(record.steps) else 0
    return [
        f"**{VERDICTS[diagnosis.verdict]}.** {diagnosis.summary}",
        f"`{record.source}`: {record.updates:,} updates, {end:,} steps.",
        *record.notes,
    ]


def advice(diagnosis: Diagnosis) -> list[Section]:
    """
    Say what to try first.

    :param diagnosis: of the run
    :return: one section, or none for a healthy run
    """
    if not diagnosis.findings:
        return []
    symptom = BY_NAME[diagnosis.findings[0].name]
    text = [symptom.meaning, f"**{symptom.remedy}**"]
    line = command(diagnosis.record, symptom)
    if line is not None:
        text += ["Change one thing at a time, and compare:", f"`{line}`"]
    rows = [
        [
            BY_NAME[finding.name].title,
            "" if finding.explained_by is None else f"of: {BY_NAME[finding.explained_by].title}",
            f"{finding.confidence:.0%}",
        ]
        for finding in diagnosis.findings
    ]
    return [Section("What to try first", text, Table(["finding", "may be a consequence", "confidence"], rows, names=2))]


def finding_section(record: Record, finding: Finding) -> Section:
    """
    Present one finding with the picture it rests on.

    :param record: of the run
    :param finding: the finding
    :return: the section
    """
    symptom = BY_NAME[finding.name]
    text = [symptom.meaning]
    text += [f"`{piece.key}`: {piece.text} (steps {piece.begin:,} to {piece.end:,})." for piece in finding.evidence]
    text += [
        f"**What to do:** {symptom.remedy}",
        f"Healthy: {symptom.healthy}. Source: {symptom.source}. When it does not apply: {symptom.not_when}",
    ]
    bands = [band for band in bands_of(finding) if record.has(band.key)]
    picture = None
    if bands:
        caption = f"{', '.join(band.key for band in bands)} over the steps of the training; green is the healthy range."
        picture = Picture(f"doctor-{finding.name}.png", draw_metrics([record], bands), caption)
    return Section(f"{symptom.title} ({finding.confidence:.0%})", text, picture=picture)


def bands_of(finding: Finding) -> list[Band]:
    """
    List what a finding rests on, to be drawn.

    :param finding: the finding
    :return: what it names as evidence, in front, and what else its symptom shows; each once
    """
    # A metric may be evidence for another symptom than the one it belongs to: it keeps its healthy range there.
    others = [band for symptom in SYMPTOMS for band in symptom.bands]
    bands = {band.key: band for band in (*others, *OVERVIEW, *BY_NAME[finding.name].bands)}
    keys = dict.fromkeys([*evidence_keys(finding), *(band.key for band in BY_NAME[finding.name].bands)])
    return [bands.get(key, Band(key, None, None)) for key in keys]


def examined_text(diagnosis: Diagnosis) -> list[str]:
    """
    Say how much could be examined.

    :param diagnosis: of the run
    :return: paragraphs
    """
    count = len(SYMPTOMS) - len(diagnosis.not_examined)
    return [f"{count} of {len(SYMPTOMS)} symptoms could be examined. What was not recorded can't be found."]


def examined_table(diagnosis: Diagnosis) -> Table:
    """
    List every symptom with its outcome.

    :param diagnosis: of the run
    :return: the table
    """
    found = {finding.name for finding in diagnosis.findings}
    rows = []
    for symptom in SYMPTOMS:
        outcome = "found" if symptom.name in found else diagnosis.not_examined.get(symptom.name, "not found")
        rows.append([symptom.title, f"**{outcome}**" if outcome == "found" else outcome])
    return Table(["symptom", "outcome"], rows, names=2)


def made_by() -> str:
    """
    Say what made the page.

    :return: a line
    """
    return f"`sb3-edu doctor`, sb3_ppo_edu {__version__}, Python {platform.python_version()}."


def write_page(diagnosis: Diagnosis, folder: Path) -> Path:
    """
    Write the page of one run.

    :param diagnosis: of the run
    :param folder: where
    :return: the file
    """
    return write(make_page(diagnosis), folder)


# --------------------------------------------------------------------------------------------------------------------------
# Several runs
# --------------------------------------------------------------------------------------------------------------------------


def make_comparison(comparison: Comparison) -> Page:
    """
    Make the page that compares runs.

    :param comparison: of the runs
    :return: the page
    """
    diagnoses = comparison.diagnoses
    names = [f"{place + 1}" for place in range(len(diagnoses))]
    rows = [
        [name, one.record.source, one.summary, "–" if not np.isfinite(final) else f"{final:,.1f}"]
        for name, one, final in zip(names, diagnoses, comparison.finals, strict=True)
    ]
    sections = [Section("The runs", table=Table(["run", "from", "the doctor says", "return at the end"], rows, names=3))]
    if comparison.differences:
        table = [[name, *(str(value) for value in values)] for name, values in comparison.differences.items()]
        sections.append(Section("Settings that differ", table=Table(["setting", *names], table)))
    colours = ("blue", "red", "green", "grey")
    legend = ", ".join(f"run {name} {colour}" for name, colour in zip(names, colours, strict=False))
    picture = Picture(
        "doctor-comparison.png",
        draw_metrics([one.record for one in diagnoses[: len(COLOURS)]], OVERVIEW),
        f"What was logged over the steps of the training: {legend}. The green ground is the healthy range.",
    )
    sections.append(Section("What was logged", picture=picture))
    return Page("The doctor compares runs", [comparison.summary], sections, made_by())


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """
    Write the page that compares runs.

    :param comparison: of the runs
    :param folder: where
    :return: the file
    """
    return write(make_comparison(comparison), folder)


def write(page: Page, folder: Path) -> Path:
    """
    Write a page in place of one that is there.

    :param page: the page
    :param folder: where
    :return: the file
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PAGE_FILE, partial(Path.write_text, data=to_html(page), encoding="utf-8"))
    return folder / PAGE_FILE
