"""Denoising diffusion from scratch, inside Hugging Face diffusers."""

from .calibration import calibrate
from .checks import SchedulerWarning
from .hub import push_folder
from .models import MODEL_CONFIGS, PointDenoiser, build_model, load_model_config, model_config
from .noise_schedules import BETA_SCHEDULES
from .pipeline_ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchPipelineOutput
from .scheduling_ddpm_from_scratch import DDPMFromScratchScheduler
from .scheduling_few_step import FewStepScheduler

__version__ = "0.1.0"

__all__ = [
    "BETA_SCHEDULES",
    "MODEL_CONFIGS",
    "DDPMFromScratchPipeline",
    "DDPMFromScratchPipelineOutput",
    "DDPMFromScratchScheduler",
    "FewStepScheduler",
    "PointDenoiser",
    "SchedulerWarning",
    "build_model",
    "calibrate",
    "load_model_config",
    "model_config",
    "push_folder",
]
