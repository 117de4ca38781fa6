"""The U-Nets and the autoencoder of diffusion models beside diffusers', with the same random weights."""

import jax
import numpy as np
import oracles
import pytest
from comparison import check_written_back
from text_comparison import assert_close, check_gradients, converted, saved

from deepmodels.loading import load_folder, save_folder
from deepmodels.models.autoencoder_kl import AutoencoderKL, decode_in_tiles
from deepmodels.models.diffusion import DDPM, ConditionalUNet, size_vector
from deepmodels.weights import autoencoder_kl, diffusion

pytestmark = pytest.mark.parity
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
LATENTS = RNG.normal(size=(2, 8, 8, 4)).astype(np.float32)
CONTEXT = RNG.normal(size=(2, 5, 12)).astype(np.float32)
TIMESTEPS = np.array([3, 981], np.int32)
LABEL = np.array([4, 1], np.int32)

PICTURES = {  # theirs, ours
    "ddpm": (
        dict(
            block_out_channels=(8, 16, 16), norm_num_groups=4, norm_eps=1e-6, downsample_padding=0, freq_shift=1,
            flip_sin_to_cos=False, attention_head_dim=None,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        ),
        dict(
            channels=(8, 16, 16), attention=(0, 1, 0), num_groups=4, epsilon=1e-6, pad_end=True, frequency_shift=1,
            cosine_first=False,
        ),
    ),
    "of classes, with blocks between levels that scale and shift": (
        dict(
            block_out_channels=(8, 16), norm_num_groups=4, attn_norm_num_groups=4, attention_head_dim=4,
            num_class_embeds=6, layers_per_block=1,
            resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet",
            down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"),
        ),
        dict(
            channels=(8, 16), attention=(1, 1), num_heads=(2, 4), num_groups=4, num_blocks=1, num_classes=5,
            scale_shift=True, resample="block",
        ),
    ),
}  # fmt: skip
SD = dict(
    block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, cross_attention_dim=12,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=2,
)  # fmt: skip
OURS = dict(channels=(8, 16), num_blocks=1, num_groups=4, context_size=12, attention=(1, 0), num_heads=2)
OF_TEXTS = {
    "1": (SD, OURS),
    "2": (
        SD | dict(attention_head_dim=(2, 4), use_linear_projection=True),
        OURS | dict(num_heads=(2, 4), linear_projection=True),
    ),
    "xl": (
        SD
        | dict(
            attention_head_dim=(2, 4), use_linear_projection=True, transformer_layers_per_block=(1, 2),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 48,
        ),
        OURS
        | dict(num_heads=(2, 4), linear_projection=True, attention=(0, 2), middle_attention=2, vector_size=16 + 48),
    ),
}  # fmt: skip


def first(images):
    return oracles.tensor(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def last(tensor):
    return tensor.permute(0, 2, 3, 1)


def check(model, theirs, rules, ours_of, theirs_of, inputs, tmp_path):
    """Outputs in float32; gradients by every parameter in float64; what is written for diffusers."""
    variables = converted(model, saved(theirs, tmp_path / "theirs"), rules, *inputs)
    expected = theirs_of(theirs, np.float32).detach().numpy()
    assert_close("output", jax.jit(lambda v: ours_of(v, np.float32))(variables), expected)
    check_gradients(
        lambda v: ours_of(v, np.float64), variables, theirs, lambda m: theirs_of(m, np.float64), rules, tolerance=1e-4
    )  # the embedding of the time is in float32 there


@pytest.mark.parametrize("name", PICTURES)
def test_a_net_of_pictures(name, tmp_path):
    config, sizes = PICTURES[name]
    theirs, model = oracles.diffusers("UNet2DModel", **config), DDPM(**sizes)
    label = [LABEL] if model.num_classes else []
    check(
        model,
        theirs,
        diffusion.DIFFUSERS,
        lambda v, dtype: model.apply(v, IMAGES.astype(dtype), TIMESTEPS, *label),
        lambda m, dtype: last(m(first(IMAGES.astype(dtype)), *map(oracles.tensor, (TIMESTEPS, *label))).sample),
        (IMAGES, TIMESTEPS),
        tmp_path,
    )


@pytest.mark.parametrize("name", OF_TEXTS)
def test_a_net_that_a_text_guides(name, tmp_path):
    config, sizes = OF_TEXTS[name]
    theirs, model = oracles.diffusers("UNet2DConditionModel", **config), ConditionalUNet(**sizes)
    pooled = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    numbers = np.array([[64, 48, 0, 3, 64, 64], [32, 32, 7, 0, 64, 64]], np.float32)

    def ours_of(variables, dtype):
        vector = [size_vector(pooled, numbers, size=8).astype(dtype)] if model.vector_size else []
        return model.apply(variables, LATENTS.astype(dtype), TIMESTEPS, CONTEXT.astype(dtype), *vector)

    def theirs_of(module, dtype):
        added = dict(text_embeds=oracles.tensor(pooled.astype(dtype)), time_ids=oracles.tensor(numbers))
        return last(
            module(
                first(LATENTS.astype(dtype)),
                oracles.tensor(TIMESTEPS),
                oracles.tensor(CONTEXT.astype(dtype)),
                added_cond_kwargs=added if model.vector_size else None,
            ).sample
        )

    vector = [np.zeros((2, 64), np.float32)] if model.vector_size else []
    inputs = (LATENTS, TIMESTEPS, CONTEXT, *vector)
    check(model, theirs, diffusion.DIFFUSERS, ours_of, theirs_of, inputs, tmp_path)


VAE = dict(
    block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
)  # fmt: skip


def autoencoders():
    theirs = oracles.diffusers("AutoencoderKL", **VAE)
    return theirs, AutoencoderKL(channels=(8, 16, 16), num_blocks=1, num_groups=4)


def test_the_autoencoder(tmp_path):
    theirs, model = autoencoders()
    images = RNG.normal(size=(2, 8, 12, 3)).astype(np.float32)

    def ours_of(variables, dtype):
        mean, log_var = model.apply(variables, images.astype(dtype), method="encode")
        decoded = model.apply(variables, mean, method="decode")
        return jax.numpy.concatenate([x.reshape(-1) for x in (mean, log_var, decoded)])

    def theirs_of(module, dtype):
        torch = oracles.import_torch()
        posterior = module.encode(first(images.astype(dtype))).latent_dist
        decoded = module.decode(posterior.mean).sample
        return torch.cat([last(x).reshape(-1) for x in (posterior.mean, posterior.logvar, decoded)])

    check(model, theirs, autoencoder_kl.DIFFUSERS, ours_of, theirs_of, (images,), tmp_path)


def test_the_autoencoder_in_tiles(tmp_path):
    torch = oracles.import_torch()
    theirs, model = autoencoders()
    variables = converted(model, saved(theirs, tmp_path), autoencoder_kl.DIFFUSERS, IMAGES)
    latents = RNG.normal(size=(1, 19, 13, 4)).astype(np.float32)
    theirs.tile_sample_min_size, theirs.tile_latent_min_size, theirs.tile_overlap_factor = 32, 8, 0.25
    with torch.no_grad():
        expected = last(theirs.tiled_decode(first(latents)).sample).numpy()
        whole = last(theirs.decode(first(latents)).sample).numpy()
    decode = jax.jit(lambda latents: model.apply(variables, latents, method="decode"))
    assert_close("tiles", decode_in_tiles(decode, latents, tile=8, factor=4), expected)
    assert np.abs(expected - whole).max() > 1e-2  # the parts do differ
    assert_close("whole", decode_in_tiles(decode, latents, tile=28, factor=4), whole)


@pytest.mark.parametrize("name", ["UNet2DModel", "UNet2DConditionModel", "AutoencoderKL"])
def test_what_is_written_is_what_was_read(name, tmp_path):
    model, config, rules, inputs = {
        "UNet2DModel": (DDPM(**PICTURES["ddpm"][1]), PICTURES["ddpm"][0], diffusion.DIFFUSERS, (IMAGES, TIMESTEPS)),
        "UNet2DConditionModel": (ConditionalUNet(**OURS), SD, diffusion.DIFFUSERS, (LATENTS, TIMESTEPS, CONTEXT)),
        "AutoencoderKL": (autoencoders()[1], VAE, autoencoder_kl.DIFFUSERS, (IMAGES,)),
    }[name]
    theirs = oracles.diffusers(name, **config)
    variables = converted(model, saved(theirs, tmp_path / "theirs"), rules, *inputs)
    check_written_back(variables, theirs, rules)

    save_folder(tmp_path / "ours", model, variables)
    again, said = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True, low_cpu_mem_usage=False)
    assert not any(said.values()), said
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key].numpy(), tensor.numpy())
    levelled = ("transformer_layers_per_block", "attention_head_dim")  # one number there, one for each level here
    for field in theirs.config.keys() & again.config.keys():
        if not field.startswith("_") and field not in ("sample_size", *levelled):
            assert np.array_equal(again.config[field], theirs.config[field]), field
    loaded, _ = load_folder(tmp_path / "ours")
    heads = {} if name == "AutoencoderKL" else {"num_heads": loaded.num_heads}  # of each level
    assert loaded == model.clone(**heads)
