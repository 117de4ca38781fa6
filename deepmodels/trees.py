"""Names of the leaves of a tree ("stage0_block1/conv1/kernel"), mapping by name, and sums over leaves."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

PyTree = Any


def path_name(path: tuple) -> str:
    """Returns a key path of `jax.tree_util` as text: its entries joined by slashes."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def flatten(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of `tree` by name, in the tree's own order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def map_named(function: Callable, tree: PyTree, *rest: PyTree) -> PyTree:
    """Returns `tree` with each leaf replaced by `function(name, leaf, *other_leaves)`."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)


def mask(tree: PyTree, pattern: str) -> PyTree:
    """Returns a tree of bools: whether the whole name of each leaf matches the regular expression `pattern`."""
    compiled = re.compile(pattern)
    return map_named(lambda name, _: compiled.fullmatch(name) is not None, tree)


def inserted(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """Returns a tree of dicts with further leaves, given by name, in branches that it has."""
    new: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        branch, _, last = name.rpartition("/")
        new.setdefault(branch, {})[last] = leaf

    def build(branch: PyTree, name: str) -> PyTree:
        if not isinstance(branch, dict):
            return branch
        inner = {key: build(value, f"{name}/{key}" if name else key) for key, value in branch.items()}
        return inner | new.get(name, {})

    return build(tree, "")


def count(tree: PyTree) -> int:
    """Returns the number of elements in all leaves; abstract leaves count by their shape."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def size_bytes(tree: PyTree) -> int:
    """Returns the bytes of all leaves; abstract leaves count by shape and dtype."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
