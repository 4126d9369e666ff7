"""The process that runs one run: ``python -m sb3_ppo_edu.lab.worker``, started by ``suite``.

It reads the run from its standard input and prints the result as its last line. The input stays open as long as the parent
lives: when it ends, the parent is gone, and so is this process.
"""

from __future__ import annotations

import json
import os
import sys
import threading

import torch as th

from sb3_ppo_edu.lab.runs import Run, execute


def end_with_the_parent() -> None:
    """End this process when the parent's end of the pipe closes."""
    sys.stdin.read()
    os._exit(3)


def main() -> None:
    """Run what the first line of the input says, with one thread."""
    run = Run(**json.loads(sys.stdin.readline()))
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    th.set_num_threads(1)
    print(execute(run).to_json(), flush=True)
    # Not a normal exit: the thread above holds the lock of the standard input.
    os._exit(0)


if __name__ == "__main__":
    main()
