"""Mistakes in computing what a training logs, and in reading it."""

TEXTS: dict[str, tuple[str, str]] = {
    "unexplained-share": (
        "The share that is *not* explained",
        "Var(error)/Var(returns) is what the critic leaves over. What it explains is 1 minus that.",
    ),
    "error-squared-for-variance": (
        "The mean squared error instead of the errors' variance",
        "A critic that is off by the same constant everywhere explains all *differences* between returns: its errors have no "
        "variance. Their mean square counts the constant, too.",
    ),
    "std-ratio": (
        "Standard deviations instead of variances",
        "It is variances that add up to a whole, explained and unexplained. Their roots do not.",
    ),
    "variance-of-predictions": (
        "Divided by the variance of the predictions",
        "The whole that is to be explained is the variance of the *returns*. A critic that says the same everywhere would "
        "otherwise divide by 0.",
    ),
    "spread-of-predictions": (
        "Only how much the predictions vary",
        "Var(values)/Var(returns) rewards a critic for varying, right or wrong. What counts is the error: returns − values.",
    ),
    "explained-of-nothing": (
        "Returns without variance are explained to minus infinity",
        "If all returns are equal there is nothing to explain, and 1 − Var/0 is no number worth plotting. SB3 logs NaN there.",
    ),
    "knob-wrong-way": (
        "The knob is turned the wrong way",
        "A KL divergence that is too large means steps that are too long: a *lower* learning rate. One near 0 means a higher "
        "one.",
    ),
    "silenced-taken-for-slow": (
        "A silenced policy is taken for a slow one",
        "Little KL has two causes. If many ratios are clipped, the policy wants to move and is not allowed to: it is the clip "
        "range, not the learning rate. The learning rate is to blame only where nothing is clipped either.",
    ),
    "clip-fraction-alone": (
        "The clip fraction alone decides",
        "How far the policy moved is what the KL divergence says. The clip fraction says why it did not move.",
    ),
    "peak-for-trend": (
        "One peak decides",
        "Single updates leap in healthy trainings, too. Ask what a *typical* update does: the median.",
    ),
    "mean-for-median": (
        "The mean, which one peak moves as far as it likes",
        "KL divergences have long tails: one update of a whole nat outweighs hundreds of healthy ones. The median asks what a "
        "typical update does.",
    ),
    "last-update-only": (
        "Only the last update is looked at",
        "One update is an anecdote, the last one too. Ask what a typical update does: the median of all.",
    ),
    "squared-correlation": (
        "The squared correlation",
        "It forgives a wrong scale, a wrong offset and even a wrong sign. The explained variance does not.",
    ),
    "votes-counted": (
        "Each update is judged by itself",
        "The rule asks for the medians of the two gauges first, and judges once.",
    ),
    "zero-for-undefined": (
        "0 where nothing can be explained",
        "If all returns are equal there is no variance of which a share could be explained: neither all of it nor none.",
    ),
    "thresholds-included": (
        "A number exactly on the threshold is counted",
        "*Above* 0.05 and *below* 0.003 leave out 0.05 and 0.003 themselves.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
