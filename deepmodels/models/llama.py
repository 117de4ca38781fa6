"""The open language models: LLaMA and its descendants, one decoder whose rows of data they are.

Touvron et al. (2023), arXiv:2302.13971; the papers of the others stand beside their sizes, at the end.

B batch, T positions, S keys, C channels, V words of the vocabulary, L layers, N heads of queries, K of keys and values,
D size of a head, E experts.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, ShapeError, unknown
from deepmodels.layers import cache as kept
from deepmodels.layers.attention import AttentionWeights, dot_product_attention
from deepmodels.layers.causal import text_positions, visible
from deepmodels.layers.checks import check_mask, check_tokens
from deepmodels.layers.experts import GATES, Experts, Routing, balance_loss
from deepmodels.layers.rms_norm import RMSNorm
from deepmodels.layers.rotary import Linear, Llama3, Rope, Yarn, named, rotate
from deepmodels.layers.stack import scan_layers
from deepmodels.layers.unembedding import Unprojected
from deepmodels.models.variant import Variant, tokens

Cache = dict[str, Array]
Rotation = tuple[Array, Array]


class Window(NamedTuple):
    """Layers that see only the last tokens. Beltagy, Peters & Cohan (2020), arXiv:2004.05150.

    Attributes:
      size: tokens that one sees, itself included.
      global_every: every so many layers one sees all, the last of them; None where none does.
      rope: positions of the layers with the window, where they differ from the others'.
    """

    size: int
    global_every: int | None = None
    rope: Rope | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Window":
        """Returns what plain data says: {"size": 512, "global_every": 6, "rope": {"theta": 10000.0}}."""
        rope = values.get("rope")
        return named(cls, dict(values) | ({"rope": Rope.of(rope)} if isinstance(rope, Mapping) else {}), "window")


class Mixture(NamedTuple):
    """Experts in place of a layer's dense part. Jiang et al. (2024), arXiv:2401.04088, section 2.1.

    Attributes:
      num_experts: E.
      num_chosen: experts that each token goes to.
      normalised: whether their weights sum to 1.
      use_bias: whether router and experts have biases.
    """

    num_experts: int
    num_chosen: int
    normalised: bool = True
    use_bias: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Mixture":
        """Returns what plain data says: {"num_experts": 8, "num_chosen": 2}."""
        return named(cls, values, "mixture")


class GroupedAttention(nn.Module):
    """Causal attention with rotary positions, in which neighbouring heads share keys and values.

    The weights (B, N, T, S) are the output of a submodule "weights", see `deepmodels.layers.attention.Attention`.

    Attributes:
      hidden_size: C.
      num_heads: N.
      num_kv_heads: K.
      head_size: D.
      scale: of the products of queries and keys.
      qkv_bias: whether the projections of queries, keys and values have biases.
      out_bias: whether that of the output has.
      head_norm: epsilon and offset of the `RMSNorm` of each head's queries and keys, if they have one.
      soft_cap: of the products, see `deepmodels.layers.attention.attention_weights`.
      sinks: whether each head has one, see there.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    qkv_bias: bool
    out_bias: bool
    head_norm: tuple[float, float] | None
    soft_cap: float | None
    sinks: bool

    def setup(self) -> None:
        self.query = nn.Dense(self.num_heads * self.head_size, use_bias=self.qkv_bias)
        self.key = nn.Dense(self.num_kv_heads * self.head_size, use_bias=self.qkv_bias)
        self.value = nn.Dense(self.num_kv_heads * self.head_size, use_bias=self.qkv_bias)
        self.out = nn.Dense(self.hidden_size, use_bias=self.out_bias)
        if self.head_norm is not None:
            self.query_norm, self.key_norm = RMSNorm(*self.head_norm), RMSNorm(*self.head_norm)
        if self.sinks:
            self.sink = self.param("sink", nn.initializers.zeros, (self.num_heads,), jnp.float32)
        self.weights = AttentionWeights()

    def __call__(self, x: Array, rotation: Rotation, mask: Array | None) -> Array:
        """Returns (B, T, C) of (B, T, C); `mask` broadcasts to (B, N, T, T), what comes later is hidden besides."""
        query, key, value = self._project(x, rotation)
        terms = self._terms() | dict(mask=mask, causal=True)
        if self.is_mutable_collection("intermediates"):
            self.weights(query, key, **terms)
        return self._merge(dot_product_attention(query, key, value, **terms))

    def extend(
        self, x: Array, rotation: Rotation, kinds: list[kept.Buffers], plans: list[kept.Plan], index: Array, kind: Any
    ) -> tuple[Array, list[kept.Buffers]]:
        """Attends from new tokens (B, T, C) to those that are kept and to each other.

        Args:
          x: of the new tokens.
          rotation: of their positions.
          kinds: the buffers of each kind of layers, see `deepmodels.layers.cache`.
          plans: of each kind.
          index: of this layer among those of its kind.
          kind: its kind, 0 or 1; None where all are of one.

        Returns:
          (B, T, C), and the buffers with the new tokens in them.
        """
        query, key, value = self._project(x, rotation)
        terms = self._terms()

        def attend(own: int, kinds: list[kept.Buffers]) -> tuple[Array, list[kept.Buffers]]:
            buffers, held = kept.extend(kinds[own], index, {"keys": key, "values": value}, plans[own])
            y = dot_product_attention(query, held["keys"], held["values"], mask=plans[own].mask, **terms)
            return y, [buffers if i == own else other for i, other in enumerate(kinds)]

        if kind is None:
            y, kinds = attend(0, kinds)
        else:
            y, kinds = jax.lax.switch(kind, [partial(attend, 0), partial(attend, 1)], kinds)
        return self._merge(y), kinds

    def _project(self, x: Array, rotation: Rotation) -> tuple[Array, Array, Array]:
        query, key, value = (
            layer(x).reshape(*x.shape[:2], -1, self.head_size) for layer in (self.query, self.key, self.value)
        )
        if self.head_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return rotate(query, rotation), rotate(key, rotation), value

    def _merge(self, y: Array) -> Array:
        return self.out(y.reshape(*y.shape[:2], -1))

    def _terms(self) -> dict[str, Any]:
        return dict(scale=self.scale, soft_cap=self.soft_cap, sinks=self.sink if self.sinks else None)


class GatedDense(nn.Module):
    """Two dense layers side by side, the second gated by the first, and one behind them. Shazeer (2020),
    arXiv:2002.05202.

    Takes (..., C) floats and returns the same shape.

    Attributes:
      mlp_size: channels between.
      gate_function: a key of `deepmodels.layers.experts.GATES`.
    """

    mlp_size: int
    gate_function: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gate, up = (nn.Dense(self.mlp_size, use_bias=False, name=name)(x) for name in ("gate", "up"))
        return nn.Dense(x.shape[-1], use_bias=False, name="down")(GATES[self.gate_function](gate, up))


class Router(nn.Module):
    """Chooses for each token the experts that have the largest probability, equation 2 of Jiang et al.

    It sows the "load_balancing" loss of `deepmodels.layers.experts.balance_loss` into the collection "losses".

    Attributes:
      mixture: see there.
    """

    mixture: Mixture

    @nn.compact
    def __call__(self, x: Array, valid: Array | None) -> Routing:
        """Takes tokens (M, C), and bools (M,) of those that are none, or None."""
        logits = nn.Dense(self.mixture.num_experts, use_bias=self.mixture.use_bias, name="logits")(x)
        probabilities = jax.nn.softmax(logits.astype(jnp.float32 if x.dtype.itemsize < 4 else x.dtype))
        weights, chosen = jax.lax.top_k(probabilities, self.mixture.num_chosen)
        if self.mixture.normalised:
            weights /= weights.sum(-1, keepdims=True)
        sow_balance_loss(self, probabilities, chosen, valid)
        return Routing(chosen, weights)


def sow_balance_loss(module: nn.Module, probabilities: Array, chosen: Array, valid: Array | None) -> None:
    """Sows `deepmodels.layers.experts.balance_loss` into the collection "losses", where that is asked for."""
    if module.is_mutable_collection("losses") and not module.is_initializing():
        module.sow("losses", "load_balancing", balance_loss(probabilities, chosen, valid))


class SparseDense(nn.Module):
    """A router and its experts: each token goes to some of many `GatedDense`.

    Where tokens go is the output of the submodule "router", see `deepmodels.analysis.intermediates`.

    Attributes:
      mixture: see there.
      mlp_size: channels inside an expert.
      gate_function: a key of `deepmodels.layers.experts.GATES`.
    """

    mixture: Mixture
    mlp_size: int
    gate_function: str

    @nn.compact
    def __call__(self, x: Array, valid: Array | None = None) -> Array:
        """Takes (B, T, C), and bools (B, T) of those that are tokens, and returns (B, T, C)."""
        flat = x.reshape(-1, x.shape[-1])
        routing = Router(self.mixture, name="router")(flat, None if valid is None else valid.reshape(-1))
        experts = Experts(
            self.mixture.num_experts, self.mlp_size, self.gate_function, self.mixture.use_bias, name="experts"
        )
        return experts(flat, routing).reshape(x.shape)


class LlamaLayer(nn.Module):
    """Attention and a dense part, each of what is normalised before, and each added to what came in.

    Attributes:
      attention_terms: arguments of `GroupedAttention`.
      mlp_size: channels inside the dense part, or inside an expert.
      gate_function: a key of `deepmodels.layers.experts.GATES`.
      mixture: of experts in place of the dense part, if there is one.
      norm_terms: epsilon and offset of the `RMSNorm`.
      post_norms: whether what attention and dense part return is normalised too.
    """

    attention_terms: dict[str, Any]
    mlp_size: int
    gate_function: str
    mixture: Mixture | None
    norm_terms: tuple[float, float]
    post_norms: bool

    def setup(self) -> None:
        self.attention = GroupedAttention(**self.attention_terms)
        if self.mixture is None:
            self.mlp = GatedDense(self.mlp_size, self.gate_function)
        else:
            self.mlp = SparseDense(self.mixture, self.mlp_size, self.gate_function)
        self.norm1, self.norm2 = RMSNorm(*self.norm_terms), RMSNorm(*self.norm_terms)
        if self.post_norms:
            self.post_norm1, self.post_norm2 = RMSNorm(*self.norm_terms), RMSNorm(*self.norm_terms)

    def __call__(self, x: Array, rotation: Rotation, mask: Array | None, valid: Array | None) -> Array:
        """Returns (B, T, C) of (B, T, C); `valid` (B, T) are bools, True where a token is."""
        return self._rest(x, self.attention(self.norm1(x), rotation, mask), valid)

    def extend(self, x: Array, *kept: Any) -> tuple[Array, list[kept.Buffers]]:
        """See `GroupedAttention.extend`."""
        y, kinds = self.attention.extend(self.norm1(x), *kept)
        return self._rest(x, y, None), kinds

    def _rest(self, x: Array, y: Array, valid: Array | None) -> Array:
        x += self.post_norm1(y) if self.post_norms else y
        y = self.mlp(self.norm2(x)) if self.mixture is None else self.mlp(self.norm2(x), valid)
        return x + (self.post_norm2(y) if self.post_norms else y)


class Decoder(nn.Module):
    """From tokens to logits, around the layers of a subclass: what `Llama` and `DeepSeek` have in common.

    The call takes tokens (B, T) int32 and returns logits (B, T, V), of the word that follows each position. `mask`
    (B, T) are bools, True where a token is; of `documents` (B, T) integers, packed into one row, tokens see those of
    their own number only, and their positions begin anew; `positions` (B, T) int32 replace those. With `project=False`
    it returns `Unprojected`. Raises ShapeError if the tokens aren't integers of two axes or something doesn't fit them.

    To write: `cache = start(batch_size, length)`, then `logits, cache = extend(tokens, cache)`, or `step` for one token
    of each row; what is appended sees what is there.

    Attributes:
      vocab_size: V.
      hidden_size: C.
      num_layers: L.
      tied: whether the embedding also gives the logits, or there is a matrix of its own ("head").
      epsilon: of the normalisations.
      max_length: positions it is made for; nothing here depends on it.
      unroll: layers per step of the scan; changes neither result nor parameters.
      remat: what the backward pass finds of each layer, a key of `deepmodels.layers.stack.REMAT`.
    """

    vocab_size: int = 32_000
    hidden_size: int = 4096
    num_layers: int = 32
    tied: bool = False
    epsilon: float = 1e-5
    max_length: int = 4096
    unroll: int = 1
    remat: str | None = None

    def setup(self) -> None:
        self.token_embed = nn.Embed(self.vocab_size, self.hidden_size, embedding_init=nn.initializers.normal(0.02))
        self.norm = RMSNorm(*self._norm_terms)
        if not self.tied:
            self.head = Matrix(self.vocab_size)

    def __call__(
        self,
        tokens: Array,
        mask: Array | None = None,
        documents: Array | None = None,
        positions: Array | None = None,
        train: bool = False,
        project: bool = True,
    ) -> Array | Unprojected:
        check_tokens(tokens)
        check_mask(mask, tokens)
        if positions is None:
            positions = text_positions(tokens, mask, documents)
        elif positions.shape != tokens.shape:
            raise ShapeError(f"positions: expected shape {tuple(tokens.shape)}, got {tuple(positions.shape)}")
        x = self._layers(self._embed(tokens), tokens, positions, mask, documents, train)
        unprojected = self._unprojected(self.norm(x))
        return unprojected.logits() if project else unprojected

    def start(self, batch_size: int, length: int, dtype: jnp.dtype = jnp.float32, *, quantized: bool = False) -> Cache:
        """Returns an empty cache; it needs no parameters.

        Args:
          batch_size: B.
          length: the most tokens that a row will hold.
          dtype: of what is kept.
          quantized: whether it is kept in int8, see `deepmodels.layers.cache`.

        Returns:
          Arrays by name, the batch on the first axis: "position" (B,) int32, the tokens that each row holds, and the
          buffers of the layers.
        """
        return {"position": jnp.zeros(batch_size, jnp.int32)} | self._buffers(batch_size, length, dtype, quantized)

    def extend(
        self, tokens: Array, cache: Cache, lengths: Array | None = None, last: bool = True
    ) -> tuple[Array, Cache]:
        """Appends tokens (B, T) to the rows of a cache, and returns logits and the cache behind them.

        Args:
          tokens: (B, T).
          cache: as `start` or this returns it.
          lengths: how many of each row's tokens are real, (B,) int32; the others, behind them, are padding.
          last: whether the logits (B, V) of what follows each row's last real token are returned, or those of all
            positions (B, T, V).
        """
        check_tokens(tokens)
        position, count = cache["position"], tokens.shape[1]
        lengths = jnp.full_like(position, count) if lengths is None else lengths
        positions = position[:, None] + jnp.arange(count, dtype=jnp.int32)[None]
        x, buffers = self._extend_layers(self._embed(tokens), positions, cache, lengths)
        if last:
            x = x[jnp.arange(x.shape[0]), jnp.maximum(lengths - 1, 0)]
        logits = self._unprojected(self.norm(x)).logits()
        return logits, cache | buffers | {"position": position + lengths}

    def step(self, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        """Appends one token (B,) to each row, and returns logits (B, V) of the next and the cache behind it."""
        return self.extend(tokens[:, None], cache)

    @property
    def _norm_terms(self) -> tuple[float, float]:
        return self.epsilon, 0.0

    def _embed(self, tokens: Array) -> Array:
        return self.token_embed(tokens)

    def _unprojected(self, hidden: Array, soft_cap: float | None = None) -> Unprojected:
        if self.tied:
            return Unprojected(hidden, embedding=self.token_embed.embedding, soft_cap=soft_cap)
        return Unprojected(hidden, kernel=self.head(hidden.shape[-1]), soft_cap=soft_cap)


class Matrix(nn.Module):
    """A matrix (C, features) that is used otherwise than as a dense layer: `nn.Dense`'s parameter without its product.

    Attributes:
      features: its columns.
    """

    features: int

    @nn.compact
    def __call__(self, channels: int) -> Array:
        """Returns it, with so many rows."""
        return self.param("kernel", nn.initializers.lecun_normal(), (channels, self.features), jnp.float32)


class Llama(Decoder):
    """A decoder of the LLaMA lineage, section 2.2: see `Decoder` for its calls.

    The layers are scanned, their parameters stacked on a leading axis ("layers").

    Attributes:
      num_heads: N.
      num_kv_heads: K; by default N.
      head_size: D; by default C / N.
      mlp_size: channels inside the dense part of a layer, or inside an expert.
      rope: how positions turn queries and keys; this and the next ones also as plain data, by name.
      gate_function: of the dense part, a key of `deepmodels.layers.experts.GATES`.
      mixture: of experts in place of dense parts, if there is one; routers sow "load_balancing" into "losses".
      window: if layers see only the last tokens.
      qkv_bias: whether the projections of queries, keys and values have biases.
      out_bias: whether that of attention's output has.
      head_norms: whether the queries and keys of each head are normalised.
      sinks: whether each head has a sink, see `deepmodels.layers.attention.attention_weights`.
      scale_size: the products of queries and keys are divided by its square root; by default D.
      attention_soft_cap: of those products, see there.
      logit_soft_cap: of the logits.
      norm_offset: of the normalisations, see `RMSNorm`.
      post_norms: whether what attention and dense part return is normalised too.
      scaled_embed: whether embeddings are multiplied by the square root of C.
    """

    num_heads: int = 32
    num_kv_heads: int | None = None
    head_size: int | None = None
    mlp_size: int = 11_008
    rope: Rope = Rope()
    gate_function: str = "swiglu"
    mixture: Mixture | None = None
    window: Window | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    head_norms: bool = False
    sinks: bool = False
    scale_size: int | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    norm_offset: float = 0.0
    post_norms: bool = False
    scaled_embed: bool = False

    def __post_init__(self) -> None:
        for name, make in (("rope", Rope.of), ("mixture", Mixture.of), ("window", Window.of)):
            if isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, make(getattr(self, name)))
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self._check()
        attention = dict(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self._num_kv_heads,
            head_size=self._head_size,
            scale=1 / math.sqrt(self.scale_size or self._head_size),
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            head_norm=self._norm_terms if self.head_norms else None,
            soft_cap=self.attention_soft_cap,
            sinks=self.sinks,
        )
        self.layers = LlamaLayer(
            attention, self.mlp_size, self.gate_function, self.mixture, self._norm_terms, self.post_norms
        )
        self.scan = partial(scan_layers, self.layers, length=self.num_layers, unroll=self.unroll, remat=self.remat)

    def _check(self) -> None:
        if self.head_size is None and self.hidden_size % self.num_heads:
            raise ConfigError(f"num_heads: {self.num_heads} doesn't divide hidden_size, which is {self.hidden_size}")
        if self.num_heads % self._num_kv_heads:
            raise ConfigError(f"num_kv_heads: {self._num_kv_heads} doesn't divide num_heads, which is {self.num_heads}")
        if self.gate_function not in GATES:
            raise unknown("gate_function", self.gate_function, GATES)
        if self.mixture is not None and not 0 < self.mixture.num_chosen <= self.mixture.num_experts:
            raise ConfigError(
                f"mixture: expected to choose 1 to {self.mixture.num_experts} experts, got {self.mixture.num_chosen}"
            )
        if self.window is not None and (self.window.size < 1 or (self.window.global_every or 2) < 2):
            raise ConfigError(f"window: expected a size of 1 or more, and global_every of 2 or more, got {self.window}")

    @property
    def _num_kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def _head_size(self) -> int:
        return self.hidden_size // self.num_heads if self.head_size is None else self.head_size

    @property
    def _norm_terms(self) -> tuple[float, float]:
        return self.epsilon, self.norm_offset

    @property
    def _kinds(self) -> np.ndarray:
        """The kind of each layer: 0 for the first of `_forms`, 1 for the second."""
        every = None if self.window is None else self.window.global_every
        return np.arange(1, self.num_layers + 1) % every == 0 if every else np.zeros(self.num_layers, bool)

    @property
    def _forms(self) -> list[tuple[str, int | None, Rope]]:
        """Of each kind of layers: what stands before the names of its buffers, its window (None: all), its rope."""
        if self.window is None:
            return [("", None, self.rope)]
        near = (self.window.size, self.window.rope or self.rope)
        return [("window_", *near), ("", None, self.rope)] if self._kinds.any() else [("", *near)]

    def _embed(self, tokens: Array) -> Array:
        x = self.token_embed(tokens)
        return x * jnp.sqrt(jnp.asarray(self.hidden_size, x.dtype)) if self.scaled_embed else x

    def _unprojected(self, hidden: Array) -> Unprojected:
        return super()._unprojected(hidden, self.logit_soft_cap)

    def _rotations(self, positions: Array, dtype: jnp.dtype) -> list[Rotation]:
        return [rope.rotation(positions, self._head_size, dtype) for _, _, rope in self._forms]

    def _layers(
        self, x: Array, tokens: Array, positions: Array, mask: Array | None, documents: Array | None, train: bool
    ) -> Array:
        rotations = self._rotations(positions, x.dtype)
        masks = [visible(tokens, mask, documents, window) for _, window, _ in self._forms]
        if len(masks) == 1:
            x, _ = self.scan(lambda layer, x, _: (layer(x, rotations[0], masks[0], mask), None), x)
            return x
        if any(seen is not None for seen in masks):
            masks = [jnp.ones((1, 1, 1, 1), bool) if seen is None else seen for seen in masks]
            masks = jnp.broadcast_arrays(*masks)

        def call(layer: LlamaLayer, x: Array, kind: Array) -> tuple[Array, None]:
            rotation, seen = jax.tree.map(partial(jnp.where, kind), (rotations[1], masks[1]), (rotations[0], masks[0]))
            return layer(x, rotation, seen, mask), None

        return self.scan(call, x, jnp.asarray(self._kinds))[0]

    def _buffers(self, batch_size: int, length: int, dtype: jnp.dtype, quantized: bool) -> Cache:
        entry = (self._num_kv_heads, self._head_size)
        buffers = {}
        for kind, (prefix, window, _) in enumerate(self._forms):
            made = kept.make(
                batch_size,
                int((self._kinds == kind).sum()),
                length,
                {"keys": entry, "values": entry},
                dtype,
                window=window,
                quantized=quantized,
            )
            buffers |= {prefix + name: buffer for name, buffer in made.items()}
        return buffers

    def _extend_layers(self, x: Array, positions: Array, cache: Cache, lengths: Array) -> tuple[Array, Cache]:
        names = [name for name in ("keys", "values", "keys_scale", "values_scale") if name in cache]
        buffers = [{name: cache[prefix + name] for name in names} for prefix, _, _ in self._forms]
        plans = [
            kept.plan(own, positions[:, 0], positions.shape[1], lengths, window)
            for own, (_, window, _) in zip(buffers, self._forms, strict=True)
        ]
        rotations = self._rotations(positions, x.dtype)
        kinds = self._kinds.astype(np.int32)
        index = np.where(kinds == 1, np.cumsum(kinds), np.cumsum(1 - kinds)) - 1  # among those of its kind

        def call(layer: LlamaLayer, carry: tuple, xs: tuple[Array, Array]) -> tuple[tuple, None]:
            (x, buffers), (index, kind) = carry, xs
            if len(rotations) == 1:
                return layer.extend(x, rotations[0], buffers, plans, index, None), None
            rotation = jax.tree.map(partial(jnp.where, kind == 1), rotations[1], rotations[0])
            return layer.extend(x, rotation, buffers, plans, index, kind), None

        xs = (jnp.asarray(index, jnp.int32), jnp.asarray(kinds))
        (x, buffers), _ = self.scan(call, (x, buffers), xs)
        return x, {
            prefix + name: buffer
            for own, (prefix, _, _) in zip(buffers, self._forms, strict=True)
            for name, buffer in own.items()
        }


_2023 = (2023, "Touvron et al. (2023), arXiv:2302.13971")
_LLAMA2 = (2023, "Touvron et al. (2023), arXiv:2307.09288")
_LLAMA3 = (2024, "Grattafiori et al. (2024), arXiv:2407.21783")
_LLAMA32 = (2024, "Meta AI (2024), Llama 3.2 model card")
_MISTRAL = (2023, "Jiang et al. (2023), arXiv:2310.06825")
_MIXTRAL = (2024, "Jiang et al. (2024), arXiv:2401.04088")
_QWEN2 = (2024, "Yang et al. (2024), arXiv:2407.10671")
_QWEN25 = (2024, "Qwen Team (2024), arXiv:2412.15115")
_QWEN3 = (2025, "Qwen Team (2025), arXiv:2505.09388")
_R1 = (2025, "DeepSeek-AI (2025), arXiv:2501.12948")
_GEMMA = (2024, "Gemma Team (2024), arXiv:2403.08295")
_GEMMA2 = (2024, "Gemma Team (2024), arXiv:2408.00118")
_GEMMA3 = (2025, "Gemma Team (2025), arXiv:2503.19786")
_SMOLLM2 = (2025, "Ben Allal et al. (2025), arXiv:2502.02737")
_GPT_OSS = (2025, "OpenAI (2025), arXiv:2508.10925")


def _row(
    published: tuple[int, str],
    parameters: int,
    size: tuple[int, int, int, int, int],
    vocab_size: int,
    max_length: int,
    **arguments: Any,
) -> Variant:
    """A row of the table; `size` is hidden_size, num_layers, num_heads, num_kv_heads and mlp_size."""
    hidden_size, num_layers, num_heads, num_kv_heads, mlp_size = size
    arguments |= dict(vocab_size=vocab_size, hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads)
    arguments |= dict(num_kv_heads=num_kv_heads, mlp_size=mlp_size, max_length=max_length)
    return Variant(Llama, arguments, tokens(128), parameters, *published)


def _llama3_1(factor: float) -> Rope:
    return Rope(500_000.0, Llama3(factor, 1.0, 4.0, 8192))


_MILLION = Rope(1_000_000.0)
_QWEN25_ROWS = {  # table 1 of the report; the small ones are tied, and the large ones have another epsilon
    "0_5b": (494_032_768, (896, 24, 14, 2, 4864), 151_936, dict(tied=True, epsilon=1e-6)),
    "1_5b": (1_543_714_304, (1536, 28, 12, 2, 8960), 151_936, dict(tied=True, epsilon=1e-6)),
    "3b": (3_085_938_688, (2048, 36, 16, 2, 11_008), 151_936, dict(tied=True, epsilon=1e-6)),
    "7b": (7_615_616_512, (3584, 28, 28, 4, 18_944), 152_064, dict(epsilon=1e-6)),
    "14b": (14_770_033_664, (5120, 48, 40, 8, 13_824), 152_064, {}),
    "32b": (32_763_876_352, (5120, 64, 40, 8, 27_648), 152_064, {}),
    "72b": (72_706_203_648, (8192, 80, 64, 8, 29_568), 152_064, {}),
}


def _qwen2(published: tuple[int, str], row: tuple, **arguments: Any) -> Variant:
    parameters, size, vocab_size, rest = row
    arguments = dict(rope=_MILLION, qkv_bias=True) | rest | arguments
    return _row(published, parameters, size, vocab_size, 32_768, **arguments)


def _qwen3(parameters: int, *size: int, tied: bool = False, mixture: Mixture | None = None) -> Variant:
    arguments = dict(rope=_MILLION, head_size=128, head_norms=True, epsilon=1e-6, tied=tied, mixture=mixture)
    return _row(_QWEN3, parameters, size, 151_936, 40_960, **arguments)


_GEMMA_TERMS = dict(norm_offset=1.0, scaled_embed=True, gate_function="geglu", tied=True, epsilon=1e-6)


def _gemma(parameters: int, *size: int) -> Variant:
    return _row(_GEMMA, parameters, size, 256_000, 8192, head_size=256, **_GEMMA_TERMS)


def _gemma2(parameters: int, *size: int, **arguments: Any) -> Variant:
    terms = dict(window=Window(4096, 2), post_norms=True, attention_soft_cap=50.0, logit_soft_cap=30.0, head_size=256)
    return _row(_GEMMA2, parameters, size, 256_000, 8192, **_GEMMA_TERMS | terms | arguments)


def _gemma3(parameters: int, *size: int, window: int, scaling: Linear | None = None, **arguments: Any) -> Variant:
    terms = dict(post_norms=True, head_norms=True, head_size=256)
    terms |= dict(rope=Rope(1_000_000.0, scaling), window=Window(window, 6, Rope(10_000.0)))
    terms = _GEMMA_TERMS | terms | arguments
    if scaling is None:
        return _row(_GEMMA3, parameters, size, 262_144, 32_768, **terms)
    return _row(_GEMMA3, parameters, size, 262_208, 131_072, **terms)


def _smollm2(parameters: int, *size: int, theta: float) -> Variant:
    return _row(_SMOLLM2, parameters, size, 49_152, 8192, rope=Rope(theta), tied=True)


def _gpt_oss(parameters: int, layers: int, experts: int) -> Variant:
    arguments = dict(
        head_size=64,
        rope=Rope(150_000.0, Yarn(32.0, 4096, truncate=False)),
        gate_function="clamped_swiglu",
        mixture=Mixture(experts, 4, use_bias=True),
        window=Window(128, 2),
        qkv_bias=True,
        out_bias=True,
        sinks=True,
    )
    return _row(_GPT_OSS, parameters, (2880, layers, 64, 8, 2880), 201_088, 131_072, **arguments)


def _tiny(parameters: int, published: tuple[int, str], **arguments: Any) -> Variant:
    sizes = dict(vocab_size=32, hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, mlp_size=32, max_length=64)
    return Variant(Llama, sizes | arguments, tokens(8), parameters, *published)


VARIANTS = {
    "llama_7b": _row(_2023, 6_738_415_616, (4096, 32, 32, 32, 11_008), 32_000, 2048, epsilon=1e-6),
    "llama_13b": _row(_2023, 13_015_864_320, (5120, 40, 40, 40, 13_824), 32_000, 2048, epsilon=1e-6),
    "llama_30b": _row(_2023, 32_528_943_616, (6656, 60, 52, 52, 17_920), 32_000, 2048, epsilon=1e-6),
    "llama_65b": _row(_2023, 65_285_660_672, (8192, 80, 64, 64, 22_016), 32_000, 2048),
    "llama_2_7b": _row(_LLAMA2, 6_738_415_616, (4096, 32, 32, 32, 11_008), 32_000, 4096),
    "llama_2_13b": _row(_LLAMA2, 13_015_864_320, (5120, 40, 40, 40, 13_824), 32_000, 4096),
    "llama_2_70b": _row(_LLAMA2, 68_976_648_192, (8192, 80, 64, 8, 28_672), 32_000, 4096),
    "llama_3_8b": _row(_LLAMA3, 8_030_261_248, (4096, 32, 32, 8, 14_336), 128_256, 8192, rope=Rope(500_000.0)),
    "llama_3_70b": _row(_LLAMA3, 70_553_706_496, (8192, 80, 64, 8, 28_672), 128_256, 8192, rope=Rope(500_000.0)),
    "llama_3_1_8b": _row(_LLAMA3, 8_030_261_248, (4096, 32, 32, 8, 14_336), 128_256, 131_072, rope=_llama3_1(8.0)),
    "llama_3_1_70b": _row(_LLAMA3, 70_553_706_496, (8192, 80, 64, 8, 28_672), 128_256, 131_072, rope=_llama3_1(8.0)),
    "llama_3_1_405b": _row(
        _LLAMA3, 405_853_388_800, (16_384, 126, 128, 8, 53_248), 128_256, 131_072, rope=_llama3_1(8.0)
    ),
    "llama_3_2_1b": _row(
        *(_LLAMA32, 1_235_814_400, (2048, 16, 32, 8, 8192), 128_256, 131_072), rope=_llama3_1(32.0), tied=True
    ),
    "llama_3_2_3b": _row(
        *(_LLAMA32, 3_212_749_824, (3072, 28, 24, 8, 8192), 128_256, 131_072), rope=_llama3_1(32.0), tied=True
    ),
    "mistral_7b": _row(_MISTRAL, 7_241_732_096, (4096, 32, 32, 8, 14_336), 32_000, 32_768, window=Window(4096)),
    "mixtral_8x7b": _row(
        *(_MIXTRAL, 46_702_792_704, (4096, 32, 32, 8, 14_336), 32_000, 32_768), rope=_MILLION, mixture=Mixture(8, 2)
    ),
    **{f"qwen2_{name}": _qwen2(_QWEN2, _QWEN25_ROWS[name]) for name in ("0_5b", "1_5b", "7b")},
    "qwen2_72b": _qwen2(_QWEN2, _QWEN25_ROWS["72b"]),
    **{f"qwen2_5_{name}": _qwen2(_QWEN25, row) for name, row in _QWEN25_ROWS.items()},
    "deepseek_r1_distill_qwen_1_5b": _qwen2(
        _R1, (1_777_088_000, *_QWEN25_ROWS["1_5b"][1:]), tied=False, rope=Rope(10_000.0)
    ),
    "deepseek_r1_distill_qwen_7b": _qwen2(_R1, _QWEN25_ROWS["7b"], rope=Rope(10_000.0)),
    "qwen3_0_6b": _qwen3(596_049_920, 1024, 28, 16, 8, 3072, tied=True),
    "qwen3_1_7b": _qwen3(1_720_574_976, 2048, 28, 16, 8, 6144, tied=True),
    "qwen3_4b": _qwen3(4_022_468_096, 2560, 36, 32, 8, 9728, tied=True),
    "qwen3_8b": _qwen3(8_190_735_360, 4096, 36, 32, 8, 12_288),
    "qwen3_14b": _qwen3(14_768_307_200, 5120, 40, 40, 8, 17_408),
    "qwen3_32b": _qwen3(32_762_123_264, 5120, 64, 64, 8, 25_600),
    "qwen3_30b_a3b": _qwen3(30_532_122_624, 2048, 48, 32, 4, 768, mixture=Mixture(128, 8)),
    "qwen3_235b_a22b": _qwen3(235_093_634_560, 4096, 94, 64, 4, 1536, mixture=Mixture(128, 8)),
    "gemma_2b": _gemma(2_506_172_416, 2048, 18, 8, 1, 16_384),
    "gemma_7b": _gemma(8_537_680_896, 3072, 28, 16, 16, 24_576),
    "gemma2_2b": _gemma2(2_614_341_888, 2304, 26, 8, 4, 9216),
    "gemma2_9b": _gemma2(9_241_705_984, 3584, 42, 16, 8, 14_336),
    "gemma2_27b": _gemma2(27_227_128_320, 4608, 46, 32, 16, 36_864, head_size=128, scale_size=144),
    "gemma3_270m": _gemma3(268_098_176, 640, 18, 4, 1, 2048, window=512),
    "gemma3_1b": _gemma3(999_885_952, 1152, 26, 4, 1, 6912, window=512),
    "gemma3_4b": _gemma3(3_880_263_168, 2560, 34, 8, 4, 10_240, window=1024, scaling=Linear(8.0)),
    "gemma3_12b": _gemma3(11_766_034_176, 3840, 48, 16, 8, 15_360, window=1024, scaling=Linear(8.0)),
    "gemma3_27b": _gemma3(
        *(27_009_346_304, 5376, 62, 32, 16, 21_504), window=1024, scaling=Linear(8.0), head_size=128, scale_size=168
    ),
    "smollm2_135m": _smollm2(134_515_008, 576, 30, 9, 3, 1536, theta=100_000.0),
    "smollm2_360m": _smollm2(361_821_120, 960, 32, 15, 5, 2560, theta=100_000.0),
    "smollm2_1_7b": _smollm2(1_711_376_384, 2048, 24, 32, 32, 8192, theta=130_000.0),
    "gpt_oss_20b": _gpt_oss(20_914_757_184, 24, 32),
    "gpt_oss_120b": _gpt_oss(116_829_156_672, 36, 128),
    "llama_tiny": _tiny(5_712, _2023),
    "mixtral_tiny": _tiny(15_056, _MIXTRAL, mixture=Mixture(4, 2), window=Window(3)),
    "gemma3_tiny": _tiny(
        *(6_832, _GEMMA3),
        **_GEMMA_TERMS,
        window=Window(3, 2, Rope(1000.0)),
        head_size=8,
        head_norms=True,
        post_norms=True,
    ),
}
