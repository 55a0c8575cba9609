"""Nothing of a saved pipeline is trusted: not its names, not its sizes, not its numbers, not its code."""

import json
import pickle
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from common import seeded
from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, build_model, model_config
from loopback_hub import READ_ONLY_TOKEN, Fault

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


def samples(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(batch_size=2, num_inference_steps=3, generator=seeded(), output_type="pt").images


@pytest.fixture(scope="module")
def _originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for name in ("tiny", "points"):
        pipeline_of(name).save_pretrained(folder / name)
    pipeline_of("tiny").save_pretrained(folder / "shards", max_shard_size="60KB")
    return folder


@pytest.fixture
def saved(_originals, tmp_path):
    """Return a function that gives a copy of a saved pipeline to spoil."""

    def copy(name="tiny"):
        return shutil.copytree(_originals / name, tmp_path / name)

    return copy


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


@pytest.mark.parametrize("case", SPOILED)
def test_refused_with_the_name_of_the_file(saved, case):
    name, spoil, file, text = SPOILED[case]
    folder = saved(name)
    spoil(folder)
    with pytest.raises(ValueError, match=text) as caught:
        DDPMFromScratchPipeline.from_pretrained(folder)
    assert file in str(caught.value) and len(str(caught.value)) < 600


LIMITED = """
import resource, sys, ddpm_from_scratch
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**28,) * 2)
try:
    ddpm_from_scratch.DDPMFromScratchPipeline.from_pretrained(sys.argv[1])
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("case", [case for case in SPOILED if case.endswith("without end")])
def test_absurd_sizes_are_refused_before_memory_is_taken(saved, run_here, case):
    """With 256 MiB to spare, whoever allocates first dies of MemoryError."""
    name, spoil, file, text = SPOILED[case]
    folder = saved(name)
    spoil(folder)
    done = run_here("-c", LIMITED, folder)
    assert done.returncode == 0 and file in done.stdout, done.stderr
    assert text in done.stdout, "refused by whoever failed to allocate"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # here it was not set


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_pickle_is_opened(saved, tmp_path):
    folder, canary = saved(), tmp_path / "canary"
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Touch(canary)))
    DDPMFromScratchPipeline.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    for options in ({}, {"use_safetensors": False}):
        with pytest.raises(ValueError, match="as a pickle"):
            DDPMFromScratchPipeline.from_pretrained(folder, **options)
    assert not canary.exists()
    with pytest.raises(ValueError, match="safetensors only"):
        pipeline_of("tiny").save_pretrained(tmp_path / "x", safe_serialization=False)


def test_no_code_of_a_folder_runs(saved, tmp_path):
    folder, canary = saved("points"), tmp_path / "canary"
    for path in folder.rglob("*.py"):
        path.write_text(f"open({str(canary)!r}, 'w')\n" + path.read_text())
    for options in ({}, {"trust_remote_code": True}):
        loaded = DDPMFromScratchPipeline.from_pretrained(folder, **options)
        assert torch.allclose(samples(loaded), samples(pipeline_of("points")), atol=1e-5)
    assert not canary.exists()


# ---- what must load


def test_network_of_two_sizes_is_loaded_as_saved(saved):
    loaded = DDPMFromScratchPipeline.from_pretrained(saved("shards"))
    assert torch.equal(samples(loaded), samples(pipeline_of("tiny")))


def test_old_flat_folder_with_old_names_of_attention(saved, tmp_path):
    """As google/ddpm-cifar10-32: all files at the top, names from before diffusers 0.18."""
    folder = saved()
    state = load_file(folder / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor.clone()
    assert set(renamed) != set(state)
    save_file(renamed, folder / WEIGHTS.split("/")[1], metadata={"format": "pt"})
    for name in (CONFIG, SCHEDULER):
        shutil.move(folder / name, folder)
    for name in ("unet", "scheduler"):
        shutil.rmtree(folder / name)
    loaded = DDPMFromScratchPipeline.from_pretrained(folder)
    assert torch.allclose(samples(loaded), samples(pipeline_of("tiny")), atol=1e-5)


def test_variant_dtype_subfolder_and_given_components(tmp_path):
    first = pipeline_of("points")
    first.save_pretrained(tmp_path / "in" / "side", variant="fp16")
    where = {"pretrained_model_name_or_path": tmp_path, "subfolder": "in/side", "variant": "fp16"}
    for options in ({"torch_dtype": torch.float16}, {"torch_dtype": {"unet": torch.float16}}):
        assert DDPMFromScratchPipeline.from_pretrained(**where, **options).unet.dtype == torch.float16
    given = DDPMFromScratchPipeline.from_pretrained(**where, scheduler=DDIMScheduler())
    assert isinstance(given.scheduler, DDIMScheduler)
    assert DDPMFromScratchPipeline.from_pretrained(**where, unet=first.unet).unet is first.unet
    with pytest.raises(ValueError, match="there is fp16: pass variant="):
        DDPMFromScratchPipeline.from_pretrained(tmp_path / "in" / "side")
    with pytest.raises(ValueError, match="must be a folder inside"):
        DDPMFromScratchPipeline.from_pretrained(tmp_path / "in", subfolder="../in/side")
    with pytest.raises(TypeError, match="got .'custom_pipeline'.*takes"):
        DDPMFromScratchPipeline.from_pretrained(tmp_path, custom_pipeline="x")


# ---- from a Hub

PULL = """
import json, sys, torch
from ddpm_from_scratch import DDPMFromScratchPipeline
try:
    options = json.loads(sys.argv[2])
    pipe = DDPMFromScratchPipeline.from_pretrained("me/tiny", cache_dir=sys.argv[1], **options)
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0])
else:
    print("loaded", pipe.unet.conv_in.bias.sum().item())
"""


@pytest.fixture
def pull(loopback_hub, run_here, saved, tmp_path):
    code = "import sys; from ddpm_from_scratch import push_folder; push_folder(sys.argv[1], 'tiny', tag='v1')"
    assert run_here("-c", code, saved()).returncode == 0
    cache = iter(range(100))

    def run(cache_dir=None, token=None, **options):
        cache_dir = cache_dir or tmp_path / f"cache-{next(cache)}"
        done = run_here("-c", PULL, cache_dir, json.dumps(options), token=token)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.mark.parametrize("kind", [500, 503, "drop", "cut"])
def test_a_download_that_fails_once_comes_through(pull, loopback_hub, kind):
    assert pull().startswith("loaded")
    loopback_hub.faults.append(Fault("GET /me/tiny/resolve", kind))
    assert pull().startswith("loaded") and loopback_hub.faults[0].times == 0


def test_a_download_that_stays_short_is_refused(pull, loopback_hub, tmp_path):
    loopback_hub.faults.append(Fault("GET /me/tiny/resolve", "cut", times=-1))
    assert not pull(cache_dir=tmp_path / "short").startswith("loaded")
    loopback_hub.faults.clear()
    assert pull(cache_dir=tmp_path / "short").startswith("loaded"), "what was there in part is no obstacle"


def test_revision_offline_and_what_is_not_there(pull, loopback_hub, tmp_path):
    assert pull(revision="v1").startswith("loaded")
    assert "RevisionNotFoundError" in pull(revision="v2")
    assert pull(cache_dir=tmp_path / "kept").startswith("loaded")
    before = len(loopback_hub.requests)
    assert pull(cache_dir=tmp_path / "kept", local_files_only=True).startswith("loaded")
    assert not [each for each in loopback_hub.requests[before:] if "tiny" in each]
    assert "LocalEntryNotFoundError" in pull(local_files_only=True)
    del loopback_hub.repositories["me/tiny"]
    assert "RepositoryNotFoundError" in pull(token=READ_ONLY_TOKEN)


def test_a_fresh_home_pulls_and_goes_on_without_the_network(pull, loopback_hub, tmp_path):
    """In processes of their own, because huggingface_hub reads both variables when it is imported."""
    code = "from ddpm_from_scratch import *; DDPMFromScratchPipeline.from_pretrained('me/tiny')"
    code += "; from diffusers import DiffusionPipeline; DiffusionPipeline.from_pretrained('me/tiny')"
    for offline in ("0", "1"):
        environment = loopback_hub.environment | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline}
        before = len(loopback_hub.requests)
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        asked = [each for each in loopback_hub.requests[before:] if "me/tiny" in each]
        assert bool(asked) is (offline == "0")


def test_private_repositories_need_a_token(pull, loopback_hub):
    loopback_hub.repositories["me/tiny"].private = True
    assert "RepositoryNotFoundError" in pull()
    assert pull(token=READ_ONLY_TOKEN).startswith("loaded")
    assert "Error" in pull(token="hf_wrong")


def test_only_configurations_and_weights_are_downloaded(pull, loopback_hub, tmp_path):
    repository = loopback_hub.repositories["me/tiny"]
    evil = {"unet/diffusion_pytorch_model.bin": b"x", "scheduler/x.py": b"x", "big.safetensors": b"x"}
    repository.commit("main", repository.files() | evil)
    assert pull(cache_dir=tmp_path / "kept").startswith("loaded")
    names = {path.name for path in (tmp_path / "kept").rglob("*") if path.is_symlink()}
    assert names == {
        "model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors",
    }  # fmt: skip
