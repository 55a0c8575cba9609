"""Saved pipelines that are damaged or ask for too much: how to spoil a good one, and what the error says."""

import json

import torch
from safetensors.torch import load_file, save_file

from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, build_model, model_config

CONFIG = "unet/config.json"
LIST = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


def pipeline_of(name):
    torch.manual_seed(0)
    pipeline = DDPMFromScratchPipeline(build_model(model_config(name)), DDPMFromScratchScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edit(file, **changes):
    """Return a function that changes a JSON file of a folder."""

    def spoil(folder):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | changes))

    return spoil


def tensors(change):
    """Return a function that changes the tensors of a folder's weights."""

    def spoil(folder):
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return spoil


def weight_map(change):
    def spoil(folder):
        content = json.loads((folder / INDEX).read_text())
        change(content["weight_map"])
        (folder / INDEX).write_text(json.dumps(content))

    return spoil


def write(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def both(first, second):
    return lambda folder: (first(folder), second(folder))


def cut(file, left):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:left])


def set_first(value):
    return lambda state: state["conv_in.weight"].view(-1).__setitem__(0, value)


SPOILED = {
    "cut short": ("tiny", cut(WEIGHTS, -1), WEIGHTS, "cut short"),
    "cut in the header": ("tiny", cut(WEIGHTS, 100), WEIGHTS, "damaged"),
    "empty": ("tiny", write(WEIGHTS, b""), WEIGHTS, "damaged"),
    "a header of 2**60 bytes": ("tiny", write(WEIGHTS, b"\0" * 7 + b"\x10{}"), WEIGHTS, "damaged"),
    "gone": ("tiny", lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS, "is missing"),
    "a pickle only": (
        "tiny", lambda folder: (folder / WEIGHTS).rename((folder / WEIGHTS).with_suffix(".bin")), WEIGHTS,
        "pickle, which could run code. python training/convert.py",
    ),
    "tensor missing": ("tiny", tensors(lambda s: s.pop("conv_in.bias")), WEIGHTS, "lacks 'conv_in.bias'"),
    "tensor more": ("tiny", tensors(lambda s: s.update(more=torch.ones(2))), WEIGHTS, "has 'more'"),
    "nan": ("tiny", tensors(set_first(float("nan"))), WEIGHTS, "'conv_in.weight' with numbers that are not"),
    "inf": ("tiny", tensors(set_first(float("inf"))), WEIGHTS, "not finite"),
    "integers": (
        "tiny", tensors(lambda s: s.update({"conv_in.bias": s["conv_in.bias"].int()})), WEIGHTS, "as I32",
    ),
    "shape": (
        "tiny", tensors(lambda s: s.update({"conv_in.bias": torch.ones(9)})), WEIGHTS, r"of shape \(9,\)",
    ),
    "network larger": ("tiny", edit(CONFIG, block_out_channels=[16, 32]), CONFIG, "asks for"),
    "network smaller": ("tiny", edit(CONFIG, layers_per_block=0), CONFIG, "does not have"),
    "channels without end": (
        "tiny", edit(CONFIG, block_out_channels=[2**40, 2**40]), CONFIG, "cannot be used",
    ),
    "layers without end": ("tiny", edit(CONFIG, layers_per_block=10**9), CONFIG, "far more"),
    "classes without end": ("tiny", edit(CONFIG, num_class_embeds=10**15), CONFIG, "far more"),
    "blocks without end": ("points", edit(CONFIG, num_blocks=10**9), CONFIG, "far more"),
    "width without end": ("points", edit(CONFIG, hidden_size=10**9), CONFIG, "far more"),
    "image without end": ("tiny", edit(CONFIG, sample_size=10**6), CONFIG, "absurdly"),
    "pair without end": ("tiny", edit(CONFIG, sample_size=[8, 10**12]), CONFIG, "absurdly"),
    "points without end": ("points", edit(CONFIG, sample_shape=[10**12]), CONFIG, "absurdly"),
    "negative": ("tiny", edit(CONFIG, sample_size=-8), CONFIG, "must be a positive integer"),
    "one of a pair": ("tiny", edit(CONFIG, sample_size=[8]), CONFIG, "must be a positive integer"),
    "three of a pair": ("tiny", edit(CONFIG, sample_size=[8, 8, 3]), CONFIG, "must be a positive integer"),
    "a word for a size": ("tiny", edit(CONFIG, sample_size="auto"), CONFIG, "must be a positive integer"),
    "negative points": ("points", edit(CONFIG, sample_shape=[-2]), CONFIG, "not positive"),
    "words for numbers": ("tiny", edit(CONFIG, layers_per_block="x"), CONFIG, "layers_per_block 'x'"),
    "foreign blocks": ("tiny", edit(CONFIG, down_block_types=["X", "Y"]), CONFIG, "cannot be used"),
    "no JSON": ("tiny", cut(CONFIG, 50), CONFIG, "is damaged"),
    "a list": ("tiny", write(CONFIG, b"[]"), CONFIG, "must hold a JSON object"),
    "deep": ("tiny", write(LIST, b'{"a":' * 10**5), LIST, "is damaged"),
    "no index": ("tiny", lambda folder: (folder / LIST).unlink(), LIST, "is missing"),
    "class of Python": ("tiny", edit(LIST, unet=["os", "system"]), LIST, "'system'"),
    "class of another kind": (
        "tiny", edit(LIST, scheduler=["diffusers", "UNet2DModel"]), LIST, "UNet2DModel",
    ),
    "entry of numbers": ("tiny", edit(LIST, unet=[1, 2, 3]), LIST, "must have a"),
    "another pipeline": (
        "tiny", edit(LIST, vae=["diffusers", "VQModel"]), LIST, "'vae'",
    ),
    "timesteps without end": (
        "tiny", edit(SCHEDULER, num_train_timesteps=10**13), "scheduler_config.json",
        "at most 1000000",
    ),
    "scheduler gone": (
        "tiny", lambda folder: (folder / SCHEDULER).unlink(), "scheduler_config.json",
        "is missing",
    ),
    "shard above": (
        "shards", weight_map(lambda m: m.update({"conv_in.bias": "../../x.safetensors"})), "index.json",
        r"'\.\./\.\./x",
    ),
    "shard at the root": (
        "shards", weight_map(lambda m: m.update({"conv_in.bias": "/etc/x"})), "index.json", "/etc/x",
    ),
    "shard of another kind": (
        "shards", weight_map(lambda m: m.update({"conv_in.bias": "x.bin"})), "index.json", "x.bin",
    ),
    "shard gone": (
        "shards", weight_map(lambda m: m.update({"conv_in.bias": "diffusion_pytorch_model-9.safetensors"})),
        "diffusion_pytorch_model-9.safetensors", "is missing",
    ),
    "tensor in another shard": (
        "shards", weight_map(lambda m: m.update(dict.fromkeys(m, m["conv_in.bias"]))), "unet", "lacks",
    ),
    "tensor in no shard": ("shards", weight_map(lambda m: m.pop("conv_in.bias")), "model-0", "has elsewhere"),
    "index of old": (
        "tiny", write("unet/diffusion_pytorch_model.safetensors.fp16.index.json", b"{}"), "fp16.index.json",
        "no longer used",
    ),
    "solver without end": (
        "tiny",
        both(
            edit(LIST, scheduler=["diffusers", "DPMSolverMultistepScheduler"]),
            edit(SCHEDULER, solver_order=10**10),
        ),
        "scheduler_config.json", "at most",
    ),
    "network of another kind": (
        "tiny", edit(LIST, unet=["diffusers", "WanTransformer3DModel"]), "model_index.json", "WanTransf",
    ),
    "quantizer": ("tiny", edit(CONFIG, quantization_config={"a": "x"}), CONFIG, "quantization_config"),
    "epsilon of words": ("tiny", edit(CONFIG, norm_eps="x"), CONFIG, "norm_eps 'x'"),
    "nan in a setting": ("tiny", edit(CONFIG, norm_eps=float("nan")), CONFIG, "NaN"),
    "schedule unknown": ("tiny", edit(SCHEDULER, beta_schedule="x"), "scheduler_config.json", "'x'"),
    "beta of words": ("tiny", edit(SCHEDULER, beta_start="x"), "scheduler_config.json", "cannot be used"),
    "null class alone": ("points", edit(LIST, null_class_label=5), "model_index.json", "null_class_label"),
    "no map": ("shards", edit(INDEX, weight_map=3), "index.json", "no weight_map"),
}  # fmt: skip
