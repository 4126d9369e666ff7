"""Mistakes in learning from preferences: the reward model, the price of leaving the reference, and groups."""

TEXTS: dict[str, tuple[str, str]] = {
    # -- the reward model ----------------------------------------------------------------------------------------------
    "preference-upside-down": (
        "The rejected message is preferred",
        "The model says how likely it is that the *chosen* message is chosen. The loss has to fall when the chosen one's "
        "reward rises.",
    ),
    "rejected-left-out": (
        "Only the chosen message counts",
        "People said which of *two* messages is better, and nothing about either of them alone. Only the difference of the "
        "two rewards means anything.",
    ),
    "hinge-for-logistic": (
        "A hinge instead of a likelihood",
        "A hinge is content once the margin is 1. Bradley and Terry's model gives a probability to each preference, and its "
        "loss is the negative logarithm of that.",
    ),
    "probability-without-log": (
        "The logarithm is missing",
        "This is minus the probability. A likelihood of many pairs is a product, so what adds up is its logarithm; without "
        "it, a pair that is ranked badly wrong has almost no gradient.",
    ),
    "sigmoid-rounds-to-zero": (
        "Far out the sigmoid is 0, and its logarithm infinite",
        "For a pair that is ranked wrong by 120 the sigmoid is below every number of float32. The logarithm of a sigmoid has "
        "a form of its own that never computes the sigmoid.",
    ),
    # -- the rewards of tokens -----------------------------------------------------------------------------------------
    "leaving-rewarded": (
        "It is paid for leaving the reference",
        "A token that the policy likes more than the reference does has to *cost* something, or nothing holds the policy "
        "where the reward model knows what it says.",
    ),
    "beta-left-out": (
        "The price of the KL divergence is not β",
        "β says how many points of reward a nat of divergence costs.",
    ),
    "k3-for-log-ratio": (
        "Another estimate of the divergence",
        "Inside the *reward* the price is the plain log ratio: with it the expected return is E[score] − β·KL, and its "
        "gradient is the one wanted. The estimator k3 belongs in a loss.",
    ),
    "score-at-every-token": (
        "Every token earns the whole score",
        "The reward model judges a whole message, once. Paid at every token, a score counts as often as the message is long.",
    ),
    "score-shared-out": (
        "The score is shared out over the tokens",
        "The sum is right, but an early token is paid before the message is there to be judged, and the return of a later one "
        "leaves out what was paid before it.",
    ),
    "score-at-the-first-token": (
        "The score comes with the first token",
        "Returns look ahead. A score that comes first is no consequence of any token after it.",
    ),
    "price-paid-at-the-end": (
        "The whole price is paid at the last token",
        "Each token has left the reference by its own log ratio. Paid where it arises, it is charged to the token that caused "
        "it and to those before, and not to the last one.",
    ),
    "last-token-for-free": (
        "The last token pays nothing",
        "The score is *added* to what the last token pays; it does not take its place.",
    ),
    # -- groups --------------------------------------------------------------------------------------------------------
    "group-ignored": (
        "All prompts are in one pot",
        "An easy prompt brings high scores, whatever is answered. Compare a message with those that answer the *same* prompt: "
        "one row.",
    ),
    "groups-crossed": (
        "Messages of different prompts are compared",
        "The first axis counts prompts, the second the messages of one prompt. The yardstick is one number a prompt.",
    ),
    "spread-of-all": (
        "The mean is the group's, the spread is not",
        "Both are taken within the group; each row comes out with a standard deviation of 1.",
    ),
    "compared-with-the-best": (
        "Compared with the best of the group",
        "Then no message is ever better than expected, and all become less likely. What was to be expected is the mean.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
