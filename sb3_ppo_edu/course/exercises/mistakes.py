"""
The catalogue of common mistakes: what they are called, and which idea each of them misses.

How a mistake computes is in the exercise that it belongs to; here are the words. They say what is wrong in terms of the
algorithm and leave the mending to the student.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """
    A common mistake.

    :param name: its name in the catalogue
    :param title: in a few words
    :param idea: the idea that it misses, in one or two sentences
    """

    name: str
    title: str
    idea: str


_TEXTS: dict[str, tuple[str, str]] = {
    # -- signs and means: any loss -------------------------------------------------------------------------------------
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
    # -- returns and advantages ---------------------------------------------------------------------------------------
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
    # -- normalising --------------------------------------------------------------------------------------------------
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
    # -- the ratio ----------------------------------------------------------------------------------------------------
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
    # -- the clipped surrogate ----------------------------------------------------------------------------------------
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
    # -- critic -------------------------------------------------------------------------------------------------------
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
    # -- KL and clip fraction -----------------------------------------------------------------------------------------
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
    # -- entropy ------------------------------------------------------------------------------------------------------
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
    # -- densities ----------------------------------------------------------------------------------------------------
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
    # -- derivatives by hand ------------------------------------------------------------------------------------------
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
    # -- comparing runs -----------------------------------------------------------------------------------------------
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
    # -- reading gauges -----------------------------------------------------------------------------------------------
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
    # -- repeating runs -----------------------------------------------------------------------------------------------
    "tolerance-for-bits": (
        "Nearly equal is taken for equal",
        "`isclose` and `allclose` forgive small differences. In a training a difference in the last bit grows until nothing "
        "is alike: a run that was repeated exactly differs by *nothing*.",
    ),
    "nan-never-equal": (
        "A NaN differs from itself",
        "`nan == nan` is False. Where both runs have a NaN in the same place, they have not parted.",
    ),
    "zero-for-never": (
        "0 where the runs never part",
        "`argmax` of nothing but False is 0, which says that they part at once. Ask first whether there is a difference at "
        "all.",
    ),
    "sums-compared": (
        "Sums are compared instead of numbers",
        "Two differences may add up to nothing. Compare number by number; one that differs is enough.",
    ),
    "all-for-any": (
        "Every number has to differ",
        "Two runs have parted as soon as *any* of their numbers differs.",
    ),
    "last-not-first": (
        "The last difference instead of the first",
        "What comes after the first difference is its consequence. The cause is where it began.",
    ),
    "counted-not-found": (
        "A count instead of a place",
        "The question is *where* the runs part, not in how many updates they differ.",
    ),
    "numbered-from-one": (
        "Counted from 1",
        "Indices begin at 0: the first update is number 0.",
    ),
    # -- equal budgets ------------------------------------------------------------------------------------------------
    "best-not-final": (
        "The best evaluation instead of the last",
        "The best of many noisy evaluations is a lottery ticket, and whoever evaluates more often has more of them. What the "
        "run is left with is its last policy.",
    ),
    "decisions-for-steps": (
        "Decisions are taken for steps of the environment",
        "If each action is held for four steps, a decision costs four of them. A budget in decisions would give that run four "
        "times as much of the world.",
    ),
    "budget-ignored": (
        "The budget is ignored",
        "The last evaluation of the whole run may lie far beyond the budget: whoever trained longer wins.",
    ),
    "budget-overdrawn": (
        "The budget is overdrawn",
        "The first evaluation *after* the budget has been spent had more training. Take the last one within it.",
    ),
    "budget-boundary-lost": (
        "An evaluation exactly at the budget is left out",
        "A budget of 300 steps may be spent: 300 ≤ 300.",
    ),
    "repeat-divided": (
        "Divided by the action repeat instead of multiplied",
        "One decision takes action_repeat steps of the environment, so there are more steps than decisions.",
    ),
    "mean-of-run": (
        "The mean of all evaluations",
        "That is how the run was on its way. Asked for is what it had reached in the end.",
    ),
}

MISTAKES = {name: Mistake(name, title, idea) for name, (title, idea) in _TEXTS.items()}
"""All mistakes by name."""
