"""The recommendation that tuning ends with: from decisions to a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from sb3_ppo_edu.lab.formatting import interval, number
from sb3_ppo_edu.lab.page import Page, Picture, Section, Table
from sb3_ppo_edu.lab.plots import Panel, draw_panels
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.lab.tuning import Decision, Tuning, judge_tuning
from sb3_ppo_edu.training.settings import as_yaml

SETTINGS_FILE = "tuned.yml"


def recommend(tuning: Tuning, before: Sequence[float], after: Sequence[float], command: str) -> Page:
    """
    Write the recommendation.

    :param tuning: the procedure, finished
    :param before: final returns of the start's settings on fresh seeds
    :param after: final returns of the tuned settings on the same seeds; empty if nothing was changed
    :param command: what made it
    :return: the page
    """
    sections = [stage_section(decision, index) for index, decision in enumerate(tuning.decisions, 1)]
    panels = [panel for decision in tuning.decisions if (panel := panel_of(decision)) is not None]
    if panels:
        caption = f"{tuning.env}: mean return ± standard error over {tuning.seeds} seeds; dotted: the value that was chosen"
        figure = draw_panels(f"{tuning.env}: what was tried", panels, "return of the final policy", from_zero=False)
        sections.append(Section("In one picture", (), None, Picture("tuning.png", figure, caption)))
    return Page(
        f"Tuning EduPPO on {tuning.env}",
        [verdict(tuning, before, after), *advice(tuning, before, after)],
        [changes_section(tuning), *sections, method_section(tuning)],
        f"Made by `{command}` on {machine()}.",
    )


def verdict(tuning: Tuning, before: Sequence[float], after: Sequence[float]) -> str:
    """
    Say whether the tuned settings are better.

    :param tuning: the procedure
    :param before: final returns of the start's settings on fresh seeds
    :param after: of the tuned ones
    :return: a paragraph
    """
    mean_before = sum(before) / len(before)
    if not tuning.changed:
        return (
            "**Keep the settings you began with.** No value that was tried is better by more than the noise of "
            f"{tuning.seeds} seeds. On {len(before)} fresh seeds they reach {number(mean_before, 1)}."
        )
    found = judge_tuning(before, after)
    mean_after = sum(after) / len(after)
    numbers = (
        f"On {len(after)} seeds that tuning has not used, they reach {number(mean_after, 1)} where the start reaches "
        f"{number(mean_before, 1)}: a difference of {interval(found, 1)}"
    )
    if found.low > 0:
        return f"**Use the tuned settings.** {numbers}."
    if found.high < 0:
        return f"**Keep the settings you began with**: tuning has followed luck. {numbers}."
    return f"**Not shown to be better.** {numbers}, an interval that holds 0. More seeds would tell."


def advice(tuning: Tuning, before: Sequence[float], after: Sequence[float]) -> list[str]:
    """
    Say what to do next.

    :param tuning: the procedure
    :param before: final returns of the start's settings on fresh seeds
    :param after: of the tuned ones
    :return: paragraphs
    """
    found = [f"`sb3-edu train --env {tuning.env} --config {SETTINGS_FILE}` trains with them."] if tuning.changed else []
    last = after or before
    if max(last) - min(last) > 0.5 * abs(sum(last) / len(last)):
        found.append(
            f"The seeds still differ much ({number(min(last), 1)} to {number(max(last), 1)}): train longer, or normalise "
            "observations and rewards (`--normalize`), before tuning further."
        )
    return found


def changes_section(tuning: Tuning) -> Section:
    """
    List what was decided.

    :param tuning: the procedure
    :return: the section
    """
    lines = [
        [one.stage.title, f"`{one.stage.name}`", f"{one.present:g}", f"{one.chosen:g}", "changed" if changed(one) else "kept"]
        for one in tuning.decisions
    ]
    return Section("The settings", (), Table(["setting", "argument", "before", "after", ""], lines, names=2))


def changed(decision: Decision) -> bool:
    """
    Tell whether a stage changed its setting.

    :param decision: of the stage
    :return: True if it did
    """
    return decision.chosen != decision.present


def stage_section(decision: Decision, index: int) -> Section:
    """
    Show what one stage tried.

    :param decision: of the stage
    :param index: of the stage, from 1
    :return: the section
    """
    lines = [
        [
            f"{one.value:g}",
            number(one.mean, 1),
            number(one.error, 1),
            str(one.failures) if one.failures else "",
            " and ".join(
                word
                for word, holds in (("before", one.value == decision.present), ("chosen", one.value == decision.chosen))
                if holds
            ),
        ]
        for one in decision.candidates
    ]
    title = decision.stage.title
    text = f"{title[0].upper()}{title[1:]}: {decision.stage.why}."
    return Section(f"{index}. {title}", [text], Table(["value", "mean return", "standard error", "failed", ""], lines))


def panel_of(decision: Decision) -> Panel | None:
    """
    Sum up a stage for the picture.

    :param decision: of the stage
    :return: its panel, or None if nothing was tried beside the present value
    """
    if len(decision.candidates) < 2:
        return None
    return Panel(
        decision.stage.title.partition(" (")[0],
        [one.value for one in decision.candidates],
        [one.mean for one in decision.candidates],
        [one.mean - one.error for one in decision.candidates],
        [one.mean + one.error for one in decision.candidates],
        decision.chosen,
    )


def method_section(tuning: Tuning) -> Section:
    """
    Say how it was done.

    :param tuning: the procedure
    :return: the section
    """
    return Section(
        "How it was done",
        [
            f"From the settings {tuning.settings!r}, one setting at a time in the lecture's order, each value with the "
            f"seeds 0 to {tuning.seeds - 1} for {tuning.steps:,} steps; the final policy plays 30 episodes. A value replaces "
            "the present one if its mean return is higher by more than the standard error of the difference. A best value at "
            "the end of those tried has its neighbours tried too. The comparison at the end is on fresh seeds, because values "
            "that were chosen on some seeds look better on those than they are.",
        ],
    )


def save_block(tuning: Tuning, folder: Path) -> Path:
    """
    Save the tuned settings in the form that ``--config`` and the zoo read.

    :param tuning: the procedure
    :param folder: where
    :return: the file
    """
    path = folder / SETTINGS_FILE
    path.write_text(yaml.safe_dump(as_yaml({tuning.env: tuning.block()}), sort_keys=False), encoding="utf-8")
    return path
