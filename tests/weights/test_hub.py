"""Weights from the hub: what is here comes first, then its cache, then the network; each refusal says what to do."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import deepmodels
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
        for name in (set(there) & set(allow_patterns)) - {path.name for path in self.folder.iterdir()}:
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
    digest = files.sha256(folder / "model.safetensors")
    assert said == f"timm/resnet50.a1_in1k, revision {REVISION}, sha256 {digest}\n"
    assert hub.find("timm/resnet50.a1_in1k", sha256=digest.upper()) == folder


@pytest.mark.parametrize("parts", [["model.safetensors"], ["model-1.safetensors", "model-2.safetensors"]])
def test_weights_are_pinned_by_their_digest(library, tmp_path, parts):
    """Of the hub, of its cache and of a disk: what was pinned, or an error, before anything of it is read."""
    library(cached=parts)
    folder = tmp_path / REVISION
    folder.mkdir()
    if len(parts) > 1:
        index = {"weight_map": {f"w{number}": part for number, part in enumerate(parts)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for number, part in enumerate(parts):
        files.write(folder / part, {f"w{number}": np.ones(2)})
    digest = hub.digest(folder)
    (folder / "config.json").write_text("{}")
    places = str(folder), "timm/resnet18"
    for place in places:
        assert hub.find(place, sha256=digest) == folder
    files.write(folder / parts[-1], {f"w{len(parts) - 1}": np.full(2, 2.0)})
    for place in places:
        with pytest.raises(WeightsError, match=f"expected weights with the sha256 {digest}, these have .* changed"):
            hub.find(place, sha256=digest)
    with pytest.raises(WeightsError, match="expected weights with the sha256"):
        deepmodels.load("lenet_tiny", folder, sha256=digest)


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
