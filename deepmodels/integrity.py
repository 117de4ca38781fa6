"""Digests of a state's leaves: what is read from a checkpoint is compared with what was saved, to the bit.

Orbax checks the shape of what it reads and not the numbers: a bit that flips on the disk comes back as another weight.
So the digests travel in the checkpoint's own metadata, and whoever restores computes them again. They are sums modulo
2^32, so that neither the mesh nor the number of processes changes them.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from deepmodels import trees
from deepmodels.trees import PyTree

_CHUNK = 2**16  # elements at a time, which stay in the processor's cache
_ODD = 0x9E3779B1  # spreads neighbouring positions over all weights


def digests(tree: PyTree) -> dict[str, str]:
    """Returns 16 hexadecimal digits for each leaf of a tree: of its bits, and of where they are.

    All processes call it together, and get the same.

    Args:
      tree: arrays of any dtype, sharded in any way, whole or among processes.
    """
    flat = trees.flatten(tree)
    sums = np.array([_sums_of(leaf) for leaf in flat.values()], np.uint32).reshape(len(flat), 2)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        sums = multihost_utils.process_allgather(sums).sum(0, dtype=np.uint32)
    return {name: f"{plain:08x}{placed:08x}" for name, (plain, placed) in zip(flat, sums.tolist(), strict=True)}


def text_digest(record: Any) -> str:
    """Returns the SHA-256, in hexadecimal, of what JSON says of a record."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def differing(tree: PyTree, saved: dict[str, str]) -> list[str]:
    """Returns the names of the leaves whose digest isn't the saved one, or which only one of both has."""
    found = digests(tree)
    return sorted(name for name in found.keys() | saved.keys() if found.get(name) != saved.get(name))


def sha256(state: PyTree) -> str:
    """Returns the SHA-256, in hexadecimal, of the names, dtypes, shapes and bits of all of a state's leaves.

    Args:
      state: arrays of any dtype, each whole in this process.
    """
    total = hashlib.sha256()
    for name, leaf in sorted(leaves(state).items()):
        total.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def leaves(state: PyTree) -> dict[str, np.ndarray]:
    """Returns the leaves of a state by name, as numpy arrays; keys of random numbers as their words."""

    def plain(leaf: Any) -> np.ndarray:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return {name: plain(leaf) for name, leaf in trees.flatten(state).items()}


def _sums_of(leaf: Any) -> tuple[int, int]:
    """The sum of a leaf's words, and of each times a number that its position gives: of this process's part of it."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    plain = placed = 0
    for block, start, shape in _blocks(leaf):
        words = _words(block)
        count = words.shape[-1]
        strides = [math.prod(shape[d + 1 :]) * count for d in range(len(shape))]
        rows = max(1, _CHUNK // max(1, math.prod(words.shape[1:])))
        for first in range(0, len(words), rows):
            part = words[first : first + rows]
            weights = np.arange(count, dtype=np.uint32) * _wrapped(_ODD)
            for d, stride in enumerate(strides):
                offset = (start[d] + (first if d == 0 else 0)) * stride
                along = np.arange(part.shape[d], dtype=np.uint32) * _wrapped(stride * _ODD) + _wrapped(offset * _ODD)
                weights = weights + along.reshape([-1 if axis == d else 1 for axis in range(part.ndim)])
            weights |= 1  # odd, so that none of a word's bits is lost
            weights *= part
            plain += int(part.sum(dtype=np.uint32))
            placed += int(weights.sum(dtype=np.uint32))
    return plain % 2**32, placed % 2**32


def _wrapped(number: int) -> np.uint32:
    return np.uint32(number % 2**32)


def _blocks(leaf: Any) -> Iterator[tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]]:
    """The parts of a leaf that this process counts: each with where it begins, and the shape of the whole."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        flat = np.ascontiguousarray(leaf).reshape(-1)
        yield flat, (0,), flat.shape
        return
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            block = np.ascontiguousarray(shard.data)  # of a number by itself it makes one axis
            start = tuple(s.start or 0 for s in shard.index) or (0,)
            yield block, start, leaf.shape or (1,)


def _words(block: np.ndarray) -> np.ndarray:
    """The bits of a block as uint32 (..., words of an element)."""
    size = block.dtype.itemsize
    if size < 4:
        return block.view({1: np.uint8, 2: np.uint16}[size]).astype(np.uint32)[..., None]
    return block[..., None].view(np.uint32)
