"""DDPMFromScratchPipeline: noise in, samples out, with any diffusers scheduler.

The reverse loop of Ho et al. 2020 (arXiv:2006.11239, algorithm 2), for images (B, C, H, W) and for vectors
(B, D).
"""

import inspect
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
from diffusers.utils.torch_utils import is_compiled_module, randn_tensor
from PIL import Image

from . import checks
from .hub.layouts import choose_layout, class_settings, complete, package_push_folder
from .hub.loading import load_components, own_scheduler_class
from .hub.safe_loading import named, read_json
from .networks.conditions import check_guidance, chosen_conditions, conditions
from .networks.denoiser import Denoiser, device_of, dtype_of, first_tensor
from .networks.finite_outputs import FiniteOutputs
from .networks.models import sample_shape
from .networks.pictures import check_start, output_type_for, pictures_of, samples_of
from .networks.wrapped import unwrapped
from .schedulers.visited import DEFAULT_STRENGTH, visited_timesteps


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
        unet: the network, called as `unet(sample, timestep)`, with `class_labels=` if it is conditional (see
            networks/conditions.py): a diffusers model, or one's own, a plain nn.Module too, that returns what
            `Denoiser` takes. Where it tells no `sample_shape` (see `networks.models.sample_shape`), `latents`
            are needed. In DataParallel, DistributedDataParallel or torch.compile it is called through these;
            configuration and saved weights are those inside.
        scheduler: any diffusers scheduler for the same noise schedule.
        null_class_label: the label that stood for "no class" while a class-conditional network was trained
            with label dropout (see `objectives.drop_labels`). It is saved with the pipeline, and makes
            classifier-free guidance and unconditional samples possible. For conditions that are numbers or
            vectors it is a number; the vector of no condition has it everywhere.
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
        null_class_label: float | None = None,
        id2label: Mapping[int | str, str] | None = None,
    ):
        super().__init__()
        if type(scheduler) is DDPMScheduler:
            scheduler = own_scheduler_class(scheduler.config).from_config(scheduler.config)
        known = conditions(unet, null_class_label, id2label)
        if known is not None:
            null_class_label = known.null_label
            id2label = None if known.names is None else dict(known.names)
        self.register_modules(unet=unwrapped(unet), scheduler=scheduler)
        self.unet = unet
        self.register_to_config(null_class_label=null_class_label, id2label=id2label)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. Of a network in DataParallel, `unet` is the one inside, which diffusers needs."""
        if name == "unet":
            object.__setattr__(self, "_called_unet", value)
            value = value if is_compiled_module(value) else unwrapped(value)
        super().__setattr__(name, value)

    @property
    def device(self) -> torch.device:
        """Where the network is; also of a plain nn.Module."""
        return device_of(self.unet)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network; also of a plain nn.Module."""
        return dtype_of(self.unet)

    def to(self, *args: Any, **kwargs: Any) -> "DDPMFromScratchPipeline":
        """Move the network to a device or a precision, as in diffusers; also a plain nn.Module."""
        if isinstance(self.unet, ModelMixin) and first_tensor(self.unet) is not None:
            return super().to(*args, **kwargs)
        kwargs.pop("silence_dtype_warnings", None)
        if isinstance(self.unet, torch.nn.Module):
            self.unet.to(*args, **kwargs)
        return self

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        latents: torch.Tensor | None = None,
        class_labels: torch.Tensor | Sequence[float | str] | float | str | None = None,
        guidance_scale: float = 1.0,
        output_type: str | None = None,
        return_dict: bool = True,
        return_trajectory: bool = False,
        callback_on_step_end: Callable[[Any, int, Any, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        image: Any = None,
        strength: float | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> DDPMFromScratchPipelineOutput | tuple:
        """Return `batch_size` samples.

        Args:
            batch_size: number of samples B; as many as `image` or `latents` have, or 1, if not given.
            generator: source of all randomness; a list or tuple has one for each sample, which makes a sample
                independent of the batch it is in, or one that serves all.
            num_inference_steps: number of timesteps to visit; if not given, 10 of a FewStepScheduler, and all
                training timesteps of others.
            latents: x_T ~ N(0, I) to start from, shape (B, ...), instead of drawing it; scaled by the
                scheduler's init_noise_sigma like the noise that would be drawn. With `timesteps` it is the
                noisy sample of the first of them.
            class_labels: for class-conditional networks: one label, or name of a class, for all, or B of
                them. With a null_class_label they may be left out, for unconditional samples. For networks
                that are conditioned on numbers or vectors, one of these for all, or B.
            guidance_scale: s of classifier-free guidance, unconditional + s (conditional - unconditional)
                (Ho & Salimans 2022, arXiv:2207.12598; their w is s - 1). 1 is no guidance; above 1 samples
                are more typical of their class and vary less. Needs class_labels and a null_class_label, and
                takes twice the time: the network sees a batch of 2B. A learned variance stays the conditional
                one.
            output_type: "pil", "np" or "pt"; "pil" for images and "np" for other data if not given.
            return_dict: return a DDPMFromScratchPipelineOutput instead of a tuple.
            return_trajectory: also return every x_t on the way.
            callback_on_step_end: called as f(pipeline, step_index, timestep, {"latents": x_t}) after each
                step; may return {"latents": ...} to continue from, or set `pipeline._interrupt = True` to
                end with that.
            callback_on_step_end_tensor_inputs: names the callback wants; only "latents" exists.
            image: pictures to start from (image to image), as the pipeline returns them: one for all samples,
                or B (see networks/pictures.py). They are noised to a timestep in the middle of the chain.
            strength: how much of the chain is run on `image`, in (0, 1]: of n timesteps the last
                floor(n strength). 0.8 if not given.
            timesteps: falling timesteps to visit instead of a number of them, so also where to start.

        Raises:
            ValueError, TypeError: an argument that is not allowed, named with the allowed values.
            FloatingPointError: the network gives numbers that are not finite.
        """
        start = self._start(image, strength, latents)
        given = start if start is not None else latents
        if batch_size is None:
            batch_size = 1 if given is None else len(given)
        batch_size = checks.integer("batch_size", batch_size, 1)
        generator = checks.generator(generator, batch_size)
        shape = (batch_size, *(sample_shape(unwrapped(self.unet)) if latents is None else latents.shape[1:]))
        check_start(latents, start, shape)
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {sorted(unknown)}, but only "
                f"{self._callback_tensor_inputs} exist."
            )
        output_type = output_type_for(output_type, shape)
        device = self._execution_device
        dtype = self.dtype
        null_label = self.config.null_class_label
        known = conditions(self.unet, null_label, self.config.id2label)
        labels = chosen_conditions(known, class_labels, batch_size, device)
        check_guidance(guidance_scale, class_labels, null_label)

        part = None if start is None else DEFAULT_STRENGTH if strength is None else strength
        steps = visited_timesteps(self.scheduler, num_inference_steps, timesteps, part, device)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        latents = latents.to(device=device, dtype=dtype)
        if start is None:
            sample = latents * self.scheduler.init_noise_sigma
        else:
            start = start.to(device=device, dtype=dtype).expand(shape)
            sample = self.scheduler.add_noise(start, latents, steps[:1].repeat(batch_size))
        denoiser = Denoiser(self._called_unet, self.scheduler, labels, guidance_scale, null_label)
        outputs = FiniteOutputs(self.unet)
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        step_kwargs = {"generator": generator} if takes_generator else {}
        # The class tells, not the configuration: from_config keeps keys that the class does not know.
        knows_variance = "variance_type" in inspect.signature(type(self.scheduler).__init__).parameters

        self._interrupt = False
        trajectory = [sample.cpu()] if return_trajectory else []
        with self.progress_bar(total=len(steps)) as progress:
            for index, timestep in enumerate(steps):
                if self._interrupt:
                    break
                model_input = self.scheduler.scale_model_input(sample, timestep).to(dtype)
                model_output = denoiser.output(model_input, timestep)
                outputs.see(model_output, timestep, model_input)
                if not knows_variance and model_output.shape[1] == 2 * sample.shape[1]:
                    model_output = model_output[:, : sample.shape[1]]  # DDIM has no use for the second half
                sample = self.scheduler.step(model_output, timestep, sample, **step_kwargs).prev_sample
                if callback_on_step_end is not None:
                    result = callback_on_step_end(self, index, timestep, {"latents": sample})
                    sample = (result or {}).get("latents", sample)
                if return_trajectory:
                    trajectory.append(sample.cpu())
                progress.update()

        outputs.finish(sample)
        images = pictures_of(sample, output_type)
        self.maybe_free_model_hooks()
        output = DDPMFromScratchPipelineOutput(
            images=images, trajectory=torch.stack(trajectory) if return_trajectory else None
        )
        return output if return_dict else output.to_tuple()

    def _start(self, image: Any, strength: Any, latents: torch.Tensor | None) -> torch.Tensor | None:
        """Return the samples (B, ...) to start from in image to image, or None."""
        if image is None:
            if strength is not None:
                raise ValueError(
                    f"strength is {strength!r}, but there is no image: it says how much of the chain is run "
                    "on one."
                )
            return None
        if latents is not None:
            raise ValueError("image and latents are both given: start from one of them.")
        return samples_of(image, sample_shape(unwrapped(self.unet)))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        unet: ModelMixin | None = None,
        scheduler: SchedulerMixin | None = None,
        null_class_label: float | None = None,
        id2label: Mapping[int | str, str] | None = None,
        subfolder: str | None = None,
        variant: str | None = None,
        **options: Any,
    ) -> "DDPMFromScratchPipeline":
        """Load a pipeline of either layout from a folder or the Hub, without running code nobody trusts.

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
                trust_remote_code=True runs the code of a network whose class is not known here (see
                `register_network`); for others it is not needed.

        Raises:
            ValueError: a file that is missing, damaged or foreign, with its name and what is wrong.
            TypeError: an option that does not apply.
            OSError, huggingface_hub.errors: not there, or no access.
        """
        own = {"unet": unet, "scheduler": scheduler}
        components, index = load_components(pretrained_model_name_or_path, own, variant, subfolder, options)
        given: dict[str, Any] = {"null_class_label": null_class_label, "id2label": id2label}
        classes = {name: value for name, value in given.items() if value is not None}
        saved = class_settings(read_json(index))
        # An error about what was given is not the file's.
        with nullcontext() if classes else named(index):
            pipeline = cls(**components, **({name: saved.get(name) for name in given} | classes))
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **options: Any) -> "DDPMFromScratchPipeline":
        """Return a pipeline of the network and the scheduler of another one, which share their memory.

        The other way round, `DDPMPipeline.from_pipe(pipeline)` is diffusers' own; null label and names of
        classes come back from there.

        Args:
            pipeline: of a network and a scheduler: DDPMPipeline, DDIMPipeline, ConsistencyModelPipeline ...
            options: as in diffusers: unet, scheduler, null_class_label or id2label instead of those of the
                pipeline, and dtype, that of the network if not given.

        Raises:
            ValueError: a pipeline of other components.
            TypeError: an option that does not exist.
        """
        allowed = ("unet", "scheduler", "null_class_label", "id2label", "dtype", "torch_dtype")
        checks.keywords("from_pipe", options, allowed)
        found = {name: part for name, part in pipeline.components.items() if part is not None}
        if set(found) != {"unet", "scheduler"}:
            raise ValueError(
                f"{type(pipeline).__name__} has the components {sorted(found)}, but this pipeline is of a "
                "unet and a scheduler alone."
            )
        found |= {name: options[name] for name in found if name in options}
        if not {"dtype", "torch_dtype"} & set(options):
            options["dtype"] = getattr(found["unet"], "dtype", torch.float32)
        return super().from_pipe(pipeline, **(options | found))

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

        Where stock diffusers can run it, the index names DDPMPipeline (ConsistencyModelPipeline, which passes
        class labels), its scheduler and UNet2DModel, and `DiffusionPipeline.from_pretrained(folder)` works
        with diffusers alone. Else it names classes in code files that are saved beside it, and
        `trust_remote_code=True` is needed; or, without, this package. So are networks of one's own: with
        their code, or with a warning that says what loads them.

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
            ValueError, TypeError: a layout that does not fit, pickled weights, or a network of one's own that
                could not be loaded again. hub.upload.PushError: the upload
                failed. ImportError: to upload, and ddpm-from-scratch is not installed.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization is False, but weights are saved as safetensors only.")
        if push_options and not push_to_hub:
            raise TypeError(f"save_pretrained got {sorted(push_options)}, which need push_to_hub=True.")
        push_folder = package_push_folder() if push_to_hub else None
        folder = Path(save_directory)
        network = unwrapped(self.unet)
        chosen = choose_layout(layout, network, self.scheduler)
        super().save_pretrained(str(folder), variant=variant, max_shard_size=max_shard_size)
        complete(folder, chosen, type(self), {"unet": network, "scheduler": self.scheduler})
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
        push_folder = package_push_folder()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant=variant, max_shard_size=max_shard_size, layout=layout)
            return push_folder(folder, repo_id, **push_options)
