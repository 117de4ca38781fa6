"""Writes the table of docs/export.md: the smallest model of each class, exported, and run back.

    python docs/export_table.py                 # all
    python docs/export_table.py gpt_tiny        # these rows

Needs flatbuffers, jax2onnx and onnxruntime. What ONNX can't say of any size is tried with fixed sizes. A function has
two minutes to be written in ONNX and run, each time.
"""

import signal
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from deepmodels import exporting, models, trees
from deepmodels.models import MODELS

PAGE = Path(__file__).parent / "export.md"
BEGIN, END = "<!-- made by docs/export_table.py -->\n", "<!-- end of the table -->\n"
COLUMNS = ("model", "functions", "free beside the batch", "StableHLO differs by", "ONNX differs by")
HEADER = f"| {' | '.join(COLUMNS)} |\n{'| - ' * len(COLUMNS)}|\n"
RENAMED = {"convnext_tiny": "convnext_micro", "bert_tiny": "bert_micro"}  # full-size models have those names
SECONDS = 120  # for a function in ONNX


def row(name: str) -> str:
    """Returns the line of a model, measured here."""
    model, inputs = models.create(name), MODELS[name].inputs
    specs = [jax.ShapeDtypeStruct((1, *spec.shape), spec.dtype) for spec in inputs.values()]
    rng = np.random.default_rng(1)
    variables = trees.map_named(
        lambda leaf, x: rng.uniform(*((0.5, 1.5) if leaf.endswith("/var") else (-0.3, 0.4)), x.shape).astype(x.dtype),
        dict(jax.eval_shape(model.init, jax.random.key(0), *specs)),
    )
    with tempfile.TemporaryDirectory() as folder:
        program, graph = Path(folder, "x.stablehlo"), Path(folder, "x.onnx")
        exporting.export(model, variables, program, inputs=inputs)
        apart = exporting.difference(model, variables, program, inputs=inputs)
        programs = exporting.load_exported(program).programs
        leaves = [leaf for p in programs.values() for leaf in jax.tree.leaves(p.inputs)]
        free = {str(n) for leaf in leaves for n in leaf.shape if not isinstance(n, int)}
        lengths = sorted(n.removesuffix("_length") for n in free if n.endswith("_length"))
        onnx = []
        for function in apart:
            names = {str(n) for leaf in jax.tree.leaves(programs[function].inputs) for n in leaf.shape}
            fixed = {n: 3 if n == "batch" else 5 for n in names & free}
            found = in_onnx(model, variables, graph, inputs, function, {})
            if isinstance(found, str):
                found = in_onnx(model, variables, graph, inputs, function, fixed)
                found = found if isinstance(found, str) else f"{found:.1g}, of fixed sizes"
            onnx.append(f"{function}: " * (len(apart) > 1) + (found if isinstance(found, str) else f"{found:.1g}"))
    cells = ", ".join(apart), ", ".join(lengths) or "-", f"{max(apart.values()):.1g}", "; ".join(onnx).replace("|", "/")
    return f"| {name} | {' | '.join(cells)} |\n"


def in_onnx(model, variables, graph: Path, inputs, function: str, sizes: dict[str, int]) -> float | str:
    """Returns by how much a function in ONNX differs, or why there is none."""
    signal.alarm(SECONDS)
    try:
        exporting.export(model, variables, graph, inputs=inputs, only=[function], sizes=sizes)
        return exporting.difference(model, variables, graph, inputs=inputs, sizes=sizes)[function]
    except exporting.ExportError as error:
        return str(error).partition(": ")[2]
    except TimeoutError:
        return f"not done in {SECONDS} s"
    except Exception as error:  # of onnxruntime, which doesn't take what it was given
        return f"onnxruntime: {str(error).splitlines()[0][:120]}"
    finally:
        signal.alarm(0)


def main() -> None:
    """Measures the models of the command line, or all, and writes their lines."""

    def late(number, frame):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    names = ["mcculloch_pitts", *(RENAMED.get(name, name) for name in models.list_models("*_tiny"))]
    for name in sys.argv[1:] or names:
        line = row(name)
        before, _, rest = PAGE.read_text().partition(BEGIN)
        table, _, after = rest.partition(END)
        lines = {old.split(" | ")[0].strip("| "): old for old in table.splitlines(keepends=True)[2:]} | {name: line}
        ordered = "".join(lines[name] for name in names if name in lines)
        PAGE.write_text(before + BEGIN + HEADER + ordered + END + after)
        print(line, end="", flush=True)


if __name__ == "__main__":
    main()
