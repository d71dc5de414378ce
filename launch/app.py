"""What every launcher shares: run `main` under absl and turn a user's mistake into one line."""

import sys
from collections.abc import Callable

from absl import app

from jaxface.errors import UserError


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs `main(argv)` under absl; a `UserError` becomes `error: …` on stderr and exit status 2."""

    def guarded(argv: list[str]) -> int | None:
        try:
            if len(argv) > 1:
                raise UserError(f"unknown argument {argv[1]!r}; see --help")
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    app.run(guarded)
