"""The peer: diffusers' U-Nets, trained by torch in eager mode, or sampled from by diffusers' pipeline loop."""

import torch_steps
from torch_steps import oracles, torch, turns

STEPS = 5  # as ours


def build(name: str, **arguments):
    """Returns diffusers' network of one of our names."""
    from deepmodels import loading, models

    config, _ = loading.config_of(models.create(name, **arguments))
    return getattr(oracles.import_diffusers(), config.pop("_class_name"))(**config)


def start(side: dict):
    """Returns (step, facts) for a subject's fields, "task", "batch" and "device"; a step samples by DDIM, or trains."""
    facts, library = torch_steps.begin(side), oracles.import_diffusers()
    facts["version"] += f" diffusers {library.__version__}"
    module = build(side["model"], **side["arguments"]).train(side["task"] == "train")
    size, channels = module.config.sample_size, module.config.in_channels
    images = torch.rand(side["batch"], channels, size, size)
    if side["task"] == "train":
        schedule = library.DDPMScheduler()

        def loss():
            noise, times = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
            made = module(schedule.add_noise(images, noise, times), times).sample
            return torch.nn.functional.mse_loss(made, noise)

        return torch_steps.training(side, module.parameters(), loss), facts
    schedule, noise = library.DDIMScheduler(), torch.randn_like(images)

    def sample():
        schedule.set_timesteps(STEPS)
        x = noise
        for time in schedule.timesteps:
            x = schedule.step(module(x, time).sample, time, x).prev_sample

    return torch_steps.inference(side, sample), facts


if __name__ == "__main__":
    turns.serve(start)
