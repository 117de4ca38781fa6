"""Recurrent networks: Elman (1990), Hochreiter & Schmidhuber (1997) and Cho et al. (2014), and what is built on them.

The cells and their papers are in `deepmodels.layers.recurrence`. B batch, T time, C and H channels.
"""

import jax
import numpy as np
from flax import linen as nn
from jax import Array

from deepmodels.layers.checks import check_mask, check_tokens
from deepmodels.layers.dense import Dense
from deepmodels.layers.recurrence import RecurrentStack, State
from deepmodels.models.variant import Variant, tokens


class RecurrentNetwork(nn.Module):
    """A stack of recurrent layers, which reads sequences of vectors.

    The call takes inputs (B, T, C) floats and a mask (B, T) of bools, True where a position holds something, and
    returns the hidden states of the last layer (B, T, H), or (B, T, 2 H) of both directions, zero where nothing is; or
    logits (B, num_classes) of the last layer's last hidden state, of both directions. With `train` it drops channels
    between layers, by the "dropout" stream. Raises ConfigError if the cell is unknown, ShapeError if an argument
    doesn't fit.

    Attributes:
      cell: "elman_tanh", "elman_relu", "lstm_1997", "lstm_2000", "lstm_2002", "gru_2014" or "gru_reset_after".
      hidden_size: H.
      num_layers: number of layers.
      bidirectional: whether each layer runs in both directions.
      dropout_rate: between layers.
      recurrent_bias: whether there is a second bias on the side of the state, as in torch and cuDNN.
      forget_bias: of an LSTM's forget gates at the beginning; the longer the lag, the more of it is needed.
      num_classes: number of outputs; 0 for the hidden states.
      unroll: steps in one turn of the loop over time; changes neither result nor parameters.
    """

    cell: str
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    dropout_rate: float = 0.0
    recurrent_bias: bool = False
    forget_bias: float = 1.0
    num_classes: int = 0
    unroll: int = 1

    def setup(self) -> None:
        self.stack = RecurrentStack(
            self.cell,
            self.hidden_size,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            dropout_rate=self.dropout_rate,
            recurrent_bias=self.recurrent_bias,
            forget_bias=self.forget_bias,
            unroll=self.unroll,
        )
        if self.num_classes:
            self.head = nn.Dense(self.num_classes)

    def __call__(self, inputs: Array, mask: Array | None = None, train: bool = False) -> Array:
        outputs, state = self.advance(inputs, mask=mask, train=train)
        if not self.num_classes:
            return outputs
        last = state[0][:, -2:] if self.bidirectional else state[0][:, -1:]
        return self.head(last.reshape(inputs.shape[0], -1))

    def advance(
        self, inputs: Array, state: State | None = None, mask: Array | None = None, train: bool = False
    ) -> tuple[Array, State]:
        """Returns the last layer's hidden states and the state at the end, from which the next part can go on.

        Args:
          inputs: as for the call.
          state: the hidden states and, of an LSTM, the cell states, each (B, layers, H), or (B, 2 layers, H) with both
            directions of a layer in turn; None for zeros.
          mask: as for the call.
          train: as for the call.
        """
        return self.stack(inputs, mask, state, train)


class RecurrentLanguageModel(nn.Module):
    """A language model: the next token at each position, from those up to there. Zaremba et al. (2014).

    The call takes tokens (B, T) integers and a mask (B, T) of bools, True where a position holds a token, and returns
    logits (B, T, vocab_size) of the tokens that follow. With `train` it drops channels of what goes into each layer and
    into the head, but none from step to step, by the "dropout" stream. Raises ConfigError if the cell is unknown,
    ShapeError if an argument doesn't fit.

    Attributes:
      vocab_size: number of tokens.
      hidden_size: H, and the size of the embedding.
      num_layers: number of layers.
      cell: as in `RecurrentNetwork`.
      dropout_rate: see above.
      recurrent_bias: as in `RecurrentNetwork`.
      forget_bias: as in `RecurrentNetwork`.
      unroll: as in `RecurrentNetwork`.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int = 2
    cell: str = "lstm_2000"
    dropout_rate: float = 0.0
    recurrent_bias: bool = False
    forget_bias: float = 1.0
    unroll: int = 1

    def setup(self) -> None:
        self.token_embed = nn.Embed(self.vocab_size, self.hidden_size)
        self.stack = RecurrentStack(
            self.cell,
            self.hidden_size,
            num_layers=self.num_layers,
            dropout_rate=self.dropout_rate,
            recurrent_bias=self.recurrent_bias,
            forget_bias=self.forget_bias,
            unroll=self.unroll,
        )
        self.dropout = nn.Dropout(self.dropout_rate)
        self.head = Dense(self.vocab_size)

    def __call__(self, tokens: Array, mask: Array | None = None, train: bool = False) -> Array:
        logits, _ = self.decode(tokens, mask=mask, train=train)
        return logits

    def decode(
        self, tokens: Array, state: State | None = None, mask: Array | None = None, train: bool = False
    ) -> tuple[Array, State]:
        """Returns logits and the state after the tokens: to write text token by token, or to learn a long one in parts.

        Args:
          tokens: as for the call.
          state: what an earlier part ended in, arrays (B, num_layers, hidden_size); None for zeros.
          mask: as for the call.
          train: as for the call.
        """
        check_tokens(tokens)
        check_mask(mask, tokens)
        x = self.dropout(self.token_embed(tokens), deterministic=not train)
        x, state = self.stack(x, mask, state, train)
        return self.head(self.dropout(x, deterministic=not train)), state


def sequences(length: int, channels: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the `inputs` of a model that takes sequences of float32 vectors."""
    return {"inputs": jax.ShapeDtypeStruct((length, channels), np.float32)}


_ELMAN = "Elman (1990), doi:10.1207/s15516709cog1402_1"
_LSTM = (
    "Hochreiter & Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735; Gers, Schmidhuber & Cummins (2000), "
    "doi:10.1162/089976600300015015"
)
_BILSTM = (
    "Schuster & Paliwal (1997), doi:10.1109/78.650093; Graves & Schmidhuber (2005), doi:10.1016/j.neunet.2005.06.042"
)
_GRU = "Cho et al. (2014), arXiv:1406.1078"
_ZAREMBA = "Zaremba, Sutskever & Vinyals (2014), arXiv:1409.2329"


def _layer(cell: str, parameters: int, year: int, paper: str, **arguments: bool) -> Variant:
    arguments = dict(cell=cell, hidden_size=512, recurrent_bias=True) | arguments
    return Variant(RecurrentNetwork, arguments, sequences(32, 256), parameters, year, paper)


def _tiny(cell: str, parameters: int, year: int, paper: str) -> Variant:
    arguments = dict(cell=cell, hidden_size=12, num_layers=2, bidirectional=True, num_classes=10)
    return Variant(RecurrentNetwork, arguments, sequences(6, 4), parameters, year, paper)


def _penn_treebank(hidden_size: int, dropout_rate: float, parameters: int) -> Variant:
    arguments = dict(vocab_size=10_000, hidden_size=hidden_size, dropout_rate=dropout_rate)
    return Variant(RecurrentLanguageModel, arguments, tokens(35), parameters, 2014, _ZAREMBA)


VARIANTS = {
    # one layer of 512 units that reads 256 channels, with torch's two biases
    "elman": _layer("elman_tanh", 394_240, 1990, _ELMAN),
    "lstm": _layer("lstm_2000", 1_576_960, 1997, _LSTM),
    "bilstm": _layer("lstm_2000", 3_153_920, 2005, _BILSTM, bidirectional=True),
    "gru": _layer("gru_reset_after", 1_182_720, 2014, _GRU),
    "elman_tiny": _tiny("elman_tanh", 1_546, 1990, _ELMAN),
    "lstm_tiny": _tiny("lstm_2000", 5_434, 1997, _LSTM),
    "gru_tiny": _tiny("gru_2014", 4_138, 2014, _GRU),
    # section 4.1: for the Penn treebank, its 10,000 words and 35 steps
    "lstm_ptb_medium": _penn_treebank(650, 0.5, 19_775_200),
    "lstm_ptb_large": _penn_treebank(1_500, 0.65, 66_022_000),
    "lstm_ptb_tiny": Variant(
        RecurrentLanguageModel, dict(vocab_size=12, hidden_size=16), tokens(6), 4_620, 2014, _ZAREMBA
    ),
}
