"""
Mistakes in returns, TD errors, GAE and time limits, and in standardising advantages.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (notebooks/errata.md).
"""

TEXTS: dict[str, tuple[str, str]] = {
    # -- returns and advantages ----------------------------------------------------------------------------------------
    "no-discount": (
        "The discount is missing",
        "A reward k steps ahead counts γ to the power k. Here later rewards count in full.",
    ),
    "own-reward-discounted": (
        "The reward of the step itself is discounted",
        "The discount belongs to what comes *after* the step: G_t = r_t + γ·G_{t+1}, and r_t itself counts in full.",
    ),
    "own-reward-left-out": (
        "The reward of the step itself is left out",
        "G_t begins with r_t, the reward that the action at t brought; only then follow the discounted later ones.",
    ),
    "whole-return-everywhere": (
        "Every step gets the return of the whole episode",
        "An action cannot have caused rewards that came before it. G_t adds up the rewards from t on; that is right on "
        "average too, with far less noise.",
    ),
    "past-not-future": (
        "Rewards of the past are added up instead of the future's",
        "An action is credited with what follows from it. Walk from the last step to the first, so that the future is known.",
    ),
    "reversed-in-time": (
        "The result is in reverse order",
        "The recursion runs backwards, so it meets the last step first; the result has to be in the order of time again.",
    ),
    "sign-of-td-error": (
        "The TD error has the wrong sign",
        "δ = what happened − what was expected: positive when the step went better than the critic thought.",
    ),
    "no-gamma-on-next-value": (
        "The value of the next state is not discounted",
        "V(s_{t+1}) lies one step ahead, so it counts γ times; so does everything that follows from there.",
    ),
    "current-value-for-next": (
        "V(s_t) is used where V(s_{t+1}) belongs",
        "The bootstrap asks the critic about the state that the action led *to*, which is one place further on.",
    ),
    "no-baseline": (
        "The value of the state is not subtracted",
        "An advantage says how much better than expected an action was. Without − V(s_t) it is a return.",
    ),
    "bootstrap-on-termination": (
        "It bootstraps on termination",
        "Where an episode has ended nothing follows, and the next entry belongs to a new episode. The value of what "
        "follows has to be masked by 1 − done.",
    ),
    "mask-off-by-one": (
        "The mask is off by one step",
        "dones[t] says that the episode ended *with* step t, so it is dones[t] that masks V(s_{t+1}). The lecture's "
        "listing has dones[t + 1] here, which belongs to the step after.",
    ),
    "mask-inverted": (
        "The mask is upside down",
        "done = 1 means that nothing follows, so what follows is multiplied by 1 − done, not by done.",
    ),
    "mask-missing-in-td-error": (
        "The TD error is not masked",
        "Two things look beyond the step: the value inside δ and the advantage of the recursion. You stop the second at "
        "an episode's end, but δ still looks into the next episode.",
    ),
    "mask-missing-in-recursion": (
        "The recursion leaks across episodes",
        "Two things look beyond the step: the value inside δ and the advantage of the recursion. δ is masked, but the "
        "advantage of the next episode's first step flows into the last step of this one.",
    ),
    "lambda-missing": (
        "λ is missing from the recursion",
        "Each step further ahead counts γ·λ. Without λ this is the Monte Carlo advantage, with all of its variance.",
    ),
    "gamma-missing-in-recursion": (
        "γ is missing from the recursion",
        "Each step further ahead counts γ·λ: λ trades bias for variance, γ discounts. You have only λ.",
    ),
    "last-value-ignored": (
        "The rollout's end is treated like an episode's end",
        "A rollout is cut off where the buffer is full, not where the task is over: the value of the observation after "
        "the last step stands for all that is to come.",
    ),
    "returns-not-advantages": (
        "Returns instead of advantages",
        "What is returned is Â + V, the target of the critic. The policy wants Â itself.",
    ),
    "no-bootstrap-on-truncation": (
        "A time limit is treated like an end",
        "The clock stopped the episode, not the task: the agent could have gone on from there. γ·V(last observation) "
        "stands for what it would have got.",
    ),
    "bootstrap-on-every-end": (
        "It bootstraps on termination too",
        "Only a time limit cuts off a future that would have been. Where the task itself ended (a crash, the goal) there "
        "is none, and V of that state must not be added.",
    ),
    "bootstrap-when-both": (
        "It bootstraps where the task ended at the time limit",
        "If an episode terminates in the very step in which the clock runs out, it has terminated: there is no future.",
    ),
    "bootstrap-not-discounted": (
        "The bootstrapped value is not discounted",
        "The last observation lies one step after the reward, so its value counts γ times.",
    ),
    "reward-replaced": (
        "The bootstrap replaces the reward",
        "γ·V stands for what comes *after* the step. The reward of the step itself was earned and is kept.",
    ),
    # -- normalising ---------------------------------------------------------------------------------------------------
    "epsilon-missing": (
        "No epsilon: constant advantages become NaN",
        "If all advantages are alike their standard deviation is 0, and 0/0 is NaN, which ends a training in silence. A "
        "tiny number such as 1e-8 in the denominator makes them 0.",
    ),
    "single-becomes-nan": (
        "A single advantage becomes NaN",
        "With n − 1 in the denominator the standard deviation of one number is 0/0. There is nothing to standardise: give "
        "it back as it is.",
    ),
    "population-std": (
        "n where n − 1 is asked for",
        "The standard deviation of a *sample* divides by n − 1, since its mean was estimated from the same numbers: "
        "torch's default, and SB3's. numpy's default divides by n.",
    ),
    "variance-for-std": (
        "Divided by the variance",
        "Advantages and their standard deviation have the same unit; the variance has its square. Only the ratio to the "
        "standard deviation has spread 1.",
    ),
    "mean-not-subtracted": (
        "The mean is not subtracted",
        "Standardised numbers have mean 0, so that about half of the actions become more likely and half less.",
    ),
    "not-divided": (
        "Centred but not scaled",
        "The mean is 0, but the spread is that of the rewards: the step size depends on their unit.",
    ),
    "scaled-by-maximum": (
        "Divided by the largest absolute value",
        "A single outlier then makes all the others vanish. The standard deviation is what is asked for.",
    ),
    "min-max-scaled": (
        "Squeezed into [0, 1]",
        "No advantage is negative any more, so no action becomes less likely. Subtract the mean, divide by the standard "
        "deviation.",
    ),
    "wrong-axis": (
        "The mean is over the wrong axis",
        "All entries of the batch are treated alike, whatever environment they came from: mean and standard deviation are "
        "over everything, not along one axis.",
    ),
    "discounted-from-start": (
        "Discounted from the start of the episode",
        "A reward is discounted by how far it lies ahead of step t, not by how far from the episode's first step: seen "
        "from t, r_t counts in full.",
    ),
    "value-masked-too": (
        "The mask takes V(s_t) away as well",
        "Where an episode ends, nothing *follows*; but the state was one the critic had an opinion of, and the TD error"
        " still compares with it.",
    ),
    "mask-of-all-environments": (
        "An end in one environment cuts off all of them",
        "Environments stand side by side and have nothing to do with each other: each has a mask of its own.",
    ),
    "value-of-next-row": (
        "The value of the next row is taken",
        "`final_values[t]` is already the value of the observation after step t; one row on is another step's.",
    ),
    "length-for-number": (
        "The length of the first axis is taken for the number of advantages",
        "One step in five environments has the shape (1, 5): five advantages, which can be standardised.",
    ),
    "constant-kept": (
        "Equal advantages are given back as they are",
        "If all are alike none is better than the mean: standardised they are all 0.",
    ),
    "recursion-from-last-value": (
        "The recursion begins with the value of what follows",
        "That value is in the last TD error already. Behind the last step there is no *advantage* yet: begin with 0.",
    ),
}
"""Name of each mistake -> its title, and the idea that it misses."""
