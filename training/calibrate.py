"""Find the timesteps and the noise with which a saved pipeline samples best in few steps; save them in it.

    python training/calibrate.py runs/digits --dataset_name digits
    python training/calibrate.py runs/photos --train_data_dir photos/ --num_steps 8 16 --mixed_precision bf16

The result goes into the scheduler's configuration, so that the pipeline, and whoever downloads it, takes it
for `num_inference_steps=10`. Without data only the density of nodes is measured: where the flow bends.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.evaluation.candidates import calibrate_pipeline
from ddpm_from_scratch.evaluation.features import BUILT_IN_FEATURES
from ddpm_from_scratch.evaluation.saved_pipelines import (
    add_data_flags,
    add_network_flags,
    data_config,
    find_processes,
    load_pipeline_and_data,
)
from ddpm_from_scratch.hub.cards import calibrated_timesteps, layout_of
from ddpm_from_scratch.learning.calibration import DEFAULT_NUM_STEPS, Candidate
from ddpm_from_scratch.runtime.cli import OneLineErrors
from ddpm_from_scratch.runtime.errors import ConfigError, exit_status
from ddpm_from_scratch.runtime.storage import commit_files, disk_errors_named, temporary_folder
from ddpm_from_scratch.sharing.card import note_calibration


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command; the data have the flags of train.py."""
    parser = OneLineErrors(
        prog="calibrate.py", description="Calibrate the few-step sampler of a saved pipeline.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("pipeline", help="folder of a pipeline")
    add_data_flags(parser)
    how = parser.add_argument_group("calibration")
    how.add_argument(
        "--num_steps", nargs="+", type=int, default=list(DEFAULT_NUM_STEPS),
        help=f"numbers of steps to find settings for; default {' '.join(map(str, DEFAULT_NUM_STEPS))}",
    )  # fmt: skip
    how.add_argument(
        "--num_samples", type=int, default=250,
        help="samples that each candidate is judged by; default 250, and up to 32 times as many for the best",
    )  # fmt: skip
    how.add_argument(
        "--features", default="auto",
        help=f"what to compare samples on: auto, {', '.join(BUILT_IN_FEATURES)}, or the folder or Hub id of "
        "a transformers vision model; auto is digit_classifier for digits, else the network's own middle",
    )  # fmt: skip
    how.add_argument(
        "--without_data", action="store_true",
        help="replace a calibration that was made with data by one that is made without",
    )  # fmt: skip
    add_network_flags(how)
    return parser


def table(candidates: Sequence[Candidate], calibration: dict[str, Any]) -> str:
    """Return the best of each spacing for each number of steps, and which was chosen (*).

    Rows compare if as many samples were made.
    """
    columns = {"steps": 5, "spacing": 12, "last": 5, "tau": 5, "noise t": 8, "scale": 5, "samples": 7}
    lines = [" ".join(f"{name:>{width}}" for name, width in (columns | {"distance": 9}).items())]
    for count, entry in calibration.get("steps", {}).items():
        of_count = [one for one in candidates if len(one.plan.timesteps) == int(count)]
        best = {}
        for one in sorted(of_count, key=lambda one: (one.num_samples, -one.distance)):
            best[one.spacing] = one  # the last is the best of those judged by the most samples
        for one in sorted(best.values(), key=lambda one: (-one.num_samples, one.distance)):
            plan = one.plan
            between = "all" if plan.noise_interval is None else "{}-{}".format(*plan.noise_interval)
            chosen = " *" if plan.entry() == entry else ""
            lines.append(
                f"{count:>5} {one.spacing:>12} {plan.timesteps[-1]:>5} {plan.noise_level:>5.2f} "
                f"{between:>8} {plan.noise_scale:>5.2f} {one.num_samples:>7} {one.distance:>9.4f}{chosen}"
            )
    return "\n".join(lines)


def save_scheduler(pipeline: DDPMFromScratchPipeline, folder: Path) -> None:
    """Replace the scheduler of a saved pipeline, and what depends on it; the weights stay as they are."""
    with disk_errors_named(folder):
        temporary = temporary_folder(folder / "calibrated")
        try:
            pipeline.save_pretrained(temporary, layout=layout_of(folder))
        except ValueError as error:
            shutil.rmtree(temporary)
            raise ConfigError(str(error)) from error
        shutil.rmtree(temporary / "unet")
        written = {path.name for path in (temporary / "scheduler").iterdir()}
        commit_files(temporary, folder, last="model_index.json")
        for path in (folder / "scheduler").glob("*.py"):  # the code of the scheduler before
            if path.name not in written:
                path.unlink()
    note_calibration(folder)


def run(args: argparse.Namespace) -> None:
    """Calibrate as the command line says, and save.

    Raises:
        RunError: anything the user can mend.
    """
    folder = Path(args.pipeline)
    if not (folder / "model_index.json").is_file():
        raise ConfigError(f"pipeline is {args.pipeline!r}, but that is not the folder of a saved pipeline.")
    has_data = args.dataset_name is not None or args.train_data_dir is not None
    if not has_data and not args.without_data and calibrated_timesteps(folder) is not None:
        raise ConfigError(
            f"{args.pipeline!r} has a calibration that was made with data, and none are given: give "
            "--dataset_name or --train_data_dir, or --without_data to lose it."
        )
    config = data_config(args) if has_data else None
    state = find_processes()
    pipeline, data = load_pipeline_and_data(args, config)
    calibration, candidates = calibrate_pipeline(
        pipeline,
        data,
        num_steps=args.num_steps,
        num_samples=args.num_samples,
        features=args.features,
        batch_size=args.batch_size,
        seed=args.seed,
        guidance_scale=args.guidance_scale,
        cache_dir=args.cache_dir,
    )
    if state.is_main_process:
        if data is None:
            print("no data were given: the density of nodes was measured, and nothing compared")
        else:
            print(table(candidates, calibration))
        save_scheduler(pipeline, folder)
        print(f"written to {folder / 'scheduler' / 'scheduler_config.json'}")
    state.wait_for_everyone()
    state.destroy_process_group()


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, calibrate, and return the exit status: 0, or another with one line on what to mend."""
    args = make_parser().parse_args(argv)
    return exit_status("calibrate.py", lambda: run(args), OSError, ValueError)


if __name__ == "__main__":
    sys.exit(main())
