"""Where the loop's time went: against a clock that a test sets, and a device that is busy as long as it says."""

from types import SimpleNamespace

import numpy as np
import pytest

from deepmodels.training import loop


class Running:
    """A number that the device is still at, until it is asked for."""

    def is_ready(self):
        return False

    def __array__(self, dtype=None, copy=None):
        return np.asarray(2.0, dtype)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("loss", "stalled", "idle"), [(np.float32(2), 5, 3), (Running(), 0, 1)])
def test_time_counts_where_it_went(clock, loss, stalled, idle):
    config = SimpleNamespace(data=SimpleNamespace(batch_size=4))
    guard = SimpleNamespace(look=list, count=dict, updates=int)
    meter = loop.Meter(SimpleNamespace(config=config, schedule=lambda step: 0.1), guard)
    meter.start()
    clock[0] += 1  # before the first step the device has nothing to do
    meter.dispatch()
    meter.add(1, {"loss": loss, "grad_norm": np.float32(1)})
    with meter.waiting():
        clock[0] += 5
    clock[0] += 2  # of the host: the device is idle meanwhile, or busy with the step
    meter.dispatch()
    meter.add(2, {"loss": loss, "grad_norm": np.float32(1)})
    clock[0] += 12
    values = meter.read()
    assert values["data_stall"] == stalled / 20
    assert values["dispatch_overhead"] == idle / 20
    assert values["examples_per_second"] == 2 * 4 / 20

    with meter.paused():
        clock[0] += 100  # an evaluation counts for nothing
    clock[0] += 1  # all steps are read, so the device waits
    meter.dispatch()
    meter.add(3, {"loss": loss, "grad_norm": np.float32(1)})
    clock[0] += 3
    values = meter.read()
    assert (values["data_stall"], values["dispatch_overhead"]) == (0, 1 / 4)
