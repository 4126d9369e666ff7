"""Pickles as an attacker writes them: each would leave a canary (a file) behind, or take all memory or time."""

from __future__ import annotations

import copyreg
import functools
import operator
import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np


class Call:
    """Pickles as a call, as an attacker would write it."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        """What to call at unpickling."""
        return self.reduced


def text(value: str) -> bytes:
    """Push a string."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def stack_global(module: str, name: str) -> bytes:
    """Push what a module has under a name."""
    return text(module) + text(name) + b"\x93"


EXTENSION_CODE = 200


HOSTILE: dict[str, Callable[[str], bytes]] = {
    "os.system": lambda canary: pickle.dumps(Call(os.system, f"touch {canary}")),
    "os.mkdir": lambda canary: pickle.dumps(Call(os.mkdir, canary)),
    "eval": lambda canary: pickle.dumps(Call(eval, f"open({canary!r}, 'w')")),
    "exec": lambda canary: pickle.dumps(Call(exec, f"open({canary!r}, 'w')")),
    "open": lambda canary: pickle.dumps(Call(open, canary, "w")),
    "subprocess": lambda canary: pickle.dumps(Call(subprocess.check_call, ["touch", canary])),
    "getattr": lambda canary: (
        b"\x80\x04" + stack_global("builtins", "getattr") + stack_global("collections", "deque") + text("__init__") + b"\x86R."
    ),
    "attrgetter": lambda canary: pickle.dumps(Call(operator.attrgetter("__class__.__base__.__subclasses__"), canary)),
    "methodcaller": lambda canary: pickle.dumps(Call(operator.methodcaller("touch"), Path(canary))),
    "partial": lambda canary: pickle.dumps(Call(functools.partial(os.mkdir, canary))),
    "cloudpickle function": lambda canary: cloudpickle.dumps(Call(lambda: open(canary, "w").close())),
    "numpy.loadtxt": lambda canary: pickle.dumps(Call(np.savetxt, canary, [1.0])),
    "numpy.ctypeslib": lambda canary: (
        b"\x80\x04" + stack_global("numpy.ctypeslib", "load_library") + b"(" + text(canary) + b"tR."
    ),
    "numpy.save by module attribute": lambda canary: (
        b"\x80\x04" + stack_global("numpy.lib._npyio_impl", "save") + text(canary) + b"]\x86R."
    ),
    "torch.load": lambda canary: b"\x80\x04" + stack_global("torch.serialization", "load") + text(canary) + b"\x85R.",
    "torch storage": lambda canary: b"\x80\x05" + stack_global("torch.storage", "_load_from_bytes") + b"C\x04evil" + b"\x85R.",
    "dotted name": lambda canary: (
        b"\x80\x04" + stack_global("stable_baselines3.common.utils", "os.system") + text(f"touch {canary}") + b"\x85R."
    ),
    "dotted name split elsewhere": lambda canary: (
        b"\x80\x04" + stack_global("gymnasium.spaces", "box.np.savetxt") + text(canary) + b"]\x86R."
    ),
    "GLOBAL": lambda canary: b"cposix\nsystem\n(" + text(f"touch {canary}") + b"tR.",
    "INST": lambda canary: b"(S'touch " + canary.encode() + b"'\niposix\nsystem\n.",
    "INST without strings of protocol 0": lambda canary: b"(" + text(f"touch {canary}") + b"iposix\nsystem\n.",
    "OBJ": lambda canary: b"(" + stack_global("posix", "system") + text(f"touch {canary}") + b"o.",
    "OBJ of a class on the list": lambda canary: b"(" + stack_global("torch.nn.modules.activation", "ReLU") + b"o.",
    "EXT1": lambda canary: b"\x80\x02\x82" + bytes([EXTENSION_CODE]) + text(f"touch {canary}") + b"\x85R.",
    "persistent id": lambda canary: b"Pevil\n" + text(f"touch {canary}") + b"\x85R.",
    "binary persistent id": lambda canary: text("evil") + b"Q.",
    "out-of-band buffer": lambda canary: b"\x80\x05\x97.",
    "memo": lambda canary: (
        b"\x80\x04" + stack_global("posix", "system") + b"\x940" + text(f"touch {canary}") + b"\x85h\x00\x8c\x00R."
    ),
    "memo with the name put together": lambda canary: (
        b"\x80\x04"
        + text("posix")
        + b"\x94"
        + text("system")
        + b"\x94"
        + b"h\x00h\x01\x93"
        + text(f"touch {canary}")
        + b"\x85R."
    ),
    "call of a class on the list": lambda canary: (
        b"\x80\x04" + stack_global("stable_baselines3.common.policies", "ActorCriticPolicy") + b")R."
    ),
    "NEWOBJ of a class on the list": lambda canary: (
        b"\x80\x04" + stack_global("torch.nn.modules.activation", "ReLU") + b")\x81."
    ),
    "NEWOBJ_EX": lambda canary: b"\x80\x04" + stack_global("gymnasium.spaces.box", "Box") + b")}\x92.",
    "BUILD on a class": lambda canary: (
        b"\x80\x04"
        + stack_global("stable_baselines3.common.policies", "ActorCriticPolicy")
        + b"N}"
        + text("forward")
        + text("evil")
        + b"s\x86b."
    ),
    "BUILD on a dictionary": lambda canary: b"\x80\x04}}" + text("update") + text("evil") + b"sb.",
    "BUILD that replaces __setstate__": lambda canary: (
        b"\x80\x04"
        + stack_global("gymnasium.spaces.tuple", "Tuple")
        + b")\x81}"
        + text("__setstate__")
        + stack_global("posix", "system")
        + b"sb"
        + text(f"touch {canary}")
        + b"b."
    ),
    "BUILD that replaces a method": lambda canary: (
        b"\x80\x04"
        + stack_global("gymnasium.spaces.tuple", "Tuple")
        + b")\x81}"
        + text("sample")
        + stack_global("torch.nn.modules.activation", "ReLU")
        + b"sb."
    ),
    "BUILD that replaces the class": lambda canary: (
        b"\x80\x04"
        + stack_global("gymnasium.spaces.tuple", "Tuple")
        + b")\x81}"
        + text("__class__")
        + stack_global("torch.nn.modules.activation", "ReLU")
        + b"sb."
    ),
    "_reconstructor": lambda canary: pickle.dumps(Call(copyreg._reconstructor, Call, object, None)),  # type: ignore[attr-defined]
    "importlib": lambda canary: b"\x80\x04" + stack_global("importlib", "import_module") + text("antigravity") + b"\x85R.",
    "nested pickle": lambda canary: pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.mkdir, canary)))),
    "pandas": lambda canary: b"\x80\x04" + stack_global("pandas", "read_pickle") + text(canary) + b"\x85R.",
    "VecNormalize in a model": lambda canary: (
        b"\x80\x04" + stack_global("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize") + b")\x81."
    ),
    "object array": lambda canary: pickle.dumps(np.array([Call(os.mkdir, canary)], dtype=object)),
    "structured dtype": lambda canary: pickle.dumps(np.zeros(2, dtype=[("a", "f4")])),
    "huge array": lambda canary: (
        b"\x80\x04"
        + stack_global("numpy._core.multiarray", "_reconstruct")
        + stack_global("numpy", "ndarray")
        + b"J\xff\xff\xff\x7f\x85C\x01b\x87R."
    ),
    "array with too few bytes": lambda canary: (
        b"\x80\x05"
        + stack_global("numpy._core.multiarray", "_reconstruct")
        + stack_global("numpy", "ndarray")
        + b"K\x00\x85C\x01b\x87R(K\x01J\xff\xff\xff\x7f\x85"
        + stack_global("numpy", "dtype")
        + text("f8")
        + b"\x89\x88\x87R\x89C\x08ABCDEFGHtb."
    ),
    "huge bytearray": lambda canary: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "huge bytes": lambda canary: b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "nested tuples as a key": lambda canary: b"\x80\x04N\x94}h\x00h\x00\x86" + _doubled(60) + b"Ns.",
    "no end": lambda canary: b"\x80\x04]",
    "empty": lambda canary: b"",
    "noise": lambda canary: bytes(range(255, 0, -1)),
}


def _doubled(times: int) -> bytes:
    """Pair the top of the stack with itself, again and again: its hash takes 2^times steps."""
    return b"".join(b"\x94h" + bytes([index + 1]) + b"\x86" for index in range(times))
