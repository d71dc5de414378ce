"""What a prepared data set was made from: `source.json` next to its records, and the check against another folder."""

import hashlib
import json
import pathlib

from jaxface import photo
from jaxface.data import image_index
from jaxface.errors import UserError

SOURCE_FILE = "source.json"
# Files other than images are compared by their content up to this size; larger ones and images by their size.
MAX_HASHED_BYTES = 2**20


def fingerprint(manual_dir: str | pathlib.Path, data_dir: str | pathlib.Path) -> dict[str, str | int]:
    """The state of the files in `manual_dir`: its path, the number of files, and a digest of their names and contents.

    Prepared data in `data_dir` do not count, if that is inside `manual_dir`.
    """
    root, prepared = pathlib.Path(manual_dir).resolve(), pathlib.Path(data_dir).resolve()
    digest, count = hashlib.sha256(), 0
    for path in image_index.walk(root):
        if prepared != root and path.is_relative_to(prepared):
            continue
        count += 1
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode("utf-8", "surrogateescape"))
        if size <= MAX_HASHED_BYTES and path.suffix.lower() not in photo.IMAGE_SUFFIXES:
            digest.update(path.read_bytes())
    return {"manual_dir": str(root), "files": count, "sha256": digest.hexdigest()}


def write(folder: pathlib.Path, source: dict[str, str | int]) -> None:
    """Writes the fingerprint of a data set's source into its folder."""
    (folder / SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n")


def check(dataset: str, folder: pathlib.Path, source: dict[str, str | int]) -> None:
    """Raises UserError if the data set in `folder` was made from other files than those of `source`.

    Data sets of earlier versions, which have no SOURCE_FILE, are accepted.
    """
    try:
        previous = json.loads((folder / SOURCE_FILE).read_text())
        path, digest = previous["manual_dir"], previous["sha256"]
    except OSError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / SOURCE_FILE}: damaged; remove {folder} to prepare the data set again") from error
    if digest == source["sha256"]:
        return
    reason = f"{path} has changed since" if path == source["manual_dir"] else f"not from {source['manual_dir']}"
    other_name = " or another name, landmark_folder/NAME" if dataset.startswith("landmark_folder") else ""
    raise UserError(
        f"data set {dataset} in {folder} was made from {path}, {reason}; to make it again remove {folder}, to keep "
        f"both use another --data_dir{other_name}"
    )
