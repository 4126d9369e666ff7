"""Whether there is a display, and drawing without one."""

from __future__ import annotations

import os
import sys


def has_display() -> bool:
    """Tell whether there is a display to open windows on; other systems than Linux always have one."""
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def draw_into_memory() -> None:
    """
    Let pygame and MuJoCo draw without a window.

    Not before training: where EGL is missing, ``import mujoco`` itself would fail with this setting, and nobody could train.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if not has_display():
        os.environ.setdefault("MUJOCO_GL", "egl")
