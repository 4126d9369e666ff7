"""Mistakes of any loss: its sign, its mean over the batch, and its gradient."""

TEXTS: dict[str, tuple[str, str]] = {
    "sign-flipped": (
        "The sign is flipped",
        "The paper *maximises* an objective; an optimizer *minimises* a loss. Exactly one minus sign stands between the two.",
    ),
    "objective-not-loss": (
        "A loss where the objective is asked for",
        "Here the objective itself is asked for, larger is better. The minus sign comes later, where it is turned into a "
        "loss.",
    ),
    "summed-not-averaged": (
        "Summed over the batch instead of averaged",
        "The expectation over time steps is a mean. With a sum the gradient grows with the batch, and the learning rate "
        "means something else for every batch size.",
    ),
    "not-reduced": (
        "One number per transition, where one for the batch is expected",
        "An optimizer needs a single number to go downhill on: the expectation over the batch is still to be taken.",
    ),
    "averaged-too-early": (
        "Averaged, where one number per transition is expected",
        "This function works transition by transition. The mean over the batch is taken by whoever calls it.",
    ),
    "no-gradient": (
        "The number is right, but no gradient flows",
        "Something cuts the graph on the way from the log-probabilities to the result (`.item()`, `.detach()`, `.data`, "
        "`torch.tensor(...)`): an optimizer would train nothing, without any error.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
