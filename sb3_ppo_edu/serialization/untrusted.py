"""
Reading untrusted files: Stable-Baselines3's ``model.zip`` and ``vecnormalize.pkl``, without running what is in them.

Both hold pickles, and a pickle is a program: it may call any function that Python can import. Here are the names that users
need, each from its own module: :mod:`~sb3_ppo_edu.serialization.unpickler` reads pickles with a machine of few instructions,
:mod:`~sb3_ppo_edu.serialization.allowlist` says which types it knows, :mod:`~sb3_ppo_edu.serialization.constructors` how they
are made, :mod:`~sb3_ppo_edu.serialization.archive` reads zip files, and :mod:`~sb3_ppo_edu.serialization.models` and
:mod:`~sb3_ppo_edu.serialization.statistics` the two kinds of file.

Everything that is not on the list is refused with an :class:`UntrustedFileError` that names it. What is on the list runs no
code of the file's.
"""

from sb3_ppo_edu.serialization.archive import MAX_GROWTH, SMALL_ARCHIVE, check_members, read_archive
from sb3_ppo_edu.serialization.errors import DamagedFileError, UntrustedFileError
from sb3_ppo_edu.serialization.models import CheckedModel, check_model, describing_failure
from sb3_ppo_edu.serialization.statistics import load_statistics
from sb3_ppo_edu.serialization.unpickler import read_pickle

__all__ = [
    "MAX_GROWTH",
    "SMALL_ARCHIVE",
    "CheckedModel",
    "DamagedFileError",
    "UntrustedFileError",
    "check_members",
    "check_model",
    "describing_failure",
    "load_statistics",
    "read_archive",
    "read_pickle",
]
