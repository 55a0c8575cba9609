"""Turn old weights into a saved pipeline: python training/convert.py cifar10.pt runs/cifar10 --image_size 32.

SOURCE is a checkpoint of improved-diffusion, guided-diffusion or lucidrains' denoising-diffusion-pytorch, or
the folder or repository of a diffusers pipeline whose weights are pickled (.bin). Nothing of it is run. What
weights say is read from them; the flags are for what they do not say, and each default that was taken is
printed. Exit status: 0 done, 2 a setting or the file must be changed.
"""

import argparse
import dataclasses
import sys

from ddpm_from_scratch.conversion.settings import ConversionSettings
from ddpm_from_scratch.runtime.cli import OneLineErrors, add_flags
from ddpm_from_scratch.runtime.errors import exit_status


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = OneLineErrors("convert.py", __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="file, folder, or repository's id")
    parser.add_argument("output_dir", help="new folder for the pipeline")
    add_flags(parser, ConversionSettings)
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert, and print what was read and what was assumed.

    Raises:
        RunError: anything the user can mend.
    """
    names = [item.name for item in dataclasses.fields(ConversionSettings)]
    settings = ConversionSettings(**{name: getattr(args, name) for name in names})
    # Not before the flags are checked: torch takes seconds to load.
    from ddpm_from_scratch.conversion.converted import convert

    for note in convert(args.source, args.output_dir, settings):
        print(note)
    print(f"saved to {args.output_dir}; upload it with: python training/publish.py {args.output_dir}")


def main(argv: list[str] | None = None) -> int:
    """Convert, and return the exit status; any but 0 comes with one line on what to do."""
    args = make_parser().parse_args(argv)
    return exit_status("convert.py", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
