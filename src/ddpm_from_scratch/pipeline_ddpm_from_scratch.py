"""DDPMFromScratchPipeline: noise in, samples out, with any diffusers scheduler.

The reverse loop of Ho et al. 2020 (arXiv:2006.11239, algorithm 2), for images (B, C, H, W) and for vectors
(B, D).
"""

import importlib
import inspect
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from . import checks
from .hub.layouts import choose_layout, complete
from .hub.loading import load_components, own_scheduler_class
from .hub.safe_loading import named, read_json
from .networks.class_labels import ClassLabels
from .networks.denoiser import Denoiser
from .networks.models import sample_shape
from .words import OUTPUT_TYPES


@dataclass
class DDPMFromScratchPipelineOutput(BaseOutput):
    """Samples, and the way to them if it was asked for.

    Args:
        images: the samples: a list of PIL images, an array (B, H, W, C) or a tensor (B, C, H, W) with values
            in [0, 1]; for data that are not images, an array or a tensor (B, ...) in the data's own units.
        trajectory: x_T, ..., x_0 in the network's units ([-1, 1] for images), shape (steps + 1, B, ...), on
            the CPU.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    trajectory: torch.Tensor | None = None


class DDPMFromScratchPipeline(DiffusionPipeline):
    """Generate samples with a denoising network and a scheduler.

    A stock DDPMScheduler becomes a DDPMFromScratchScheduler of the same configuration, or a FewStepScheduler
    if a calibration is there; every other scheduler is kept.

    Args:
        unet: the network, called as `unet(sample, timestep).sample`.
        scheduler: any diffusers scheduler for the same noise schedule.
        null_class_label: the label that stood for "no class" while a class-conditional network was trained
            with label dropout (see `objectives.drop_labels`). It is saved with the pipeline, and makes
            classifier-free guidance and unconditional samples possible.
        id2label: label -> name of the class, as in diffusers' DiTPipeline. It is saved with the pipeline, and
            `class_labels` takes the names.

    Raises:
        ValueError, TypeError: a null_class_label that the network has no embedding of, or names that do not
            fit its classes.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        null_class_label: int | None = None,
        id2label: Mapping[int | str, str] | None = None,
    ):
        super().__init__()
        if type(scheduler) is DDPMScheduler:
            scheduler = own_scheduler_class(scheduler.config).from_config(scheduler.config)
        num_classes = getattr(unet.config, "num_class_embeds", None)
        if num_classes is not None:
            classes = ClassLabels(num_classes, null_class_label, id2label)
            null_class_label = classes.null_label
            id2label = None if classes.names is None else dict(classes.names)
        else:
            given = {"null_class_label": null_class_label, "id2label": id2label}
            for name, value in given.items():
                if value is not None:
                    raise ValueError(
                        f"{name} is {value!r}, but the network is not class-conditional; leave it out."
                    )
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(null_class_label=null_class_label, id2label=id2label)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        latents: torch.Tensor | None = None,
        class_labels: torch.Tensor | Sequence[int | str] | int | str | None = None,
        guidance_scale: float = 1.0,
        output_type: str | None = None,
        return_dict: bool = True,
        return_trajectory: bool = False,
        callback_on_step_end: Callable[[Any, int, Any, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> DDPMFromScratchPipelineOutput | tuple:
        """Return `batch_size` samples.

        Args:
            batch_size: number of samples B.
            generator: source of all randomness; a list or tuple has one for each sample, which makes a sample
                independent of the batch it is in, or one that serves all.
            num_inference_steps: number of timesteps to visit; if not given, 10 of a FewStepScheduler, and all
                training timesteps of others.
            latents: x_T ~ N(0, I) to start from, shape (B, ...), instead of drawing it; scaled by the
                scheduler's init_noise_sigma like the noise that would be drawn.
            class_labels: for class-conditional networks: one label, or name of a class, for all, or B of
                them. With a null_class_label they may be left out, for unconditional samples.
            guidance_scale: s of classifier-free guidance, unconditional + s (conditional - unconditional)
                (Ho & Salimans 2022, arXiv:2207.12598; their w is s - 1). 1 is no guidance; above 1 samples
                are more typical of their class and vary less. Needs class_labels and a null_class_label, and
                takes twice the time: the network sees a batch of 2B. A learned variance stays the conditional
                one.
            output_type: "pil", "np" or "pt"; "pil" for images and "np" for other data if not given.
            return_dict: return a DDPMFromScratchPipelineOutput instead of a tuple.
            return_trajectory: also return every x_t on the way.
            callback_on_step_end: called as f(pipeline, step_index, timestep, {"latents": x_t}) after each
                step; may return {"latents": ...} to continue from.
            callback_on_step_end_tensor_inputs: names the callback wants; only "latents" exists.

        Raises:
            ValueError, TypeError: an argument that is not allowed, named with the allowed values.
        """
        batch_size = checks.integer("batch_size", batch_size, 1)
        generator = checks.generator(generator, batch_size)
        if num_inference_steps is None:
            num_inference_steps = default_num_inference_steps(self.scheduler)
        num_inference_steps = checks.integer("num_inference_steps", num_inference_steps, 1)
        noise_shape = (batch_size, *(sample_shape(self.unet) if latents is None else latents.shape[1:]))
        output_type = self._check_inputs(
            noise_shape, latents, output_type, callback_on_step_end_tensor_inputs
        )
        device = self._execution_device
        dtype = getattr(self.unet, "dtype", torch.float32)
        labels = self._class_labels(class_labels, batch_size)
        self._check_guidance(guidance_scale, class_labels)

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        if latents is None:
            latents = randn_tensor(noise_shape, generator=generator, device=device, dtype=dtype)
        sample = latents.to(device=device, dtype=dtype) * self.scheduler.init_noise_sigma
        denoiser = Denoiser(self.unet, self.scheduler, labels, guidance_scale, self.config.null_class_label)
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        step_kwargs = {"generator": generator} if takes_generator else {}
        # The class tells, not the configuration: from_config keeps keys that the class does not know.
        knows_variance = "variance_type" in inspect.signature(type(self.scheduler).__init__).parameters

        trajectory = [sample.cpu()] if return_trajectory else []
        timesteps = self.scheduler.timesteps
        with self.progress_bar(total=len(timesteps)) as progress:
            for index, timestep in enumerate(timesteps):
                model_input = self.scheduler.scale_model_input(sample, timestep).to(dtype)
                model_output = denoiser.output(model_input, timestep)
                if not knows_variance and model_output.shape[1] == 2 * sample.shape[1]:
                    model_output = model_output[:, : sample.shape[1]]  # DDIM has no use for the second half
                sample = self.scheduler.step(model_output, timestep, sample, **step_kwargs).prev_sample
                if callback_on_step_end is not None:
                    result = callback_on_step_end(self, index, timestep, {"latents": sample})
                    sample = (result or {}).get("latents", sample)
                if return_trajectory:
                    trajectory.append(sample.cpu())
                progress.update()

        images = self._convert(sample, output_type)
        self.maybe_free_model_hooks()
        output = DDPMFromScratchPipelineOutput(
            images=images, trajectory=torch.stack(trajectory) if return_trajectory else None
        )
        return output if return_dict else output.to_tuple()

    def _check_inputs(
        self,
        noise_shape: tuple[int, ...],
        latents: torch.Tensor | None,
        output_type: str | None,
        callback_inputs: Sequence[str],
    ) -> str:
        """Raise ValueError for arguments that do not fit; return the output type to use."""
        if latents is not None and latents.shape != noise_shape:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}, but batch_size is {noise_shape[0]}; make them "
                "agree."
            )
        unknown = set(callback_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {sorted(unknown)}, but only "
                f"{self._callback_tensor_inputs} exist."
            )
        is_image, channels = len(noise_shape) == 4, noise_shape[1]
        output_type = output_type or ("pil" if is_image else "np")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}, but must be one of {OUTPUT_TYPES}.")
        if output_type == "pil" and not (is_image and channels in (1, 3, 4)):
            raise ValueError(
                f"output_type 'pil' needs images with 1, 3 or 4 channels, but samples have shape "
                f"{noise_shape[1:]}; "
                "use 'np' or 'pt'."
            )
        return output_type

    def _class_labels(self, asked: Any, batch_size: int) -> torch.Tensor | None:
        """Return the labels for the network, shape (B,); None for a network without classes."""
        num_classes = getattr(self.unet.config, "num_class_embeds", None)
        if num_classes is None:
            if asked is not None:
                raise ValueError("class_labels were given, but the network is not class-conditional.")
            return None
        classes = ClassLabels(num_classes, self.config.null_class_label, self.config.id2label)
        return classes.chosen(asked, batch_size, self._execution_device)

    def _check_guidance(self, guidance_scale: float, class_labels: Any) -> None:
        """Raise ValueError or TypeError for a guidance scale that cannot be used."""
        scale = checks.real("guidance_scale", guidance_scale, 0)
        if scale == 1:
            return
        got = f"guidance_scale is {scale:g}, but"
        if not math.isfinite(scale):
            raise ValueError(f"{got} must be finite; 1 is no guidance, and 1.5 to 5 are usual.")
        if self.config.null_class_label is None:
            raise ValueError(
                f"{got} the pipeline has no null_class_label: guidance needs a class-conditional network "
                "that was trained with label dropout. If yours was, load the pipeline with "
                "null_class_label=its null label; if not, leave guidance_scale at 1."
            )
        if class_labels is None:
            raise ValueError(
                f"{got} class_labels are missing: pass the classes to guide to, or leave guidance_scale at 1 "
                "for unconditional samples."
            )

    def _convert(
        self, sample: torch.Tensor, output_type: str
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        if sample.ndim == 4:
            sample = (sample / 2 + 0.5).clamp(0, 1)
            if output_type == "pt":
                return sample
            array = sample.float().cpu().permute(0, 2, 3, 1).numpy()
            return self.numpy_to_pil(array) if output_type == "pil" else array
        return sample if output_type == "pt" else sample.float().cpu().numpy()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        unet: ModelMixin | None = None,
        scheduler: SchedulerMixin | None = None,
        null_class_label: int | None = None,
        id2label: Mapping[int | str, str] | None = None,
        subfolder: str | None = None,
        variant: str | None = None,
        **options: Any,
    ) -> "DDPMFromScratchPipeline":
        """Load a pipeline of either layout from a folder or the Hub, without running any code of it.

        Configurations, sizes and every number of the weights are checked first (see safe_loading.py).

        Args:
            pretrained_model_name_or_path: a folder or a repository's id.
            unet: a network to use instead of the saved one.
            scheduler: a scheduler to use instead of the saved one.
            null_class_label: instead of the saved one.
            id2label: likewise.
            subfolder: the folder inside that holds the pipeline.
            variant: of the weights, such as "non_ema" or "fp16".
            options: where it comes from (revision, token, cache_dir, local_files_only, force_download), and
                what the network becomes (torch_dtype, device_map and others of `ModelMixin.from_pretrained`).
                trust_remote_code is taken and not needed.

        Raises:
            ValueError: a file that is missing, damaged or foreign, with its name and what is wrong.
            TypeError: an option that does not apply.
            OSError, huggingface_hub.errors: not there, or no access.
        """
        own = {"unet": unet, "scheduler": scheduler}
        components, index = load_components(pretrained_model_name_or_path, own, variant, subfolder, options)
        given: dict[str, Any] = {"null_class_label": null_class_label, "id2label": id2label}
        classes = {name: value for name, value in given.items() if value is not None}
        saved = read_json(index)
        # An error about what was given is not the file's.
        with nullcontext() if classes else named(index):
            pipeline = cls(**components, **({name: saved.get(name) for name in given} | classes))
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        layout: str | None = None,
        **push_options: Any,
    ) -> None:
        """Save the pipeline so that it loads without this package (see layouts.py).

        Where stock diffusers can run it, the index names DDPMPipeline, its scheduler and UNet2DModel, and
        `DiffusionPipeline.from_pretrained(folder)` works with diffusers alone. Else it names classes in code
        files that are saved beside it, and `trust_remote_code=True` is needed; or, without, this package.

        Args:
            save_directory: the folder; made if it is missing.
            safe_serialization: always True: weights are never pickled.
            variant: written into the names of the weight files.
            max_shard_size: largest file of weights, such as "5GB".
            push_to_hub: upload the saved folder, too.
            layout: "portable" or "remote-code" to have that one; the first that works if not given.
            push_options: for the upload: repo_id (the folder's name if not given), and as in
                `ddpm_from_scratch.push_folder`.

        Raises:
            ValueError: a layout that does not fit, or pickled weights. hub.upload.PushError: the upload
                failed. ImportError: to upload, and ddpm-from-scratch is not installed.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization is False, but weights are saved as safetensors only.")
        if push_options and not push_to_hub:
            raise TypeError(f"save_pretrained got {sorted(push_options)}, which need push_to_hub=True.")
        push_folder = _push_folder() if push_to_hub else None
        folder = Path(save_directory)
        chosen = choose_layout(layout, self.unet, self.scheduler)
        super().save_pretrained(str(folder), variant=variant, max_shard_size=max_shard_size)
        complete(folder, chosen, type(self), self.components)
        if push_folder is not None:
            repo_id = push_options.pop("repo_id", folder.resolve().name)
            push_folder(folder, repo_id, **push_options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        layout: str | None = None,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        **push_options: Any,
    ) -> str:
        """Save the pipeline as `save_pretrained` does and upload it in one commit; return its address.

        A model card that the repository has is kept; else it gets one that says how to use the pipeline.

        Args:
            repo_id: "user/name", or "name" for the token's user.
            layout: as in `save_pretrained`.
            variant: as in `save_pretrained`.
            max_shard_size: as in `save_pretrained`.
            push_options: private, token, commit_message, branch, tag, create_pr: as in
                `ddpm_from_scratch.push_folder`.

        Raises:
            ValueError: as in `save_pretrained`. hub.upload.PushError: the Hub refused, or cannot be reached.
            ImportError: ddpm-from-scratch is not installed.
        """
        push_folder = _push_folder()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant=variant, max_shard_size=max_shard_size, layout=layout)
            return push_folder(folder, repo_id, **push_options)


def default_num_inference_steps(scheduler: Any) -> int:
    """Return how many timesteps are visited if nobody says: few with a scheduler that is made for few."""
    num_train_timesteps = scheduler.config.num_train_timesteps
    return getattr(scheduler, "default_num_inference_steps", num_train_timesteps)


def _push_folder() -> Callable[..., str]:
    """Return the package's `push_folder`; it is not in the code file that saved pipelines bring along."""
    try:
        return importlib.import_module("ddpm_from_scratch.hub.upload").push_folder
    except ModuleNotFoundError as error:
        raise ImportError(
            "to upload, the package is needed: `pip install ddpm-from-scratch`. The code that a saved "
            "pipeline brings along loads, samples and saves."
        ) from error
