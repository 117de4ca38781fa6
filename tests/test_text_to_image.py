"""A small pipeline of our own: what it takes, that it says what is wrong, and the command. diffusers' are parity."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deepmodels import cli, text_to_image, tokenizers
from deepmodels.errors import ConfigError, ShapeError, WeightsError
from deepmodels.models.autoencoder_kl import AutoencoderKL
from deepmodels.models.clip import CLIPText
from deepmodels.models.diffusion import ConditionalUNet
from deepmodels.text_to_image import Part, Pipeline, Text, generate

SCHEDULER = {"_class_name": "EulerAncestralDiscreteScheduler", "beta_schedule": "scaled_linear"}
SCHEDULER |= {"beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline's folder, written by ours."""
    pytest.importorskip("tokenizers")
    place = tmp_path_factory.mktemp("pipeline")
    letters = [chr(byte) for byte in range(ord("!"), ord("~") + 1)]
    entries = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    unet = ConditionalUNet(
        channels=(4,), attention=(1,), num_blocks=1, num_groups=2, context_size=8, in_channels=2, out_channels=2,
        image_size=4,
    )  # fmt: skip
    vae = AutoencoderKL(channels=(4, 4), num_blocks=1, num_groups=2, latent_size=2)
    text = CLIPText(len(entries), 8, 1, 2, max_length=10, embedding_size=0)
    inputs = {
        unet: (np.zeros((1, 4, 4, 2)), np.zeros(1), np.zeros((1, 1, 8))),
        vae: (np.zeros((1, 4, 4, 3)),),
        text: (np.zeros((1, 1), np.int32),),
    }

    def made(model):
        shapes = jax.eval_shape(model.init, jax.random.key(0), *(jnp.asarray(x) for x in inputs[model]))
        rng = np.random.default_rng(0)
        return model, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)

    pipeline = Pipeline(
        Part(*made(unet)),
        Part(*made(vae)),
        (Text(*made(text), tokenizers.load(place / "vocab.json")),),
        SCHEDULER,
        {"_class_name": "StableDiffusionPipeline"},
    )
    text_to_image.save(place / "pipeline", pipeline)
    return place / "pipeline"


@pytest.fixture(scope="module")
def pipeline(folder):
    return text_to_image.load(folder)


def test_pictures_are_of_the_seed_and_their_place(pipeline, folder):
    made = generate(pipeline, ["a cat", "a dog"], steps=3, trace=True)
    assert (made.images.shape, made.trace.shape) == ((2, 8, 8, 3), (3, 2, 4, 4, 2))
    np.testing.assert_array_equal(made.trace[-1], made.latents)
    again = generate(text_to_image.load(folder), ["a cat", "a dog"], steps=3)
    np.testing.assert_array_equal(again.images, made.images)
    alone = generate(pipeline, ["a cat"], steps=3)
    np.testing.assert_allclose(alone.images, made.images[:1], atol=1e-5)
    other = generate(pipeline, ["a cat", "a cow"], steps=3, seed=1)
    assert np.abs(other.images - made.images).max() > 1e-3


def test_what_a_mask_leaves_stays(pipeline):
    image = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    mask = np.zeros((8, 8))
    mask[:, 4:] = 1
    made = generate(pipeline, ["a cat"], steps=2, image=image, mask=mask)
    vae = pipeline.vae
    clean = vae.model.apply(vae.variables, jnp.asarray(2 * image - 1)[None], method="encode")[0] * 0.18215
    np.testing.assert_allclose(made.latents[:, :, :2], clean[:, :, :2], rtol=1e-5, atol=1e-5)
    assert np.abs(made.latents[:, :, 2:] - clean[:, :, 2:]).max() > 0.1


def test_mistakes_are_named(pipeline):
    image = np.zeros((8, 8, 3), np.float32)
    for values, error, says in (
        (dict(height=9), ConfigError, "height, width: expected numbers divisible by 2, got 9 and 8"),
        (dict(mask=np.zeros((8, 8))), ConfigError, "mask: it says what of an image"),
        (dict(image=image.astype(np.uint8)), ShapeError, r"image: expected floats of shape \(H, W, 3\).*uint8"),
        (
            dict(image=image, mask=np.zeros((4, 8))),
            ShapeError,
            r"mask: expected the image's height and width, \(8, 8\)",
        ),
        (dict(image=image, width=16), ShapeError, "image: expected 8 x 16 pixels, got 8 x 8"),
        (dict(image=image, strength=0.0), ConfigError, "strength: expected at most 1"),
        (dict(sampler="eular"), ConfigError, "unknown sampler 'eular': did you mean 'euler'"),
        (dict(steps=2000), ConfigError, "steps: expected from 1 to the 1000"),
        (dict(noise=np.zeros((1, 4, 4, 4))), ShapeError, r"noise: expected shape \(1, 4, 4, 2\)"),
    ):
        with pytest.raises(error, match=says):
            generate(pipeline, ["a cat"], **values)
    with pytest.raises(ConfigError, match="prompts: expected a sequence of texts, got 'a cat'"):
        generate(pipeline, "a cat")
    with pytest.raises(ShapeError, match="images: expected shape .* divisible by 2, got"):
        jax.eval_shape(lambda x: pipeline.vae.model.apply(pipeline.vae.variables, x, method="encode"), image[None, :7])
    with pytest.warns(UserWarning, match="has 14 tokens, 4 more than 10, which are cut"):
        text_to_image.embed(pipeline, ["abcde abcdefg"])


def test_folders_that_arent(folder, tmp_path):
    with pytest.raises(WeightsError, match="there is no such folder"):
        text_to_image.load(tmp_path / "nowhere")
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(WeightsError, match="_class_name is 'FluxPipeline', none of"):
        text_to_image.load(tmp_path)
    (tmp_path / "model_index.json").write_text((folder / "model_index.json").read_text())
    with pytest.raises(WeightsError, match="missing: unet, vae, scheduler, text_encoder, tokenizer"):
        text_to_image.load(tmp_path)


def test_the_command(folder, pipeline, tmp_path, capsys):
    path = tmp_path / "new" / "x.png"
    given = ["sample", "--model", str(folder), "--prompt", "a cat", "--steps", "3", "--seed", "4"]
    cli.main([*given, "--output", str(path), "--every-step"])
    expected = generate(pipeline, ["a cat"], steps=3, seed=4)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.round(expected.images[0] * 255))
    written = sorted(file.name for file in path.parent.iterdir())
    assert written == ["x-step001.png", "x-step002.png", "x-step003.png", "x.png"]
    assert capsys.readouterr().out.split() == [str(path.parent / name) for name in ["x.png", *written[:3]]]
    np.testing.assert_array_equal(Image.open(path.parent / "x-step003.png"), Image.open(path))
    with pytest.raises(SystemExit) as exit_info:
        cli.main(given)
    assert exit_info.value.code == 1
    assert "makes pictures: give --output FILE.png" in capsys.readouterr().err
