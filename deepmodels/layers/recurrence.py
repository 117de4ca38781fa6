"""Recurrent layers: Elman's network, the LSTM in its forms, the GRU in its two. B batch, T time, C and H channels.

Every cell is one matrix product of the state, or two in a row, and elementwise functions around it. So one scan serves
them all, and it does the least that has to be done step by step: the inputs are projected by one product before it,
the backward scan passes gradients of the gates back in time and keeps them, and the gradient of the kernels is one
product over all steps after it, where differentiating the scan would add up one for each step. Inside the scan the
batch is the last axis: a product of the kernel and the state is twice as fast on a CPU as one of the state and the
kernel, and the gates are whole blocks of memory.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from deepmodels.errors import ShapeError, unknown
from deepmodels.layers.checks import check_mask
from deepmodels.layers.dense import product

State = tuple[Array, ...]  # the hidden state, and the LSTM's cell state after it


class Cell(NamedTuple):
    """What one step of a recurrent network computes; its functions are elementwise.

    All arrays are (channels, B). Product k of a step is that of kernel k and `reads[k](earlier sums, state)`, and its
    sum adds the projected inputs. Then `update(peepholes, sums, rest, state)` is the next state.

    Attributes:
      products: how many blocks of H channels each product of a step has.
      arrays: how many the state has.
      update: see above.
      reads: see above.
      peepholes: names of the vectors of H weights that it has.
      apart: whether the last block of the inputs isn't added to its product but given to `update` as `rest`.
    """

    products: tuple[int, ...]
    arrays: int
    update: Callable[[tuple[Array, ...], tuple[Array, ...], Array | None, State], State]
    reads: tuple[Callable[[tuple[Array, ...], State], Array], ...] = (lambda sums, state: state[0],)
    peepholes: tuple[str, ...] = ()
    apart: bool = False


def _elman(activation, peepholes, sums, rest, state):
    return (activation(sums[0]),)


def _lstm_1997(peepholes, sums, rest, state):
    i, g, o = jnp.split(sums[0], 3, -2)
    c = state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _lstm_2000(peepholes, sums, rest, state):
    i, f, g, o = jnp.split(sums[0], 4, -2)
    c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _lstm_2002(peepholes, sums, rest, state):
    i, f, g, o = jnp.split(sums[0], 4, -2)
    peep_i, peep_f, peep_o = (weights[:, None] for weights in peepholes)
    c = jax.nn.sigmoid(f + peep_f * state[1]) * state[1] + jax.nn.sigmoid(i + peep_i * state[1]) * jnp.tanh(g)
    return jax.nn.sigmoid(o + peep_o * c) * jnp.tanh(c), c


def _gru_2014(peepholes, sums, rest, state):
    _, z = jnp.split(sums[0], 2, -2)
    return (_mix(z, state[0], jnp.tanh(sums[1])),)


def _reset(sums, state):
    r, _ = jnp.split(sums[0], 2, -2)
    return jax.nn.sigmoid(r) * state[0]


def _gru_reset_after(peepholes, sums, rest, state):
    r, z, n = jnp.split(sums[0], 3, -2)
    return (_mix(z, state[0], jnp.tanh(rest + jax.nn.sigmoid(r) * n)),)


def _mix(z, old, new):
    z = jax.nn.sigmoid(z)
    return (1 - z) * new + z * old


_HIDDEN = Cell._field_defaults["reads"]

CELLS: dict[str, Cell] = {
    "elman_tanh": Cell((1,), 1, partial(_elman, jnp.tanh)),
    "elman_relu": Cell((1,), 1, partial(_elman, jax.nn.relu)),
    "lstm_1997": Cell((3,), 2, _lstm_1997),
    "lstm_2000": Cell((4,), 2, _lstm_2000),
    "lstm_2002": Cell((4,), 2, _lstm_2002, peepholes=("peephole_input", "peephole_forget", "peephole_output")),
    "gru_2014": Cell((2, 1), 1, _gru_2014, (*_HIDDEN, _reset)),
    "gru_reset_after": Cell((3,), 1, _gru_reset_after, apart=True),
}


def cell_of(name: str) -> Cell:
    """Returns the cell of a name.

    Raises:
      ConfigError: there is none; the message names the nearest.
    """
    if name not in CELLS:
        raise unknown("cell", name, CELLS)
    return CELLS[name]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def recur(
    cell: Cell,
    reverse: bool,
    unroll: int,
    kernels: tuple[Array, ...],
    peepholes: tuple[Array, ...],
    inputs: tuple[Array, ...],
    rest: Array | None,
    mask: Array | None,
    state: State,
) -> tuple[Array, State]:
    """Runs a cell over time; its derivative is taken as this file's first lines say.

    Args:
      cell: the functions of a step.
      reverse: from the last step to the first.
      unroll: steps in one turn of the loop.
      kernels: (H, G_k) floats, one for each product of a step.
      peepholes: (H,) floats.
      inputs: (T, G_k, B) floats, what is added to each product.
      rest: (T, H, B) floats that are added to none, for cells that have such a part.
      mask: (T, B) bools; where it is False the state stays as it is.
      state: the first one, arrays (H, B).

    Returns:
      The hidden state after each step (T, H, B), and the last state.
    """
    (outputs, state), _ = _forward(cell, reverse, unroll, kernels, peepholes, inputs, rest, mask, state)
    return outputs, state


def _next(cell, mask, peepholes, sums, rest, state):
    new = cell.update(peepholes, sums, rest, state)
    return new if mask is None else tuple(jnp.where(mask[None], n, s) for n, s in zip(new, state, strict=True))


def _forward(cell, reverse, unroll, kernels, peepholes, inputs, rest, mask, initial):
    transposed = tuple(kernel.T for kernel in kernels)  # here, as a CPU would do it anew in each step

    def step(state, xs):
        inputs, rest, mask = xs
        sums = ()
        for kernel, x, read in zip(transposed, inputs, cell.reads, strict=True):
            sums += (x + kernel @ read(sums, state),)
        state = _next(cell, mask, peepholes, sums, rest, state)
        return state, (sums, state)

    last, (sums, states) = lax.scan(step, initial, (inputs, rest, mask), reverse=reverse, unroll=unroll)
    return (states[0], last), (kernels, peepholes, rest, mask, initial, sums, states)


def _backward(cell, reverse, unroll, kept, cotangents):
    kernels, peepholes, rest, mask, initial, sums, states = kept
    d_outputs, d_last = cotangents
    before = tuple(
        jnp.concatenate([after[1:], first[None]] if reverse else [first[None], after[:-1]])
        for first, after in zip(initial, states, strict=True)
    )

    def step(d_state, xs):
        d_output, sums, rest, mask, state = xs
        d_state = (d_state[0] + d_output, *d_state[1:])
        _, pull = jax.vjp(partial(_next, cell, mask), peepholes, sums, rest, state)
        d_peepholes, d_sums, d_rest, d_state = pull(d_state)
        for k, kernel in reversed(list(enumerate(kernels))):
            _, pull = jax.vjp(cell.reads[k], sums[:k], state)
            through = pull(kernel @ d_sums[k])
            earlier, d_state = jax.tree.map(jnp.add, (d_sums[:k], d_state), through)
            d_sums = (*earlier, *d_sums[k:])
        return d_state, (d_peepholes, d_sums, d_rest)

    d_initial, (d_peepholes, d_sums, d_rest) = lax.scan(
        step, d_last, (d_outputs, sums, rest, mask, before), reverse=not reverse, unroll=unroll
    )
    d_kernels = tuple(jnp.einsum("thb,tgb->hg", read(sums[:k], before), d_sums[k]) for k, read in enumerate(cell.reads))
    d_peepholes = tuple(d.sum(0) for d in d_peepholes)
    return d_kernels, d_peepholes, d_sums, d_rest, None, d_initial


recur.defvjp(_forward, _backward)


class Recurrence(nn.Module):
    """One layer of a recurrent network, in one direction.

    The call takes inputs (B, T, C), a mask (B, T) of bools or None, and a first state, arrays (B, H), or None for
    zeros. It returns the hidden states (B, T, H), zero where the mask is False, and the last state. Steps where the
    mask is False are passed over: the state stays as it is. So a sequence's padding changes nothing, and a reversed
    layer begins at the last step that isn't padding.

    The cells, x an input, h the hidden state, c the cell state, s the logistic function:

    - "elman_tanh", "elman_relu": h = tanh(Wx + Uh + b). Elman (1990), doi:10.1207/s15516709cog1402_1.
    - "lstm_1997": c = c + s(i) tanh(g), h = s(o) tanh(c), where (i, g, o) = Wx + Uh + b. Hochreiter & Schmidhuber
      (1997), doi:10.1162/neco.1997.9.8.1735. The paper squashes by 2 tanh(g / 2) and tanh(c / 2), which is the same
      with the weights of g halved.
    - "lstm_2000": c = s(f) c + s(i) tanh(g), with a forget gate f after i. Gers, Schmidhuber & Cummins (2000),
      doi:10.1162/089976600300015015; torch's and everybody's today.
    - "lstm_2002": the gates i and f see the old c too and the gate o the new one, each unit its own, by peepholes.
      Gers, Schraudolph & Schmidhuber (2002), JMLR 3, 115-143; tanh is from Graves & Schmidhuber (2005).
    - "gru_2014": h = (1 - s(z)) tanh(n) + s(z) h, n = Wx + U(s(r) h) + b. Cho et al. (2014), arXiv:1406.1078, equations
      5 to 8.
    - "gru_reset_after": the same with n = Wx + b + s(r) (Uh + b'), that of torch and cuDNN.

    The blocks of the kernels and biases are in the order in which torch has them: i, f, g, o, and r, z, n.

    Raises ConfigError if the cell is unknown, ShapeError if the inputs, the mask or the state don't fit.

    Attributes:
      cell: a key of `CELLS`.
      hidden_size: H.
      reverse: from the end to the beginning.
      recurrent_bias: a second bias, on the side of the state, as torch and cuDNN have it. It adds to the first and says
        nothing new but in the cell "gru_reset_after", where it is b'.
      forget_bias: of the forget gates at the beginning. A cell keeps the logistic function of it of what it has, from
        step to step: of 1 that is 0.73, of which nothing is left over a lag of 30; of 3 it is 0.95.
      unroll: steps in one turn of the loop; changes speed and compile time only.
    """

    cell: str
    hidden_size: int
    reverse: bool = False
    recurrent_bias: bool = False
    forget_bias: float = 1.0
    unroll: int = 1

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, state: State | None = None) -> tuple[Array, State]:
        cell, size = cell_of(self.cell), self.hidden_size
        width = sum(cell.products) * size
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[2], width), jnp.float32)
        recurrent_kernel = self.param("recurrent_kernel", nn.initializers.orthogonal(), (size, width), jnp.float32)
        bias = self.param("bias", partial(_initial_bias, self.cell, self.forget_bias), (width,), jnp.float32)
        zeros = nn.initializers.zeros
        other = self.param("recurrent_bias", zeros, (width,), jnp.float32) if self.recurrent_bias else 0 * bias
        peepholes = tuple(self.param(name, zeros, (size,), jnp.float32) for name in cell.peepholes)
        if state is None:
            state = (jnp.zeros((x.shape[0], size), x.dtype),) * cell.arrays

        inputs, rest = product(jnp.swapaxes(x, 0, 1), kernel), None
        if cell.apart:
            inputs = inputs + (bias + other.at[-size:].set(0))[None, None]
            inputs, rest = jnp.split(inputs, [width - size], -1)
            last = jnp.broadcast_to(other[None, None, -size:], rest.shape)
            inputs = jnp.concatenate([inputs, last], -1)
        else:
            inputs = inputs + (bias + other)[None, None]
        blocks = [size * count for count in np.cumsum(cell.products)[:-1]]
        outputs, state = recur(
            cell,
            self.reverse,
            self.unroll,
            tuple(jnp.split(recurrent_kernel, blocks, -1)),
            peepholes,
            tuple(jnp.split(jnp.swapaxes(inputs, 1, 2), blocks, 1)),
            None if rest is None else jnp.swapaxes(rest, 1, 2),
            None if mask is None else mask.T,
            tuple(array.T for array in state),
        )
        outputs, state = jnp.transpose(outputs, (2, 0, 1)), tuple(array.T for array in state)
        return outputs if mask is None else jnp.where(mask[..., None], outputs, 0), state


def _initial_bias(cell: str, forget_bias: float, key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Zeros, but for the gates of an LSTM without which its cells would forget at once, or fill with anything."""
    bias = jnp.zeros(shape, dtype)
    if cell == "lstm_1997":
        return bias.at[: shape[0] // 3].set(-3)  # input gates begin nearly closed: section 5.4 of the paper
    if cell in ("lstm_2000", "lstm_2002"):
        return bias.at[shape[0] // 4 : shape[0] // 2].set(forget_bias)  # open: Gers et al. (2000), section 4
    return bias


class RecurrentStack(nn.Module):
    """Layers of a recurrent network, each over the hidden states of the one below.

    The call takes inputs (B, T, C), a mask (B, T) of bools, True where a position holds something, and a first state;
    None for a mask without padding and for zeros. It returns the last layer's hidden states, (B, T, H) or, of both
    directions, (B, T, 2 H), zero where the mask is False, and the last state. A state is the hidden states and, of an
    LSTM, the cell states, each (B, num_layers, H), or (B, 2 num_layers, H) with both directions of a layer in turn.
    With `train` it drops channels between layers, by the "dropout" stream.

    Layer i is the submodule "layer{i}", and "layer{i}_reverse" from the end to the beginning: Schuster & Paliwal
    (1997), doi:10.1109/78.650093.

    Raises ConfigError if the cell is unknown, ShapeError if the inputs, the mask or the state don't fit.

    Attributes:
      cell: a key of `CELLS`; `Recurrence` says what each is.
      hidden_size: H.
      num_layers: number of layers.
      bidirectional: whether each layer runs in both directions.
      reverse: whether all layers run from the end to the beginning only.
      dropout_rate: between layers.
      recurrent_bias: see `Recurrence`.
      forget_bias: see `Recurrence`.
      unroll: see `Recurrence`.
    """

    cell: str
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    reverse: bool = False
    dropout_rate: float = 0.0
    recurrent_bias: bool = False
    forget_bias: float = 1.0
    unroll: int = 1

    @nn.compact
    def __call__(
        self, x: Array, mask: Array | None = None, state: State | None = None, train: bool = False
    ) -> tuple[Array, State]:
        directions = (False, True) if self.bidirectional else (self.reverse,)
        arrays, count = cell_of(self.cell).arrays, self.num_layers * len(directions)
        _check(x, mask, state, arrays, (x.shape[0], count, self.hidden_size))
        last = []
        for i in range(self.num_layers):
            if i:
                x = nn.Dropout(self.dropout_rate, name=f"dropout{i}")(x, deterministic=not train)
            outputs = []
            for reverse in directions:
                first = None if state is None else tuple(array[:, len(last)] for array in state)
                layer = Recurrence(
                    self.cell,
                    self.hidden_size,
                    reverse=reverse,
                    recurrent_bias=self.recurrent_bias,
                    forget_bias=self.forget_bias,
                    unroll=self.unroll,
                    name=f"layer{i}_reverse" if reverse and self.bidirectional else f"layer{i}",
                )
                y, after = layer(x, mask, first)
                outputs.append(y)
                last.append(after)
            x = jnp.concatenate(outputs, -1)
        return x, tuple(jnp.stack(array, 1) for array in zip(*last, strict=True))


def _check(x: Array, mask: Array | None, state: State | None, arrays: int, shape: tuple[int, ...]) -> None:
    if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ShapeError(f"inputs: expected floats of shape (batch, time, channels), got {x.dtype} {tuple(x.shape)}")
    check_mask(mask, x[..., 0])
    if state is not None and [array.shape for array in state] != [shape] * arrays:
        got = [tuple(array.shape) for array in state]
        raise ShapeError(f"state: expected {arrays} of shape {shape}, (batch, layers and directions, H), got {got}")
