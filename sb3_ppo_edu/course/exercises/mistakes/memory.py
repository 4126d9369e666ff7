"""Mistakes in carrying a memory through a rollout, in cutting it into sequences, and in averaging over these."""

TEXTS: dict[str, tuple[str, str]] = {
    # -- the state -----------------------------------------------------------------------------------------------------
    "state-never-reset": (
        "The memory is never reset",
        "Where an episode begins, what happened before belongs to another one. Multiply the state with (1 − start_t) before "
        "it goes into step t.",
    ),
    "reset-one-step-late": (
        "The memory is reset one step too late",
        "episode_starts[t] says that step t itself is the first of an episode, so it is the state that goes *into* step t "
        "that is emptied. (dones[t] would say that the next step is the first.)",
    ),
    "reset-inverted": (
        "The memory is kept at starts and lost elsewhere",
        "Where an episode begins episode_starts is 1, and the factor has to be 0 there: 1 − start_t.",
    ),
    "every-environment-reset": (
        "A start in one environment empties the memory of all",
        "Environments are independent: each has a row of its own in the state, and only the row of the one that starts is "
        "emptied.",
    ),
    "first-state-ignored": (
        "The first state is ignored",
        "A rollout mostly begins in mid-episode, and what the policy knew by then is in `state`. Empty it only where "
        "episode_starts[0] says so.",
    ),
    "state-not-carried": (
        "The state is not carried on",
        "Each step has to begin with what the step before it ended with. Here all begin with the same one.",
    ),
    "state-detached": (
        "The numbers are right, the gradient stops at each step",
        "What was worth remembering shows later: the gradient has to go back through the states of earlier steps. With a "
        "`.detach()` in between, no step learns what a later one would have needed.",
    ),
    "input-reset-too": (
        "The first observation of an episode is lost",
        "Only the memory is emptied, not what the policy sees: (1 − start_t) belongs to W_rec·h, not to W_in·x.",
    ),
    "tanh-left-out": (
        "The tanh is missing",
        "h_t = tanh(…). Without it the state is not bounded, and grows or fades step by step.",
    ),
    # -- sequences -----------------------------------------------------------------------------------------------------
    "first-sequence-lost": (
        "The steps before the first start are lost",
        "A rollout mostly begins in mid-episode. Those steps are a sequence, too; it begins at step 0 with the state that was "
        "stored.",
    ),
    "last-sequence-lost": (
        "The last sequence is lost",
        "The rollout's end closes the last sequence, although its episode goes on in the next rollout.",
    ),
    "empty-sequence-first": (
        "A sequence without steps comes first",
        "Where step 0 is a start already, it opens the first sequence; there is none before it.",
    ),
    "cut-after-start": (
        "Cut behind the start instead of before it",
        "episode_starts[t] = 1 says that step t is the first of a new episode: it belongs to the new sequence.",
    ),
    "positions-not-lengths": (
        "Positions instead of lengths",
        "That is where the sequences begin. A length is the distance to where the next one begins, or to the rollout's end.",
    ),
    # -- padding -------------------------------------------------------------------------------------------------------
    "padding-counted": (
        "The padding is averaged in",
        "What stands behind the end of a sequence was never played. It belongs neither in the sum nor in the count.",
    ),
    "mean-of-means": (
        "A mean of the sequences' means",
        "A step of a short sequence then weighs more than one of a long sequence. Each step that was taken counts the same.",
    ),
    "divided-by-all": (
        "Divided by the padding, too",
        "The sum is right. It has as many terms as there are real steps, and that is what it is divided by.",
    ),
    "one-step-of-padding": (
        "One step of padding is counted",
        "A sequence of n steps has the indices 0 to n − 1: t < n, not t ≤ n.",
    ),
    "last-step-lost": (
        "The last step of each sequence is lost",
        "A sequence of n steps has the indices 0 to n − 1, and all of them were played.",
    ),
    "old-state-added": (
        "The old state is added once more",
        "The new state is tanh of the sum, and nothing else: it never leaves −1 to 1.",
    ),
    "w-rec-transposed": (
        "W_rec is transposed",
        "W_rec h has in row i what unit i gets from all the others; with states in rows that is h times the transposed "
        "matrix.",
    ),
    "padding-multiplied": (
        "The padding is multiplied by 0",
        "In the padding there may be anything, and NaN times 0 is NaN. Choose the steps that were taken instead.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
