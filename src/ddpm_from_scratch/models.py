"""Where PointDenoiser was in version 0.1: stock pipelines that were saved with it name this module."""

from diffusers.models.modeling_utils import ModelMixin

from .networks.models import PointDenoiser

__all__ = ["ModelMixin", "PointDenoiser"]
