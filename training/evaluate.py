"""Quality of a saved pipeline, with the floor of the data beside each figure.

    python training/evaluate.py runs/digits --dataset_name digits --num_inference_steps 200
    accelerate launch training/evaluate.py runs/photos --train_data_dir photos/ --reference_data_dir unseen/

Samples are compared with held-out data: sliced W2 in pixels, then on features (features.py) the Fréchet and
the kernel distance, precision and recall, and a check for copies of training data. Training samples, judged
alike, give the floor. Each figure bears the name of its features; only those of Inception make a FID.

With --likelihood, also the variational bound on the held-out data, in bits per dimension, term by term;
--num_samples 0 measures it alone. A run's own results.json and card get the figures, too, for publish.py, if
they are of the data of the run and of no fewer samples than those there.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ddpm_from_scratch.data.settings import DataConfig
from ddpm_from_scratch.evaluation.settings import (
    add_data_flags,
    add_network_flags,
    check_numbers,
    data_config,
    require_own_folder,
)
from ddpm_from_scratch.runtime.cli import OneLineErrors, rules_of, say_unused
from ddpm_from_scratch.runtime.errors import ConfigError, exit_status
from ddpm_from_scratch.runtime.unused import Only
from ddpm_from_scratch.words import BUILT_IN_FEATURES, DEFAULT_VISION_MODEL, SAMPLER_NAMES

# Flags that go with --likelihood, and the smallest value of each.
_OF_LIKELIHOOD = {
    "likelihood_samples": 1, "likelihood_terms": 1, "likelihood_flow": 1, "likelihood_first_timestep": 0,
}  # fmt: skip
# What has an effect only with another flag (see runtime/unused.py).
_RULES = rules_of(DataConfig) | dict.fromkeys(
    ("features", "num_inference_steps", "guidance_scale"), (Only("num_samples"),)
)


def make_parser() -> OneLineErrors:
    """Return the parser of the command; the data have the flags of train.py."""
    parser = OneLineErrors("evaluate.py", "Measure the quality of a saved pipeline.")
    parser.add_argument("pipeline", type=os.path.expanduser, help="folder or Hub id of a pipeline")
    add_data_flags(parser)
    held_out = parser.add_argument_group("held-out data")
    held_out.add_argument(
        "--reference_data_dir",
        type=os.path.expanduser,
        help="folder of images that were not trained on",
    )
    held_out.add_argument(
        "--reference_split", help="split that was not trained on, of that folder or the dataset"
    )
    how = parser.add_argument_group("evaluation")
    how.add_argument(
        "--features", nargs="+", default=["auto"], type=os.path.expanduser,
        help=f"what to compare samples on: auto, {', '.join(BUILT_IN_FEATURES)}, or the folder or Hub id of "
        f"a transformers vision model; auto is digit_classifier for digits, else {DEFAULT_VISION_MODEL}",
    )  # fmt: skip
    how.add_argument(
        "--num_samples", type=int, default=1000,
        help="samples to generate; default 1000, 0 for none, with --likelihood",
    )  # fmt: skip
    how.add_argument(
        "--num_inference_steps", type=int, help="timesteps to visit; if not given, 10 by few_step, T by ddpm"
    )
    how.add_argument(
        "--scheduler",
        choices=SAMPLER_NAMES,
        help="few_step, or ddpm for ancestral sampling; the pipeline's if not given",
    )
    add_network_flags(how)
    how.add_argument(
        "--output_dir",
        type=lambda text: Path(text).expanduser(),
        help="folder for results.json and samples.png; evaluation/ in the pipeline's",
    )
    bound = parser.add_argument_group("likelihood")
    bound.add_argument(
        "--likelihood", action="store_true", help="bound -log p of the held-out data, in bits/dim or nats"
    )
    bound.add_argument("--likelihood_samples", type=int, help="held-out samples; all if not given")
    bound.add_argument(
        "--likelihood_terms", type=int,
        help="terms of the bound drawn for each sample; all T if not given, which analytic variances need",
    )  # fmt: skip
    bound.add_argument(
        "--likelihood_first_timestep", type=int, default=0,
        help="where the chain ends and the decoder goes on to the data; default 0",
    )  # fmt: skip
    bound.add_argument(
        "--likelihood_flow", type=int, metavar="N",
        help="also the density of the probability flow, integrated over N timesteps; 100 will do",
    )  # fmt: skip
    return parser


def output_folder(args: argparse.Namespace) -> Path:
    """Return the folder that the figures go to.

    Raises:
        ConfigError: none was given for a pipeline of the Hub, or it is the pipeline's own.
    """
    if args.output_dir is None:
        if not Path(args.pipeline).is_dir():
            raise ConfigError(
                f"pipeline is {args.pipeline!r}, but there is no such folder; for one of the Hub, user/name, "
                "give --output_dir, where the figures go."
            )
        return Path(args.pipeline) / "evaluation"
    if args.output_dir.resolve() == Path(args.pipeline).resolve():
        raise ConfigError(
            f"--output_dir is {str(args.output_dir)!r}, the pipeline's own folder, whose results.json is "
            "that of its training: leave it out, and evaluation/ in it is used."
        )
    require_own_folder(args.output_dir)
    return args.output_dir


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for numbers out of range, or flags that do not go together."""
    for name in _OF_LIKELIHOOD:
        if getattr(args, name) and not args.likelihood:
            raise ConfigError(f"--{name} is {getattr(args, name)}, but goes with --likelihood: add that.")
    check_numbers(args, num_samples=0, num_inference_steps=1, **_OF_LIKELIHOOD)
    if not (args.num_samples or args.likelihood):
        raise ConfigError("--num_samples is 0 and --likelihood is not given: there is nothing to measure.")


def run(args: argparse.Namespace) -> None:
    """Evaluate as the command line says; print the figures and write them to the output folder.

    Raises:
        ConfigError: anything the user can mend.
    """
    output_dir = output_folder(args)
    check(args)
    config = data_config(args)
    reference_config = config.of_reference(args.reference_data_dir, args.reference_split)
    say_unused("evaluate.py", args.given, vars(args), _RULES)
    # Not before the flags are checked: torch takes seconds to load.
    from ddpm_from_scratch.data.datasets import load_reference
    from ddpm_from_scratch.evaluation.figures import format_results
    from ddpm_from_scratch.evaluation.held_out_likelihood import CHART, held_out_likelihood, in_words
    from ddpm_from_scratch.evaluation.quality import evaluate, write_results
    from ddpm_from_scratch.evaluation.saved_pipelines import find_processes, load_pipeline_and_data
    from ddpm_from_scratch.runtime.storage import replace_file
    from ddpm_from_scratch.sharing.results import RunRecord

    state = find_processes()
    pipeline, data = load_pipeline_and_data(
        args.pipeline, config, cache_dir=args.cache_dir, mixed_precision=args.mixed_precision,
        sampler=args.scheduler, trust_remote_code=args.trust_remote_code,
    )  # fmt: skip
    assert data is not None
    reference = load_reference(reference_config, data.sample_shape)
    results: dict[str, Any] = {}
    record = RunRecord.find(Path(args.pipeline))
    # What was measured -> why the card has it of before, None if it does not.
    kept: dict[str, str | None] = {}
    if args.num_samples:
        results = evaluate(
            pipeline,
            data,
            num_samples=args.num_samples,
            num_inference_steps=args.num_inference_steps,
            seed=args.seed,
            guidance_scale=args.guidance_scale,
            features=args.features,
            batch_size=args.batch_size,
            reference=reference,
            cache_dir=args.cache_dir,
            output_dir=output_dir,
        )
        if state.is_main_process:
            print(format_results(results))
            if record is not None:
                kept["figures of samples"] = record.why_kept("evaluation", results, config, data)
                if kept["figures of samples"] is None:
                    record = record.with_evaluation(results)
                    record.write()
    if args.likelihood:
        likelihood = held_out_likelihood(
            pipeline,
            data,
            reference=reference,
            num_samples=args.likelihood_samples,
            num_terms=args.likelihood_terms,
            first_timestep=args.likelihood_first_timestep,
            num_flow_timesteps=args.likelihood_flow,
            batch_size=args.batch_size,
            seed=args.seed,
            output_dir=output_dir,
        )
        if state.is_main_process:
            print(in_words(likelihood))
            likelihood["mixed_precision"] = args.mixed_precision
            write_results(output_dir, {"likelihood": likelihood})
            if record is not None:
                kept["likelihood"] = record.why_kept("likelihood", likelihood, config, data)
                if kept["likelihood"] is None:
                    replace_file(record.folder / CHART, (output_dir / CHART).read_bytes())
                    record.with_likelihood(likelihood).write()
    if state.is_main_process:
        print(f"written to {output_dir / 'results.json'}")
        print("\n".join(_about_the_card(args.pipeline, kept if record is not None else None)))
    state.destroy_process_group()


def _about_the_card(pipeline: str, kept: dict[str, str | None] | None) -> list[str]:
    """Return whether the card of a model has the figures now, and what to do to have them on the Hub.

    Args:
        pipeline: folder or Hub id.
        kept: what was measured -> why the card has it of before, None if it has the new; None without a card.
    """
    if kept is not None:
        new = ", ".join(name for name, reason in kept.items() if reason is None)
        said = [f"the card keeps its {name}: {reason}" for name, reason in kept.items() if reason is not None]
        upload = f"the card has the {new}, too; python training/publish.py {pipeline} uploads it"
        return said + [upload] * bool(new)
    if Path(pipeline).is_dir():
        return [f"{pipeline} has no record of a run (results.json), so no card was written"]
    folder = pipeline.rsplit("/", 1)[-1]
    return [
        f"the card of {pipeline} is on the Hub, and as it was; to have the figures in it: hf download "
        f"{pipeline} --local-dir {folder}, evaluate that folder, then python training/publish.py {folder} "
        f"--repo_id {pipeline}"
    ]


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, evaluate, and return the exit status: 0, or 2 with one line on what to mend."""
    parser = make_parser()
    args = parser.parse_args(argv)
    args.given = parser.given(argv)
    return exit_status("evaluate.py", lambda: run(args), OSError, ValueError, FloatingPointError)


if __name__ == "__main__":
    sys.exit(main())
