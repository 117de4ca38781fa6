"""Every family on every mesh: loss and gradients are those of one device, in float64.

    pytest -m slow tests/parallel/test_matrix.py

A few pairs are part of the default suite.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from deepmodels import models, objectives, parallel, trees
from deepmodels.errors import ConfigError
from deepmodels.models import MODELS
from deepmodels.parallel import rules
from deepmodels.training.frozen import FROZEN, Network
from deepmodels.training.step import bind

ROWS, LENGTH, WORDS = 8, 8, 32
TOLERANCE = 1e-10


class Case(NamedTuple):
    """A model, what it trains on, and what a batch of that is like."""

    model: dict[str, Any]
    objective: dict[str, Any]
    batch: dict[str, Any]
    frozen: dict[str, str] = {}


def image(*shape):
    return np.random.default_rng(1).uniform(0.05, 0.95, (ROWS, *shape))


def whole(size, high):
    shape = (ROWS, *size) if isinstance(size, tuple) else (ROWS, size) if size else (ROWS,)
    return np.random.default_rng(2).integers(1, high, shape, np.int32)


def pictures(name, *shape, objective="classification", **arguments):
    batch = {"image": image(*shape), "label": whole(0, 10)}
    return Case({"name": name, "num_classes": 10, **arguments}, {"name": objective}, batch)


def dense(name, *shape):
    classes = models.create(name).num_classes
    batch = {"image": image(*shape), "label": whole(shape[:2], classes)}
    return Case({"name": name}, {"name": "segmentation"}, batch)


def only_images(name, objective, *shape, **named):
    return Case({"name": name}, {"name": objective, **named}, {"image": image(*shape)})


def texts(name, **named):
    named = {"model": {}, "batch": {}} | named
    batch = {"tokens": whole(LENGTH, 12), **named["batch"]}
    return Case({"name": name, **named["model"]}, {"name": "language_modelling"}, batch)


def pairs(name):
    batch = {"tokens": whole(LENGTH, 8), "targets": whole(LENGTH, 8), "mask": held(), "target_mask": held()}
    return Case({"name": name}, {"name": "sequence_to_sequence"}, batch)


def held():
    """Rows of several lengths."""
    return np.arange(LENGTH) < np.arange(1, ROWS + 1)[:, None]


DOCUMENTS = np.repeat([[1] * 3 + [2] * 4 + [0], [1] * 8], ROWS // 2, axis=0).astype(np.int32)

CASES: dict[str, Case] = {  # by family; a second row of a family has a name behind it
    "perceptron": pictures("perceptron_tiny", 8, 8, 1),
    "mlp": pictures("mlp_tiny", 8, 8, 1),
    "lenet": pictures("lenet_tiny", 28, 28, 1),
    "alexnet": pictures("alexnet_tiny", 64, 64, 3),
    "vgg": pictures("vgg_tiny", 8, 8, 3),
    "inception": pictures("inception_tiny", 32, 32, 3, objective="classification_with_auxiliary"),
    "resnet": pictures("resnet_tiny", 8, 8, 3),
    "densenet": pictures("densenet_tiny", 16, 16, 3),
    "mobilenet": pictures("mobilenet_tiny", 8, 8, 3),
    "efficientnet": pictures("efficientnet_tiny", 8, 8, 3),
    "convnext": pictures("convnext_micro", 32, 32, 3),
    "vit": pictures("vit_tiny", 8, 8, 3),
    "fcn": dense("fcn_tiny", 16, 16, 3),
    "unet": dense("unet_tiny", 16, 16, 1),
    "deeplab": dense("deeplab_tiny", 16, 16, 3),
    "recurrent": texts("lstm_ptb_tiny"),
    "seq2seq": pairs("bahdanau_tiny"),
    "ctc": Case(
        {"name": "ctc_tiny"},
        {"name": "ctc"},
        {"inputs": image(12, 4), "labels": whole(3, 4), "mask": np.arange(12) < np.arange(5, 13)[:, None]},
    ),
    "transformer": pairs("transformer_tiny"),
    "bert": Case(
        {"name": "bert_micro", "head": "masked_lm"},
        {"name": "masked_lm", "vocab_size": 12, "mask_id": 3, "special_ids": (0, 1, 2, 3)},
        {"tokens": whole(LENGTH, 12), "mask": held()},
    ),
    "t5": pairs("t5_tiny"),
    "gpt": texts("gpt3_tiny", batch={"mask": held()}),
    "gpt, documents": texts("gpt_tiny", batch={"documents": DOCUMENTS}),
    "llama": texts("gemma3_tiny", batch={"documents": DOCUMENTS}),
    "llama, experts": texts("mixtral_tiny"),
    "deepseek": texts("deepseek_tiny"),
    "clip": Case(
        {"name": "clip_tiny"},
        {"name": "image_text_contrastive"},
        {"image": image(8, 8, 3), "tokens": whole(LENGTH, 12)},
    ),
    "dit": Case(
        {"name": "dit_tiny", "out_channels": 4}, {"name": "diffusion"}, {"image": image(8, 8, 4), "label": whole(0, 4)}
    ),
    "autoencoder": only_images("conv_autoencoder_tiny", "reconstruction", 8, 8, 1),
    "mae": only_images("mae_tiny", "masked_reconstruction", 16, 16, 3, patch_size=4),
    "boltzmann": Case(
        {"name": "boltzmann_tiny", "hidden_size": 8}, {"name": "contrastive_divergence"}, {"image": image(4, 4, 1)}
    ),
    "vae": only_images("vae_tiny", "elbo", 8, 8, 1),
    "vae, codes": only_images("vq_vae_tiny", "vector_quantized", 8, 8, 3),
    "dalle": Case(
        {"name": "dalle_tiny"},
        {"name": "text_to_image", "network": "eye"},
        {"image": image(24, 24, 3), "tokens": whole(6, 6), "mask": np.ones((ROWS, 6), bool)},
        {"eye": "dalle_dvae_tiny"},
    ),
    "gan": only_images("dcgan_tiny", "adversarial", 16, 16, 1),
    "translation": Case(
        {"name": "translation_tiny"},
        {"name": "paired_translation"},
        {"image": image(32, 32, 3), "target": image(32, 32, 3)},
    ),
    "super_resolution": only_images("super_resolution_tiny", "super_resolution", 16, 16, 3),
    "style": Case(
        {"name": "fast_style_tiny"},
        {"name": "style_transfer", "network": "eye", "content_layers": ("stage0",), "style_layers": ("stem",)},
        {"image": image(16, 16, 3), "style": image(16, 16, 3)},
        {"eye": "mobilenet_tiny"},
    ),
    "diffusion": only_images("ddpm_tiny", "diffusion", 8, 8, 1),
    "autoencoder_kl": only_images("stable_diffusion_vae_tiny", "elbo", 8, 8, 3, likelihood="gaussian"),
}
WITHOUT_GRADIENTS = {"mcculloch_pitts", "neocognitron"}

MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "tensor": {"data": 4, "tensor": 2},
    "data x fsdp x tensor": {"data": 2, "fsdp": 2, "tensor": 2},
    "sequence": {"data": 2, "sequence": 4},
    "sequence x fsdp x tensor": {"sequence": 2, "fsdp": 2, "tensor": 2},
    "expert": {"data": 2, "expert": 4},
    "expert x fsdp x tensor": {"expert": 2, "fsdp": 2, "tensor": 2},
}
"""Families on sequence are those with an attention over tokens; on expert, those with experts."""
INDIVISIBLE = (
    "gan",
    "translation",
    "super_resolution",
    "style",
    "diffusion",
    "autoencoder_kl",
)  # cases of which tensor doesn't divide all kernels


def family(case):
    return case.partition(",")[0]


def applies(case, mesh):
    if "sequence" in mesh:
        return CASES[case].objective["name"] in ("language_modelling", "sequence_to_sequence", "masked_lm") and family(
            case
        ) not in ("recurrent", "seq2seq")
    return "expert" not in mesh or case in ("llama, experts", "deepseek")


def prepared(case):
    """The loss as a function of parameters and batch, and both, in float64; parameters without zeros."""
    made = CASES[case]
    model, objective = models.create(**made.model), objectives.create(**made.objective)
    rng = np.random.default_rng(0)

    def drawn(model, name):
        inputs = [jax.ShapeDtypeStruct((2, *spec.shape), spec.dtype) for spec in MODELS[name].inputs.values()]
        shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        return trees.map_named(
            lambda path, leaf: (
                abs(0.3 * rng.normal(size=leaf.shape)) if path.endswith("/var") else 0.3 * rng.normal(size=leaf.shape)
            ),
            dict(shapes),
        )

    networks, frozen = {}, {}
    for name, variant in made.frozen.items():
        network = models.create(variant)
        networks[name] = Network(name, network, MODELS[variant].inputs, np.ones(1), np.zeros(1), None)
        frozen[name] = drawn(network, variant)
    variables = drawn(model, made.model["name"])
    params = variables.pop("params")
    if frozen:
        variables[FROZEN] = frozen

    def loss(objective, params, variables, batch):
        forward = bind(model, params, variables, train=True, frozen=networks)
        key = jax.random.key(3)
        if not hasattr(model, "players"):
            return objective(forward, batch, key)[0]
        return sum(objective(forward, batch, key, player=player)[0] for player in model.players)

    return loss, objective, params, variables, made.batch


def placed(arrays, params, mesh):
    """Parameters, variables and a batch where training would have them on a mesh."""
    own = parallel.shardings(params, mesh)
    others = parallel.shardings_like(arrays[1], params, own, mesh)
    return *jax.device_put(arrays[:2], (own, others)), parallel.place(arrays[2], mesh)


def differences(case, meshes):
    """By mesh, how far loss and gradients are from those on one device, and what divides the parameters."""
    loss, objective, params, variables, batch = prepared(case)
    found = {}
    for name, axes in {"one": {"data": 1}, **meshes}.items():
        mesh = parallel.make_mesh(axes, jax.devices()[: np.prod(list(axes.values()))])
        parallel.check_axes(params, mesh, batch)
        arrays = placed((params, variables, batch), params, mesh)
        over = parallel.over_mesh(objective, mesh)
        step = jax.jit(jax.value_and_grad(lambda params, *rest: loss(over, params, *rest)))  # noqa: B023
        value, gradients = jax.device_get(step(*arrays))
        if name == "one":
            expected, wanted = value, trees.flatten(gradients)
            assert np.isfinite(expected)
            assert any(np.any(leaf) for leaf in wanted.values())
            continue
        apart = [np.max(np.abs(leaf - wanted[path])) for path, leaf in trees.flatten(gradients).items()]
        used = set().union(*(rules.axes_of(leaf.sharding) for leaf in jax.tree.leaves(arrays[0])))
        found[name] = max(abs(value - expected), *apart), used
    return found


@pytest.fixture(autouse=True)
def shard_small_ones(monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)


def assert_equal_to_one_device(case, meshes):
    found = differences(case, meshes)
    print("".join(f"\n{case} | {mesh}: {error:.1e}" for mesh, (error, _) in found.items()), flush=True)
    for mesh, (error, used) in found.items():
        assert error <= TOLERANCE, f"{case} on {mesh}"
        assert used >= meshes[mesh].keys() & {"fsdp", "tensor", "expert"}, f"{case} on {mesh}: parameters over {used}"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_family_on_every_mesh_equals_one_device(case):
    with jax.enable_x64(True):
        meshes = {name: axes for name, axes in MESHES.items() if applies(case, axes)}
        params = prepared(case)[2]
        for name in [name for name, axes in meshes.items() if case in INDIVISIBLE and "tensor" in axes]:
            with pytest.raises(ConfigError, match="can't be divided by the mesh axis tensor"):
                parallel.shardings(params, parallel.describe_mesh(meshes.pop(name)))
        for name, axes in list(meshes.items()):  # of those, wrong gradients were seen
            if axes.keys() >= {"data", "fsdp", "tensor"} and "recurrent_kernel" in str(list(trees.flatten(params))):
                with pytest.raises(ConfigError, match="wrong gradients where data, fsdp and tensor are all"):
                    parallel.check_axes(params, parallel.describe_mesh(meshes.pop(name)), CASES[case].batch)
        assert_equal_to_one_device(case, meshes)


def test_a_few_of_the_matrix(float64):
    name = "expert x fsdp x tensor"
    assert_equal_to_one_device("llama, experts", {name: MESHES[name]})


def test_every_family_has_a_row():
    assert {variant.family for variant in MODELS.values()} == {family(case) for case in CASES} | WITHOUT_GRADIENTS
