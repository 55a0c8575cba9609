"""Saved pipelines load everywhere: each cell of the matrix in a fresh process, from folders and a Hub."""

import importlib
import json

import diffusers
import numpy as np
import pytest
import torch

from common import ROOT
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    build_model,
    model_config,
    register_network,
)
from ddpm_from_scratch.hub.code_file import code_file
from ddpm_from_scratch.networks.guided_unet import GuidedUNet2DModel
from ddpm_from_scratch.networks.lucidrains_unet import LucidrainsUnet

# What happens in one cell. DiffusionPipeline is what everyone has; ours needs no flag.
CELL = """
import json, sys
how = json.loads(sys.argv[1])
if how["blocked"]:
    sys.modules["ddpm_from_scratch"] = None
else:
    import ddpm_from_scratch
import numpy, torch
from diffusers import DiffusionPipeline

def samples(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(
        batch_size=2, num_inference_steps=4, generator=generator, output_type="np", **how["call"]
    ).images

pipes = [DiffusionPipeline.from_pretrained(how["source"], cache_dir=how["cache"], **how["options"])]
if not how["blocked"]:
    ours = ddpm_from_scratch.DDPMFromScratchPipeline
    pipes.append(ours.from_pretrained(how["source"], cache_dir=how["cache"]))
numpy.save(how["out"], numpy.stack([samples(pipe) for pipe in pipes]))
print(*(f"{type(pipe).__module__}.{type(pipe).__name__}" for pipe in pipes))
pipe = pipes[0 if how["blocked"] or how["stock"] else 1]
if how["save"]:
    pipe.save_pretrained(how["save"], **how["layout"])
if how["push"]:
    pipe.push_to_hub(how["push"], **how["layout"])
"""

MODELS = {
    "portable": {"unet": {}, "layout": None, "call": {}},
    "remote-code": {"unet": {}, "layout": "remote-code", "call": {}},
    "classes": {"unet": {"num_class_embeds": 4}, "layout": None, "call": {"class_labels": [1, 2]}},
    "guided": {
        "unet": {"num_class_embeds": 4}, "layout": "remote-code",
        "call": {"class_labels": "dog", "guidance_scale": 2},
    },
    "numbers": {
        "unet": {"class_embed_type": "timestep"}, "layout": None,
        "call": {"class_labels": [0.5, 7], "guidance_scale": 2},
    },
    "points": {"unet": None, "layout": None, "call": {}},
    "swapped": {"unet": {}, "layout": None, "call": {}, "scheduler": "PNDMScheduler"},
    "heads": {"unet": {"num_attention_heads": 4}, "layout": None, "call": {}},
    "lucidrains": {"unet": None, "layout": None, "call": {}},
}  # fmt: skip
# What stock classes run, and by which of them.
PORTABLE = {"portable": "ddpm.pipeline_ddpm.DDPMPipeline"}
PORTABLE["classes"] = "consistency_models.pipeline_consistency_models.ConsistencyModelPipeline"
CLASSES = {"null_class_label": 3, "id2label": {0: "cat", 1: "dog", 2: "fish"}}
# Who saved: the package at first, then whoever loaded that.
SAVED = [
    (model, saver)
    for model in MODELS
    for saver in ("first", "package", "code file", *(["stock"] if model in PORTABLE else []))
]


def network_of(model):
    if model == "lucidrains":
        return LucidrainsUnet(8, 1, 1, (8, 8), 8, (True,), (2,), (4,))
    if model == "heads":
        config = {name: value for name, value in model_config("tiny").items() if name != "_class_name"}
        return GuidedUNet2DModel(**config, **MODELS[model]["unet"])
    settings = MODELS[model]["unet"]
    return build_model(model_config("points") if settings is None else model_config("tiny", **settings))


class Shelf:
    """Saved pipelines, each in a folder and in a repository, made when they are first asked for."""

    def __init__(self, folder, hub, run):
        self.folder, self.hub, self.run_here, self.made, self.truth = folder, hub, run, {}, {}

    def get(self, model, saver):
        name = f"{model}-{saver}".replace(" ", "-")
        if name not in self.made:
            self.made[name] = self.first(model) if saver == "first" else self.saved_again(model, saver)
        self.hub.repositories[f"me/{name}"] = self.made[name]
        return self.folder / name, f"me/{name}"

    def first(self, model):
        kind = MODELS[model]
        torch.manual_seed(0)
        scheduler = DDPMFromScratchScheduler(
            beta_schedule="sigmoid_alpha_bar", clip_sample=kind["unet"] is not None
        )
        if "scheduler" in kind:
            scheduler = getattr(diffusers, kind["scheduler"]).from_config(scheduler.to_diffusers().config)
        known = {"classes": CLASSES, "guided": CLASSES, "numbers": {"null_class_label": -1}}
        pipeline = DDPMFromScratchPipeline(network_of(model), scheduler, **known.get(model, {}))
        pipeline.set_progress_bar_config(disable=True)
        self.truth[model] = pipeline(
            batch_size=2, num_inference_steps=4, generator=torch.Generator().manual_seed(0),
            output_type="np", **kind["call"],
        ).images  # fmt: skip
        pipeline.save_pretrained(self.folder / f"{model}-first", layout=kind["layout"])
        self.push(f"{model}-first")
        return self.hub.repositories[f"me/{model}-first"]

    def saved_again(self, model, saver):
        first, _ = self.get(model, "first")
        name = f"{model}-{saver}".replace(" ", "-")
        options = {} if saver == "stock" else {"trust_remote_code": True}
        if model in PORTABLE and saver == "code file":
            options["custom_pipeline"] = str(first)
            options |= CLASSES if model == "classes" else {}
        done = self.cell(
            model, first, options, blocked=saver != "package", stock=saver == "stock",
            save=str(self.folder / name), push=None if saver == "code file" else name,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if saver == "code file":  # it has no upload in it: what it saved is pushed by the package
            self.push(name)
        return self.hub.repositories[f"me/{name}"]

    def push(self, name):
        code = "import sys; from ddpm_from_scratch import push_folder; push_folder(*sys.argv[1:])"
        done = self.run_here("-c", code, self.folder / name, name)
        assert done.returncode == 0, done.stderr

    def cell(self, model, source, options, blocked, cache=None, stock=False, save=None, push=None):
        how = {
            "source": str(source), "cache": cache, "options": options, "call": MODELS[model]["call"],
            "layout": {"layout": layout} if (layout := MODELS[model]["layout"]) else {},
            "blocked": blocked, "stock": stock, "out": str(self.folder / "out.npy"),
            "save": save, "push": push,
        }  # fmt: skip
        return self.run_here("-c", CELL, json.dumps(how))

    def samples(self):
        return np.load(self.folder / "out.npy")


@pytest.fixture(scope="module")
def _folder(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("shelf")}


@pytest.fixture
def shelf(_folder, loopback_hub, run_here):
    shelf = _folder.setdefault("shelf", Shelf(_folder["folder"], loopback_hub, run_here))
    shelf.run_here = run_here
    return shelf


@pytest.mark.parametrize("flag", [True, False], ids=["flag", "no flag"])
@pytest.mark.parametrize("where", ["folder", "hub"])
@pytest.mark.parametrize("blocked", [False, True], ids=["importable", "blocked"])
@pytest.mark.parametrize(("model", "saver"), SAVED)
def test_matrix(shelf, tmp_path, model, saver, blocked, where, flag):
    folder, repository = shelf.get(model, saver)
    options = {"trust_remote_code": True} if flag else {}
    done = shelf.cell(
        model, folder if where == "folder" else repository, options, blocked, cache=str(tmp_path / "cache")
    )
    if model not in PORTABLE and not flag:
        assert done.returncode == 1 and "trust_remote_code=True" in done.stderr, done.stderr
        return
    assert done.returncode == 0, done.stderr
    for samples in shelf.samples():
        np.testing.assert_allclose(samples, shelf.truth[model], rtol=0, atol=1e-5)
    kind = done.stdout.split()[0]
    if model in PORTABLE:
        assert kind == f"diffusers.pipelines.{PORTABLE[model]}" and "ignored" not in done.stderr
    else:
        assert kind.startswith("diffusers_modules.local.") and kind.endswith(".DDPMFromScratchPipeline")


@pytest.mark.parametrize("saver", ["first", "package", "code file", "stock"])
def test_the_package_finds_names_and_null_label_of_a_stock_folder_again(shelf, tmp_path, saver):
    shelf.get("guided", "first")
    pipe = DDPMFromScratchPipeline.from_pretrained(shelf.get("classes", saver)[0])
    pipe.set_progress_bar_config(disable=True)
    call = lambda: pipe(2, torch.Generator().manual_seed(0), 4, output_type="np", **MODELS["guided"]["call"])  # noqa: E731
    if saver == "stock":  # it keeps what it knows
        with pytest.raises(
            ValueError, match="classes of this pipeline have no names.* load it with id2label"
        ):
            call()
        return
    np.testing.assert_allclose(call().images, shelf.truth["guided"], rtol=0, atol=1e-5)


def test_code_of_a_portable_repository_runs_if_asked_for(shelf, tmp_path):
    for source in shelf.get("portable", "first"):
        options = {"custom_pipeline": str(source), "trust_remote_code": True}
        done = shelf.cell("portable", source, options, True, cache=str(tmp_path))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith(".DDPMFromScratchPipeline")
        np.testing.assert_allclose(shelf.samples()[0], shelf.truth["portable"], rtol=0, atol=1e-5)


VERSIONS = """
import sys
sys.modules["ddpm_from_scratch"] = None
from diffusers import DiffusionPipeline
pipes = [DiffusionPipeline.from_pretrained(source, trust_remote_code=True) for source in sys.argv[1:]]
for pipe in (*pipes, pipes[0]):
    for make, wrong in ((type(pipe.scheduler), {"prediction_type": "x"}), (pipe, {"output_type": "x"})):
        try:
            make(**wrong)
        except ValueError as error:
            print(error)
"""


def test_two_versions_in_one_process_do_not_mix(shelf, tmp_path):
    """As long, and loaded in the same second: also their compiled code must not be taken for each other's."""
    import shutil

    first, _ = shelf.get("points", "first")
    for version in ("a", "b"):
        shutil.copytree(first, tmp_path / version)
        for path in (tmp_path / version).rglob("*.py"):
            path.write_text(path.read_text().replace("must be one of", f"must {version}e one of"))
    done = shelf.run_here("-c", VERSIONS, tmp_path / "a", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert [line.split("must ")[1].split()[0] for line in done.stdout.splitlines()] == ["ae"] * 2 + [
        "be"
    ] * 2 + ["ae"] * 2


# The package is blocked: the file of code alone makes these samples.
ALONE = """
import runpy, sys
sys.modules["ddpm_from_scratch"] = None
import torch
module = runpy.run_path(sys.argv[1])
{walk}
torch.save(walk(module["DDPMFromScratchScheduler"]), sys.argv[2])
"""
WALK = """
def walk(scheduler_class):
    scheduler = scheduler_class(beta_schedule="sigmoid_alpha_bar", variance_type="learned_range")
    scheduler.set_timesteps(7)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 3, 4, 4, generator=generator)
    for t in scheduler.timesteps:
        sample = scheduler.step(sample.repeat(1, 2, 1, 1) / 2, t, sample, generator=generator).prev_sample
    return sample
"""


def test_the_file_of_code_alone_gives_the_same_samples(run_here, tmp_path):
    (tmp_path / "code.py").write_text(code_file("schedulers.scheduling_ddpm_from_scratch"))
    done = run_here("-c", ALONE.format(walk=WALK), tmp_path / "code.py", tmp_path / "samples.pt")
    assert done.returncode == 0, done.stderr
    namespace = {"torch": torch}
    exec(WALK, namespace)
    here = namespace["walk"](DDPMFromScratchScheduler)
    assert torch.equal(torch.load(tmp_path / "samples.pt", weights_only=True), here)


# A network of one's own, in each way that its page advises; its class is in a file that a fresh process has
# only if it is to register it.
OWN = """
import json, sys
how = json.loads(sys.argv[1])
if how["blocked"]:
    sys.modules["ddpm_from_scratch"] = None
import numpy, torch
from diffusers import DiffusionPipeline

pipes = {
    "stock": lambda: DiffusionPipeline.from_pretrained(
        how["source"], trust_remote_code=True, **how["where"]
    )
}
if not how["blocked"]:
    from ddpm_from_scratch import DDPMFromScratchPipeline, register_network

    def registered():
        sys.path[:0] = how["path"]
        register_network(getattr(__import__(how["module"]), how["name"]))
        return DDPMFromScratchPipeline.from_pretrained(how["source"], **how["where"])

    pipes["trusted"] = lambda: DDPMFromScratchPipeline.from_pretrained(
        how["source"], trust_remote_code=True, **how["where"]
    )
    pipes["registered"] = registered
    try:
        DDPMFromScratchPipeline.from_pretrained(how["source"], **how["where"])
        raise AssertionError("it loaded")
    except ValueError as error:
        assert f"register_network({how['name']}) first" in str(error), error
images = []
for name, make in pipes.items():
    pipe = make()
    assert (type(pipe.unet).__module__ == how["module"]) is (name == "registered"), name
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images.append(pipe(batch_size=2, num_inference_steps=4, generator=generator, output_type="np").images)
    if name == "stock" and how["save"]:
        pipe.save_pretrained(how["save"])
numpy.save(how["out"], numpy.stack(images))
"""
PLAIN_NET = '''
"""A script that trains a plain module, and would train again where it is imported without care."""
import sys

import torch
from torch import nn

HIDDEN = 8


class PlainNet(nn.Module):
    def __init__(self, width=HIDDEN, sample_shape=(2,)):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None] / 1000], dim=1))


trained_by = sys.argv
'''


@pytest.mark.parametrize("kind", ["plain", "sequences"])
def test_a_network_of_ones_own_loads_in_fresh_processes_from_folders_and_the_hub(
    kind, loopback_hub, run_here, tmp_path, monkeypatch
):
    torch.manual_seed(0)
    if kind == "plain":
        path, module, name = tmp_path / "code", "own_plain_net", "PlainNet"
        path.mkdir()
        (path / f"{module}.py").write_text(PLAIN_NET)
        monkeypatch.syspath_prepend(path)
        network = register_network(importlib.import_module(module).PlainNet)(6)
    else:
        path, module, name = ROOT / "lesson", "sequences", "SequenceDenoiser"
        network = importlib.import_module(module).SequenceDenoiser((8, 8), 16, 1, 2)
    pipeline = DDPMFromScratchPipeline(network.eval(), DDPMFromScratchScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    truth = pipeline(batch_size=2, num_inference_steps=4, generator=generator, output_type="np").images
    pipeline.save_pretrained(tmp_path / "first")
    code = "import sys; from ddpm_from_scratch import push_folder; push_folder(*sys.argv[1:])"
    assert run_here("-c", code, tmp_path / "first", "own").returncode == 0
    files = loopback_hub.repositories["me/own"].files("main")
    assert b"register_network(" + name.encode() in files["README.md"] and "unet/models.py" not in files
    again = tmp_path / "again"
    for source, blocked, save in (
        (tmp_path / "first", True, again),
        (again, False, None),
        ("me/own", True, None),
        ("me/own", False, None),
    ):
        where = {"cache_dir": str(tmp_path / f"cache {blocked}")} if source == "me/own" else {}
        how = {
            "source": str(source), "blocked": blocked, "save": save and str(save), "where": where,
            "path": [str(path)], "module": module, "name": name, "out": str(tmp_path / "out.npy"),
        }  # fmt: skip
        done = run_here("-c", OWN, json.dumps(how))
        assert done.returncode == 0, done.stderr
        images = np.load(tmp_path / "out.npy")
        assert len(images) == (1 if blocked else 3)
        for each in images:
            np.testing.assert_allclose(each, truth, rtol=0, atol=1e-5)
