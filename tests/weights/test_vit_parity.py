import jax
import numpy as np
import oracles
import pytest
from comparison import check_gradient, check_logits, check_written_back, converted, enliven, pixels
from text_comparison import assert_close, check_gradients, check_written, lively, saved
from text_comparison import converted as converted_arrays

from deepmodels.models.vit import ViT, resize_position_embedding
from deepmodels.weights import vit

pytestmark = pytest.mark.parity

SIZES = dict(patch_size=8, hidden_size=16, num_layers=3, num_heads=2, mlp_size=64, image_size=32)
THEIRS = dict(
    patch_size=8,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=32,
)


def torchvision():
    library = oracles.import_torchvision().models
    return enliven(library.VisionTransformer(32, 8, 3, 2, 16, 64, num_classes=5))


def timm(**arguments):
    oracles.import_torchvision()
    from timm.models import VisionTransformer

    sizes = dict(img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5)
    return enliven(VisionTransformer(**sizes | arguments))


@pytest.mark.parametrize(
    ("make", "rules", "arguments"),
    [
        (torchvision, vit.TORCHVISION, {}),
        (timm, vit.TIMM, {}),
        (lambda: timm(class_token=False, global_pool="avg", fc_norm=False), vit.TIMM, dict(pooling="mean")),
        (lambda: timm(init_values=0.1), vit.TIMM, dict(layer_scale=0.1)),
    ],
    ids=["torchvision", "timm", "timm without class token", "timm with layer scale"],
)
def test_infers_as_theirs(make, rules, arguments):
    theirs, model, images = make(), ViT(**SIZES, **arguments, num_classes=5), pixels(2, 32)
    variables = converted(model, theirs, rules, images)
    check_written_back(variables, theirs, rules)
    check_logits(model, variables, theirs, images)
    check_gradient(model, variables, theirs, images)


def test_gradients_of_all_parameters():
    import torch

    theirs, model, images = torchvision(), ViT(**SIZES, num_classes=5), pixels(2, 32).astype(np.float64)
    variables = converted(model, theirs, vit.TORCHVISION, images.astype(np.float32))
    given = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
    check_gradients(lambda v: model.apply(v, images), variables, theirs, lambda module: module(given), vit.TORCHVISION)


@pytest.mark.parametrize(
    ("name", "size", "rules", "config", "arguments"),
    [
        ("ViTForImageClassification", 32, vit.VIT_WITH_HEAD, dict(num_labels=5), dict(num_classes=5, epsilon=1e-12)),
        ("ViTForImageClassification", 32, vit.VIT, dict(num_labels=5), dict(num_classes=5, epsilon=1e-12)),
        ("Dinov2Model", 32, vit.DINOV2, dict(use_mask_token=False), dict(num_classes=0, layer_scale=1.0)),
        (
            "Dinov2Model",
            48,
            vit.DINOV2,
            dict(use_mask_token=False),
            dict(num_classes=0, layer_scale=1.0, antialias=False),
        ),
    ],
)
def test_gives_what_transformers_gives(name, size, rules, config, arguments, tmp_path):
    import torch

    theirs, model = lively(name, **THEIRS, **config), ViT(**SIZES, **arguments)
    images = pixels(2, size)
    variables = converted_arrays(model, saved(theirs, tmp_path / "theirs"), rules, pixels(1, 32))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))
    if name == "Dinov2Model":
        tokens = jax.jit(lambda v, x: model.apply(v, x, method="tokens"))(variables, images)
        assert_close("tokens", tokens, expected.last_hidden_state.numpy())
        assert_close("pooled", jax.jit(model.apply)(variables, images), expected.pooler_output.numpy())
    else:
        assert_close("logits", jax.jit(model.apply)(variables, images), expected.logits.numpy())
    if rules is not vit.VIT:
        check_written(variables, rules, theirs, tmp_path)


@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (9, 5), (3, 8), (14, 2)])
def test_position_embeddings_are_resized_as_theirs(grid):
    import torch

    oracles.import_torchvision()
    from timm.layers import resample_abs_pos_embed

    embedding = np.random.default_rng(0).normal(size=(1, 50, 6)).astype(np.float32)
    theirs = resample_abs_pos_embed(torch.from_numpy(embedding), list(grid), num_prefix_tokens=1).numpy()
    np.testing.assert_allclose(resize_position_embedding(embedding, grid), theirs, atol=2e-6)

    square = torch.from_numpy(embedding[:, 1:].reshape(1, 7, 7, 6)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    theirs = resized.permute(0, 2, 3, 1).reshape(1, -1, 6).numpy()
    ours = resize_position_embedding(embedding, grid, antialias=False)
    np.testing.assert_allclose(ours[:, 1:], theirs, atol=2e-6)
    np.testing.assert_array_equal(ours[:, :1], embedding[:, :1])
