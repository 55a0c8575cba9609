"""What a training run promises, each promise tried: python tests/reliability/reliability.py.

Every row injects its faults into real runs of training/train.py (see runs.py) and counts how often the
promise held. The runs are tiny; the code is that of any run. --sample tries a few cases of each row, as the
tests do. "Identical" means equal SHA-256 of the exported weights, averaged and raw.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from promises import ROWS, reading


def main(argv: list[str] | None = None) -> int:
    """Try the rows and print the table; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", action="store_true", help="try a few cases of each row")
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--read_stream", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.read_stream:
        reading.read_stream(args.read_stream[0], int(args.read_stream[1]))
        return 0
    names: Iterable[str] = args.only or ROWS
    print("| promise | what is tried | held | seconds |\n|---|---|---|---|", flush=True)
    broken = {}
    for name in names:
        began = time.monotonic()
        result = ROWS[name](args.sample)
        what = (ROWS[name].__doc__ or "").strip().rstrip(".")
        what += f" ({result.detail})" if result.detail else ""
        seconds = time.monotonic() - began
        print(f"| {name} | {what} | {result.passed}/{result.total} | {seconds:.0f} |", flush=True)
        broken |= {f"{name}: {case}": reason for case, reason in result.failures.items()}
    for case, reason in broken.items():
        print(f"\nBROKEN {case}\n{reason}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
