"""Files changed by what a reader does with them: atheris looks for changes that reach new lines of the readers.

    pip install -e '.[fuzz]'
    python tests/weights/guided.py safetensors -runs=100000

The kinds are those of test_fuzz.py, and so is what counts as a fault: any error but the package's own, more memory than
allowed, or a file that wasn't there.
"""

import sys
import tempfile
import tracemalloc
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["deepmodels.weights", "deepmodels.gguf_header", "deepmodels.data.idx"]):
    import test_fuzz

    from deepmodels.errors import DeepModelsError


def main() -> None:
    """Fuzzes the kind that the command line names; the rest of it is libFuzzer's."""
    kind = sys.argv.pop(1)
    make, name, read = test_fuzz.READERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        made, given, corpus = (Path(folder, part) for part in ("made", "given", "corpus"))
        for part in (made, given, corpus):
            part.mkdir()
        path = given / name
        (corpus / "whole").write_bytes(make(made))

        def one(data: bytes) -> None:
            path.write_bytes(data)
            tracemalloc.start()
            try:
                read(path)
            except DeepModelsError:
                pass
            finally:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            assert peak < test_fuzz.ALLOWED, f"{peak:,} bytes of memory"
            assert [file.name for file in path.parent.iterdir()] == [name], "a reader writes nothing"

        atheris.Setup([sys.argv[0], *sys.argv[1:], str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
