"""Draw the charts of the documentation into docs/images/: `python docs/make_images.py`."""

from pathlib import Path

import torch

from ddpm_from_scratch import BETA_SCHEDULES, DDPMFromScratchScheduler
from ddpm_from_scratch.plots import point_sets, schedule_chart
from ddpm_from_scratch.toy_data import POINT_DATASETS

IMAGES = Path(__file__).resolve().parent / "images"


def main() -> None:
    """Draw every schedule with T = 1000 and its default settings, and 2,000 points of every set."""
    tables = {name: DDPMFromScratchScheduler(beta_schedule=name).alphas_cumprod for name in BETA_SCHEDULES}
    schedule_chart(tables, IMAGES / "schedules.png")
    generator = torch.Generator().manual_seed(0)
    points = {name: draw(2000, generator).numpy() for name, draw in POINT_DATASETS.items()}
    point_sets(points, IMAGES / "points.png")
    print(IMAGES / "schedules.png", IMAGES / "points.png")


if __name__ == "__main__":
    main()
