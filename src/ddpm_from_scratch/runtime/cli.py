"""Command lines whose errors are one line."""

import argparse
import sys
from typing import NoReturn


class OneLineErrors(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        sys.exit(2)
