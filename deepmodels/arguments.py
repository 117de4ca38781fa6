"""Calls by name: a config's section names a function and its arguments; what the function doesn't take is an error."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deepmodels.errors import ConfigError, nearest


def check(kind: str, function: Callable, arguments: Iterable[str], *, given: Iterable[str] = ()) -> None:
    """Raises ConfigError if `function` doesn't take each of `arguments`, or needs one that is missing.

    Args:
      kind: what the function is, for the message ("model 'resnet50'").
      function: any callable; a class counts by its constructor.
      arguments: names of the keyword arguments that the user gave.
      given: names of the arguments that the caller adds; a user can't give those.
    """
    parameters = inspect.signature(function).parameters
    given = set(given)
    takes = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and name not in given and not name.startswith("_")
    }
    arguments = set(arguments)
    for name in sorted(arguments - set(takes)):
        raise ConfigError(f"{kind} takes no argument {name!r}: {nearest(name, takes)}")
    missing = [name for name, p in takes.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise ConfigError(f"{kind} needs the argument{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}")


def split(section: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns a section's `name` and its other entries."""
    arguments = dict(section)
    if not isinstance(arguments.get("name"), str):
        raise ConfigError(f"a section needs a 'name', got {arguments}")
    return arguments.pop("name"), arguments
