"""Draw the charts of the documentation into docs/images/: `python docs/make_images.py`."""

from pathlib import Path

from ddpm_from_scratch import BETA_SCHEDULES, DDPMFromScratchScheduler
from ddpm_from_scratch.plots import schedule_chart

IMAGES = Path(__file__).resolve().parent / "images"


def main() -> None:
    """Draw every schedule with T = 1000 and its default settings."""
    tables = {name: DDPMFromScratchScheduler(beta_schedule=name).alphas_cumprod for name in BETA_SCHEDULES}
    schedule_chart(tables, IMAGES / "schedules.png")
    print(IMAGES / "schedules.png")


if __name__ == "__main__":
    main()
