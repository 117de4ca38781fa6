"""Folders are read leaf by leaf, each device's part by itself: memory holds what is placed and one array more."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import parallel, trees
from deepmodels.errors import ConfigError
from deepmodels.loading import load_folder, save_folder
from deepmodels.models import create
from deepmodels.weights import files
from deepmodels.weights.safetensors_file import Stored

SIZES = dict(hidden_size=32, mlp_size=128, vocab_size=512, num_layers=4)


@pytest.fixture
def saved(tmp_path):
    model = create("mixtral_tiny", **SIZES)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), dict(shapes))
    save_folder(tmp_path / "model", model, variables, largest_file=100_000)
    return tmp_path / "model", variables


@pytest.fixture
def reads(monkeypatch):
    """The arrays that are read from files, in order: their bytes and how many bytes of others were alive then."""
    alive, seen = {}, []
    read = Stored.__array__

    def counted(self, dtype=None, copy=None):
        array = read(self, dtype, copy)
        root = array
        while root.base is not None:  # what views keep alive
            root = root.base
        seen.append((array.nbytes, sum(alive.values())))
        alive[id(root)] = array.nbytes
        weakref.finalize(root, alive.pop, id(root))
        return array

    monkeypatch.setattr(Stored, "__array__", counted)
    return seen


@pytest.mark.parametrize("axes", [None, {"data": 1, "fsdp": 2, "tensor": 4}])
def test_one_array_is_open_at_a_time(saved, reads, axes):
    place, variables = saved
    assert len(files.locate(place)) > 3  # an index and several parts
    mesh = None if axes is None else parallel.make_mesh(axes)
    _, loaded = load_folder(place, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert len(reads) >= 12 * 4 + 2  # of each layer 4 matrices of attention and 3 of each expert, ...
    largest = max(size for size, _ in reads)
    assert max(alive for _, alive in reads) <= largest
    if mesh is not None:
        placed = trees.flatten(parallel.shardings(variables, mesh))
        for name, leaf in trees.flatten(loaded).items():
            assert leaf.sharding == placed[name]
        kernel = loaded["params"]["layers"]["mlp"]["experts"]["up"]["kernel"]
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(4, 4, 16, 32)}


def test_half_precision(saved):
    place, variables = saved
    model, half = load_folder(place, cast=True, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half)} == {"bfloat16"}
    save_folder(place, model, half)
    _, again = load_folder(place, dtype="bfloat16")  # as the files have it, without a cast
    jax.tree.map(np.testing.assert_array_equal, again, half)
    _, wide = load_folder(place, cast=True)
    for leaf, exact in zip(jax.tree.leaves(wide), jax.tree.leaves(variables), strict=True):
        np.testing.assert_allclose(leaf, exact, rtol=2**-8)
    with pytest.raises(ConfigError, match="unknown dtype 'bflaot16': did you mean 'bfloat16'"):
        load_folder(place, dtype="bflaot16")
