"""Weights from the Hugging Face hub, through its own library, which is optional; what is in its cache comes first."""

import re
import sys
from pathlib import Path

from deepmodels.errors import WeightsError
from deepmodels.weights import files

_WANTED = (  # in this order: the second can hold programs, which are refused
    ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"],
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"],
)
_BESIDE = (  # what else a folder has: sizes, the tokenizer, how to write
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja"),
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz", ".msgpack")


def find(weights: str, revision: str | None = None) -> Path:
    """Returns the path of weights: of a local file or folder, or else of what the hub has under this name.

    For weights of the hub, their revision and SHA-256 are printed to stderr.

    Args:
      weights: a path, or the "owner/name" of a repository on the hub.
      revision: a branch, tag or commit of that repository; its main branch if not given.

    Raises:
      WeightsError: there is nothing there, or the hub can't be reached and its cache hasn't got them.
    """
    path = Path(weights).expanduser()
    if path.exists():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", weights) or path.suffix in _SUFFIXES:
        raise WeightsError(f"{weights}: there is no such file or folder")
    try:
        import huggingface_hub
    except ImportError:
        raise WeightsError(
            f"{weights}: there is no such file or folder. If it is a name on the hub, its library is needed: "
            'pip install "deepmodels-jax[hub]"'
        ) from None
    reason = ""
    for offline in (True, False):
        for patterns in _WANTED:
            try:
                folder = huggingface_hub.snapshot_download(
                    weights, revision=revision, allow_patterns=[*patterns, *_BESIDE], local_files_only=offline
                )
                main, *parts = files.locate(Path(folder))
            except WeightsError:
                reason = "it has no weights in a format that can be read"
                continue
            except Exception as error:  # whatever its layers raise: no network, no such name, no permission
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                continue
            print(f"{weights}, revision {Path(folder).name}:", file=sys.stderr)
            for part in parts or [main]:
                print(f"  {part.name}  sha256 {files.sha256(part)}", file=sys.stderr)
            return Path(folder)
    raise WeightsError(f"{weights}: there is no such file or folder here, and from the hub it can't be had: {reason}")
