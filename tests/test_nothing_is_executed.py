"""No code of the package runs data: by what it imports and calls, read from its source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deepmodels"
IMPORTS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "tarfile"}
CALLS = {"eval", "exec", "compile", "__import__"}  # builtins
METHODS = {  # of anything
    *("extract", "extractall", "unpack_archive", "exec_module", "run_path", "run_module", "literal_eval"),
    *("unsafe_load", "full_load", "load_module", "from_string"),
}
ALLOWED = {
    ("config.py", "exec_module"),  # an experiment is a program, and whoever runs one trusts it
    ("config.py", "literal_eval"),  # numbers and texts of --config.a.b=value
    ("weights/files.py", "literal_eval"),  # an npy header of at most 10,000 characters
    ("tokenizers/chat.py", "from_string"),  # a template, in a sandbox: tests/test_chat.py
}
SHELLS = {"system", "popen", "getoutput", "getstatusoutput"}


def found(tree: ast.AST) -> set[str]:
    """What a module names of the above."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names} & IMPORTS
        elif isinstance(node, ast.ImportFrom):
            names |= {(node.module or "").partition(".")[0]} & IMPORTS
            names |= {alias.name for alias in node.names} & METHODS
        elif isinstance(node, ast.Call):
            names |= {key.arg for key in node.keywords if key.arg in ("shell", "allow_pickle") and _true(key.value)}
            if isinstance(node.func, ast.Name):
                names |= {node.func.id} & CALLS
        elif isinstance(node, ast.Attribute):
            of_system = isinstance(node.value, ast.Name) and node.value.id in ("os", "subprocess")
            names |= {node.attr} & (METHODS | (SHELLS if of_system else set()))
    return names


def _true(value: ast.expr) -> bool:
    return not (isinstance(value, ast.Constant) and not value.value)


def test_no_module_runs_data_or_unpacks_an_archive():
    names = {
        (path.relative_to(PACKAGE).as_posix(), what)
        for path in PACKAGE.rglob("*.py")
        for what in found(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert names == ALLOWED


@pytest.mark.parametrize(
    "program",
    [
        "import pickle",
        "from yaml import safe_load",
        "import tarfile as t",
        "eval('1')",
        "exec(text)",
        "zipfile.ZipFile(path).extractall()",
        "from shutil import unpack_archive",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
    ],
)
def test_what_is_looked_for_is_found(program):
    assert found(ast.parse(program))
