"""Families of mistakes: what can go wrong in any formula, whatever it is about."""

IDEAS: dict[str, str] = {
    "without-effect": "Two inputs differ in it alone and must give different answers; yours are the same. Is it read at "
    "all, or is a usual value written in its place?",
    "sign": "Follow the signs once through the whole formula: what pushes the result up, and what down?",
    "term": "The rest of the formula is there. Add up all that the text names.",
    "factor": "The rest of the formula is there. Which quantity weighs which?",
    "brackets": "What is weighed by what? Put brackets around each part of the formula and look again.",
    "argument": "Each argument has its own meaning; read once more what the docstring says of them.",
    "function": "Which quantity lives on which scale: a probability or its logarithm, a logit, a standard deviation "
    "or its logarithm?",
    "reduction": "Say for each axis what is in it, and whether the result still has it.",
    "axis": "Say for each axis what is in it: the batch, the steps in time, the actions, the environments.",
    "bound": "A window has two ends, and both of them hold something back.",
    "power": "Look at the units: what is squared has others than what is not.",
    "step": "Write down for three steps which index belongs to which moment.",
    "order": "What is known first, and what follows from it?",
    "condition": "Take one input for each case and say in words what has to come out.",
    "comparison": "Take one input on either side of the threshold and say in words what has to come out.",
    "operation": "Put in numbers with units and see what the two give together.",
    "gradient": "What is a constant for this loss, and what is not?",
    "number": "Numbers in a formula have a reason: work the smallest input out by hand.",
    "statement": "What stands there in the docstring and is not done?",
    "normalised": "Only what the text says is normalised; the scale of the rest means something.",
    "complement": "1 means that something *is* so, 0 that it is not: which of the two is wanted?",
    "shape": "Print the shape, and say for each axis what is in it.",
    "special-case": "Take this input alone and say in words what has to come out.",
    "entries": "Take one number of each kind and say in words what has to come out.",
    "influence": "On which numbers of the input does each entry of the result depend, and on which does it not?",
    "part": "Look at the rest of the formula alone.",
    "other-quantity": "It is a quantity of the course, but another one. What is asked for here?",
}
"""Family -> what to think about."""
