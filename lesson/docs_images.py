"""Draw the pictures of the documentation into docs/images/: `python lesson/docs_images.py [runs/digits]`.

Given the folder of a calibrated pipeline, its samples by this package's and by diffusers' schedulers, too.
"""

import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from charts import comparison_grid, point_sets, schedule_chart
from ddpm_from_scratch import (
    BETA_SCHEDULES,
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    FewStepScheduler,
)
from ddpm_from_scratch.data.points import POINT_DATASETS

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


def few_steps(
    folder: Path, path: Path, num_steps: tuple[int, ...] = (5, 10, 20, 50, 1000), num_images: int = 12
) -> None:
    """Draw samples by few and many steps of our and of diffusers' schedulers, from the same noise."""
    pipeline = DDPMFromScratchPipeline.from_pretrained(folder)
    config, rows = pipeline.scheduler.config, {}
    process = {
        key: config[key]
        for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
    } | {"timestep_spacing": "trailing"}
    for name, scheduler in {
        "FewStep": FewStepScheduler.from_config(config),
        "stock DPM++ 2M": DPMSolverMultistepScheduler(**process),
        "stock DDPM": DDPMScheduler(**process),
    }.items():
        pipeline.scheduler = scheduler
        rows[name] = {
            f"{count:,} evaluations": pipeline(
                num_images,
                generator=torch.Generator().manual_seed(0),
                num_inference_steps=count,
                output_type="np",
            ).images
            for count in num_steps
        }
    comparison_grid(rows, path)


def main() -> None:
    """Draw every schedule with T = 1000 and its default settings, and 2,000 points of every set."""
    tables = {name: DDPMFromScratchScheduler(beta_schedule=name).alphas_cumprod for name in BETA_SCHEDULES}
    schedule_chart(tables, IMAGES / "schedules.png")
    generator = torch.Generator().manual_seed(0)
    points = {name: draw(2000, generator).numpy() for name, draw in POINT_DATASETS.items()}
    point_sets(points, IMAGES / "points.png")
    drawn = [IMAGES / "schedules.png", IMAGES / "points.png"]
    if len(sys.argv) > 1:
        drawn.append(IMAGES / "few_steps.png")
        few_steps(Path(sys.argv[1]), drawn[-1])
    print(*drawn)


if __name__ == "__main__":
    main()
