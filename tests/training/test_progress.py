"""What progress looks like in a terminal, in a log file, and when it is switched off."""

import io

import pytest
from rich.console import Console

from deepmodels.training import progress
from deepmodels.training.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def plain(**options):
    file = io.StringIO()
    return file, Console(file=file, force_terminal=False, width=80, **options)


def test_a_log_file_gets_a_plain_line_now_and_then_and_the_last(clock):
    file, console = plain()
    with Progress(100, start_step=0, batch_size=32, interval=10, console=console) as bar:
        for step in range(1, 101):
            clock[0] += 0.5
            bar.update(step, {"loss": 2 / step, "accuracy": 0.5}, stall=0.125)
    lines = file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", "21/100", "41/100", "61/100", "81/100", "100/100"]
    assert lines[1] == ("step 21/100 (21%)  loss 0.09524  accuracy 0.5  64 examples/s  0:00:40 left  data stall 12%")
    assert "\x1b" not in file.getvalue()


def test_a_resumed_run_counts_from_where_it_starts(clock):
    file, console = plain()
    with Progress(2000, start_step=1000, batch_size=8, console=console, interval=0) as bar:
        bar.update(1001, {"loss": 1.0})
        clock[0] += 10
        bar.update(1011)
    last = file.getvalue().splitlines()[-1]
    assert last.startswith("step 1,011/2,000 (51%)  loss 1  8 examples/s  0:16:29 left")


def test_a_terminal_gets_a_bar(clock):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    with Progress(10, 0, 4, console=console) as bar:
        bar.update(1, {"loss": 0.75})
        clock[0] += 2
        bar.update(5, {"loss": 0.25}, stall=0.5)
    text = file.getvalue()
    assert "\x1b[" in text
    for part in ("5/10", "50%", "loss 0.25", "8 examples/s", "0:00:02 left", "data stall 50%"):
        assert part in text


@pytest.mark.parametrize("terminal", [True, False])
def test_switched_off_it_prints_nothing(terminal):
    file = io.StringIO()
    with Progress(10, enabled=False, console=Console(file=file, force_terminal=terminal)) as bar:
        bar.update(10, {"loss": 0.5})
    assert file.getvalue() == ""


def test_an_error_inside_gets_out_and_the_terminal_is_given_back():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, _environ={"TERM": "xterm"})

    def fail():
        with Progress(10, console=console) as bar:
            bar.update(1)
            raise KeyError("loss")

    with pytest.raises(KeyError):
        fail()
    assert file.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again
