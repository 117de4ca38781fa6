"""The peer: torchvision's model, trained by torch in eager mode, in whichever memory layout is faster here."""

import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "parity")]

import oracles  # noqa: E402
import turns  # noqa: E402

WITHOUT_HEADS = {"inception_v3": dict(aux_logits=False, init_weights=False)}  # as ours has none
SIZES = {"inception_v3": 299}


def start(arguments: list[str]):
    """Returns (step, facts) for the arguments [a row of train_step.py's SUBJECTS as JSON]."""
    subject = json.loads(arguments[0])
    name, batch_size = subject["model"], subject["batch"]
    torch, models = oracles.import_torch(), oracles.import_torchvision().models
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None, **WITHOUT_HEADS.get(name, {})).train()
    images = torch.randn(batch_size, 3, *[SIZES.get(name, 224)] * 2)
    labels = torch.randint(0, 1000, (batch_size,))

    def make(layout):
        placed = model.to(memory_format=layout)
        pixels = images.to(memory_format=layout)
        optimizer = torch.optim.SGD(placed.parameters(), lr=1e-3, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(placed(pixels), labels).backward()
            optimizer.step()

        return step

    def seconds(layout) -> float:
        step, times = make(layout), []
        for _ in range(4):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        return min(times)

    layout = min((torch.channels_last, torch.contiguous_format), key=seconds)
    return make(layout), {"version": f"torch {torch.__version__}", "layout": str(layout).removeprefix("torch.")}


if __name__ == "__main__":
    turns.serve(start)
