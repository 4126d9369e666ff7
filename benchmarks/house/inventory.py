"""What do docstrings and comments say that must not be lost? Equations, URLs, citations, units and errors, as a list.

::

    python benchmarks/house/inventory.py sb3_ppo_edu --out before.csv
    python benchmarks/house/inventory.py before.csv sb3_ppo_edu

The first writes the list of a package, the second says what stands in one (a list or a folder) and not in the other, whichever
file it stands in now; it ends with 1 if anything is missing. Read are docstrings (of attributes too) and comments of Python,
comments of C, and Markdown.
"""

from __future__ import annotations

import argparse
import ast
import csv
import difflib
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

KINDS = ("equation", "formula", "url", "citation", "unit", "raises")


class Item(NamedTuple):
    """
    One thing that is said.

    :param kind: one of ``KINDS``: "equation" is marked up as one, "formula" is written in plain text
    :param text: what is said, with single spaces
    :param where: file and name of the class or function, for the reader; items are compared without it
    """

    kind: str
    text: str
    where: str


# -- what is read --------------------------------------------------------------------------------------------------------


def texts_of_python(source: str) -> Iterator[tuple[str, str]]:
    """
    Find the docstrings and comments of a Python file.

    :param source: the file's text
    :return: name of what the text is about, and text; comments on consecutive lines are one text
    """

    def docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from docstrings(child, f"{name}.{child.name}".removeprefix("."))
            elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
                yield name, child.value.value
            else:
                yield from docstrings(child, name)

    yield from docstrings(ast.parse(source), "")
    block: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1 and block:
                yield "comment", "\n".join(block)
                block = []
            block.append(token.string.removeprefix("#"))
            last = token.start[0]
    if block:
        yield "comment", "\n".join(block)


def texts_of(path: Path) -> Iterator[tuple[str, str]]:
    """
    Find what a file says to its reader.

    :param path: a Python, C or Markdown file
    :return: name of what a text is about, and text
    """
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from texts_of_python(source)
    elif path.suffix == ".md":
        yield "", source
    else:
        for comment in re.findall(r"/\*.*?\*/|(?://[^\n]*\n\s*)+", source, flags=re.DOTALL):
            yield "comment", re.sub(r"^\s*(/\*+|\*+/|\*|//+)|\*/", "", comment, flags=re.MULTILINE)


# -- what is found -------------------------------------------------------------------------------------------------------

MATH_BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)\.\. math::(?P<first>[^\n]*)\n?(?P<rest>(?:(?P=indent)[ \t]+[^\n]*\n?|[ \t]*\n)*)", re.M
)
MATH_INLINE = re.compile(r":math:`([^`]+)`|\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)
URL = re.compile(r"https?://[^\s<>\"'`\])]+")
NAME = r"[A-Z][\w'’-]*[a-z]"
CITATIONS = [
    # Schulman et al. 2017; Chou, Maturana and Scherer (2017)
    re.compile(rf"{NAME}(?:, {NAME})*(?:,? (?:and|&) {NAME})?(?: et al\.)?,? \(?(?:19|20)\d\d\b"),
    # Chan, Golub and LeVeque's formula
    re.compile(rf"{NAME}(?:, {NAME})*,? and {NAME}'s \w+"),
    # equation 7 of the PPO paper; Appendix C
    re.compile(
        r"\b(?:[Ee]q(?:uation|\.)s?|[Ss]ections?|[Aa]ppendix|[Cc]hapter|[Aa]lgorithm|[Ff]igure|[Tt]heorem|[Ll]ecture) "
        r"(?:\d+(?:\.\d+)*|\(\d+\)|[A-Z]\b)(?: of (?:the )?[A-Z][\w-]*(?: et al\. \d+| paper)?)?"
    ),
    re.compile(r"arXiv:\d+\.\d+"),
    # "Proximal Policy Optimization Algorithms"
    re.compile(r"[\"“](?:[A-Z][\w-]+(?:: | ))(?:[\w-]+[ :]+){1,}[A-Z][\w-]+[\"”]"),
]
MEASURES = r"nats|minutes|hours|milliseconds|microseconds|bytes|(?:squared )?units of the \w+|log units|radians|per cent"
COUNTS = r"steps|epochs|episodes|transitions"
QUANTITY = re.compile(
    rf"(?<![\w.])\d[\d,.]*(?:e-?\d+)? ?"
    rf"(?:{MEASURES}|{COUNTS}|seconds?|nat|µs|ms|ns|s|[kKMG]i?B|%|standard deviations?)(?![\w%])"
)
NAMED_UNIT = re.compile(rf"\b(?:{MEASURES}|{COUNTS}|seconds)\b")
IN_UNIT = re.compile(rf"\b(?:in|per) (?:{MEASURES}|{COUNTS}|seconds|second|step)\b")
FIELD = re.compile(
    r"^[ \t]*:(param|return|returns|raises|raise)\b[ \t]*([^:\n]*):(.*?)(?=^[ \t]*:\w+[^:\n]*:|^[ \t]*$|\Z)", re.M | re.S
)
FORMULA = re.compile(r"[^\s,;:`]+(?: [^\s,;:=`]+){0,2} = [^,;:`\n=]*[^\s,;:.`)=]")
MATHEMATICAL = re.compile(r"[Α-Ωα-ωᵀ²³ₜₗ₀-₉⁻∂∑Σ√·∇≈]|\w\^|\blog\b|\bexp\b")


def spaced(text: str) -> str:
    """Put one space in place of each white space."""
    return " ".join(text.split())


def found_in(text: str) -> Iterator[tuple[str, str]]:
    """
    Find what a text says.

    :param text: a docstring, a comment or a page
    :return: kind and what is said
    """
    for match in MATH_BLOCK.finditer(text):
        yield "equation", spaced(match["first"] + " " + match["rest"])
    text = MATH_BLOCK.sub(" ", text)
    for match in MATH_INLINE.finditer(text):
        yield "equation", spaced(next(group for group in match.groups() if group))
    text = MATH_INLINE.sub(" ", text)
    for match in URL.finditer(text):
        yield "url", match[0].rstrip(".,;:")
    text = URL.sub(" ", text)
    for kind, name, said in FIELD.findall(text):
        if kind.startswith("raise"):
            yield "raises", f"{name.strip()}: {spaced(said)}".rstrip(": ")
            continue
        about = "return" if kind.startswith("return") else name.split()[-1] if name.split() else ""
        for unit in NAMED_UNIT.findall(QUANTITY.sub(" ", spaced(said))):
            yield "unit", f"{about}: {unit}"
    line = spaced(text)
    for pattern in CITATIONS:
        for match in pattern.finditer(line):
            yield "citation", match[0]
    for match in QUANTITY.finditer(line):
        yield "unit", match[0]
    for match in IN_UNIT.finditer(spaced(FIELD.sub(" ", text))):
        yield "unit", match[0]
    for match in FORMULA.finditer(text):
        if MATHEMATICAL.search(match[0]):
            yield "formula", spaced(match[0])


def inventory(package: Path) -> list[Item]:
    """
    List what the files of a folder say.

    :param package: the folder
    :return: the items, sorted
    """
    items = []
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".c", ".h", ".md"):
            for name, text in texts_of(path):
                where = f"{path.relative_to(package).as_posix()} {name}".strip()
                items += [Item(kind, said, where) for kind, said in found_in(text) if said]
    return sorted(items, key=lambda item: (KINDS.index(item.kind), item.text, item.where))


# -- lists ---------------------------------------------------------------------------------------------------------------


def write(items: Iterable[Item], path: Path) -> None:
    """Write a list as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Item._fields)
        writer.writerows(items)


def read(path: Path) -> list[Item]:
    """Read a list, or make that of a folder."""
    if path.is_dir():
        return inventory(path)
    with path.open(encoding="utf-8", newline="") as file:
        return [Item(row["kind"], row["text"], row["where"]) for row in csv.DictReader(file)]


def report(before: Sequence[Item], after: Sequence[Item]) -> tuple[list[str], list[str]]:
    """
    Compare two lists, whatever the files.

    :param before: what was said
    :param after: what is said
    :return: lines on what is said nowhere any more, each with the nearest of what is new; and on what is said less often
    """
    old, new = (Counter((item.kind, item.text) for item in items) for items in (before, after))
    places: dict[tuple[str, str], list[str]] = {}
    for item in before:
        places.setdefault((item.kind, item.text), []).append(item.where)
    added: dict[str, list[str]] = {
        kind: [text for k, text in new - old if k == kind and (k, text) not in old] for kind in KINDS
    }
    missing, fewer = [], []
    for (kind, text), count in (old - new).items():
        where = ", ".join(places[kind, text])
        if (kind, text) in new:
            fewer.append(f"{kind}: {text}  [{old[kind, text]} before, {old[kind, text] - count} now; was in {where}]")
        else:
            near = difflib.get_close_matches(text, added[kind], 1, 0.75)
            missing.append(f"{kind}: {text}  [was in {where}]" + "".join(f"\n    perhaps now: {other}" for other in near))
    return missing, fewer


def main() -> int:
    """
    List or compare.

    :return: 1 if something is missing in the second list, else 0
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a package's folder, or a list")
    parser.add_argument("after", type=Path, nargs="?", help="the same, to be compared with it")
    parser.add_argument("--out", type=Path, help="CSV file for the list of the first; else how many of each kind is printed")
    given = parser.parse_args()
    before = read(given.before)
    if given.out is not None:
        write(before, given.out)
    counts = Counter(item.kind for item in before)
    print(f"{given.before}: " + ", ".join(f"{counts[kind]} × {kind}" for kind in KINDS))
    if given.after is None:
        return 0
    missing, fewer = report(before, read(given.after))
    for title, lines in (("said nowhere any more", missing), ("said less often", fewer)):
        print(f"\n{len(lines)} {title}" + (":" if lines else ""))
        print("\n".join(lines), end="\n" if lines else "")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
