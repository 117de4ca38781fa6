"""Experts among devices. Lepikhin et al. (2020), arXiv:2006.16668, without their capacities: no token is dropped."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from deepmodels.layers.experts import Gate, Layer, Routing, routed
from deepmodels.parallel.mesh import BATCH_AXES


def experts_over(mesh: Mesh) -> Callable | None:
    """Returns how the experts of a model are computed on a mesh, see `deepmodels.layers.experts.experts_by`.

    Each device sorts its own tokens. The devices of the expert axis have some whole experts each: they gather the
    tokens that all of them have, compute what goes to their experts, and send back the sums. Inside an expert, the
    tensor axis divides the channels.

    Args:
      mesh: where the model runs; None is returned if it is one device.
    """
    rows = (*BATCH_AXES, "sequence")
    count, apart = mesh.size // (mesh.shape["tensor"] * mesh.shape["pipeline"]), mesh.shape["expert"] > 1

    def compute(x: Array, routing: Routing, layers: Mapping[str, Layer], gate: Gate) -> Array | None:
        experts, _, inner = layers["up"].kernel.shape
        if len(x) % count or experts % mesh.shape["expert"]:
            return None
        tensor = "tensor" if mesh.shape["tensor"] > 1 and inner % mesh.shape["tensor"] == 0 else None

        def part(x: Array, routing: Routing, layers: Mapping[str, Layer]) -> Array:
            if tensor and (bias := layers["down"].bias) is not None:  # which counts once
                once = jnp.where(jax.lax.axis_index(tensor) == 0, bias, 0)
                layers = layers | {"down": layers["down"]._replace(bias=once)}
            if not apart:
                y = routed(x, routing, layers, gate)
            else:
                x, routing = jax.lax.all_gather((x, routing), "expert", tiled=True)
                first = jax.lax.axis_index("expert") * len(layers["up"].kernel)
                y = routed(x, routing, layers, gate, first)
            y = jax.lax.psum(y, tensor) if tensor else y
            return jax.lax.psum_scatter(y, "expert", tiled=True) if apart else y

        outward = Layer(PartitionSpec("expert", None, tensor), PartitionSpec("expert", tensor))
        inward = Layer(PartitionSpec("expert", tensor, None), PartitionSpec("expert", None))
        specs = {"gate": outward, "up": outward, "down": inward}
        specs = {
            name: spec if layers[name].bias is not None else spec._replace(bias=None) for name, spec in specs.items()
        }
        over = jax.shard_map(
            part,
            mesh=mesh,
            in_specs=(PartitionSpec(rows), PartitionSpec(rows), specs),
            out_specs=PartitionSpec(rows),
            check_vma=False,
        )
        return over(x, routing, layers)

    return compute if mesh.size > 1 else None
