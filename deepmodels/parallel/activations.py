"""What a model computes over a mesh: activations divided as the batch is, attention and experts among devices.

Models know nothing of this: the layers ask a context what to do.
"""

import contextlib
from collections.abc import Callable

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deepmodels.layers.attention import attention_by
from deepmodels.layers.experts import experts_by
from deepmodels.parallel.experts import experts_over
from deepmodels.parallel.mesh import BATCH_AXES, SEQUENCES, shares
from deepmodels.parallel.ring import attention_over
from deepmodels.trees import PyTree


def over_mesh(objective: Callable, mesh: Mesh, microbatches: int = 1) -> Callable:
    """Returns an objective under which the model computes divided over a mesh.

    All that the model's modules return stays divided along the batch, as it came, and along the sequence. Parameters
    are divided over the same devices, and where both meet the compiler has to gather one of them; left to itself it
    may choose the batch, by what a small addition suggests, and then each device computes all of it. Attention is a
    ring over the sequence axis, and tokens are exchanged among the devices of the expert axis.

    Args:
      objective: `(forward, batch, key) -> ...`.
      mesh: where it runs. On one with a data axis alone the objective is returned as it is, unless it has experts.
      microbatches: parts of a batch that go through the model one by one.
    """
    sequence = mesh.shape["sequence"]

    def divided(forward, batch, key, **named):
        (rows,) = {len(leaf) // microbatches for leaf in jax.tree.leaves(batch)}
        lengths = {leaf.shape[1] for name, leaf in batch.items() if name in SEQUENCES}

        def constrain(leaf):
            if getattr(leaf, "ndim", 0) == 0 or leaf.shape[0] != rows or rows % shares(mesh):
                return leaf
            free = [PartitionSpec.UNCONSTRAINED] * (leaf.ndim - 1)
            if sequence > 1 and leaf.ndim > 2 and leaf.shape[1] in lengths:
                free[0] = "sequence"
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(BATCH_AXES, *free)))

        def call(function, arguments, named, context):
            return _each(constrain, function(*arguments, **named))

        keep = contextlib.nullcontext() if mesh.size == mesh.shape["data"] else nn.intercept_methods(call)
        with keep, attention_by(attention_over(mesh)), experts_by(experts_over(mesh)):
            return objective(forward, batch, key, **named)

    return objective if mesh.size == 1 else divided


def _each(function: Callable, tree: PyTree) -> PyTree:
    """As `jax.tree.map`, and a dict keeps its order, which for feature maps is from the first stage to the last."""
    if isinstance(tree, dict):
        return {name: _each(function, leaf) for name, leaf in tree.items()}
    return jax.tree.map(function, tree)
