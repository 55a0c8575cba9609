"""What the commands do with bad and unusual settings, folders and weights: rows of bad_inputs.py.

Each is tried in an empty folder, which is the home folder, too.
"""

import contextlib
import functools
import io
import json
import os
import re
import runpy
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, build_model, model_config
from ddpm_from_scratch.data.datasets import load_training_data
from ddpm_from_scratch.data.images import say_drawn_on_white
from ddpm_from_scratch.evaluation.settings import check_calibration, require_own_folder
from ddpm_from_scratch.runtime.errors import RunError
from ddpm_from_scratch.sharing.publish import plan
from ddpm_from_scratch.training.config import TrainingConfig, parse_config
from ddpm_from_scratch.training.output_folder import clear_earlier_run, prepare_output_dir
from ddpm_from_scratch.training.start import find_start

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
DIGITS = "dataset_name: digits\nlabel_column: label\nmax_train_steps: 720\n"


@dataclass(frozen=True)
class Input:
    """One input of a command.

    Args:
        what: is given, for people.
        call: gives it, in a folder; of a right input, it returns whether the result is right.
        says: regular expression for what the error, or the line about a right input, must say; a right input
            without one must be taken without a word.
        is_bad: whether it must be refused.
    """

    what: str
    call: Callable[[Path], Any]
    says: str
    is_bad: bool


def bad(what: str, call: Callable[[Path], Any], says: str) -> Input:
    """Return an input that must be refused."""
    return Input(what, call, says, True)


def right(what: str, call: Callable[[Path], Any], says: str = "") -> Input:
    """Return an input that must be followed."""
    return Input(what, call, says, False)


def verdict(one: Input) -> tuple[str, str]:
    """Return how an input is answered, in the words of bad_inputs.py, and what is printed."""
    said, before = io.StringIO(), os.getcwd()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"HOME": folder}),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            is_right = one.call(Path(folder))
        except (RunError, SystemExit) as error:
            message = said.getvalue() if isinstance(error, SystemExit) else str(error)
            is_clear = re.search(one.says, message) and "\n" not in message.strip()
            return ("clear" if is_clear else "obscure") if one.is_bad else "refused", message
        except Exception as error:
            return "obscure" if one.is_bad else "refused", f"{type(error).__name__}: {error}"
        finally:
            os.chdir(before)
    words = " ".join(line for line in said.getvalue().splitlines() if "%|" not in line)
    if one.is_bad:
        return "silent", words
    return "right" if is_right and bool(words) == bool(one.says) and re.search(
        one.says, words
    ) else "wrong", words


# Output folders.


def write(root: Path, *names: str, content: str = "theirs") -> None:
    """Write files of others."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def contents(root: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def output_folder(*names: str, **settings: Any) -> Callable[[Path], bool]:
    """Return the call that begins a run in a folder with these files; none of them may change."""

    def call(root: Path) -> bool:
        write(root / "run", *names)
        before = contents(root)
        config = TrainingConfig(dataset_name="digits", output_dir="run", **settings)
        try:
            prepare_output_dir(config)
            clear_earlier_run(root / "run", config)
        finally:
            if contents(root) != before:
                raise AssertionError("files of others have changed")
        return True

    return call


def figures_folder(*names: str, content: str = "theirs") -> Callable[[Path], bool]:
    """Return the call that checks a folder for the figures of evaluate.py."""

    def call(root: Path) -> bool:
        write(root / "figures", *names, content=content)
        require_own_folder(root / "figures")
        return True

    return call


OVER, RESUME = {"overwrite_output_dir": True}, {"resume_from_checkpoint": "latest"}
OF_DIFFUSERS = ("checkpoint-500/unet/config.json", "checkpoint-500/optimizer.bin")
OWN_FIGURES = json.dumps({"num_floor": 3})
OUTPUT_FOLDERS = [
    *(bad(f"output folder: a checkpoint of diffusers' script {settings}",
          output_folder(*OF_DIFFUSERS, **settings), "checkpoint-500.*another --output_dir")
      for settings in ({}, OVER, RESUME)),
    *(bad(f"output folder: {names} of others, {settings}", output_folder(*names, **settings),
          f"{names[0].split('/')[0]}.*another --output_dir")
      for names in (("checkpoint-7/pytorch_model.bin",), ("checkpoint-7",), ("model_index.json",),
                    (WEIGHTS,), ("unet",), ("scheduler/scheduler_config.json",), ("pipeline.py",),
                    ("results.json",), ("samples.png",), ("samples",), ("logs/metrics.jsonl",))
      for settings in ({}, OVER)),
    bad("output folder: a file", lambda root: (write(root, "run"), output_folder()(root)), "run.*exists"),
    bad("output folder: below a file",
        lambda root: (write(root, "a"), prepare_output_dir(TrainingConfig("digits", output_dir="a/b"))),
        "--output_dir is 'a/b', which cannot be made"),
    bad("figures: into a pipeline", figures_folder("model_index.json"), "holds model_index.json"),
    bad("figures: results.json of others", figures_folder("results.json"), "holds results.json"),
    bad("figures: samples.png of others", figures_folder("samples.png"), "holds samples.png"),
    right("figures: again", figures_folder("results.json", content=OWN_FIGURES)),
    *(right(f"output folder: {name} of others, {settings}", output_folder(name, **settings))
      for name in ("notes.txt", ".tmp-mine", "checkpoint-notes/a.txt", "checkpoint-notes", "samples/cat.png",
                   "data/0.png", "logs/other/events.1", "superseded-checkpoint-7/a.txt")
      for settings in ({}, OVER)),
    right("output folder: a README of others", output_folder("README.md"), "README.md .* stays"),
]  # fmt: skip


# ~, and flags over the file.


def parsed(*argv: str, file: str | None = None, **expected: Any) -> Callable[[Path], bool]:
    """Return the call that parses a command line of train.py; "~/" of what is expected is the home folder."""

    def call(root: Path) -> bool:
        if file is not None:
            (root / "run.yaml").write_text(file)
        config = parse_config([*argv, *(["--config=run.yaml"] if file is not None else [])])
        return all(
            getattr(config, name) == (value.replace("~/", f"{root}/") if isinstance(value, str) else value)
            for name, value in expected.items()
        )

    return call


ON = "--dataset_name=digits"
HOME = [
    right("~: --output_dir", parsed(ON, "--output_dir=~/runs/x", output_dir="~/runs/x")),
    right("~: --output_dir, a word of its own", parsed(ON, "--output_dir", "~/x", output_dir="~/x")),
    right("~: in the file", parsed(file=DIGITS + "output_dir: ~/x\n", output_dir="~/x")),
    right("~: --train_data_dir", parsed("--train_data_dir=~/cats", train_data_dir="~/cats")),
    right("~: --dataset_name", parsed("--dataset_name=~/cats", dataset_name="~/cats")),
    right("~: --cache_dir", parsed(ON, "--cache_dir=~/c", cache_dir="~/c")),
    right("~: --init_from", parsed(ON, "--init_from=~/w", init_from="~/w")),
    right("~: --model_config_name_or_path",
          parsed(ON, "--model_config_name_or_path=~/u.json", model_config_name_or_path="~/u.json")),
    right("~: in the middle of a name", parsed(ON, "--output_dir=runs/a~b", output_dir="runs/a~b")),
]  # fmt: skip

PLACE = "takes the place of dataset_name digits"
FILES = [
    right("flags and file: --train_data_dir",
          parsed("--train_data_dir=mine", file=DIGITS, train_data_dir="mine", dataset_name=None), PLACE),
    right("flags and file: --dataset_name of the Hub",
          parsed("--dataset_name=me/cats", file="train_data_dir: x\n", dataset_name="me/cats",
                 train_data_dir=None), "takes the place of train_data_dir x"),
    right("flags and file: --dataset_name anew",
          parsed("--dataset_name=me/new", file="dataset_name: me/old\ndataset_config_name: small\n",
                 dataset_name="me/new", dataset_config_name=None), "takes the place of dataset_config_name"),
    right("flags and file: --num_epochs",
          parsed("--num_epochs=5", file=DIGITS, num_epochs=5, max_train_steps=None), "max_train_steps 720"),
    right("flags and file: a number", parsed("--seed=4", file=DIGITS + "seed: 3\n", seed=4)),
    bad("flags and file: two data on the line", parsed(ON, "--train_data_dir=x"), "exactly one.*got both"),
    bad("flags and file: two data in the file", parsed(file=DIGITS + "train_data_dir: x\n"), "got both"),
    bad("flags and file: no data", parsed("--seed=1"), "exactly one.*got neither"),
    bad("flags and file: a misspelt setting", parsed(file=DIGITS + "sed: 3\n"), "'sed'; did you mean 'seed'"),
    bad("flags and file: a misspelt flag", parsed(ON, "--sed=3"), "'--sed=3'; did you mean --seed"),
    bad("flags and file: a flag cut short", parsed(ON, "--resol=8"), "unknown argument '--resol=8'"),
    bad("flags and file: a misspelt data set", parsed("--dataset_name=digit"), "did you mean.*'digits'"),
    bad("flags and file: a list", parsed(file=DIGITS + "seed: [1, 2]\n"), "seed must be one value"),
    bad("flags and file: a word for a number", parsed(file=DIGITS + "seed: many\n"), "--seed.*many"),
    bad("flags and file: a number out of bounds", parsed(file=DIGITS + "seed: -1\n"), "--seed is -1"),
    bad("flags and file: nan", parsed(ON, "--learning_rate=nan"), "--learning_rate is nan"),
    bad("flags and file: no YAML", parsed(file="a: [1"), "run.yaml' is not valid YAML"),
    bad("flags and file: a text", parsed(file="digits"), "must hold 'name: value' lines"),
    bad("flags and file: no such file", parsed("--config=none.yaml"), "none.yaml' cannot be read: No such"),
]  # fmt: skip


# Settings that do nothing, or need others.


def checked_evaluation(*argv: str) -> Callable[[Path], Any]:
    """Return the call that checks the numbers of evaluate.py's command line."""

    def call(_: Path) -> None:
        command = runpy.run_path(str(Path(__file__).parents[2] / "training" / "evaluate.py"))
        command["check"](command["make_parser"]().parse_args(["runs/x", ON, *argv]))

    return call


SETTINGS = [
    *(right(f"does nothing: {flags}", parsed(ON, *flags.split()), says)
      for flags, says in (
          ("--snr_gamma=3", "--snr_gamma is given, but only --loss_weighting min_snr"),
          ("--ema_power=1", "only --use_ema uses it"),
          ("--muon_learning_rate=0.1", "only --optimizer muon"),
          ("--beta_end=0.1 --ddpm_beta_schedule=laplace", "only --ddpm_beta_schedule linear"),
          ("--center_crop", "with --dataset_name digits it does nothing"),
          ("--dataset_split=test", "with --dataset_name digits it does nothing"),
          ("--hub_private_repo", "only --push_to_hub"),
          ("--calibration_samples=9", "only --calibrate uses it"),
          ("--lr_warmup_steps=5 --lr_scheduler=constant", "with --lr_scheduler constant"),
          ("--local_rank=0", "has no effect: the launcher"),
      )),
    *(right(f"does nothing for points: {flag}", parsed("--dataset_name=swiss_roll", flag),
            "with --dataset_name swiss_roll it does nothing")
      for flag in ("--resolution=8", "--channels=3", "--random_flip")),
    right("does something: its own default, given", parsed(ON, "--seed=0")),
    right("does something: hyphens", parsed(ON, "--train-batch-size=4", train_batch_size=4)),
    right("does something: a switch with a word", parsed(ON, "--use_ema=yes", use_ema=True)),
    *(bad(f"needs another: {flags}", parsed(ON, *flags.split()), says)
      for flags, says in (
          ("--label_dropout=0.1", "--label_dropout is 0.1, but needs labels"),
          ("--guidance_scale=2", "--guidance_scale is 2.0, but needs"),
          ("--init_variant=raw", "--init_variant applies to --init_from only"),
          ("--allow_recipe_change", "applies to --resume_from_checkpoint only"),
          ("--hub_push_exports=tags", "applies to --push_to_hub only|--hub_push_exports"),
          ("--evaluation_samples=3", "--evaluation_samples is 3, but must be 0 or at least 4"),
          ("--streaming --max_train_steps=3", "--streaming does not apply"),
          ("--value_range 0 1", "--value_range does not apply"),
          ("--logging_dir=unet", "--logging_dir is 'unet'"),
          ("--rescale_betas_zero_snr", "v_prediction"),
          ("--background=white", "unknown argument '--background=white'"),
      )),
    bad("needs another: --streaming of no known length", parsed("--dataset_name=me/x", "--streaming"),
        "--streaming needs --max_train_steps"),
    bad("evaluate: terms of no likelihood", checked_evaluation("--likelihood_terms=3"), "goes with"),
    bad("evaluate: nothing", checked_evaluation("--num_samples=0"), "there is nothing to measure"),
    bad("evaluate: no steps", checked_evaluation("--num_inference_steps=0"), "--num_inference_steps is 0"),
    bad("calibrate: more steps than T", lambda _: check_calibration([2000], 9, 1000), "2000, but must be in"),
    bad("calibrate: no steps", lambda _: check_calibration([0], 9), "is 0, but must be at least 1"),
    bad("calibrate: one sample", lambda _: check_calibration([5], 1), "are 1, but must be at least 2"),
]  # fmt: skip


# Pipelines: to start from, and to publish.


@functools.cache
def network() -> Any:
    """Return a small network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(model_config("tiny"))


def save_pipeline(folder: Path) -> None:
    """Save a pipeline of a small network, and its raw weights."""
    DDPMFromScratchPipeline(network(), DDPMFromScratchScheduler()).save_pretrained(folder)
    network().save_pretrained(folder / "unet", variant="non_ema")


def with_pipeline(
    use: Callable[[Path], Any], change: Callable[[Path], Any] = lambda _: None
) -> Callable[[Path], Any]:
    """Return the call that saves a pipeline in p/, changes something in it and uses it."""

    def call(root: Path) -> Any:
        save_pipeline(root / "p")
        change(root / "p")
        return use(root / "p")

    return call


def start(name: str, **settings: Any) -> Callable[[Path], Any]:
    """Return the call that looks for weights to start from."""
    return lambda _: find_start(TrainingConfig("digits", init_from=name, **settings)) is not None


def edited(name: str, **values: Any) -> Callable[[Path], Any]:
    """Return a function that changes values of a JSON file of a pipeline."""

    def change(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | values))

    return change


def cut(folder: Path) -> None:
    """Cut the weights short."""
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])


def checkpoint_in_place(folder: Path) -> None:
    """Make it look like a checkpoint."""
    write(folder, "manifest.json", "model.safetensors")


CONDITIONAL = edited("unet/config.json", _class_name="UNet2DConditionModel")
LATENT = edited("model_index.json", vae=["diffusers", "AutoencoderKL"])
LONG = f"me/{'a' * 60}"
PIPELINES = [
    right("init_from: a pipeline", with_pipeline(start("p"))),
    right("init_from: a pipeline, with a slash", with_pipeline(start("p/"))),
    right("init_from: its network", with_pipeline(start("p/unet"))),
    right("init_from: ~", with_pipeline(start("~/p"))),
    right("init_from: raw weights", with_pipeline(start("p", init_variant="raw"))),
    right("init_from: the variant as diffusers calls it", with_pipeline(start("p", init_variant="non_ema"))),
    *(bad(f"init_from: {what}", with_pipeline(start(name, **settings), change), f"--init_(?s:.*){says}")
      for what, name, change, settings, says in (
          ("no such folder", "./none", lambda _: None, {}, "there is no such folder"),
          ("a file", f"p/{WEIGHTS}", lambda _: None, {}, "that is a file; give the folder"),
          ("a checkpoint", "p", checkpoint_in_place, {}, "that is a checkpoint"),
          ("no network", "p/scheduler", lambda _: None, {}, "neither unet/config.json nor config.json"),
          ("another variant", "p", lambda _: None, {"init_variant": "fp16"}, "'fp16', but the weights there"),
          ("damaged weights", "p", cut, {}, "cut short"),
          ("a network of text", "p", CONDITIONAL, {}, "weights are of a UNet2DConditionModel"),
          ("a pipeline of latents", "p", LATENT, {}, "components.*vae"),
          ("damaged configuration", "p", lambda p: write(p, "unet/config.json"), {}, "config.json"),
          ("weights that would be deleted", "p", lambda _: None, {"output_dir": "p"} | OVER, "would delete"),
      )),
    *(bad(f"publish --dry_run: {what}", with_pipeline(plan, change), says)
      for what, change, says in (
          ("no pipeline", lambda p: (p / "model_index.json").unlink(), "holds no pipeline"),
          ("damaged weights", cut, "cut short"),
          ("empty weights", lambda p: (p / WEIGHTS).write_bytes(b""), WEIGHTS),
          ("no configuration", lambda p: (p / "unet/config.json").unlink(), "config.json"),
      )),
    bad("publish --dry_run: no such folder", lambda root: plan(root / "none"), "none"),
    bad("publish --dry_run: a name of three parts", with_pipeline(lambda p: plan(p, "a/b/c")), "a/b/c"),
    right("publish --dry_run: no record", with_pipeline(lambda p: "made of the pipeline alone" in plan(p))),
    right("publish --dry_run: a card of one's own",
          with_pipeline(lambda p: plan(p).endswith("mine"), lambda p: write(p, "README.md", content="mine"))),
    right("publish --dry_run: a long name", with_pipeline(lambda p: LONG in plan(p, LONG))),
]  # fmt: skip


# Backgrounds.


def drawn(
    mode: str, channels: int, expected: float, alpha: int = 0, **options: Any
) -> Callable[[Path], bool]:
    """Return the call that reads pictures that are transparent in one half, black there, and looks there."""

    def call(root: Path) -> bool:
        (root / "photos").mkdir()
        array = np.zeros((8, 8, 4), np.uint8)
        array[:, :4] = np.arange(8)[:, None, None] * 36
        array[..., 3] = np.where(np.arange(8) < 4, 255, alpha)
        picture = Image.fromarray(array).convert(mode)
        if mode == "P":
            picture = Image.fromarray(array[..., 0])
            picture.putpalette([value for value in range(256) for _ in "RGB"])
        for number in range(3):
            picture.save(root / "photos" / f"{number}.png", **options)
        say_drawn_on_white.cache_clear()
        data = load_training_data(TrainingConfig(train_data_dir="photos"), 8, channels)
        assert data.dataset is not None
        return bool((data.dataset.plain(range(3))[:, :3, :, 6] == expected).all())

    return call


WHITE = "drawn on white; --channels 4 keeps"
BACKGROUNDS = [
    right("background: RGBA", drawn("RGBA", 3, 1.0), WHITE),
    right("background: RGBA in grey", drawn("RGBA", 1, 1.0), WHITE),
    right("background: LA", drawn("LA", 3, 1.0), WHITE),
    right("background: a palette, opaque", drawn("P", 3, -1.0)),
    right("background: a palette with a transparent colour", drawn("P", 3, 1.0, transparency=0), WHITE),
    right("background: RGBA, opaque", drawn("RGBA", 3, -1.0, alpha=255)),
    right("background: RGBA, kept", drawn("RGBA", 4, -1.0)),
]  # fmt: skip

INPUTS = [*OUTPUT_FOLDERS, *HOME, *FILES, *SETTINGS, *PIPELINES, *BACKGROUNDS]
