"""config.deterministic: the same bits each time; on a CPU for one number of threads."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from deepmodels import config as configs
from deepmodels import integrity, train, tuning
from deepmodels.errors import ConfigError
from deepmodels.training import experiment
from deepmodels.training.compiled import JitStep

PROGRAM = """
import sys
import jax
from deepmodels import integrity
from deepmodels.training import experiment
from deepmodels.training.compiled import JitStep

jax.config.update("jax_enable_compilation_cache", False)  # compiled anew, as on another machine
data = {{"name": "fashion_mnist_embedded", "batch_size": 256, "mean": 0.286, "std": 0.353}}
config = {{
    "steps": 3, "model": {{"name": "lenet5", "num_classes": 10}}, "data": data,
    "optimizer": {{"name": "momentum", "learning_rate": 0.05}}, "deterministic": {deterministic},
}}
x = experiment.make(config)
places = jax.tree.map(lambda leaf: leaf.sharding, x.abstract)
step = JitStep(experiment.make_step(x, None), x.mesh, places, x.config.deterministic)
state, batches = x.init(), experiment.train_batches(x, 0)
for _ in range(3):
    state, _ = step(state, step.place(next(batches)))
print(integrity.sha256(state))
"""


def digests(deterministic: bool, threads: list[int]) -> list[str]:
    """The states after some steps with so many threads each, of processes without the tests' own settings."""
    command = [sys.executable, "-c", PROGRAM.format(deterministic=deterministic)]
    environment = os.environ | {"XLA_FLAGS": ""}  # and NPROC, which XLA takes for the number of processors
    runs = [environment | {"NPROC": str(count)} for count in threads]
    return [subprocess.run(command, env=run, capture_output=True, text=True, check=True).stdout for run in runs]


@pytest.mark.slow
def test_processes_with_as_many_threads_give_the_same_bits_and_others_do_not():
    """As docs/trust.md says: `pytest -m slow tests/training/test_deterministic.py`."""
    one, two, again = digests(True, [1, 2, 2])
    assert two == again
    assert one != two, "then NPROC and the warning in the docs are needed no more"


def test_two_runs_are_equal_to_the_bit(tiny_config, tmp_path):
    config = tiny_config(steps=2, model={"name": "mlp_tiny"}, deterministic=True)
    one, other = (train(config, tmp_path / name).state for name in "ab")
    assert integrity.sha256(one) == integrity.sha256(other)


def test_every_program_of_a_run_is_compiled_by_options_that_xla_knows(monkeypatch, tiny_config):
    """Those of a GPU: XLA refuses a name or a value that it doesn't know wherever it compiles."""
    options, given = tuning.DETERMINISTIC["gpu"], []
    jax.jit(lambda x: x + 1, compiler_options=options)(jnp.ones(3))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_deterministic_opps"):
        jax.jit(lambda x: x + 2, compiler_options={"xla_gpu_deterministic_opps": True})(jnp.ones(3))
    monkeypatch.setattr(tuning, "DETERMINISTIC", {jax.default_backend(): options})
    jit = jax.jit
    monkeypatch.setattr(
        jax, "jit", lambda *a, **named: (given.append(named.get("compiler_options")), jit(*a, **named))[1]
    )
    x = experiment.make(configs.complete(tiny_config(deterministic=True)))
    experiment.make_evaluation(x)
    assert given == [options] * 3, "the first state, the evaluation, and each record's loss"
    places = jax.tree.map(lambda leaf: leaf.sharding, x.abstract)
    step = JitStep(experiment.make_step(x, None), x.mesh, places, x.config.deterministic)
    assert step._finish(SimpleNamespace(as_text=str, compile=lambda given: given)) == options


def test_it_is_true_or_false_and_may_change_between_starts(tiny_config):
    with pytest.raises(ConfigError, match="config.deterministic is True or False, got 'yes'"):
        configs.complete(tiny_config(deterministic="yes"))
    one, other = (configs.complete(tiny_config(deterministic=value)) for value in (True, False))
    assert not configs.differences(one, other)
