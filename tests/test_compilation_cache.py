"""The compilation cache keeps to its limit, by what was used last."""

import os

import pytest

from deepmodels import cache
from deepmodels.errors import ConfigError


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    for age, name in enumerate(("newest", "newer", "older", "oldest")):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (10_000 - age, 5_000))  # read at, written at
    (tmp_path / "notes.txt").write_bytes(bytes(1000))  # not a program
    assert cache.trim(tmp_path, 250) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"newest-cache", "newer-cache", "notes.txt"}
    assert cache.trim(tmp_path, 250) == 0


def test_a_missing_folder_is_made_and_another_ones_left_alone(tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(cache, "trim", lambda folder, limit: limits.append((folder, limit)))
    given = cache.enable()  # which JAX was told of when the tests began
    assert limits == []
    monkeypatch.setenv("DEEPMODELS_CACHE", str(tmp_path / "made"))
    cache.jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert cache.enable() == tmp_path / "made"
    finally:
        cache.jax.config.update("jax_compilation_cache_dir", str(given))
    assert limits == [(tmp_path / "made", cache.LIMIT)]
    assert (tmp_path / "made").stat().st_mode & 0o077 == 0


def test_a_folder_that_cant_be_made_is_an_error_that_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DEEPMODELS_CACHE", str(tmp_path / "file" / "cache"))
    given = cache.jax.config.jax_compilation_cache_dir
    cache.jax.config.update("jax_compilation_cache_dir", None)
    try:
        with pytest.raises(ConfigError, match="file/cache, can't be made .*: set DEEPMODELS_CACHE"):
            cache.enable()
    finally:
        cache.jax.config.update("jax_compilation_cache_dir", given)
