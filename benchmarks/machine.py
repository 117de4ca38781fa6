"""What a machine can do at most: its rate of matrix products and of copies, measured, and the energy it has used.

    python benchmarks/machine.py                        # of the back end that JAX chooses

Prints a JSON object: the device's name, floating point operations a second (a multiply-add counts as two) of large
products in the dtype of the benchmarks, and bytes a second that a copy of a large array reads and writes.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def cpu() -> str:
    """Returns the processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


class Energy:
    """Joules that the device has used since some moment, by the counter of NVIDIA's driver or by RAPL."""

    def __init__(self, device: str):
        """Finds the counter of "cpu" or "gpu"."""
        self._read = _nvml() if device == "gpu" else _rapl()

    def since(self, before: list[float] | None = None) -> tuple[list[float], float | None]:
        """Returns the counters, and the joules since the counters `before`; None where there is nothing to read."""
        if self._read is None:
            return [], None
        now, wraps = self._read()
        if not before:
            return now, None
        return now, sum((a - b) % wrap for a, b, wrap in zip(now, before, wraps, strict=True))


def _nvml() -> Callable | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no such package, driver or counter: it isn't measured
        return None
    return lambda: ([pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3], [float("inf")])


def _rapl() -> Callable | None:
    packages = sorted(POWERCAP.glob("intel-rapl:[0-9]"))
    try:
        wraps = [int((package / "max_energy_range_uj").read_text()) / 1e6 for package in packages]
        [(package / "energy_uj").read_text() for package in packages]
    except OSError:  # for root alone
        return None
    return (lambda: ([int((p / "energy_uj").read_text()) / 1e6 for p in packages], wraps)) if packages else None


def matrix_rate(rounds: int = 5) -> float:
    """Returns operations a second of the fastest product of square matrices, by XLA as the models use it, or NumPy."""
    import jax
    import numpy as np

    from deepmodels import tuning

    on_cpu = jax.default_backend() == "cpu"
    size, dtype = (2048, jax.numpy.float32) if on_cpu else (8192, jax.numpy.bfloat16)
    x = jax.numpy.ones((size, size), dtype)
    rates = []
    for options in (None, tuning.PROFILES["cpu"].options if on_cpu else None):
        product = jax.jit(jax.numpy.matmul).lower(x, x).compile(options)
        rates.append(2 * size**3 / _fastest(lambda product=product: product(x, x).block_until_ready(), rounds))
    if on_cpu:
        y = np.asarray(x)
        rates.append(2 * size**3 / _fastest(lambda: y @ y, rounds))
    return max(rates)


def copy_bandwidth(rounds: int = 5) -> float:
    """Returns the bytes a second that the fastest copy of a large array reads and writes."""
    import jax
    import numpy as np

    if jax.default_backend() != "cpu":
        x = jax.numpy.ones(2**29, jax.numpy.float32)
        copy = jax.jit(lambda x: -x)
        return 2 * x.nbytes / _fastest(lambda: copy(x).block_until_ready(), rounds)
    size, cores = 2**28, len(os.sched_getaffinity(0))
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    parts = [slice(i * size // cores, (i + 1) * size // cores) for i in range(cores)]

    def copy() -> None:
        threads = [threading.Thread(target=np.copyto, args=(target[part], source[part])) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return 2 * size / _fastest(copy, rounds)


def _fastest(call: Callable[[], object], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds + 1):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def main() -> None:
    """Prints what was measured."""
    import jax

    device = cpu() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    print(json.dumps({"device": device, "matrix rate": matrix_rate(), "copy bandwidth": copy_bandwidth()}))


if __name__ == "__main__":
    main()
