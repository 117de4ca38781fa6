"""Writes the table of docs/export.md: the smallest model of each class, exported, and run back.

    python docs/export_table.py                 # all
    python docs/export_table.py gpt_tiny        # these rows

Needs flatbuffers, jax2onnx and onnxruntime. A function has two minutes to be written in ONNX and run.
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
        free = {str(n) for p in programs.values() for leaf in jax.tree.leaves(p.inputs) for n in leaf.shape}
        lengths = sorted(n.removesuffix("_length") for n in free if n.endswith("_length"))
        onnx = []
        for function in apart:
            signal.alarm(SECONDS)
            try:
                exporting.export(model, variables, graph, inputs=inputs, only=[function])
                found = f"{exporting.difference(model, variables, graph, inputs=inputs)[function]:.1g}"
            except exporting.ExportError as error:
                found = str(error).partition(": ")[2]
            except TimeoutError:
                found = f"not done in {SECONDS} s"
            except Exception as error:  # of onnxruntime, which doesn't take what it was given
                found = f"onnxruntime: {str(error).splitlines()[0][:120]}"
            signal.alarm(0)
            onnx.append(found if len(apart) == 1 else f"{function} {found}")
    cells = ", ".join(apart), ", ".join(lengths) or "-", f"{max(apart.values()):.1g}", "; ".join(onnx).replace("|", "/")
    return f"| {name} | {' | '.join(cells)} |\n"


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
