"""
A restricted unpickler: pickle's stack machine with those instructions and types only that saved models need.

The format: https://docs.python.org/3/library/pickle.html and, instruction by instruction, ``pickletools`` in the standard
library.
"""

from __future__ import annotations

import collections
import pickletools
from typing import Any

import numpy as np

from sb3_ppo_edu.serialization.allowlist import ALLOWED, FILLED, NAMED_LATER, by_pickled_name
from sb3_ppo_edu.serialization.constructors import SETTERS, Constructor, require, set_attributes, set_dtype
from sb3_ppo_edu.serialization.errors import ANOTHER_COPY, DamagedFileError, UntrustedFileError, how_to_trust, reason
from sb3_ppo_edu.serialization.names import import_named

_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_LITERALS = frozenset(
    {
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "LONG4",
        "BINFLOAT",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "SHORT_BINBYTES",
        "BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    }
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING_TO_DO = frozenset({"PROTO", "FRAME", "STOP"})  # genops ends with STOP, or raises
_SCALARS = (str, int, float, bool, bytes, type(None))


class RestrictedUnpickler:
    """
    Pickle's stack machine, with those instructions only that saved models need.

    The standard unpickler with a guarded ``find_class`` is not enough: it calls whatever lies on its stack, sets attributes
    of whatever lies there, classes included, and takes extension codes from a process-wide cache that no guard sees.

    :param where: what is read, for messages
    :param filled: classes that may be filled besides those on the list
    :param remedy: what to do about a refusal
    """

    def __init__(self, where: str, filled: tuple[type, ...], remedy: str) -> None:
        self._where = where
        self._remedy = remedy
        self._names = {**ALLOWED, **by_pickled_name(filled)}
        self._filled = (*FILLED, *filled)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self, content: bytes) -> Any:
        """
        Execute a pickle.

        :param content: the pickle
        :return: what it describes
        :raises UntrustedFileError: for an instruction or a type that is not on the list
        """
        argument: Any
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _CONTAINERS:
                self._stack.append(_CONTAINERS[name]())
            elif name in _TUPLES:
                self._stack[-_TUPLES[name] :] = [tuple(self._stack[-_TUPLES[name] :])]
            elif name in ("GLOBAL", "INST"):
                self._stack.append(self._look_up(argument))
                require(name == "GLOBAL")
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[argument])
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[argument] = self._stack[-1]
            elif name not in _NOTHING_TO_DO:
                step = getattr(self, f"_do_{name.lower()}", None)
                if step is None:
                    raise self._refusal(f"the instruction {name} of pickle")
                step()
        return self._stack.pop()

    def _refusal(self, what: str) -> UntrustedFileError:
        """Say what is refused and what can be done about it."""
        return UntrustedFileError(
            f"{self._where}: found {what}, which may run any program; expected only types that are known to be harmless: "
            f"{self._remedy}"
        )

    def _look_up(self, name: str) -> Any:
        """Find what is on the list under two strings separated by a space."""
        if name in NAMED_LATER:
            return import_named(name.replace(" ", "."))
        if name not in self._names:
            inside = " (a function or class saved with its code)" if name.startswith("cloudpickle") else ""
            # Whoever wrote the file chose the name, which may be long or command a terminal.
            shown = name.replace(" ", ".")[:200]
            raise self._refusal((shown if shown.isprintable() else repr(shown)) + inside)
        return self._names[name]

    def _pop_to_mark(self) -> list[Any]:
        """Take what was pushed since the last mark."""
        stack = self._stack
        mark = next(index for index in reversed(range(len(stack))) if stack[index] is _MARK)
        items = stack[mark + 1 :]
        del stack[mark:]
        return items

    def _do_mark(self) -> None:
        self._stack.append(_MARK)

    def _do_memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _do_tuple(self) -> None:
        items = self._pop_to_mark()
        self._stack.append(tuple(items))

    def _do_frozenset(self) -> None:
        items = self._pop_to_mark()
        require(all(type(item) in _SCALARS for item in items))
        self._stack.append(frozenset(items))

    def _do_stack_global(self) -> None:
        name = self._stack.pop()
        module = self._stack.pop()
        require(type(name) is str and type(module) is str)
        self._stack.append(self._look_up(f"{module} {name}"))

    def _do_append(self) -> None:
        self._extend([self._stack.pop()])

    def _do_appends(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        require(type(target) in (list, collections.deque))
        target.extend(items)

    def _do_additems(self) -> None:
        items = self._pop_to_mark()
        target = self._stack[-1]
        require(type(target) is set and all(type(item) in _SCALARS for item in items))
        target.update(items)

    def _do_setitem(self) -> None:
        value = self._stack.pop()
        self._update([self._stack.pop(), value])

    def _do_setitems(self) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        require(type(target) in (dict, collections.OrderedDict) and len(items) % 2 == 0)
        # The hash of nested tuples takes exponential time.
        require(all(type(key) in _SCALARS for key in items[::2]))
        target.update(zip(items[::2], items[1::2], strict=True))

    def _do_newobj(self) -> None:
        arguments = self._stack.pop()
        cls = self._stack.pop()
        if not any(cls is filled for filled in self._filled):
            raise self._refusal(f"an instance of {class_name(cls)}")
        require(arguments == ())
        self._stack.append(cls.__new__(cls))

    def _do_reduce(self) -> None:
        arguments = self._stack.pop()
        constructor = self._stack.pop()
        if type(constructor) is not Constructor:
            raise self._refusal(f"a call of {class_name(constructor)}")
        require(type(arguments) is tuple)
        self._stack.append(constructor.make(*arguments))

    def _do_build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, np.dtype):
            set_dtype(target, state)
        elif type(target) in SETTERS:
            SETTERS[type(target)](target, state)
        elif type(target) in self._filled:
            set_attributes(target, state)
        else:
            raise self._refusal(f"a change of {class_name(target)}")


def class_name(value: Any) -> str:
    """
    Name a class for a message.

    :param value: a class, or anything else, whose class is named
    :return: its module and qualified name, joined by a dot
    """
    cls = value if isinstance(value, type) else type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


def read_pickle(content: bytes, where: str, *, filled: tuple[type, ...] = (), remedy: str = "") -> Any:
    """
    Read a pickle without running anything of it.

    :param content: the pickle
    :param where: what is read, for messages: the file, and the place in it
    :param filled: classes whose instances may be in it besides those on the list
    :param remedy: what to do about a refusal; by default the way to read it knowingly
    :return: what the pickle describes
    :raises UntrustedFileError: if it wants anything that is not on the list
    :raises DamagedFileError: if it is broken
    """
    try:
        return RestrictedUnpickler(where, filled, remedy or how_to_trust()).load(content)
    except UntrustedFileError:
        raise
    # Whatever a broken pickle makes of the unpickler and of numpy, it means the same.
    except Exception as error:
        raise DamagedFileError(
            f"{where}: found a broken pickle ({reason(error)}); expected one as Stable-Baselines3 writes it: {ANOTHER_COPY}"
        ) from error
