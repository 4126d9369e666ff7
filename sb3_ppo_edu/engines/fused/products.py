"""Products of small matrices, kept away from thread pools.

For a few thousand multiplications, waking threads takes longer than multiplying, and where several processes share the cores
it takes many times longer. numpy's OpenBLAS reads its number of threads once, when it is imported, and cannot be told later
without changing it for the whole process. It decides by size whether it uses them, though: the engine calls numpy's product
only below these sizes, and torch's above, whose number of threads can be set and restored around a call.
"""

from __future__ import annotations

import numpy as np
import torch as th

from sb3_ppo_edu.functional.objectives import Array

NUMPY_PRODUCT = 2**18
"""Up to this many multiply-adds OpenBLAS multiplies two matrices in the calling thread (``SMP_THRESHOLD_MIN`` times
``GEMM_MULTITHREAD_THRESHOLD`` in its interface/gemm.c). Below it, numpy's product was also the faster one where measured."""

NUMPY_VECTOR = 9216
"""The same for a matrix and a vector, in elements of the matrix (interface/gemv.c)."""

NUMPY_DOT = 10_000
"""The same for two vectors, in elements of each (kernel/x86_64/sdot.c)."""

NUMPY_SUMS = 2**15
"""Up to this many elements of the matrix, ``np.einsum`` multiplies it with a vector faster than torch does (measured)."""

ONE_THREAD_PRODUCT = 2**20
"""Up to this many multiply-adds in its largest product, a pass is not faster on two threads than on one (measured)."""

ONE_THREAD_STEP = 2**15
"""Up to this many parameters the optimizer steps in one thread: torch's grain size for elementwise work, which its fused Adam
does not heed."""


def fits_numpy(rows: int, inner: int, columns: int) -> bool:
    """
    Tell whether numpy multiplies in the calling thread.

    :param rows: rows of the product
    :param inner: length of the sums
    :param columns: columns of the product
    :return: True if it does, and is the faster one
    """
    limit = NUMPY_VECTOR if 1 in (rows, inner, columns) else NUMPY_PRODUCT
    return rows * inner * columns <= limit


class OneThread:
    """
    A context in which torch computes in this thread alone; the number of threads is restored afterwards.

    :param small: whether the work is small enough for that; otherwise nothing changes
    """

    __slots__ = ("_threads",)

    def __init__(self, small: bool) -> None:
        self._threads = th.get_num_threads() if small else 1

    def __enter__(self) -> None:
        """Set one thread."""
        if self._threads > 1:
            th.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        """Restore the number of threads."""
        if self._threads > 1:
            th.set_num_threads(self._threads)


def dot(first: Array, second: Array) -> float:
    """
    Sum the products of two vectors.

    :param first: shape ``(n,)``
    :param second: shape ``(n,)``
    :return: the sum
    """
    if len(first) <= NUMPY_DOT:
        return float(np.dot(first, second))
    return float(th.dot(th.from_numpy(first), th.from_numpy(second)))
