"""
Settings judged by themselves, and changes of settings that several symptoms advise.

Where one thing is wrong, metrics no longer show what another setting does. There a setting is judged by itself, from one and a
half to five times beyond its usual range on (calibration; the usual ranges have the sources of their symptoms).
"""

from __future__ import annotations

from collections.abc import Callable

from sb3_ppo_edu.doctor.findings import Change, Finding, beyond, current, evidence_of, find, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.metrics import epochs_per_update

LOWER_RATE = Change("learning_rate", 1e-4, factor=1 / 3, low=1e-6, high=3e-4)
HIGHER_RATE = Change("learning_rate", 3e-4, factor=10, low=3e-4, high=3e-3)
NORMALIZE = Change("normalize", True)

BY_ITSELF = 0.65
"""The most that a setting is trusted with by itself: less than a metric, more than an outcome."""


def unusual(name: str, key: str, limit: float, extreme: float, usual: str) -> Callable[[Record], Finding | None]:
    """
    Judge a setting by itself, whatever the metrics say: in an ill training they can't acquit it.

    A thousandfold reward, for one, takes all of the gradient's norm, so that the policy hardly moves at any learning rate.

    :param key: of the setting, by the name of EduPPO's argument
    :param limit: value from which on it is suspected
    :param extreme: value at which it is suspected as much as can be
    :param usual: the usual range, in words
    :return: what finds it in a record, see :attr:`Symptom.unusual`
    """

    def suspect(record: Record) -> Finding | None:
        value = current(record, key)
        if value is None and key == "n_epochs":
            value = epochs_per_update(record)
        if value is None:
            return None
        logged = f"train/{key}" if record.has(f"train/{key}") else f"settings/{key}"
        evidence = evidence_of(record, logged, f"{show(value)}, usual {usual}")
        return find(name, beyond(value, limit, extreme), evidence, most=BY_ITSELF)

    return suspect
