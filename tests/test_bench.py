"""`deepmodels bench`: turns, counters, rows and the page made of them, without a model or a peer."""

import importlib
import json
import sys
import tomllib
from pathlib import Path

import pytest

from deepmodels import cli, models

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"

SIDE = """
import sys, time
sys.path.insert(0, {benchmarks!r})
import turns

def start(side):
    def step():
        with open(side["log"], "a") as log:
            log.write(side["by"])
        time.sleep(side["seconds"])
    return step, {{"version": side["by"]}}

turns.serve(start)
"""


@pytest.fixture
def modules(monkeypatch):
    """Gives a module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_sides_take_turns(modules, tmp_path):
    script, log = tmp_path / "side.py", tmp_path / "log"
    script.write_text(SIDE.format(benchmarks=str(BENCHMARKS)))
    commands = [
        [sys.executable, str(script), json.dumps({"by": by, "seconds": seconds, "log": str(log)})]
        for by, seconds in (("A", 0.1), ("b", 0.05))
    ]
    counter = iter(range(100))

    def joules(before=None):
        now = next(counter)
        return now, None if before is None else now - before

    turns = modules("turns")
    sides = turns.start(commands)
    turns.take_turns(sides, rounds=2, seconds=0, joules=joules)
    turns.end(sides)
    assert log.read_text() == 3 * "AAbb"  # each warms up, alone, and before each turn
    assert [side.facts["version"] for side in sides] == ["A", "b"]
    assert all(len(side.times) == 2 and side.facts["peak bytes"] > 0 for side in sides)
    assert sides[0].times[0] > sides[1].times[0] >= 0.05
    assert sides[1].joules == [0.5, 0.5]


def test_a_side_that_dies_is_named(modules):
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        modules("turns").start([[sys.executable, "-c", "exit(3)"]])


def test_energy_is_the_sum_of_packages_whose_counters_wrap(modules, tmp_path, monkeypatch):
    machine = modules("machine")
    monkeypatch.setattr(machine, "POWERCAP", tmp_path)
    assert machine.Energy("cpu").since() == ([], None)
    for number in range(2):
        package = tmp_path / f"intel-rapl:{number}"
        package.mkdir()
        (package / "max_energy_range_uj").write_text("10000000")
        (package / "energy_uj").write_text("9000000")
    energy = machine.Energy("cpu")
    before, _ = energy.since()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("9500000")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("1000000")
    assert energy.since(before)[1] == pytest.approx(0.5 + 2)


def test_a_row_counts_operations_by_both_conventions(modules):
    bench, turns = modules("bench"), modules("turns")
    facts = {"first step seconds": 1, "compile seconds": 1, "peak bytes": 1e9, "parameters": 5, "version": "x"}
    ours = turns.Side(None, facts | {"products": 2e9, "operations": 40e9}, [0.5, 1.0, 0.25], [])
    peer = turns.Side(None, {"first step seconds": 1, "peak bytes": 1e9, "version": "y"}, [2.0], [7.0])
    shared = {"batch_size": 4}
    row = bench._row("deepmodels", ours, ours, "train", shared, 100e9, 10e9)
    assert (row["step_time"], row["samples_per_sec"], row["gmacs"]) == (500, 8, 2)
    assert row["mfu"] == 3 * 2 * 2 * 4 / 0.5 / 100  # three passes, two operations for a multiply-add
    assert row["hfu"] == 40 / 0.5 / 100
    assert row["joules"] == "not measured"
    row = bench._row("torch", peer, ours, "infer", shared, 100e9, 10e9)
    assert (row["ratio"], row["joules"], row["mfu"]) == (4, 7, 2 * 2 * 4 / 2 / 100)
    assert "hfu" not in row
    written = {"units": 10, "bytes": 1e9, "tokens": [1, 2, 3]}
    ours, peer = (
        turns.Side(None, facts | written, [2.0], []),
        turns.Side(None, peer.facts | {"tokens": [1, 5, 3]}, [4.0], []),
    )
    row = bench._row("transformers", peer, ours, "decode", {"batch_size": 1}, 100e9, 10e9)
    assert (row["step_time"], row["mbu"], row["same_tokens"]) == (400, 0.25, 2)
    assert bench._published("NVIDIA H100 80GB HBM3") == 989.4e3
    assert bench._published("NVIDIA GeForce RTX 4090") == "unknown"


def test_the_newest_rows_count_and_slow_ones_are_explained(modules, tmp_path):
    report = modules("report")
    shared = dict.fromkeys(modules("bench").COLUMNS, "")
    shared |= {"model": "vae", "task": "train", "device": "Abacus", "batch_size": "1", "step_time_min": "1"}
    for day, ours, ratio in (("2026-01-31", "9", "0.5"), ("2026-02-01", "4", "0.75")):
        rows = [shared | {"by": "deepmodels", "step_time": ours}, shared | {"by": "torch", "ratio": ratio}]
        for row in rows:
            modules("table").put(tmp_path / f"abacus-{day}.csv", row, [*shared], ("by",))
    found = report.rows_of(tmp_path)
    page = report.page(found, {})
    assert "| 4 (1 to ) |" in page
    assert "0.5" not in page
    assert "`vae`, train, 0.75 of torch: not profiled." in page
    assert "torch: its sums." in report.page(found, {"vae": {"train": "its sums."}})


def test_the_page_is_that_of_the_rows(modules):
    report = modules("report")
    notes = tomllib.loads((BENCHMARKS / "notes.toml").read_text())
    page = report.page(report.rows_of(BENCHMARKS / "results"), notes)
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page, "deepmodels bench --report"


def test_subjects_have_a_model_and_a_peer(modules):
    subjects = modules("subjects")
    for name, subject in subjects.SUBJECTS.items():
        assert subject.model in models.MODELS, name
        assert all((BENCHMARKS / "peers" / f"{script}.py").exists() for script in subject.peers.values()), name
        assert set(subject.tasks) <= set(subjects.TASKS), name
    assert set(modules("bench").PACKAGES) == subjects.PEERS
    assert subjects.subject(str(ROOT)).tasks == {"decode": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet5"], "did you mean 'resnet50'?"),
        (["resnet50", "--against", "trch"], "did you mean 'torch'?"),
        (["resnet50", "--tasks", "trian"], "did you mean 'train'?"),
    ],
)
def test_a_wrong_name_is_answered_by_the_nearest(arguments, message, capfd):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *arguments])
    assert ended.value.code == 1
    assert message in capfd.readouterr().err


def test_outside_of_a_clone_the_command_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "deepmodels" / "cli.py"))
    with pytest.raises(SystemExit):
        cli.main(["bench", "lenet5"])
    assert "in a clone of the repository" in capsys.readouterr().err
