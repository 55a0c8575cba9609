"""What a checkpoint of another code base does not say of itself: the flags of convert.py."""

import dataclasses
from collections.abc import Collection
from typing import Any

from ..runtime.cli import check_bounds, flag
from ..runtime.errors import ConfigError
from ..words import ForeignSchedule, ForeignWeights, PredictionType, TrainedVarianceType


@dataclasses.dataclass(frozen=True)
class ConversionSettings:
    """Settings of a network and its process; None where the default of the code base holds.

    Raises:
        ConfigError: a number that is out of bounds.
    """

    image_size: int | None = flag(None, "Side of the images in pixels; weights do not say it.", least=1)
    num_heads: int | None = flag(
        None, "Attention heads at every width; 4 in OpenAI's code bases if not given.", least=1
    )
    num_head_channels: int | None = flag(
        None, "Channels of an attention head, in place of --num_heads.", least=1
    )
    use_new_attention_order: bool | None = flag(
        None, "guided-diffusion's flag of that name: queries, keys and values before heads."
    )
    diffusion_steps: int | None = flag(
        None, "T, the number of timesteps it was trained with; 1000 if not given.", least=1, most=1_000_000
    )
    noise_schedule: ForeignSchedule | None = flag(
        None, "Noise schedule it was trained with; linear if not given."
    )
    rescale_timesteps: bool | None = flag(
        None, "OpenAI's flag of that name: whether the network saw timesteps times 1000 / T."
    )
    prediction_type: PredictionType | None = flag(
        None, "What the network predicts; epsilon if not given, or as a lucidrains file says."
    )
    variance_type: TrainedVarianceType | None = flag(
        None, "Variance of a reverse step; learned_range for 2C channels, else the code base's, if not given."
    )
    weights: ForeignWeights | None = flag(
        None, "Which weights of a file that has both: average (EMA), if not given, or raw."
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for a number that is out of bounds."""
        check_bounds(self)

    def require_only(self, names: Collection[str], what: str) -> None:
        """Raise ConfigError for a setting that is given and not one of those that this kind of source has.

        Args:
            names: of the settings that apply.
            what: the source, for the message.
        """
        for name, value in dataclasses.asdict(self).items():
            if value is not None and name not in names:
                allowed = ", ".join(f"--{name}" for name in sorted(names)) or "none"
                raise ConfigError(
                    f"--{name} is {value!r}, but {what} has no such setting, or says it itself: it must be "
                    f"left out; allowed are {allowed}."
                )

    def image_side(self, factor: int) -> int:
        """Return the side of the images.

        Args:
            factor: that the network's levels need it to be a multiple of.

        Raises:
            ConfigError: not given, or no multiple.
        """
        if self.image_size is None:
            raise ConfigError(
                "--image_size is missing: give the side of the images in pixels that the network was trained "
                "on, which must be said because its weights fit any size."
            )
        if self.image_size % factor:
            raise ConfigError(
                f"--image_size is {self.image_size}, but must be a multiple of {factor}, by which this "
                "network makes its features smaller."
            )
        return self.image_size


def assumed(default: Any, given: Any, name: str, notes: list[str]) -> Any:
    """Return a setting, and note it if nobody gave it and the default of the code base stands for it."""
    if given is not None:
        return given
    notes.append(f"assumed, as the file does not say it: --{name}={default}")
    return default
