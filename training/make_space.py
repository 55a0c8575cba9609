"""Make a page that samples from a model in the browser: python training/make_space.py user/digits.

The page is a static Space of the Hub: no server, nothing to install. It loads the weights of the model's
repository; made from a folder (runs/digits), it has them beside it and runs from any web server. With
--space_id it is uploaded. Exit status: 0 done, 2 a setting or the model must be changed, 5 the Hub refused or
cannot be reached.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from ddpm_from_scratch.runtime.cli import Bounds, OneLineErrors, say_unused
from ddpm_from_scratch.runtime.errors import ConfigError, exit_status
from ddpm_from_scratch.runtime.unused import Only

_RULES = {"private": (Only("space_id"),)}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = OneLineErrors("make_space.py", __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=os.path.expanduser, help="repository's id, or the folder of a pipeline")
    parser.add_argument(
        "--output_dir",
        type=os.path.expanduser,
        help="folder for the page; if not given, the model's name and '-space', or none with --space_id",
    )
    parser.add_argument(
        "--num_inference_steps", type=int, help="steps of a sample; 10 by few steps, else 100, if not given"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the repository")
    parser.add_argument("--space_id", help="Space to upload the page to, such as user/digits-space")
    parser.add_argument("--private", action="store_true", help="create the Space private")
    parser.add_argument("--token", help="token of the Hub; better stored with 'hf auth login'")
    return parser


def run(args: argparse.Namespace) -> None:
    """Make the page, and push it if that is asked for.

    Raises:
        RunError: anything the user can mend.
    """
    Bounds(least=1).check("num_inference_steps", args.num_inference_steps)
    if args.revision is not None and Path(args.model).is_dir():
        raise ConfigError(f"--revision is {args.revision!r}, but {args.model!r} is a folder, which has none.")
    say_unused("make_space.py", ["private"] if args.private else [], vars(args), _RULES)
    # Not before the flags are checked: torch takes seconds to load.
    from ddpm_from_scratch.hub.upload import push_space
    from ddpm_from_scratch.sharing.publish import hub_errors
    from ddpm_from_scratch.sharing.space import make_space

    # Of a page that goes to the Hub no folder is left, unless one is asked for.
    with tempfile.TemporaryDirectory() as passing:
        kept = args.output_dir or (None if args.space_id else f"{Path(args.model).resolve().name}-space")
        output_dir = Path(kept or passing)
        make_space(args.model, output_dir, args.num_inference_steps, args.revision, args.token)
        if kept:
            print(f"saved to {output_dir}; look at it with: python -m http.server --directory {output_dir}")
        if args.space_id:
            with hub_errors():
                url = push_space(output_dir, args.space_id, private=args.private, token=args.token)
            print(f"pushed to {url}")


def main(argv: list[str] | None = None) -> int:
    """Make the page, and return the exit status; any but 0 comes with one line on what to do."""
    args = make_parser().parse_args(argv)
    return exit_status("make_space.py", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
