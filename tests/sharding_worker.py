"""What test_sharding.py runs in two processes, with FSDP2 and with DDP: train, gather, load, sample.

What it saw goes to <folder>/<kind>.json, the states after five updates to <folder>/<kind>.pt.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))

import sharding
from ddpm_from_scratch.models import build_model, model_config


class Run:
    """A network, its optimizer and its average, as in the trainer."""

    def __init__(self):
        torch.manual_seed(0)
        self.network = build_model(model_config("tiny"))
        # With a small eps, Adam turns a rounding error in a gradient near zero into a whole step.
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3, eps=1e-4, fused=True)
        sharding.configure_sharding(accelerator, self.network)
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        self.ema = {name: value.clone() for name, value in sharding.weights(self.network).items()}
        self.norms = []

    def train(self, first, last):
        """Do updates first..last-1 of two batches each; every process has its own batches."""
        # Accelerate clips the gradients of a network that it knows; here there is more than one.
        accelerator._models[:] = [self.model]
        for update in range(first, last):
            for micro in range(2):
                seed = 100 * update + 10 * micro + accelerator.process_index
                noise = torch.Generator().manual_seed(seed)
                sample = torch.randn(4, 1, 8, 8, generator=noise)
                timesteps = torch.randint(20, (4,), generator=noise)
                with contextlib.nullcontext() if micro else accelerator.no_sync(self.model):
                    loss = (self.model(sample, timesteps).sample - sample).square().mean() / 2
                    accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.norms.append(sharding.full_tensor(norm).item())
            self.optimizer.step()
            self.optimizer.zero_grad()
            average = [sharding.local(tensor) for tensor in self.ema.values()]
            current = [sharding.local(tensor) for tensor in sharding.weights(self.network).values()]
            torch._foreach_lerp_(average, current, 0.1)

    def gather(self, keep=True):
        """Return all that a checkpoint holds, whole."""
        tensors, rest = sharding.optimizer_state(self.optimizer, self.network)
        states = {"model": sharding.weights(self.network), "ema": self.ema, "optimizer": tensors}
        return {name: sharding.gather(state, keep) for name, state in states.items()}, rest

    def load(self, states, rest):
        """Go on from what `gather` returned."""
        sharding.load(sharding.weights(self.network), states["model"])
        sharding.load(self.ema, states["ema"])
        sharding.load_optimizer_state(self.optimizer, self.network, states["optimizer"], rest)


def equal(first, second):
    """Return whether two lots of states are the same, bit for bit."""
    return all(
        first[kind].keys() == second[kind].keys()
        and all(torch.equal(first[kind][name], second[kind][name]) for name in first[kind])
        for kind in first
    )


def watch():
    """Return what a run saw, and its states after five updates."""
    run = Run()
    saw = {
        "world_size": dist.get_world_size() if dist.is_initialized() else 1,
        "num_processes": accelerator.num_processes,
        "sharded_parameters": sum(isinstance(p, DTensor) for p in run.network.parameters()),
        "parameters": sum(1 for _ in run.network.parameters()),
        "units": [name for name, module in run.network.named_modules() if isinstance(module, FSDPModule)],
        "held": sum(sharding.local(p).numel() for p in run.network.parameters()),
        "whole": sum(p.numel() for p in run.network.parameters()),
    }
    run.train(0, 3)
    states, rest = run.gather()
    rest = json.loads(json.dumps(rest))
    on_main_only, _ = run.gather(keep=accelerator.is_main_process)
    held = sum(len(state) for state in on_main_only.values())
    saw["tensors_kept"] = accelerator.gather(torch.tensor([held])).tolist()
    saw["entries"] = sorted({name.rsplit(".", 1)[1] for name in states["optimizer"]})
    run.train(3, 5)
    straight, _ = run.gather()

    resumed = Run()
    resumed.load(states, rest)
    saw["loaded_is_saved"] = equal(states, resumed.gather()[0])
    resumed.train(3, 5)
    saw["resumed_is_straight"] = equal(straight, resumed.gather()[0])

    sample, timestep = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3])
    exported = build_model(model_config("tiny"))
    exported.load_state_dict(straight["ema"])
    with torch.no_grad():
        expected = exported(sample, timestep).sample
        with sharding.swapped_in(run.network, run.ema):
            outputs = [run.network(sample, timestep).sample for _ in range(2)]
            saw["whole_after_forward"] = sum(not isinstance(p, DTensor) for p in run.network.parameters())
        saw["samples_from_ema"] = all(torch.equal(output, expected) for output in outputs)
        saw["largest_difference"] = max((output - expected).abs().max().item() for output in outputs)
    saw["restored"] = equal(straight, run.gather()[0])
    run.train(5, 6)
    resumed.train(5, 6)
    saw["sampling_observes"] = equal(run.gather()[0], resumed.gather()[0])
    saw["norms"] = run.norms
    return saw, straight


torch.set_num_threads(1)
folder = Path(sys.argv[1])
for kind in ("fsdp", "ddp"):
    if kind == "ddp":
        AcceleratorState._reset_state()
        GradientState._reset_state()
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_CPU
        del os.environ["ACCELERATE_USE_FSDP"]
    accelerator = Accelerator()
    sharding.check_launch(accelerator)
    saw, straight = watch()
    if accelerator.is_main_process:
        (folder / f"{kind}.json").write_text(json.dumps(saw))
        torch.save(straight, folder / f"{kind}.pt")
accelerator.end_training()
