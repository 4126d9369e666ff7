"""``sb3-edu export``: a saved run's policy as an ONNX file, which acts without this package."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sb3_ppo_edu.cli.display import TextConsole
from sb3_ppo_edu.cli.refusals import DONE, refuse_file, refusing_bad_input
from sb3_ppo_edu.training.folder import SETTINGS_FILE
from sb3_ppo_edu.training.saved_run import open_run
from sb3_ppo_edu.training.settings import as_settings_say

POLICY_FILE = "policy.onnx"


def add_export(commands: Any, _: Sequence[str]) -> None:
    """Add ``sb3-edu export``."""
    parser = commands.add_parser(
        "export",
        description="Write a saved run's policy into an ONNX file, with its normalisation and the actions' bounds.",
        epilog="example:\n  sb3-edu export runs/lander --output lander.onnx",
    )
    parser.set_defaults(command=export_run, parser=parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"a new file (default: {POLICY_FILE} in the run's folder)")
    parser.add_argument(
        "--trust", action="store_true", help="let the run's files run code: for your own, with functions or classes of yours"
    )


def export_run(arguments: argparse.Namespace) -> int:
    """Write a saved run's policy into a file; return the exit code."""
    output = arguments.run / POLICY_FILE if arguments.output is None else arguments.output
    if output.name and not output.suffix and not output.exists():
        output = output.with_suffix(".onnx")  # as export does
    with refusing_bad_input():
        saved = open_run(arguments.run, trusted=arguments.trust)
        refuse_file("--output", output)
        # As in evaluate.
        with nullcontext() if arguments.trust else as_settings_say(arguments.run / SETTINGS_FILE):
            model, env = saved.load_model("cpu"), saved.make_env()
            try:
                written = model.export(output, env)
            finally:
                env.close()
    TextConsole(highlight=False).print(str(written), soft_wrap=True)
    return DONE
