"""The peer: a VAE and a DCGAN built here of torch.nn, in eager mode."""

import torch_steps
from torch_steps import torch, turns

nn, functional = torch.nn, torch.nn.functional


def start(side: dict):
    """Returns (step, facts) for a subject's fields, "task", "batch" and "device"."""
    facts = torch_steps.begin(side)
    return {"vae": vae, "dcgan": dcgan}[side["model"]](side, side["batch"]), facts


def vae(side: dict, batch: int):
    """A step of 784-500-20-500-784 on the bound of a Bernoulli likelihood, or the means' reconstruction."""
    encoder = nn.Sequential(nn.Linear(784, 500), nn.Tanh())
    mean, log_var = nn.Linear(500, 20), nn.Linear(500, 20)
    decoder = nn.Sequential(nn.Linear(20, 500), nn.Tanh(), nn.Linear(500, 784))
    modules = nn.ModuleList([encoder, mean, log_var, decoder])
    images = torch.rand(batch, 784)

    def loss():
        hidden = encoder(images)
        m, v = mean(hidden), log_var(hidden)
        logits = decoder(m + torch.exp(v / 2) * torch.randn_like(m))
        nats = functional.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        divergence = 0.5 * (m**2 + v.exp() - 1 - v).sum()
        return (nats + divergence) / batch

    def reconstruct():
        hidden = encoder(images)
        return log_var(hidden), torch.sigmoid(decoder(mean(hidden)))

    if side["task"] == "infer":
        return torch_steps.inference(side, reconstruct)
    return torch_steps.training(side, modules.parameters(), loss)


def dcgan(side: dict, batch: int):
    """A step of the discriminator and one of the generator, or pictures, by the networks of PyTorch's example.

    Each player's move draws new noise, as in algorithm 1 of Goodfellow et al. (2014) and in ours; the example judges
    the generator by the pictures that the discriminator has just learned from, and runs it forward once less.
    """
    layers, fed = [], 100
    for i, width in enumerate((512, 256, 128, 64)):
        layers += [nn.ConvTranspose2d(fed, width, 4, 1 if i == 0 else 2, 0 if i == 0 else 1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        fed = width
    generator = nn.Sequential(*layers, nn.ConvTranspose2d(fed, 3, 4, 2, 1, bias=False), nn.Tanh())
    if side["task"] == "infer":
        generator.eval()
        return torch_steps.inference(side, lambda: generator(torch.randn(batch, 100, 1, 1)))
    layers, fed = [], 3
    for i, width in enumerate((64, 128, 256, 512)):
        layers += [nn.Conv2d(fed, width, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(width)] if i else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        fed = width
    discriminator = nn.Sequential(*layers, nn.Conv2d(fed, 1, 4, 1, 0, bias=False))
    images, softplus = torch.rand(batch, 3, 64, 64), functional.softplus

    def judged():
        fake = generator(torch.randn(batch, 100, 1, 1))
        return (softplus(-discriminator(images)) + softplus(discriminator(fake.detach()))).mean()

    def fooled():
        return softplus(-discriminator(generator(torch.randn(batch, 100, 1, 1)))).mean()

    moves = [
        torch_steps.training(side, discriminator.parameters(), judged),
        torch_steps.training(side, generator.parameters(), fooled),
    ]

    def step() -> None:
        for move in moves:
            move()

    return step


if __name__ == "__main__":
    turns.serve(start)
