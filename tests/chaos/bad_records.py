"""P9: every record once an epoch, whoever reads it; damaged ones are named or passed over and counted, never wrong.

    python tests/chaos/bad_records.py --trials=200

Of each trial the first part draws a data set's length, a batch size and a seed, and reads two epochs with 1, 2 and 4
ranks and 0 and 2 workers each. The second flips a bit of a file of ArrayRecord, one of three, or cuts its end off; then
all is read twice, with damage an error, and with up to ten records passed over.
"""

import argparse
import functools
import itertools
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import promises

from deepmodels import data
from deepmodels.errors import DataError

RECORDS, FILES, SKIP = 40, 3, 10
DAMAGES = ("flip", "truncate")


def once_each(rng: np.random.Generator) -> str | None:
    """Reads epochs in every way; returns what was wrong."""
    batch_size, seed = 4 * int(rng.integers(1, 5)), int(rng.integers(1_000))
    length = batch_size * int(rng.integers(1, 12))  # so that epochs end with a batch
    source, expected = data.CheckedSource(_Numbers(length)), None
    for ranks, threads in itertools.product((1, 2, 4), (0, 2)):
        streams = [
            data.batches(
                source, batch_size=batch_size, seed=seed, process_index=i, process_count=ranks, threads=threads
            )
            for i in range(ranks)
        ]
        rows = [np.concatenate([next(stream)["x"] for stream in streams]) for _ in range(2 * length // batch_size)]
        for stream in streams:
            stream.close()
        found = np.stack(rows).reshape(2, length)
        if not (np.sort(found, axis=1) == np.arange(length)).all():
            return f"{ranks} ranks, {threads} workers: not every record once, of {length} in batches of {batch_size}"
        expected = found if expected is None else expected
        if not (found == expected).all():
            return f"{ranks} ranks, {threads} workers: another order, of {length} in batches of {batch_size}"
    return None


class _Numbers:
    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x": np.array(index, np.int64)}


@functools.cache
def made(file: int) -> data.ArraySource:
    """Returns the records of a file: noise, and each one's number."""
    rng = np.random.default_rng(file)
    image = rng.integers(0, 256, (RECORDS, 32, 32, 3), np.uint8)
    return data.ArraySource({"x": np.arange(RECORDS) + file * RECORDS, "image": image})


def damaged(template: Path, folder: Path, damage: str, rng: np.random.Generator) -> str:
    """Damages one file of a copy and reads it; returns what happened."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    paths = sorted(folder.iterdir())
    path = paths[rng.integers(len(paths))]
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
    else:
        del raw[rng.integers(len(raw)) :]
    path.write_bytes(raw)
    try:
        source = data.ArrayRecordSource(paths)
    except DataError as error:
        return "the file named when it was opened" if str(path) in str(error) else f"NOT NAMED: {error}"
    if len(source) != RECORDS * FILES:
        return f"SILENTLY WRONG: {len(source)} records"
    strict, named = data.CheckedSource(source), set()
    for index in range(len(source)):
        try:
            if not _same(strict[index], index):
                return f"SILENTLY WRONG: record {index}"
        except DataError as error:
            if str(path) not in str(error) or f"record {index}," not in str(error):
                return f"NOT NAMED: {error}"
            named.add(index)
    lenient = data.CheckedSource(source, skip=SKIP)
    for index in range(len(source)):
        record = lenient[index]
        if not _same(record, int(record["x"])) or (index in named) == (int(record["x"]) == index):
            return f"SILENTLY WRONG: record {index} passed over"
    if lenient.damaged.keys() != named:
        return f"NOT COUNTED: {sorted(named)} against {sorted(lenient.damaged)}"
    return "records named, and passed over and counted" if named else "harmless: all records as they were"


def _same(record: dict[str, np.ndarray], index: int) -> bool:
    wanted = made(index // RECORDS)[index % RECORDS]
    return record.keys() == wanted.keys() and all(np.array_equal(record[key], wanted[key]) for key in wanted)


def records(trials: int, seed: int) -> promises.Outcome:
    """Returns what a number of trials came to."""
    counts, failures = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder, "template")
        template.mkdir()
        for file in range(FILES):
            data.write_array_record(template / f"train-{file}.array_record", made(file))
        for trial in range(trials):
            rng = np.random.default_rng((seed, trial))
            if trial % 10 == 0:  # one in ten: it reads twelve epochs
                counts["two epochs in six ways: every record once, in one order"] += 1
                if (wrong := once_each(rng)) is not None:
                    failures.append(f"trial {trial}: {wrong}")
            damage = DAMAGES[trial % len(DAMAGES)]
            happened = damaged(template, Path(folder, "damaged"), damage, rng)
            counts[happened] += 1
            if happened[0].isupper():
                failures.append(f"trial {trial}, {damage}: {happened}")
    return promises.Outcome("P9", trials, counts, failures)


def main() -> int:
    """Makes the trials, prints and records their outcome; returns 1 if the promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--no-record", action="store_true", help="leave tests/chaos/results as it is")
    options = parser.parse_args()
    return promises.told(records(options.trials, options.seed), keep=not options.no_record)


if __name__ == "__main__":
    sys.exit(main())
