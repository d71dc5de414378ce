"""What a prepared data set says of itself, read without TensorFlow."""

import json
import pathlib

from jaxface.errors import UserError


def metadata(dataset: str, data_dir: str) -> dict:
    """`anchors` (a list of 3A numbers, units), `subjects` and `scans` ({"train": …, "test": …}) of a data set.

    They fill a configuration that leaves them open. UserError where the data set is not there or is of another kind.
    """
    found = sorted((pathlib.Path(data_dir) / dataset).glob("*/metadata.json"), key=_version)
    if not found:
        raise UserError(
            f"data set {dataset} is not in {data_dir}; "
            f"run: python -m launch.prepare --dataset {dataset} --data_dir {data_dir}"
        )
    said = json.loads(found[-1].read_text())
    if not {"anchors", "subjects", "scans"} <= said.keys():
        raise UserError(f"data set {dataset} has no anchors: it is not one of heads' surfaces")
    return said


def _version(path: pathlib.Path) -> list[int]:
    return [int(part) for part in path.parent.name.split(".")]
