"""A batch in microbatches, through a model whose layers are divided among the devices of the mesh axis "pipeline"."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deepmodels.errors import ConfigError
from deepmodels.layers import stack
from deepmodels.parallel import BATCH_AXES

FREE = PartitionSpec.UNCONSTRAINED


def microbatches(count: int | None, mesh: Mesh) -> int:
    """Returns in how many parts a batch goes through a mesh's pipeline; 1 without one.

    Args:
      count: what the config says; by default four for each stage, with which the stages wait for less than a fifth of
        the time: Huang et al. (2019), arXiv:1811.06965, section 2.3.
      mesh: of `make_mesh`.
    """
    stages = mesh.shape["pipeline"]
    return 1 if stages == 1 else count or 4 * stages


def bubble(stages: int, count: int) -> float:
    """Returns the share of the time in which a stage of a pipeline waits, for a number of microbatches."""
    return (stages - 1) / (count + stages - 1)


def pipelined(objective: Callable, mesh: Mesh, count: int) -> Callable:
    """Returns an objective under which the model runs its stacks of layers as a pipeline, a microbatch behind another.

    The loss and its gradients are those of the whole batch. What is dropped at random isn't: each microbatch draws for
    itself. See `deepmodels.layers.stack.pipelined`.

    Args:
      objective: `(forward, batch, key) -> (loss, (metrics, variables))`.
      mesh: where it runs. Without a pipeline the objective is returned as it is.
      count: microbatches.
    """
    stages = mesh.shape["pipeline"]
    if stages == 1:
        return objective

    def place(leaf: jax.Array) -> jax.Array:
        spec = PartitionSpec("pipeline", *[FREE] * (leaf.ndim - 1))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    def joined(leaf: jax.Array) -> jax.Array:
        # what comes behind the layers is divided among the stages too, or each would compute all of it
        spec = PartitionSpec(BATCH_AXES, FREE if count % stages else "pipeline", *[FREE] * (leaf.ndim - 2))
        leaf = jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))
        return leaf.reshape(-1, *leaf.shape[2:])

    def divided(forward: Callable, batch: Any, key: jax.Array | None, **named: Any) -> Any:
        def call(*inputs: jax.Array, key: jax.Array | None = None, **options: Any) -> tuple[Any, Any]:
            rows = len(inputs[0])
            if options.get("network") is not None or rows % count:  # the second, of the example that shapes come from
                return forward(*inputs, key=key, **options)
            arrays = {name: value for name, value in options.items() if isinstance(value, jax.Array)}
            given, structure = jax.tree.flatten((inputs, arrays))
            of_rows = [leaf.ndim > 0 and len(leaf) == rows for leaf in given]

            def run(given: list[jax.Array], key: jax.Array | None) -> tuple[Any, Any]:
                inputs, arrays = jax.tree.unflatten(structure, given)
                return forward(*inputs, key=key, **options | arrays)

            def shapes(size: int) -> tuple[Any, Any]:
                parts = [
                    jax.ShapeDtypeStruct((size, *leaf.shape[1:]) if own else leaf.shape, leaf.dtype)
                    for leaf, own in zip(given, of_rows, strict=True)
                ]
                return jax.eval_shape(run, parts, key)

            size = rows // count
            made, twice = shapes(size), shapes(2 * size)
            if made[1].get("losses"):
                raise ConfigError(
                    f"config.mesh pipeline={stages}: the model's layers have losses of their own, such as the balance "
                    "of experts, of which a microbatch sees a part: fsdp and expert divide it"
                )
            grows = [a.shape != b.shape for a, b in zip(*map(jax.tree.leaves, (made, twice)), strict=True)]
            parts = [
                leaf.reshape(size, count, *leaf.shape[1:]) if own else leaf
                for leaf, own in zip(given, of_rows, strict=True)
            ]
            keys = None if key is None else jax.random.split(key, count)
            axes = [1 if own else None for own in of_rows], None if key is None else 0
            with stack.pipelined(stages, place):
                results = jax.vmap(lambda *xs: jax.tree.leaves(run(*xs)), axes, [1 if own else None for own in grows])(
                    parts, keys
                )
            results = [joined(leaf) if own else leaf for leaf, own in zip(results, grows, strict=True)]
            return jax.tree.unflatten(jax.tree.structure(made), results)

        return objective(call, batch, key, **named)

    return divided
