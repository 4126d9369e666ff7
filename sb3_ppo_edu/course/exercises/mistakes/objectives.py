"""
Mistakes in the ratio, the clipped surrogate, the critic's loss, the KL divergence, and the sum of the losses.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (notebooks/errata.md).
"""

TEXTS: dict[str, tuple[str, str]] = {
    # -- the ratio -----------------------------------------------------------------------------------------------------
    "ratio-not-exponentiated": (
        "The ratio is not exponentiated",
        "The difference of two log-probabilities is the *logarithm* of their ratio: 0 where the policies agree, while the "
        "ratio is 1 there.",
    ),
    "ratio-inverted": (
        "The ratio is upside down",
        "r = π_new / π_old: above 1 for an action that has become more likely.",
    ),
    "ratio-of-log-probs": (
        "Log-probabilities are divided",
        "log a / log b is not log(a / b). Dividing probabilities means subtracting their logarithms.",
    ),
    "old-not-detached": (
        "The old log-probs are not detached",
        "π_old is the policy that acted, and it is past: a constant. If gradients flow into it, they cancel those of the "
        "numerator.",
    ),
    # -- the clipped surrogate -----------------------------------------------------------------------------------------
    "max-for-min": (
        "max for min: it clips on the wrong side",
        "The objective is a *pessimistic* bound: of the clipped and the unclipped term the smaller one counts. With max, "
        "a good action is held back when its ratio is too small and a bad one when it is too large: nothing stops a "
        "policy that runs away, and one that moved the wrong way cannot come back.",
    ),
    "only-clipped": (
        "The clipped term alone",
        "Clipping alone also flattens the objective where the policy has moved the *wrong* way, and no gradient is left "
        "to bring it back. The min with the unclipped term keeps that one.",
    ),
    "not-clipped": (
        "Nothing is clipped",
        "This is the plain importance-weighted objective: nothing keeps the new policy near the old one.",
    ),
    "clip-around-zero": (
        "Clipped around 0 instead of 1",
        "The ratio is 1 where the policies agree. The window of trust is 1 − ε to 1 + ε, not −ε to ε.",
    ),
    "clip-the-product": (
        "The product is clipped instead of the ratio",
        "It is the *ratio* that must stay near 1. Ratio times advantage is in units of reward; clipping it throws the "
        "advantage away.",
    ),
    "clip-above-only": (
        "Clipped above but not below",
        "For a bad action (negative advantage) it is the *lower* end that matters: its probability may not fall further "
        "than 1 − ε in one update.",
    ),
    "clip-below-only": (
        "Clipped below but not above",
        "For a good action (positive advantage) it is the *upper* end that matters: its probability may not rise further "
        "than 1 + ε in one update.",
    ),
    "clip-bounds-swapped": (
        "The bounds of the clip are swapped",
        "`clamp` takes the lower bound first: 1 − ε, then 1 + ε. The other way round every ratio becomes the same number, "
        "and no gradient is left.",
    ),
    "clip-the-advantage": (
        "The advantage is clipped instead of the ratio",
        "The *ratio* says how far the policy has moved, so it is the ratio that is held near 1. How good the action was "
        "is not to be changed.",
    ),
    "clip-log-ratio": (
        "The log ratio is clipped at ±ε",
        "The window 1 ± ε is one of ratios. exp(±ε) is near it but not it, and the difference grows with ε.",
    ),
    "advantage-absolute": (
        "The advantage's sign is lost",
        "Bad actions (negative advantage) have to become less likely. With |Â| every action becomes more likely.",
    ),
    "product-of-means": (
        "A product of means instead of the mean of products",
        "Each log-probability is weighed by *its own* return. If both are averaged first, no action is told from another.",
    ),
    "probabilities-not-logs": (
        "Probabilities instead of their logarithms",
        "The policy gradient is that of log π, which weighs a rare action as much as a frequent one.",
    ),
    # -- critic --------------------------------------------------------------------------------------------------------
    "advantage-not-detached": (
        "The advantage is not detached",
        "In the policy's loss the advantage is a weight, a constant. With its graph attached, the critic learns to make "
        "the *policy's* loss small instead of predicting returns.",
    ),
    "critic-detached": (
        "The critic learns nothing",
        "The value is detached in its own loss too. There it is what is trained: the *advantage* is the constant.",
    ),
    "advantage-sign": (
        "The advantage has the wrong sign",
        "Advantage = earned − expected, and the policy's loss is *minus* log π times that. With one sign turned, actions "
        "that went better than expected become less likely.",
    ),
    "value-sign": (
        "The value loss is subtracted",
        "The error of the critic shall become small, so it is added to what is minimised.",
    ),
    "vf-coef-missing": (
        "The value loss is not weighted",
        "The critic's error has its own scale; its weight c_v (0.5) is missing.",
    ),
    "broadcast": (
        "Shapes (n, 1) and (n,) are broadcast to (n, n)",
        "A critic gives a column of shape (n, 1). Subtracting it from n numbers compares every state with every return, "
        "without an error. Take the extra axis away first.",
    ),
    "value-clip-min": (
        "min for max in the value loss",
        "Of the two errors the *larger* one counts: a bound that is pessimistic for a loss, as min is for an objective. "
        "With min the clipping can be exploited.",
    ),
    "value-clip-no-max": (
        "The maximum is missing",
        "With the clipped error alone there is no gradient once the value has left the window, not even where it went "
        "away from the return. (SB3 does it like this; the lecture and OpenAI's baselines take the maximum.)",
    ),
    "value-not-clipped": (
        "Nothing is clipped",
        "This is the plain squared error. The clipped one holds V near the value of the rollout.",
    ),
    "value-clip-around-zero": (
        "The value itself is clipped",
        "What is limited is the *change* V − V_old. Clipping V itself at ±ε forbids every return larger than that.",
    ),
    "value-clip-around-return": (
        "The value is clipped around the return",
        "The window lies around the *old value*. Around the return it would make every error at most ε.",
    ),
    "absolute-error": (
        "The error is not squared",
        "A squared error has the expected return as its optimum; an absolute one the median.",
    ),
    "factor-half": (
        "A factor 1/2 too many",
        "Some write ½(V − R)² for a nicer derivative. Here, as in SB3 and the lecture, the weight is c_v alone.",
    ),
    # -- KL and clip fraction ------------------------------------------------------------------------------------------
    "kl-k1": (
        "The k1 estimator, which can be negative",
        "mean(log π_old − log π_new) is right on average, but noisy, and negative for many a batch, though no KL "
        "divergence is. k3, mean((r − 1) − log r), cannot be. (The activity's hint is k1.)",
    ),
    "kl-sign": (
        "The KL divergence has the wrong sign",
        "log r = log π_new − log π_old, and KL(old ‖ new) is the mean of −log r over actions of the old policy.",
    ),
    "kl-k2": (
        "The k2 estimator, which is biased",
        "½·mean((log r)²) is near the KL divergence for small changes, but not it. k3 is unbiased.",
    ),
    "kl-direction": (
        "The divergence is taken the wrong way round",
        "Actions come from the old policy, so it is KL(old ‖ new) that they can estimate, with r = π_new / π_old.",
    ),
    "kl-ratio-not-exponentiated": (
        "The ratio inside k3 is not exponentiated",
        "(r − 1) − log r wants the ratio r once as it is and once as its logarithm. With log r in both places nothing but "
        "−1 is left.",
    ),
    "fraction-one-sided": (
        "Only ratios that are too large are counted",
        "Clipping acts on both sides of 1: |r − 1| > ε.",
    ),
    "count-not-fraction": (
        "A count instead of a fraction",
        "Divide by the size of the batch: 0.1 means the same for every batch size.",
    ),
    "fraction-inside": (
        "The fraction that is *not* clipped",
        "Counted are the ratios outside of 1 ± ε.",
    ),
    "log-ratio-compared": (
        "The logarithm of the ratio is compared with ε",
        "From exp(−ε) to exp(ε) is another window than from 1 − ε to 1 + ε: what is compared is the ratio's distance from 1.",
    ),
    # -- the sum of the losses -----------------------------------------------------------------------------------------
    "entropy-bonus-sign": (
        "Entropy is punished instead of rewarded",
        "The loss is minimised and the entropy shall stay large, so it is *subtracted*.",
    ),
    "coefficients-swapped": (
        "The coefficients are swapped",
        "c_v (0.5) weighs the critic's error, c_e (0.01) the entropy.",
    ),
    "coefficients-missing": (
        "The coefficients are missing",
        "Value loss and entropy have other scales than the policy loss; c_v and c_e balance them.",
    ),
    "smaller-ratio": (
        "The smaller ratio instead of the smaller product",
        "For a bad action (negative advantage) the smaller ratio gives the *larger* product: the min has to see the "
        "advantage.",
    ),
    "value-window-as-of-ratio": (
        "The window is a share of the old value",
        "For a ratio the window is around 1; a value may move by ε in units of the return, whatever the old value is: "
        "it may be 0, or negative.",
    ),
    "regression": (
        "A regression on the returns",
        "Log-probabilities are not to become like the returns: each is pushed up or down, and the return says how hard.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
