"""Whole pipelines of diffusers, small and with random weights, beside ours from the folders they are saved in."""

import json

import numpy as np
import oracles
import pytest

from deepmodels import text_to_image
from deepmodels.errors import WeightsError

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn:DeprecationWarning"),  # torch beside numpy 2
]
ENDS = ["<|startoftext|>", "<|endoftext|>"]
PROMPTS = ["a cat of bytes", "dogs"]
UNET = dict(
    block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, cross_attention_dim=16, sample_size=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=2,
)  # fmt: skip
VAE = dict(
    block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
)  # fmt: skip
TEXT = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=24,
    projection_dim=12,
)  # fmt: skip
LATENT = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
SCHEDULERS = {
    "PNDMScheduler": dict(skip_prk_steps=True, steps_offset=1) | LATENT,
    "DDIMScheduler": dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1) | LATENT,
    "EulerDiscreteScheduler": dict(timestep_spacing="leading", steps_offset=1, prediction_type="v_prediction") | LATENT,
    "DPMSolverMultistepScheduler": dict(use_karras_sigmas=True, steps_offset=1) | LATENT,
}


def tokenizer(pad=None):
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    entries = [*letters, *(letter + "</w>" for letter in letters), "ca", "cat</w>", *ENDS]
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    more = {} if pad is None else {"pad_token": pad}
    return oracles.import_transformers().CLIPTokenizer(
        vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")], model_max_length=24, **more
    )


def text(name, vocabulary, **config):
    return oracles.enliven(
        oracles.transformers(name, vocab_size=len(vocabulary), eos_token_id=len(vocabulary) - 1, **TEXT | config)
    )


def saved(folder, scheduler="PNDMScheduler", unet=UNET, kind="StableDiffusionPipeline"):
    """A pipeline of theirs, saved to a folder, and ours read from there."""
    library, words = oracles.import_diffusers(), tokenizer()
    parts = dict(
        unet=oracles.diffusers("UNet2DConditionModel", **unet),
        vae=oracles.diffusers("AutoencoderKL", **VAE),
        scheduler=getattr(library, scheduler)(**SCHEDULERS[scheduler]),
        tokenizer=words,
    )
    if "XL" in kind:
        parts |= dict(
            text_encoder=text("CLIPTextModel", words.get_vocab(), hidden_act="quick_gelu"),
            text_encoder_2=text("CLIPTextModelWithProjection", words.get_vocab(), hidden_act="gelu"),
            tokenizer_2=tokenizer(pad="!"),
        )
    else:
        parts |= dict(
            text_encoder=text("CLIPTextModel", words.get_vocab(), hidden_act="quick_gelu"),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    theirs = getattr(library, kind)(**parts)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder)
    return theirs, text_to_image.load(folder)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def first(images):
    return oracles.tensor(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def check(ours, latents, images):
    scale = np.abs(latents).max()
    np.testing.assert_allclose(ours.latents, np.moveaxis(latents, 1, -1), rtol=0, atol=1e-4 * scale)
    np.testing.assert_allclose(ours.images, images, rtol=0, atol=3e-4)
    assert images.std() > 0.05, "or else there would be nothing to compare"


def run(theirs, **arguments):
    """Their latents, and their pictures."""
    kept = []

    def keep(pipe, number, timestep, values):
        kept.append(values["latents"].numpy().copy())
        return values

    images = theirs(output_type="np", callback_on_step_end=keep, **arguments).images
    return kept, images


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_text_to_image(scheduler, tmp_path):
    theirs, ours = saved(tmp_path, scheduler)
    start = noise(2, 8, 8, 4)
    kept, images = run(
        theirs, prompt=PROMPTS, negative_prompt=["a dog"] * 2, num_inference_steps=5, latents=first(start)
    )
    made = text_to_image.generate(ours, PROMPTS, negative_prompt="a dog", steps=5, noise=start, trace=True)
    check(made, kept[-1], images)
    for step, latents in enumerate(kept):
        np.testing.assert_allclose(
            made.trace[step], np.moveaxis(latents, 1, -1), rtol=0, atol=1e-4 * np.abs(latents).max()
        )


def test_xl(tmp_path):
    xl = UNET | dict(
        use_linear_projection=True, transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=12 + 48, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    theirs, ours = saved(tmp_path, "EulerDiscreteScheduler", xl, "StableDiffusionXLPipeline")
    start = noise(2, 8, 8, 4)
    for negative in (None, "a dog"):
        kept, images = run(
            theirs,
            prompt=PROMPTS,
            negative_prompt=None if negative is None else [negative] * 2,
            num_inference_steps=4,
            guidance_scale=5.0,
            latents=first(start),
        )
        made = text_to_image.generate(ours, PROMPTS, negative_prompt=negative, steps=4, guidance_scale=5.0, noise=start)
        check(made, kept[-1], images)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("task", ["Img2Img", "Inpaint", "Inpaint of nine channels"])
def test_an_image_is_changed(task, scheduler, tmp_path, monkeypatch):
    torch = oracles.import_torch()
    unet = UNET | (dict(in_channels=9, out_channels=4) if "nine" in task else {})
    theirs, ours = saved(tmp_path, scheduler, unet)
    theirs = getattr(oracles.import_diffusers(), f"StableDiffusion{task.split()[0]}Pipeline")(**theirs.components)
    theirs.set_progress_bar_config(disable=True)
    start, image = noise(1, 8, 8, 4), np.random.default_rng(1).random((16, 16, 3)).astype(np.float32)
    mask = np.zeros((16, 16), np.float32)
    mask[2:10, 6:] = 1

    # theirs draws the latents of an image and the noise from torch's generator: here the mean, and the noise of ours
    from diffusers.models.autoencoders import vae
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as of_image
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as of_mask

    monkeypatch.setattr(vae.DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    for module in (of_image, of_mask):
        monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: first(start))
    strength = 0.6 if scheduler == "DDIMScheduler" or task == "Img2Img" else 1.0
    masked = {} if task == "Img2Img" else {"mask_image": torch.from_numpy(mask)[None, None], "height": 16, "width": 16}
    kept, images = run(
        theirs, prompt=PROMPTS[:1], image=first(image[None]), strength=strength, num_inference_steps=6, **masked
    )
    made = text_to_image.generate(
        ours, PROMPTS[:1], image=image, mask=mask if masked else None, strength=strength, steps=6, noise=start
    )
    check(made, kept[-1], images)


def test_what_is_written_is_the_same_pipeline(tmp_path):
    theirs, ours = saved(tmp_path / "theirs")
    text_to_image.save(tmp_path / "ours", ours)
    again = type(theirs).from_pretrained(tmp_path / "ours", low_cpu_mem_usage=False)
    again.set_progress_bar_config(disable=True)
    start = noise(1, 8, 8, 4)
    images = [run(pipe, prompt=PROMPTS[0], num_inference_steps=3, latents=first(start))[1] for pipe in (theirs, again)]
    np.testing.assert_array_equal(*images)
    assert text_to_image.load(tmp_path / "ours").scheduler == ours.scheduler


def test_in_bfloat16_too(tmp_path):
    saved(tmp_path)
    made = text_to_image.generate(text_to_image.load(tmp_path, dtype="bfloat16"), PROMPTS[:1], steps=3)
    assert np.isfinite(made.images).all()


def test_what_is_missing_is_named(tmp_path):
    saved(tmp_path)
    (tmp_path / "vae").rename(tmp_path / "gone")
    with pytest.raises(WeightsError, match="missing: vae"):
        text_to_image.load(tmp_path)
    (tmp_path / "gone").rename(tmp_path / "vae")
    config = tmp_path / "scheduler" / "scheduler_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"_class_name": "KDPM2DiscreteScheduler"}))
    with pytest.raises(WeightsError, match="unknown _class_name 'KDPM2DiscreteScheduler'"):
        text_to_image.load(tmp_path)
    config.write_text(json.dumps(values | {"rescale_betas_zero_snr": True}))
    with pytest.raises(WeightsError, match="rescale_betas_zero_snr is True, but only False is implemented"):
        text_to_image.load(tmp_path)
