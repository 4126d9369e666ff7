"""How the numbers of a report came about: whose settings the runs had, how long they trained, and what the columns mean."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_ppo_edu.envs.factory import named_with_kwargs
from sb3_ppo_edu.lab.algorithms import ALGORITHMS, FILES, RANDOM, held, load_settings
from sb3_ppo_edu.lab.formatting import in_words, number
from sb3_ppo_edu.lab.learning import Task
from sb3_ppo_edu.lab.page import Section
from sb3_ppo_edu.lab.runs import RunRow
from sb3_ppo_edu.lab.suite import CURVES_FILE, RUNS_FILE
from sb3_ppo_edu.lab.summary import NEARLY, Who, environment_steps, learners_of, of_task, title_of

WHOSE = {
    "own": "this package's (`hyperparams/eduppo.yml`)",
    "shared": "those of this package that SB3's PPO can have as well (`hyperparams/shared.yml`)",
    "zoo": "RL Baselines3 Zoo's, where need be those for an older version of the environment",
    "defaults": "the algorithms' defaults",
}
"""Whose settings those are that a row names; of others, the file."""


def settings_in_words(rows: Sequence[RunRow], tasks: Sequence[Task]) -> str:
    """
    Say whose settings the runs had, and how steps are counted.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: sentences
    """
    envs: dict[str, list[str]] = {}
    for task in tasks:
        # Random actions have no settings, but those that are held are held by this package's.
        for name in sorted(
            {who.settings for who in learners_of(rows, task) if who.algorithm != RANDOM or who.settings in FILES}
        ):
            envs.setdefault(name, []).append(task.env)
    found = " and ".join(
        WHOSE.get(name, f"`hyperparams/{FILES.get(name)}`") + (f" on {in_words(own)}" if len(envs) > 1 else "")
        for name, own in sorted(envs.items())
    )
    found = f"Settings: {found}." if found else ""
    repeats = sorted(
        {(task.env, many) for task in tasks for who in learners_of(rows, task) if (many := held(*who, task.env)) > 1}
    )
    if repeats:
        listed = in_words([f"{many} of them on {env}" for env, many in repeats])
        found += (
            " Steps are the environment's. Where an action is held for several, "
            f"{listed}, they are the algorithm's decisions times that number: a little less is made, where an episode ends."
        )
    return found + other_budgets(rows, tasks)


def wrappers_of(who: Who, env: str) -> str:
    """
    Name the wrappers around an environment.

    :param who: an algorithm with its settings
    :param env: Gymnasium id
    :return: such as "ActionRepeat (3) and LanderSymmetry", or nothing
    """
    found = []
    for name, kwargs in named_with_kwargs(load_settings(*who, env, {}).get("env_wrapper")):
        given = f" ({', '.join(str(value) for value in kwargs.values())})" if kwargs else ""
        found.append(name.rpartition(".")[2] + given)
    return in_words(found) if found else ""


def wrappers_in_words(rows: Sequence[RunRow], task: Task) -> str:
    """
    Say which wrappers all algorithms of an environment have; where they differ, each line of the page says its own.

    :param rows: all rows
    :param task: the environment
    :return: such as ", with ActionRepeat (3) and LanderSymmetry", or nothing
    """
    found = {wrappers_of(who, task.env) for who in learners_of(rows, task) if who.algorithm != RANDOM}
    return f", with {found.pop()}" if len(found) == 1 and found != {""} else ""


def made_for(who: Who, env: str) -> int | None:
    """
    Look up for how many environment steps settings are made.

    :param who: an algorithm with its settings
    :param env: Gymnasium id
    :return: the number, or None if they do not say
    """
    steps = load_settings(*who, env, {}).get("n_timesteps") if who.algorithm != RANDOM else None
    return None if steps is None else int(steps) * held(*who, env)


def with_other_budgets(rows: Sequence[RunRow], task: Task) -> dict[Who, int]:
    """
    Find the algorithms whose settings are made for other numbers of steps than they were trained for.

    :param rows: all rows
    :param task: the environment
    :return: those numbers
    """
    found = {}
    for who in learners_of(rows, task):
        steps = max(environment_steps(row) for row in of_task(rows, task, who))
        budget = made_for(who, task.env)
        if budget is not None and abs(budget - steps) > NEARLY * steps:
            found[who] = budget
    return found


def budgets_in_words(rows: Sequence[RunRow], task: Task) -> str:
    """
    Say in a title that settings are made for other numbers of steps.

    :param rows: all rows
    :param task: the environment
    :return: such as ", with settings made for 100,000 to 1,000,000", or nothing
    """
    found = with_other_budgets(rows, task)
    if not found:
        return ""
    low, high = min(found.values()), max(found.values())
    everybody = len(found) == len([who for who in learners_of(rows, task) if who.algorithm != RANDOM])
    numbers = number(low) if low == high else f"{number(low)} to {number(high)}"
    return f", {'with' if everybody else 'some with'} settings made for {numbers}"


def other_budgets(rows: Sequence[RunRow], tasks: Sequence[Task]) -> str:
    """
    Say whose settings are made for other numbers of steps.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: a sentence, or nothing
    """
    found = []
    for task in tasks:
        titles: dict[int, list[str]] = {}
        for who, budget in with_other_budgets(rows, task).items():
            steps = max(environment_steps(row) for row in of_task(rows, task, who))
            titles.setdefault(budget, []).append(f"{title_of(who, learners_of(rows, task))} ({number(steps)} here)")
        if titles:
            listed = ", ".join(f"{number(steps)} for {in_words(names)}" for steps, names in titles.items())
            found.append(f"on {task.env} {listed}")
    return f" Settings that are made for other numbers of steps: {'; '.join(found)}." if found else ""


def last_rollouts(rows: Sequence[RunRow], tasks: Sequence[Task]) -> str:
    """
    Say where runs trained for more steps than asked for, to complete their last rollout.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: a sentence, or nothing
    """
    found = []
    for task in tasks:
        asked = {Who(entry.algorithm, entry.settings): entry.steps or task.steps for entry in task.entries}
        titles: dict[int, list[str]] = {}
        for who in learners_of(rows, task):
            most = max(environment_steps(row) for row in of_task(rows, task, who))
            if most > 1.01 * asked.get(who, task.steps):
                titles.setdefault(most, []).append(ALGORITHMS[who.algorithm].title)
        if titles:
            listed = ", ".join(f"{number(steps)} of {in_words(names)}" for steps, names in titles.items())
            found.append(f"{listed} on {task.env}")
    return f" The last rollout is completed, which makes more steps: {'; '.join(found)}." if found else ""


def method(rows: Sequence[RunRow], tasks: Sequence[Task], note: str) -> Section:
    """
    Say how the numbers came about.

    :param rows: all rows
    :param tasks: environments that have rows
    :param note: what else is to be known of the suite
    :return: the section
    """
    episodes = sorted({row.final_episodes for row in rows})
    return Section(
        "How it was measured",
        [
            f"{settings_in_words(rows, tasks)}{last_rollouts(rows, tasks)} Each run has a process of its own with one thread. "
            f"The final policy, not the best one seen, plays {' or '.join(map(str, episodes))} episodes deterministically, "
            "the same ones for every run. **Training** is processor time without the evaluations, the median; of older "
            "runs it is wall-clock, or – where that was longer than all of the run took of a processor: it has then "
            "waited for others. It is rough; speed is measured by `sb3-edu bench speed`.",
            "**Steps to it**: environment steps until an evaluation first reaches the target, median over the seeds; "
            "**seconds to it**: what of the training these took, as long for each step, the slowest of the same half of "
            "the "
            "seeds. **Variation**: standard deviation over the seeds divided by the mean. **Early rises**: share of the "
            "evaluations in the first quarter, and at least of the first two, that are not below the one before. "
            "**Forgotten**: best minus final evaluation. An evaluation's episodes are the same for all runs but others than "
            "those of the evaluation before, so that a part of what seems forgotten, and of steps to it, is their luck. "
            "**IQM** is the mean of the middle half of the seeds, of all if they are three or fewer; its interval is a "
            "bootstrap over seeds, which with few of them is too narrow. The interval of the share that reaches the target is "
            "Wilson's, 95%.",
            *([note] if note else []),
            f"Rows: [{RUNS_FILE}]({RUNS_FILE}), [{CURVES_FILE}]({CURVES_FILE}).",
        ],
    )
