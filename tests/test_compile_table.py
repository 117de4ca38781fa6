"""What training steps compile to is still what benchmarks/results/compile.csv has of it, within a tolerance."""

import csv
from pathlib import Path

import jax
import pytest

from deepmodels import tuning

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
LINES, BYTES = 0.1, 0.25  # what may change unnoticed: more is a layer that became another, or an array kept in vain


def table():
    with (BENCHMARKS / "results" / "compile.csv").open(newline="") as file:
        return list(csv.DictReader(file))


CHEAP = {"vae": True, "lstm_ptb_medium": False}  # whether it is compiled too


@pytest.mark.parametrize("name", CHEAP)
def test_a_step_is_as_large_as_it_was(monkeypatch, name):
    check(monkeypatch, name, CHEAP[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({row["model"] for row in table()} - {"vae"}))
def test_every_step_is_as_large_as_it_was(monkeypatch, name):
    """`pytest -m slow tests/test_compile_table.py`: minutes, as nothing is cached."""
    check(monkeypatch, name, compiled=True)


def check(monkeypatch, name, compiled):
    rows = [row for row in table() if (row["model"], row["jax"]) == (name, jax.__version__)]
    if not rows:
        pytest.skip(f"no row of {name} under jax {jax.__version__}: python benchmarks/compile.py {name}")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compile

    lowered = compile.lower(compile.SUBJECTS[name])
    assert len(lowered.as_text().splitlines()) == pytest.approx(int(rows[-1]["hlo lines"]), rel=LINES)
    if compiled:
        memory = tuning.compile(lowered).memory_analysis()
        assert compile.needed_bytes(memory) == pytest.approx(int(rows[-1]["peak bytes"]), rel=BYTES)
