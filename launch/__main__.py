"""The console script `jaxface`: runs a job by its name, `jaxface infer --input photo.jpg --output out`.

In a checkout `python -m launch infer …` and `python -m launch.infer …` do the same.
"""

import ast
import importlib
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parent
USAGE = "usage: jaxface JOB [--flag value …]; jaxface JOB --help lists the flags of a job"


def jobs() -> dict[str, str]:
    """Names of the jobs and what each does: the files of this folder with a `main`, the first line of their docstring.

    The files are parsed, not imported: importing all of them takes seconds and defines the same flags twice.
    """
    summaries = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        if "main" in functions:
            summaries[path.stem] = (ast.get_docstring(tree) or "").split("\n")[0].split(": ")[0].rstrip(".:")
    return summaries


def main() -> None:
    """Runs `sys.argv[1]` with the other arguments; without a job, lists them. Exits with the status of the job."""
    summaries = jobs()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "-help", "--help", "help"):
        width = max(map(len, summaries))
        print("\n".join([USAGE, "", *(f"  {job:<{width}}  {line}" for job, line in summaries.items())]))
        return
    if name not in summaries:
        print(f"error: {name}: no such job; choose one of {', '.join(summaries)}", file=sys.stderr)
        sys.exit(2)
    sys.argv[:2] = [f"jaxface {name}"]
    from . import app

    app.run(importlib.import_module(f"{__package__}.{name}").main)


if __name__ == "__main__":
    main()
