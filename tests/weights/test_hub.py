"""Weights from the hub: what is here comes first, then its cache, then the network; each refusal says what to do."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from deepmodels.errors import WeightsError
from deepmodels.weights import files, hub

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A stand-in for huggingface_hub: `cached` and `online` are file names by whether the network is needed."""

    def __init__(self, folder, cached=(), online=()):
        self.folder, self.cached, self.online, self.asked = folder / REVISION, cached, online, []

    def snapshot_download(self, name, *, revision, allow_patterns, local_files_only):
        self.asked.append((local_files_only, allow_patterns[0]))
        there = self.cached if local_files_only else self.online
        if not there:
            raise OSError("the network is unreachable")
        self.folder.mkdir(exist_ok=True)
        for name in set(there) & set(allow_patterns):
            files.write(self.folder / name, {"w": np.ones(2)})
        return str(self.folder)


@pytest.fixture
def library(tmp_path, monkeypatch):
    def install(**arguments):
        stand_in = Hub(tmp_path, **arguments)
        monkeypatch.setitem(
            sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=stand_in.snapshot_download)
        )
        return stand_in

    return install


def test_a_local_path_wins(tmp_path, monkeypatch, library):
    stand_in = library(online=["model.safetensors"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    files.write("timm/resnet18.safetensors", {"w": np.ones(2)})
    assert hub.find("timm/resnet18.safetensors").name == "resnet18.safetensors"
    assert hub.find("timm").name == "timm"
    assert stand_in.asked == []


def test_the_cache_comes_before_the_network(library, capsys):
    stand_in = library(cached=["model.safetensors"], online=["model.safetensors"])
    folder = hub.find("timm/resnet50.a1_in1k")
    assert files.read(folder).keys() == {"w"}
    assert stand_in.asked == [(True, "model.safetensors")]
    said = capsys.readouterr().err
    assert f"timm/resnet50.a1_in1k, revision {REVISION}" in said
    assert f"model.safetensors  sha256 {files.sha256(folder / 'model.safetensors')}" in said


def test_the_network_comes_last_and_pickles_after_safetensors(library):
    stand_in = library(cached=["config.json"], online=["model.safetensors"])
    hub.find("timm/resnet18")
    assert [offline for offline, _ in stand_in.asked] == [True, True, False]


def test_a_model_without_safetensors(library, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write", lambda path, arrays: path.write_bytes(b"pickled"))
    library(online=["pytorch_model.bin"])
    assert (hub.find("timm/resnet18") / "pytorch_model.bin").exists()


@pytest.mark.parametrize(
    ("online", "said"), [([], "the network is unreachable"), (["README.md"], "no weights in a format that can be read")]
)
def test_what_the_hub_does_not_have(library, online, said):
    library(online=online)
    with pytest.raises(WeightsError, match=f"timm/resnet18: there is no such file.*{said}"):
        hub.find("timm/resnet18")


@pytest.mark.parametrize("name", ["resnet18.pth", "runs/a.safetensors", "a/b/c", "../x", "./x", "https://x.y/z"])
def test_what_is_no_name_on_the_hub(library, name):
    stand_in = library(online=["model.safetensors"])
    with pytest.raises(WeightsError, match=r"there is no such file or folder$"):
        hub.find(name)
    assert stand_in.asked == []


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r'pip install "deepmodels-jax\[hub\]"'):
        hub.find("timm/resnet18")


@pytest.mark.parity
def test_the_real_librarys_cache(tmp_path, monkeypatch):
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(library.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(library.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="from the hub it can't be had"):
        hub.find("timm/resnet18")
    snapshot = tmp_path / "models--timm--resnet18" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (tmp_path / "models--timm--resnet18" / "refs").mkdir()
    (tmp_path / "models--timm--resnet18" / "refs" / "main").write_text(REVISION)
    files.write(snapshot / "model.safetensors", {"w": np.ones(2)})
    assert hub.find("timm/resnet18") == snapshot
