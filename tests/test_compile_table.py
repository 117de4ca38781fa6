"""What training steps compile to is still what benchmarks/results/compile.csv has of it, within a tolerance."""

import csv
from pathlib import Path

import jax
import pytest

from deepmodels import tuning

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
LINES, BYTES = 0.1, 0.25  # what may change unnoticed: more is a layer that became another, or an array kept in vain


@pytest.mark.parametrize(("name", "compiled"), [("vae", True), ("lstm_ptb_medium", False)])
def test_a_step_is_as_large_as_it_was(monkeypatch, name, compiled):
    with (BENCHMARKS / "results" / "compile.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["model"], row["jax"]) == (name, jax.__version__)]
    if not rows:
        pytest.skip(f"no row of {name} under jax {jax.__version__}: python benchmarks/compile.py {name}")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compile
    import subjects

    lowered = compile.lower(subjects.SUBJECTS[name])
    assert len(lowered.as_text().splitlines()) == pytest.approx(int(rows[-1]["hlo lines"]), rel=LINES)
    if compiled:
        memory = lowered.compile(tuning.compiler_options()).memory_analysis()
        assert compile.needed_bytes(memory) == pytest.approx(int(rows[-1]["peak bytes"]), rel=BYTES)
