"""BERT. Devlin, Chang, Lee & Toutanova (2018), arXiv:1810.04805; RoBERTa, DistilBERT and MiniLM have its form.

B batch, T positions, C channels, V words of the vocabulary.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, ShapeError, unknown
from deepmodels.layers.attention import Attention, key_mask
from deepmodels.layers.checks import check_mask, check_tokens
from deepmodels.layers.dense import Dense, attend
from deepmodels.layers.layer_norm import LayerNorm
from deepmodels.layers.stack import scan_layers
from deepmodels.models.variant import Variant, tokens

EPSILON = 1e-12  # of the normalisations, as in the authors' code
HEADS = (*("masked_lm", "pretraining", "sequence_classification", "token_classification", "question_answering"),)
ACTIVATIONS = {"tanh": jnp.tanh, "relu": nn.relu}  # of the pooler

normal = nn.initializers.truncated_normal(0.02)
dense = partial(Dense, kernel_init=normal)
embed = partial(nn.Embed, embedding_init=normal)
gelu = partial(nn.gelu, approximate=False)


class BertLayer(nn.Module):
    """A layer of the encoder: attention and two dense layers, each added to what came in and then normalised.

    Takes (B, T, C) and a mask of the positions (B, T) or None, and returns (B, T, C).

    Attributes:
      num_heads: of the attention.
      mlp_size: channels between the dense layers.
      dropout_rate: of both branches and of the attention's weights.
      epsilon: of the normalisations.
    """

    num_heads: int
    mlp_size: int
    dropout_rate: float
    epsilon: float

    @nn.compact
    def __call__(self, x: Array, mask: Array | None, train: bool) -> Array:
        hidden_size = x.shape[-1]
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")
        attention = Attention(
            self.num_heads, hidden_size, dropout_rate=self.dropout_rate, kernel_init=normal, name="attention"
        )
        y = attention(x, mask=None if mask is None else key_mask(mask), train=train)
        x = LayerNorm(self.epsilon, name="norm1")(x + dropout(y))
        y = gelu(dense(self.mlp_size, name="dense1")(x))
        y = dense(hidden_size, name="dense2")(y)
        return LayerNorm(self.epsilon, name="norm2")(x + dropout(y))


class Bert(nn.Module):
    """The encoder, and a head for a task.

    The call takes tokens (B, T) int32; `mask` (B, T) of bools, True where a position holds a token; `segments` (B, T)
    int32, 0 by default; with `train` it drops values at random, by the "dropout" stream. It returns, by `head`:

    - None: {"hidden": (B, T, C), "pooled": (B, C)}, the latter only with `pooling`;
    - "masked_lm": logits (B, T, V) of the words;
    - "pretraining": {"masked_lm": (B, T, V), "next_sentence": (B, 2)}, where class 0 is that the second text follows;
    - "sequence_classification": logits (B, num_classes);
    - "token_classification": logits (B, T, num_classes);
    - "question_answering": (B, T, 2), logits of where the answer starts and of where it ends.

    The layers are one scan, their parameters stacked on a leading axis ("layers"). Raises ShapeError if tokens aren't
    integers (B, T), are more than the positions, or the mask or the segments don't fit them, and ConfigError if there
    is no such head or segments are given to a model that has none.

    Attributes:
      vocab_size: V.
      hidden_size: C.
      num_layers: of the encoder.
      num_heads: of each attention.
      mlp_size: channels between the dense layers of each layer.
      max_length: embedded positions.
      num_segments: embedded kinds of segments; 0 for a model without them.
      dropout_rate: of embeddings, branches and attention weights, and before the heads of classification.
      epsilon: of the normalisations.
      padding_index: RoBERTa counts the positions of what isn't padding from this number + 1, and padding has this
        number; None counts all positions from 0.
      pooling: whether a model without head has the pooler.
      pooler_activation: "tanh" or "relu".
      head: see above.
      num_classes: of the two heads of classification.
      unroll: layers per step of the scan; changes neither result nor parameters.
    """

    vocab_size: int = 30_522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_size: int = 3072
    max_length: int = 512
    num_segments: int = 2
    dropout_rate: float = 0.1
    epsilon: float = EPSILON
    padding_index: int | None = None
    pooling: bool = True
    pooler_activation: str = "tanh"
    head: str | None = None
    num_classes: int = 2
    unroll: int = 1

    @nn.compact
    def __call__(
        self, tokens: Array, mask: Array | None = None, segments: Array | None = None, train: bool = False
    ) -> Any:
        self._check(tokens, mask, segments)
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")
        token_embed = embed(self.vocab_size, self.hidden_size, name="token_embed")
        x = token_embed(tokens)
        x += embed(self.max_length, self.hidden_size, name="position_embed")(self._positions(tokens, mask))
        if self.num_segments:
            kinds = jnp.zeros_like(tokens) if segments is None else segments
            x += embed(self.num_segments, self.hidden_size, name="segment_embed")(kinds)
        x = dropout(LayerNorm(self.epsilon, name="norm")(x))
        x, _ = scan_layers(
            BertLayer(self.num_heads, self.mlp_size, self.dropout_rate, self.epsilon, name="layers"),
            lambda layer, x, _: (layer(x, mask, train), None),
            x,
            length=self.num_layers,
            unroll=self.unroll,
        )
        if self.head is None:
            return {"hidden": x} | ({"pooled": self._pooled(x)} if self.pooling else {})
        if self.head == "masked_lm":
            return self._words(x, token_embed)
        if self.head == "pretraining":
            follows = dense(2, name="next_sentence")(self._pooled(x))
            return {"masked_lm": self._words(x, token_embed), "next_sentence": follows}
        if self.head == "question_answering":
            return dense(2, name="head")(x)
        if self.head == "sequence_classification":
            x = self._pooled(x)
        return dense(self.num_classes, name="head")(dropout(x))

    def _check(self, tokens: Array, mask: Array | None, segments: Array | None) -> None:
        if self.head is not None and self.head not in HEADS:
            raise unknown("head", self.head, HEADS)
        if self.pooler_activation not in ACTIVATIONS:
            raise unknown("pooler_activation", self.pooler_activation, ACTIVATIONS)
        check_tokens(tokens, length=self.max_length - (0 if self.padding_index is None else self.padding_index + 1))
        check_mask(mask, tokens)
        if segments is not None:
            if not self.num_segments:
                raise ConfigError("segments: this model has none, as its num_segments is 0")
            check_tokens(segments, name="segments")
            if segments.shape != tokens.shape:
                raise ShapeError(f"segments: expected shape {tuple(tokens.shape)}, got {tuple(segments.shape)}")

    def _positions(self, tokens: Array, mask: Array | None) -> Array:
        if self.padding_index is None:
            return jnp.arange(tokens.shape[1])[None]
        held = jnp.ones(tokens.shape, jnp.int32) if mask is None else mask.astype(jnp.int32)
        return jnp.cumsum(held, 1) * held + self.padding_index

    def _pooled(self, x: Array) -> Array:
        return ACTIVATIONS[self.pooler_activation](dense(self.hidden_size, name="pooler")(x[:, 0]))

    def _words(self, x: Array, token_embed: nn.Embed) -> Array:
        x = gelu(dense(self.hidden_size, name="masked_lm_dense")(x))
        x = LayerNorm(self.epsilon, name="masked_lm_norm")(x)
        bias = self.param("masked_lm_bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32)
        return attend(token_embed, x) + bias.astype(x.dtype)[None, None]


def mean_pool(hidden: Array, mask: Array | None = None) -> Array:
    """Returns the mean of the hidden states of each text: what sentence embeddings such as MiniLM's are made of.

    Reimers & Gurevych (2019), arXiv:1908.10084. Compare two of them by their cosine.

    Args:
      hidden: (B, T, C).
      mask: (B, T) of bools, True where a position holds a token; by default all do.

    Returns:
      (B, C) in the dtype of `hidden`, summed in float32 for bfloat16; zeros for a text without tokens.
    """
    wide = hidden.astype(jnp.float32 if hidden.dtype.itemsize < 4 else hidden.dtype)
    if mask is None:
        return wide.mean(1).astype(hidden.dtype)
    held = mask[..., None].astype(wide.dtype)
    return ((wide * held).sum(1) / jnp.maximum(held.sum(1), 1)).astype(hidden.dtype)


_BERT = "Devlin, Chang, Lee & Toutanova (2018), arXiv:1810.04805"
_COMPACT = "Turc, Chang, Lee & Toutanova (2019), arXiv:1908.08962"
_ROBERTA = "Liu et al. (2019), arXiv:1907.11692"
_DISTILBERT = "Sanh, Debut, Chaumond & Wolf (2019), arXiv:1910.01108"
_MINILM = "Wang et al. (2020), arXiv:2002.10957"


def _bert(layers: int, size: int, parameters: int, year: int = 2018, paper: str = _BERT, **arguments: Any) -> Variant:
    sizes = dict(hidden_size=size, num_layers=layers, num_heads=size // 64, mlp_size=4 * size)
    return Variant(Bert, sizes | arguments, tokens(512), parameters, year, paper)


VARIANTS = {
    "bert_tiny": _bert(2, 128, 4_385_920, 2019, _COMPACT),
    "bert_mini": _bert(4, 256, 11_170_560, 2019, _COMPACT),
    "bert_small": _bert(4, 512, 28_763_648, 2019, _COMPACT),
    "bert_medium": _bert(8, 512, 41_373_184, 2019, _COMPACT),
    "bert_base": _bert(12, 768, 109_482_240),
    "bert_large": _bert(24, 1024, 335_141_888),
    "bert_base_cased": _bert(12, 768, 108_310_272, vocab_size=28_996),
    "bert_large_cased": _bert(24, 1024, 333_579_264, vocab_size=28_996),
    "roberta_base": _bert(
        *(12, 768, 124_645_632, 2019, _ROBERTA),
        **dict(vocab_size=50_265, max_length=514, num_segments=1, epsilon=1e-5, padding_index=1),
    ),
    "distilbert": _bert(
        6, 768, 66_362_880, 2019, _DISTILBERT, num_segments=0, pooling=False, pooler_activation="relu"
    ),
    "all_minilm_l6_v2": _bert(6, 384, 22_713_216, 2020, _MINILM, num_heads=12),
    # the preset that trains in a second; the name it would have, bert_tiny, is the smallest of the published ones
    "bert_micro": Variant(
        Bert,
        dict(
            vocab_size=64, hidden_size=16, num_layers=2, num_heads=2, mlp_size=32, max_length=16, dropout_rate=0.0,
            head="sequence_classification", num_classes=8,
        ),
        tokens(8), 6_200, 2018, _BERT,
    ),
}  # fmt: skip
