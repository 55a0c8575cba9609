"""Upload a finished run to the Hub: python training/publish.py runs/digits --repo_id user/digits.

One commit of the pipeline, its card, figures and pictures; no checkpoints and no logs. The weights are
checked first; results.json and the card name the repository. Exit status: 0 done, 2 a setting or the folder
must be changed, 5 the Hub refused or cannot be reached. With --dry_run nothing is uploaded or written.
"""

import argparse
import os
import sys
from pathlib import Path

from ddpm_from_scratch.runtime.cli import OneLineErrors
from ddpm_from_scratch.runtime.errors import exit_status


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = OneLineErrors("publish.py", __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=os.path.expanduser, help="folder with a pipeline, such as the --output_dir of a run"
    )
    parser.add_argument("--repo_id", help="user/name, or name for the token's user; else the folder's name")
    parser.add_argument("--private", action="store_true", help="create the repository private")
    parser.add_argument("--branch", help="branch to commit to, created if missing; else main")
    parser.add_argument("--tag", help="tag for the commit; one of that name is moved")
    parser.add_argument("--token", help="token of the Hub; better stored with 'hf auth login'")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the folder's own code of a network that the package does not know, to check its weights",
    )
    parser.add_argument(
        "--dry_run",
        "--dry-run",
        action="store_true",
        help="check the weights and print what would go up, files and card; needs no token and no network",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Publish, and return the exit status; any but 0 comes with one line on what to do."""
    args = make_parser().parse_args(argv)
    # Not before the flags are checked: torch takes seconds to load.
    from ddpm_from_scratch.sharing.publish import plan, publish

    folder, options = Path(args.folder), {"trust_remote_code": args.trust_remote_code}
    if args.dry_run:
        return exit_status("publish.py", lambda: print(plan(folder, args.repo_id, **options)))
    options |= {"private": args.private, "token": args.token, "branch": args.branch, "tag": args.tag}
    return exit_status("publish.py", lambda: print("pushed to", publish(folder, args.repo_id, **options)))


if __name__ == "__main__":
    sys.exit(main())
