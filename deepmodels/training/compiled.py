"""The training step, compiled: by `jax.jit` over a mesh, or by `jax.pmap` for pure data parallelism.

Both compile the step ahead of time, once for each shape of a batch, and offer the same four things: `enter` and `leave`
turn a state into the form the loop keeps it in and back, `place` puts a host batch on the devices, and the call makes a
step.
"""

import time
from collections.abc import Callable
from functools import partial

import flax.jax_utils
import jax
import numpy as np
from jax.sharding import Mesh

from deepmodels import parallel, tuning
from deepmodels.errors import ConfigError
from deepmodels.trees import PyTree


class JitStep:
    """A step compiled over a mesh; the state is sharded as given, donated, and returned sharded alike."""

    axis_name = None

    def __init__(self, step: Callable, mesh: Mesh, shardings: PyTree, deterministic: bool = False):
        """Keeps the step; `compile` does the work, as config.deterministic wants it."""
        self.place = partial(parallel.place, mesh=mesh)
        self._compiled = {}
        self._finish = partial(tuning.compile, deterministic=deterministic, platform=mesh.devices.flat[0].platform)
        self._step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))

    def compile(self, state: PyTree, batch: PyTree) -> dict[str, float]:
        """Compiles for these arguments; returns the seconds it took and the bytes a device needs."""
        return _compile(self, state, batch)

    def program(self, state: PyTree, batch: PyTree) -> jax.stages.Compiled:
        """Returns the compiled step for these arguments."""
        return _compiled(self, state, batch)

    def __call__(self, state: PyTree, batch: PyTree) -> tuple[PyTree, dict[str, jax.Array]]:
        """Makes a step; what isn't on the devices yet is an error, as moving it would make the step wait."""
        program = self.program(state, batch)
        with jax.transfer_guard("disallow"):
            return program(state, batch)

    def enter(self, state: PyTree) -> PyTree:
        """Returns the state as it is."""
        return state

    def leave(self, state: PyTree) -> PyTree:
        """Returns the state as it is."""
        return state


class PmapStep:
    """A step compiled by `jax.pmap`: every device holds the whole state and a share of the batch.

    Equal to `JitStep` on a mesh with a data axis alone, but for random draws (dropout, augmentation), which each device
    makes for its own examples.
    """

    axis_name = "data"

    def __init__(self, step: Callable, mesh: Mesh, shardings: PyTree, deterministic: bool = False):
        """Keeps the step, which averages its gradients over `axis_name`; `compile` does the work."""
        if mesh.size != mesh.shape["data"]:
            raise ConfigError(
                f"config.compile='pmap' is for pure data parallelism, the mesh is {parallel.written(mesh.shape)}"
            )
        if jax.process_count() > 1:
            raise ConfigError("config.compile='pmap' is for one process; over several hosts use 'jit'")
        self._devices, self._shardings, self._compiled = list(mesh.devices.flat), shardings, {}
        self._finish = partial(tuning.compile, deterministic=deterministic)
        self._step = jax.pmap(step, axis_name=self.axis_name, devices=self._devices, donate_argnums=0)

    def compile(self, state: PyTree, batch: PyTree) -> dict[str, float]:
        """Compiles for these arguments; returns the seconds it took and the bytes a device needs."""
        return _compile(self, state, batch)

    def __call__(self, state: PyTree, batch: PyTree) -> tuple[PyTree, dict[str, jax.Array]]:
        """Makes a step."""
        return _compiled(self, state, batch)(state, batch)

    def enter(self, state: PyTree) -> PyTree:
        """Returns the state with a leading axis of devices."""
        return flax.jax_utils.replicate(jax.device_get(state), self._devices)

    def leave(self, state: PyTree) -> PyTree:
        """Returns the first device's state, on the mesh."""
        return jax.device_put(jax.device_get(jax.tree.map(lambda x: x[0], state)), self._shardings)

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the batch with a leading axis of devices."""
        parallel.alive()
        count = len(self._devices)
        return {name: x.reshape(count, len(x) // count, *x.shape[1:]) for name, x in batch.items()}


def _shapes(batch: PyTree) -> tuple:
    return tuple(sorted((name, x.shape) for name, x in batch.items()))


def _compiled(step: JitStep | PmapStep, state: PyTree, batch: PyTree) -> Callable:
    """The step for batches of this shape; that of a length not met so far is compiled here."""
    shapes = _shapes(batch)
    if shapes not in step._compiled:
        _compile(step, state, batch)
    return step._compiled[shapes]


def _compile(step: JitStep | PmapStep, state: PyTree, batch: PyTree) -> dict[str, float]:
    start = time.monotonic()
    lowered = step._step.lower(state, batch)
    middle = time.monotonic()
    compiled = step._compiled[_shapes(batch)] = step._finish(lowered)
    facts = {"lower_seconds": middle - start, "compile_seconds": time.monotonic() - middle}
    memory = compiled.memory_analysis()
    if memory is not None:
        facts["step_memory_bytes"] = float(
            memory.argument_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
        )
    return facts
