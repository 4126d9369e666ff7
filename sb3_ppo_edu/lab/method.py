"""How the numbers of a report came about: whose settings the runs had, how long they trained, and what the columns mean."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_ppo_edu.envs.factory import action_repeat
from sb3_ppo_edu.lab.algorithms import ALGORITHMS, FILES, RANDOM, load_settings
from sb3_ppo_edu.lab.formatting import in_words, number
from sb3_ppo_edu.lab.learning import Task
from sb3_ppo_edu.lab.page import Section
from sb3_ppo_edu.lab.runs import RunRow
from sb3_ppo_edu.lab.suite import CURVES_FILE, RUNS_FILE
from sb3_ppo_edu.lab.summary import algorithms_of, of_task


def settings_in_words(rows: Sequence[RunRow], tasks: Sequence[Task]) -> str:
    """
    Say whose settings the runs had, and how decisions are counted.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: sentences
    """
    words = {
        "own": "this package's (`hyperparams/eduppo.yml`)",
        "shared": "those of this package that SB3's PPO can have as well (`hyperparams/shared.yml`)",
        "zoo": "RL Baselines3 Zoo's",
        "defaults": "the algorithms' defaults",
    }
    envs: dict[str, list[str]] = {}
    for task in tasks:
        # Random actions have no settings, but those that are held are held by this package's.
        for name in sorted({row.settings for row in of_task(rows, task) if (row.algorithm, row.settings) != (RANDOM, "zoo")}):
            envs.setdefault(name, []).append(task.env)
    found = " and ".join(words[name] + (f" on {in_words(own)}" if len(envs) > 1 else "") for name, own in sorted(envs.items()))
    found = f"Settings: {found}." if found else ""
    packages = {env: load_settings(RANDOM, name, env, {}) for name in FILES for env in envs.get(name, ())}
    for task in tasks:
        if task.env in packages:
            repeats = action_repeat(packages[task.env].get("env_wrapper"))
            if repeats > 1:
                found += (
                    f" On {task.env} an action is held for {repeats} steps of the environment: {number(task.steps)} "
                    f"decisions, which are what is counted here, are at most {number(repeats * task.steps)} of its steps."
                )
    others = []
    for task in tasks:
        made_for = int(packages[task.env].get("n_timesteps", task.steps)) if task.env in packages else 0
        if made_for and abs(made_for - task.steps) > 0.1 * task.steps:
            others.append(f"{number(made_for)} on {task.env} ({number(task.steps)} here)")
    if others:
        found += f" This package's are made for other numbers of steps: {', '.join(others)}."
    return found + other_budgets(rows, [task for task in tasks if task.env in envs.get("zoo", ())])


def other_budgets(rows: Sequence[RunRow], tasks: Sequence[Task]) -> str:
    """
    Say for how many steps the zoo has made its settings, where that is not what was run.

    :param rows: all rows
    :param tasks: environments with the zoo's settings
    :return: a sentence, or nothing
    """
    found = []
    for task in tasks:
        titles: dict[int, list[str]] = {}
        for name in algorithms_of(rows, task):
            if ALGORITHMS[name].settings:
                made_for = int(load_settings(name, "zoo", task.env, {}).get("n_timesteps", task.steps))
                titles.setdefault(made_for, []).append(ALGORITHMS[name].title)
        titles.pop(task.steps, None)
        if titles:
            listed = ", ".join(f"{number(steps)} for {in_words(names)}" for steps, names in titles.items())
            found.append(f"on {task.env} ({number(task.steps)} here) {listed}")
    if not found:
        return ""
    return f" The zoo has made its settings for other numbers of steps: {'; '.join(found)}."


def last_rollouts(rows: Sequence[RunRow], tasks: Sequence[Task]) -> str:
    """
    Say where runs trained for more steps than asked for, to complete their last rollout.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: a sentence, or nothing
    """
    found = []
    for task in tasks:
        titles: dict[int, list[str]] = {}
        for name in algorithms_of(rows, task):
            most = max(row.steps for row in of_task(rows, task, name))
            if most > 1.01 * task.steps:
                titles.setdefault(most, []).append(ALGORITHMS[name].title)
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
            "the same ones for every run. **Training** is processor time without the evaluations; of older runs it is "
            "wall-clock, or – where that was longer than all of the run took of a processor: it has then waited for others. "
            "**Processor** is what a run took of one, evaluations included. Both are medians, and rough; speed is measured by "
            "`sb3-edu bench speed`.",
            "**Steps to it**: steps, counted as the table does, until an evaluation first reaches the target, median over the "
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
