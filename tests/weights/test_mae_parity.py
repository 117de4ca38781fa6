import jax
import numpy as np
import pytest
from comparison import pixels
from text_comparison import assert_close, check_gradients, check_written, converted, lively, saved

from deepmodels import objectives
from deepmodels.models.mae import MAE
from deepmodels.training.step import bind
from deepmodels.weights import mae

pytestmark = pytest.mark.parity

SIZES = dict(
    patch_size=4, hidden_size=16, num_layers=3, num_heads=2, mlp_size=32, decoder_hidden_size=8,
    decoder_num_layers=2, decoder_num_heads=2, decoder_mlp_size=24, image_size=16,
)  # fmt: skip
THEIRS = dict(
    patch_size=4, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
    decoder_hidden_size=8, decoder_num_hidden_layers=2, decoder_num_attention_heads=2, decoder_intermediate_size=24,
    image_size=16,
)  # fmt: skip


@pytest.mark.parametrize("normalize_patches", [True, False])
def test_hides_and_fills_in_as_transformers(normalize_patches, tmp_path, monkeypatch):
    import torch

    theirs, model, images = (
        lively("ViTMAEForPreTraining", **THEIRS, norm_pix_loss=normalize_patches),
        MAE(**SIZES),
        pixels(3, 16),
    )
    variables = converted(model, saved(theirs, tmp_path / "theirs"), mae.TRANSFORMERS, images)
    noise = np.random.default_rng(0).random((3, 16)).astype(np.float32)
    given = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
    with torch.no_grad():
        expected = theirs(given, noise=torch.from_numpy(noise))
    ours = jax.jit(model.apply)(variables, images, noise)
    assert_close("patches", ours["patches"], expected.logits.numpy())
    np.testing.assert_array_equal(ours["mask"], expected.mask.numpy())
    assert ours["mask"].sum(1).tolist() == [12, 12, 12]

    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: noise)
    objective = objectives.create("masked_reconstruction", patch_size=4, normalize_patches=normalize_patches)
    forward = bind(model, variables["params"], {}, train=False)
    loss, _ = jax.jit(lambda images: objective(forward, {"image": images}, None))(images)
    assert_close("loss", loss[None], expected.loss.numpy()[None])

    if normalize_patches:
        check_written(variables, mae.TRANSFORMERS, theirs, tmp_path)
        doubles, noises = images.astype(np.float64), torch.from_numpy(noise)
        check_gradients(
            lambda v: model.apply(v, doubles, noise)["patches"],
            variables,
            theirs,
            lambda module: module(given.double(), noise=noises).logits,
            mae.TRANSFORMERS,
        )
