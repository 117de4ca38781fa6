"""Every public name has a docstring of its own."""

import importlib
import inspect
import pkgutil

import pytest

import deepmodels

MODULES = ["deepmodels", *(m.name for m in pkgutil.walk_packages(deepmodels.__path__, "deepmodels."))]


def undocumented(module):
    """Public functions, classes and methods defined in `module` that say nothing; dataclasses generate no excuse."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            own = vars(value).get("__doc__") or ""
            if not own or own.startswith(f"{name}("):  # what dataclasses and named tuples write for themselves
                yield name
            for method, member in vars(value).items():
                function = getattr(member, "fget", getattr(member, "func", getattr(member, "__func__", member)))
                written = inspect.isfunction(function) and function.__name__ != "<lambda>"
                ours = written and function.__module__ == module.__name__ and function.__qualname__.startswith(name)
                if ours and not method.startswith("_") and not inspect.getdoc(getattr(value, method)):
                    yield f"{name}.{method}"
        elif callable(value) and hasattr(value, "__name__") and not inspect.getdoc(value):
            yield name


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    assert list(undocumented(module)) == []


def test_a_missing_docstring_is_found():
    module = type(deepmodels)("example")
    source = """
from dataclasses import dataclass
from typing import NamedTuple
def silent(): pass
def spoken(): "Says so."
def _private(): pass
@dataclass
class Generated:
    x: int
class Row(NamedTuple):
    x: int
class Documented:
    "Says so."
    def method(self): pass
    @property
    def value(self): return 1
    def _private(self): pass
"""
    exec(source, module.__dict__ | {"__name__": "example"}, vars(module))
    assert list(undocumented(module)) == ["silent", "Generated", "Row", "Documented.method", "Documented.value"]
