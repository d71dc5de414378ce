"""Writes the tables of README.md and docs/ from results/*.json: python -m launch.report [--check]

A table stands between `<!-- results: NAME -->` and `<!-- /results -->`; NAME is a file of results/. README.md gets
the table and its caption; pages of docs/ also get the commands, hardware, seed, commit and date of every run.
"""

import json
import pathlib
import re
from typing import Any

from absl import flags

from jaxface.errors import UserError

from . import app

ROOT = flags.DEFINE_string("root", ".", "checkout that holds README.md, docs/ and results/")
CHECK = flags.DEFINE_bool("check", False, "write nothing; fail if a file is not up to date")

BLOCK = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)
# Width of a code block on a page.
LINE = 76
# Facts recorded for each run; null where unknown.
FACTS = ("hardware", "seed", "steps", "duration", "commit", "date")
RUN_KEYS = {"purpose", "commands", *FACTS}


def main(argv: list[str]) -> int:
    """Rewrites the blocks of every page; returns 1 if `--check` finds a page that is not up to date."""
    del argv
    root, stale = pathlib.Path(ROOT.value), []
    for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        if not page.is_file():
            raise UserError(f"{page}: not found; run this in a checkout, or pass --root CHECKOUT")
        text = page.read_text("utf-8")
        written = filled(text, root / "results", provenance=page.name != "README.md")
        if written != text:
            stale.append(str(page))
            if not CHECK.value:
                page.write_text(written, "utf-8")
    print(f"{'not up to date' if CHECK.value else 'written'}: {', '.join(stale) or 'none'}")
    return 1 if CHECK.value and stale else 0


def filled(text: str, results: pathlib.Path, provenance: bool) -> str:
    """`text` with the body of every results block replaced. Raises UserError if a named result does not exist."""

    def block(match: re.Match) -> str:
        path = results / f"{match['name']}.json"
        if not path.is_file():
            choices = ", ".join(sorted(other.stem for other in results.glob("*.json")))
            raise UserError(f"{path}: not found; choose one of {choices}")
        result = json.loads(path.read_text("utf-8"))
        parts = [table(result), result["caption"]] + ([provenance_note(result["runs"])] if provenance else [])
        return match[1] + "\n" + "\n\n".join(parts) + "\n\n" + match[3]

    return BLOCK.sub(block, text)


def table(result: dict[str, Any]) -> str:
    """A Markdown table; each column has a name and a format for its numbers, and null is an empty cell."""
    columns = result["columns"]
    rows = [[column["name"] for column in columns], ["---"] + ["---:"] * (len(columns) - 1)]
    for values in result["rows"]:
        rows.append([cell(value, column.get("format", "{}")) for value, column in zip(values, columns, strict=True)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(value: str | float | None, form: str) -> str:
    """Text as it is, a number in the column's format."""
    if value is None:
        return ""
    return value if isinstance(value, str) else form.format(value)


def wrap(command: str) -> str:
    """A shell command with line continuations before flags, so that lines have at most LINE characters."""
    first, *flag_words = command.split(" --")
    lines = [first]
    for word in flag_words:
        if len(lines[-1]) + len(word) + len(" -- \\") <= LINE:
            lines[-1] += f" --{word}"
        else:
            lines.append(f"    --{word}")
    return " \\\n".join(lines)


def provenance_note(runs: list[dict[str, Any]]) -> str:
    """A collapsed note (mkdocs-material) with the commands and the recorded facts of each run."""
    lines = ['??? note "Commands, hardware and versions"']
    for run in runs:
        if run.keys() != RUN_KEYS:
            raise UserError(
                f"results: run {run.get('purpose')!r} has other keys; give exactly {', '.join(sorted(RUN_KEYS))}"
            )
        facts = [f"{key}: {run[key]}" for key in FACTS if run[key] is not None]
        lines += ["", f"    **{run['purpose']}.** {'; '.join(facts)}", ""]
        wrapped = "\n".join(wrap(command) for command in run["commands"])
        lines += ["    ```bash", *(f"    {line}" for line in wrapped.splitlines()), "    ```"]
    lines += ["", "    `commit` is the one that recorded the measurement."]
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
