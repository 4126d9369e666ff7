"""What models and callbacks offer and rooms above them do: the one place where an import may go up."""

from __future__ import annotations

import importlib
from typing import Any

SERVICES = {
    "resume": "sb3_ppo_edu.checkpoint.resume:resume",
    "export": "sb3_ppo_edu.export.onnx_file:export",
    "from_hub": "sb3_ppo_edu.training.hub:from_hub",
    "doctor_page": "sb3_ppo_edu.lab.doctor_page:write_page",
}
"""Name of the service, and the function behind it: of a model's method, and of the page that the doctor leaves."""


def service(name: str) -> Any:
    """
    Find the function behind a service.

    :param name: a key of :data:`SERVICES`
    :return: the function
    """
    module, _, function = SERVICES[name].partition(":")
    return getattr(importlib.import_module(module), function)
