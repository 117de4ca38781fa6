"""The parity ledger: every model that another library has too, with the same random weights in both, full size.

    deepmodels parity            # all of them
    deepmodels parity resnet50 vgg16

For each model the other library's one is built and given random weights and statistics, saved in its own format, and
read through our reader and our table of names. Then the two are compared: parameters; logits in float32, as they are
used; and in float64, where a wrong formula can't hide behind rounding, the gradient of the images and, for models with
batch statistics, logits and running statistics in training mode. Models of text are compared with transformers', by way
of a folder that it saves: what comes out of a padded text, the gradient of the embedding, and the tokens that a decoder
writes. Models that make pictures are compared with builds of torch's layers (generative.py). PARITY.md and parity.csv
beside this folder hold the rows; a row is replaced when its model is measured again.
"""

import csv
import datetime
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import generative
import jax
import jax.numpy as jnp
import numpy as np
import oracles

from deepmodels import cache, generation, loading, models, trees, weights
from deepmodels.errors import DeepModelsError, unknown
from deepmodels.weights import files
from deepmodels.weights.convert import DENSE, Rule, Rules, dense, to_ours
from deepmodels.weights.recurrent import recurrent

ROOT = Path(__file__).parent.parent
COLUMNS = (
    "model", "source", "version", "parameters", "theirs", "input", "logits max abs", "their rounding",
    "logits max rel", "gradient max rel", "training logits max rel", "statistics max rel", "greedy tokens", "date",
    "jax", "command",
)  # fmt: skip
SOURCES = ("torchvision", "timm")
WITHOUT_HEADS = {"aux_logits": False, "init_weights": False}
WITHOUT_DOWNLOAD = {"weights_backbone": None}
ARGUMENTS = {
    "googlenet": WITHOUT_HEADS,
    "inception_v3": WITHOUT_HEADS,
    "fcn_resnet50": WITHOUT_DOWNLOAD,
    "fcn_resnet101": WITHOUT_DOWNLOAD,
    "deeplabv3_resnet50": WITHOUT_DOWNLOAD,
    "deeplabv3_resnet101": WITHOUT_DOWNLOAD,
}  # torchvision's
SEGMENTATION = ("fcn", "deeplab")  # of which torchvision gives outputs by name, their channels first
OF_TEXT = (  # of those that transformers builds: not T5 1.1, whose two matrices of words it ties
    *("bert_tiny", "bert_mini", "bert_small", "bert_medium", "bert_base", "bert_large", "bert_base_cased"),
    *("bert_large_cased", "roberta_base", "distilbert", "all_minilm_l6_v2", "t5_small", "t5_base"),
    *("gpt1", "gpt2", "gpt2_medium"),
    *("gemma3_270m", "smollm2_135m", "smollm2_360m"),
    *("llama_tiny", "mixtral_tiny", "gemma3_tiny", "deepseek_tiny"),  # for all those that are too large
)
DECODED = 32  # tokens that both write behind a prompt
MASKED = ("mae_vit_b_16", "mae_vit_l_16")  # autoencoders that transformers builds
RECURRENT = {"elman": "RNN", "lstm": "LSTM", "bilstm": "LSTM", "gru": "GRU"}  # modules of torch.nn
LENGTH = 128  # of texts
LARGEST = 400_000_000  # parameters; twice as many in float64 don't fit into an ordinary machine
SMALL = 96  # pixels of the images in float64
DISTRIBUTIONS = {"open_clip": "open_clip_torch"}  # where a package isn't called as its module
RATES = ("dropout_rate", "stochastic_depth_rate", "drop_connect_rate")


def subjects() -> list[tuple[str, str]]:
    """Returns (model, source) for each model that a source builds under the same name and that has a table for it."""
    found = []
    for name, variant in models.MODELS.items():
        if variant.parameters > LARGEST:
            continue
        if name in OF_TEXT or name in MASKED:
            found.append((name, "transformers"))
        if name in OF_TORCH:
            found.append((name, "torch"))
        if name in WITH_OTHERS and find_spec(WITH_OTHERS[name][0]) is not None:
            found.append((name, WITH_OTHERS[name][0]))
        for source in SOURCES:
            rows = weights.TABLES[source]
            if (name in rows or variant.family in rows) and oracles.knows(source, name):
                found.append((name, source))
    return found


def compare(name: str, source: str) -> dict[str, Any]:
    """Returns the row of one model against one source."""
    if name in WITH_OTHERS:
        return WITH_OTHERS[name][1](name)
    if source == "transformers":
        return compare_masked(name) if name in MASKED else compare_text(name)
    if source == "torch":
        return OF_TORCH[name](name)
    variant = models.MODELS[name]
    theirs = getattr(oracles, source)(name, **(ARGUMENTS.get(name, {}) if source == "torchvision" else {}))
    if variant.family in SEGMENTATION:
        theirs.register_forward_hook(lambda module, _, output: output["out"].permute(0, 2, 3, 1))
    size = variant.inputs["images"].shape[0]
    oracles.settle(theirs, pixels(2, size))
    model = models.create(name)
    abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    rules = weights.table(source, name, variant.family)
    variables = to_ours(saved_and_read(theirs), rules, abstract)

    images = pixels(1, size)
    logits, expected = jax.jit(model.apply)(variables, images), logits_of(oracles.evaluate(theirs, images))
    row = float32_row(name, source, f"{size}x{size}x3", variables, theirs, logits, expected)
    exact = logits_of(oracles.evaluate(theirs.double(), images.astype(np.float64)))
    row["their rounding"] = f"{np.abs(expected - exact).max():.1e}"
    with jax.enable_x64(True):
        small = size if variant.family == "vit" else min(size, SMALL)  # theirs take no other
        row |= compare_float64(name, theirs, rules, pixels(2, small).astype(np.float64))
    return row


def compare_masked(name: str) -> dict[str, Any]:
    """Returns the row of one masked autoencoder, against transformers: the pixels that it makes of each patch."""
    model, size = models.create(name), models.MODELS[name].inputs["images"].shape[0]
    theirs = oracles.enliven(
        oracles.transformers(
            "ViTMAEForPreTraining",
            patch_size=model.patch_size,
            hidden_size=model.hidden_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_heads,
            intermediate_size=model.mlp_size,
        )
    )
    abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    with tempfile.TemporaryDirectory() as place:
        theirs.save_pretrained(place)
        variables = to_ours(files.read(place), weights.table("transformers", name, "mae"), abstract)
    images = pixels(1, size)
    noise = np.random.default_rng(1).random((1, (size // model.patch_size) ** 2)).astype(np.float32)

    def ours_of(variables: Any, images: np.ndarray) -> jax.Array:
        return model.apply(variables, images, noise)["patches"]

    patches, expected = jax.jit(ours_of)(variables, images), oracles.masked(theirs, images, noise)
    row = float32_row(name, "transformers", f"{size}x{size}x3", variables, theirs, patches, expected)
    doubles = images.astype(np.float64)
    exact = oracles.masked(theirs.double(), doubles, noise)
    row["their rounding"] = f"{np.abs(expected - exact).max():.1e}"
    cotangent = np.random.default_rng(1).normal(size=exact.shape)
    expected = oracles.masked(theirs, doubles, noise, cotangent)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        pull_back = jax.jit(lambda v, x: jax.vjp(lambda x: ours_of(v, x), x)[1](cotangent)[0])
        return row | {"gradient max rel": relative(pull_back(variables, doubles), expected)}


def compare_text(name: str) -> dict[str, Any]:
    """Returns the row of one model of text, against transformers."""
    model = models.create(name)
    config, _ = loading.config_of(model)
    (architecture,) = config.pop("architectures")
    theirs = oracles.transformers(architecture, **config)
    with tempfile.TemporaryDirectory() as place:
        theirs.save_pretrained(place)
        model, variables = loading.load_folder(place)

    tokens = np.random.default_rng(0).integers(2, model.vocab_size, (2, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH)[None] < np.array([[LENGTH], [LENGTH // 2]])
    inputs = dict(tokens=tokens, mask=mask)
    given = dict(input_ids=tokens, attention_mask=mask)
    if "decoder" in variables["params"]:
        inputs["targets"] = given["decoder_input_ids"] = tokens[::-1, : LENGTH // 2].copy()

    held = slice(0, LENGTH // 2)  # in both texts; what stands on padding counts for nothing

    def ours_of(variables: Any) -> jax.Array:
        output = model.apply(variables, **inputs)
        return (output["hidden"] if isinstance(output, dict) else output)[:, held]

    def theirs_of() -> Any:
        output = oracles.call(theirs, given)
        return (output["last_hidden_state"] if "last_hidden_state" in output else output["logits"])[:, held]

    logits, expected = jax.jit(ours_of)(variables), theirs_of().detach().numpy()
    row = float32_row(name, "transformers", f"2x{LENGTH}", variables, theirs, logits, expected)
    if hasattr(model, "extend"):
        row["greedy tokens"] = compare_greedy(model, variables, theirs, tokens[:1, : LENGTH // 4])
    theirs.double()
    theirs.set_experts_implementation("eager")  # the others have no float64
    output = theirs_of()
    row["their rounding"] = f"{np.abs(expected - output.detach().numpy()).max():.1e}"
    cotangent = np.random.default_rng(1).normal(size=tuple(output.shape))
    expected = oracles.embedding_gradient(theirs, output, cotangent)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        pull_back = jax.jit(lambda v, c: jax.vjp(ours_of, v)[1](c)[0]["params"]["token_embed"]["embedding"])
        gradient = pull_back(variables, cotangent)
    return row | {"gradient max rel": relative(gradient, expected)}


def compare_greedy(model: Any, variables: Any, theirs, prompt: np.ndarray) -> str:
    """Returns how many of the tokens are the same that both write behind a prompt (1, T), the likeliest each time."""
    (ours,) = generation.generate(model, variables, prompt.tolist(), max_new_tokens=DECODED)
    expected = oracles.greedy(theirs, prompt, DECODED)
    return f"{sum(a == b for a, b in zip(ours.tokens, expected, strict=True))} of {DECODED}"


def compare_recurrent(name: str) -> dict[str, Any]:
    """Returns the row of one recurrent network, against torch's, of which the second sequence is packed to its half."""
    model, channels = models.create(name), models.MODELS[name].inputs["inputs"].shape[1]
    theirs = oracles.torch_recurrent(RECURRENT[name], channels, model.hidden_size, bidirectional=model.bidirectional)
    lengths = [LENGTH, LENGTH // 2]
    inputs = np.random.default_rng(0).normal(size=(2, LENGTH, channels)).astype(np.float32)
    mask = np.arange(LENGTH)[None] < np.array(lengths)[:, None]
    variables = transferred(theirs, weights.table("torch", name, "recurrent"), model, inputs)
    return against_torch(
        name,
        f"2x{LENGTH}x{channels}",
        variables,
        theirs,
        lambda v, x: model.apply(v, x, mask),
        lambda x: oracles.run_packed(theirs, x, lengths),
        inputs,
    )


def compare_style(name: str) -> dict[str, Any]:
    """Returns the row of fast style transfer, against the layers of PyTorch's example."""
    model, theirs, images = models.create(name), generative.fast_style(), pixels(1, SMALL)
    variables = transferred(theirs, weights.table("torch", name, "style"), model, images)
    return against_torch(
        name,
        f"{SMALL}x{SMALL}x3",
        variables,
        theirs,
        lambda v, x: model.apply(v, x)["stylised"],
        lambda x: theirs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1),
        images,
    )


def compare_transformer(name: str) -> dict[str, Any]:
    """Returns the row of the Transformer of 2017 with biases in its attention, against torch's layers."""
    model = models.create(name, attention_bias=True, epsilon=1e-5)
    sizes = model.vocab_size, model.hidden_size, model.num_layers, model.num_heads, model.mlp_size
    theirs = oracles.torch_transformer(*sizes, models.transformer.sinusoids(LENGTH, model.hidden_size))
    tokens, targets, mask = pair_of_texts(model.vocab_size)
    variables = transferred(theirs, weights.table("torch", name, "transformer"), model, tokens, targets)
    given = (*map(oracles.tensor, (tokens, targets, mask)),)
    return against_torch(
        name,
        f"2x{LENGTH}, biases",
        variables,
        theirs,
        lambda v, x: model.apply({"params": v["params"] | {"token_embed": {"embedding": x}}}, tokens, targets, mask),
        lambda x: oracles.call_with(theirs, {"embedding.weight": x}, *given),
        np.asarray(variables["params"]["token_embed"]["embedding"]),
    )


def compare_seq2seq(name: str) -> dict[str, Any]:
    """Returns the row of a stack that reads and one that writes, against torch's LSTMs, whose two biases ours has."""
    model = models.create(name, recurrent_bias=True)
    theirs = oracles.torch_seq2seq(model.vocab_size, model.target_vocab_size, model.hidden_size, model.num_layers)
    tokens, targets, mask = pair_of_texts(model.target_vocab_size)  # the fewer
    rules = (
        Rule("source.weight", "params/token_embed/embedding"),
        Rule("target.weight", "params/target_embed/embedding"),
        *recurrent("encoder.", "encoder"),
        *recurrent("decoder.", "decoder"),
        Rule("head.weight", "params/head/kernel", DENSE),
        Rule("head.bias", "params/head/bias"),
    )
    variables = transferred(theirs, rules, model, tokens, targets)
    return against_torch(
        name,
        f"2x{LENGTH}, two biases",
        variables,
        theirs,
        lambda v, x: model.apply({"params": v["params"] | {"token_embed": {"embedding": x}}}, tokens, targets, mask),
        lambda x: oracles.call_with(
            theirs, {"source.weight": x}, *map(oracles.tensor, (tokens, targets)), mask.sum(1).tolist()
        ),
        np.asarray(variables["params"]["token_embed"]["embedding"]),
    )


class Generative(NamedTuple):
    """A model that makes pictures, and parity/generative.py's build of the same name."""

    build: tuple[int, ...]  # its arguments
    shape: tuple[int, ...]  # of the input: an image, or a latent
    rules: Rules
    made: Callable  # (module, batch) -> all that it makes of that, in the order of the build


def _translated(module: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    outputs = module(images)
    return tuple(outputs[name] for name in ("fake", "cycled", "fake_logits", "other_fake_logits") if name in outputs)


def _coded(module: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    logits = module.encode(images)
    return logits, module.decoder(jax.nn.softmax(logits))


def _told(module: Any, latents: jax.Array) -> tuple[jax.Array, ...]:
    fake = module.generate(latents)
    return fake, module.discriminate(fake)


def _bounded(module: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    outputs = module(images)
    return tuple(outputs[name] for name in ("mean", "log_var", "logits"))


VAE = sum((dense(*names) for names in (("down", "down0"), *((n, n) for n in ("mean", "log_var", "up0", "up1")))), ())
GENERATIVE = {
    "vae": Generative((784, 500, 20), (28, 28, 1), VAE, _bounded),
    "dalle_dvae": Generative((256, 128, 2, 8192), (64, 64, 3), weights.vae.DALL_E, _coded),
    "dcgan": Generative((100, 64, 64), (100,), weights.gan.DCGAN, _told),
    "pix2pix": Generative((64, 64), (256, 256, 3), weights.translation.PIX2PIX, _translated),
    "cyclegan": Generative((64, 64), (64, 64, 3), weights.translation.CYCLEGAN, _translated),
}


def compare_generative(name: str) -> dict[str, Any]:
    """Returns the row of a model that makes pictures, against a build of torch's layers.

    What is compared is all that it makes of the input, end to end: of an autoencoder codes and pixels, of two players
    the pictures and what discriminators say of them.
    """
    subject = GENERATIVE[name]
    model = models.create(name, **({"pool_size": 0} if name == "cyclegan" else {}))
    theirs = oracles.enliven(getattr(generative, name)(*subject.build))
    image = subject.shape if len(subject.shape) == 3 else models.MODELS[name].inputs["images"].shape
    variables = transferred(theirs, subject.rules, model, jnp.zeros((1, *image)))

    def ours_of(variables: Any, batch: np.ndarray) -> jax.Array:
        made = model.apply(variables, batch, method=subject.made)
        return jnp.concatenate([x.reshape(-1) for x in made])

    batch = np.random.default_rng(0).random((1, *subject.shape)).astype(np.float32)
    size = "x".join(map(str, subject.shape))
    return against_torch(name, size, variables, theirs, ours_of, theirs, batch)


SIDES = {  # the side of what goes in; the tiny one is for the U-Nets of Stable Diffusion, which are too large
    "ddpm_cifar10": 32,
    "stable_diffusion_unet_tiny": 8,
    "stable_diffusion_1_vae": 64,
}


def compare_diffusers(name: str) -> dict[str, Any]:
    """Returns the row of a network of a diffusion model, against diffusers, by way of a folder that this writes.

    Of an autoencoder, means and log-variances of the latents and what the means are decoded to.
    """
    size = SIDES[name]
    config, _ = loading.config_of(models.create(name, **still(name)))
    theirs = oracles.diffusers(config.pop("_class_name"), **config)
    with tempfile.TemporaryDirectory() as place:
        theirs.save_pretrained(place)
        model, variables = loading.load_folder(place)
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(1, size, size, model.in_channels)).astype(np.float32)
    context = rng.normal(size=(1, 77, getattr(model, "context_size", 1))).astype(np.float32)

    coded = isinstance(model, models.autoencoder_kl.AutoencoderKL)
    reads = hasattr(model, "context_size")

    def ours_of(variables: Any, batch: np.ndarray) -> jax.Array:
        if coded:
            made = model.apply(variables, batch)
            return jnp.concatenate([made[part].reshape(-1) for part in ("mean", "log_var", "reconstruction")])
        told = (context.astype(batch.dtype),) if reads else ()
        return model.apply(variables, batch, np.int32(500), *told)

    def theirs_of(batch: Any) -> Any:
        given = batch.permute(0, 3, 1, 2)
        if coded:
            posterior = theirs.encode(given).latent_dist
            parts = posterior.mean, posterior.logvar, theirs.decode(posterior.mean).sample
            return oracles.import_torch().cat([part.permute(0, 2, 3, 1).reshape(-1) for part in parts])
        told = (oracles.tensor(context).to(batch.dtype),) if reads else ()
        return theirs(given, 500, *told).sample.permute(0, 2, 3, 1)

    shape = f"{size}x{size}x{model.in_channels}"
    return against_torch(name, shape, variables, theirs, ours_of, theirs_of, batch, source="diffusers")


def compare_clip(name: str) -> dict[str, Any]:
    """Returns the row of a CLIP: the embeddings of pictures and texts, and their cosines."""
    model = models.create(name)
    source = WITH_OTHERS[name][0]
    images = pixels(2, model.image_size)
    tokens = np.random.default_rng(0).integers(2, model.vocab_size, (2, model.max_length)).astype(np.int32)
    if source == "transformers":
        config, rules = loading.config_of(model)
        theirs = oracles.transformers(config.pop("architectures")[0], **config)
    else:
        theirs, rules = oracles.open_clip(model), weights.clip.OPEN_CLIP
    variables = transferred(theirs, rules, model, images, tokens)

    def ours_of(variables: Any, images: jax.Array) -> jax.Array:
        outputs = model.apply(variables, images, tokens)
        seen, read = outputs["image_embedding"], outputs["text_embedding"]
        return jnp.concatenate([x.reshape(-1) for x in (seen, read, seen @ read.T)])

    def theirs_of(images: Any) -> Any:
        seen, read = oracles.embeddings(theirs, images.permute(0, 3, 1, 2), oracles.tensor(tokens))
        return oracles.import_torch().cat([x.flatten() for x in (seen, read, seen @ read.T)])

    size = f"2x{model.image_size}x{model.image_size}x3, 2x{model.max_length}"
    return against_torch(name, size, variables, theirs, ours_of, theirs_of, images, source)


def compare_clip_text(name: str) -> dict[str, Any]:
    """Returns the row of CLIP's text tower alone: its last two layers, and the end of the text."""
    model = models.create(name)
    config, rules = loading.config_of(model)
    theirs = oracles.transformers(config.pop("architectures")[0], **config)
    tokens = np.random.default_rng(0).integers(2, model.vocab_size, (2, model.max_length)).astype(np.int32)
    variables = transferred(theirs, rules, model, tokens)
    (weight,) = (name for name, _ in theirs.named_parameters() if name.endswith("token_embedding.weight"))

    def ours_of(variables: Any, embedding: jax.Array) -> jax.Array:
        params = variables["params"] | {"token_embed": {"embedding": embedding}}
        outputs = model.apply({"params": params}, tokens)
        outputs["pooled"] = outputs.pop("embedding", outputs["pooled"])
        return jnp.concatenate([outputs[kind].reshape(-1) for kind in ("hidden", "penultimate", "pooled")])

    def theirs_of(embedding: Any) -> Any:
        outputs = oracles.call_with(theirs, {weight: embedding}, oracles.tensor(tokens), output_hidden_states=True)
        pooled = outputs.text_embeds if "text_embeds" in outputs else outputs.pooler_output
        parts = outputs.last_hidden_state, outputs.hidden_states[-2], pooled
        return oracles.import_torch().cat([part.flatten() for part in parts])

    embedding = np.asarray(variables["params"]["token_embed"]["embedding"])
    size = f"2x{model.max_length}"
    return against_torch(name, size, variables, theirs, ours_of, theirs_of, embedding, "transformers")


def compare_dit(name: str) -> dict[str, Any]:
    """Returns the row of a diffusion transformer, against diffusers, whose embedding of timesteps DiT then has."""
    shift = {"frequency_shift": 1} if name.startswith("dit") else {}
    model, variant = models.create(name, **shift), models.MODELS[name]
    rng = np.random.default_rng(0)
    images, timesteps, *told = (
        rng.integers(0, 8, (2, *spec.shape)).astype(np.int32)
        if spec.dtype == np.int32
        else rng.normal(size=(2, *spec.shape)).astype(np.float32)
        for spec in variant.inputs.values()
    )
    theirs = oracles.diffusion_transformer(model)
    rules = weights.table("diffusers", name, "dit")
    variables = transferred(theirs, rules, model, images, timesteps, *told)
    floats = lambda x, like: x.astype(like.dtype) if x.dtype.kind == "f" else x  # noqa: E731

    def ours_of(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply(variables, images, timesteps, *(floats(x, images) for x in told))

    def theirs_of(images: Any) -> Any:
        given = (oracles.tensor(x) for x in told)
        given = [x.to(images.dtype) if x.is_floating_point() else x for x in given]
        order = (oracles.tensor(timesteps), *given) if name.startswith("dit") else (*given, oracles.tensor(timesteps))
        return theirs(images.permute(0, 3, 1, 2), *order).sample.permute(0, 2, 3, 1)

    size = "x".join(map(str, images.shape))
    return against_torch(name, size, variables, theirs, ours_of, theirs_of, images, "diffusers")


def compare_dalle(name: str) -> dict[str, Any]:
    """Returns the row of DALL-E's decoder, against torch's layers: what it says of words and codes."""
    model = models.create(name)
    sizes = (model.vocab_size, model.codebook_size, model.text_length, model.grid, model.hidden_size)
    theirs = oracles.enliven(
        generative.dalle(*sizes, model.num_layers, model.num_heads, model.mlp_size, model.kernel_size)
    )
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, model.vocab_size, (2, model.text_length)).astype(np.int32)
    codes = rng.integers(0, model.codebook_size, (2, model.grid**2)).astype(np.int32)
    mask = np.arange(model.text_length)[None] < np.array([[model.text_length], [model.text_length // 2]])
    variables = transferred(theirs, weights.dalle.TORCH, model, tokens, codes)

    def ours_of(variables: Any, embedding: jax.Array) -> jax.Array:
        params = variables["params"] | {"image_embed": {"embedding": embedding}}
        outputs = model.apply({"params": params}, tokens, codes, mask)
        return jnp.concatenate([outputs[kind].reshape(-1) for kind in ("text_logits", "image_logits")])

    given = (*map(oracles.tensor, (tokens, codes, mask)),)
    return against_torch(
        name,
        f"2x{model.text_length}, 2x{model.grid**2}",
        variables,
        theirs,
        ours_of,
        lambda x: oracles.call_with(theirs, {"image.weight": x}, *given),
        np.asarray(variables["params"]["image_embed"]["embedding"]),
    )


WITH_OTHERS = {  # the library that builds a model, and what compares it
    **dict.fromkeys(("clip_vit_b_32", "clip_vit_b_16", "clip_tiny"), ("transformers", compare_clip)),
    "clip_rn50": ("open_clip", compare_clip),
    **dict.fromkeys(("stable_diffusion_1_text", "clip_text_tiny"), ("transformers", compare_clip_text)),
    **dict.fromkeys(("dit_tiny", "mmdit_tiny"), ("diffusers", compare_dit)),
    **dict.fromkeys(SIDES, ("diffusers", compare_diffusers)),
}
OF_TORCH = {
    "dalle_tiny": compare_dalle,
    **dict.fromkeys(RECURRENT, compare_recurrent),
    "transformer_base": compare_transformer,
    "seq2seq_2014": compare_seq2seq,
    **dict.fromkeys(GENERATIVE, compare_generative),
    "fast_style": compare_style,
}


def against_torch(
    name: str,
    size: str,
    variables: Any,
    theirs: Any,
    ours_of: Callable,
    theirs_of: Callable,
    inputs: np.ndarray,
    source: str = "torch",
) -> dict[str, Any]:
    """Returns the row of a model of torch's layers: outputs in float32, the gradient of the inputs in float64."""
    outputs, expected = jax.jit(ours_of)(variables, inputs), theirs_of(oracles.tensor(inputs)).detach().numpy()
    row = float32_row(name, source, size, variables, theirs, outputs, expected)
    theirs.double()
    leaf = oracles.tensor(inputs.astype(np.float64)).requires_grad_()
    exact = theirs_of(leaf)
    cotangent = np.random.default_rng(1).normal(size=expected.shape)
    exact.backward(oracles.tensor(cotangent))
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        gradient = jax.jit(lambda v, x: jax.vjp(lambda x: ours_of(v, x), x)[1](cotangent)[0])(
            variables, inputs.astype(np.float64)
        )
    rounding = np.abs(expected - exact.detach().numpy()).max()
    return row | {"their rounding": f"{rounding:.1e}", "gradient max rel": relative(gradient, leaf.grad.numpy())}


def float32_row(
    name: str, source: str, size: str, variables: Any, theirs, logits: np.ndarray, expected: np.ndarray
) -> dict[str, Any]:
    """Returns what a row says of any model: who is compared, and the errors in float32."""
    return {
        "model": name,
        "source": source,
        "version": metadata.version(DISTRIBUTIONS.get(source, source)),
        "parameters": trees.count(variables["params"]),
        "theirs": sum(p.numel() for p in theirs.parameters()),
        "input": size,
        "date": datetime.date.today().isoformat(),
        "jax": jax.__version__,
        "command": f"deepmodels parity {name}",
        "logits max abs": f"{np.abs(logits - expected).max():.1e}",
        "logits max rel": relative(logits, expected),
    }


def compare_float64(name: str, theirs, rules: Rules, images: np.ndarray) -> dict[str, str]:
    """Returns the errors of the gradient of the images and, where there are batch statistics, of a training step."""
    model = models.create(name, **still(name))
    abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(images.shape, jnp.float32))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float64), abstract)
    variables = to_ours(oracles.state_dict(theirs), rules, abstract)
    output = logits_of(oracles.evaluate(theirs, images))
    cotangent = np.random.default_rng(1).normal(size=output.shape)
    # variables are arguments: as constants of the program XLA would fold them for minutes
    pull_back = jax.jit(lambda v, x: jax.vjp(lambda x: model.apply(v, x), x)[1](cotangent)[0])
    gradient = pull_back(variables, images)
    errors = {"gradient max rel": relative(gradient, oracles.input_gradient(theirs, images, cotangent))}
    if "batch_stats" in variables:
        expected = logits_of(oracles.train(theirs, images))
        ours, updated = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
        statistics = to_ours(oracles.state_dict(theirs), rules, abstract)["batch_stats"]
        errors["training logits max rel"] = relative(ours, expected)
        pairs = zip(jax.tree.leaves(updated["batch_stats"]), jax.tree.leaves(statistics), strict=True)
        errors["statistics max rel"] = max((relative(a, b) for a, b in pairs), key=float)
    return errors


def saved_and_read(module) -> dict[str, np.ndarray]:
    """Returns the arrays of a module, by way of a file in torch's own format and our reader."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        torch.save(module.state_dict(), path)
        return files.read(path)


def still(name: str) -> dict[str, float]:
    """Returns the arguments of a model with which it drops nothing."""
    return {rate: 0.0 for rate in RATES if rate in models.MODELS[name].cls.__dataclass_fields__}


def transferred(theirs, rules: Rules, model: Any, *inputs: Any) -> Any:
    """Returns the variables that a model of ours has of a module's arrays, which are saved and read."""
    return to_ours(saved_and_read(theirs), rules, jax.eval_shape(model.init, jax.random.key(0), *inputs))


def pair_of_texts(vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns two sources (2, LENGTH), random targets half as long, and a mask that has half of the second source."""
    tokens = np.random.default_rng(0).integers(2, vocab_size, (2, LENGTH)).astype(np.int32)
    return tokens, tokens[::-1, : LENGTH // 2].copy(), np.arange(LENGTH)[None] < np.array([[LENGTH], [LENGTH // 2]])


def logits_of(output: Any) -> np.ndarray:
    """Returns the main output of a model that has others beside it."""
    if isinstance(output, dict):
        return output["logits"]
    return output


def relative(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Returns the largest difference as a share of the largest value."""
    return f"{np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max():.1e}"


def pixels(batch: int, size: int) -> np.ndarray:
    """Returns random images (B, size, size, 3)."""
    return np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the rows into parity.csv and PARITY.md, in place of older ones of the same model and source."""
    path = ROOT / "parity.csv"
    table = {}
    if path.exists():
        with path.open(newline="") as file:
            table = {(row["model"], row["source"]): row for row in csv.DictReader(file)}
    table |= {(row["model"], row["source"]): row for row in rows}
    order = {name: number for number, name in enumerate(models.MODELS)}
    kept = sorted(
        (row for row in table.values() if row["model"] in order), key=lambda r: (order[r["model"]], r["source"])
    )
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    shown = [column for column in COLUMNS if column not in ("command", "version")]
    lines = [
        "# Parity ledger",
        "",
        "Made by `deepmodels parity`: each model beside an independent implementation of it, with the same random",
        "weights in both, on a CPU. Errors are the largest difference, absolute or as a share of the largest value:",
        "logits in float32 at the size of the input, and beside them how far the other library's float32 logits are",
        "from its own float64 ones; gradient of the images, logits and running statistics in training mode in float64",
        f"at {SMALL}x{SMALL} or the input's size if that is smaller. Image models have weights of He's standard",
        "deviation, random biases, scales, offsets and layer scales, smaller scales at the ends of residual",
        "branches, offsets higher by 1 where there are none, running statistics off those of two images by a tenth of",
        "the deviation and up to a fifth of the variance, and a last layer that is scaled such that the outputs for",
        "the two have a root mean square of 1 (`settle` in parity/oracles.py). Of models of text, the hidden states or",
        "logits of a text and a padded one, and the gradient of the embedding; T5's agree within float32 only, in",
        "which transformers computes norms and softmax. Of decoders, how many tokens are the same that both write",
        "behind a prompt, each with its own cache. Of models that make pictures, all that they make of the input:",
        "codes and pixels, or pictures and what discriminators say of them. Of CLIP, the embeddings of pictures and",
        "texts and their cosines. Gradients of networks that undo noise agree within float32, in which diffusers",
        "embeds the time.",
        "",
        f"| {' | '.join(shown)} |",
        "|" + " --- |" * len(shown),
    ]
    for row in kept:
        source = f"{row['source']} {row['version']}"
        cells = [source if column == "source" else str(row.get(column) or "") for column in shown]
        lines.append(f"| {' | '.join(cells)} |")
    (ROOT / "PARITY.md").write_text("\n".join(lines) + "\n")


def main(names: list[str]) -> None:
    """Measures the models of these names, or all, and writes the ledger after each."""
    known = subjects()
    for name in names:
        if name not in {subject for subject, _ in known}:
            raise unknown("model with a ledger row", name, {subject for subject, _ in known})
    cache.enable()  # two sources have the same program
    for name, source in known:
        if not names or name in names:
            row = compare(name, source)
            write([row])
            print(f"{name} ({source}): logits {row['logits max abs']}, parameters {row['parameters']:,}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DeepModelsError as error:
        sys.exit(f"error: {error}")
