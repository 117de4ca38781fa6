"""The peer: transformers' `generate` with a static cache, torch in eager mode."""

import torch_steps
from torch_steps import oracles, torch, turns

PROMPT = [*range(100, 1700, 100)]  # as ours


def start(side: dict):
    """Returns (step, facts) for a subject's fields, the "folder" of its model, "task" and "device"."""
    facts, count = torch_steps.begin(side), side["lengths"][0]
    transformers = oracles.import_transformers()
    model = transformers.AutoModelForCausalLM.from_pretrained(side["folder"], dtype=torch.float32).eval()
    model = model.to(torch.get_default_device())
    model.generation_config.eos_token_id = None
    inputs = {"input_ids": torch.tensor([PROMPT]), "attention_mask": torch.ones(1, len(PROMPT), dtype=torch.int64)}

    def step() -> list[int]:
        written = model.generate(
            **inputs, do_sample=False, max_new_tokens=count, cache_implementation="static", pad_token_id=0
        )
        return written[0, len(PROMPT) :].tolist()

    facts["version"] += f" transformers {transformers.__version__}"
    return step, facts | {"tokens": step()}


if __name__ == "__main__":
    turns.serve(start)
