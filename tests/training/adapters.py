"""What tests of runs with adapters begin with."""

from pathlib import Path
from typing import Any

from deepmodels.trees import PyTree
from deepmodels.weights import files
from deepmodels.weights.convert import from_ours, same_names


def config(folder: Path, model: dict[str, Any], params: PyTree, lora: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of a short run on a few words; writes them and the model's parameters into a folder."""
    files.write(folder / "base.safetensors", from_ours({"params": params}, same_names({"params": params})))
    (folder / "text.txt").write_text("the house of the people " * 40)
    return {
        "steps": 4, "model": model, "objective": {"name": "language_modelling"},
        "init": {"weights": str(folder / "base.safetensors")},
        "data": {"name": "text", "path": str(folder / "text.txt"), "tokenizer": "characters", "batch_size": 8,
                 "max_length": 8, "test_share": 0.2},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        "lora": lora, "every": {"log": 2, "evaluate": 4, "checkpoint": 2},
    }  # fmt: skip
