"""The damaged records of a run that passes over some: what all processes have found, counted and written down."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from deepmodels import data
from deepmodels.errors import DataError
from deepmodels.training.events import write_event
from deepmodels.training.experiment import Experiment


class Damage:
    """The damaged records of a run's data.

    Args:
      x: the experiment, whose sources are CheckedSources.
      workdir: of the run.
      record: what a checkpoint's record has of it: records by split.
    """

    def __init__(self, x: Experiment, workdir: Path, record: Mapping[str, Sequence[int]]):
        self._sources, self._workdir = x.sources, workdir
        self._skip = x.config.data.get("skip_damaged", 0)
        self._written = {split: set(record.get(split, ())) for split in x.sources}
        for split, indices in self._written.items():
            x.sources[split].known(dict.fromkeys(sorted(indices), "as the checkpoint has it"))

    def count(self) -> dict[str, float]:
        """Returns how many records are passed over, as a metric, and writes an event for each new one.

        All processes call it together, and know of each other's from then on.

        Raises:
          DataError: together they have found more than may be passed over.
        """
        if not self._skip:
            return {}
        for split, source in self._sources.items():
            if jax.process_count() > 1:
                own = np.full(self._skip, -1, np.int64)
                own[: len(source.damaged)] = sorted(source.damaged)
                found = np.unique(multihost_utils.process_allgather(own))
                source.known({int(i): "found by another process" for i in found if i >= 0})
            for index in sorted(source.damaged.keys() - self._written[split]):
                self._written[split].add(index)
                write_event(
                    self._workdir, "damaged record", split=split, record=index, error=source.damaged[index],
                    source=data.where_from(source, index),
                )  # fmt: skip
        return {"data/damaged_records": float(sum(map(len, self._written.values())))}

    def record(self) -> dict[str, list[int]]:
        """Returns the records by split, for a checkpoint's record."""
        return {split: sorted(indices) for split, indices in self._written.items() if indices}


def check_unchanged(x: Experiment, before: Mapping[str, Mapping] | None) -> dict[str, Mapping]:
    """Returns the fingerprint of each split of the data, if they are what they were when the run began.

    Raises:
      DataError: they aren't; the message has what changed.
    """
    now = {split: data.fingerprint(source) for split, source in x.sources.items()}
    lines = [
        f"{split}: {line}"
        for split in now.keys() & (before or {}).keys()
        for line in data.changes(before[split], now[split])
    ]
    if lines:
        more = f"\n  and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise DataError(
            "the data isn't what this run began with:\n  "
            + "\n  ".join(sorted(lines)[:10])
            + more
            + "\nBring back what it was, or begin again in another workdir"
        )
    return now
