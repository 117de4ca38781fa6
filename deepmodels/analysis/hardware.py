"""Published peaks of accelerators, for what a plan can say before anything runs; what isn't here is unknown."""

from typing import NamedTuple

from deepmodels.errors import unknown


class Hardware(NamedTuple):
    """One accelerator, as its maker's data sheet has it.

    `flops` are dense operations a second in bfloat16 (float16 for the V100), a multiply-add counted as two; `memory`
    is in bytes; `watts` the limit of the board, None where none is published.
    """

    flops: float
    memory: float
    watts: float | None


HARDWARE: dict[str, Hardware] = {
    "v100": Hardware(125e12, 32e9, 300),
    "a100": Hardware(312e12, 80e9, 400),
    "h100": Hardware(989.4e12, 80e9, 700),
    "h200": Hardware(989.4e12, 141e9, 700),
    "tpu_v4": Hardware(275e12, 32 * 2**30, None),
    "tpu_v5e": Hardware(197e12, 16e9, None),
    "tpu_v5p": Hardware(459e12, 95e9, None),
    "tpu_v6e": Hardware(918e12, 32e9, None),
}
"""The SXM boards of NVIDIA's data sheets, and Google's pages on each TPU."""


def hardware(name: str) -> Hardware:
    """Returns an accelerator of the table HARDWARE.

    Raises:
      ConfigError: it isn't there; the message names the nearest.
    """
    if name not in HARDWARE:
        raise unknown("hardware", name, HARDWARE)
    return HARDWARE[name]
