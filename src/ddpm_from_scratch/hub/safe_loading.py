"""What is checked before anything of a saved pipeline is loaded: names, sizes, every number of its weights.

diffusers logs what does not fit and goes on with random weights, or allocates whatever a configuration says.
Here a folder is refused, with the file's name, before memory is allocated for it. Nothing is ever unpickled.
"""

import contextlib
import functools
import inspect
import json
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DModel
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..networks.models import image_sides
from ..networks.registry import is_foreign
from ..schedulers.scheduler_settings import MAX_TRAIN_TIMESTEPS
from .requests import patiently

# Arguments of `from_pretrained` that say where something comes from, not what it becomes.
HUB_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision")
COMPONENTS = ("unet", "scheduler")
_WEIGHTS = "diffusion_pytorch_model"
_CONVERT = (
    " python training/convert.py FOLDER_OR_REPOSITORY NEW_FOLDER saves them as safetensors and runs none."
)
_FLOATING = ("F64", "F32", "F16", "BF16")
_WHOLE = ("I64", "I32", "BOOL")
_MAX_JSON_BYTES = 2**26
_MAX_SAMPLE_NUMBERS = 2**28  # of one sample: an RGB image of 9,400 x 9,400


def fetch(
    name_or_path: str | Path,
    variant: str | None = None,
    subfolder: str | None = None,
    with_code: bool = False,
    **where: Any,
) -> Path:
    """Return the folder of a pipeline: the given one, or one downloaded from the Hub.

    Only configurations and weights in safetensors are downloaded, no pickles, and no code unless asked for.

    Args:
        name_or_path: a folder, or a repository's id.
        variant: of the weights.
        subfolder: the folder inside that holds the pipeline.
        with_code: also download the code of the network.
        where: as in `huggingface_hub.snapshot_download`; see HUB_ARGUMENTS.

    Raises:
        ValueError: a subfolder that leads out. OSError, huggingface_hub.errors: not there, or no access.
    """
    inside = Path(subfolder or "")
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"subfolder is {subfolder!r}, but must be a folder inside the repository.")
    if Path(name_or_path).is_dir():
        return Path(name_or_path) / inside
    where.pop("proxies", None)  # huggingface_hub takes them from the environment
    ending = f".{variant}" if variant else ""
    weights = [f"{_WEIGHTS}{ending}.safetensors", f"{_WEIGHTS}{ending}-*.safetensors"]
    weights.append(f"{_WEIGHTS}.safetensors.index{ending}.json")
    files = ["model_index.json", "config.json", "scheduler_config.json", *weights]
    files += [f"unet/{name}" for name in ("config.json", *weights)] + ["scheduler/scheduler_config.json"]
    files += ["unet/*.py"] if with_code else []
    patterns = [(inside / name).as_posix() for name in files]
    download = functools.partial(snapshot_download, str(name_or_path), allow_patterns=patterns, **where)
    # Of connections that drop in the middle the client takes care itself, but not of a Hub that is busy.
    return Path(patiently(download, errors=(HfHubHTTPError,))) / inside


def check_pipeline(
    folder: Path,
    known: dict[str, dict[str, type]],
    variant: str | None = None,
    given: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Check a saved pipeline of a network and a scheduler and return the classes of both by name.

    Args:
        folder: with model_index.json.
        known: for each component, name in the index -> class; other names are those of diffusers.
        variant: of the weights.
        given: components that are not loaded from the folder.

    Raises:
        ValueError: a file that is missing, damaged or foreign, by its name, and what is wrong with it.
    """
    path = folder / "model_index.json"
    index = read_json(path)
    found = {name for name, value in index.items() if isinstance(value, list) and not name.startswith("_")}
    if found != set(COMPONENTS):
        raise ValueError(
            f"{path} lists the components {sorted(found)}, but this pipeline has {sorted(COMPONENTS)}; load "
            "it with the class that it names."
        )
    kinds = {}
    for name in COMPONENTS:
        if name in given:
            continue
        entry = index[name]
        if len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            raise ValueError(f"{path} has {entry} for {name}, but must have a module and a class.")
        kind = known[name].get(entry[1]) or _stock_class(name, entry[1])
        if kind is None:
            raise ValueError(
                f"{path} has the class {entry[1]!r} for {name}, which this pipeline does not know. If it is "
                f"yours, call register_network({entry[1]}) first; if you trust the code of this repository, "
                "pass trust_remote_code=True, which runs it."
            )
        kinds[name] = kind
    if "scheduler" in kinds:
        _check_scheduler(component_folder(folder, "scheduler"))
    if "unet" in kinds:
        check_model(component_folder(folder, "unet"), kinds["unet"], variant)
    return kinds


def _stock_class(component: str, name: str) -> type | None:
    """Return the class of diffusers of that name, if it may be this component."""
    if component == "unet":
        return UNet2DModel if name == "UNet2DModel" else None
    kind = getattr(diffusers, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, SchedulerMixin) else None


def variants(folder: Path) -> list[str | None]:
    """Return the variants of the weights that a saved pipeline has; None is the one without a name."""
    form = re.compile(rf"{_WEIGHTS}(?:\.([\w-]+?))?(?:-\d+-of-\d+)?\.safetensors")
    names = (path.name for path in component_folder(folder, "unet").glob(f"{_WEIGHTS}*.safetensors"))
    return sorted({match[1] for match in map(form.fullmatch, names) if match}, key=str)


def component_folder(folder: Path, name: str) -> Path:
    """Return where a component's files are: in a folder of its name, or, in old repositories, at the top."""
    return folder / name if (folder / name).is_dir() else folder


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        ValueError: missing, absurdly long, or something else.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: the folder holds no complete pipeline.")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, which no configuration needs.")
    try:
        content = json.loads(path.read_text(), parse_constant=_no_nan)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, but must hold a JSON object.")
    return content


def _no_nan(text: str) -> float:
    if text == "NaN":
        raise ValueError("it has a number that is none (NaN)")
    return float(text)


def _check_scheduler(folder: Path) -> None:
    """Raise ValueError for numbers that a scheduler would allocate that much for."""
    path = folder / "scheduler_config.json"
    for name, value in read_json(path).items():
        if isinstance(value, int) and abs(value) > MAX_TRAIN_TIMESTEPS:
            raise ValueError(f"{path} has {name} {value}, but must have at most {MAX_TRAIN_TIMESTEPS}.")


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Make a ValueError with the file's name of whatever a constructor makes of settings nobody meant."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be used: {reason}") from error


def check_model(folder: Path, kind: type[ModelMixin], variant: str | None = None) -> None:
    """Check that a folder holds the weights of the network that its configuration describes, and all finite.

    Args:
        folder: with config.json and weights in safetensors.
        kind: the network's class.
        variant: of the weights.

    Raises:
        ValueError: as in `check_pipeline`.
    """
    owner, files = _weight_files(folder, variant)
    shapes = {}
    for path in files:
        for name, shape, number_kind in _read_tensors(path):
            if owner and owner.get(name) != path.name:
                raise ValueError(f"{path} holds the tensor {name!r}, which the index has elsewhere.")
            shapes[name] = (shape, path, number_kind)
    missing = sorted(set(owner) - set(shapes))
    if missing:
        raise ValueError(f"{folder} lacks {some(missing)}, which the index of its weights names.")
    config_path = folder / "config.json"
    model = _on_no_device(kind, config_path, shapes)
    if hasattr(model, "_fix_state_dict_keys_on_load"):  # names from before diffusers 0.18
        model._fix_state_dict_keys_on_load(shapes)
    weights = model.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    names = files[0] if len(files) == 1 else folder
    for problem, wrong in (("lacks", set(expected) - set(shapes)), ("has", set(shapes) - set(expected))):
        if wrong:
            does = "needs" if problem == "lacks" else "does not have"
            raise ValueError(f"{names} {problem} {some(sorted(wrong))}, which {config_path} {does}.")
    for name, (shape, path, number_kind) in shapes.items():
        if shape != expected[name]:
            raise ValueError(
                f"{path} has {name!r} of shape {shape}, but {config_path} asks for {expected[name]}."
            )
        if number_kind not in _FLOATING and weights[name].is_floating_point():
            raise ValueError(f"{path} has {name!r} as {number_kind}, but weights are {_FLOATING}.")


def _weight_files(folder: Path, variant: str | None) -> tuple[dict[str, str], list[Path]]:
    """Return which file holds each tensor (empty if there is one file), and the files."""
    ending = f".{variant}" if variant else ""
    index_path = folder / f"{_WEIGHTS}.safetensors.index{ending}.json"
    for old in folder.glob(f"{_WEIGHTS}.safetensors.*.index.json"):  # diffusers would follow it unasked
        raise ValueError(f"{old} is an index of weights in a form that is no longer used: save them again.")
    single = folder / f"{_WEIGHTS}{ending}.safetensors"
    if not index_path.is_file():
        if not single.is_file():
            raise ValueError(f"{single} is missing.{_what_else(folder)}")
        return {}, [single]
    owner = read_json(index_path).get("weight_map")
    if not isinstance(owner, dict) or not owner:
        raise ValueError(f"{index_path} has no weight_map.")
    for name in owner.values():
        if not isinstance(name, str) or not re.fullmatch(rf"{_WEIGHTS}[\w.-]*\.safetensors", name):
            raise ValueError(
                f"{index_path} names the file {name!r}, but only {_WEIGHTS}-*.safetensors may be."
            )
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing, which {index_path.name} names.")
    return owner, [folder / name for name in sorted(set(owner.values()))]


def _what_else(folder: Path) -> str:
    """Return what a person can do about missing weights."""
    variants = sorted(path.name.split(".")[1] for path in folder.glob(f"{_WEIGHTS}.*.safetensors"))
    if variants:
        return f" Of the variants there is {', '.join(variants)}: pass variant=."
    if list(folder.glob("*.bin")):
        return f" There are weights as a pickle, which could run code.{_CONVERT}"
    return f" If a repository has them as .bin only, a pickle, it is not fetched.{_CONVERT}"


def _read_tensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield name, shape and kind of numbers of every tensor of a file, after looking at all of them.

    Whole numbers are for counters, such as those of normalisation over batches.
    """
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                part = file.get_slice(name)
                if part.get_dtype() not in (*_FLOATING, *_WHOLE):
                    raise ValueError(
                        f"{path} has {name!r} as {part.get_dtype()}, but weights are {_FLOATING}."
                    )
                if not bool(file.get_tensor(name).isfinite().all()):
                    raise ValueError(f"{path} has {name!r} with numbers that are not finite.")
                yield name, tuple(part.get_shape()), part.get_dtype()
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}.") from error


def _on_no_device(kind: type[ModelMixin], path: Path, shapes: dict[str, Any]) -> Any:
    """Return the network of a configuration without memory, if it is no larger than its weights."""
    config = read_json(path)
    _check_config(kind, config, path)
    numbers = sum(math.prod(shape) for shape, *_ in shapes.values())
    # With room for what the comparison will name.
    with named(path), _limited(2 * len(shapes) + 100, 2 * numbers + 2**20):
        return without_memory(kind, config)


def without_memory(kind: Any, config: dict[str, Any]) -> Any:
    """Return the network of a configuration without memory; one's own may need it, to look at its numbers."""
    with torch.random.fork_rng(devices=[]):  # what it draws is not missed
        try:
            with torch.device("meta"):
                return kind.from_config(config)
        except (RuntimeError, NotImplementedError):
            if not is_foreign(kind):
                raise
            return kind.from_config(config)


def _check_config(kind: type[ModelMixin], config: dict[str, Any], path: Path) -> None:
    """Raise ValueError for settings of a wrong kind, a quantizer, or absurdly large samples."""
    if "quantization_config" in config:
        raise ValueError(f"{path} has a quantization_config, which this pipeline does not load.")
    # What the constructor of a network of one's own takes, it says itself.
    is_own = is_foreign(kind)
    parameters = {} if is_own else dict(inspect.signature(kind.__init__).parameters)
    for name, parameter in parameters.items():
        value, default = config.get(name), parameter.default
        if value is None or default in (None, parameter.empty):
            continue
        wanted = {float: (float, int), tuple: (list, tuple)}.get(type(default), (type(default),))
        if type(value) not in wanted:
            raise ValueError(f"{path} has {name} {value!r}, but must have one like {default!r}.")
    size = config.get("sample_shape", config.get("sample_size"))
    if size is None and is_own:
        return
    with named(path):
        sides = size if "sample_shape" in config and isinstance(size, list) else image_sides(size)
    channels = config.get("in_channels", 1)
    if not all(isinstance(side, int) and side > 0 for side in (*sides, channels)):
        raise ValueError(f"{path} has samples of {size!r} and {channels!r} channels: not positive integers.")
    if math.prod(sides) * channels > _MAX_SAMPLE_NUMBERS:
        raise ValueError(f"{path} has samples of {size!r} and {channels} channels, which is absurdly large.")


@contextlib.contextmanager
def _limited(tensors: int, numbers: int) -> Iterator[None]:
    """Raise ValueError once modules that this thread builds have more parameters than that."""
    thread, count, total = threading.get_ident(), 0, 0

    def count_up(_module: Any, _name: str, parameter: torch.Tensor | None) -> None:
        nonlocal count, total
        if parameter is not None and threading.get_ident() == thread:
            count, total = count + 1, total + parameter.numel()
            if count > tensors or total > numbers:
                raise ValueError("it describes a network with far more parameters than there are weights")

    handle = register_module_parameter_registration_hook(count_up)
    try:
        yield
    finally:
        handle.remove()


def some(names: list[str]) -> str:
    """Return up to three names in words."""
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
