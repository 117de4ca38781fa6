"""Tokens per second that a decoder writes, ours beside transformers' `generate` with a static cache: one text, float32.

    python benchmarks/decode.py                         # GPT-2 with random weights
    python benchmarks/decode.py gpt2 path/to/SmolLM2-135M-Instruct.Q4_1.gguf
    python benchmarks/decode.py gpt2 --tokens 64 --rounds 7

A subject is the name of a model, which gets random weights, or a folder with a model, or a file of llama.cpp with one;
transformers loads what ours writes. The two sides are processes that take turns (turns.py); each reads a prompt of 16
tokens and writes some more, the likeliest each time, which end nothing. A row is printed for each subject and replaces
its older one in benchmarks/results/decode.csv: milliseconds for a token, medians over the rounds with the least and the
most beside them, the reading of the prompt within; the ratio of the medians, above 1 where ours is faster; how many of
the tokens are the same; and the share of the machine's bandwidth: bytes of parameters read for each token, over the
bytes that a copy of a large array, on all cores, reads and writes in the same time.
"""

import argparse
import datetime
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import table
import turns
from train_step import cpu

HERE = Path(__file__).parent
COLUMNS = (
    "model", "parameters", "tokens", "ours ms", "ours min", "ours max", "peer ms", "peer min", "peer max", "ratio",
    "ours tokens/s", "peer tokens/s", "same tokens", "copy GB/s", "ours share", "peer share", "ours first step s",
    "ours", "peer", "cpu", "cores", "date",
)  # fmt: skip


def measure(subject: str, count: int, rounds: int, seconds: float) -> dict[str, object]:
    """Returns the row of one subject."""
    with tempfile.TemporaryDirectory() as place:
        make(subject, place)
        commands = [
            [sys.executable, str(HERE / name), place, str(count)]
            for name in ("ours_decode.py", "peers/torch_decode.py")
        ]
        copies = [copy_bandwidth()]
        facts, times = turns.take_turns(commands, rounds=rounds, seconds=seconds)
        copies.append(copy_bandwidth())
    bandwidth = statistics.mean(copies)
    row = {
        "model": Path(subject).stem if Path(subject).exists() else subject,
        "parameters": facts[0]["bytes"] // 4,
        "tokens": count,
        "copy GB/s": round(bandwidth / 1e9, 1),
        "same tokens": sum(a == b for a, b in zip(facts[0]["tokens"], facts[1]["tokens"], strict=True)),
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
    }
    for side, fact, values in zip(("ours", "peer"), facts, times, strict=True):
        each = [value / count for value in values]
        for column, value in (("ms", statistics.median(each)), ("min", min(each)), ("max", max(each))):
            row[f"{side} {column}"] = round(1000 * value, 1)
        row[f"{side} tokens/s"] = round(1 / statistics.median(each), 1)
        row[f"{side} share"] = round(facts[0]["bytes"] / statistics.median(each) / bandwidth, 2)
        row[side] = fact["version"]
    row["ours first step s"] = facts[0]["first step seconds"]
    row["ratio"] = round(statistics.median(times[1]) / statistics.median(times[0]), 2)
    return row | {"date": datetime.date.today().isoformat()}


def make(subject: str, folder: str) -> None:
    """Writes a subject as a folder."""
    import jax

    from deepmodels import loading, models

    if Path(subject).exists():
        model, variables = loading.load_folder(subject, cast=True)
    else:
        model = models.create(subject)
        variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), np.int32))
    loading.save_folder(folder, model, variables)


def copy_bandwidth(size: int = 2**28, rounds: int = 5) -> float:
    """Returns the bytes per second that the fastest copy of an array reads and writes, a part of it by each core."""
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    parts = np.array_split(np.arange(size), len(os.sched_getaffinity(0)))
    parts = [slice(part[0], part[-1] + 1) for part in parts]
    best = float("inf")
    for _ in range(rounds):
        threads = [threading.Thread(target=np.copyto, args=(target[part], source[part])) for part in parts]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - began)
    return 2 * size / best


def main() -> None:
    """Measures the subjects of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("subjects", nargs="*", default=["gpt2"], metavar="NAME_OR_PATH")
    parser.add_argument("--tokens", type=int, default=128, help="that are written behind the prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a turn, about")
    options = parser.parse_args()
    for subject in options.subjects:
        row = measure(subject, options.tokens, options.rounds, options.seconds)
        table.put(HERE / "results" / "decode.csv", row, COLUMNS, ("model", "tokens"))
        print(
            f"{row['model']}: ours {row['ours tokens/s']}, peer {row['peer tokens/s']} tokens/s, ratio {row['ratio']}; "
            f"{row['ours share']} and {row['peer share']} of {row['copy GB/s']} GB/s; same tokens {row['same tokens']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
