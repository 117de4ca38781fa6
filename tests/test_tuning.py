import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import tuning

FAULTS = """
import resource
import numpy as np
from deepmodels import tuning
assert {call}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**25, np.uint8)  # 8,192 pages, and gone again
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def test_a_step_compiles_with_the_options_and_computes_the_same():
    options = tuning.compiler_options()
    assert options == tuning.PROFILES["cpu"].options
    assert tuning.profile().startswith(f"cpu {tuning.PROFILES['cpu'].version}: ")
    assert all(f"{name}={value}" in tuning.profile() for name, value in options.items())
    x = jnp.arange(6.0).reshape(2, 3)
    compiled = jax.jit(lambda x: (x @ x.T).sum()).lower(x).compile(options)
    np.testing.assert_allclose(compiled(x), (np.asarray(x) @ np.asarray(x).T).sum())


def test_versions_that_nobody_tried_get_no_options(monkeypatch):
    monkeypatch.setattr(jax, "__version__", "0.99.0")
    assert tuning.compiler_options() == {}
    assert tuning.profile() == "none"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_memory_that_is_freed_stays_mapped():
    counts = {}
    for call in ("tuning.keep_memory()", "True"):
        program = [sys.executable, "-c", FAULTS.format(call=call)]
        counts[call] = int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    assert counts["tuning.keep_memory()"] < 100 < counts["True"]
