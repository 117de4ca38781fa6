"""What `deepmodels bench` measures: models, at which batch, doing what, and beside whom."""

from pathlib import Path
from typing import Any, NamedTuple


class Subject(NamedTuple):
    """A model of ours by its name, or a folder or file with one, and how it is measured.

    Rates of dropout are the published ones on both sides, but for what `arguments` says.
    """

    model: str
    tasks: dict[str, int]  # train, infer, decode, denoise: examples of a step
    peers: dict[str, str]  # whose model it is beside: the file in peers/ that knows it under the same name
    lengths: tuple[int, ...] = ()  # tokens of the source, and of the target; of a decoder those it writes
    objective: dict[str, Any] = {"name": "classification"}
    arguments: dict[str, Any] = {}  # of the model
    name: str = ""  # where a model is measured in several ways


_TORCH = {"torch": "torch_vision"}
_TIMM = _TORCH | {"timm": "torch_vision"}
_KERAS = _TIMM | {"keras": "keras_vision"}
_LAYERS = {"torch": "torch_generative"}
_TEXT, _HUB = {"torch": "torch_text"}, {"transformers": "torch_text"}
_DIFFUSERS = {"diffusers": "torch_diffusion"}
_BERT = {"mask_id": 103, "special_ids": [0, 100, 101, 102, 103], "vocab_size": 30_522}  # of its tokenizer
_PAIRS, _NEXT = {"name": "sequence_to_sequence"}, {"name": "language_modelling"}
_STILL = {"dropout_rate": 0.0}  # its authors gave no rate
DECODED = {"transformers": "torch_decode"}  # of a folder or a file
TOKENS = 64


def _both(batch: int) -> dict[str, int]:
    return {"train": batch, "infer": batch}


SUBJECTS = {subject.name or subject.model: subject for subject in (
    Subject("lenet5", _both(256), _TORCH),
    Subject("alexnet", _both(16), _TORCH),
    Subject("vgg11", _both(16), _TIMM),
    Subject("inception_v3", _both(16), _KERAS),
    Subject("resnet50", _both(16), _KERAS),
    Subject("mobilenet_v2", _both(16), _KERAS),
    Subject("vit_b_16", _both(8), _TIMM),
    Subject("unet", _both(2), _TORCH, (), {"name": "segmentation"}),
    Subject("vae", _both(100), _LAYERS, (), {"name": "elbo"}),
    Subject("dcgan", _both(16), _LAYERS, (), {"name": "adversarial"}),
    Subject("ddpm_cifar10", {"train": 16, "denoise": 16}, _DIFFUSERS, (), {"name": "diffusion"}),
    Subject("ddpm_cifar10", {"denoise": 1}, _DIFFUSERS, name="ddpm_cifar10, one picture"),
    Subject("bert_base", _both(8), _HUB, (128,), {"name": "masked_lm"} | _BERT, {"head": "masked_lm"}),
    Subject("t5_small", _both(8), _HUB, (64, 64), _PAIRS),
    Subject("transformer_base", _both(8), _TEXT, (64, 64), _PAIRS | {"label_smoothing": 0.1}),
    Subject("lstm_ptb_medium", _both(32), _TEXT, (64,), _NEXT, {"hidden_size": 512, "dropout_rate": 0.0}),
    Subject("gpt2", _both(4), _HUB, (256,), _NEXT | {"chunk_size": 64}, _STILL),
    Subject(
        "gpt2", {"train": 4}, _HUB, (256,), _NEXT | {"chunk_size": 64}, _STILL | {"unroll": 12}, "gpt2 unrolled"
    ),
    Subject("gpt2", {"decode": 1}, DECODED, (TOKENS,), name="gpt2 writing"),
)}  # fmt: skip

TRAINED = {name: row for name, row in SUBJECTS.items() if "train" in row.tasks}
TASKS = ("train", "infer", "decode", "denoise")
PEERS = {by for row in SUBJECTS.values() for by in row.peers}


def subject(name: str) -> Subject | None:
    """Returns the subject of a name, or that of a folder or file with a model that writes texts; None for neither."""
    if name not in SUBJECTS and Path(name).exists():
        return Subject(str(Path(name).resolve()), {"decode": 1}, DECODED, (TOKENS,), name=Path(name).stem)
    return SUBJECTS.get(name)
