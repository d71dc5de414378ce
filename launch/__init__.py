"""The jobs of jaxface, each a module with a `main`; see `__main__`."""

import os
import signal
import sys
import types

INTERRUPTED = 130  # exit status after Ctrl-C
STOPPED = "stopped by Ctrl-C"


def stop_at_once(*_: object) -> None:
    """Handler of Ctrl-C before and after a job's `main`: ends the process without a stack trace."""
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(INTERRUPTED)


def show_error(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Hook for exceptions before a job's `main`: a damaged file of the package is one line, as in `app.run`."""
    if kind.__name__ != "UserError":
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(2)


# The imports of a job take seconds. `python -m launch.train` imports this file first, with "-m" in place of the name.
if sys.argv[:1] == ["-m"] or os.path.basename(sys.argv[0]) == "jaxface":
    signal.signal(signal.SIGINT, stop_at_once)
    sys.excepthook = show_error
