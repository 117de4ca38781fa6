import jax
import numpy as np
import oracles
import pytest
from comparison import check_gradient, check_logits, check_written_back, converted, enliven, pixels, shrunk

from deepmodels.models import create
from deepmodels.weights import table
from deepmodels.weights.convert import conv, dense, flatten_dense, from_ours

pytestmark = pytest.mark.parity

HIDDEN = 16  # instead of 4096


def torchvision():
    torch = pytest.importorskip("torch")
    return shrunk(
        oracles.import_torchvision().models.alexnet,
        ("classifier.1", lambda: torch.nn.Linear(256 * 6 * 6, HIDDEN)),
        ("classifier.4", lambda: torch.nn.Linear(HIDDEN, HIDDEN)),
        ("classifier.6", lambda: torch.nn.Linear(HIDDEN, 7)),
    )


@pytest.mark.parametrize("size", [63, 224], ids=["smallest", "full"])
def test_torchvision(size):
    """At 63 pixels the last map is a single one, at 224 it is 6x6 and its flattening order counts."""
    module, model = torchvision(), create("alexnet", hidden_size=HIDDEN, num_classes=7)
    rules, images = table("torchvision", "alexnet", "alexnet"), pixels(1, size)
    variables = converted(model, module, rules, images)
    check_logits(model, variables, module, images)
    check_written_back(variables, module, rules)
    if size == 63:
        check_gradient(model, variables, module, images)


def test_full_size():
    """Every shape of torchvision's own network, of which the other tests have smaller dense layers."""
    torch = pytest.importorskip("torch")
    models, rules = oracles.import_torchvision().models, table("torchvision", "alexnet", "alexnet")
    with torch.device("meta"):
        theirs = {name: tuple(tensor.shape) for name, tensor in models.alexnet().state_dict().items()}
    variables = jax.eval_shape(create("alexnet").init, jax.random.key(0), pixels(1, 63))
    ours = from_ours(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), variables), rules)
    assert {name: array.shape for name, array in ours.items()} == theirs


def test_the_form_of_2012():
    """At 99 pixels the last map is 2x2. torch's normalisation divides alpha by its size."""
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.nn import functional as F

    class Paper(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 96, 11, 4)
            self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
            self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
            self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
            self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
            self.dense1, self.dense2, self.head = nn.Linear(1024, 16), nn.Linear(16, 16), nn.Linear(16, 7)
            self.norm = nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)

        def forward(self, x):
            x = F.max_pool2d(self.norm(F.relu(self.conv1(x))), 3, 2)
            x = F.max_pool2d(self.norm(F.relu(self.conv2(x))), 3, 2)
            x = F.relu(self.conv5(F.relu(self.conv4(F.relu(self.conv3(x))))))
            x = torch.flatten(F.max_pool2d(x, 3, 2), 1)
            return self.head(F.relu(self.dense2(F.relu(self.dense1(x)))))

    rules = (
        *conv("conv{n}", "conv{n}"),
        *dense("dense1", "dense1", flatten_dense(256, 2, 2)),
        *dense("dense2", "dense2"),
        *dense("head", "head"),
    )
    module, model = enliven(Paper()), create("alexnet_paper", hidden_size=HIDDEN, num_classes=7)
    images = 30 * pixels(2, 99)  # so large that the normalisation counts
    variables = converted(model, module, rules, images)
    check_logits(model, variables, module, images)
    check_gradient(model, variables, module, images)
