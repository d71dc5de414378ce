"""What a published evaluation is: a reader of the benchmark's own files, a table, curves, and its worst cases."""

import csv
import dataclasses
import io
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from jaxface import error_plots, outputs
from jaxface.errors import UserError, disk_errors
from jaxface.inference import Predictor

# Examples of the contact sheet.
WORST = 12
# Endings of the files of an evaluation.
ENDINGS = (".json", ".md", ".csv", "_ced.png", "_worst.png")

Draw = Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Request:
    """One evaluation that a user asked for.

    Attributes:
        manual_dir: the benchmark's files.
        output: folder of the results.
        predictor: the model; None if `predictions` are scored.
        predictions: folder of predicted meshes, for protocols that take them; see each protocol.
        metrical: do not estimate the size of the heads.
        unit_mm: size in mm of the unit of predicted meshes, for `metrical`.
    """

    manual_dir: pathlib.Path
    output: pathlib.Path
    predictor: Predictor | None = None
    predictions: pathlib.Path | None = None
    metrical: bool = False
    unit_mm: float = 1.0

    def model(self) -> Predictor:
        """The predictor. Raises UserError if there is none."""
        if self.predictor is None:
            raise UserError("--predictions: this protocol scores a model, not meshes; give --workdir or --system")
        return self.predictor


@dataclasses.dataclass(frozen=True)
class Item:
    """One scored example.

    Attributes:
        name: its name in the benchmark.
        error: the error by which examples are ranked.
        groups: the rows of the table in which it counts.
        draw: returns a picture (H,W,3) uint8 for the contact sheet, None without one.
    """

    name: str
    error: float
    groups: tuple[str, ...] = ()
    draw: Draw | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a protocol.

    Attributes:
        table: `{row: {metric: value}}`.
        items: every scored example.
        curves: errors by name for the CED plot.
        limit: largest error of the CED plot.
        label: the error and its unit.
        skipped: `{name: reason}` of examples that could not be scored.
    """

    table: Mapping[str, Mapping[str, float]]
    items: Sequence[Item]
    curves: Mapping[str, np.ndarray]
    limit: float
    label: str
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A published evaluation.

    Attributes:
        systems: systems whose models it scores, the default first.
        tree: the files expected in `manual_dir`.
        published: the published numbers to compare with.
        run: scores a model or predictions.
        takes_predictions: whether `Request.predictions` is accepted.
    """

    systems: tuple[str, ...]
    tree: str
    published: str
    run: Callable[[Request], Outcome]
    takes_predictions: bool = False


def score_each(names: Sequence[str], score: Callable[[str], Item], skipped: dict[str, str]) -> Iterator[Item]:
    """`score(name)` of each name; an example that raises UserError is recorded in `skipped` and logged.

    Raises UserError with the first reason if no example could be scored.
    """
    count = 0
    for name in names:
        try:
            item = score(name)
        except UserError as error:
            skipped[name] = str(error)
            logging.getLogger("jaxface").warning("%s: %s", name, error)
            continue
        count += 1
        yield item
    if not count:
        name, reason = next(iter(skipped.items()))
        raise UserError(f"none of the {len(skipped)} examples could be scored; the first one, {name}: {reason}")


def worst_pictures(items: Sequence[Item]) -> list[Item]:
    """The items, of which only the WORST keep their picture, so that the others' memory is freed."""
    bound = sorted((item.error for item in items), reverse=True)[:WORST][-1:]
    return [item if item.error >= bound[0] else dataclasses.replace(item, draw=None) for item in items]


def errors_by_group(items: Sequence[Item]) -> dict[str, np.ndarray]:
    """Errors (E,) of the items of each group, groups in order of their first item; "all" is first."""
    groups = {"all": [item.error for item in items]}
    for item in items:
        for group in item.groups:
            groups.setdefault(group, []).append(item.error)
    return {name: np.array(values) for name, values in groups.items()}


def check_targets(name: str, folder: pathlib.Path) -> outputs.Writer:
    """The writer of the results, before the evaluation. Raises UserError if a file of another program is in the way."""
    writer = outputs.Writer(folder)
    writer.check(folder / f"{name}{ending}" for ending in ENDINGS)
    return writer


def write(outcome: Outcome, protocol: Protocol, name: str, folder: pathlib.Path) -> None:
    """Writes NAME.json, NAME.md (the table), NAME.csv (errors by example), NAME_ced.png and NAME_worst.png.

    Raises UserError if the disk is full or not writable, or a file of another program is in the way.
    """
    writer = check_targets(name, folder)
    entry = {
        "table": outcome.table,
        "examples": len(outcome.items),
        "skipped": dict(outcome.skipped),
        "published": protocol.published,
        **outputs.listing([f"{name}{ending}" for ending in ENDINGS]),
    }
    rows = io.StringIO()
    lines = csv.writer(rows)
    lines.writerow(["name", outcome.label, "groups"])
    ranked = sorted(outcome.items, key=lambda item: -item.error)
    lines.writerows([item.name, item.error, " ".join(item.groups)] for item in ranked)
    with disk_errors(folder):
        writer.make_folder()
        writer.write(folder / f"{name}.json", (json.dumps(entry, indent=2) + "\n").encode())
        writer.write(folder / f"{name}.md", f"{markdown(outcome.table)}\nPublished: {protocol.published}\n".encode())
        writer.write(folder / f"{name}.csv", rows.getvalue().encode())
    error_plots.write_ced_plot(folder / f"{name}_ced.png", outcome.curves, outcome.limit, outcome.label)
    worst = [item for item in ranked if item.draw is not None][:WORST]
    titles = [f"{item.error:.3g} {item.name}" for item in worst]
    error_plots.write_contact_sheet(folder / f"{name}_worst.png", [item.draw() for item in worst if item.draw], titles)


def markdown(table: Mapping[str, Mapping[str, float]]) -> str:
    """A table in Markdown; metrics that a row does not have are empty."""
    columns = list(dict.fromkeys(metric for row in table.values() for metric in row))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, row in table.items():
        cells = [f"{row[column]:.4g}" if column in row else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read_lines(path: str | os.PathLike, tree: str) -> list[str]:
    """The non-empty lines of a text file of a benchmark. Raises UserError if it is missing or not text."""
    try:
        lines = pathlib.Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected {tree}") from error
    return [line.strip() for line in lines if line.strip()]
