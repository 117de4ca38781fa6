"""Every landmark deep model in JAX: exact, trainable on any device mesh, without torch or tensorflow.

    import deepmodels

    model = deepmodels.create("lenet5")
    print(deepmodels.summary(model, (1, 28, 28, 1)))
    config = deepmodels.load_config("experiments/lenet5_fashion.py")
    result = deepmodels.train(config, "runs/lenet5")

Everything is imported at its first use, so that `import deepmodels` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from deepmodels.version import __version__

if TYPE_CHECKING:
    from deepmodels.analysis import info, summary
    from deepmodels.config import load as load_config
    from deepmodels.exporting import export, load_exported
    from deepmodels.generation import generate
    from deepmodels.loading import convert, load, load_folder, save_folder
    from deepmodels.models import create, list_models
    from deepmodels.training import estimate, evaluate, train

_PLACES = {
    "create": ("deepmodels.models", "create"),
    "list_models": ("deepmodels.models", "list_models"),
    "summary": ("deepmodels.analysis", "summary"),
    "info": ("deepmodels.analysis", "info"),
    "load": ("deepmodels.loading", "load"),
    "load_folder": ("deepmodels.loading", "load_folder"),
    "save_folder": ("deepmodels.loading", "save_folder"),
    "convert": ("deepmodels.loading", "convert"),
    "export": ("deepmodels.exporting", "export"),
    "load_exported": ("deepmodels.exporting", "load_exported"),
    "generate": ("deepmodels.generation", "generate"),
    "load_config": ("deepmodels.config", "load"),
    "train": ("deepmodels.training", "train"),
    "estimate": ("deepmodels.training", "estimate"),
    "evaluate": ("deepmodels.training", "evaluate"),
}

__all__ = [
    "__version__",
    "convert",
    "create",
    "estimate",
    "evaluate",
    "export",
    "generate",
    "info",
    "list_models",
    "load",
    "load_config",
    "load_exported",
    "load_folder",
    "save_folder",
    "summary",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'deepmodels' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
