"""What a check says, as text and as HTML that is readable on a light page and on a dark one."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Literal

Status = Literal["right", "wrong", "todo", "crashed"]

_MARKS: dict[Status, tuple[str, str]] = {
    # Middle tones: they stand out against white and against black.
    "right": ("✓", "#2da44e"),
    "wrong": ("✗", "#d1553f"),
    "todo": ("…", "#8b949e"),
    "crashed": ("!", "#c98a1b"),
}

_FRAME = "padding:0.35em 0.9em;margin:0.3em 0;max-width:52em;line-height:1.45;font-family:system-ui,sans-serif"
_ROW = "display:flex;gap:1em;flex-wrap:wrap"


@dataclass(frozen=True)
class Verdict:
    """
    What a check found.

    :param exercise: name of the exercise
    :param status: "right", "wrong", "todo" (not written yet) or "crashed"
    :param headline: in one line
    :param paragraphs: what it means, in which ``code`` is marked as in Markdown
    :param evidence: rows of (what, text), such as an input and what came out
    :param mistakes: names of the mistakes that were recognised
    :param share: share of the inputs on which the answer is right, for partial credit where somebody gives it
    """

    exercise: str
    status: Status
    headline: str
    paragraphs: tuple[str, ...] = ()
    evidence: tuple[tuple[str, str], ...] = ()
    mistakes: tuple[str, ...] = ()
    share: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.status == "right"

    def __str__(self) -> str:
        """Write as plain text."""
        lines = [f"{_MARKS[self.status][0]} {self.exercise}: {self.headline}"]
        lines += [f"  {paragraph}" for paragraph in self.paragraphs]
        width = max((len(what) for what, _ in self.evidence), default=0)
        lines += [f"    {what.ljust(width)}  {text}" for what, text in self.evidence]
        return "\n".join(lines)

    __repr__ = __str__

    def to_markdown(self) -> str:
        """
        Write as Markdown.

        :return: a few paragraphs
        """
        parts = [f"**{_MARKS[self.status][0]} `{self.exercise}`: {self.headline}**", *self.paragraphs]
        if self.evidence:
            parts.append("```\n" + "\n".join(f"{what}: {text}" for what, text in self.evidence) + "\n```")
        return "\n\n".join(parts)

    def _ipython_display_(self) -> None:
        """Show itself beside a cell's result, not as the result: nbgrader takes that for a number of points."""
        from IPython.display import display  # where this is called, there is IPython

        display({"text/plain": str(self), "text/html": self._repr_html_()}, raw=True)

    def _repr_html_(self) -> str:
        """Write as HTML; colours of text and ground are the page's own."""
        mark, colour = _MARKS[self.status]
        paragraphs = "".join(f'<div style="margin-top:0.35em">{_marked(text)}</div>' for text in self.paragraphs)
        rows = "".join(
            f'<div style="{_ROW}"><span style="opacity:0.75;min-width:7em">{html.escape(what)}</span>{_code(text)}</div>'
            for what, text in self.evidence
        )
        evidence = f'<div style="margin-top:0.5em;font-size:0.92em">{rows}</div>' if rows else ""
        headline = f"{_code(self.exercise)}: <strong>{_marked(self.headline)}</strong>"
        return (
            f'<div style="{_FRAME};border-left:4px solid {colour}">'
            f'<div><span style="color:{colour};font-weight:700">{mark}</span> {headline}</div>{paragraphs}{evidence}</div>'
        )


def _code(text: str) -> str:
    """Set a text as code, without the ground that a notebook's style gives it."""
    style = "background:none;color:inherit;padding:0;white-space:pre-wrap;overflow-wrap:anywhere"
    return f'<code style="{style}">{html.escape(text)}</code>'


def _marked(text: str) -> str:
    """Escape a text and set what stands between backticks or asterisks apart."""
    escaped = html.escape(text)
    escaped = re.sub(r"`([^`]+)`", r'<code style="background:none;color:inherit;padding:0">\1</code>', escaped)
    return re.sub(r"(?<!\w)\*([^*\s][^*]*)\*(?!\w)", r"<em>\1</em>", escaped)
