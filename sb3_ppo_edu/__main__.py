"""``python -m sb3_ppo_edu``: the same command line as ``sb3-edu``."""

import sys

from sb3_ppo_edu.cli import main

if __name__ == "__main__":
    sys.exit(main())
