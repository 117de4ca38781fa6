"""An end for a process that doesn't get on: stuck in Python, or waiting for one that is."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator

from deepmodels.errors import STUCK

_fed = threading.Event()


def alive() -> None:
    """Says that this process has got on; it is called where data goes to the devices and where results come back."""
    _fed.set()


@contextlib.contextmanager
def watched(seconds: float, why: str) -> Iterator[None]:
    """Ends this process with exit code 76, and says where each of its threads was, if it isn't `alive` for so long.

    Time in which the process doesn't run at all, because it is stopped or the machine sleeps, doesn't count. What holds
    Python's lock in native code holds up the watchdog too.

    Args:
      seconds: that may pass without a sign of life; 0 for any number.
      why: what to say then.
    """
    if not seconds:
        yield
        return
    over = threading.Event()
    _fed.clear()
    threading.Thread(target=_watch, args=(seconds, why, over), name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(seconds: float, why: str, over: threading.Event) -> None:
    tick = min(1.0, seconds / 10)
    silent, before = 0.0, time.monotonic()
    while not over.wait(tick):
        now = time.monotonic()
        silent, before = silent + min(now - before, 5 * tick), now
        if _fed.is_set():
            _fed.clear()
            silent = 0.0
        if silent > seconds:
            print("Where the threads of this process are:", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
            print(f"error: {why}", file=sys.stderr, flush=True)
            time.sleep(3 * tick)  # the other processes, which JAX ends when this one is gone, say it too meanwhile
            os._exit(STUCK)
