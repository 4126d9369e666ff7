"""Run every symptom over a record, tell causes from consequences, and come to a verdict."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from sb3_ppo_edu.doctor.findings import LIKELY, Evidence, Finding, Symptom, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms import BY_NAME, SYMPTOMS
from sb3_ppo_edu.doctor.symptoms.consequences import OUTCOME, VALUE
from sb3_ppo_edu.doctor.symptoms.metrics import RETURN

Verdict = Literal["ill", "healthy", "unknown"]

CORE = ("learning-rate-too-high", "learning-rate-too-low", "no-progress", "value-not-learning")
"""Symptoms without any one of which nothing is called healthy: how far the policy moves, and what comes of it."""

SIGNS = (
    *OUTCOME,
    *VALUE,
    "kl-stop-every-time",
    "gradients-always-clipped",
    "actions-saturated",
    "std-explodes",
    "throughput-lost",
)
"""Symptoms that say that something is wrong, and not what: they hide nothing."""


@dataclass(frozen=True)
class Diagnosis:
    """
    What a record shows.

    :param findings: causes first, each group by confidence and severity
    :param not_examined: for each symptom that could not be told, why
    :param verdict: "ill", "healthy", or "unknown" where too little was recorded to say
    """

    record: Record
    findings: tuple[Finding, ...]
    not_examined: dict[str, str]
    verdict: Verdict

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        if self.verdict == "unknown":
            reasons = dict.fromkeys(self.not_examined[name] for name in CORE if name in self.not_examined)
            return (
                f"Too little was recorded to say anything: {len(self.not_examined)} of {len(SYMPTOMS)} symptoms could not be "
                f"examined ({'; '.join(reasons)})."
            )
        if self.verdict == "healthy":
            return f"Nothing is wrong: {len(SYMPTOMS) - len(self.not_examined)} symptoms were examined and none was found."
        first = self.findings[0]
        others = len([finding for finding in self.findings[1:] if finding.explained_by is None])
        more = f" There {'is 1 other finding' if others == 1 else f'are {others} other findings'}." if others else ""
        return f"{BY_NAME[first.name].title} (confidence {first.confidence:.0%}).{more}"

    def as_json(self) -> dict[str, Any]:
        """
        Give what ``doctor.json`` holds.

        :return: verdict, findings with their remedies, and what was not examined
        """
        return {
            "source": self.record.source,
            "verdict": self.verdict,
            "summary": self.summary,
            "updates": self.record.updates,
            "steps": int(self.record.steps[-1]) if len(self.record.steps) else 0,
            "findings": [
                {
                    **asdict(finding),
                    "title": BY_NAME[finding.name].title,
                    "remedy": BY_NAME[finding.name].remedy,
                    "command": command(self.record, BY_NAME[finding.name]),
                }
                for finding in self.findings
            ],
            "not_examined": self.not_examined,
            "notes": list(self.record.notes),
        }


def diagnose(record: Record, symptoms: Sequence[Symptom] = SYMPTOMS) -> Diagnosis:
    """Look for every symptom in a record."""
    found: list[Finding] = []
    not_examined: dict[str, str] = {}
    suspects: list[Finding] = []
    for symptom in symptoms:
        reason = symptom.missing(record)
        if reason is not None:
            not_examined[symptom.name] = reason
            continue
        finding = symptom.examine(record)
        if finding is not None and finding.confidence >= LIKELY:
            found.append(finding)
        suspect = None if symptom.unusual is None else symptom.unusual(record)
        if suspect is not None:
            suspects.append(suspect)
    findings = rank([*found, *unseen(found, suspects)], [suspect.name for suspect in suspects])
    verdict: Verdict = "ill" if findings else "unknown" if any(name in not_examined for name in CORE) else "healthy"
    return Diagnosis(record, findings, not_examined, verdict)


def unseen(found: Sequence[Finding], suspects: Sequence[Finding]) -> list[Finding]:
    """
    Choose unusual settings whose effect cannot be seen, because another fault has hold of the metrics that would show it.

    Where nothing else is wrong the metrics decide, and an unusual setting that does no harm is none of the doctor's business,
    unless it lies beyond all that anybody uses.

    :param found: findings by the metrics
    :param suspects: settings that are unusual by themselves
    :return: those of them that are not found yet, with what hides them
    """
    names = [finding.name for finding in found]
    hiding = [finding for finding in found if finding.name not in SIGNS]
    if not hiding:
        return [suspect for suspect in suspects if suspect.severity >= 1 and suspect.name not in names]
    first = max(hiding, key=lambda finding: finding.confidence)
    text = f"what it does cannot be told beside: {BY_NAME[first.name].title[0].lower()}{BY_NAME[first.name].title[1:]}"
    return [
        replace(suspect, evidence=(*suspect.evidence, replace(first.evidence[0], text=f"{text} ({first.confidence:.0%})")))
        for suspect in suspects
        if suspect.name not in names
    ]


def rank(found: Sequence[Finding], independent: Sequence[str] = ()) -> tuple[Finding, ...]:
    """
    Put findings in order, causes before the consequences that they explain.

    :param independent: names of those that no other finding explains, since their own setting is unusual
    :return: with ``explained_by`` set to the surest finding that explains each, if any
    """
    ordered = sorted(found, key=lambda finding: (-finding.confidence, -finding.severity, finding.name))
    judged = []
    for finding in ordered:
        causes = (cause.name for cause in ordered if finding.name in BY_NAME[cause.name].explains)
        judged.append(replace(finding, explained_by=None if finding.name in independent else next(causes, None)))
    return tuple(sorted(judged, key=lambda finding: finding.explained_by is not None))


def command(record: Record, symptom: Symptom) -> str | None:
    """
    Write the first change to try as a command to paste.

    :return: the run's own command with the change behind it, or None where no setting is to be changed
    """
    if not symptom.changes:
        return None
    flags = " ".join(change.flag(record) for change in symptom.changes)
    return f"{shlex.join(trained_with(record))} {flags}"


def trained_with(record: Record) -> list[str]:
    """
    Read the command that a run was trained with, as words for a shell.

    The record may be a stranger's: nothing in it is trusted anew, and what a terminal can't show is not to be pasted.

    :return: the run's own command without its name, since two runs can't share a folder; where it has none, one of its
        environment
    """
    trained = record.setting("command")
    try:
        words = shlex.split(trained) if isinstance(trained, str) and trained.isprintable() else []
    except ValueError:
        words = []
    if words[:2] == ["sb3-edu", "train"]:
        return [
            word
            for before, word in pairwise(["", *words])
            if "--name" not in (before, word) and not word.startswith("--name=") and word not in ("--trust", "--from-record")
        ]
    env = str(record.setting("env") or "YOUR_ENV")
    return ["sb3-edu", "train", "--env", env if env.isprintable() else "YOUR_ENV"]


# --------------------------------------------------------------------------------------------------------------------------
# Several runs
# --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """
    What several runs show beside each other.

    :param diagnoses: of each run
    :param summary: in plain words
    :param disagree: whether runs of the same settings end so far apart that one of them says nothing: seed luck
    :param differences: settings that are known of every run and differ: name -> value of each run
    :param finals: return at the end of each run, NaN where it was not logged
    """

    diagnoses: tuple[Diagnosis, ...]
    summary: str
    disagree: bool
    differences: dict[str, tuple[Any, ...]]
    finals: tuple[float, ...]


NOT_COMPARED = frozenset({"seed", "command", "random_return", "random_std", "device", "torch_threads"})
"""Settings that may differ between runs of the same settings."""


def compare(records: Sequence[Record]) -> Comparison:
    """
    Compare runs: whether they agree, and if not, what differs.

    :param records: of two runs or more
    :raises ValueError: for fewer than two
    """
    if len(records) < 2:
        raise ValueError(f"{len(records)} run(s) to compare: expected two or more")
    listed = [record.settings.keys() - NOT_COMPARED for record in records]
    names = sorted(set.intersection(*map(set, listed)))
    # A setting that stands beside one of the logs only may be the same in both: SB3's models, for one, leave out what is None.
    unknown = len(set.union(*map(set, listed))) - len(names)
    settings = {name: tuple(record.setting(name) for record in records) for name in names}
    differences = {name: values for name, values in settings.items() if len(set(map(repr, values))) > 1}
    ends = [record.values(RETURN, 0.9) for record in records]
    finals = tuple(float(end.mean()) if len(end) else float("nan") for end in ends)
    starts = [float(record.values(RETURN)[0]) for record in records if record.has(RETURN)]
    known = [final for final in finals if np.isfinite(final)]
    risen = max((abs(final - start) for final, start in zip(known, starts, strict=True)), default=0.0)
    gap = max(known) - min(known) if len(known) > 1 else 0.0
    apart = len(known) > 1 and gap > 0.3 * max(risen, 1e-9) and gap > 0.1 * max(map(abs, known))
    disagree = apart and bool(names) and not differences and not unknown
    shown = ", ".join(show(final) for final in finals)
    if len(known) < 2:
        summary = "Fewer than two of the runs have logged a return: they cannot be compared."
    elif differences:
        more = f" {unknown} other settings are not known of every run." if unknown else ""
        summary = f"The runs end at {shown}. They differ in {', '.join(differences)}.{more}"
    elif apart and not disagree:
        summary = f"The runs end at {shown}. Not all settings are known of every run: it cannot be told whether that is luck."
    elif disagree:
        summary = (
            f"The runs end at {shown}, although their settings are the same: it is luck which one was seen. "
            "Judge settings by five seeds or more."
        )
    else:
        summary = f"The runs end at {shown}: they agree."
    return Comparison(tuple(diagnose(record) for record in records), summary, disagree, differences, finals)


def symptoms_as_markdown() -> str:
    """Write the table of symptoms for people to read."""
    header = ("symptom", "seen in", "healthy", "source", "what it means", "what to change", "when it does not apply")
    rows = [header, ("---",) * len(header)]
    for symptom in SYMPTOMS:
        needs = ", ".join(need.replace("|", " or ") for need in symptom.needs) or "any number"
        words = (symptom.healthy, symptom.source, symptom.meaning, symptom.remedy, symptom.not_when)
        rows.append((f"**{symptom.title}** (`{symptom.name}`)", needs, *words))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def evidence_keys(finding: Finding) -> list[str]:
    """
    Name the metrics that a finding rests on.

    :return: keys of its evidence that are metrics
    """
    pieces: tuple[Evidence, ...] = finding.evidence
    return [piece.key for piece in pieces if not piece.key.startswith("settings/")]
