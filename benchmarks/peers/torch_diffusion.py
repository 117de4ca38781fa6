"""The peer: diffusers' U-Nets, trained by torch in eager mode, or sampled from by diffusers' pipeline loop."""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "parity")]

import oracles  # noqa: E402
import turns  # noqa: E402


def build(name: str, **arguments):
    """Returns diffusers' network of one of our names."""
    from deepmodels import loading, models

    config, _ = loading.config_of(models.create(name, **arguments))
    return getattr(oracles.import_diffusers(), config.pop("_class_name"))(**config)


def start(arguments: list[str]):
    """Returns (step, facts) for the arguments [a row of train_step.py's SUBJECTS as JSON].

    With [a model's name, a batch, a number of steps] a step is a whole sampling by DDIM.
    """
    torch = oracles.import_torch()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    library = oracles.import_diffusers()
    facts = {"version": f"torch {torch.__version__} diffusers {library.__version__}", "layout": "contiguous_format"}
    if len(arguments) == 3:
        return sampling(torch, library, arguments[0], int(arguments[1]), int(arguments[2])), facts
    subject = json.loads(arguments[0])
    return training(torch, library, subject["model"], subject["batch"], subject["arguments"]), facts


def training(torch, library, name: str, batch: int, arguments: dict):
    """A step on the squared error of the noise, of the same images each time."""
    module, schedule = build(name, **arguments).train(), library.DDPMScheduler()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    size, channels = module.config.sample_size, module.config.in_channels
    images = torch.rand(batch, channels, size, size)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        noise, times = torch.randn_like(images), torch.randint(0, 1000, (batch,))
        made = module(schedule.add_noise(images, noise, times), times).sample
        torch.nn.functional.mse_loss(made, noise).backward()
        optimizer.step()

    return step


def sampling(torch, library, name: str, batch: int, steps: int):
    """A loop of calls of the network and of the scheduler, as diffusers' pipelines have it."""
    module, schedule = build(name).eval(), library.DDIMScheduler()
    size, channels = module.config.sample_size, module.config.in_channels
    noise = torch.randn(batch, channels, size, size)

    @torch.no_grad()
    def step() -> None:
        schedule.set_timesteps(steps)
        x = noise
        for time in schedule.timesteps:
            x = schedule.step(module(x, time).sample, time, x).prev_sample

    return step


if __name__ == "__main__":
    turns.serve(start)
