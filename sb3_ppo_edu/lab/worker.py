"""The process that calls one function: ``python -m sb3_ppo_edu.lab.worker``, started by ``processes``.

It reads the function's name and arguments from its standard input and prints what it gives as its last line. The input
stays open as long as the parent lives: when it ends, the parent is gone, and so is this process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pkgutil import resolve_name

import torch as th


def end_with_the_parent() -> None:
    """End this process when the parent's end of the pipe closes."""
    sys.stdin.read()
    os._exit(3)


def main() -> None:
    """Call what the first line of the input names, with one thread."""
    function, arguments = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    th.set_num_threads(1)
    code = 0
    try:
        print(resolve_name(function)(**arguments), flush=True)
    except Exception:
        traceback.print_exc()
        code = 1
    # Not a normal exit: the thread above holds the lock of the standard input.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
