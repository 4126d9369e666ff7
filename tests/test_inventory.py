"""The list of what docstrings and comments say: every kind is found, wherever it stands, and what is lost is named."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "house" / "inventory.py"

SOURCE = '''
"""Losses, equation 7 of the PPO paper.

Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347.
"""

EPS = 1e-8
"""Kept for 30 s, as in Appendix C and section 4.3 (Chou, Maturana and Scherer 2017)."""


def loss(ratio, timeout):
    r"""
    The loss :math:`-\\frac1n \\sum_t
    r_t`, and dL/dz = Σ dL/dh · W.

    .. math:: a =
        b^2

        + c

    :param ratio: shape ``(batch,)``
    :param timeout: seconds that it may
        take
    :return: scalar, in nats
    :raises ValueError: if the
        shapes differ
    """
    return ratio  # 5 µs a step, "Proximal Policy Optimization Algorithms"
'''


@pytest.fixture(scope="module")
def inventory() -> ModuleType:
    """The script, loaded."""
    specification = importlib.util.spec_from_file_location("house_inventory", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_kind_is_found(inventory: ModuleType, tmp_path: Path) -> None:
    """Equations in lines and blocks, formulas, URLs, citations, units and errors, with single spaces, and nothing else."""
    (tmp_path / "losses.py").write_text(SOURCE, encoding="utf-8")
    found: dict[str, set[str]] = {}
    for item in inventory.inventory(tmp_path):
        found.setdefault(item.kind, set()).add(item.text)
    assert found == {
        "equation": {r"-\frac1n \sum_t r_t", "a = b^2 + c"},
        "formula": {"and dL/dz = Σ dL/dh · W"},
        "url": {"https://arxiv.org/abs/1707.06347"},
        "citation": {
            "equation 7 of the PPO paper",
            "Schulman et al. 2017",
            "Appendix C",
            "section 4.3",
            "Chou, Maturana and Scherer 2017",
            '"Proximal Policy Optimization Algorithms"',
        },
        "unit": {"30 s", "timeout: seconds", "return: nats", "5 µs"},
        "raises": {"ValueError: if the shapes differ"},
    }


def test_files_and_line_breaks_do_not_matter(inventory: ModuleType, tmp_path: Path) -> None:
    """What moved into another file, a page or a C comment is not missing; the list is the same once read back."""
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "losses.py").write_text(SOURCE, encoding="utf-8")
    after = tmp_path / "after" / "functional"
    after.mkdir(parents=True)
    split = SOURCE.index("def loss")
    (after / "README.md").write_text("Losses, equation 7\nof the PPO paper, $a = b^2 + c$", encoding="utf-8")
    (after / "kernel.c").write_text("/* Schulman et al. 2017,\n * https://arxiv.org/abs/1707.06347 */\n", encoding="utf-8")
    (after / "eps.py").write_text(SOURCE[:split].replace("as in Appendix", "as in\nAppendix"), encoding="utf-8")
    (after / "surrogate.py").write_text(SOURCE[split:].replace(".. math:: a =", ".. math::\n        a ="), encoding="utf-8")
    before = inventory.inventory(tmp_path / "before")
    assert inventory.report(before, inventory.inventory(tmp_path / "after")) == ([], [])
    inventory.write(before, tmp_path / "before.csv")
    assert inventory.read(tmp_path / "before.csv") == before


def test_what_is_lost_is_named(inventory: ModuleType, tmp_path: Path) -> None:
    """A lost text is named with its old place and the nearest new one; one that is said less often, with both numbers."""
    before = tmp_path / "losses.py"
    before.write_text("# https://example.org/a\n\n# https://example.org/a\n\n# See Schulman et al. 2017.\n", encoding="utf-8")
    old = inventory.inventory(tmp_path)
    before.write_text("# https://example.org/a\n\n# See Schulman et al. 2016.\n", encoding="utf-8")
    missing, fewer = inventory.report(old, inventory.inventory(tmp_path))
    assert missing == ["citation: Schulman et al. 2017  [was in losses.py comment]\n    perhaps now: Schulman et al. 2016"]
    assert fewer == ["url: https://example.org/a  [2 before, 1 now; was in losses.py comment, losses.py comment]"]
