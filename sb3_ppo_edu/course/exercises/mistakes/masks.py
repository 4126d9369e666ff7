"""Mistakes in taking forbidden actions out of a distribution."""

TEXTS: dict[str, tuple[str, str]] = {
    "not-renormalised": (
        "The probabilities of the legal actions do not add up to 1",
        "What the forbidden actions had goes to the legal ones, in proportion. Put the mask on the *logits*, before softmax, "
        "and it happens by itself.",
    ),
    "logits-zeroed": (
        "A logit of 0 forbids nothing",
        "Multiplying with the mask makes the logit 0, and exp(0) = 1 is a fine probability before normalising. To forbid an "
        "action its logit has to be so low that exp of it is 0: −1e8, or −∞.",
    ),
    "mask-read-backwards": (
        "The mask is read the wrong way round",
        "True says that an action *may* be taken. `masked_fill` fills where its mask is True, so it wants `~mask`.",
    ),
    "softmax-twice": (
        "softmax of probabilities",
        "What comes out of softmax is no logit. Put the mask on the logits and normalise once.",
    ),
    "mask-left-out": (
        "The entropy of all actions",
        "What cannot be chosen adds nothing to the uncertainty. Where one action is left, the entropy is 0.",
    ),
    "infinity-times-zero": (
        "0·(−∞) becomes NaN",
        "A forbidden action adds 0 to −Σ p·log p, but with a logit of −∞ the computer multiplies 0 with −∞. With −1e8 the "
        "product is 0, as it should be.",
    ),
    "where-hides-nan": (
        "The numbers are right, the gradient is NaN",
        "`where` chooses numbers, and on the way back it hands 0 to the branch that was not chosen: 0·(−∞) is NaN there. "
        "Take −1e8 instead of −∞, so that no infinity comes up at all.",
    ),
    "gini-for-entropy": (
        "The Gini impurity",
        "1 − Σ p² measures something like it, but the entropy is −Σ p·log p, in nats.",
    ),
    "share-of-possible": (
        "Divided by the largest entropy possible",
        "A share of log n was not asked for; with one legal action it is 0/0.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
