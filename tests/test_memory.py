import os
import subprocess
import sys

import pytest

from deepmodels import memory

PROGRAM = """
import os, resource
from deepmodels import memory
print(os.getpid())
{first}
memory.restart_with_huge_pages()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * 2**28  # 65,536 pages, or 128; NumPy asks for huge ones itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, os.environ["GLIBC_TUNABLES"])
"""


def run(tunables: str, first: str = "") -> list[str]:
    environment = os.environ | {"GLIBC_TUNABLES": tunables, "PYTHONUNBUFFERED": "1"}
    program = [sys.executable, "-c", PROGRAM.format(first=first)]
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_it_starts_anew_once_in_the_same_process():
    *pids, _, tunables = run("glibc.malloc.tcache_count=7", "memory._asked_for = lambda: True")
    assert len(pids) == 2
    assert len(set(pids)) == 1
    assert tunables == "glibc.malloc.tcache_count=7:glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("said", ["glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=1"])
def test_what_the_user_says_stands(said):
    *_, tunables = run(said, "memory._asked_for = lambda: True")
    assert tunables == said


def test_where_the_kernel_or_the_library_differ_nothing_is_done(tmp_path, monkeypatch):
    for text, version, asked in (
        ("always [madvise] never", "glibc 2.36", True),
        ("[always] madvise never", "glibc 2.36", False),
        ("always madvise [never]", "glibc 2.36", False),
        ("always [madvise] never", "glibc 2.34", False),
        ("always [madvise] never", "musl 1.2", False),
        ("always [madvise] never", None, False),
    ):
        (tmp_path / "enabled").write_text(text)
        monkeypatch.setattr(memory, "_KERNEL", tmp_path / "enabled")
        monkeypatch.setattr(os, "confstr", lambda name, version=version: version)
        assert memory._asked_for() is asked
    monkeypatch.setattr(memory, "_KERNEL", tmp_path / "none")
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    assert not memory._asked_for()


@pytest.mark.skipif(not memory._asked_for(), reason="the kernel gives no huge pages to those that ask, or glibc can't")
def test_memory_comes_in_huge_pages():
    *_, without_faults, _ = run("glibc.malloc.hugetlb=0")
    *pids, faults, _ = run("")
    assert len(pids) == 2
    assert int(faults) < int(without_faults) / 4
