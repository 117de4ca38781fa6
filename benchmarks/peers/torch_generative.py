"""The peer: a VAE and a DCGAN built here of torch.nn, trained by torch in eager mode."""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "parity")]

import oracles  # noqa: E402
import turns  # noqa: E402


def start(arguments: list[str]):
    """Returns (step, facts) for the arguments [a row of train_step.py's SUBJECTS as JSON]."""
    subject = json.loads(arguments[0])
    torch = oracles.import_torch()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    step = {"vae": vae, "dcgan": dcgan}[subject["model"]](torch, subject["batch"])
    return step, {"version": f"torch {torch.__version__}", "layout": "contiguous_format"}


def vae(torch, batch: int):
    """A step of 784-500-20-500-784 on the bound of a Bernoulli likelihood."""
    nn, functional = torch.nn, torch.nn.functional
    encoder = nn.Sequential(nn.Linear(784, 500), nn.Tanh())
    mean, log_var = nn.Linear(500, 20), nn.Linear(500, 20)
    decoder = nn.Sequential(nn.Linear(20, 500), nn.Tanh(), nn.Linear(500, 784))
    modules = nn.ModuleList([encoder, mean, log_var, decoder])
    optimizer = torch.optim.SGD(modules.parameters(), lr=1e-3, momentum=0.9)
    images = torch.rand(batch, 784)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        hidden = encoder(images)
        m, v = mean(hidden), log_var(hidden)
        logits = decoder(m + torch.exp(v / 2) * torch.randn_like(m))
        nats = functional.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        divergence = 0.5 * (m**2 + v.exp() - 1 - v).sum()
        ((nats + divergence) / batch).backward()
        optimizer.step()

    return step


def dcgan(torch, batch: int):
    """A step of the discriminator and one of the generator, as in PyTorch's example, for 64 x 64 pixels."""
    nn, functional = torch.nn, torch.nn.functional
    layers, fed = [], 100
    for i, width in enumerate((512, 256, 128, 64)):
        layers += [nn.ConvTranspose2d(fed, width, 4, 1 if i == 0 else 2, 0 if i == 0 else 1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        fed = width
    generator = nn.Sequential(*layers, nn.ConvTranspose2d(fed, 3, 4, 2, 1, bias=False), nn.Tanh())
    layers, fed = [], 3
    for i, width in enumerate((64, 128, 256, 512)):
        layers += [nn.Conv2d(fed, width, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(width)] if i else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        fed = width
    discriminator = nn.Sequential(*layers, nn.Conv2d(fed, 1, 4, 1, 0, bias=False))
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9) for m in (discriminator, generator)]
    images, softplus = torch.rand(batch, 3, 64, 64), functional.softplus

    def step() -> None:
        optimizers[0].zero_grad(set_to_none=True)
        fake = generator(torch.randn(batch, 100, 1, 1))
        (softplus(-discriminator(images)) + softplus(discriminator(fake.detach()))).mean().backward()
        optimizers[0].step()
        optimizers[1].zero_grad(set_to_none=True)
        softplus(-discriminator(fake)).mean().backward()
        optimizers[1].step()

    return step


if __name__ == "__main__":
    turns.serve(start)
