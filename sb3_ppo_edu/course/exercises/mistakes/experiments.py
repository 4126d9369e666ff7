"""Mistakes in repeating runs, and in comparing them within equal budgets."""

TEXTS: dict[str, tuple[str, str]] = {
    # -- repeating runs ------------------------------------------------------------------------------------------------
    "tolerance-for-bits": (
        "Nearly equal is taken for equal",
        "`isclose` and `allclose` forgive small differences. In a training a difference in the last bit grows until nothing "
        "is alike: a run that was repeated exactly differs by *nothing*.",
    ),
    "nan-never-equal": (
        "A NaN differs from itself",
        "`nan == nan` is False. Where both runs have a NaN in the same place, they have not parted.",
    ),
    "zero-for-never": (
        "0 where the runs never part",
        "`argmax` of nothing but False is 0, which says that they part at once. Ask first whether there is a difference at "
        "all.",
    ),
    "sums-compared": (
        "Sums are compared instead of numbers",
        "Two differences may add up to nothing. Compare number by number; one that differs is enough.",
    ),
    "all-for-any": (
        "Every number has to differ",
        "Two runs have parted as soon as *any* of their numbers differs.",
    ),
    "last-not-first": (
        "The last difference instead of the first",
        "What comes after the first difference is its consequence. The cause is where it began.",
    ),
    "counted-not-found": (
        "A count instead of a place",
        "The question is *where* the runs part, not in how many updates they differ.",
    ),
    "numbered-from-one": (
        "Counted from 1",
        "Indices begin at 0: the first update is number 0.",
    ),
    # -- equal budgets -------------------------------------------------------------------------------------------------
    "best-not-final": (
        "The best evaluation instead of the last",
        "The best of many noisy evaluations is a lottery ticket, and whoever evaluates more often has more of them. What the "
        "run is left with is its last policy.",
    ),
    "decisions-for-steps": (
        "Decisions are taken for steps of the environment",
        "If each action is held for four steps, a decision costs four of them. A budget in decisions would give that run four "
        "times as much of the world.",
    ),
    "budget-ignored": (
        "The budget is ignored",
        "The last evaluation of the whole run may lie far beyond the budget: whoever trained longer wins.",
    ),
    "budget-overdrawn": (
        "The budget is overdrawn",
        "The first evaluation *after* the budget has been spent had more training. Take the last one within it.",
    ),
    "budget-boundary-lost": (
        "An evaluation exactly at the budget is left out",
        "A budget of 300 steps may be spent: 300 ≤ 300.",
    ),
    "repeat-divided": (
        "Divided by the action repeat instead of multiplied",
        "One decision takes action_repeat steps of the environment, so there are more steps than decisions.",
    ),
    "mean-of-run": (
        "The mean of all evaluations",
        "That is how the run was on its way. Asked for is what it had reached in the end.",
    ),
    "nearest-to-budget": (
        "The evaluation nearest to the budget",
        "What was evaluated after the budget was spent does not count, however near it is.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
