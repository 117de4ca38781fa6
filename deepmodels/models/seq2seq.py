"""Recurrent encoders and decoders, without and with attention.

`Seq2Seq` is that of Sutskever, Vinyals & Le (2014), arXiv:1409.3215; `RNNSearch` that of Bahdanau, Cho & Bengio (2014),
arXiv:1409.0473; `LuongAttention` that of Luong, Pham & Manning (2015), arXiv:1508.04025. All take the source and what
the decoder reads, which is the target behind a token that starts it, and have two halves:

    state = model.apply(variables, tokens, mask, method="encode")
    logits, state = model.apply(variables, targets, state, method="decode")

where `targets` are as many as there are so far. To write a text they have what the Transformer has: the state is what
`start` returns, and `step` reads one token of each text, as `deepmodels.sampling` takes it. B batch, S steps of the
source, T of the target, H channels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import unknown
from deepmodels.layers.checks import check_mask, check_tokens
from deepmodels.layers.dense import Dense
from deepmodels.layers.recurrence import RecurrentStack, State
from deepmodels.models.variant import Variant, tokens

SCORES = ("additive", "general", "dot")


class EncoderDecoder(nn.Module):
    """The call that the models here share, made of their two halves, `encode` and `decode`."""

    def __call__(
        self,
        tokens: Array,
        targets: Array,
        mask: Array | None = None,
        target_mask: Array | None = None,
        train: bool = False,
    ) -> Array:
        logits, _ = self.decode(targets, self.encode(tokens, mask, train), target_mask, train)
        return logits

    def start(self, memory: Any, mask: Array | None = None, *, length: int) -> Any:
        """Returns what `step` begins with: what `encode` returned, for a text of any length."""
        return memory

    def step(self, tokens: Array, state: Any) -> tuple[Array, Any]:
        """Returns logits (B, target_vocab_size) of what follows tokens (B,), the next of each text, and the state."""
        logits, state = self.decode(tokens[:, None], state)
        return logits[:, 0], state


class Seq2Seq(EncoderDecoder):
    """A stack that reads the source and one that writes the target, beginning in the state that the first ended in.

    The call takes tokens (B, S) and targets (B, T), integers, and masks of the same shapes, True where a position holds
    something, and returns logits (B, T, target_vocab_size) of the token after each of the targets. With `train` it
    drops channels between layers, by the "dropout" stream. Raises ConfigError if the cell is unknown, ShapeError if an
    argument doesn't fit.

    Attributes:
      vocab_size: tokens of the source.
      target_vocab_size: tokens of the target.
      hidden_size: H, and the size of the embeddings.
      num_layers: of each stack.
      cell: a key of `deepmodels.layers.recurrence.CELLS`.
      reverse_source: whether the source is read from its end to its beginning, section 3.3.
      dropout_rate: between layers.
      recurrent_bias: whether there is a second bias on the side of the state, as in torch and cuDNN.
      unroll: steps in one turn of the loop over time; changes neither result nor parameters.
    """

    vocab_size: int
    target_vocab_size: int
    hidden_size: int
    num_layers: int = 4
    cell: str = "lstm_2000"
    reverse_source: bool = True
    dropout_rate: float = 0.0
    recurrent_bias: bool = False
    unroll: int = 1

    def setup(self) -> None:
        arguments: dict[str, Any] = dict(
            cell=self.cell,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            dropout_rate=self.dropout_rate,
            recurrent_bias=self.recurrent_bias,
            unroll=self.unroll,
        )
        self.token_embed = nn.Embed(self.vocab_size, self.hidden_size)
        self.encoder = RecurrentStack(reverse=self.reverse_source, **arguments)
        self.target_embed = nn.Embed(self.target_vocab_size, self.hidden_size)
        self.decoder = RecurrentStack(**arguments)
        self.head = Dense(self.target_vocab_size)

    def encode(self, tokens: Array, mask: Array | None = None, train: bool = False) -> State:
        """Returns the state in which the decoder begins: arrays (B, num_layers, H)."""
        check_tokens(tokens)
        check_mask(mask, tokens)
        _, state = self.encoder(self.token_embed(tokens), mask, train=train)
        return state

    def decode(
        self, targets: Array, state: State, target_mask: Array | None = None, train: bool = False
    ) -> tuple[Array, State]:
        """Returns logits (B, T, target_vocab_size) and the state after the targets."""
        check_tokens(targets, name="targets")
        check_mask(target_mask, targets, name="target_mask")
        x, state = self.decoder(self.target_embed(targets), target_mask, state, train)
        return self.head(x), state


class SourceAttention(nn.Module):
    """Attention of one query to the states of the source.

    The call takes queries (B, Q), keys (B, S, K), the memory (B, S, M) and a mask (B, S) of bools or None, and returns
    the average of the memory (B, M). The keys are what `MemoryKeys` makes of the memory, once for all queries. The
    weights (B, S) are the output of a submodule "weights", for `deepmodels.analysis.intermediates`. Raises ConfigError
    if the score is unknown.

    Attributes:
      score: of a query q and a key k: "additive", v tanh(Wq + Uk), Bahdanau's, which Luong calls "concat"; "general",
        q W k; or "dot", q k, for queries and memories of one size.
      size: of v for "additive", of the queries for "general".
    """

    score: str
    size: int

    def setup(self) -> None:
        if self.score not in SCORES:
            raise unknown("score", self.score, SCORES)
        if self.score == "additive":
            self.query = nn.Dense(self.size)
            self.vector = self.param("vector", nn.initializers.lecun_normal(), (self.size, 1), jnp.float32)
        self.weights = AttentionWeights()

    def __call__(self, query: Array, keys: Array, memory: Array, mask: Array | None) -> Array:
        if self.score == "additive":
            scores = (jnp.tanh(self.query(query)[:, None] + keys) @ self.vector)[..., 0]
        else:
            scores = jnp.einsum("bq,bsq->bs", query, keys)
        return jnp.einsum("bs,bsm->bm", self.weights(scores, mask), memory)


class MemoryKeys(nn.Module):
    """What `SourceAttention` compares the memory (B, S, M) by: U k, W k, or for the score "dot" the memory itself."""

    score: str
    size: int

    @nn.compact
    def __call__(self, memory: Array) -> Array:
        return memory if self.score == "dot" else Dense(self.size, use_bias=False, name="key")(memory)


class AttentionWeights(nn.Module):
    """The softmax of scores (B, S) where a mask is True, in float32 or more; a module: so it has a name."""

    @nn.compact
    def __call__(self, scores: Array, mask: Array | None) -> Array:
        values = scores.astype(jnp.float32) if scores.dtype.itemsize < 4 else scores
        if mask is not None:
            values = jnp.where(mask, values, jnp.finfo(values.dtype).min)
        return jax.nn.softmax(values, axis=-1).astype(scores.dtype)


class Memory(NamedTuple):
    """What a decoder attends to: the encoder's states (B, S, M), their keys (B, S, K), and which of them are real."""

    states: Array
    keys: Array
    mask: Array | None


class DecoderState(NamedTuple):
    """The state of a decoder with attention; every array has the batch first."""

    memory: Memory
    recurrent: State  # (B, num_layers, H) each
    read: Array | None = None  # (B, H), what the last step made of what it saw, where the next one is fed it


class RNNSearch(EncoderDecoder):
    """An encoder of both directions, and a decoder which before each step looks for what it needs of the source.

    Section 3 of the paper and its appendix A.2: the additive score of the decoder's last state and each of the
    encoder's; the average of these is read by the next step, and the maxout of both and of the last token makes the
    logits. As in equation 4 that is the new state; the appendix has the one before it.

    The call is as that of `Seq2Seq`. The weights of the attention, (T, B, S), are the output of the submodule
    "decoder/attention/weights".

    Attributes:
      vocab_size: tokens of the source.
      target_vocab_size: tokens of the target.
      hidden_size: n, units of each direction and of the decoder.
      embed_size: m, of both embeddings.
      maxout_size: l, of the layer below the logits.
      attention_size: n', of the score.
      cell: a key of `deepmodels.layers.recurrence.CELLS` with one array for its state.
      unroll: as in `Seq2Seq`.
    """

    vocab_size: int
    target_vocab_size: int
    hidden_size: int = 1_000
    embed_size: int = 620
    maxout_size: int = 500
    attention_size: int = 1_000
    cell: str = "gru_2014"
    unroll: int = 1

    def setup(self) -> None:
        self.token_embed = nn.Embed(self.vocab_size, self.embed_size)
        self.encoder = RecurrentStack(self.cell, self.hidden_size, bidirectional=True, unroll=self.unroll)
        self.initial = nn.Dense(self.hidden_size)
        self.target_embed = nn.Embed(self.target_vocab_size, self.embed_size)
        self.memory_keys = MemoryKeys("additive", self.attention_size)
        self.decoder = SearchStep(self.cell, self.hidden_size, self.attention_size)
        self.maxout = Dense(2 * self.maxout_size)
        self.head = Dense(self.target_vocab_size)

    def encode(self, tokens: Array, mask: Array | None = None, train: bool = False) -> DecoderState:
        """Returns the state in which the decoder begins, the memory of the source in it."""
        check_tokens(tokens)
        check_mask(mask, tokens)
        states, (last,) = self.encoder(self.token_embed(tokens), mask)
        first = jnp.tanh(self.initial(last[:, 1]))  # of the direction that ends at the first token
        memory = Memory(states, self.memory_keys(states), mask)
        return DecoderState(memory, (first[:, None],))

    def decode(
        self, targets: Array, state: DecoderState, target_mask: Array | None = None, train: bool = False
    ) -> tuple[Array, DecoderState]:
        """Returns logits (B, T, target_vocab_size) and the state after the targets."""
        check_tokens(targets, name="targets")
        check_mask(target_mask, targets, name="target_mask")
        embedded = self.target_embed(targets)
        state, (hidden, read) = _over_time(self.decoder, self.unroll, False)(state, embedded, target_mask)
        pairs = self.maxout(jnp.concatenate([hidden, embedded, read], -1))
        x = pairs.reshape(*pairs.shape[:2], self.maxout_size, 2).max(-1)
        return self.head(x), state


class SearchStep(nn.Module):
    """One step of `RNNSearch`: attend by the last state, then go on to the next."""

    cell: str
    hidden_size: int
    attention_size: int

    def setup(self) -> None:
        self.attention = SourceAttention("additive", self.attention_size)
        self.stack = RecurrentStack(self.cell, self.hidden_size)

    def __call__(
        self, state: DecoderState, embedded: Array, mask: Array | None, train: bool
    ) -> tuple[DecoderState, tuple[Array, Array]]:
        memory = state.memory
        read = self.attention(state.recurrent[0][:, -1], memory.keys, memory.states, memory.mask)
        x = jnp.concatenate([embedded, read], -1)[:, None]
        hidden, recurrent = self.stack(x, _one_step(mask), state.recurrent, train)
        return DecoderState(memory, recurrent), (hidden[:, 0], read)


class LuongAttention(EncoderDecoder):
    """A decoder that after each step looks at the source, and reads in the next step what it saw there.

    Section 3.1, global attention, and 3.3, input feeding: the average of the encoder's states, weighted by their score
    with the decoder's new state, makes with that state the vector tanh(W [average; state]) of which the logits are made
    and which is fed to the next step beside the token. The encoder is that of `Seq2Seq`.

    The call is as that of `Seq2Seq`. The weights of the attention, (T, B, S), are the output of the submodule
    "decoder/attention/weights". Raises ConfigError if the score is unknown too.

    Attributes:
      vocab_size: tokens of the source.
      target_vocab_size: tokens of the target.
      hidden_size: H, and the size of the embeddings.
      num_layers: of each stack.
      score: "dot", "general" or "additive", which the paper calls "concat".
      input_feeding: whether the next step reads what this one saw.
      cell: a key of `deepmodels.layers.recurrence.CELLS`.
      reverse_source: whether the source is read from its end to its beginning.
      dropout_rate: between layers.
      unroll: as in `Seq2Seq`.
    """

    vocab_size: int
    target_vocab_size: int
    hidden_size: int = 1_000
    num_layers: int = 4
    score: str = "general"
    input_feeding: bool = True
    cell: str = "lstm_2000"
    reverse_source: bool = True
    dropout_rate: float = 0.0
    unroll: int = 1

    def setup(self) -> None:
        sizes = dict(num_layers=self.num_layers, dropout_rate=self.dropout_rate)
        self.token_embed = nn.Embed(self.vocab_size, self.hidden_size)
        self.encoder = RecurrentStack(
            self.cell, self.hidden_size, reverse=self.reverse_source, unroll=self.unroll, **sizes
        )
        self.target_embed = nn.Embed(self.target_vocab_size, self.hidden_size)
        self.memory_keys = MemoryKeys(self.score, self.hidden_size)
        self.decoder = FeedingStep(self.cell, self.hidden_size, self.score, self.input_feeding, **sizes)
        self.head = Dense(self.target_vocab_size, use_bias=False)

    def encode(self, tokens: Array, mask: Array | None = None, train: bool = False) -> DecoderState:
        """Returns the state in which the decoder begins, the memory of the source in it."""
        check_tokens(tokens)
        check_mask(mask, tokens)
        states, last = self.encoder(self.token_embed(tokens), mask, train=train)
        return DecoderState(Memory(states, self.memory_keys(states), mask), last, jnp.zeros_like(states[:, 0]))

    def decode(
        self, targets: Array, state: DecoderState, target_mask: Array | None = None, train: bool = False
    ) -> tuple[Array, DecoderState]:
        """Returns logits (B, T, target_vocab_size) and the state after the targets."""
        check_tokens(targets, name="targets")
        check_mask(target_mask, targets, name="target_mask")
        state, x = _over_time(self.decoder, self.unroll, train)(state, self.target_embed(targets), target_mask)
        return self.head(x), state


class FeedingStep(nn.Module):
    """One step of `LuongAttention`: go on to the next state, then attend by it."""

    cell: str
    hidden_size: int
    score: str
    input_feeding: bool
    num_layers: int
    dropout_rate: float

    def setup(self) -> None:
        self.attention = SourceAttention(self.score, self.hidden_size)
        self.stack = RecurrentStack(
            self.cell, self.hidden_size, num_layers=self.num_layers, dropout_rate=self.dropout_rate
        )
        self.combine = nn.Dense(self.hidden_size, use_bias=False)

    def __call__(
        self, state: DecoderState, embedded: Array, mask: Array | None, train: bool
    ) -> tuple[DecoderState, Array]:
        memory = state.memory
        x = jnp.concatenate([embedded, state.read], -1) if self.input_feeding else embedded
        hidden, recurrent = self.stack(x[:, None], _one_step(mask), state.recurrent, train)
        average = self.attention(hidden[:, 0], memory.keys, memory.states, memory.mask)
        read = jnp.tanh(self.combine(jnp.concatenate([average, hidden[:, 0]], -1)))
        kept = read if mask is None else jnp.where(mask[:, None], read, state.read)
        return DecoderState(memory, recurrent, kept), read


def _one_step(mask: Array | None) -> Array | None:
    return None if mask is None else mask[:, None]


def _over_time(step: nn.Module, unroll: int, train: bool) -> Callable:
    """A decoder's step as a function of the first state, all inputs (B, T, E) and their mask (B, T) or None."""
    scan = nn.scan(
        lambda step, state, x, mask: step(state, x, mask, train),
        variable_broadcast="params",
        variable_axes={"intermediates": 0},
        split_rngs={"params": False, "dropout": True},
        in_axes=1,
        out_axes=1,
        unroll=unroll,
    )
    return lambda state, inputs, mask: scan(step, state, inputs, mask)


_SUTSKEVER = "Sutskever, Vinyals & Le (2014), arXiv:1409.3215"
_BAHDANAU = "Bahdanau, Cho & Bengio (2014), arXiv:1409.0473"
_LUONG = "Luong, Pham & Manning (2015), arXiv:1508.04025"
_G2P = "Park & Kim (2019), https://github.com/Kyubyong/g2p"
_TINY = dict(vocab_size=12, target_vocab_size=10, hidden_size=16)

VARIANTS = {
    "seq2seq_2014": Variant(  # section 3.4
        Seq2Seq,
        dict(vocab_size=160_000, target_vocab_size=80_000, hidden_size=1_000),
        tokens(30, 30),
        384_112_000,
        2014,
        _SUTSKEVER,
    ),
    # letters to phonemes, the sizes of the weights that circulate
    "g2p_gru": Variant(
        Seq2Seq,
        dict(
            vocab_size=29,
            target_vocab_size=74,
            hidden_size=256,
            num_layers=1,
            cell="gru_reset_after",
            reverse_source=False,
            recurrent_bias=True,
        ),
        tokens(12, 12),
        834_890,
        2019,
        _G2P,
    ),
    "seq2seq_tiny": Variant(Seq2Seq, dict(**_TINY, num_layers=2), tokens(6, 5), 8_970, 2014, _SUTSKEVER),
    # appendix A.2.3
    "bahdanau_2014": Variant(
        RNNSearch, dict(vocab_size=30_000, target_vocab_size=30_000), tokens(50, 50), 80_443_000, 2014, _BAHDANAU
    ),
    "bahdanau_tiny": Variant(
        RNNSearch,
        dict(**_TINY, embed_size=8, maxout_size=8, attention_size=8),
        tokens(6, 5),
        6_986,
        2014,
        _BAHDANAU,
    ),
    # section 4.1
    "luong_2015": Variant(
        LuongAttention,
        dict(vocab_size=50_000, target_vocab_size=50_000, dropout_rate=0.2),
        tokens(50, 50),
        221_032_000,
        2015,
        _LUONG,
    ),
    "luong_tiny": Variant(LuongAttention, dict(**_TINY, num_layers=2), tokens(6, 5), 10_752, 2015, _LUONG),
}
