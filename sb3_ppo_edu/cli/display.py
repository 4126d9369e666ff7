"""Where commands print, whether there is a display, and drawing without one."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from sb3_ppo_edu.serialization.text import printable


class TextConsole(Console):
    """A console that shows what would command the terminal in a text, which may be from a stranger's file."""

    def render_str(self, text: str, **how: Any) -> Text:
        """Make text with styles of what is printed or stands in a table."""
        return super().render_str(printable(text), **how)


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
