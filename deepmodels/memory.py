"""Huge pages for the arrays of a process, where Linux gives them to those that ask."""

import os
import sys
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb"
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Starts this program anew in the same process, with a C library that asks for huge pages; or does nothing.

    On a CPU each call of a compiled program asks the C library for its buffers, which has most of them mapped and
    cleared anew, page by page of 4 KiB; of 2 MiB there are 500 times fewer. glibc has known how to ask since 2.35, and
    reads its settings before anything else. Nothing is done where the kernel gives huge pages to all, or to none, and
    where GLIBC_TUNABLES says glibc.malloc.hugetlb already, 0 or 1. It is to be called before slow imports, which are
    done again.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or not sys.executable or not _asked_for():
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{TUNABLE}=1".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _asked_for() -> bool:
    """Whether asking makes a difference, and glibc can."""
    try:
        library, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        return library == "glibc" and [*map(int, version.split("."))] >= [2, 35] and "[madvise]" in _KERNEL.read_text()
    except (AttributeError, OSError, ValueError):  # no Linux, or another C library
        return False
