"""Tables of results as CSV, a row for each thing that was measured."""

import csv
from collections.abc import Sequence
from pathlib import Path


def put(path: Path, row: dict[str, object], columns: Sequence[str], key: Sequence[str]) -> None:
    """Puts a row into a table, in place of an older one that has the same in the columns of the key.

    Args:
      path: the table; its folder and itself are made where they aren't there.
      row: values by column.
      columns: of the table, in their order.
      key: columns that say what was measured.
    """
    path.parent.mkdir(exist_ok=True)
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [old for old in csv.DictReader(file) if any(old[column] != str(row[column]) for column in key)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
