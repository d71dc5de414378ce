"""Prepared data sets on disk, found and described without TensorFlow: DATA_DIR/NAME[/variant]/VERSION/."""

import json
import pathlib
import re

from jaxface import storage
from jaxface.errors import UserError, is_remote

METADATA_FILE = "metadata.json"
INFO_FILE = "dataset_info.json"
MAX_SHOWN_CHARS = 80
BUILDERS = pathlib.Path(__file__).parent / "data" / "builders"
# A data set has the name of the module that builds it, except where that is not a valid module name.
RENAMED = {"ibug300w": "300w", "ibug300vw": "300vw"}


def parse_name(name: str, default_split: str) -> tuple[str, str]:
    """("NAME[/variant]", split) of a data set given as "NAME[/variant][:SPLIT]"."""
    dataset, _, split = name.partition(":")
    return dataset, split or default_split


def names() -> list[str]:
    """The names of the data sets that launch.prepare builds."""
    modules = [path.stem for path in sorted(BUILDERS.glob("[!_]*.py"))]
    return [RENAMED.get(name, name) for name in modules]


def newest_version(dataset: str, data_dir: str | pathlib.Path) -> pathlib.Path | None:
    """The folder of the newest prepared version of "NAME[/variant]"; None if it is not prepared."""
    root = storage.path(data_dir)
    try:
        folders = [path.parent for path in (root / dataset).glob(f"*/{INFO_FILE}")]
    except (OSError, ValueError):  # A name that no file can have.
        return None
    versions = [folder for folder in folders if re.fullmatch(r"\d+(\.\d+)*", folder.name)]
    return max(versions, key=lambda folder: [int(part) for part in folder.name.split(".")], default=None)


def check_known(dataset: str, data_dir: str | pathlib.Path) -> None:
    """Raises UserError if "NAME[/variant]" is not prepared and launch.prepare does not know its name."""
    if newest_version(dataset, data_dir) is None and dataset.partition("/")[0] not in names():
        shown = dataset if len(dataset) <= MAX_SHOWN_CHARS else f"{dataset[:MAX_SHOWN_CHARS]}…"
        raise UserError(
            f"config.data: unknown data set {shown!r}; prepare it in {data_dir}, or choose one of {', '.join(names())}"
        )


def find(dataset: str, data_dir: str | pathlib.Path) -> pathlib.Path:
    """As `newest_version`. Raises UserError, with the command that prepares the data set, if there is none."""
    check_known(dataset, data_dir)
    folder = newest_version(dataset, data_dir)
    if folder is None and is_remote(data_dir):
        raise UserError(
            f"data set {dataset} is not in {data_dir}; prepare it in a folder of this machine and copy that there"
        )
    if folder is None:
        raise UserError(
            f"data set {dataset} is not in {data_dir}; "
            f"run: python -m launch.prepare --dataset {dataset} --data_dir {data_dir}"
        )
    return folder


def count_examples(dataset: str, split: str, data_dir: str | pathlib.Path) -> int:
    """Number of examples in a split of the newest prepared version of "NAME[/variant]".

    0 if the data set is not prepared or has no split of this name, for example because it is a slice ("train[:10%]").
    Raises UserError if the description of the data set is damaged.
    """
    folder = newest_version(dataset, data_dir)
    if folder is None:
        return 0
    path = folder / INFO_FILE
    try:
        splits = json.loads(path.read_text("utf-8")).get("splits", [])
        lengths = {one["name"]: sum(map(int, one.get("shardLengths", ()))) for one in splits}
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        raise damaged(path, error) from error
    return lengths.get(split, 0)


def read_metadata(dataset: str, data_dir: str | pathlib.Path) -> dict:
    """The builder's metadata of the newest version, such as mean face or anchors; {} if it wrote none.

    Raises UserError if the data set is not prepared or the file is damaged.
    """
    path = find(dataset, data_dir) / METADATA_FILE
    if not path.is_file():
        return {}
    try:
        metadata = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(metadata, dict):
        raise damaged(path, "not a JSON object")
    return metadata


def damaged(path: pathlib.Path, reason: object) -> UserError:
    """The error about a damaged file, or folder, of a prepared data set."""
    folder = path if path.is_dir() else path.parent
    text = " ".join(str(reason).split())
    return UserError(f"{path}: damaged ({text}); remove {folder} and prepare the data set again")
