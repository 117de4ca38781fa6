"""The progress of a run: a bar in terminals and notebooks, a plain line now and then in log files."""

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

_WINDOW = 50  # updates that the throughput is averaged over


class Progress:
    """Shows steps, latest metrics, examples per second, time left and the share of time that waited for data.

        with Progress(total_steps, start_step, batch_size) as progress:
            progress.update(step, {"loss": 0.3}, stall=0.02)

    Terminals and notebooks get a bar; elsewhere a line is printed at most every `interval` seconds, and for the last
    step. With `enabled=False` nothing is printed. Output goes to `console`, standard output if None.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        batch_size: int = 1,
        *,
        enabled: bool = True,
        interval: float = 10.0,
        console: Console | None = None,
    ) -> None:
        self._total, self._step, self._batch_size = total_steps, start_step, batch_size
        self._enabled, self._interval = enabled, interval
        self._console = console or Console()
        self._times: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._metrics: dict[str, float] = {}
        self._stall = 0.0
        self._printed_at: float | None = None
        self._bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if self._enabled and (self._console.is_interactive or self._console.is_jupyter):
            columns = (
                TextColumn("step {task.completed:,}/{task.total:,}"),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                TextColumn("{task.description}", markup=False),
            )
            self._bar = Bar(*columns, console=self._console, expand=True, refresh_per_second=4)
            self._task = self._bar.add_task("", total=self._total, completed=self._step)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float] | None = None, stall: float = 0.0) -> None:
        """Shows that `step` steps are done. `metrics` stay shown until others come; `stall` is a share from 0 to 1."""
        if not self._enabled:
            return
        now = time.monotonic()
        self._step, self._stall = step, stall
        self._metrics = dict(metrics) if metrics else self._metrics
        self._times.append((now, step))  # starts with the first step done, so compilation doesn't count
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=self._text())
        elif self._printed_at is None or now - self._printed_at >= self._interval or step >= self._total:
            self._printed_at = now
            share = f"{step / self._total:.0%}" if self._total else "100%"
            line = f"step {step:,}/{self._total:,} ({share})  {self._text()}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _text(self) -> str:
        parts = [f"{name} {value:.4g}" for name, value in self._metrics.items()]
        rate = self._steps_per_second()
        if rate:
            parts.append(f"{rate * self._batch_size:,.4g} examples/s")
            parts.append(f"{_duration((self._total - self._step) / rate)} left")
        parts.append(f"data stall {self._stall:.0%}")
        return "  ".join(parts)

    def _steps_per_second(self) -> float:
        (first, first_step), (last, last_step) = self._times[0], self._times[-1]
        return (last_step - first_step) / (last - first) if last > first else 0.0


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
