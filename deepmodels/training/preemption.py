"""A polite end: what asks a run to leave (SIGTERM, as schedulers and clouds send it) has it save first."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from deepmodels.errors import DeepModelsError


class Preempted(DeepModelsError):
    """A run was asked to leave, and has saved; the same command goes on from there."""

    exit_code = 75  # EX_TEMPFAIL: schedulers requeue on it


@contextlib.contextmanager
def preemptible() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM has come since; until the end, the signal does nothing else.

    A second SIGTERM ends the process at once, as does any where Python takes no signals: outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def ask(*_) -> None:
        asked.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
