"""Where FewStepScheduler was in version 0.1: stock pipelines that were saved with it name this module."""

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .schedulers.scheduling_few_step import FewStepScheduler

__all__ = ["FewStepScheduler", "SchedulerMixin"]
