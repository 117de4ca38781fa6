"""The peer: transformers' `generate` with a static cache, torch in eager mode."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "parity")]

import oracles  # noqa: E402
import turns  # noqa: E402

torch = oracles.import_torch()
PROMPT = [*range(100, 1700, 100)]  # as ours


def start(arguments: list[str]):
    """Returns (step, facts) for the arguments [a model's folder, number of tokens]."""
    folder, count = arguments[0], int(arguments[1])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers = oracles.import_transformers()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    inputs = {"input_ids": torch.tensor([PROMPT]), "attention_mask": torch.ones(1, len(PROMPT), dtype=torch.int64)}

    def step() -> list[int]:
        written = model.generate(
            **inputs, do_sample=False, max_new_tokens=count, cache_implementation="static", pad_token_id=0
        )
        return written[0, len(PROMPT) :].tolist()

    version = f"torch {torch.__version__} transformers {transformers.__version__}"
    return step, {"version": version, "tokens": step()}


if __name__ == "__main__":
    turns.serve(start)
