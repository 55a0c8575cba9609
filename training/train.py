"""Train a diffusion model: accelerate launch training/train.py --config training/configs/digits.yaml.

Reads top to bottom: check the flags, prepare the output folder, try the Hub's token, load the data, train,
measure, report, push. The flags are in config.py, what a run starts from in prepare.py, the loop over updates
in trainer.py.

Exit status: 0 done; 2 a setting or the data must be changed; 3 the loss is not finite; 4 the disk is full or
fails; 5 the model is saved but could not be published; 75 stopped by a signal after saving a checkpoint. Each
but 0 comes with one line that says what to do.
"""

import sys

from ddpm_from_scratch.runtime.errors import NonFiniteError, UploadError, exit_status, warn
from ddpm_from_scratch.training.config import TrainingConfig, parse_config


def train(config: TrainingConfig) -> None:
    """Run one training from configuration to model card.

    Raises:
        RunError: anything the user can mend; before the network is built, where it can be known by then.
    """
    # Not before the flags are checked: torch takes seconds to load.
    from ddpm_from_scratch.data.sizes import order_in_words
    from ddpm_from_scratch.evaluation.candidates import calibrate_pipeline
    from ddpm_from_scratch.evaluation.figures import format_results
    from ddpm_from_scratch.evaluation.quality import evaluate, load_extractors
    from ddpm_from_scratch.runtime.stop import StopRequest
    from ddpm_from_scratch.sharing.publish import publish
    from ddpm_from_scratch.training.output_folder import clear_earlier_run, prepare_output_dir
    from ddpm_from_scratch.training.prepare import (
        check_hub_token,
        choose_model_and_data,
        make_accelerator,
        prepare_hub,
        start_tracking,
    )
    from ddpm_from_scratch.training.report import write_report
    from ddpm_from_scratch.training.trainer import Trainer

    output_dir = prepare_output_dir(config)
    check_hub_token(config)
    network, data, start = choose_model_and_data(config)
    repo_id = prepare_hub(config)
    accelerator = make_accelerator(config)
    is_main = accelerator.is_main_process
    # Before training, so that features that cannot be had cost nothing.
    extractors = (
        load_extractors(config.evaluation_features, data, config.cache_dir)
        if config.evaluation_samples
        else []
    )
    stop = StopRequest()
    trainer = Trainer(config, network, data, start, accelerator, stop)
    if config.resume_from_checkpoint:
        trainer.resume(config.resume_from_checkpoint)
    elif is_main and config.overwrite_output_dir:
        clear_earlier_run(output_dir, config)
    accelerator.wait_for_everyone()
    if is_main:
        trainer.require_space()
        print(
            f"{network.get('_class_name', 'UNet2DModel')} with {trainer.num_parameters:,} parameters on "
            f"{data.name}, samples {data.sample_shape}{order_in_words(data.sample_shape)}; "
            f"{trainer.total_updates} updates of "
            f"{trainer.samples_per_update} "
            f"samples on {accelerator.num_processes} process(es), {accelerator.device}, precision "
            f"{accelerator.mixed_precision}"
            + (f"; from update {trainer.update} on" if trainer.update else "")
        )
        if trainer.peak_of_rate < 1:
            warn(
                f"--lr_warmup_steps is {config.lr_warmup_steps}, but the run has {trainer.total_updates} "
                f"updates: the learning rate reaches {trainer.peak_of_rate:.0%} of --learning_rate at most."
            )
    start_tracking(config, accelerator)
    stop.install()
    trainer.run()
    if config.calibrate:
        trainer.calibration, _ = calibrate_pipeline(
            trainer.pipeline(), data, num_samples=config.calibration_samples, seed=config.seed,
            guidance_scale=config.guidance_scale, cache_dir=config.cache_dir,
            stop_requested=lambda: stop.signal is not None,
        )  # fmt: skip
    trainer.export()
    trainer.save_samples(output_dir / "samples.png")
    evaluation = {}
    if config.evaluation_samples:
        try:
            evaluation = evaluate(
                trainer.pipeline(), data, num_samples=config.evaluation_samples,
                num_inference_steps=config.ddpm_num_inference_steps, seed=config.seed,
                guidance_scale=config.guidance_scale, features=extractors, on_step=stop.check,
            )  # fmt: skip
        except FloatingPointError as error:
            raise NonFiniteError(str(error)) from error
    if is_main:
        if evaluation:
            print(format_results(evaluation))
        write_report(trainer, evaluation, repo_id)
        print(f"saved to {output_dir}")
    # Together, because a process that leaves while others still talk may never get out.
    accelerator.wait_for_everyone()
    # The network goes before the process group. Were DistributedDataParallel the last to hold the group, it
    # would join the group's thread while it has the GIL, which that thread may be waiting for.
    del trainer
    accelerator.free_memory()
    accelerator.end_training()
    if is_main and config.push_to_hub:
        try:
            url = publish(output_dir, repo_id, private=config.hub_private_repo, token=config.hub_token)
        except UploadError as error:
            again = f"python training/publish.py {config.output_dir} --repo_id {repo_id}"
            raise UploadError(f"the model is saved, but not published: {error} Then: {again}") from error
        print(f"pushed to {url}")


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, train, and return the exit status; any but 0 comes with one line on what to do."""
    config = parse_config(argv)
    return exit_status("train.py", lambda: train(config))


if __name__ == "__main__":
    sys.exit(main())
