"""Independent implementations to compare with: models of torchvision and timm with random weights and statistics.

    model = oracles.torchvision("resnet18", num_classes=5)
    expected = oracles.evaluate(model, images)

Importing this file needs nothing; a test that calls it is skipped where torch or the library isn't installed. Images
are numpy (B, H, W, C) here as everywhere; what torch keeps as (B, C, H, W) stays inside.
"""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def torchvision(name: str, *, seed: int = 0, library: ModuleType | None = None, **arguments: Any):
    """Returns a model of torchvision, or of another module of the same form, randomised."""
    torch = import_torch()
    library = library or _module(name)
    torch.manual_seed(seed)
    return randomise(getattr(library, name)(weights=None, **arguments), seed)


def timm(name: str, *, seed: int = 0, **arguments: Any):
    """Returns a model of timm, by its name there or torchvision's, randomised."""
    torch = import_torch()
    torch.manual_seed(seed)
    return randomise(_timm().create_model(_TIMM.get(name, name), pretrained=False, **arguments), seed)


def transformers(name: str, *, seed: int = 0, **config: Any):
    """Returns a model of transformers, "BertModel", of a configuration with these values; randomised."""
    torch = import_torch()
    torch.manual_seed(seed)
    cls = getattr(import_transformers(), name)
    return randomise(cls(cls.config_class(**config)), seed)


def diffusers(name: str, *, seed: int = 0, **config: Any):
    """Returns a model of diffusers, "UNet2DModel", of a configuration with these values; its weights enlivened."""
    library = import_diffusers()
    import_torch().manual_seed(seed)
    return enliven(getattr(library, name)(**config))


def open_clip(clip: Any):
    """Returns a model of open_clip of the sizes of one of ours, randomised; or skips the test."""
    import_torchvision()  # which open_clip imports
    library = pytest.importorskip("open_clip")
    vision = dict(image_size=clip.image_size, layers=clip.vision_layers, width=clip.vision_size)
    if clip.patch_size is None:
        vision["head_width"] = 32 * clip.vision_size // clip.vision_heads
    else:
        vision |= dict(patch_size=clip.patch_size, head_width=clip.vision_size // clip.vision_heads)
    text = dict(
        context_length=clip.max_length,
        vocab_size=clip.vocab_size,
        width=clip.text_size,
        heads=clip.text_heads,
        layers=clip.text_layers,
    )
    return enliven(library.CLIP(clip.embedding_size, vision, text, quick_gelu=clip.activation == "quick_gelu"))


def embeddings(module, images, tokens) -> tuple:
    """Returns a CLIP's embeddings of pictures (B, C, H, W) and of texts (N, T), of length 1, as tensors."""
    if hasattr(module, "get_image_features"):
        output = module(pixel_values=images, input_ids=tokens)
        return output.image_embeds, output.text_embeds
    return module.encode_image(images, normalize=True), module.encode_text(tokens, normalize=True)


def diffusion_transformer(model: Any):
    """Returns diffusers' DiT or Stable Diffusion 3's of the sizes of one of ours, enlivened; or skips the test."""
    import_transformers()  # which diffusers imports
    library = pytest.importorskip("diffusers")
    sizes = dict(
        num_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        attention_head_dim=model.hidden_size // model.num_heads,
        sample_size=model.image_size,
        in_channels=model.in_channels,
        out_channels=model.out_channels,
    )
    if hasattr(model, "num_classes"):
        module = library.DiTTransformer2DModel(**sizes, num_embeds_ada_norm=model.num_classes, norm_eps=1e-6)
        first, *others = (block.norm1.emb for block in enliven(module).transformer_blocks)
        for other in others:  # as in the weights that circulate
            other.load_state_dict(first.state_dict())
        return module
    sizes |= dict(joint_attention_dim=model.context_size, caption_projection_dim=model.hidden_size)
    sizes |= dict(pooled_projection_dim=model.vector_size, pos_embed_max_size=model.largest_grid)
    return enliven(library.SD3Transformer2DModel(**sizes))


def torch_recurrent(kind: str, channels: int, hidden_size: int, *, seed: int = 0, **arguments: Any):
    """Returns torch's `RNN`, `LSTM` or `GRU` with the batch first, its weights such that the gates are busy."""
    torch = import_torch()
    torch.manual_seed(seed)
    module = getattr(torch.nn, kind)(channels, hidden_size, batch_first=True, **arguments)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0, parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5)
    return module


def run_packed(module, inputs, lengths: Sequence[int]):
    """Returns the outputs of a recurrent module of torch, zero behind each sequence's length; tensors (B, T, C)."""
    torch = import_torch()
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, lengths, True, enforce_sorted=False)
    return torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], True, total_length=inputs.shape[1])[0]


def torch_transformer(vocab_size: int, size: int, layers: int, heads: int, mlp_size: int, positions: np.ndarray):
    """Returns the network of Vaswani et al. (2017) of torch's layers, called with (tokens, targets, mask).

    It is `nn.Transformer` without the two normalisations that this adds at the end, without dropout, and with one
    matrix of embeddings, "embedding.weight".

    Args:
      vocab_size: rows of the embedding.
      size: channels.
      layers: of the encoder, and of the decoder.
      heads: of each attention.
      mlp_size: channels between the dense layers.
      positions: what is added to the embeddings, (positions, size).
    """
    torch = import_torch()
    nn = torch.nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = dict(d_model=size, nhead=heads, dim_feedforward=mlp_size, dropout=0.0, batch_first=True)
            encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**sizes), layers, enable_nested_tensor=False)
            decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**sizes), layers)
            self.embedding = nn.Embedding(vocab_size, size)
            self.transformer = nn.Transformer(
                size, heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
            )

        def forward(self, tokens, targets, mask):
            weight = self.embedding.weight
            source, target = (
                size**0.5 * weight[x] + torch.from_numpy(positions[: x.shape[1]]).to(weight.dtype)
                for x in (tokens, targets)
            )
            causal = torch.triu(torch.ones(targets.shape[1], targets.shape[1], dtype=bool), 1)
            hidden = self.transformer(
                source, target, tgt_mask=causal, src_key_padding_mask=~mask, memory_key_padding_mask=~mask
            )
            return hidden @ weight.T

    torch.manual_seed(0)
    return enliven(Model()).train()  # in evaluation torch takes a shortcut that needs no gradients


def torch_seq2seq(vocab_size: int, target_vocab_size: int, size: int, layers: int):
    """Returns the network of Sutskever et al. (2014) of torch's LSTMs, called with (tokens, targets, lengths).

    The source is read backwards, from its last token; each LSTM has torch's two biases.

    Args:
      vocab_size: rows of "source.weight".
      target_vocab_size: rows of "target.weight", and of the output.
      size: channels of everything.
      layers: of the encoder, and of the decoder.
    """
    torch = import_torch()
    nn = torch.nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = nn.Embedding(vocab_size, size), nn.Embedding(target_vocab_size, size)
            self.encoder, self.decoder = (nn.LSTM(size, size, layers, batch_first=True) for _ in range(2))
            self.head = nn.Linear(size, target_vocab_size)

        def forward(self, tokens, targets, lengths):
            backwards = torch.zeros_like(tokens)
            for row, length in enumerate(lengths):
                backwards[row, :length] = tokens[row, :length].flip(0)
            packed = nn.utils.rnn.pack_padded_sequence(
                nn.functional.embedding(backwards, self.source.weight), lengths, True, enforce_sorted=False
            )
            _, state = self.encoder(packed)
            hidden, _ = self.decoder(nn.functional.embedding(targets, self.target.weight), state)
            return self.head(hidden)

    torch.manual_seed(0)
    return Model()


@cache
def import_torch() -> ModuleType:
    """Returns torch with one thread, as tests share a machine with others and with XLA's threads; or skips the test."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


def knows(source: str, name: str) -> bool:
    """Returns whether a source, "torchvision" or "timm", has a model of that name."""
    return _module(name) is not None if source == "torchvision" else _timm().is_model(_TIMM.get(name, name))


_TIMM = {  # what timm calls models that are known by another name
    "vit_ti_16": "vit_tiny_patch16_224",
    "vit_s_16": "vit_small_patch16_224",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "dinov2_s_14": "vit_small_patch14_dinov2",
}


def _module(name: str) -> ModuleType | None:
    """The module of torchvision that has a model: classifiers are in one, segmentation in another."""
    models = import_torchvision().models
    modules = (models, models.segmentation)
    return next((module for module in modules if name in models.list_models(module=module)), None)


def _timm() -> ModuleType:
    import_torchvision()  # which timm imports
    return pytest.importorskip("timm")


@cache
def import_torchvision() -> ModuleType:
    """Returns torchvision, also where its compiled operators don't fit the installed torch; or skips the test.

    On a machine without a GPU there is only a build of torchvision whose operators need CUDA. Its models use none of
    them, but its import fails unless two of them are declared.
    """
    torch = import_torch()
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision isn't installed")
    try:
        import torchvision
    except RuntimeError:
        for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        _declared.append(torch.library.Library("torchvision", "DEF"))
        _declared[0].define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared[0].define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


@cache
def import_transformers() -> ModuleType:
    """Returns transformers, without its progress bars and advice; or skips the test."""
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()  # which transformers imports where it is
    library = pytest.importorskip("transformers")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


@cache
def import_diffusers() -> ModuleType:
    """Returns diffusers, without its progress bars and advice; or skips the test."""
    import_transformers()  # which diffusers imports where it is
    library = pytest.importorskip("diffusers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


_declared: list = []  # what is declared lives as long as the object that did it


def randomise(module, seed: int = 0):
    """Gives each normalisation random scales, offsets and statistics, so that none of them can be mixed up.

    Scales are around one; where a module adds one to its weight, which then is zero at first, the weight around zero.
    Returns the module, in evaluation mode.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if not isinstance(getattr(layer, "eps", getattr(layer, "variance_epsilon", None)), float):
                continue
            for name in ("weight", "running_var"):
                values = getattr(layer, name, None)
                if values is not None:
                    centre = float(not values.any())  # of what the module adds
                    values.uniform_(0.5, 1.5, generator=generator).sub_(centre)
            for name in ("bias", "running_mean"):
                if getattr(layer, name, None) is not None:
                    getattr(layer, name).normal_(0, 0.2, generator=generator)
    return module.eval()


def enliven(module):
    """Gives a torch module weights that keep the size of signals, so that no layer's mistake drowns in a bias."""
    import torch

    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
        else:
            torch.nn.init.normal_(parameter, 0, 0.1)
    return randomise(module)


def state_dict(module) -> dict[str, np.ndarray]:
    """Returns a module's parameters and statistics by torch's names."""
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def evaluate(module, images: np.ndarray) -> np.ndarray:
    """Returns the output in evaluation mode, in the dtype of the images."""
    import torch

    with torch.no_grad():
        return _numpy(_as(module, images).eval()(_channels_first(images)))


def train(module, images: np.ndarray) -> np.ndarray:
    """Returns the output in training mode, without any dropout; the module's running statistics move as ours do.

    The module takes on the dtype of the images. Of the n values of a channel torch keeps the unbiased variance in its
    running average, we the biased one: its share of a batch is n / (n - 1) times ours, which is taken out here.
    """
    import torch

    module = _as(module, images)
    norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    before, sizes = {layer: layer.running_var.clone() for layer in norms}, {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: sizes.update({layer: args[0].numel() // args[0].shape[1]}))
        for layer in norms
    ]
    module.train()
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.dropout._DropoutNd) or type(layer).__name__ in _PATHS:
            layer.eval()
    with torch.no_grad():
        output = _numpy(module(_channels_first(images)))
    for layer in norms:
        old = (1 - layer.momentum) * before[layer]
        layer.running_var.copy_(old + (layer.running_var - old) * (sizes[layer] - 1) / sizes[layer])
    for hook in hooks:
        hook.remove()
    module.eval()
    return output


_PATHS = ("StochasticDepth", "DropPath")  # torchvision's and timm's names of what drops whole branches


def settle(module, images: np.ndarray) -> None:
    """Draws weights and statistics under which signals are of order 1 from the images to the output.

    At those a library begins with they often aren't: batch statistics of 0 and 1 let signals die within a few layers,
    a layer scale of 1e-6 hides what its block computes, and of residual branches as large as what they are added to
    each one multiplies the rounding of those before, so that a hundred of them lose three digits. Here are drawn

    - all weights, biases and norms, by `enliven`;
    - the last scale of each residual branch, smaller than the other ones by the root of their number, at least four;
    - in networks without such branches, the offsets of norms, higher by 1: with half of the units off, each ReLU after
      a norm multiplies the rounding of those before by 1.2, five thousandfold in the depth of Inception v3;
    - the running statistics: those of what the images bring to a norm, the mean then off by a tenth of the deviation
      and the variance by up to a fifth; of images pooled to a pixel the deviation is at least the mean.
      Norms are taken in order, each seeing what those before make of their statistics: errors that all layers make
      together would add up, and the last layers see signals far off theirs;
    - the last layer, scaled such that the root mean square of the outputs for these images is 1.

    Args:
      module: of torchvision or timm.
      images: (B, H, W, C) float32.
    """
    import torch

    enliven(module)
    generator = torch.Generator().manual_seed(1)

    def measure(norm, inputs: tuple) -> None:
        var, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        if inputs[0].shape[2:] == (1, 1):  # of pooled images: one value each, which hardly differ
            var = torch.maximum(var, mean.square())
        norm.running_mean.copy_(mean + 0.1 * var.sqrt() * torch.randn(mean.shape, generator=generator))
        norm.running_var.copy_(var * (0.8 + 0.4 * torch.rand(var.shape, generator=generator)))

    with torch.no_grad():
        norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        ends = list(_ends_of_branches(module))
        for norm in ends:
            norm.weight *= min(0.25, len(ends) ** -0.5)
        for norm in () if ends else norms:
            norm.bias += 1
        hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
        output = evaluate(module, images)
        for hook in hooks:
            hook.remove()
        *_, head = (layer for layer in module.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d))
        for parameter in head.parameters():
            parameter /= float(np.sqrt(np.mean(np.square(output))))


def _ends_of_branches(module) -> Iterator:
    """The last batch norm of each block that may add its input to what it computes, by what such blocks have."""
    import torch

    for block in module.modules():
        if any(hasattr(block, sign) for sign in ("downsample", "use_res_connect", "has_skip")):
            norms = [
                layer
                for name, layer in block.named_modules()
                if isinstance(layer, torch.nn.BatchNorm2d) and not name.startswith("downsample")
            ]
            yield from norms[-1:]


def call(module, inputs: dict[str, np.ndarray]) -> Any:
    """Returns what a model of transformers gives for arrays by name: tensors by name."""
    import torch

    return module(**{name: torch.from_numpy(array.astype(np.int64)) for name, array in inputs.items()})


def greedy(module, prompt: np.ndarray, count: int) -> list[int]:
    """Returns the tokens that transformers' `generate` writes behind a prompt (1, T), the likeliest at each step."""
    import torch

    module.generation_config.eos_token_id = None
    inputs = {"input_ids": torch.from_numpy(prompt.astype(np.int64)), "attention_mask": torch.ones(prompt.shape)}
    written = module.generate(**inputs, do_sample=False, max_new_tokens=count, pad_token_id=0)
    return written[0, prompt.shape[1] :].tolist()


def masked(module, images: np.ndarray, noise: np.ndarray, cotangent: np.ndarray | None = None) -> np.ndarray:
    """Returns the patches that transformers' masked autoencoder fills in, or a gradient by the images.

    Args:
      module: the model, of the dtype of the images.
      images: (B, H, W, C).
      noise: (B, T), whose order says what is hidden.
      cotangent: of the patches; with it, the gradient of sum(patches * cotangent) is returned.
    """
    import torch

    pixels = _channels_first(images).requires_grad_()
    patches = module(pixels, noise=torch.from_numpy(noise)).logits
    if cotangent is None:
        return patches.detach().numpy()
    patches.backward(torch.from_numpy(cotangent))
    return np.moveaxis(pixels.grad.numpy(), 1, -1)


def tensor(array: np.ndarray):
    """Returns an array as torch's tensor, integers as those it indexes by."""
    return import_torch().from_numpy(array.astype(np.int64) if array.dtype.kind == "i" else array)


def call_with(module, parameters: dict[str, Any], *inputs: Any, **named: Any) -> Any:
    """Returns what a torch module gives for tensors, some of its parameters replaced."""
    return import_torch().func.functional_call(module, parameters, inputs, named)


def embedding_gradient(module, output, cotangent: np.ndarray) -> np.ndarray:
    """Returns the gradient of sum(output * cotangent) by the embedding of a model of transformers.

    Args:
      module: the model.
      output: a tensor that it gave.
      cotangent: of the output's shape.
    """
    import torch

    output.backward(torch.from_numpy(cotangent))
    return module.get_input_embeddings().weight.grad.numpy()


def input_gradient(module, images: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """Returns the gradient of sum(output * cotangent) by the images, in evaluation mode.

    Compare it in float64: a unit so close to zero that rounding decides whether it is on changes a whole patch of it.
    """
    import torch

    pixels = _channels_first(images).requires_grad_()
    _as(module, images).eval()(pixels).backward(torch.from_numpy(cotangent))
    return np.moveaxis(pixels.grad.numpy(), 1, -1)


def _as(module, images: np.ndarray):
    import torch

    return module.to(torch.from_numpy(images[:0]).dtype)


def _channels_first(images: np.ndarray):
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def _numpy(output) -> Any:
    """Arrays of the form of a model's output; torchvision has named tuples and dicts beside tensors."""
    if hasattr(output, "_asdict"):
        return {name: _numpy(value) for name, value in output._asdict().items()}
    if hasattr(output, "items"):
        return {name: _numpy(value) for name, value in output.items()}
    return output.detach().numpy().copy()
