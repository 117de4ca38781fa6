"""DeepSeek-V2 and V3. DeepSeek-AI (2024), arXiv:2405.04434 and arXiv:2412.19437.

B batch, T positions, S keys, C channels, N heads, L layers, E experts, M tokens; R channels of a latent; of a head's
queries and keys P channels that positions turn and D others, U channels of its values.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError
from deepmodels.layers import cache as kept
from deepmodels.layers.attention import AttentionWeights, dot_product_attention
from deepmodels.layers.causal import visible
from deepmodels.layers.experts import Experts, Routing
from deepmodels.layers.rms_norm import RMSNorm
from deepmodels.layers.rotary import Rope, Yarn, named, rotate
from deepmodels.layers.stack import scan_layers
from deepmodels.models.llama import Cache, Decoder, GatedDense, Matrix, Rotation, sow_balance_loss
from deepmodels.models.variant import Variant, tokens


class Routes(NamedTuple):
    """How tokens choose among experts, section 2.1.2 of both papers.

    Attributes:
      num_experts: E.
      num_chosen: experts that each token goes to.
      sigmoid: V3's way: an expert's score is a sigmoid, to which a bias is added for the choice alone, and the weights
        sum to `factor`; V2's is a softmax, of which the weights are `factor` times.
      factor: of the weights.
      num_groups: groups of neighbouring experts.
      num_chosen_groups: groups that a token may choose from: those with the largest score, or in V3 the largest sum of
        two; all where there is one.
    """

    num_experts: int
    num_chosen: int
    sigmoid: bool = True
    factor: float = 1.0
    num_groups: int = 1
    num_chosen_groups: int = 1


class LatentAttention(nn.Module):
    """Causal attention whose keys and values are made of one small latent for all heads, section 2.1 of V2.

    A cache holds the latent and the one key that positions turn, R + P numbers for a token. Attention from it takes
    queries to the latents' space instead of latents to keys and values, section 2.1.2: the same result.

    The weights (B, N, T, S) are the output of a submodule "weights", see `deepmodels.layers.attention.Attention`.

    Attributes:
      hidden_size: C.
      num_heads: N.
      query_rank: channels of the latent that queries are made of; None if they are made of what comes in.
      latent_size: R.
      head_size: D.
      rotary_size: P.
      value_size: U.
      scale: of the products of queries and keys.
      epsilon: of the latents' normalisations.
    """

    hidden_size: int
    num_heads: int
    query_rank: int | None
    latent_size: int
    head_size: int
    rotary_size: int
    value_size: int
    scale: float
    epsilon: float

    def setup(self) -> None:
        dense = partial(nn.Dense, use_bias=False)
        queries = self.num_heads * (self.head_size + self.rotary_size)
        if self.query_rank is None:
            self.query = dense(queries)
        else:
            self.query_down, self.query_norm = dense(self.query_rank), RMSNorm(self.epsilon)
            self.query_up = dense(queries)
        self.latent = dense(self.latent_size + self.rotary_size)
        self.latent_norm = RMSNorm(self.epsilon)
        self.latent_up = Matrix(self.num_heads * (self.head_size + self.value_size))
        self.out = dense(self.hidden_size)
        self.weights = AttentionWeights()

    def __call__(self, x: Array, rotation: Rotation, mask: Array | None) -> Array:
        """Returns (B, T, C) of (B, T, C); `mask` broadcasts to (B, N, T, T), what comes later is hidden besides."""
        query, turned = self._queries(x, rotation)
        latent, shared = self._latents(x, rotation)
        up_key, up_value = self._up(x.dtype)
        key = jnp.einsum("BTR,RND->BTND", latent, up_key)
        value = jnp.einsum("BTR,RNU->BTNU", latent, up_value)
        shared = jnp.broadcast_to(shared[:, :, None], (*key.shape[:3], self.rotary_size))
        query, key = jnp.concatenate([query, turned], -1), jnp.concatenate([key, shared], -1)
        terms = dict(scale=self.scale, mask=mask, causal=True)
        if self.is_mutable_collection("intermediates"):
            self.weights(query, key, **terms)
        return self._merge(dot_product_attention(query, key, value, **terms))

    def extend(
        self, x: Array, rotation: Rotation, buffers: kept.Buffers, index: Array, plan: kept.Plan
    ) -> tuple[Array, kept.Buffers]:
        """Attends from new tokens (B, T, C) to those that are kept and to each other; returns the buffers with them."""
        query, turned = self._queries(x, rotation)
        latent, shared = self._latents(x, rotation)
        new = {"latents": latent, "rotary_keys": shared}
        buffers, held = kept.extend(buffers, index, new, plan)
        up_key, up_value = self._up(x.dtype)
        query = jnp.concatenate([jnp.einsum("BTND,RND->BTNR", query, up_key), turned], -1)
        key = jnp.concatenate([held["latents"], held["rotary_keys"]], -1)[:, :, None]  # one for all heads
        y = dot_product_attention(query, key, held["latents"][:, :, None], scale=self.scale, mask=plan.mask)
        return self._merge(jnp.einsum("BTNR,RNU->BTNU", y, up_value)), buffers

    def _queries(self, x: Array, rotation: Rotation) -> tuple[Array, Array]:
        """Queries (B, T, N, D), and (B, T, N, P) that are turned."""
        y = self.query(x) if self.query_rank is None else self.query_up(self.query_norm(self.query_down(x)))
        y = y.reshape(*x.shape[:2], self.num_heads, -1)
        return y[..., : self.head_size], rotate(y[..., self.head_size :], rotation, interleaved=True)

    def _latents(self, x: Array, rotation: Rotation) -> tuple[Array, Array]:
        """The latents (B, T, R), and the keys (B, T, P) that are turned."""
        y = self.latent(x)
        turned = rotate(y[:, :, None, self.latent_size :], rotation, interleaved=True)
        return self.latent_norm(y[..., : self.latent_size]), turned[:, :, 0]

    def _up(self, dtype: jnp.dtype) -> tuple[Array, Array]:
        """What makes keys (R, N, D) and values (R, N, U) of latents."""
        whole = self.latent_up(self.latent_size).astype(dtype).reshape(self.latent_size, self.num_heads, -1)
        return whole[..., : self.head_size], whole[..., self.head_size :]

    def _merge(self, y: Array) -> Array:
        return self.out(y.reshape(*y.shape[:2], -1))


class Router(nn.Module):
    """Chooses experts for tokens, see `Routes`. It sows "load_balancing" into "losses".

    The bias of V3 is no parameter but in the collection "balance": with `train`, where that is mutable, it grows by
    `SPEED` for each expert that had less than its share of the tokens and shrinks for the others, section 2.1.2 of V3;
    Wang et al. (2024), arXiv:2408.15664.

    Attributes:
      routes: see there.
    """

    routes: Routes
    SPEED = 0.001

    @nn.compact
    def __call__(self, x: Array, valid: Array | None, train: bool) -> Routing:
        """Takes tokens (M, C), and bools (M,), True where one is, or None for all."""
        r = self.routes
        logits = nn.Dense(r.num_experts, use_bias=False, name="logits")(x)
        logits = logits.astype(jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
        scores = jax.nn.sigmoid(logits) if r.sigmoid else jax.nn.softmax(logits)
        preference = scores
        if r.sigmoid:
            bias = self.variable("balance", "bias", jnp.zeros, (r.num_experts,), jnp.float32)
            preference = scores + bias.value.astype(scores.dtype)[None]
        chosen = jax.lax.top_k(self._within_groups(preference), r.num_chosen)[1]
        weights = jnp.take_along_axis(scores, chosen, -1)
        probabilities = scores / scores.sum(-1, keepdims=True) if r.sigmoid else scores
        sow_balance_loss(self, probabilities, chosen, valid)
        if r.sigmoid:
            weights /= weights.sum(-1, keepdims=True) + 1e-20
            if train and self.is_mutable_collection("balance") and not self.is_initializing():
                dtype = bias.value.dtype
                each = jnp.ones(len(x), dtype) if valid is None else valid.astype(dtype)
                load = each @ jax.nn.one_hot(chosen, r.num_experts, dtype=dtype).sum(1)
                bias.value += self.SPEED * jnp.sign(load.mean() - load)
        return Routing(chosen, weights * r.factor)

    def _within_groups(self, preference: Array) -> Array:
        """Preferences with those of the groups that aren't chosen taken out."""
        r = self.routes
        if r.num_groups == r.num_chosen_groups:
            return preference
        groups = preference.reshape(preference.shape[0], r.num_groups, -1)
        best = jax.lax.top_k(groups, 2 if r.sigmoid else 1)[0].sum(-1)
        allowed = jax.nn.one_hot(jax.lax.top_k(best, r.num_chosen_groups)[1], r.num_groups, dtype=bool).any(1)
        return jnp.where(allowed[..., None], groups, -jnp.inf if r.sigmoid else 0.0).reshape(preference.shape)


class SharedAndRouted(nn.Module):
    """Experts that all tokens go to, as one `GatedDense`, and experts that a router chooses, equation 20 of V2.

    Attributes:
      routes: see there.
      mlp_size: channels inside an expert.
      num_shared: experts that all tokens go to.
    """

    routes: Routes
    mlp_size: int
    num_shared: int

    @nn.compact
    def __call__(self, x: Array, valid: Array | None, train: bool) -> Array:
        """Takes (B, T, C), and bools (B, T) of those that are tokens, and returns (B, T, C)."""
        flat = x.reshape(-1, x.shape[-1])
        routing = Router(self.routes, name="router")(flat, None if valid is None else valid.reshape(-1), train)
        y = Experts(self.routes.num_experts, self.mlp_size, name="experts")(flat, routing).reshape(x.shape)
        return y + GatedDense(self.num_shared * self.mlp_size, "swiglu", name="shared")(x)


class DeepSeekLayer(nn.Module):
    """Attention and a dense part, or experts, each of what is normalised before, and each added to what came in.

    Attributes:
      attention_terms: arguments of `LatentAttention`.
      mlp_size: channels inside the dense part, or inside an expert.
      routes: where tokens go; None for a layer without experts.
      num_shared: experts that all tokens go to.
      epsilon: of the normalisations.
    """

    attention_terms: dict[str, Any]
    mlp_size: int
    routes: Routes | None
    num_shared: int
    epsilon: float

    def setup(self) -> None:
        self.attention = LatentAttention(**self.attention_terms)
        if self.routes is None:
            self.mlp = GatedDense(self.mlp_size, "swiglu")
        else:
            self.mlp = SharedAndRouted(self.routes, self.mlp_size, self.num_shared)
        self.norm1, self.norm2 = RMSNorm(self.epsilon), RMSNorm(self.epsilon)

    def __call__(self, x: Array, rotation: Rotation, mask: Array | None, valid: Array | None, train: bool) -> Array:
        """Returns (B, T, C) of (B, T, C); `valid` (B, T) are bools, True where a token is."""
        return self._rest(x, self.attention(self.norm1(x), rotation, mask), valid, train)

    def extend(self, x: Array, *rest: Any) -> tuple[Array, kept.Buffers]:
        """See `LatentAttention.extend`."""
        y, buffers = self.attention.extend(self.norm1(x), *rest)
        return self._rest(x, y, None, False), buffers

    def _rest(self, x: Array, y: Array, valid: Array | None, train: bool) -> Array:
        x += y
        y = self.norm2(x)
        return x + (self.mlp(y) if self.routes is None else self.mlp(y, valid, train))


class DeepSeek(Decoder):
    """A decoder with latent attention and experts, see `deepmodels.models.llama.Decoder` for its calls.

    The layers are two scans: "dense_layers", and "layers" with experts.

    Attributes:
      num_heads: N.
      query_rank: see `LatentAttention`; so are the next ones.
      latent_size: R.
      head_size: D.
      rotary_size: P.
      value_size: U.
      mlp_size: channels inside the dense part of the first layers.
      num_dense_layers: how many of the layers, the first ones, have no experts.
      expert_size: channels inside an expert.
      num_shared: experts that all tokens go to.
      routes: how they choose the others; also as plain data, by name, like the next.
      rope: how positions turn queries and keys. With YaRN, the products are multiplied by the square of
        `magnitude(mscale_all_dim)` besides.
    """

    num_heads: int = 128
    query_rank: int | None = 1536
    latent_size: int = 512
    head_size: int = 128
    rotary_size: int = 64
    value_size: int = 128
    mlp_size: int = 18_432
    num_dense_layers: int = 3
    expert_size: int = 2048
    num_shared: int = 1
    routes: Routes = Routes(256, 8)
    rope: Rope = Rope()
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name, make in (("rope", Rope.of), ("routes", partial(named, Routes, what="routes"))):
            if isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, make(getattr(self, name)))
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        r = self.routes
        if not 0 <= self.num_dense_layers < self.num_layers:
            raise ConfigError(
                f"num_dense_layers: expected fewer than num_layers, which is {self.num_layers}, "
                f"got {self.num_dense_layers}"
            )
        if r.num_experts % r.num_groups or not 1 <= r.num_chosen_groups <= r.num_groups:
            raise ConfigError(
                f"routes: {r.num_experts} experts can't be {r.num_groups} groups, of which some are chosen"
            )
        if not 1 <= r.num_chosen <= r.num_experts // r.num_groups * r.num_chosen_groups:
            raise ConfigError(f"routes: {r.num_chosen} experts can't be chosen from {r}")
        magnitude = 1.0
        if isinstance(self.rope.scaling, Yarn):
            magnitude = self.rope.scaling.magnitude(self.rope.scaling.mscale_all_dim)
        attention = dict(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            query_rank=self.query_rank,
            latent_size=self.latent_size,
            head_size=self.head_size,
            rotary_size=self.rotary_size,
            value_size=self.value_size,
            scale=magnitude**2 / math.sqrt(self.head_size + self.rotary_size),
            epsilon=1e-6,  # of the authors' code, whatever the other normalisations have
        )
        rest = dict(num_shared=self.num_shared, epsilon=self.epsilon)
        if self.num_dense_layers:
            self.dense_layers = DeepSeekLayer(attention, self.mlp_size, None, **rest)
        self.layers = DeepSeekLayer(attention, self.expert_size, r, **rest)

    def _scans(self) -> list[tuple[partial, range]]:
        """The scans over the layers, in order, and the numbers of the layers in each."""
        numbers = range(self.num_layers)
        parts = [(self.layers, numbers[self.num_dense_layers :])]
        if self.num_dense_layers:
            parts.insert(0, (self.dense_layers, numbers[: self.num_dense_layers]))
        scan = partial(scan_layers, unroll=self.unroll, remat=self.remat)
        return [(partial(scan, layer, length=len(part)), part) for layer, part in parts]

    def _layers(
        self, x: Array, tokens: Array, positions: Array, mask: Array | None, documents: Array | None, train: bool
    ) -> Array:
        rotation = self.rope.rotation(positions, self.rotary_size, x.dtype)
        seen = visible(tokens, mask, documents)
        for scan, _ in self._scans():
            x, _ = scan(lambda layer, x, _: (layer(x, rotation, seen, mask, train), None), x)
        return x

    def _buffers(self, batch_size: int, length: int, dtype: jnp.dtype, quantized: bool) -> Cache:
        entries = {"latents": (self.latent_size,), "rotary_keys": (self.rotary_size,)}
        return kept.make(batch_size, self.num_layers, length, entries, dtype, quantized=quantized)

    def _extend_layers(self, x: Array, positions: Array, cache: Cache, lengths: Array) -> tuple[Array, Cache]:
        buffers = {name: buffer for name, buffer in cache.items() if name.startswith(("latents", "rotary_keys"))}
        plan = kept.plan(buffers, positions[:, 0], positions.shape[1], lengths)
        rotation = self.rope.rotation(positions, self.rotary_size, x.dtype)

        def call(layer: DeepSeekLayer, carry: tuple, index: Array) -> tuple[tuple, None]:
            return layer.extend(carry[0], rotation, carry[1], index, plan), None

        for scan, numbers in self._scans():
            (x, buffers), _ = scan(call, (x, buffers), jnp.asarray(numbers, jnp.int32))
        return x, buffers


VARIANTS = {  # appendix B of V2, section 4.2 of V3
    "deepseek_v2_lite": Variant(
        DeepSeek,
        dict(
            vocab_size=102_400,
            hidden_size=2048,
            num_layers=27,
            num_heads=16,
            query_rank=None,
            mlp_size=10_944,
            num_dense_layers=1,
            expert_size=1408,
            num_shared=2,
            routes=Routes(64, 6, sigmoid=False),
            rope=Rope(10_000.0, Yarn(40.0, 4096, mscale=0.707, mscale_all_dim=0.707)),
            max_length=163_840,
        ),
        tokens(128),
        15_706_484_224,
        2024,
        "DeepSeek-AI (2024), arXiv:2405.04434",
    ),
    "deepseek_v3": Variant(
        DeepSeek,
        dict(
            vocab_size=129_280,
            hidden_size=7168,
            num_layers=61,
            routes=Routes(256, 8, factor=2.5, num_groups=8, num_chosen_groups=4),
            rope=Rope(10_000.0, Yarn(40.0, 4096, mscale=1.0, mscale_all_dim=1.0)),
            max_length=163_840,
        ),
        tokens(128),
        671_026_404_352,
        2024,
        "DeepSeek-AI (2024), arXiv:2412.19437",
    ),
    "deepseek_tiny": Variant(
        DeepSeek,
        dict(
            vocab_size=32,
            hidden_size=16,
            num_layers=3,
            num_heads=2,
            query_rank=12,
            latent_size=8,
            head_size=8,
            rotary_size=4,
            value_size=8,
            mlp_size=32,
            num_dense_layers=1,
            expert_size=16,
            routes=Routes(4, 2, factor=2.5, num_groups=2, num_chosen_groups=1),
            max_length=64,
        ),
        tokens(8),
        14_092,
        2024,
        "DeepSeek-AI (2024), arXiv:2412.19437",
    ),
}
