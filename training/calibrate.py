"""Find the timesteps and the noise with which a saved pipeline samples best in few steps; save them in it.

    python training/calibrate.py runs/digits --dataset_name digits
    python training/calibrate.py runs/photos --train_data_dir photos/ --num_steps 8 16 --mixed_precision bf16

The result goes into the scheduler's configuration, so that the pipeline, and whoever downloads it, takes it
for `num_inference_steps=10`. Stopped (Ctrl-C, SIGTERM), it keeps the best of what was judged so far.
Without data only the density of nodes is measured: where the flow bends.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ddpm_from_scratch.data.settings import DataConfig
from ddpm_from_scratch.evaluation.settings import (
    add_data_flags,
    add_network_flags,
    check_calibration,
    check_numbers,
    data_config,
)
from ddpm_from_scratch.runtime.cli import OneLineErrors, rules_of, say_unused
from ddpm_from_scratch.runtime.errors import ConfigError, exit_status, warn
from ddpm_from_scratch.runtime.unused import Only
from ddpm_from_scratch.words import BUILT_IN_FEATURES, DEFAULT_NUM_STEPS

# What has an effect only with data (see runtime/unused.py).
_DATA = Only("dataset_name or --train_data_dir")
_OF_DATA = (
    "dataset_config_name", "dataset_split", "image_column", "label_column", "resolution", "channels",
    "center_crop", "num_samples", "features",
)  # fmt: skip
_RULES = {name: (_DATA, *rules_of(DataConfig).get(name, ())) for name in _OF_DATA}


def make_parser() -> OneLineErrors:
    """Return the parser of the command; the data have the flags of train.py."""
    parser = OneLineErrors("calibrate.py", "Calibrate the few-step sampler of a saved pipeline.")
    parser.add_argument("pipeline", type=os.path.expanduser, help="folder of a pipeline")
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
        "--features", default="auto", type=os.path.expanduser,
        help=f"what to compare samples on: auto, {', '.join(BUILT_IN_FEATURES)}, or the folder or Hub id of "
        "a transformers vision model; auto is digit_classifier for digits, else the network's own middle",
    )  # fmt: skip
    how.add_argument(
        "--without_data", action="store_true",
        help="replace a calibration that was made with data by one that is made without",
    )  # fmt: skip
    add_network_flags(how)
    return parser


def run(args: argparse.Namespace) -> None:
    """Calibrate as the command line says, and save.

    Raises:
        RunError: anything the user can mend.
    """
    folder = Path(args.pipeline)
    if not (folder / "model_index.json").is_file():
        raise ConfigError(f"pipeline is {args.pipeline!r}, but that is not the folder of a saved pipeline.")
    has_data = args.dataset_name is not None or args.train_data_dir is not None
    config = data_config(args) if has_data else None
    check_numbers(args, seed=0)
    check_calibration(args.num_steps, args.num_samples)
    say_unused("calibrate.py", args.given, vars(args) | {_DATA.setting: has_data}, _RULES)
    # Not before the flags are checked: torch takes seconds to load.
    from ddpm_from_scratch.evaluation.candidates import (
        calibrate_pipeline,
        format_candidates,
        keep_best_so_far,
    )
    from ddpm_from_scratch.evaluation.saved_pipelines import (
        find_processes,
        load_pipeline_and_data,
        save_scheduler,
    )
    from ddpm_from_scratch.hub.cards import calibrated_timesteps
    from ddpm_from_scratch.sharing.results import RunRecord

    if not has_data and not args.without_data and calibrated_timesteps(folder) is not None:
        raise ConfigError(
            f"{args.pipeline!r} has a calibration that was made with data, and none are given: give "
            "--dataset_name or --train_data_dir, or --without_data to lose it."
        )
    state = find_processes()
    pipeline, data = load_pipeline_and_data(
        args.pipeline, config, cache_dir=args.cache_dir, mixed_precision=args.mixed_precision,
        trust_remote_code=args.trust_remote_code,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C is: what was found is kept
    judged: list[Any] = []
    stopped: KeyboardInterrupt | None = None
    try:
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
            on_candidate=judged.append,
        )
    except KeyboardInterrupt as error:
        if not judged:  # only the main process judges
            if state.is_main_process:
                warn("stopped before anything was found: the pipeline is as it was", "calibrate.py")
            raise
        warn("stopped: the best of what was judged so far is kept; run it again to search on", "calibrate.py")
        calibration, candidates, stopped = keep_best_so_far(pipeline, judged), judged, error
    if state.is_main_process:
        if data is None:
            print("no data were given: the density of nodes was measured, and nothing compared")
        else:
            print(format_candidates(candidates, calibration))
        save_scheduler(pipeline, folder)
        record = RunRecord.find(folder)
        if record is not None:
            record.with_calibration().write()
            if record.has_figures:
                print("the figures in the card are from before; evaluate.py measures them anew")
        print(f"written to {folder / 'scheduler' / 'scheduler_config.json'}", flush=True)
    if stopped is not None:
        raise stopped
    state.wait_for_everyone()
    state.destroy_process_group()


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, calibrate, and return the exit status: 0, or another with one line on what to mend."""
    parser = make_parser()
    args = parser.parse_args(argv)
    args.given = parser.given(argv)
    return exit_status("calibrate.py", lambda: run(args), OSError, ValueError)


if __name__ == "__main__":
    sys.exit(main())
