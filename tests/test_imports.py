"""Which way imports run, what `import deepmodels` costs, and what the package never imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "deepmodels"

# room -> the rooms it may import; every room may import errors, version and itself
BASE = {"errors", "version"}
ALLOWED = {
    "errors": set(),
    "version": set(),
    "trees": set(),
    "arguments": set(),
    "cache": set(),
    "tuning": set(),
    "memory": set(),
    "config": set(),
    "preprocessing": set(),
    "metrics": set(),
    "gguf_header": set(),
    "integrity": {"trees"},
    "tokenizers": {"gguf_header"},
    "layers": set(),
    "augment": {"arguments"},
    "data": {"arguments", "preprocessing", "tokenizers"},
    "sampling": set(),
    "objectives": {"arguments", "metrics", "sampling"},
    "models": {"layers", "arguments", "preprocessing", "sampling"},
    "parallel": {"trees", "layers"},
    "weights": {"trees", "gguf_header", "integrity"},
    "loading": {"models", "weights", "trees", "parallel"},
    "generation": {"layers", "sampling", "tokenizers", "trees"},
    "rewriting": set(),
    "exporting": {"models", "rewriting", "trees"},
    "text_to_image": {"models", "loading", "sampling", "tokenizers", "trees", "weights"},
    "evaluation": {"parallel", "trees", "metrics"},
    "analysis": {"models", "trees", "cache", "parallel"},
    "training": {
        "trees", "arguments", "cache", "tuning", "config", "layers", "augment", "data", "objectives", "models",
        "parallel", "evaluation", "analysis", "loading", "metrics", "tokenizers", "sampling",
        "integrity",
    },
    "cli": {
        "memory",
        "training", "tuning", "analysis", "models", "config", "cache", "loading", "tokenizers", "generation", "weights",
        "text_to_image", "parallel", "exporting", "trees",
    },
    "__init__": {"models", "analysis", "training", "config", "loading", "generation", "exporting"},
    "__main__": {"cli"},
}  # fmt: skip
FORBIDDEN = {"torch", "tensorflow", "torchvision", "keras"}


def imported(path: Path) -> list[str]:
    """The modules a file imports anywhere, as dotted names; `from deepmodels import x` counts as deepmodels.x."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room they enter"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    ours, names = room(path), imported(path)
    assert not FORBIDDEN & {name.split(".")[0] for name in names}
    entered = {name.split(".")[1] for name in names if name.startswith("deepmodels.")} - BASE - {ours}
    assert entered <= ALLOWED[ours], f"{ours} imports {entered - ALLOWED[ours]}"
    if ours == "data":
        assert "jax" not in {name.split(".")[0] for name in names}


def test_experiments_import_ml_collections_only():
    for path in (PACKAGE.parent / "experiments").glob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} <= {"ml_collections"}, path


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_is_cheap():
    assert not {"jax", "flax", "numpy", "orbax", "matplotlib"} & modules_after("import deepmodels")


def test_no_torch_and_no_tensorflow():
    everything = "import deepmodels.training, deepmodels.analysis.doctor, deepmodels.cli; import tensorflow_datasets"
    assert not FORBIDDEN & modules_after(everything)
