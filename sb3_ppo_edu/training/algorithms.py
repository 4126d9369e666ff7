"""The algorithms that a run can be of, by the names that the command line, ``settings.yml`` and the zoo have for them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from sb3_ppo_edu.algorithms.checks import refuse
from sb3_ppo_edu.algorithms.maskable import MaskableEduPPO
from sb3_ppo_edu.algorithms.maskable_recurrent import MaskableRecurrentEduPPO
from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.algorithms.recurrent import RecurrentEduPPO

ALGORITHMS: dict[str, type[EduPPO]] = {
    cls.__name__.lower(): cls for cls in (EduPPO, MaskableEduPPO, RecurrentEduPPO, MaskableRecurrentEduPPO)
}
"""By the class's name in lower case, from which the zoo derives folders and file names."""

DEFAULT = "eduppo"


def algorithm_named(name: object) -> type[EduPPO]:
    """
    Find an algorithm.

    :param name: as a command line or a file has it
    :return: its class
    :raises ValueError: if there is none of this name
    """
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise refuse("algo", name, f"one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def arguments_of(name: str) -> Mapping[str, inspect.Parameter]:
    """
    List the arguments of an algorithm's constructor.

    :param name: of the algorithm
    :return: by name, in order
    """
    return inspect.signature(algorithm_named(name)).parameters


def takes_masks(name: str) -> bool:
    """
    Tell whether an algorithm's policies act with action masks.

    :param name: of the algorithm
    """
    return "action_masks" in algorithm_named(name).further_inputs
