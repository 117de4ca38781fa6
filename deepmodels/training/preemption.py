"""A polite end: what asks a run to leave (SIGTERM, as schedulers and clouds send it) has it save first."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from deepmodels.errors import DeepModelsError


class Preempted(DeepModelsError):
    """A run was asked to leave, and has saved; the same command goes on from there."""

    exit_code = 75  # EX_TEMPFAIL: schedulers requeue on it
    everywhere = True


@contextlib.contextmanager
def preemptible() -> Iterator[Callable[[], bool]]:
    """Yields a function, to be called once a step, that says whether SIGTERM has come; until the end it does no more.

    Of several processes JAX tells all at the same step, some steps after any of them got the signal. Of one by itself a
    second SIGTERM ends it at once, as does any where Python takes no signals: outside the main thread.
    """
    if jax.distributed.is_initialized():  # which takes the signal over, of one process too
        calls = itertools.count()  # steps may begin again at an earlier one, and JAX takes rising numbers only
        yield lambda: multihost_utils.reached_preemption_sync_point(next(calls))
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def ask(*_) -> None:
        asked.set()
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
