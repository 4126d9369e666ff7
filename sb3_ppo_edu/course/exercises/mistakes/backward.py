"""Mistakes in derivatives by hand."""

TEXTS: dict[str, tuple[str, str]] = {
    "silent-on-both-sides": (
        "Silent on both sides of the window",
        "Outside of the window a transition is silent only where it has gone far enough in the direction its advantage "
        "wants. On the other side the min picks the unclipped term, whose slope brings it back.",
    ),
    "never-silent": (
        "Nothing is ever silent",
        "Where the min picks the clipped term, it is a constant: its derivative is 0. This is the gradient of the "
        "objective without clipping.",
    ),
    "ratio-not-differentiated": (
        "The ratio's own derivative is missing",
        "r = exp(log π − log π_old), so dr/d log π = r. At the first step r is 1 and nobody notices.",
    ),
    "mean-not-differentiated": (
        "The mean's 1/n is missing",
        "The loss is a mean over the batch; each transition's part of the derivative has the factor 1/n.",
    ),
    "gradient-sign": (
        "The derivative has the wrong sign",
        "Follow the sign through the chain once more; an optimizer that steps against this goes uphill.",
    ),
    "only-the-action-taken": (
        "Only the logit of the action taken",
        "The softmax ties all logits together: making one action likelier makes the others less likely, so every logit "
        "has a derivative, −π(a), and the one taken + 1.",
    ),
    "normaliser-not-differentiated": (
        "The normaliser is not differentiated",
        "log π(a) = logit_a − log Σ exp(logits), and the second term depends on every logit: its derivative is π.",
    ),
    "upstream-missing": (
        "The derivative from above is missing",
        "The chain rule multiplies: what a layer hands down is its own slope *times* what came from above.",
    ),
    "tanh-once-too-often": (
        "tanh is taken once too often",
        "The slope is 1 − tanh²(x), and y = tanh(x) is what you have been given already.",
    ),
    "tanh-not-squared": (
        "1 − y instead of 1 − y²",
        "The derivative of tanh is 1 − tanh², which is symmetric in the sign of y.",
    ),
    "weights-transposed": (
        "The shape is that of the transposed weights",
        "torch keeps W as (n_outputs, n_inputs), and a gradient has the shape of what it is the gradient of.",
    ),
    "averaged-again": (
        "Averaged over the batch once more",
        "The mean of the loss has its 1/n in what comes from above already; here the parts of the transitions only add up.",
    ),
    "product-of-sums": (
        "A product of sums instead of the sum of products",
        "Each transition contributes its own input times its own derivative; add up after multiplying.",
    ),
    "slope-of-sigmoid": (
        "The slope of the sigmoid",
        "y·(1 − y) is the sigmoid's derivative. tanh goes from −1 to 1, and its slope is largest, 1, at y = 0.",
    ),
    "softmax-overflows": (
        "exp overflows",
        "exp(710) is no number any more. A softmax stays the same if one number is taken away from all logits of a "
        "state; take the one that makes every exponent harmless.",
    ),
    "bound-for-zero": (
        "The clipped ratio where nothing is left",
        "Beyond the bound the objective is flat. Its *value* has the bound in it, its derivative is 0.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
