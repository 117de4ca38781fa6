"""How much of the gradient of a recurrent network's last output is left at the inputs of long before, as a plot.

    python experiments/figures/gradient_by_lag.py gradient_by_lag.png

The networks are those of experiments/long_lag.py and other cells in their place, before any training. Where a curve
falls by a constant factor per step, the gradient vanishes exponentially: Bengio, Simard & Frasconi (1994),
doi:10.1109/72.279181. The table that is printed has the norms of the plot, relative to the last step's.
"""

import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from deepmodels import data, models

NETWORKS = {
    "LSTM, 1997": dict(cell="lstm_1997"),
    "LSTM with forget gate, bias 3": dict(cell="lstm_2000", forget_bias=3.0),
    "LSTM with forget gate, bias 1": dict(cell="lstm_2000"),
    "Elman, tanh": dict(cell="elman_tanh"),
}
LENGTH, BATCH, SEEDS = 100, 32, 5
LAGS = (0, 10, 25, 50, 75, 99)


def gradient_norms(arguments: dict, inputs: np.ndarray) -> np.ndarray:
    """Returns the norm (LENGTH,) of the gradient of the last output by the inputs of each step, the last step first.

    Args:
      arguments: of the network.
      inputs: (B, LENGTH, 2).
    """
    model = models.create("lstm", hidden_size=64, recurrent_bias=False, num_classes=1, **arguments)

    def norms(key):
        variables = model.init(key, inputs)
        gradient = jax.grad(lambda x: model.apply(variables, x).sum())(inputs)
        return jnp.linalg.norm(gradient, axis=-1)[:, ::-1]

    values = jax.jit(jax.vmap(norms))(jax.random.split(jax.random.key(0), SEEDS))
    return np.exp(np.log(np.asarray(values, np.float64) + 1e-45).mean((0, 1)))


def main(path: str) -> None:
    """Prints the table and writes the plot."""
    source = data.create("adding", split="test", length=LENGTH)
    inputs = np.stack([source[i]["inputs"] for i in range(BATCH)])
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    print("lag".ljust(32), *(f"{lag:>8}" for lag in LAGS))
    for name, arguments in NETWORKS.items():
        norms = gradient_norms(arguments, inputs)
        norms /= norms[0]
        axes.semilogy(norms, label=name)
        print(name.ljust(32), *(f"{norms[lag]:8.1e}" for lag in LAGS))
    axes.set(xlabel="lag, in steps", ylabel="gradient norm, relative to lag 0", title="Before training")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(sys.argv[1])
