"""Seconds of a training step, ours beside the peer's, in one run: float32 on a CPU, the same batch, SGD with momentum.

    python benchmarks/train_step.py                     # all subjects
    python benchmarks/train_step.py resnet50 --rounds 7
    python benchmarks/train_step.py --plain             # without the settings of deepmodels/tuning.py

The two sides are processes that take turns (turns.py). The peer is the model of torchvision, transformers or torch.nn,
under torch in eager mode (peers/; install the extra `parity`), ours the step that `deepmodels train` compiles. Both
drop values at the published rates. GPT-2 is measured with its layers scanned and unrolled, each with the logits of 64
positions at a time, and unrolled with all logits at once. A row is printed for each subject and replaces its older one
of the same processor in benchmarks/results/train_step.csv: medians over the rounds, the least and the most beside them,
and the ratio of the medians, above 1 where ours is faster.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import table
import turns

HERE = Path(__file__).parent


class Subject(NamedTuple):
    """What is trained: a model of ours by its name, and the file in peers/ that knows the other under the same name.

    Rates of dropout are the published ones on both sides, but for what `arguments` says.
    """

    model: str
    batch: int
    peer: str = "torch_vision"
    lengths: tuple[int, ...] = ()  # tokens of the source, and of the target
    objective: dict[str, Any] = {"name": "classification"}
    arguments: dict[str, Any] = {}  # of the model
    name: str = ""  # where a model is measured in several ways


_BERT = {"mask_id": 103, "special_ids": [0, 100, 101, 102, 103], "vocab_size": 30_522}  # of its tokenizer
_NEXT = {"name": "language_modelling"}
_GPT2 = ("gpt2", 4, "torch_text", (256,))
_STILL = {"dropout_rate": 0.0}  # its authors gave no rate
SUBJECTS = {subject.name or subject.model: subject for subject in (
    Subject("alexnet", 16),
    Subject("vgg11", 16),
    Subject("resnet50", 16),
    Subject("mobilenet_v2", 16),
    Subject("inception_v3", 16),
    Subject("vit_b_16", 8),
    Subject("vae", 100, "torch_generative", (), {"name": "elbo"}),
    Subject("dcgan", 16, "torch_generative", (), {"name": "adversarial"}),
    Subject("ddpm_cifar10", 16, "torch_diffusion", (), {"name": "diffusion"}),
    Subject("bert_base", 8, "torch_text", (128,), {"name": "masked_lm"} | _BERT, {"head": "masked_lm"}),
    Subject("t5_small", 8, "torch_text", (64, 64), {"name": "sequence_to_sequence"}),
    Subject(
        "transformer_base", 8, "torch_text", (64, 64), {"name": "sequence_to_sequence", "label_smoothing": 0.1}
    ),
    Subject(
        "lstm_ptb_medium", 32, "torch_text", (64,), {"name": "language_modelling"},
        {"hidden_size": 512, "dropout_rate": 0.0},
    ),
    Subject(*_GPT2, _NEXT | {"chunk_size": 64}, _STILL),
    Subject(*_GPT2, _NEXT | {"chunk_size": 64}, _STILL | {"unroll": 12}, "gpt2 unrolled"),
    Subject(*_GPT2, _NEXT, _STILL | {"unroll": 12}, "gpt2 unrolled, all logits"),
)}  # fmt: skip
COLUMNS = (
    "model", "batch", "ours ms", "ours min", "ours max", "peer ms", "peer min", "peer max", "ratio",
    "ours first step s", "ours peak GB", "peer peak GB", "ours", "peer", "settings", "cpu", "cores", "date",
)  # fmt: skip
KEY = ("model", "settings", "cpu")


def measure(subject: Subject, rounds: int, seconds: float, settings: str) -> dict[str, object]:
    """Returns the row of one subject."""
    described = json.dumps(subject._asdict())
    ours = [sys.executable, str(HERE / "ours.py"), described, settings]
    peer = [sys.executable, str(HERE / "peers" / f"{subject.peer}.py"), described]
    facts, times = turns.take_turns([ours, peer], rounds=rounds, seconds=seconds)
    row = {
        "model": subject.name or subject.model,
        "batch": subject.batch,
        "settings": settings,
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
    }
    for side, fact, values in zip(("ours", "peer"), facts, times, strict=True):
        for column, value in (("ms", statistics.median(values)), ("min", min(values)), ("max", max(values))):
            row[f"{side} {column}"] = round(1000 * value)
        row[f"{side} peak GB"] = round(fact["peak bytes"] / 1e9, 2)
    row["ours"], row["peer"] = facts[0]["version"], f"{facts[1]['version']} {facts[1]['layout']}"
    row["ours first step s"] = facts[0]["first step seconds"]
    row["ratio"] = round(statistics.median(times[1]) / statistics.median(times[0]), 2)
    return row | {"date": datetime.date.today().isoformat()}


def cpu() -> str:
    """Returns the processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Measures the subjects of the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn, about")
    parser.add_argument("--plain", action="store_true", help="without the settings of deepmodels/tuning.py")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SUBJECTS):
        parser.error(f"unknown subjects {sorted(unknown)}; there are {', '.join(SUBJECTS)}")
    for name in options.names or SUBJECTS:
        row = measure(SUBJECTS[name], options.rounds, options.seconds, "plain" if options.plain else "tuned")
        table.put(HERE / "results" / "train_step.csv", row, COLUMNS, KEY)
        print(f"{name}: ours {row['ours ms']} ms, peer {row['peer ms']} ms, ratio {row['ratio']}", flush=True)


if __name__ == "__main__":
    main()
