"""Archives of untrusted files: wherever one is damaged, that is said, and nothing else comes out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_ppo_edu.serialization.archive import read_archive
from sb3_ppo_edu.serialization.errors import DamagedFileError
from tests.model_files import members_of, saved_model


@pytest.fixture(scope="module")
def saved() -> bytes:
    """Content of the file of a model that has trained."""
    return saved_model()


@given(data=st.data())
def test_truncated_archive_is_damaged(saved: bytes, data: st.DataObject) -> None:
    """Wherever a file is cut off, it is named as damaged."""
    with pytest.raises(DamagedFileError, match="cut"):
        read_archive(saved[: data.draw(st.integers(0, len(saved) - 1))], "cut")


@given(data=st.data())
def test_flipped_archive_is_damaged_or_the_same(saved: bytes, data: st.DataObject) -> None:
    """Wherever a bit is flipped, the members are refused or what they were, except for their names and dates."""
    position = data.draw(st.integers(0, len(saved) - 1))
    changed = bytearray(saved)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        members = read_archive(bytes(changed), "flipped")
    except DamagedFileError:
        return
    assert list(members.values()) == list(members_of(saved).values())
