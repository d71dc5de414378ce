"""Layouts of the user's own data sets: template points found on their training images with a trained network."""

import functools
from typing import Any

import ml_collections
import numpy as np

from jaxface import prepared_data, pretrained, system
from jaxface.errors import UserError
from jaxface.system import Tree
from jaxface.systems.continuous import layout_search, losses, model, query_table

# Fewer images leave a point's depth on the template open.
MIN_IMAGES = 8


def from_start(config: ml_collections.ConfigDict, dataset: str) -> dict[str, Any]:
    """The entry of `config.layouts` for a data set, found with the model that a run starts from, `config.init`.

    Raises UserError if the run starts from no model of this system, or as `find`.
    """
    if not config.get("init"):
        raise UserError(
            f"data set {dataset}: its landmarks have no template points, and finding them needs a trained model; set "
            "--config.init to a workdir of the system continuous"
        )
    source, params, model_state = pretrained.load(config.init)
    return find(source, params, model_state, dataset, config.data)[0]


def find(
    config: ml_collections.ConfigDict, params: Tree, model_state: Tree, dataset: str, data: ml_collections.ConfigDict
) -> tuple[dict[str, Any], np.ndarray]:
    """Finds the template points of a data set's landmarks with the network kept fixed.

    Args:
        config: the configuration of the trained model.
        params: its parameters.
        model_state: its batch statistics.
        dataset: "NAME[/variant][:SPLIT]" of a data set with landmarks.
        data: section of a configuration with `dir` and `build_examples`, where the data set is.

    Returns:
        The entry of `config.layouts`, {"points": K points, "flip": flip map}, and the mean error (K,) in percent of
        half a crop. The flip map is () if the data set has none, or if its labels are not mirror-symmetric.

    Raises:
        UserError: the data set is not prepared, has no landmarks, or has fewer than MIN_IMAGES images with them.
    """
    from jaxface.systems.continuous import data as examples

    net = model.model_from_config(config.model)
    params = losses.network_params(params)
    locate = system.build(config, "the trained model").predict

    def face_box(image: np.ndarray, box: np.ndarray) -> np.ndarray:
        (face,) = locate(params, model_state, image, boxes=box)
        return face.extent

    where = config.copy_and_resolve_references()
    with where.unlocked():
        where.data = data
    images, points, valid = examples.search_examples(where, dataset, layout_search.MAX_IMAGES, face_box)
    if len(images) < MIN_IMAGES:
        raise UserError(f"data set {dataset}: {len(images)} labelled images; finding a layout needs {MIN_IMAGES}")
    flip = flip_map(dataset, data.dir, points.shape[1])
    search = functools.partial(layout_search.find_points, net, params, model_state, images, points, valid)
    found, error = search(flip)
    if len(flip):
        # Labels may follow a convention that differs between the sides; a flip map would not hold for its points.
        free, free_error = search(np.zeros(0, int), found)
        if not layout_search.is_symmetric(error, free_error, len(images)):
            found, error, flip = free, free_error, np.zeros(0, int)
    entry = {"points": tuple(map(tuple, found.astype(float).round(5).tolist())), "flip": tuple(flip.tolist())}
    return entry, 100 * error


def flip_map(dataset: str, data_dir: str, count: int) -> np.ndarray:
    """The flip map (K,) of a data set's metadata or of its layout; empty if it has none."""
    name = query_table.dataset_name(dataset)
    layout = query_table.LAYOUTS.get(query_table.layout_name(name, data_dir) or "")
    flip = prepared_data.read_metadata(name, data_dir).get("flip", [] if layout is None else layout.flip)
    return np.asarray(flip, int) if len(flip) == count else np.zeros(0, int)
