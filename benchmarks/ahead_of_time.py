"""What a second start would save by a step that is kept compiled, beside the persistent cache that it has now.

    python benchmarks/ahead_of_time.py resnet50

Three processes: one compiles the step of `deepmodels bench` into an empty cache and keeps it by
`jax.experimental.serialize_executable`, one lowers it and finds it in the cache, as each start does, and one loads what
was kept. Seconds are those of the processor, on all threads, whatever else the machine does.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ours
import subjects
from jax.experimental import serialize_executable

from deepmodels import cache, tuning


def clock(what: str, function: Callable[[], Any]) -> Any:
    """Returns what the function does, and prints its seconds."""
    began = time.process_time()
    result = function()
    print(f"  {what}: {time.process_time() - began:.2f} s", flush=True)
    return result


def main() -> None:
    """Runs the three processes, or one of them."""
    name = sys.argv[1]
    if len(sys.argv) == 2:
        with tempfile.TemporaryDirectory() as folder:
            for part in ("compile", "cache", "load"):
                print(f"{name}, {part}", flush=True)
                command = [sys.executable, __file__, name, part, str(Path(folder, "step"))]
                subprocess.run(command, env=os.environ | {"DEEPMODELS_CACHE": folder}, check=True)
        return
    part, kept = sys.argv[2], Path(sys.argv[3])
    cache.enable()
    jax.devices()
    print(f"  imports: {time.process_time():.2f} s")
    step, init, batch = ours.make_step(subjects.SUBJECTS[name]._asdict())
    state = clock("shapes of the state", lambda: jax.eval_shape(init))
    if part == "load":
        clock("load", lambda: serialize_executable.deserialize_and_load(*pickle.loads(kept.read_bytes())))
        return
    lowered = clock("lower", lambda: step.lower(state, batch))
    compiled = clock("compile or find", lambda: tuning.compile(lowered))
    if part == "compile":
        kept.write_bytes(pickle.dumps(serialize_executable.serialize(compiled)))


if __name__ == "__main__":
    main()
