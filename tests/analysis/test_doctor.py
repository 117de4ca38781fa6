"""The health check finds what is here, and a check that breaks is a line, not an exception."""

import subprocess

import jax
import pytest

from deepmodels.analysis import checks, doctor


@pytest.fixture(scope="module")
def found():
    return {check.name: check for check in checks()}


def test_every_check_is_one_line(found):
    assert all(check.detail and "\n" not in check.detail for check in found.values())


def test_versions_and_devices(found):
    assert found["jax"].detail == jax.__version__
    assert found["orbax-checkpoint"].ok
    assert found["devices"].detail.startswith(f"{jax.device_count()} x cpu")


@pytest.mark.parametrize("name", ["matrix product", "bfloat16", "attention kernels", "compilation cache"])
def test_what_must_work_on_this_machine_does(found, name):
    assert found[name].ok, found[name].detail


def test_a_coordinator_starts(found):
    assert found["collective start"].ok, found["collective start"].detail


def test_attention_says_why_cudnn_did_not_run(found):
    assert found["attention kernels"].detail == "xla ran; cudnn needs an NVIDIA GPU"


def test_a_missing_package_names_its_extra_and_is_no_failure(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda package: None)
    check = doctor._check("wandb", doctor._optional, "wandb", "wandb")
    assert check.ok
    assert 'pip install "deepmodels-jax[wandb]"' in check.detail


def test_a_program_that_fails_or_hangs_is_a_failed_check():
    failed = doctor._check("imports", doctor._run, "raise SystemExit('deepmodels imported torch')", 30)
    assert failed == doctor.Check("imports", False, "RuntimeError: deepmodels imported torch")
    hung = doctor._check("collective start", doctor._run, "import time; time.sleep(30)", 0.2)
    assert not hung.ok
    assert "TimeoutExpired" in hung.detail


def test_nothing_that_breaks_gets_out(monkeypatch):
    def broken(*args, **kwargs):
        raise OSError("first line\nsecond line")

    monkeypatch.setattr(jax, "devices", broken)
    monkeypatch.setattr(jax, "jit", broken)
    monkeypatch.setattr(subprocess, "run", broken)
    monkeypatch.setattr(doctor.importlib.metadata, "version", broken)
    lines = {check.name: check for check in checks()}
    for name in ("jax", "devices", "matrix product", "bfloat16", "collective start", "imports"):
        assert lines[name] == doctor.Check(name, False, "OSError: first line")
