"""Writes calls of kernels as files that the sanitizers' program ``csrc/driver.c`` runs; its comment describes the format."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TYPES = {"bytes": 0, "int64": 1, "real": 2, "double": 3}


def padded(content: bytes) -> bytes:
    """
    Fill up to whole words.

    :param content: bytes
    :return: the bytes, and zeros up to a multiple of 8
    """
    return content + bytes(-len(content) % 8)


@dataclass
class KernelCase:
    """
    One call of a kernel: blocks of memory, the pointers between them, and the arguments.

    :param kernel: the kernel's verb
    :param dtype: ``f32`` or ``f64``
    """

    kernel: str
    dtype: str
    blocks: list[bytes] = field(default_factory=list)
    pointers: list[bytes] = field(default_factory=list)
    arguments: list[bytes] = field(default_factory=list)

    def block(
        self,
        content: bytes | np.ndarray,
        expected: bytes | np.ndarray | None = None,
        *,
        kind: str = "bytes",
        alignment: int = 8,
        rtol: float = 0.0,
        atol: float = 0.0,
    ) -> int:
        """
        Add a block of memory.

        :param content: what it holds before the call
        :param expected: what it should hold after the call; None if nobody looks
        :param kind: how to compare: ``bytes``, ``int64``, ``real`` (the kernel's own) or ``double``
        :param alignment: its address is a multiple of this
        :param rtol: allowed relative difference
        :param atol: allowed absolute difference
        :return: its number, for pointers and arguments
        """
        before = content.tobytes() if isinstance(content, np.ndarray) else bytes(content)
        after = expected.tobytes() if isinstance(expected, np.ndarray) else expected
        if after is not None and len(after) != len(before):
            raise ValueError(f"expected: found {len(after)} bytes, expected {len(before)} as in content")
        head = struct.pack("<4Q2d", len(before), alignment, TYPES[kind], after is not None, rtol, atol)
        self.blocks.append(head + padded(before) + padded(after or b""))
        return len(self.blocks) - 1

    def pointer(self, block: int, offset: int, target: int) -> None:
        """
        Let a member of a structure point to a block.

        :param block: the structure's block
        :param offset: the member's offset in bytes
        :param target: the block that it points to
        """
        self.pointers.append(struct.pack("<3Q", block, offset, target))

    def pass_block(self, block: int) -> None:
        """
        Hand a block's address over as the next argument.

        :param block: the block
        """
        self.arguments.append(struct.pack("<2Q", 1, block))

    def pass_number(self, value: int | float) -> None:
        """
        Hand a number over as the next argument.

        :param value: a whole number, or a double
        """
        self.arguments.append(struct.pack("<Qd" if isinstance(value, float) else "<Qq", 0, value))

    def write(self, path: Path) -> None:
        """
        Write the case.

        :param path: file to write
        """
        head = struct.pack("<8s32s8s3Q", b"SB3EDU01", self.kernel.encode(), self.dtype.encode(), *map(len, self.parts()))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(head + b"".join(part for parts in self.parts() for part in parts))

    def parts(self) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """
        List what the case is made of.

        :return: blocks, pointers, arguments
        """
        return self.blocks, self.pointers, self.arguments
