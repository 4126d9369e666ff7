"""``sb3-edu train``: its flags. Those of every day come first, and need no torch; ``--help-all`` lists them all."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sb3_ppo_edu.cli.flags import add_algorithm_arguments, positive_int, seed, thread_count, yaml_value

ALGORITHMS = ("eduppo", "maskableeduppo", "recurrenteduppo", "maskablerecurrenteduppo")
"""Names of the algorithms, the default first, as in ``training.algorithms``, which imports them all."""

HELP = {"-h", "--help"}

TRAIN_EXAMPLES = """\
Settings come from three places, each going over the one before it: the algorithm's defaults, the environment's block in the
YAML file, and the flags given here.

examples:
  sb3-edu train --env CartPole-v1
  sb3-edu train --env LunarLanderContinuous-v3 --steps 100000 --seed 1 --name lander
  sb3-edu train --env Pendulum-v1 --action-distribution tanh_gaussian --learning-rate lin_1e-3
  sb3-edu train --env Pendulum-v1 --learning-rate kl_0.01 --clip-range warmup_0.1_cos_0.3_0.1
  sb3-edu train --env CartPole-v1 --policy-kwargs "dict(net_arch=[32, 32], activation_fn=nn.ReLU)" --no-normalize
  sb3-edu train --env Acrobot-v1 --config my_settings.yml
  sb3-edu train --algo recurrenteduppo --env CartPoleNoVel-v1

exit codes: 0 done, 1 a step or the update failed (the model is saved), 2 bad input, 130 interrupted,
143 ended by SIGTERM or 129 by SIGHUP (the model is saved)
"""


class Everyday(NamedTuple):
    """
    A flag of EduPPO that most trainings have.

    :param flag: its name
    :param values: what it takes
    :param text: what it is
    :param default: EduPPO's, which the environment's block in the YAML file goes over
    """

    flag: str
    values: str
    text: str
    default: Any


EVERYDAY = (
    Everyday("--learning-rate", "NUMBER|SCHEDULE", "step size of the optimizer, such as 3e-4, lin_3e-4 or kl_0.01", 3e-4),
    Everyday("--n-steps", "INT", "steps of each environment in a rollout", 2048),
    Everyday("--batch-size", "INT", "transitions in a minibatch", 64),
    Everyday("--n-epochs", "INT", "passes over each rollout", 10),
    Everyday("--gamma", "NUMBER", "discount factor", 0.99),
    Everyday("--gae-lambda", "NUMBER", "λ of GAE", 0.95),
    Everyday("--clip-range", "NUMBER|SCHEDULE", "ε of the clipped surrogate", 0.2),
    Everyday("--ent-coef", "NUMBER|SCHEDULE", "weight of the entropy bonus", 0.0),
    Everyday("--target-kl", "NUMBER", "KL divergence in nats that stops an update", None),
    Everyday("--policy-kwargs", "MAP", 'such as "dict(net_arch=[32, 32])"', None),
    Everyday("--engine", "{auto,autograd,numpy,fused}", "what computes the updates", "auto"),
)


def add_train(commands: Any, words: Sequence[str]) -> None:
    """
    Add ``sb3-edu train``.

    :param commands: to add to
    :param words: of the command line behind ``train``: where they ask for help, the flags of every day are enough
    """
    parser = commands.add_parser(
        "train",
        usage="%(prog)s --env ID [--steps N] [--seed N] [--name NAME] [further flags]",
        description="Train EduPPO, evaluate it against random actions, and leave everything in a new folder runs/NAME.",
        epilog=TRAIN_EXAMPLES,
    )
    parser.set_defaults(command=train, parser=parser)
    parser.add_argument("--help-all", action="help", help="list every flag: of EduPPO, of the environments, of the evaluation")
    _add_run(parser)
    if HELP.isdisjoint(words) or "--help-all" in words:
        _add_further(parser)
        add_algorithm_arguments(parser)
        return
    group = parser.add_argument_group("PPO", "The environment's block in the YAML file goes over the defaults named here.")
    for one in EVERYDAY:
        group.add_argument(one.flag, metavar=one.values, help=f"{one.text} (default: {one.default})")


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every day that say what is trained, how long and where it goes."""
    run = parser.add_argument_group("the run")
    run.add_argument("--env", required=True, metavar="ID", help="Gymnasium id; MODULE:ID imports the module that registers it")
    run.add_argument(
        "--algo", choices=ALGORITHMS, default=ALGORITHMS[0], help="with masks, or with a memory (default: %(default)s)"
    )
    run.add_argument("--steps", type=positive_int, metavar="N", help="environment steps to train for (default: the YAML's)")
    run.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of weights, actions and environments (default: 0)"
    )
    run.add_argument("--n-envs", type=positive_int, metavar="N", help="environments stepped together (default: the YAML's)")
    run.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, help="observations and rewards normalised by running statistics"
    )
    run.add_argument("--folder", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (default: runs)")
    run.add_argument("--name", help="the run's folder in there; must be new (default: ENV-SEED-TIME)")
    run.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML in the form of RL Baselines3 Zoo (default: the one that comes with us)",
    )
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")
    run.add_argument(
        "--checkpoint-freq",
        type=positive_int,
        metavar="N",
        help="steps between checkpoints, for sb3-edu resume (default: none)",
    )
    run.add_argument(
        "--doctor", action="store_true", help="watch the training, warn of what is wrong with it, and leave doctor.html"
    )
    run.add_argument(
        "--track",
        choices=("wandb", "mlflow"),
        help="send the log to Weights & Biases or MLflow too (extras of the same names)",
    )


def _add_further(parser: argparse.ArgumentParser) -> None:
    """Add the other flags that are not the algorithm's."""
    # Imported here: what they import takes a second, and help shall not.
    from sb3_ppo_edu.cli.printing import REPLAY_FILE
    from sb3_ppo_edu.envs.backends import AUTO, BACKENDS, WORKER_TIMEOUT
    from sb3_ppo_edu.training.settings import EVALUATIONS_PER_RUN
    from sb3_ppo_edu.vec_env.guard import ON_FAULT

    run = parser.add_argument_group("the run in detail")
    run.add_argument(
        "--threads", type=thread_count, default=1, metavar="N", help="torch threads (default: 1, fastest for small networks)"
    )
    run.add_argument(
        "--on-fault",
        choices=(*ON_FAULT, "off"),
        default="raise",
        help="NaN and infinities in actions, observations and rewards: stop there, or put 0 in their place (default: raise)",
    )
    run.add_argument("--verbose", type=int, choices=(0, 1, 2), default=0, help="1 prints SB3's log tables, 2 debugging too")
    run.add_argument(
        "--trust", action="store_true", help="let --config's file name classes of any module, which may run any program"
    )
    # Of `reproduce`: the flags come from the record of a run, which may be a stranger's.
    run.add_argument("--from-record", action="store_true", help=argparse.SUPPRESS)
    environments = parser.add_argument_group("the environments")
    environments.add_argument(
        "--vec-env",
        choices=(*BACKENDS, AUTO),
        help="who steps them: one by one in this process (dummy, gymnasium-sync), shared out among the processors (workers), "
        "each in a process of its own (subproc, gymnasium-async), all at once (gymnasium-native, envpool), or the fastest "
        "that gives the same episodes (auto); default: dummy",
    )
    environments.add_argument(
        "--worker-timeout",
        type=float,
        metavar="SECONDS",
        help=f"how long a process of theirs may take for an answer before it counts as hanging (default: {WORKER_TIMEOUT:g})",
    )
    environments.add_argument(
        "--env-kwargs", type=yaml_value, metavar="MAP", help='such as "{gravity: -5.0}" or "dict(gravity=-5.0)"'
    )
    evaluation = parser.add_argument_group("the evaluation")
    evaluation.add_argument(
        "--eval-episodes", type=positive_int, default=100, metavar="N", help="episodes of the final evaluation (default: 100)"
    )
    evaluation.add_argument(
        "--eval-freq",
        type=positive_int,
        metavar="N",
        help=f"steps between evaluations (default: {EVALUATIONS_PER_RUN} in a run)",
    )
    evaluation.add_argument("--no-replay", dest="replay", action="store_false", help=f"make no {REPLAY_FILE}")


def train(arguments: argparse.Namespace) -> int:
    """Train, save, evaluate, draw, and say where everything is; return the exit code."""
    from sb3_ppo_edu.cli.training import train_new_run

    return train_new_run(arguments)
