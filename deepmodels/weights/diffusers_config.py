"""What diffusers says of models and samplers in its config.json files, as our classes' arguments, and back."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from deepmodels.errors import WeightsError, nearest
from deepmodels.weights import autoencoder_kl, diffusion
from deepmodels.weights.convert import Rules
from deepmodels.weights.layout import CONFIG, Described, flag, number

CLASS = "_class_name"
Config = Mapping[str, Any]


class _Kind(NamedTuple):
    family: str  # what `deepmodels.loading` calls the class
    read: Callable[[Config], dict[str, Any]]
    written: Callable[[Config], dict[str, Any]]
    rules: Rules
    fixed: Mapping[str, Any]


def describe(config: Config) -> Described:
    """Returns our class, its arguments and the table of weights that a config.json of diffusers means.

    Raises:
      WeightsError: the class isn't known, or the config says something that ours can't be.
    """
    kind = _named(CONFIG, config, _KINDS)
    _check_fixed(CONFIG, config, kind.fixed)
    return Described(kind.family, kind.read(config), kind.rules)


def config_of(family: str, arguments: Config) -> tuple[dict[str, Any], Rules] | None:
    """Returns the config.json with which diffusers loads a model of ours, and the table of its weights, or None.

    Args:
      family: as `deepmodels.loading` calls the class.
      arguments: all attributes of the model.
    """
    for name, kind in _KINDS.items():
        if kind.family == family:
            return {CLASS: name} | kind.written(arguments), kind.rules
    return None


def _named(file: str, config: Config, table: Mapping[str, Any]) -> Any:
    """What a table has for the class that a config names."""
    name = config.get(CLASS)
    if name not in table:
        raise WeightsError(f"{file}: unknown {CLASS} {name!r}: {nearest(str(name), table)}")
    return table[name]


def _check_fixed(file: str, config: Config, fixed: Config) -> None:
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise WeightsError(f"{file}: {name} is {config[name]!r}, but only {value!r} is implemented")


def _numbers(config: Config, name: str, levels: int | None = None, default: Any = None) -> tuple[int, ...]:
    """A list of natural numbers, or one number for all levels."""
    value = config.get(name)
    value = default if value is None else value
    if type(value) is int and levels is not None:
        value = [value] * levels
    fits = isinstance(value, list | tuple) and value and all(type(v) is int and v > 0 for v in value)
    if not fits or (levels is not None and len(value) != levels):
        raise WeightsError(f"{CONFIG}: {name} is {value!r}, not {levels or 'some'} natural numbers, one for each level")
    return tuple(value)


def _blocks(config: Config, plain: tuple[str, str], attending: tuple[str, str], levels: int) -> tuple[bool, ...]:
    """At which levels there is attention; the way up must be the way down's reverse."""
    down, up = config.get("down_block_types"), config.get("up_block_types")
    for name, kinds in (("down_block_types", (plain[0], attending[0])), ("up_block_types", (plain[1], attending[1]))):
        value = config.get(name)
        if not isinstance(value, list | tuple) or len(value) != levels or not set(value) <= set(kinds):
            raise WeightsError(
                f"{CONFIG}: {name} is {value!r}, but only {levels} of {', '.join(kinds)} are implemented"
            )
    attends = tuple(kind == attending[0] for kind in down)
    if tuple(kind == attending[1] for kind in reversed(up)) != attends:
        raise WeightsError(f"{CONFIG}: up_block_types must have attention at the levels of down_block_types")
    return attends


def _unet(config: Config) -> dict[str, Any]:
    """What both kinds of U-Net have in common."""
    shift = config.get("resnet_time_scale_shift", "default")
    if shift not in ("default", "scale_shift"):
        raise WeightsError(f"{CONFIG}: resnet_time_scale_shift is {shift!r}, neither 'default' nor 'scale_shift'")
    return {
        "channels": _numbers(config, "block_out_channels"),
        "num_blocks": number(config, "layers_per_block", 2),
        "scale_shift": shift == "scale_shift",
        "pad_end": number(config, "downsample_padding", 1) == 0,
        "frequency_shift": number(config, "freq_shift", 0),
        "cosine_first": flag(config, "flip_sin_to_cos", True),
        "num_groups": number(config, "norm_num_groups", 32),
        "epsilon": number(config, "norm_eps", 1e-5),
        "dropout_rate": number(config, "dropout", 0.0),
    }


def _written_unet(arguments: Config) -> dict[str, Any]:
    return {
        "block_out_channels": list(arguments["channels"]),
        "layers_per_block": arguments["num_blocks"],
        "resnet_time_scale_shift": "scale_shift" if arguments["scale_shift"] else "default",
        "downsample_padding": 0 if arguments["pad_end"] else 1,
        "freq_shift": arguments["frequency_shift"],
        "flip_sin_to_cos": arguments["cosine_first"],
        "norm_num_groups": arguments["num_groups"],
        "norm_eps": arguments["epsilon"],
        "dropout": arguments["dropout_rate"],
        "in_channels": arguments["in_channels"],
        "out_channels": arguments["out_channels"],
        "sample_size": arguments["image_size"],
    }


def _levels(value: int | tuple[int, ...], levels: int) -> list[int]:
    return [value] * levels if isinstance(value, int) else list(value)


_PLAIN = ("DownBlock2D", "UpBlock2D")
_ATTENDING = ("AttnDownBlock2D", "AttnUpBlock2D")
_CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")


def _pictures(config: Config) -> dict[str, Any]:
    arguments = _unet(config)
    channels = arguments["channels"]
    size = config.get("attention_head_dim", 8)
    attends = _blocks(config, _PLAIN, _ATTENDING, len(channels))
    classes = config.get("num_class_embeds")
    return arguments | {
        "attention": tuple(map(int, attends)),
        "num_heads": tuple(1 if size is None else c // size for c in channels),
        "middle_attention": int(flag(config, "add_attention", True)),
        "in_channels": number(config, "in_channels", 3),
        "out_channels": number(config, "out_channels", 3),
        "num_classes": 0 if classes is None else number(config, "num_class_embeds", 0) - 1,
        "image_size": number(config, "sample_size", 32),
    }


def _written_pictures(arguments: Config) -> dict[str, Any]:
    channels = arguments["channels"]
    sizes = {c // n for c, n in zip(channels, _levels(arguments["num_heads"], len(channels)), strict=True)}
    ones = set(_levels(arguments["num_heads"], len(channels))) == {1}
    if arguments["resample"] != "conv" or arguments["vector_size"] or (len(sizes) > 1 and not ones):
        raise WeightsError("diffusers has no UNet2DModel like this: blocks between levels, a vector, or uneven heads")
    kinds = [bool(layers) for layers in arguments["attention"]]
    return _written_unet(arguments) | {
        "attention_head_dim": None if ones else sizes.pop(),
        "down_block_types": [(_ATTENDING if attends else _PLAIN)[0] for attends in kinds],
        "up_block_types": [(_ATTENDING if attends else _PLAIN)[1] for attends in reversed(kinds)],
        "add_attention": bool(arguments["middle_attention"]),
        "num_class_embeds": arguments["num_classes"] + 1 if arguments["num_classes"] else None,
    }


def _texts(config: Config) -> dict[str, Any]:
    arguments = _unet(config)
    levels = len(arguments["channels"])
    layers = _numbers(config, "transformer_layers_per_block", levels, 1)
    attends = _blocks(config, _PLAIN, _CROSS, levels)
    heads = "attention_head_dim" if config.get("num_attention_heads") is None else "num_attention_heads"
    added = config.get("addition_embed_type")
    if added not in (None, "text_time"):
        raise WeightsError(f"{CONFIG}: addition_embed_type is {added!r}, but only 'text_time' is implemented")
    size = config.get("sample_size")
    return arguments | {
        "attention": tuple(n if attend else 0 for n, attend in zip(layers, attends, strict=True)),
        "middle_attention": layers[-1],
        "num_heads": _numbers(config, heads, levels, 8),
        "in_channels": number(config, "in_channels", 4),
        "out_channels": number(config, "out_channels", 4),
        "context_size": number(config, "cross_attention_dim", 1280),
        "vector_size": number(config, "projection_class_embeddings_input_dim", None) if added else 0,
        "linear_projection": flag(config, "use_linear_projection", False),
        "image_size": 64 if size is None else number(config, "sample_size", 64),
    }


def _written_texts(arguments: Config) -> dict[str, Any]:
    levels, vector = len(arguments["channels"]), arguments["vector_size"]
    kinds = [bool(layers) for layers in arguments["attention"]]
    layers = [n or 1 for n in arguments["attention"]]
    layers[-1] = arguments["middle_attention"] if not kinds[-1] else layers[-1]
    if layers[-1] != arguments["middle_attention"] or arguments["resample"] != "conv" or arguments["num_classes"]:
        raise WeightsError("diffusers has no UNet2DConditionModel like this: its middle is as deep as its last level")
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256} if vector else {}
    return _written_unet(arguments) | {
        "transformer_layers_per_block": layers,
        "attention_head_dim": _levels(arguments["num_heads"], levels),
        "down_block_types": [(_CROSS if attends else _PLAIN)[0] for attends in kinds],
        "up_block_types": [(_CROSS if attends else _PLAIN)[1] for attends in reversed(kinds)],
        "cross_attention_dim": arguments["context_size"],
        "use_linear_projection": arguments["linear_projection"],
        "projection_class_embeddings_input_dim": vector or None,
        **added,
    }


def _autoencoder(config: Config) -> dict[str, Any]:
    shift = config.get("shift_factor")
    quant = [flag(config, name, True) for name in ("use_quant_conv", "use_post_quant_conv")]
    if quant[0] != quant[1] or config.get("out_channels", 3) != config.get("in_channels", 3):
        raise WeightsError(f"{CONFIG}: encoder and decoder must both have a quant_conv or not, and the same channels")
    return {
        "channels": _numbers(config, "block_out_channels"),
        "num_blocks": number(config, "layers_per_block", 1),
        "latent_size": number(config, "latent_channels", 4),
        "in_channels": number(config, "in_channels", 3),
        "quant_conv": quant[0],
        "scaling_factor": number(config, "scaling_factor", 0.18215),
        "shift_factor": 0.0 if shift is None else number(config, "shift_factor", 0.0),
        "num_groups": number(config, "norm_num_groups", 32),
    }


def _written_autoencoder(arguments: Config) -> dict[str, Any]:
    levels = len(arguments["channels"])
    return {
        "block_out_channels": list(arguments["channels"]),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": arguments["num_blocks"],
        "latent_channels": arguments["latent_size"],
        "in_channels": arguments["in_channels"],
        "out_channels": arguments["in_channels"],
        "use_quant_conv": arguments["quant_conv"],
        "use_post_quant_conv": arguments["quant_conv"],
        "scaling_factor": arguments["scaling_factor"],
        "shift_factor": arguments["shift_factor"] or None,
        "norm_num_groups": arguments["num_groups"],
    }


_FIXED_UNET = {
    "act_fn": "silu", "center_input_sample": False, "mid_block_scale_factor": 1, "time_embedding_type": "positional",
    "class_embed_type": None, "time_embedding_dim": None,
}  # fmt: skip
_KINDS: Mapping[str, _Kind] = {
    "UNet2DModel": _Kind(
        *("ddpm", _pictures, _written_pictures, diffusion.DIFFUSERS),
        _FIXED_UNET
        | {"mid_block_type": "UNetMidBlock2D", "downsample_type": "conv", "upsample_type": "conv"}
        | {"attn_norm_num_groups": None},
    ),
    "UNet2DConditionModel": _Kind(
        *("conditional_unet", _texts, _written_texts, diffusion.DIFFUSERS),
        _FIXED_UNET
        | {"mid_block_type": "UNetMidBlock2DCrossAttn", "only_cross_attention": False, "dual_cross_attention": False}
        | {"encoder_hid_dim": None, "encoder_hid_dim_type": None, "time_cond_proj_dim": None, "num_class_embeds": None}
        | {"conv_in_kernel": 3, "conv_out_kernel": 3, "attention_type": "default", "cross_attention_norm": None}
        | {"time_embedding_act_fn": None, "timestep_post_act": None, "reverse_transformer_layers_per_block": None}
        | {"resnet_skip_time_act": False, "resnet_out_scale_factor": 1.0, "class_embeddings_concat": False},
    ),
    "AutoencoderKL": _Kind(
        *("autoencoder_kl", _autoencoder, _written_autoencoder, autoencoder_kl.DIFFUSERS),
        {"act_fn": "silu", "mid_block_add_attention": True, "latents_mean": None, "latents_std": None},
    ),
}


class Schedule(NamedTuple):
    """What a scheduler's config means.

    Attributes:
      sampler: a key of `deepmodels.sampling.denoising.SAMPLERS`.
      betas: a key of `BETAS` there.
      ends: the arguments of the latter.
      options: those of the former, without the number of steps.
    """

    sampler: str
    betas: str
    ends: dict[str, Any]
    options: dict[str, Any]


SCHEDULER = "scheduler_config.json"
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v"}
_FIXED_SCHEDULER = {
    "trained_betas": None, "thresholding": False, "rescale_betas_zero_snr": False, "use_exponential_sigmas": False,
    "use_beta_sigmas": False, "use_flow_sigmas": False, "use_lu_lambdas": False, "interpolation_type": "linear",
    "timestep_type": "discrete", "sigma_min": None, "sigma_max": None,
}  # fmt: skip


def _one_of(config: Config, name: str, known: Mapping[str, Any], default: str) -> Any:
    value = config.get(name, default)
    if value not in known:
        raise WeightsError(f"{SCHEDULER}: {name} is {value!r}: {nearest(str(value), known)}")
    return known[value]


def _clip(config: Config, default: bool) -> dict[str, Any]:
    return {"clip": number(config, "clip_sample_range", 1.0) if flag(config, "clip_sample", default) else None}


def _last_power(config: Config, default: bool) -> dict[str, Any]:
    return {"last_power": 1.0 if flag(config, "set_alpha_to_one", default) else None}


def _karras(config: Config) -> dict[str, Any]:
    return {"karras": flag(config, "use_karras_sigmas", False)}


def _spread(config: Config) -> dict[str, Any]:
    return {
        "variance": _one_of(config, "variance_type", {"fixed_small": "small", "fixed_large": "large"}, "fixed_small")
    }


def _dpm(config: Config) -> dict[str, Any]:
    _check_fixed(SCHEDULER, config, {"variance_type": None})
    kinds = {"dpmsolver++": False, "sde-dpmsolver++": True}
    return _karras(config) | {
        "order": number(config, "solver_order", 2),
        "solver": _one_of(config, "solver_type", {"midpoint": "midpoint", "heun": "heun"}, "midpoint"),
        "stochastic": _one_of(config, "algorithm_type", kinds, "dpmsolver++"),
        "lower_order_final": flag(config, "lower_order_final", True),
        "euler_at_final": flag(config, "euler_at_final", False),
        "last_level": _one_of(config, "final_sigmas_type", {"zero": "zero", "sigma_min": "sigma_min"}, "zero"),
    }


class _Scheduler(NamedTuple):
    sampler: str
    spacing: str | None  # where a config says none; None: the sampler has its own
    options: Callable[[Config], dict[str, Any]]
    ends: tuple[str, float, float] = ("linear", 1e-4, 0.02)  # of the betas, where a config says none


_SCHEDULERS: Mapping[str, _Scheduler] = {
    "DDPMScheduler": _Scheduler("ddpm", "leading", lambda config: _clip(config, True) | _spread(config)),
    "DDIMScheduler": _Scheduler("ddim", "leading", lambda config: _clip(config, True) | _last_power(config, True)),
    "PNDMScheduler": _Scheduler(
        "pndm",
        "leading",
        lambda config: _last_power(config, False) | {"runge_kutta": not flag(config, "skip_prk_steps", False)},
    ),
    "EulerDiscreteScheduler": _Scheduler("euler", "linspace", _karras),
    "EulerAncestralDiscreteScheduler": _Scheduler("euler_ancestral", "linspace", lambda config: {}),
    "HeunDiscreteScheduler": _Scheduler(
        "heun", "linspace", lambda config: _karras(config) | _clip(config, False), ("linear", 0.00085, 0.012)
    ),
    "DPMSolverMultistepScheduler": _Scheduler("dpm_solver", "linspace", _dpm),
    "LCMScheduler": _Scheduler(
        "lcm",
        None,
        lambda config: (
            _clip(config, False)
            | {"original_steps": number(config, "original_inference_steps", 50)}
            | {"sharpness": number(config, "timestep_scaling", 10.0)}
        ),
        ("scaled_linear", 0.00085, 0.012),
    ),
}


def schedule_of(config: Config) -> Schedule:
    """Returns what a scheduler_config.json means.

    Raises:
      WeightsError: the scheduler isn't known, or the config says something that ours can't be.
    """
    kind = _named(SCHEDULER, config, _SCHEDULERS)
    _check_fixed(SCHEDULER, config, _FIXED_SCHEDULER)
    if kind.sampler == "euler":
        _check_fixed(SCHEDULER, config, {"final_sigmas_type": "zero"})
    schedule, first, last = kind.ends
    betas = _one_of(config, "beta_schedule", _BETAS, schedule)
    ends = {"num_steps": number(config, "num_train_timesteps", 1000)}
    if betas != "cosine":
        ends |= {"first": number(config, "beta_start", first), "last": number(config, "beta_end", last)}
    options = kind.options(config) | {"prediction": _one_of(config, "prediction_type", _PREDICTIONS, "epsilon")}
    if kind.spacing is not None:
        spacings = {name: name for name in ("linspace", "leading", "trailing")}
        options |= {"spacing": _one_of(config, "timestep_spacing", spacings, kind.spacing)}
        options |= {"offset": number(config, "steps_offset", 0)}
    return Schedule(kind.sampler, betas, ends, options)
