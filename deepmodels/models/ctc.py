"""Networks for labelling without alignment. Graves, Fernández, Gomez & Schmidhuber (2006), doi:10.1145/1143844.1143891.

Connectionist temporal classification lets a network answer at each step with a label or with the blank, and counts as
one answer all that come to the same when repetitions and then blanks are left out. The loss is the objective "ctc", and
`deepmodels.sampling` decodes. B batch, T time, C and H channels, K labels with the blank.
"""

from flax import linen as nn
from jax import Array

from deepmodels.layers.dense import Dense
from deepmodels.layers.recurrence import RecurrentStack
from deepmodels.models.recurrent import sequences
from deepmodels.models.variant import Variant


class CTCNetwork(nn.Module):
    """The network of section 5.2: a layer of recurrent units in both directions, and the labels' scores at each step.

    The call takes inputs (B, T, C) floats and a mask (B, T) of bools, True where a position holds something, and
    returns logits (B, T, num_classes). With `train` it drops channels between layers, by the "dropout" stream. Raises
    ConfigError if the cell is unknown, ShapeError if an argument doesn't fit.

    Attributes:
      hidden_size: H, the units in each direction.
      num_layers: number of layers.
      num_classes: K, the labels with the blank.
      cell: "lstm_2002", with peepholes, or another key of `deepmodels.layers.recurrence.CELLS`.
      dropout_rate: between layers.
      unroll: steps in one turn of the loop over time; changes neither result nor parameters.
    """

    hidden_size: int = 100
    num_layers: int = 1
    num_classes: int = 62
    cell: str = "lstm_2002"
    dropout_rate: float = 0.0
    unroll: int = 1

    @nn.compact
    def __call__(self, inputs: Array, mask: Array | None = None, train: bool = False) -> Array:
        stack = RecurrentStack(
            self.cell,
            self.hidden_size,
            num_layers=self.num_layers,
            bidirectional=True,
            dropout_rate=self.dropout_rate,
            unroll=self.unroll,
            name="stack",
        )
        x, _ = stack(inputs, mask, train=train)
        return Dense(self.num_classes, name="head")(x)


_PAPER = "Graves, Fernández, Gomez & Schmidhuber (2006), doi:10.1145/1143844.1143891"

VARIANTS = {
    # section 5.2: 26 coefficients of each 10 ms of speech, the 61 phonemes of TIMIT and the blank
    "ctc_blstm_2006": Variant(CTCNetwork, {}, sequences(300, 26), 114_662, 2006, _PAPER),
    "ctc_tiny": Variant(CTCNetwork, dict(hidden_size=12, num_classes=6), sequences(12, 4), 1_854, 2006, _PAPER),
}
