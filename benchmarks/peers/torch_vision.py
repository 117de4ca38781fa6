"""The peer: the model of torchvision or timm, or one of torch's layers, in whichever memory layout is faster here."""

import itertools
import time

import torch_steps
from torch_steps import oracles, torch, turns

nn = torch.nn
WITHOUT_HEADS = {"inception_v3": dict(aux_logits=False, init_weights=False)}  # as ours has none
SIZES = {"inception_v3": (3, 299), "lenet5": (1, 28), "unet": (3, 256)}  # others (3, 224)
CLASSES = {"lenet5": 10, "unet": 2}  # others 1000


class UNet(nn.Module):
    """U-Net as ours has it: padded, normalised by batch, and transposed convolutions on the way up."""

    def __init__(self, channels=(64, 128, 256, 512, 1024)):
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.down = nn.ModuleList([self.double(3, channels[0]), *(self.double(a, b) for a, b in pairs)])
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.up = nn.ModuleList(self.double(b, a) for a, b in reversed(pairs))
        self.head = nn.Conv2d(channels[0], 2, 1)

    @staticmethod
    def double(fed, width):
        layers = []
        for size in (fed, width):
            layers += [nn.Conv2d(size, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x):
        skips = []
        for i, convs in enumerate(self.down):
            x = convs(nn.functional.max_pool2d(x, 2) if i else x)
            skips.append(x)
        skips.pop()
        for enlarge, convs in zip(self.enlarge, self.up, strict=True):
            x = convs(torch.cat([skips.pop(), enlarge(x)], 1))
        return self.head(x)


def lenet5():
    """LeNet-5 as it is taught."""
    maps = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*maps, nn.Flatten(), *dense)


def build(name: str, by: str):
    """Returns (a model, whose it is)."""
    if name in LAYERS:
        return LAYERS[name](), ""
    if by == "timm":
        import timm

        known = {"vit_b_16": "vit_base_patch16_224", "mobilenet_v2": "mobilenetv2_100"}
        return timm.create_model(known.get(name, name)), f" timm {timm.__version__}"
    library = oracles.import_torchvision()
    return getattr(library.models, name)(
        weights=None, **WITHOUT_HEADS.get(name, {})
    ), f" torchvision {library.__version__}"


LAYERS = {"lenet5": lenet5, "unet": UNet}


def start(side: dict):
    """Returns (step, facts) for a subject's fields, "task", "batch", "device" and "by"."""
    facts = torch_steps.begin(side)
    name, batch, train = side["model"], side["batch"], side["task"] == "train"
    model, library = build(name, side["by"])
    model.train(train)
    channels, size = SIZES.get(name, (3, 224))
    images = torch.randn(batch, channels, size, size)
    shape = (batch, size, size) if name == "unet" else (batch,)
    labels = torch.randint(0, CLASSES.get(name, 1000), shape)

    def make(layout):
        placed, pixels = model.to(memory_format=layout), images.to(memory_format=layout)
        if train:
            return torch_steps.training(
                side, placed.parameters(), lambda: nn.functional.cross_entropy(placed(pixels), labels)
            )
        return torch_steps.inference(side, lambda: placed(pixels))

    def seconds(layout) -> float:
        step, times = make(layout), []
        for _ in range(3):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        return min(times)

    layout = min((torch.channels_last, torch.contiguous_format), key=seconds)
    facts["version"] += f"{library} {str(layout).removeprefix('torch.')}"
    return make(layout), facts


if __name__ == "__main__":
    turns.serve(start)
