"""Networks and processes of lucidrains' denoising-diffusion-pytorch, 2.0 and later.

UNet2DModel cannot be this network (see networks/lucidrains_unet.py), so it stays what it is: LucidrainsUnet.
"""

import re
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

from ..hub.safe_loading import some
from ..networks.lucidrains_unet import LucidrainsUnet
from ..process.noise_schedules import betas_for_schedule
from ..runtime.errors import ConfigError
from ..schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler
from .checkpoints import Tensors, as_float32
from .settings import ConversionSettings

SETTINGS = ("image_size", "weights", "prediction_type", "variance_type")
# Buffers of its GaussianDiffusion, which the file of a network alone does not have.
_PROCESS = ("betas", "alphas_cumprod", "loss_weight")
_SAME = 1e-6  # float32 of what was computed in float64


def is_lucidrains(weights: Tensors) -> bool:
    """Return whether a state dict has the names of this code base."""
    return any(re.fullmatch(r"(.*\.)?(init_conv|downs\.0\.0\.\w+\.proj)\.weight", name) for name in weights)


def convert_lucidrains(
    weights: Tensors, settings: ConversionSettings, notes: list[str]
) -> tuple[ModelMixin, DDPMFromScratchScheduler]:
    """Return the network and the scheduler of a state dict of GaussianDiffusion, as its Trainer saves it.

    Args:
        weights: a state dict whose names `is_lucidrains` knows; of the average or of the model.
        settings: what it does not say.
        notes: gets what was read.

    Raises:
        ConfigError: another version or a network that LucidrainsUnet cannot be, or settings that do not fit.
    """
    settings.require_only(SETTINGS, "a file of denoising-diffusion-pytorch")
    inner = {
        name.removeprefix("ema_model."): value
        for name, value in weights.items()
        if name.startswith("ema_model.")
    }
    weights = inner or weights
    network = {
        name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")
    }
    missing = [name for name in _PROCESS if name not in weights]
    if not network or missing:
        raise ConfigError(
            f"the file lacks {some(sorted(missing) or ['model.*'])}, so it does not say the process: it must "
            "be the state dict of GaussianDiffusion, or model-*.pt of the Trainer, not of the Unet alone."
        )
    network = as_float32(network, notes)
    config = _architecture(network)
    config["sample_size"] = settings.image_side(2 ** (len(config["full_attention"]) - 1))
    with torch.device("meta"):
        model = LucidrainsUnet(**config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing, unknown = sorted(set(expected) - set(network)), set(network) - set(expected)
    if missing or unknown:
        what = f"lacks {some(sorted(missing))}" if missing else f"has {some(sorted(unknown))}"
        raise ConfigError(
            f"the file {what}: it must be the Unet of denoising-diffusion-pytorch 2.0 or later, without "
            "self-conditioning or learned sinusoidal embeddings; the layer has no counterpart here."
        )
    for name, shape in expected.items():
        if tuple(network[name].shape) != shape:
            raise ConfigError(
                f"the file has {name!r} of shape {tuple(network[name].shape)}, but its other shapes ask for "
                f"{shape}; they must belong to one network."
            )
    model.load_state_dict(network, assign=True)
    process = _process({name: weights[name].float() for name in _PROCESS}, config, settings, notes)
    notes.insert(
        0,
        f"network: LucidrainsUnet, {model.num_parameters():,} parameters, widths "
        f"{'-'.join(map(str, config['block_out_channels']))}; UNet2DModel has no counterpart of its norms "
        "and linear attention",
    )
    return model.eval(), DDPMFromScratchScheduler(**process)


def _architecture(network: Tensors) -> dict[str, Any]:
    """Return the settings of LucidrainsUnet that the shapes say.

    Raises:
        ConfigError: layers of an earlier version, or of an option that it has not.
    """
    for name, what in (
        ("downs.0.0.block1.norm.weight", "group norms, of a version before 2.0"),
        ("time_mlp.0.weights", "a random or learned time embedding"),
        ("downs.0.2.fn.norm.g", "attention of a version before 2.0"),
    ):
        if name in network:
            raise ConfigError(
                f"the file has {name!r}: {what}, which has no counterpart here; it must be the Unet of "
                "denoising-diffusion-pytorch 2.0 or later with its sinusoidal time embedding."
            )
    num_levels = len({name.split(".")[1] for name in network if name.startswith("downs.")})
    full, heads, head_widths, memories, widths = [], [], [], set(), []
    shapes = {name: tuple(value.shape) for name, value in network.items()}
    try:
        for level in range(num_levels):
            widths.append(shapes[f"downs.{level}.0.block1.proj.weight"][0])
            full.append(f"downs.{level}.2.to_out.weight" in shapes)
            _, number, *rest = shapes[f"downs.{level}.2.mem_kv"]
            memory, head_width = rest if full[-1] else reversed(rest)
            heads.append(number)
            head_widths.append(head_width)
            memories.add(memory)
        widths.append(shapes["mid_block1.block1.proj.weight"][0])
        in_channels, out_channels = shapes["init_conv.weight"][1], shapes["final_conv.weight"][0]
        features = shapes["time_mlp.1.weight"][1]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the file lacks {error.args[0]!r} in the form of denoising-diffusion-pytorch 2.0 or later, "
            "which it must have: the network has no counterpart here."
        ) from error
    if out_channels not in (in_channels, 2 * in_channels) or len(memories) != 1:
        raise ConfigError(
            f"the network takes {in_channels} channels and gives {out_channels}, but must give as many, or "
            "twice as many: one with self-conditioning (which takes twice as many) has no counterpart here."
        )
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": tuple(widths),
        "timestep_features": features,
        "full_attention": tuple(full),
        "num_attention_heads": tuple(heads),
        "attention_head_width": tuple(head_widths),
        "num_memory": memories.pop(),
    }


def _process(
    buffers: Tensors, config: dict[str, Any], settings: ConversionSettings, notes: list[str]
) -> dict[str, Any]:
    """Return the settings of the scheduler that the buffers of GaussianDiffusion say.

    Raises:
        ConfigError: settings that say something else.
    """
    betas, alphas_cumprod = buffers["betas"], buffers["alphas_cumprod"]
    num_steps = len(betas)
    process: dict[str, Any] = {"num_train_timesteps": num_steps, "timestep_spacing": "linspace"}
    named: dict[str, dict[str, Any]] = {
        "sigmoid_alpha_bar": {"beta_schedule": "sigmoid_alpha_bar"},
        "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
        "linear": {"beta_schedule": "linear", "scale_betas_by_length": num_steps != 1000},
    }
    found = next((name for name, given in named.items() if _same_betas(betas, **given)), None)
    process |= named[found] if found else {"trained_betas": betas.tolist()}
    notes.append(
        f"process: {num_steps} timesteps, {found or 'betas of no named schedule, saved as they are'}"
    )
    read = _prediction_type(buffers["loss_weight"], alphas_cumprod)
    given = settings.prediction_type
    if given is not None and read is not None and given != read:
        raise ConfigError(
            f"--prediction_type is {given!r}, but the file says {read!r}; it must agree: leave it out."
        )
    if given is None and read is None:
        raise ConfigError(
            "--prediction_type is missing, and the file's loss_weight does not say it; it must be epsilon "
            "(pred_noise), sample (pred_x0) or v_prediction (pred_v)."
        )
    process["prediction_type"] = given or read
    notes.append(
        f"prediction_type: {given or read}" + ("" if read is None else ", as the file's loss_weight says")
    )
    learned = config["out_channels"] != config["in_channels"]
    variance = settings.variance_type or ("learned_range" if learned else "fixed_small")
    if (variance == "learned_range") != learned:
        raise ConfigError(
            f"--variance_type is {variance!r}, but the network gives {config['out_channels']} channels for "
            f"{config['in_channels']}: it must be {'learned_range' if learned else 'a fixed one'}."
        )
    process["variance_type"] = variance
    return process


def _same_betas(betas: torch.Tensor, beta_schedule: str, **shape: Any) -> bool:
    named = betas_for_schedule(beta_schedule, len(betas), **shape)
    return bool(((betas - named).abs() <= _SAME * named.clamp_min(1e-2)).all())


def _prediction_type(loss_weight: torch.Tensor, alphas_cumprod: torch.Tensor) -> str | None:
    """Return what the network predicts, by the weight of its loss: 1, SNR or SNR / (SNR + 1) = alpha-bar.

    With min-SNR weights at the noisy end, where the SNR is below the bound, the three are the same.
    """
    noisy = alphas_cumprod < 0.5
    seen, alpha_bar = loss_weight[noisy].double(), alphas_cumprod[noisy].double()
    if len(seen) == 0:
        return None
    expected = {
        "epsilon": torch.ones_like(alpha_bar),
        "sample": alpha_bar / (1 - alpha_bar),
        "v_prediction": alpha_bar,
    }
    errors = {name: float(((seen - value).abs() / value).median()) for name, value in expected.items()}
    best = min(errors, key=lambda name: errors[name])
    return best if errors[best] < 1e-3 else None
