"""Weights from the Hugging Face hub, through its own library, which is optional; what is in its cache comes first."""

import hashlib
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


def find(weights: str, revision: str | None = None, sha256: str | None = None) -> Path:
    """Returns the path of weights: of a local file or folder, or else of what the hub has under this name.

    For weights of the hub, their revision and SHA-256 are printed to stderr: given here the next time, they pin what is
    loaded, whatever becomes of the repository or of its copy on this disk.

    Args:
      weights: a path, or the "owner/name" of a repository on the hub.
      revision: a branch, tag or commit of that repository; its main branch if not given.
      sha256: of the weights, in hexadecimal, as it is printed; unchecked if not given.

    Raises:
      WeightsError: there is nothing there, the hub can't be reached and its cache hasn't got them, or they aren't those
        of `sha256`.
    """
    path = Path(weights).expanduser()
    if path.exists():
        if sha256 is not None:
            _check(path, sha256)
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
                files.locate(Path(folder))
            except WeightsError:
                reason = "it has no weights in a format that can be read"
                continue
            except Exception as error:  # whatever its layers raise: no network, no such name, no permission
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                continue
            found = _check(Path(folder), sha256)
            print(f"{weights}, revision {Path(folder).name}, sha256 {found}", file=sys.stderr)
            return Path(folder)
    raise WeightsError(f"{weights}: there is no such file or folder here, and from the hub it can't be had: {reason}")


def digest(path: Path) -> str:
    """Returns the SHA-256 of weights, in hexadecimal: of their file, or of the list of their parts and those of these.

    What else is in a folder, the model's config or its tokenizer, isn't in it.

    Raises:
      WeightsError: a folder has no weights.
    """
    if not path.is_dir() or (path / "_CHECKPOINT_METADATA").is_file() or (path / "_METADATA").is_file():
        return files.sha256(path)
    main, *parts = files.locate(path)
    if not parts:
        return files.sha256(main)
    return hashlib.sha256("".join(f"{files.sha256(part)}  {part.name}\n" for part in parts).encode()).hexdigest()


def _check(path: Path, sha256: str | None) -> str:
    found = digest(path)
    if sha256 is not None and found != sha256.lower():
        raise WeightsError(f"{path}: expected weights with the sha256 {sha256}, these have {found}: they were changed")
    return found
