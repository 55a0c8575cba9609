"""What a run is given: flags, images, streams, half precision."""

import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from runs import TRAINING, train

from .trials import (
    BAD_SETTING,
    Result,
    folder_data,
    image_folder,
    require,
    require_status,
    some,
    try_all,
)

RELIABILITY = str(Path(__file__).resolve().parent.parent / "reliability.py")

ROWS_OF_SHARD = 2500

BAD_FLAGS = [
    "--learning_rate=inf", "--learning_rate=nan", "--learning_rate=-0.5", "--learning_rate=0",
    "--num_epochs=0", "--num_epochs=-3", "--train_batch_size=0", "--train_batch_size=2.5",
    "--gradient_accumulation_steps=0", "--resolution=0", "--ddpm_num_steps=1", "--ddpm_num_inference_steps=0",
    "--ddpm_num_inference_steps=2000", "--prediction_type=velocity", "--ddpm_beta_schedule=cosine",
    "--lr_scheduler=step", "--lr_warmup_steps=-1", "--ema_max_decay=1.5", "--mixed_precision=fp8",
    "--checkpointing_steps=0", "--checkpoints_total_limit=0", "--adam_beta1=1", "--dataloader_num_workers=-1",
    "--beta_end=1.7",
]  # fmt: skip


def bad_flags(sample: bool) -> Result:
    """A bad flag is one line with its name, its value and what is allowed; status 2, in under 10 seconds."""
    script = TRAINING / "train.py"

    def case(flag: str, folder: Path) -> None:
        began = time.monotonic()
        command = [
            sys.executable,
            str(script),
            "--dataset_name=digits",
            f"--output_dir={folder / 'run'}",
            flag,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        seconds = time.monotonic() - began
        lines = done.stderr.strip().splitlines()
        require(done.returncode == 2 and len(lines) == 1, f"status {done.returncode}: {done.stderr[-500:]}")
        name, value = flag.split("=")
        require(name in lines[0] and value in lines[0], lines[0])
        require(seconds < 10, f"took {seconds:.0f} s")
        require(not (folder / "run").exists(), "something was written")

    return try_all(some({flag: functools.partial(case, flag) for flag in BAD_FLAGS}, sample, 3))


def bad_images(sample: bool) -> Result:
    """An image that cannot be read is named with its file, or passed over and listed if that is asked for."""
    good = (Path(image_folder()) / "00.png").read_bytes()
    huge = Path(tempfile.mkdtemp()) / "huge.png"
    Image.new("1", (20_000, 20_000)).save(huge)
    strip = huge.with_name("strip.png")
    Image.new("L", (9000, 1)).save(strip)
    kinds = {
        "truncated": good[: len(good) // 2],
        "0 bytes": b"",
        "text": b"this is not an image",
        "decompression bomb": huge.read_bytes(),
        "9000:1 strip": strip.read_bytes(),
    }
    shutil.rmtree(huge.parent)

    def case(content: bytes, folder: Path) -> None:
        images = folder / "images"
        shutil.copytree(image_folder(), images)
        (images / "07.png").write_bytes(content)
        data = folder_data(images)
        done = train(folder / "run", data=data)
        require_status(done, BAD_SETTING)
        require("07.png" in done.stderr and "image 7 " in done.stderr, done.stderr)
        for stream in ((), ("--streaming",)):
            run = folder / f"skip{len(stream)}"
            done = train(run, "--use_ema", "--skip_bad_images=1", *stream, data=data)
            require_status(done, 0)
            (problem,) = json.loads((run / "results.json").read_text())["training"]["bad_images"]
            require("07.png" in problem, problem)

    return try_all(some({name: functools.partial(case, data) for name, data in kinds.items()}, sample, 5))


def small_data(sample: bool) -> Result:
    """No images: an error. Fewer than a batch: trains. A wrong column: an error that lists the right ones."""

    def empty(folder: Path) -> None:
        (folder / "images").mkdir()
        done = train(folder / "run", data=folder_data(folder / "images"))
        require_status(done, BAD_SETTING)
        require("holds no files" in done.stderr, done.stderr)

    def few(folder: Path) -> None:
        more = ("--train_batch_size=64", "--num_epochs=8")
        require_status(train(folder / "run", *more, data=folder_data(image_folder())), 0)

    def column(folder: Path) -> None:
        done = train(folder / "run", "--image_column=photo", data=folder_data(image_folder()))
        require_status(done, BAD_SETTING)
        require("--image_column is 'photo'" in done.stderr and "image" in done.stderr, done.stderr)

    return try_all({"empty": empty, "fewer than a batch": few, "wrong column": column})


def stream_memory(sample: bool) -> Result:
    """Peak memory of reading a stream does not grow with its length; resuming rereads one block only."""
    import datasets

    sizes = (2_500, 20_000) if sample else (10_000, 1_000_000)
    peaks: list[float] = []
    details: list[str] = []

    def case(folder: Path) -> None:
        encoded = [(Path(image_folder()) / f"{i:02}.png").read_bytes() for i in range(16)]
        for size in sizes:
            target = folder / str(size)
            target.mkdir()
            features = datasets.Features({"image": datasets.Image()})
            rows = [{"image": {"bytes": encoded[i % 16], "path": None}} for i in range(ROWS_OF_SHARD)]
            shard = datasets.Dataset.from_list(rows, features=features)
            shard.to_parquet(target / "0.parquet")
            for number in range(1, size // ROWS_OF_SHARD):
                shutil.copy(target / "0.parquet", target / f"{number}.parquet")
            command = [sys.executable, RELIABILITY, "--read_stream", str(target), str(size)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
            require(done.returncode == 0, done.stderr[-800:])
            found = json.loads(done.stdout.splitlines()[-1])
            peaks.append(found["peak_mib"])
            details.append(
                f"{size:,} rows: {found['peak_mib']:.0f} MiB, resumed in {found['resume_s']:.2f} s"
            )
        require(peaks[1] < 1.1 * peaks[0], f"memory grows: {peaks}")

    result = try_all({"flat": case})
    result.detail = "; ".join(details)
    return result


def read_stream(folder: str, size: int) -> None:
    """Read a whole stream as one of 100 processes, resume at its end, and print peak memory and time."""
    import resource

    from ddpm_from_scratch.data.datasets import load_training_data
    from ddpm_from_scratch.training.config import TrainingConfig

    config = TrainingConfig(
        dataset_name=folder, streaming=True, max_train_steps=1, resolution=8, cache_dir=f"{folder}-cache"
    )
    data = load_training_data(config, 8, 3)
    batches = data.batches(4, 0, 100, 0, 0)
    state = None
    for _ in range(size // 400):
        state = next(batches)["stream_state"]
    began = time.perf_counter()
    next(load_training_data(config, 8, 3).batches(4, 0, 100, 0, size - size % 400 - 400, state))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": peak, "resume_s": seconds}))


def half_precision(sample: bool) -> Result:
    """In bfloat16 the average is kept in float32 and moves, and noise is made in float32."""

    def case(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file

        more = ("--use_ema", "--mixed_precision=bf16", "--checkpointing_steps=2", "--learning_rate=1e-5")
        more += ("--ema_inv_gamma=1e-6", "--ema_power=1")  # decay 0.9999 from the first update on
        require_status(train(folder / "run", *more, faults=[_NoiseIsFloat32()]), 0)
        first, last = (load_file(folder / "run" / f"checkpoint-{n}" / "ema.safetensors") for n in (2, 4))
        require(all(tensor.dtype == torch.float32 for tensor in last.values()), "average is not float32")
        require(any(not torch.equal(first[name], last[name]) for name in last), "the average never moves")

    return try_all({"bf16": case})


@dataclass
class _NoiseIsFloat32:
    def __call__(self) -> None:
        import torch

        from ddpm_from_scratch.learning import objectives

        original = objectives.add_noise

        def add_noise(samples, noise, scales):
            if not samples.dtype == noise.dtype == scales.noise.dtype == torch.float32:
                raise TypeError(f"noise is made in {noise.dtype}")
            return original(samples, noise, scales)

        objectives.add_noise = add_noise
