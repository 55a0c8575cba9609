"""Where DDPMFromScratchScheduler was in version 0.1: saved stock pipelines name this module."""

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler

__all__ = ["DDPMFromScratchScheduler", "SchedulerMixin"]
