"""Connectionist temporal classification beside torch's, of sequences of several lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from deepmodels.objectives import create

pytestmark = pytest.mark.parity

BATCH, TIME, CLASSES, LABELS = 3, 9, 5, 4
TIMES, LENGTHS = [9, 7, 4], [4, 2, 1]


@pytest.mark.parametrize("blank", [0, 4])
def test_loss_and_gradient_are_torchs(blank, float64):
    torch = oracles.import_torch()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(BATCH, TIME, CLASSES))
    labels = rng.choice([label for label in range(CLASSES) if label != blank], (BATCH, LABELS)).astype(np.int32)
    labels[0, 1] = labels[0, 0]  # two of a kind need a blank between them
    batch = {
        "inputs": jnp.zeros((BATCH, TIME, 1)),
        "mask": np.arange(TIME)[None] < np.array(TIMES)[:, None],
        "labels": labels,
        "label_mask": np.arange(LABELS)[None] < np.array(LENGTHS)[:, None],
    }
    objective = create("ctc", blank=blank)
    loss, gradient = jax.jit(
        jax.value_and_grad(lambda x: objective(lambda inputs, key, mask: (x, {}), batch, None)[0])
    )(logits)

    theirs = torch.from_numpy(logits).requires_grad_()
    losses = torch.nn.functional.ctc_loss(
        theirs.log_softmax(-1).transpose(0, 1), torch.from_numpy(labels).long(), torch.tensor(TIMES),
        torch.tensor(LENGTHS), blank=blank, reduction="none",
    )  # fmt: skip
    losses.mean().backward()
    # optax's zero probability is e^-100000, its sums of logarithms lose a digit or two by that
    np.testing.assert_allclose(loss, losses.mean().item(), rtol=1e-9)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-9)
