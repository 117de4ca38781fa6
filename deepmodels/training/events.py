"""What happens to a run besides its steps, in events.jsonl of its folder: bad numbers, damaged records."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax

from deepmodels.training.workdir import writing


def write_event(workdir: Path, event: str, **facts: Any) -> None:
    """Adds a line to events.jsonl: process 0 does. Nothing is ever taken out, also not by a run that goes on.

    Args:
      workdir: of the run.
      event: what happened.
      facts: numbers, texts, lists; a number that isn't finite is written as text, as JSON has no such numbers.

    Raises:
      DiskError: the file can't be written.
    """
    if jax.process_index():
        return
    facts = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event} | facts)
    path = Path(workdir, "events.jsonl")
    with writing(path), path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        torn = file.read(1) not in (b"", b"\n")  # by a process that was killed
        file.write(("\n" * torn + line + "\n").encode())
