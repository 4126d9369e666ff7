"""Training in several processes that average their gradients."""

from sb3_ppo_edu.distributed.averaging import AveragingEngine
from sb3_ppo_edu.distributed.data_parallel import DataParallel
from sb3_ppo_edu.distributed.process_group import Group, LostProcessError, ProcessGroup, join, launched, leave, restarts

__all__ = [
    "AveragingEngine",
    "DataParallel",
    "Group",
    "LostProcessError",
    "ProcessGroup",
    "join",
    "launched",
    "leave",
    "restarts",
]
