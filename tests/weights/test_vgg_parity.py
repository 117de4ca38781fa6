import oracles
import pytest
from comparison import check_gradient, check_logits, check_training, check_written_back, converted, pixels, shrunk

from deepmodels.models import create
from deepmodels.weights import table

pytestmark = pytest.mark.parity

NAMES = [f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")]
HIDDEN = 16  # instead of 4096


def torchvision(name):
    torch = pytest.importorskip("torch")
    models = oracles.import_torchvision().models
    return shrunk(
        lambda: getattr(models, name)(weights=None),
        ("classifier.0", lambda: torch.nn.Linear(512 * 7 * 7, HIDDEN)),
        ("classifier.3", lambda: torch.nn.Linear(HIDDEN, HIDDEN)),
        ("classifier.6", lambda: torch.nn.Linear(HIDDEN, 7)),
    )


def timm(name):
    torch = pytest.importorskip("torch")
    oracles.import_torchvision()  # which timm imports
    library = pytest.importorskip("timm")
    return shrunk(
        lambda: library.create_model(name),
        ("pre_logits.fc1", lambda: torch.nn.Conv2d(512, HIDDEN, 7)),
        ("pre_logits.fc2", lambda: torch.nn.Conv2d(HIDDEN, HIDDEN, 1)),
        ("head.fc", lambda: torch.nn.Linear(HIDDEN, 7)),
    )


def ours(name):
    return create(name, hidden_size=HIDDEN, num_classes=7, dropout_rate=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_torchvision(name):
    """At 64 pixels the last map is 2x2 and stands for 7x7 by repetition, windows overlapping."""
    module, model, rules, images = torchvision(name), ours(name), table("torchvision", name, "vgg"), pixels(1, 64)
    variables = converted(model, module, rules, images)
    check_logits(model, variables, module, images)
    check_written_back(variables, module, rules)


def test_full_size_images_are_flattened_in_torchs_order():
    module, model, images = torchvision("vgg11"), ours("vgg11"), pixels(1, 224)
    variables = converted(model, module, table("torchvision", "vgg11", "vgg"), images)
    check_logits(model, variables, module, images)


def test_gradient_and_training():
    module, model, rules = torchvision("vgg11_bn"), ours("vgg11_bn"), table("torchvision", "vgg11_bn", "vgg")
    images = pixels(2, 64)
    variables = converted(model, module, rules, images)
    check_gradient(model, variables, module, images)
    check_training(model, variables, module, images, rules)


@pytest.mark.parametrize("name", ["vgg11", "vgg13_bn"])
def test_timm(name):
    module, model, rules, images = timm(name), ours(name), table("timm", name, "vgg"), pixels(1, 64)
    variables = converted(model, module, rules, images)
    check_logits(model, variables, module, images)
    check_written_back(variables, module, rules)
