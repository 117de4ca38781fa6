#!/usr/bin/env python3
"""Looks, before a run is paid for, at what would end it, and says each thing in a line. No step is made.

    python launch/preflight.py --config=experiments/resnet50_imagenet.py --workdir=/runs/resnet50
    python launch/preflight.py --config=experiments/gpt3.py:175b --workdir=/runs/gpt3 --topology=512 --hardware=h100

Start it as the run will be, on all its hosts: under srun, in the JobSet, with --coordinator. The second line is for a
machine that isn't there: the step is compiled for as many virtual CPU devices, and its workdir is left out.

It looks at the config and its names, the data, the workdir (can be written, has room for the checkpoints that are kept,
holds no other run), the devices (each computes, all reach each other), whether all processes have the same config,
code and versions, compiles the step for the mesh, and compares the memory that it needs with what there is. Exit code
0: nothing was found, 1: something was.
"""

import argparse
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Looks at everything, prints what it finds, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, metavar="FILE[:SIZE]", help="as `deepmodels train` takes it")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="likewise")
    parser.add_argument("--topology", metavar="N", help="of a machine that isn't there, as `estimate` takes it")
    parser.add_argument("--hardware", metavar="NAME", help="whose memory counts then: h100, tpu_v5p ...")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="as `deepmodels train` takes it")
    parser.add_argument("--num-processes", type=int, metavar="N", help="likewise")
    parser.add_argument("--process-id", type=int, metavar="I", help="likewise")
    options, rest = parser.parse_known_args(arguments)
    overrides = dict(argument.removeprefix("--config.").partition("=")[::2] for argument in rest)
    if not all(argument.startswith("--config.") and "=" in argument for argument in rest):
        parser.error(f"expected --config.a.b=value, got {' '.join(rest)}")
    from deepmodels import parallel
    from deepmodels.errors import DeepModelsError

    try:
        options.devices = None if options.topology is None else parallel.described_devices(options.topology)
        processes = options.coordinator, options.num_processes, options.process_id
        with parallel.together(*processes, stuck_seconds=0):  # compiling may take as long as it takes
            return inspect(options, overrides)
    except DeepModelsError as error:
        print(f"--  processes: {error}", file=sys.stderr)
        return 1


def inspect(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Returns the exit code, which is the same in all processes."""
    import jax

    from deepmodels import cache, parallel
    from deepmodels import config as configs
    from deepmodels.analysis.hardware import hardware
    from deepmodels.training import estimate, experiment

    cache.enable()
    here, found = options.topology is None, Findings()
    machine = None if options.hardware is None else found.look("hardware", lambda: hardware(options.hardware))
    config = found.look("config", lambda: configs.load(options.config, overrides))
    made = None
    if config is not None:
        found.say(
            "config", f"{options.config}: {config.model.name}, {config.steps:,} steps of {config.data.batch_size}"
        )
        made = found.look("experiment", lambda: experiment.make(config, options.devices))
    if made is not None:
        found.say("mesh", parallel.written(made.mesh.shape))
        found.tell("data", lambda: read_records(made.sources))
        if here or Path(options.workdir).exists():
            found.tell("workdir", lambda: check_workdir(Path(options.workdir), made))
    if here:
        found.tell("devices", check_devices)

    # Only from here on do processes wait for each other, and all of them come here, whatever they have found.
    same = found.tell("processes", lambda: agree(facts(config)))
    if here:
        found.tell("network", reach_all)
    if everyones_sum(made is None or not same):
        return found.end()
    needed = found.look("step", lambda: estimate(config, devices=options.devices))
    if needed is not None:
        found.say("step", f"compiled in {needed.lower_seconds + needed.compile_seconds:.1f} s")
        available, where = memory_of(jax.local_devices()[0], machine, here)
        found.tell("memory", lambda: check_memory(needed.peak_bytes, available, where))
    return found.end()


class Findings:
    """What was looked at: process 0 says what is well, each process what isn't."""

    def __init__(self):
        """Nothing yet."""
        import jax

        self._of = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
        self._speaks, self._count = jax.process_index() == 0, 0

    def look(self, name: str, see: Callable[[], Any]) -> Any:
        """Returns what `see` returns, or None after saying the error it raised."""
        try:
            return see()
        except Exception as error:  # whatever it is, it would end the run
            self._count += 1
            kind = "" if type(error).__module__ == "deepmodels.errors" else f"{type(error).__name__}: "
            print(f"--  {self._of}{name}: {kind}{' '.join(str(error).split())}", file=sys.stderr, flush=True)
            return None

    def say(self, name: str, detail: str) -> None:
        """Says that something is well."""
        if self._speaks:
            print(f"ok  {name}: {detail}", flush=True)

    def tell(self, name: str, see: Callable[[], str]) -> bool:
        """Says what `see` returns, or the error it raised; returns whether it returned."""
        detail = self.look(name, see)
        if detail is not None:
            self.say(name, detail)
        return detail is not None

    def end(self) -> int:
        """Says how many findings all processes have and returns the exit code."""
        count = everyones_sum(self._count)
        if self._speaks:
            print(f"preflight: {count or 'nothing'} found", flush=True)
        return 1 if count else 0


def everyones_sum(mine: int) -> int:
    """The sum of a number over all processes, which wait for each other here."""
    import numpy as np
    from jax.experimental import multihost_utils

    return int(np.sum(multihost_utils.process_allgather(np.int32(mine))))


def read_records(sources: Mapping[str, Sequence]) -> str:
    """Reads the first and the last record of each split."""
    for source in sources.values():
        source[0], source[len(source) - 1]
    return ", ".join(f"{len(source):,} {split}" for split, source in sources.items())


def check_workdir(workdir: Path, made) -> str:
    """Writes and removes a file, and compares the free space with what the checkpoints that are kept will take."""
    from deepmodels import config as configs
    from deepmodels import trees
    from deepmodels.errors import ConfigError
    from deepmodels.training.workdir import read_config

    there = workdir
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"{there} is a file, and {workdir} can't be a folder in it")
    probe = there / f".preflight-{platform.node()}-{os.getpid()}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{there} can't be written: {error.strerror}") from error
    if (workdir / "config.json").exists():
        lines = configs.differences(configs.complete(read_config(workdir)), made.config)
        if lines:
            raise ConfigError(f"{workdir} holds a run of another config: {'; '.join(lines)}")
    keep, each = made.config.keep, trees.size_bytes(made.abstract)
    count = keep.last + 1 + (keep.best is not None)  # one more is written before the oldest goes
    free = shutil.disk_usage(there).free
    checkpoints = f"{count} checkpoints of {in_units(each)}"
    if free < count * each:
        raise ConfigError(f"{there} has {in_units(free)} free, and {checkpoints} need {in_units(count * each)}")
    return f"{workdir}: {in_units(free)} free for {checkpoints}"


def check_devices() -> str:
    """Has each device of this process compute something."""
    import jax
    import jax.numpy as jnp

    for device in jax.local_devices():
        product = jax.device_put(jnp.ones((8, 8), jnp.float32), device) @ jax.device_put(
            jnp.ones((8, 8), jnp.float32), device
        )
        if float(product.sum()) != 512:
            raise ArithmeticError(f"{device}: the sum of a product of ones is {float(product.sum())}, and not 512")
    return f"{jax.device_count()} x {jax.devices()[0].device_kind} of {jax.process_count()} processes"


def facts(config) -> dict[str, str]:
    """What has to be the same in all processes."""
    import jax

    import deepmodels
    from deepmodels import config as configs

    code = hashlib.sha256()
    for path in sorted(Path(deepmodels.__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    return {
        "config": "" if config is None else configs.to_json(config),
        "deepmodels": deepmodels.__version__,
        "deepmodels' code": code.hexdigest(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device_kind": jax.local_devices()[0].device_kind,
        "local_device_count": str(jax.local_device_count()),
    }


def agree(mine: Mapping[str, str]) -> str:
    """Compares the facts of all processes with those of process 0."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from deepmodels.errors import ConfigError

    digests = np.stack([np.frombuffer(hashlib.sha256(fact.encode()).digest(), np.uint8) for fact in mine.values()])
    everyones = multihost_utils.process_allgather(digests).reshape(-1, *digests.shape)
    differing = np.any(everyones != everyones[0], axis=-1)  # of a process and a fact
    lines = [
        f"process {process} has another {', '.join(name for name, other in zip(mine, row, strict=True) if other)}"
        for process, row in enumerate(differing)
        if row.any()
    ]
    if lines and jax.process_index() == 0:
        raise ConfigError(f"{'; '.join(lines)} than process 0")
    return "all have the same " + ", ".join(mine)


def reach_all() -> str:
    """Sums a one of each device over all of them."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("all",))
    ones = jax.make_array_from_callback(
        (jax.device_count(),), NamedSharding(mesh, PartitionSpec("all")), lambda index: np.ones(1, np.float32)
    )
    total = int(jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(ones))
    if total != jax.device_count():
        raise ArithmeticError(f"the devices' ones sum to {total}, and there are {jax.device_count()} devices")
    return f"a sum over all {total} devices"


def memory_of(device, machine, here: bool) -> tuple[float | None, str]:
    """The bytes a device of this process has free, or None where that isn't known, and how that is known."""
    import jax

    if machine is not None:
        return machine.memory, "its data sheet"
    if not here:
        return None, "give --hardware"
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0), "free"
    meminfo = Path("/proc/meminfo")
    if device.platform != "cpu" or not meminfo.exists():
        return None, f"a {device.device_kind} doesn't say"
    kilobytes = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable")).split()[1]
    return int(kilobytes) * 1024 / jax.local_device_count(), "free, the host's divided by its devices"


def check_memory(needed: int, available: float | None, where: str) -> str:
    """Compares what the step needs on a device with what is there."""
    from deepmodels.errors import ConfigError

    if available is None:
        return f"{in_units(needed)} of a device are needed; how many it has is unknown: {where}"
    text = f"{in_units(needed)} of a device are needed, it has {in_units(available)} ({where})"
    if needed > available:
        raise ConfigError(f"{text}: more devices on fsdp or tensor, a smaller batch, accumulate, or model.remat")
    return text


def in_units(count: float) -> str:
    """Bytes in three figures."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


if __name__ == "__main__":
    sys.exit(main())
