"""Mistakes in log-probabilities, in the Jacobian of tanh, and in entropies."""

TEXTS: dict[str, tuple[str, str]] = {
    # -- entropy -------------------------------------------------------------------------------------------------------
    "std-for-log-std": (
        "The log std is taken for the std",
        "The parameter is log σ, any real number. σ itself is exp(log σ); where the formula has log σ², that is 2·log σ.",
    ),
    "std-not-squared": (
        "σ where σ² belongs",
        "½·log(2πe·σ²): the variance stands in the logarithm. With σ, only half of the log std arrives.",
    ),
    "e-missing": (
        "The e is missing from 2πe",
        "½·log(2πσ²) is the logarithm of the density's normaliser. The entropy is ½ larger for each dimension.",
    ),
    "half-missing": (
        "The factor ½ is missing",
        "H = ½·log(2πe·σ²) for each dimension.",
    ),
    "constant-missing": (
        "Only the log std",
        "The gradient is right, since the constant has none. The number is no entropy, though, and cannot be compared.",
    ),
    "entropy-sign": (
        "The entropy has the wrong sign",
        "An entropy is −Σ p·log p: high where the policy is uncertain. (The bonus is *subtracted* from the loss, but later.)",
    ),
    "actions-averaged": (
        "Averaged over the action dimensions",
        "Dimensions are independent, so log-probabilities and entropies *add up* over them. Averaging makes everything "
        "smaller by their number, and the ratio a root of itself.",
    ),
    "actions-not-summed": (
        "Not summed over the action dimensions",
        "One action has several numbers but one probability, the product of its dimensions': their logarithms add up.",
    ),
    "summed-over-batch": (
        "Summed over the wrong axis",
        "Action dimensions are summed, states are not: they are different situations, not parts of one.",
    ),
    "logits-not-normalised": (
        "The logits are taken for log-probabilities",
        "Logits are log-probabilities up to a constant, and that constant matters here: log_softmax takes it out.",
    ),
    "softmax-over-batch": (
        "softmax over the wrong axis",
        "For each state the probabilities of its *actions* add up to 1, so the last axis is normalised, not the batch.",
    ),
    "actions-mean-for-sum": (
        "Averaged over the actions instead of summed",
        "−Σ p·log p is an expectation already: the p are its weights. Dividing by the number of actions once more is too "
        "much.",
    ),
    "sigmoid-for-softmax": (
        "sigmoid for softmax",
        "A categorical policy takes exactly one action, so the probabilities compete and add up to 1.",
    ),
    "zero-log-zero": (
        "0·log 0 becomes NaN",
        "A sure policy has probabilities that round to 0, whose logarithm is −∞. log_softmax stays finite.",
    ),
    # -- densities -----------------------------------------------------------------------------------------------------
    "normaliser-missing": (
        "The density is not normalised",
        "−½((a − μ)/σ)² alone lacks −log σ − ½·log 2π. The constant would cancel in the ratio; −log σ does not when σ is "
        "learned.",
    ),
    "log-std-normaliser-missing": (
        "−log σ is missing",
        "A wide Gaussian is a low one: its height falls as 1/σ. Without −log σ widening is free, and σ grows for ever.",
    ),
    "variance-forgotten": (
        "Divided by σ instead of σ²",
        "The exponent is −½·((a − μ)/σ)²: the whole quotient is squared, σ too.",
    ),
    "log-prob-sign": (
        "The log-probability has the wrong sign",
        "The further an action is from the mean, the *smaller* its log-probability.",
    ),
    "jacobian-missing": (
        "The Jacobian is missing",
        "tanh squeezes: where it is flat, much raw space lands in little action space, and the density there is higher. "
        "That is − Σ log(1 − tanh² u).",
    ),
    "jacobian-sign": (
        "The Jacobian has the wrong sign",
        "Densities transform with |du/dy| = 1/(1 − tanh² u): in logarithms − log(1 − tanh² u), so squeezing *raises* the "
        "density.",
    ),
    "jacobian-twice-squashed": (
        "The Jacobian is taken at the squashed action",
        "The derivative of tanh is 1 − tanh²(u) at the *raw* action u; tanh of it must be taken once, not twice.",
    ),
    "jacobian-not-squared": (
        "1 − tanh instead of 1 − tanh²",
        "The derivative of tanh u is 1 − tanh² u. Without the square it is not even symmetric in u.",
    ),
    "jacobian-saturates": (
        "log(1 − tanh²) becomes −∞",
        "In float32 tanh u is exactly 1 from u = 9.1 on, and log 0 is −∞. 2·(log 2 − u − softplus(−2u)) is the same "
        "function and finite everywhere.",
    ),
    "jacobian-epsilon": (
        "An epsilon inside the logarithm",
        "log(1 − tanh² u + 1e-6) is finite, but wrong where it matters: at |u| = 12 it is −14 and the truth is −23. "
        "2·(log 2 − u − softplus(−2u)) needs no epsilon.",
    ),
    "jacobian-averaged": (
        "The Jacobian is averaged over the action dimensions",
        "Each dimension is squeezed by itself; the logarithms of their derivatives add up, as the log-probabilities do.",
    ),
    "mean-policy": (
        "The entropy of the mean policy",
        "Each state has a policy of its own. Two sure policies that prefer different actions have no entropy; their "
        "mean has much.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
