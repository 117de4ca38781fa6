"""Writes the tables of docs/scaling.md, from programs that are compiled and don't run.

    python docs/scaling.py [devices] [gpt3] [tpu]

By default all of them; `tpu` needs the extra of that name. GPT-3's estimates are processes of their own, as JAX starts
with the devices that they are for.
"""

import json
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent / "scaling.md"
COUNTS = (1, 2, 4, 8)
# Layers unrolled, in float32, as XLA's own figures count the body of a loop once.
GPT = {
    "steps": 1,
    "model": {
        "name": "gpt_tiny", "hidden_size": 256, "num_layers": 4, "num_heads": 8, "vocab_size": 512, "max_length": 64,
        "mlp_size": 1024, "unroll": 4, "remat": "full",
    },
    "objective": {"name": "language_modelling"},
    "data": {"name": "synthetic", "length": 64, "vocab_size": 512, "batch_size": 32},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3},
}  # fmt: skip
RESNET = {
    "steps": 1,
    "model": {"name": "resnet18", "num_classes": 10},
    "data": {"name": "synthetic", "image_shape": (32, 32, 3), "num_classes": 10, "batch_size": 32},
    "optimizer": {"name": "momentum", "learning_rate": 0.1},
}
PAIRS = {
    "GPT, data": (GPT, "data"),
    "GPT, fsdp": (GPT, "fsdp"),
    "GPT, tensor": (GPT, "tensor"),
    "ResNet-18, data": (RESNET, "data"),
}


def work(config: dict, axis: str, count: int) -> dict:
    """Returns what a device does in a step on `count` of them: operations, bytes read and written, bytes received.

    It needs as many devices; they may be virtual.
    """
    import jax

    import deepmodels

    found = deepmodels.estimate(config, mesh={axis: count}, devices=jax.devices()[:count])
    return {
        "devices": count,
        "operations": found.compiled_flops,
        "accessed": found.accessed_bytes,
        "received": sum(traffic.bytes for traffic in found.collectives.values()),
        "parameters": found.parameter_bytes,
    }


def estimate(*arguments: str) -> dict | str:
    """Returns what `deepmodels estimate` prints as JSON, or the error it ends with."""
    command = [sys.executable, "-m", "deepmodels", "estimate", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def devices() -> str:
    """Returns the table of work per device over 1, 2, 4 and 8 virtual devices."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(COUNTS))
    rows = []
    for pair, (config, axis) in PAIRS.items():
        alone = None
        for count in COUNTS:
            found = work(config, axis, count)
            alone = alone or found
            rows.append(
                [
                    f"{pair}={count}",
                    f"{found['operations'] / 1e9:.3f} G ({found['operations'] / alone['operations']:.3f})",
                    f"{found['accessed'] / 1e6:.1f} MB ({found['accessed'] / alone['accessed']:.3f})",
                    f"{found['received'] / 1e6:.2f} MB",
                    f"{found['parameters'] / 1e6:.2f} MB",
                ]
            )
    return table(["model, axis=devices", "operations", "read and written", "received", "parameters held"], rows)


def gpt3() -> str:
    """Returns the table of GPT-3 175B on 512 virtual devices, by itself and with a pipeline."""
    meshes = ("data=2,fsdp=32,tensor=8", "data=2,pipeline=8,fsdp=4,tensor=8")
    given = ("experiments/gpt3.py", "--topology", "512", "--hardware", "h100", "--tokens", "300e9")
    return _giants({f"512 virtual, {mesh}": estimate(*given, "--mesh", mesh) for mesh in meshes})


def tpu() -> str:
    """Returns the table of GPT-3 175B on slices of TPUs, by their own compiler."""
    given = ("experiments/gpt3.py", "--mesh", "data=1,fsdp=32,tensor=8", "--tokens", "300e9")
    return _giants(
        {f"tpu:{name}": estimate(*given, "--topology", f"tpu:{name}") for name in ("v5p:4x8x8", "v5e:16x16")}
    )


def _giants(found: dict[str, dict | str]) -> str:
    rows, errors = [], []
    for name, one in found.items():
        if isinstance(one, str):
            errors.append(f"`{name}`: {one}\n")
            continue
        share, received = one["plan"]["memory_share"], sum(t["bytes"] for t in one["collectives"].values())
        rows.append(
            [
                name,
                *(f"{one[key] / 1e9:.2f} GB" for key in ("parameter_bytes", "optimizer_bytes", "gradient_bytes")),
                f"{one['activation_bytes'] / 1e9:.2f} GB",
                f"{one['peak_bytes'] / 1e9:.2f} GB ({share:.0%})",
                f"{one['step_flops']:.3e}",
                f"{one['intensity']:.0f}",
                f"{received / 1e12:.2f} TB",
                f"{one['plan']['days']:.0f}",
                f"{one['lower_seconds'] + one['compile_seconds']:.0f} s",
            ]
        )
    head = [
        "devices", "parameters", "optimizer", "gradients", "activations", "peak (of the memory)",
        "operations of a step", "a byte accessed", "received in a step", "days", "compiled in",
    ]  # fmt: skip
    return "\n".join([table(head, rows), *errors])


def written(page: str, name: str, text: str) -> str:
    """Returns a page with a section of it replaced, which stands between two comments."""
    begin, end = f"<!-- {name}: made by docs/scaling.py -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = page.partition(begin)
    return before + begin + text + end + rest.partition(end)[2]


SECTIONS = {"devices": devices, "gpt3": gpt3, "tpu": tpu}

if __name__ == "__main__":
    for name in sys.argv[1:] or SECTIONS:
        section = SECTIONS[name]()
        PAGE.write_text(written(PAGE.read_text(), name, section))
