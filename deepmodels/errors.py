"""The errors a user can act on: one base class, each message says what was wrong and what would be right."""

import difflib
from collections.abc import Iterable

STUCK = 76  # exit code of a process that doesn't get on, or whose peers are gone
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


class DeepModelsError(Exception):
    """Base of the errors that deepmodels raises on purpose; the command prints one as a paragraph and exits."""

    exit_code = 1  # of the command
    everywhere = False  # raised by all processes of a run at the same step, so that they can leave together


class ConfigError(DeepModelsError):
    """A config, an argument or a name in one isn't usable."""


class ShapeError(DeepModelsError, ValueError):
    """An array's shape or dtype doesn't fit the argument it was given for."""


class DataError(DeepModelsError):
    """A data set is missing, damaged or not what its config says."""


class CheckpointError(DeepModelsError):
    """A checkpoint can't be written, or none can be read."""


class DiskError(DeepModelsError):
    """A file of a run can't be written: the disk is full, say."""


class WeightsError(DeepModelsError):
    """A file of weights is missing, damaged, unsafe to read, or doesn't fit the model."""


class TooLarge(DeepModelsError):
    """A program needs more memory than a device has: its compiler says so, before there is a device."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns a hint that names the closest of `names` to `name`, or lists them all if none is close."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"


def unknown(kind: str, name: str, names: Iterable[str]) -> ConfigError:
    """Returns the error for a name that isn't in a table, naming the nearest one that is."""
    return ConfigError(f"unknown {kind} {name!r}: {nearest(name, names)}")
