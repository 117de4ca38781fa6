"""Pictures that a text describes: Stable Diffusion 1, 2 and XL, from a folder as diffusers has it.

    pipeline = deepmodels.text_to_image.load("stable-diffusion-v1-5/")
    made = deepmodels.text_to_image.generate(pipeline, ["a photograph of an astronaut riding a horse"])

Rombach, Blattmann, Lorenz, Esser & Ommer (2021), arXiv:2112.10752; Podell et al. (2023), arXiv:2307.01952. N pictures,
H height and W width in pixels, h and w of latents, D channels of latents, S steps.
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels import loading, tokenizers
from deepmodels.errors import ConfigError, ShapeError, WeightsError, unknown
from deepmodels.models.autoencoder_kl import decode_in_tiles
from deepmodels.models.diffusion import size_vector
from deepmodels.sampling import denoising
from deepmodels.trees import PyTree
from deepmodels.weights import diffusers_config, folder

INDEX = "model_index.json"
_XL = "StableDiffusionXL"
_KINDS = ("StableDiffusion", _XL)  # with "Pipeline", "Img2ImgPipeline" or "InpaintPipeline" behind them
_COMPONENTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": None}


class Part(NamedTuple):
    """A network and its variables."""

    model: nn.Module
    variables: PyTree


class Text(NamedTuple):
    """A text encoder, its variables, and the tokenizer before it."""

    model: nn.Module
    variables: PyTree
    tokenizer: tokenizers.Tokenizer


class Pipeline(NamedTuple):
    """All that makes pictures of a text.

    Attributes:
      unet: undoes noise.
      vae: between latents and pixels.
      texts: encoders of the text: one, or XL's two.
      scheduler: what scheduler_config.json says.
      index: what model_index.json says.
    """

    unet: Part
    vae: Part
    texts: tuple[Text, ...]
    scheduler: dict[str, Any]
    index: dict[str, Any]

    @property
    def is_xl(self) -> bool:
        """Whether it is told the picture's size, and takes the texts before their encoders' last layers."""
        return self.index[diffusers_config.CLASS].startswith(_XL)


class Pictures(NamedTuple):
    """What was made.

    Attributes:
      images: (N, H, W, 3) float32 in [0, 1].
      latents: (N, h, w, D), what they were decoded from.
      trace: (S, N, h, w, D), the latents after each step, or None.
    """

    images: np.ndarray
    latents: np.ndarray
    trace: np.ndarray | None


def load(path: str | os.PathLike, *, cast: bool = True, dtype: str = "float32") -> Pipeline:
    """Returns what is in a folder of diffusers: model_index.json, and a folder for each component it names.

    Args:
      path: the folder.
      cast: whether floats of another precision than `dtype` are converted.
      dtype: of the parameters, "float32" or "bfloat16".

    Raises:
      WeightsError: the pipeline is of another kind, a component is missing, or one can't be used.
    """
    place = Path(path)
    if not place.is_dir():
        raise WeightsError(f"{place}: there is no such folder")
    index = folder.read_config(place, INDEX)
    kind = str(index.get(diffusers_config.CLASS))
    names = {f"{name}{task}Pipeline" for name in _KINDS for task in ("", "Img2Img", "Inpaint")}
    if kind not in names:
        raise WeightsError(f"{place / INDEX}: {diffusers_config.CLASS} is {kind!r}, none of {sorted(names)}")
    numbers = ("", "_2") if kind.startswith(_XL) else ("",)
    needed = [*_COMPONENTS, *(f"{name}{number}" for number in numbers for name in ("text_encoder", "tokenizer"))]
    missing = [name for name in needed if not (place / name).is_dir() or index.get(name) in (None, [None, None])]
    if missing:
        raise WeightsError(f"{place}: a {kind} needs the folders {', '.join(needed)}; missing: {', '.join(missing)}")
    scheduler = folder.read_config(place / "scheduler", diffusers_config.SCHEDULER)
    diffusers_config.schedule_of(scheduler)  # whether it can be used, before the weights are read
    read = partial(loading.load_folder, cast=cast, dtype=dtype)
    texts = tuple(
        Text(*read(place / f"text_encoder{number}"), tokenizers.load(place / f"tokenizer{number}"))
        for number in numbers
    )
    return Pipeline(Part(*read(place / "unet")), Part(*read(place / "vae")), texts, scheduler, index)


def save(path: str | os.PathLike, pipeline: Pipeline) -> None:
    """Writes a pipeline as a folder that diffusers loads.

    Args:
      path: the folder; it is made, and files of these names in it are replaced.
      pipeline: as `load` returns it.

    Raises:
      WeightsError: diffusers or transformers has no such model, or the folder can't be written to.
    """
    place = Path(path)
    index: dict[str, Any] = {diffusers_config.CLASS: pipeline.index[diffusers_config.CLASS]}
    for name, kind in _COMPONENTS.items():
        index[name] = ["diffusers", kind or pipeline.scheduler[diffusers_config.CLASS]]
    try:
        for name in ("scheduler", "tokenizer", *(("tokenizer_2",) if pipeline.is_xl else ())):
            (place / name).mkdir(parents=True, exist_ok=True)
        (place / "scheduler" / diffusers_config.SCHEDULER).write_text(json.dumps(pipeline.scheduler, indent=2) + "\n")
    except OSError as error:
        raise WeightsError(f"{place} can't be written to: {error}") from error
    for name in ("unet", "vae"):
        loading.save_folder(place / name, *getattr(pipeline, name))
    for number, text in zip(("", "_2"), pipeline.texts, strict=False):
        written = place / f"text_encoder{number}"
        loading.save_folder(written, text.model, text.variables, special=text.tokenizer.special)
        (kind,) = folder.read_config(written)["architectures"]
        index[f"text_encoder{number}"] = ["transformers", kind]
        index[f"tokenizer{number}"] = ["transformers", "CLIPTokenizer"]
        text.tokenizer.save(place / f"tokenizer{number}", max_length=text.model.max_length)
    if pipeline.is_xl:
        index["force_zeros_for_empty_prompt"] = pipeline.index.get("force_zeros_for_empty_prompt", True)
    else:  # what of theirs isn't a part of the model
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (place / INDEX).write_text(json.dumps(index, indent=2) + "\n")  # last: what it names is there


def embed(pipeline: Pipeline, prompts: Sequence[str]) -> tuple[Array, Array | None]:
    """Returns what the network attends to of texts, (N, T, C), and of XL the texts as a whole, (N, E), or None.

    A text that is longer than the encoder's positions is cut, and a warning says how much of it.

    Args:
      pipeline: as `load` returns it.
      prompts: N of them.
    """
    outputs = []
    for text in pipeline.texts:
        tokens = tokenizers.encode_prompts(text.tokenizer, prompts, text.model.max_length)
        outputs.append(_encoded(text.model, text.variables, tokens))
    if not pipeline.is_xl:
        return outputs[0]["hidden"], None
    return jnp.concatenate([output["penultimate"] for output in outputs], -1), outputs[-1]["embedding"]


def generate(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    negative_prompt: str | None = None,
    steps: int = 50,
    guidance_scale: float = 7.5,
    height: int | None = None,
    width: int | None = None,
    image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    strength: float | None = None,
    sampler: str | None = None,
    seed: int = 0,
    noise: np.ndarray | None = None,
    tile: int | None = None,
    on_step: Callable[[int], None] | None = None,
    trace: bool = False,
) -> Pictures:
    """Returns pictures that texts describe: new ones, or changes of one, or of a part of one.

    The loop over steps is one program on the device. A picture depends on the seed and on its place in the list, and
    not on how many there are.

    Args:
      pipeline: as `load` returns it.
      prompts: N texts.
      negative_prompt: what the pictures shouldn't be of; by default of nothing that is said.
      steps: of the sampler.
      guidance_scale: how many times farther than without; 1 goes without guidance, and takes half the time.
      height: in pixels, by default what the network was trained with, or the image's.
      width: likewise.
      image: (H, W, 3) of values in [0, 1], to be changed.
      mask: (H, W), above 0.5 where the image is to be made anew; elsewhere it stays.
      strength: in (0, 1], how far the image is taken back to noise; by default 0.8, with a mask 1.
      sampler: a key of `sampling.denoising.SAMPLERS` in place of the scheduler's, with what it takes of its settings.
      seed: of the noise.
      noise: standard normal noise (N, h, w, D) in place of the seed's, to begin with.
      tile: decode in parts of so many latents' side, see `models.autoencoder_kl.decode_in_tiles`; None for at once.
      on_step: called with the number of each step when it is done.
      trace: whether the latents after each step are returned.

    Raises:
      ConfigError: prompts are none or one text, a size isn't divisible by the autoencoder's factor times what the
        network halves, a mask comes without an image, or the sampler or its steps don't fit.
      ShapeError: an image, a mask or the noise has another shape.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ConfigError(f"prompts: expected a sequence of texts, got {prompts!r}")
    count, vae = len(prompts), pipeline.vae.model
    image, mask = _checked(image, mask)
    if image is not None:
        height, width = height or image.shape[0], width or image.shape[1]
    height, width = (size or pipeline.unet.model.image_size * vae.factor for size in (height, width))
    unit = vae.factor * 2 ** (len(pipeline.unet.model.channels) - 1)
    if height % unit or width % unit or min(height, width) < 1:
        raise ConfigError(f"height, width: expected numbers divisible by {unit}, got {height} and {width}")
    if image is not None and image.shape[:2] != (height, width):
        raise ShapeError(f"image: expected {height} x {width} pixels, got {image.shape[0]} x {image.shape[1]}")

    strength = (1.0 if mask is not None else 0.8) if strength is None else strength
    described = json.dumps(pipeline.scheduler), sampler, steps, float(strength) if image is not None else 1.0
    table = _sampler(*described)  # whether it can be had, before anything slow
    shape = (height // vae.factor, width // vae.factor, vae.latent_size)
    keys = [jax.random.fold_in(jax.random.key(seed), number) for number in range(count)]
    if noise is None:
        noise = jnp.stack([jax.random.normal(key, shape) for key in keys])
    elif noise.shape != (count, *shape):
        raise ShapeError(f"noise: expected shape {(count, *shape)}, got {tuple(noise.shape)}")
    added = None
    if table.rows.noise.any():  # each picture's own
        drawn = [jax.random.normal(jax.random.fold_in(key, 1), (len(table.rows.noise), *shape)) for key in keys]
        added = jnp.stack(drawn, 1)

    told = _conditions(pipeline, list(prompts), height, width)
    untold = None
    if guidance_scale != 1:
        zeros = pipeline.is_xl and pipeline.index.get("force_zeros_for_empty_prompt", True) and negative_prompt is None
        untold = _conditions(pipeline, [negative_prompt or ""] * count, height, width, zeros=zeros)
    start, known = _beginning(pipeline, table, jnp.asarray(noise), image, mask, strength)
    run = _program(pipeline.unet.model, *described, float(guidance_scale), on_step, trace)
    latents = run(pipeline.unet.variables, start, told, untold, added, known)
    latents, steps_taken = latents if trace else (latents, None)
    images = decode(pipeline, latents, tile=tile)
    return Pictures(images, np.asarray(latents), None if steps_taken is None else np.asarray(steps_taken))


def decode(pipeline: Pipeline, latents: Array, *, tile: int | None = None) -> np.ndarray:
    """Returns pictures (N, H, W, 3) in [0, 1] of latents (N, h, w, D), one after the other.

    Args:
      pipeline: as `load` returns it.
      latents: as the network has them, scaled.
      tile: as in `generate`.
    """
    vae = pipeline.vae.model

    def made(latents: Array) -> Array:
        return _decoded(vae, pipeline.vae.variables, latents)

    pixels = []
    for row in latents:
        values = jnp.asarray(row)[None] / vae.scaling_factor + vae.shift_factor
        whole = made(values) if tile is None else decode_in_tiles(made, values, tile=tile, factor=vae.factor)
        pixels.append(np.asarray(whole, np.float32))
    return np.clip(np.concatenate(pixels) / 2 + 0.5, 0, 1)


@partial(jax.jit, static_argnums=0)
def _decoded(vae: nn.Module, variables: PyTree, latents: Array) -> Array:
    return vae.apply(variables, latents.astype(_dtype(variables)), method="decode")


@partial(jax.jit, static_argnums=0)
def _mean(vae: nn.Module, variables: PyTree, pixels: Array) -> Array:
    return vae.apply(variables, pixels.astype(_dtype(variables)), method="encode")[0].astype(pixels.dtype)


@partial(jax.jit, static_argnums=0)
def _encoded(model: nn.Module, variables: PyTree, tokens: Array) -> dict[str, Array]:
    return model.apply(variables, tokens)


def _checked(image: np.ndarray | None, mask: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    if image is None:
        if mask is not None:
            raise ConfigError("mask: it says what of an image is made anew, and there is no image")
        return None, None
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not np.issubdtype(image.dtype, np.floating):
        raise ShapeError(f"image: expected floats of shape (H, W, 3) in [0, 1], got {image.dtype} {image.shape}")
    if mask is not None and np.shape(mask) != image.shape[:2]:
        raise ShapeError(f"mask: expected the image's height and width, {image.shape[:2]}, got {np.shape(mask)}")
    return image.astype(np.float32), None if mask is None else np.asarray(mask) > 0.5


@lru_cache(maxsize=8)
def _sampler(scheduler: str, name: str | None, steps: int, strength: float) -> denoising.Sampler:
    """The table of the scheduler's sampler, or of another one with what that takes of the scheduler's settings."""
    schedule = diffusers_config.schedule_of(json.loads(scheduler))
    powers = denoising.signal_powers(denoising.BETAS[schedule.betas](**schedule.ends))
    options = schedule.options
    if name is not None and name != schedule.sampler:
        if name not in denoising.SAMPLERS:
            raise unknown("sampler", name, denoising.SAMPLERS)
        options = {"prediction": options["prediction"]}
        options |= {"clip": None} if name in ("ddpm", "ddim") else {}  # latents aren't pixels
    name = name or schedule.sampler
    begin = {"strength": strength} if name == "lcm" else {"begin": denoising.skipped(steps, strength)}
    return denoising.SAMPLERS[name](powers, steps, **options, **begin)


def _conditions(
    pipeline: Pipeline, prompts: list[str], height: int, width: int, zeros: bool = False
) -> dict[str, Array]:
    """What the network is told beside the time."""
    context, pooled = embed(pipeline, prompts)
    if zeros:
        context, pooled = jnp.zeros_like(context), jnp.zeros_like(pooled)
    if pooled is None:
        return {"context": context}
    sizes = jnp.tile(jnp.array([[height, width, 0, 0, height, width]], jnp.float32), (len(prompts), 1))
    channels = pipeline.unet.model.vector_size - pooled.shape[1]
    return {"context": context, "vector": size_vector(pooled, sizes, size=channels // sizes.shape[1])}


def _beginning(
    pipeline: Pipeline,
    table: denoising.Sampler,
    noise: Array,
    image: np.ndarray | None,
    mask: np.ndarray | None,
    strength: float,
) -> tuple[Array, dict[str, Array]]:
    """The latents that the loop begins with, and what it knows of the image: for a network that isn't told, or is."""
    if image is None:
        return table.start * noise, {}
    vae = pipeline.vae.model

    def encoded(pixels: np.ndarray) -> Array:
        mean = _mean(vae, pipeline.vae.variables, jnp.asarray(2 * pixels - 1)[None])
        return jnp.broadcast_to((mean - vae.shift_factor) * vae.scaling_factor, noise.shape)

    clean = encoded(image)
    start = table.start * noise if mask is not None and strength == 1 else denoising.noised(table, clean, noise)
    if mask is None:
        return start, {}
    new = jnp.asarray(mask[:: vae.factor, :: vae.factor, None].astype(np.float32))[None]
    new = jnp.broadcast_to(new, (*noise.shape[:-1], 1))
    if pipeline.unet.model.in_channels == noise.shape[-1]:
        return start, {"new": new, "clean": clean, "noise": noise}
    # a network of nine channels, that was trained to be told the mask and the rest of the image
    rest = encoded(np.where(mask[..., None], np.float32(0.5), image))
    return start, {"beside": jnp.concatenate([new, rest], -1)}


@lru_cache(maxsize=8)
def _program(
    unet: nn.Module,
    scheduler: str,
    sampler: str | None,
    steps: int,
    strength: float,
    scale: float,
    on_step: Callable[[int], None] | None,
    trace: bool,
) -> Callable:
    """The loop as one program, compiled once for each shape."""
    table = _sampler(scheduler, sampler, steps, strength)

    @jax.jit
    def run(
        variables: PyTree, start: Array, told: PyTree, untold: PyTree, added: Array | None, known: dict[str, Array]
    ) -> Any:
        dtype = _dtype(variables)

        def forward(x: Array, timestep: Array, condition: dict[str, Array]) -> Array:
            if "beside" in known:
                copies = len(x) // len(known["beside"])
                x = jnp.concatenate([x, jnp.tile(known["beside"], (copies, 1, 1, 1))], -1)
            return unet.apply(variables, x.astype(dtype), timestep, **condition).astype(x.dtype)

        def held(x: Array, signal: Array, level: Array) -> Array:
            old = signal * known["clean"] + level * known["noise"]
            return known["new"] * x + (1 - known["new"]) * old

        guided = denoising.classifier_free(forward, told, untold, scale)
        after = held if "clean" in known else None
        return denoising.denoise(guided, start, table, noise=added, after=after, on_step=on_step, trace=trace)

    return run


def _dtype(variables: PyTree) -> jnp.dtype:
    return jax.tree.leaves(variables)[0].dtype
