"""Settings by environment: read, look up, check and prepare YAML files in the form that RL Baselines3 Zoo reads.

A file maps an environment id to a block of settings. The look-up follows the zoo: the environment's own block, else
``atari`` for an Atari game, else ``default``. What the zoo hands to ``eval`` (``policy_kwargs: "dict(net_arch=[64])"``,
``normalize: "{'norm_obs': True}"``) is read here by :func:`parse_expression`, which builds values and runs nothing.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sb3_ppo_edu.algorithms.arguments import OLD_NAMES, check_flag, check_number, with_old_names
from sb3_ppo_edu.algorithms.checks import refuse
from sb3_ppo_edu.envs.factory import named_with_kwargs
from sb3_ppo_edu.envs.registration import missing_extra, register_for
from sb3_ppo_edu.functional.objectives import Objective
from sb3_ppo_edu.functional.values import as_float, shown
from sb3_ppo_edu.serialization.names import check_engine_kwargs, check_named, import_named
from sb3_ppo_edu.serialization.text import did_you_mean
from sb3_ppo_edu.serialization.yaml_files import read_yaml
from sb3_ppo_edu.training.algorithms import DEFAULT, arguments_of

#: Keys of a block that describe the environments and the run; the others are arguments of the algorithm.
ZOO_KEYS = (
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "n_timesteps",
    "normalize",
    "vec_env",
    "vec_env_wrapper",
    "worker_timeout",
)
#: Arguments of an algorithm that belong to one run, not to an environment: whoever starts the run passes them.
RUN_ARGUMENTS = ("env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model")


def bundled_file(name: str = "eduppo.yml") -> Path:
    """Return the path of settings that come with the package.

    An installed package carries them in its own ``hyperparams`` folder; in a checkout that folder is its sibling.

    :param name: of the file: that of an algorithm, or ``shared.yml`` for settings that SB3's PPO can have as well
    :return: its path
    :raises FileNotFoundError: if it is in neither place (a broken installation)
    """
    package = Path(__file__).resolve().parents[1]
    candidates = [folder / "hyperparams" / name for folder in (package, package.parent)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"{name}: expected it at {candidates[0]} (installed) or {candidates[1]} (checkout), found neither; "
        "reinstall sb3-ppo-edu"
    )


def load_hyperparameters(
    env_id: str,
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    trusted: bool = True,
    algo: str = DEFAULT,
    flag_of: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Return the settings of one environment, checked, with values that are ready for ``EduPPO`` and ``VecNormalize``.

    The dictionary holds what the block holds. ``normalize`` is always there: ``False``, or the keyword arguments of
    ``VecNormalize``, with the algorithm's ``gamma`` (as the zoo does it). ``policy_kwargs``, ``env_kwargs`` and
    ``monitor_kwargs`` are dictionaries if given, ``n_timesteps`` and ``n_envs`` integers, a dotted ``policy`` the class
    it names. Schedules stay in the form ``lin_0.001`` or ``cos_0.001``, which ``EduPPO`` reads.

    :param env_id: a registered gymnasium id; ``module:id`` imports the module that registers it first
    :param file: a YAML file in the zoo's form; ``None`` for the one that comes with the package
    :param overrides: settings that replace the block's before anything is checked or prepared
    :param trusted: whether ``file`` may name what it likes; the one that comes with the package may
    :param algo: which algorithm, see :data:`sb3_ppo_edu.training.algorithms.ALGORITHMS`
    :param flag_of: how a setting is spelled where ``overrides`` are from, for errors
    :return: the settings, a new dictionary
    :raises ValueError: for an unknown environment, an unreadable file, no fitting block, an unknown key (with the
        nearest legal one) or a value of the wrong form; for a name that is not known to be harmless, unless trusted
    :raises FileNotFoundError: if there is no such file
    """
    registered_id = check_environment(env_id)
    path = bundled_file(f"{algo}.yml") if file is None else Path(file)
    name, block = find_block(read_blocks(path), registered_id, path)
    where = f"{path}, block {name!r}"
    if file is not None and not trusted:
        check_names_of(block, where)
    settings = {**block, **(overrides or {})}
    places = {} if flag_of is None else {name: flag_of(name) for name in overrides or ()}
    for name, value in settings.items():
        check_keys({name: value}, places.get(name, where), algo)
    return _prepare(settings, where, places)


def zoo_file(algorithm: str) -> Path:
    """Return the path of the zoo's own settings of an algorithm.

    :param algorithm: the zoo's name of it, such as ``ppo`` or ``sac``
    :return: the path of ``<algorithm>.yml`` in rl_zoo3, which is found and not imported
    :raises FileNotFoundError: if rl_zoo3 has none
    """
    spec = importlib.util.find_spec("rl_zoo3")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = Path(folder, "hyperparams", f"{algorithm}.yml")
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{algorithm}.yml: expected it among the settings of rl_zoo3 ({', '.join(folders) or 'not found'})"
    )


def load_zoo_settings(algorithm: str, env_id: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the zoo's settings of one of its algorithms for one environment, as :func:`load_hyperparameters` does for ours.

    Names are not checked: they are the other algorithm's, which refuses what it does not know. Where the zoo knows an older
    version of the environment only, as of MuJoCo's, its settings for that one are taken.

    :param algorithm: the zoo's name of the algorithm
    :param env_id: a registered gymnasium id
    :param overrides: settings that replace the block's
    :return: the settings, a new dictionary
    :raises ValueError: for an unknown environment, or one that the zoo has no settings for
    :raises FileNotFoundError: if the zoo has no such algorithm
    """
    registered_id = check_environment(env_id)
    path = zoo_file(algorithm)
    blocks = read_blocks(path)
    older = [name for name in blocks if name.rpartition("-v")[0] == registered_id.rpartition("-v")[0]]
    name, block = find_block(blocks, registered_id if registered_id in blocks or not older else max(older), path)
    return _prepare({**block, **(overrides or {})}, f"{path}, block {name!r}", {})


def read_blocks(file: str | Path) -> dict[str, dict[str, Any]]:
    """Read a YAML file of settings.

    :param file: the path of the file
    :return: for each environment id (or ``atari``, ``default``) its block
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it isn't YAML, or not a mapping of mappings
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a YAML file that maps environment ids to settings")
    blocks = read_yaml(path)
    if not isinstance(blocks, dict):
        raise ValueError(f"{path}: expected a mapping from environment ids to settings, found {_kind(blocks)}")
    for name, block in blocks.items():
        if not isinstance(block, dict):
            raise ValueError(f"{path}, block {name!r}: expected a mapping from names to values, found {_kind(block)}")
    return blocks


def find_block(blocks: Mapping[str, dict[str, Any]], env_id: str, file: str | Path) -> tuple[str, dict[str, Any]]:
    """Find the block for an environment: its own, else ``atari`` for an Atari game, else ``default``.

    :param blocks: all blocks, as :func:`read_blocks` returns them
    :param env_id: a registered gymnasium id
    :param file: where the blocks come from, for the error
    :return: the block's name and the block
    :raises ValueError: if no block fits
    """
    if env_id in blocks:
        return env_id, blocks[env_id]
    if _is_atari(env_id):
        if "atari" in blocks:
            return "atari", blocks["atari"]
    elif "default" in blocks:
        return "default", blocks["default"]
    fallback = "atari" if _is_atari(env_id) else "default"
    raise ValueError(f"{file}: expected a block {env_id!r} or {fallback!r}, found {', '.join(map(str, blocks)) or 'no block'}")


def check_environment(env_id: str) -> str:
    """Check that gymnasium knows an environment.

    :param env_id: a registered id, or ``module:id`` to import the module that registers it first
    :return: the registered id, without the module
    :raises ValueError: if it isn't registered, naming the nearest id that is
    """
    import gymnasium

    module, _, registered_id = env_id.rpartition(":")
    missing = missing_extra(env_id)
    if missing and (module or registered_id not in gymnasium.registry):
        raise ValueError(f"environment {env_id!r} {missing}")
    if module:
        try:
            importlib.import_module(module)
        except (ImportError, TypeError) as error:
            raise ValueError(f"environment {env_id!r}: the module {module!r} cannot be imported ({error})") from error
    register_for(registered_id)
    if registered_id not in gymnasium.registry:
        near = did_you_mean(registered_id, gymnasium.registry)
        atari = "; Atari games are written ale_py:ALE/Pong-v5" * registered_id.startswith("ALE/")
        raise ValueError(f"environment {env_id!r}: expected an id of gymnasium's registry, found no such id{near}{atari}")
    return registered_id


def legal_keys(algo: str = DEFAULT) -> tuple[str, ...]:
    """Return the names that a block may use: arguments of the algorithm and the zoo's own keys, in alphabetical order."""
    return tuple(sorted({*arguments_of(algo), *ZOO_KEYS} - {*RUN_ARGUMENTS}))


def check_keys(settings: Mapping[str, Any], where: str, algo: str = DEFAULT) -> None:
    """Check the names in a block, and that no number was read as text.

    :param settings: the block
    :param where: the file and block, for the error
    :param algo: whose settings they are
    :raises ValueError: for a name that is not legal, with the nearest that is; for an argument that belongs to one run;
        for a number in a form that YAML reads as text (``1e-3``)
    """
    legal = legal_keys(algo)
    for key, value in settings.items():
        if key in RUN_ARGUMENTS:
            raise ValueError(f"{where}: {key!r} belongs to one run, not to the settings: pass it where the run is started")
        if key not in (*legal, *OLD_NAMES):
            raise ValueError(
                f"{where}: unknown hyperparameter {key!r}{did_you_mean(str(key), legal)}; expected one of {', '.join(legal)}"
            )
        if isinstance(value, str) and _is_number(value):
            number = float(value)
            remedy = str(int(number)) if number.is_integer() else f"{number!r} or !!float {value}"
            raise ValueError(f"{where}: {key}={value!r} is text to YAML, expected a number: write {remedy}")


def check_names_of(settings: Mapping[str, Any], where: str) -> None:
    """Check that settings that someone else wrote name nothing but what is known to be harmless.

    :param settings: the block
    :param where: the file and block, for the error
    :raises UntrustedFileError: naming what is not
    """
    for key, kinds in kinds_that_are_named().items():
        value = settings.get(key)
        # Names without a dot are SB3's own.
        if key in ("policy", "rollout_buffer_class") and not (isinstance(value, str) and "." in value):
            continue
        try:
            named = named_with_kwargs(value)
        except ValueError as error:
            raise ValueError(f"{where}: {key}: {error}") from error
        for name, kwargs in named:
            check_named(name, kinds, where, key, kwargs)
    check_engine_kwargs(prepare_engine_kwargs(settings, where).get("engine_kwargs"), where)


def kinds_that_are_named() -> dict[str, tuple[type, ...]]:
    """Return which settings name classes, and of which kind each must be."""
    import gymnasium
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnvWrapper

    wrappers = (gymnasium.Wrapper, VecEnvWrapper)
    return {
        "env_wrapper": wrappers,
        "vec_env_wrapper": wrappers,
        "callback": (BaseCallback,),
        "objective": (Objective,),
        "policy": (BasePolicy,),
        "rollout_buffer_class": (RolloutBuffer,),
    }


def parse_expression(text: str, where: str) -> Any:
    """Read a value written as a Python expression, without running it.

    Understood are numbers, strings, ``True``, ``False``, ``None``, lists, tuples, dictionaries, ``dict(name=value)``, and
    the classes that networks are built of: modules (``nn.ReLU``, ``th.nn.ReLU``), optimizers (``th.optim.Adam``) and
    ``RMSpropTFLike``.

    :param text: the expression, such as ``"dict(net_arch=[64, 64], activation_fn=nn.ReLU)"``
    :param where: what it is for, for the error
    :return: the value
    :raises ValueError: if the text is anything else
    """
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:  # too deep for Python's parser
        raise ValueError(f"{where}: cannot read {shown(text)}: {error or type(error).__name__}") from error


def _evaluate(node: ast.expr) -> Any:
    """Build the value of one node of an expression, see :func:`parse_expression`."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=elements):
            return [_evaluate(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_evaluate(element) for element in elements)
        case ast.Dict(keys=keys, values=values) if all(keys):
            return {_evaluate(key): _evaluate(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=pairs) if all(pair.arg for pair in pairs):
            return {pair.arg: _evaluate(pair.value) for pair in pairs}
        case ast.Name() | ast.Attribute():
            return _torch_class(ast.unparse(node))
    raise ValueError(
        f"{ast.unparse(node)!r} is no number, text, list, tuple, dictionary, dict(name=value), torch.nn or torch.optim class"
    )


def _torch_class(dotted: str) -> type:
    """Return the class that a name such as ``nn.ReLU``, ``th.nn.ReLU``, ``torch.optim.Adam`` or ``RMSpropTFLike`` means."""
    import torch
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    if dotted == "RMSpropTFLike":
        return RMSpropTFLike
    package, _, name = dotted.removeprefix("torch.").removeprefix("th.").partition(".")
    families = {"nn": (torch.nn, torch.nn.Module), "optim": (torch.optim, torch.optim.Optimizer)}
    if package not in families:
        raise ValueError(f"{dotted!r} is not a name known here; expected nn.…, th.nn.…, th.optim.… or RMSpropTFLike")
    module, base = families[package]
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    if name not in classes:
        raise ValueError(f"{dotted!r} is no {base.__name__} class of {module.__name__}{did_you_mean(name, classes)}")
    return classes[name]


def prepare_engine_kwargs(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read the engine's options, as an expression and under their old names (``bf16: true``).

    :param settings: the block
    :param where: the file and block, for the error
    :return: the settings, a new dictionary, with a dictionary ``engine_kwargs`` if there are any
    :raises ValueError: for anything else than a dictionary, or an old name that contradicts it
    """
    prepared = dict(settings)
    if prepared.get("engine_kwargs") is not None:
        prepared["engine_kwargs"] = _mapping(prepared["engine_kwargs"], f"{where}: engine_kwargs")
    try:
        return with_old_names(prepared)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _prepare(settings: dict[str, Any], where: str, places: Mapping[str, str]) -> dict[str, Any]:
    """Turn the values of a checked block into what ``EduPPO`` and ``VecNormalize`` take; places go over the block's."""
    prepared = prepare_engine_kwargs(settings, places.get("engine_kwargs", where))
    for key in ("policy_kwargs", "env_kwargs", "monitor_kwargs"):
        if prepared.get(key) is not None:
            prepared[key] = _mapping(prepared[key], f"{places.get(key, where)}: {key}")
    for key in ("n_timesteps", "n_envs"):
        if key in prepared:
            prepared[key] = _positive_integer(prepared[key], f"{places.get(key, where)}: {key}")
    policy = prepared.get("policy")
    if isinstance(policy, str) and "." in policy:
        prepared["policy"] = _import_class(policy, f"{places.get('policy', where)}: policy")
    prepared["normalize"] = _normalization(prepared, places.get("normalize", where))
    return prepared


def _normalization(settings: Mapping[str, Any], where: str) -> dict[str, Any] | bool:
    """Return the keyword arguments of ``VecNormalize`` that a block asks for, or ``False``."""
    from stable_baselines3.common.vec_env import VecNormalize

    value = settings.get("normalize", False)
    if isinstance(value, bool):
        if not value:
            return False
        arguments: dict[str, Any] = {"norm_obs": True, "norm_reward": True}
    else:
        arguments = dict(_mapping(value, f"{where}: normalize"))
    legal = set(inspect.signature(VecNormalize.__init__).parameters) - {"self", "venv"}
    for key in arguments:
        if key not in (*legal, *OLD_NAMES):
            raise ValueError(
                f"{where}: normalize: unknown argument {key!r}{did_you_mean(str(key), legal)}; "
                f"expected one of {', '.join(sorted(legal))}"
            )
        try:
            _check_normalization(key, arguments[key])
        except ValueError as error:
            raise ValueError(f"{where}: normalize: {error}") from error
    if "gamma" in settings:
        # The returns by which rewards are scaled are the algorithm's own discounted returns.
        arguments["gamma"] = settings["gamma"]
    return arguments


def _check_normalization(key: str, value: Any) -> None:
    """Check an argument of ``VecNormalize``, which looks at none before a step or the end of a training needs it."""
    if key in ("training", "norm_obs", "norm_reward"):
        check_flag(key, value)
    elif key == "norm_obs_keys":
        if value is not None and not (isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)):
            raise refuse(key, value, "None or a list of keys of the observations")
    elif key == "gamma":
        check_number(key, value, 0.0, 1.0)
    elif not as_float(value) > 0:
        raise refuse(key, value, "a number > 0")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    """Return a dictionary that was given as such or written as an expression."""
    parsed = parse_expression(value, where) if isinstance(value, str) else value
    if not isinstance(parsed, dict):
        raise ValueError(f'{where}: expected a mapping or text such as "dict(name=value)", found {_kind(parsed)}')
    return dict(parsed)


def _positive_integer(value: Any, where: str) -> int:
    """Return a count; YAML reads ``!!float 1e6`` as a float, which is welcome if it is whole."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < math.inf or value % 1:
        raise ValueError(f"{where}: expected a whole number of at least 1, found {shown(value)}")
    return int(value)


def _import_class(dotted: str, where: str) -> type:
    """Import the class that a dotted name such as ``package.module.Class`` means."""
    try:
        found = import_named(dotted)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(found, type):
        raise ValueError(f"{where}: expected {dotted!r} to be a class, found {_kind(found)}")
    return found


def _is_atari(env_id: str) -> bool:
    """Whether a registered environment is an Atari game (the zoo's own test)."""
    import gymnasium

    return "AtariEnv" in str(gymnasium.registry[env_id].entry_point)


def _is_number(text: str) -> bool:
    """Whether a text is a number to Python."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _kind(value: Any) -> str:
    """Describe a value that is not what was expected."""
    return "nothing" if value is None else f"{type(value).__name__} {shown(value)}"
