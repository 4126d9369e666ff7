"""Mistakes in comparing algorithms by the scores of their runs."""

TEXTS: dict[str, tuple[str, str]] = {
    "plain-mean": (
        "The mean of all runs",
        "One run that collapsed, or one lucky one, moves a mean as far as it likes. The interquartile mean leaves a "
        "quarter out at either end.",
    ),
    "median-for-middle-half": (
        "The median",
        "The median looks at one or two runs in the middle and forgets the rest; with few seeds it jumps. The "
        "interquartile mean averages the whole middle half.",
    ),
    "not-sorted": (
        "The runs are not sorted",
        "The middle half is that of the *sorted* scores, not the middle of the order in which the runs happened to come.",
    ),
    "cut-at-one-end": (
        "Only the worst runs are left out",
        "A quarter is left out at *either* end. Leaving out the worst alone makes every algorithm look better than it is.",
    ),
    "cut-an-eighth": (
        "Too little is left out",
        "A quarter of the runs (rounded down) at either end, so that the middle *half* remains.",
    ),
    "pair-by-pair": (
        "Runs are compared pair by pair",
        "Run 3 of one algorithm has nothing to do with run 3 of the other: compare each with each.",
    ),
    "ties-lost": (
        "Ties count as losses",
        "Where both score the same, neither is better: half a point. Otherwise an algorithm loses against itself.",
    ),
    "ties-won": (
        "Ties count as wins",
        "Where both score the same, neither is better: half a point. Otherwise an algorithm beats itself.",
    ),
    "means-compared": (
        "Only the means are compared",
        "The question is how often a run of the first beats a run of the second, which has an answer between 0 and 1.",
    ),
    "other-way-round": (
        "The other way round",
        "The probability that the *first* is better.",
    ),
    "empty-slice": (
        "Nothing is left where nothing is cut off",
        "`[k:-k]` is empty for k = 0, since −0 is the beginning and not the end.",
    ),
    "ends-replaced": (
        "The ends are replaced, not left out",
        "A winsorised mean keeps as many numbers as there were. Here the outer quarters are not to count at all.",
    ),
    "between-percentiles": (
        "The runs between two percentiles",
        "Interpolated percentiles keep another number of runs. Count: ⌊n/4⌋ runs are left out at either end.",
    ),
    "ties-left-out": (
        "Ties are left out",
        "A tie is half a win, and it counts among the comparisons.",
    ),
    "divided-by-own-number": (
        "Divided by n² although the two numbers of runs differ",
        "There are as many comparisons as pairs: the number of the one times the number of the other.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
