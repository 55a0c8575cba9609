"""Feature extractors for judging samples: pixels, a digit classifier, vision models, Inception.

An extractor has a `name`, which goes into the name of every figure made with it, a `description` in words,
and maps samples in the network's units, (B, C, H, W) in [-1, 1] or points (B, D), to features (B, F), float32
on the CPU. Networks see images as they would be saved: rounded to 8 bits.

The digit classifier's weights lie beside this file, so that figures of different runs and machines can be
compared and no run has to train it; `python -m ddpm_from_scratch.evaluation.features` makes the file anew.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from ..data.datasets import load_digits
from ..runtime.errors import ConfigError
from ..words import BUILT_IN_FEATURES, DEFAULT_VISION_MODEL

# The covariance of more numbers than these takes minutes and gigabytes.
MAX_PIXEL_FEATURES = 4096
_DIGIT_CLASSIFIER = Path(__file__).with_name("digit_classifier.safetensors")


class FeatureExtractor(Protocol):
    """Maps samples to features.

    Args:
        name: goes into the names of figures.
        description: what the features are, in words.
    """

    name: str
    description: str

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Return features (B, F), float32 on the CPU."""
        ...


def load_features(
    features: str,
    sample_shape: tuple[int, ...],
    device: torch.device | str = "cpu",
    cache_dir: str | None = None,
) -> FeatureExtractor:
    """Return the extractor of a name, ready for samples of a shape.

    Args:
        features: one of `BUILT_IN_FEATURES`, or the folder or Hub id of a transformers vision model.
        sample_shape: (C, H, W), or (D,) for points.
        device: where networks run.
        cache_dir: folder for downloaded models.

    Raises:
        ConfigError: features that do not fit the samples, or cannot be loaded.
    """
    is_image = len(sample_shape) == 3
    if (features == "coordinates") != (not is_image):
        raise ConfigError(
            f"features are {features!r}, but samples have shape {sample_shape}: use 'coordinates' for points "
            "and any other for images."
        )
    if features in ("pixels", "coordinates"):
        return PixelFeatures(sample_shape)
    if features == "digit_classifier":
        return DigitFeatures(sample_shape, device)
    if sample_shape[0] not in (1, 3):
        raise ConfigError(
            f"features are {features!r}, which need images of 1 or 3 channels, but samples have "
            f"{sample_shape[0]}: use 'pixels'."
        )
    if features == "inception":
        return InceptionFeatures(device)
    return VisionModelFeatures(features, device, cache_dir)


def to_rgb_uint8(samples: torch.Tensor) -> torch.Tensor:
    """Return images (B, C, H, W) in [-1, 1], C of 1 or 3, as RGB in 0..255, uint8 (B, 3, H, W)."""
    levels = ((samples + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1)


class PixelFeatures:
    """The samples themselves, one row each."""

    def __init__(self, sample_shape: tuple[int, ...]):
        size = torch.Size(sample_shape).numel()
        if size > MAX_PIXEL_FEATURES:
            raise ConfigError(
                f"features are 'pixels', but samples of shape {sample_shape} have {size} of them: at most "
                f"{MAX_PIXEL_FEATURES} can be compared; use a vision model, such as {DEFAULT_VISION_MODEL}."
            )
        self.name = "coordinates" if len(sample_shape) == 1 else "pixels"
        self.description = f"the {size} {self.name} in the network's units"

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the samples, flattened."""
        return samples.flatten(1).float().cpu()


class DigitClassifier(nn.Module):
    """A small CNN for pictures of digits whose 32 penultimate features measure sample quality.

    Args:
        side: of the pictures, in pixels.
    """

    def __init__(self, side: int = 8):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(64 * (side // 4) ** 2, 32), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, 10) for images (B, 1, side, side) in [-1, 1]."""
        return self.classify(self.features(images))


def train_classifier(
    images: torch.Tensor, labels: torch.Tensor, num_epochs: int = 30, seed: int = 0
) -> DigitClassifier:
    """Return a classifier trained on pictures of digits, (N, 1, side, side) in [-1, 1], and their labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = DigitClassifier(images.shape[-1])
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
        total = num_epochs * len(images) // 64
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=total + 1)
        for step in range(total):
            if step * 64 % len(images) < 64:
                order = torch.randperm(len(images))
            batch = order[torch.arange(step * 64, (step + 1) * 64) % len(images)]
            loss = nn.functional.cross_entropy(classifier(images[batch]), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


def load_digit_classifier() -> DigitClassifier:
    """Return the classifier that was trained on the training digits, from its file."""
    classifier = DigitClassifier()
    classifier.load_state_dict(load_file(_DIGIT_CLASSIFIER))
    return classifier.eval()


class DigitFeatures:
    """The 32 penultimate features of a classifier of the built-in digits."""

    name = "digit_classifier"

    def __init__(self, sample_shape: tuple[int, ...], device: torch.device | str = "cpu"):
        if sample_shape != (1, 8, 8):
            raise ConfigError(
                f"features are 'digit_classifier', but samples have shape {sample_shape}: it knows images of "
                "shape (1, 8, 8)."
            )
        classifier = load_digit_classifier()
        _, _, held_out, labels = load_digits()
        with torch.no_grad():
            accuracy = float((classifier(held_out).argmax(1) == labels).float().mean())
        self.network, self.device = classifier.features.to(device), device
        self.description = (
            "32 penultimate features of a small CNN, trained on the training digits, with accuracy "
            f"{accuracy:.3f} on the held-out ones"
        )

    @torch.no_grad()
    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the features of digits (B, 1, 8, 8)."""
        return self.network(samples.to(self.device)).float().cpu()


class MiddleBlockFeatures:
    """The mean over the image of what a denoising network has in its middle, for images without noise.

    Good enough to choose between ways of sampling from that same network; no measure for others.
    """

    name = "middle_block"

    def __init__(self, network: ModelMixin):
        self.network = network
        self.description = "channels of the middle of the denoising network itself"

    @torch.no_grad()
    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the features of images (B, C, H, W)."""
        kept: list[torch.Tensor] = []
        device = next(self.network.parameters()).device
        hook = self.network.get_submodule("mid_block").register_forward_hook(
            lambda _, __, output: kept.append(output.float().mean((2, 3)).cpu())
        )
        num_classes = self.network.config.num_class_embeds
        options = (
            {}
            if num_classes is None
            else {"class_labels": torch.zeros(len(samples), dtype=torch.long, device=device)}
        )
        try:
            self.network(samples.to(device), torch.zeros(len(samples), device=device), **options)
        finally:
            hook.remove()
        return kept[0]


class VisionModelFeatures:
    """The image embedding of a transformers vision model, such as the class token of DINOv2.

    The model's own processor resizes and normalises, in PIL, which filters when it shrinks (Parmar et al.
    2022, arXiv:2104.11222). Where it would crop the centre, it resizes to that size instead, so that nothing
    of an image goes unseen, as in Stein et al. 2023 (arXiv:2306.04675). Images that are not square are
    stretched to the squares that the model takes.

    Args:
        name_or_path: folder or Hub id of the model.
        device: where it runs.
        cache_dir: folder for downloaded models.
    """

    def __init__(self, name_or_path: str, device: torch.device | str = "cpu", cache_dir: str | None = None):
        import transformers

        path = Path(name_or_path)
        self.name, self.device = path.resolve().name if path.is_dir() else path.name, device
        called = self.name if path.is_dir() else name_or_path  # the description is published; a path is not
        if self.name in BUILT_IN_FEATURES:
            raise ConfigError(
                f"features are {name_or_path!r}, but {self.name!r} is the name of built-in ones: rename the "
                "folder."
            )
        try:
            self.processor = transformers.AutoImageProcessor.from_pretrained(
                name_or_path, backend="pil", cache_dir=cache_dir, trust_remote_code=False
            )
            model, report = transformers.AutoModel.from_pretrained(
                name_or_path, cache_dir=cache_dir, dtype=torch.float32, output_loading_info=True,
                trust_remote_code=False,
            )  # fmt: skip
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(
                f"features are {name_or_path!r}, but must be one of {BUILT_IN_FEATURES}, or the folder or "
                f"Hub id of a transformers vision model: {str(error).splitlines()[0]}"
            ) from error
        model = getattr(model, "vision_model", model)  # of a model of images and texts
        missing = [key for key in report["missing_keys"] if "text" not in key]
        # A classifier is saved without the pooler; weights drawn at random would be taken in its place.
        self.uses_pooler = not missing
        if any("pooler" not in key for key in missing):
            raise ConfigError(
                f"features are {name_or_path!r}, but its file lacks weights, {sorted(missing)[0]} among "
                "them: download it again."
            )
        self.network = model.to(device).eval()
        revision = getattr(model.config, "_commit_hash", None)
        self.description = f"{type(model).__name__} {called}" + (f", revision {revision}" if revision else "")
        self.options = _without_crop(self.processor)

    @torch.no_grad()
    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of images (B, C, H, W), C of 1 or 3."""
        images, options = list(to_rgb_uint8(samples).cpu().numpy()), self.options
        if samples.shape[2] != samples.shape[3] and (side := _shorter_side(self.processor)):
            # In their own shape they would be cut, or be of a size that the model does not take.
            images = [_stretched(image, side, self.processor.resample) for image in images]
            options = options | {"do_resize": False}
        inputs = self.processor(
            images=images, input_data_format="channels_first", return_tensors="pt", **options
        )
        output = self.network(pixel_values=inputs["pixel_values"].to(self.device))
        pooled = getattr(output, "pooler_output", None)
        if pooled is None or not self.uses_pooler:
            pooled = output.last_hidden_state
            pooled = pooled[:, 0] if pooled.ndim == 3 else pooled.mean(dim=(2, 3))
        return pooled.flatten(1).float().cpu()


def _without_crop(processor: Any) -> dict[str, Any]:
    """Return the options with which a processor resizes whole images to what it would have cropped to."""
    if getattr(processor, "do_center_crop", False):
        size = {"height": processor.crop_size["height"], "width": processor.crop_size["width"]}
        return {"do_center_crop": False, "do_resize": True, "size": size}
    return {"crop_pct": 1.0} if hasattr(processor, "crop_pct") else {}


def _shorter_side(processor: Any) -> int | None:
    """Return the side of the squares that a processor makes if it scales the shorter side of images."""
    if not getattr(processor, "do_resize", False) or getattr(processor, "do_center_crop", False):
        return None
    return (getattr(processor, "size", None) or {}).get("shortest_edge")


def _stretched(image: np.ndarray, side: int, resample: int) -> np.ndarray:
    """Return an image (3, H, W) in 0..255 as a square (3, side, side)."""
    resized = Image.fromarray(image.transpose(1, 2, 0)).resize((side, side), Image.Resampling(resample))
    return np.asarray(resized).transpose(2, 0, 1)


class InceptionFeatures:
    """The 2,048 features of Inception-v3 that the FID is defined on, through torch-fidelity."""

    name = "inception"

    def __init__(self, device: torch.device | str = "cpu"):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ConfigError(
                f"features are 'inception', which need torch-fidelity ({error}): pip install torch-fidelity"
            ) from error
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)
        except OSError as error:
            raise ConfigError(
                f"features are 'inception', but its weights cannot be downloaded: {error}. Put the file that "
                "torch-fidelity names into the folder checkpoints/ of torch.hub.get_dir()."
            ) from error
        self.network, self.device = network.to(device).eval(), device
        self.description = "Inception-v3 of the FID, layer 2048, from torch-fidelity"

    @torch.no_grad()
    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the features of images (B, C, H, W), C of 1 or 3."""
        (features,) = self.network(to_rgb_uint8(samples).to(self.device))
        return features.float().cpu()


if __name__ == "__main__":
    training_images, training_labels, *_ = load_digits()
    save_file(train_classifier(training_images, training_labels).state_dict(), _DIGIT_CLASSIFIER)
