"""What the peers under torch have in common: where they run, and their two kinds of step, in eager mode."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "parity")]

import oracles  # noqa: E402
import turns  # noqa: E402, F401 - the peers take it from here, where its folder is known

torch = oracles.import_torch()


def begin(side: dict[str, Any]) -> dict[str, Any]:
    """Sets torch up for a side, and returns the facts of all such peers."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    facts = {"version": f"torch {torch.__version__}"}
    if side["device"] == "gpu":
        torch.set_default_device("cuda")
        facts["peak bytes"] = torch.cuda.max_memory_allocated
    return facts


def _computing(side: dict[str, Any]):
    return torch.autocast("cuda", torch.bfloat16, enabled=side["device"] == "gpu")


def _wait(side: dict[str, Any]) -> None:
    if side["device"] == "gpu":
        torch.cuda.synchronize()


def training(side: dict[str, Any], parameters: Iterable, loss: Callable) -> Callable[[], None]:
    """Returns a step of SGD with momentum on what `loss()` gives."""
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with _computing(side):
            value = loss()
        value.backward()
        optimizer.step()
        _wait(side)

    return step


def inference(side: dict[str, Any], forward: Callable) -> Callable[[], None]:
    """Returns a step that computes `forward()` without gradients."""

    def step() -> None:
        with torch.inference_mode(), _computing(side):
            forward()
        _wait(side)

    return step
