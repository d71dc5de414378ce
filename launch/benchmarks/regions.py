"""Error and sigma of a detector in every region of rendered heads: python -m launch.benchmarks.regions [--workdir W]

Renders unseen heads in jittered crops and asks for every vertex of each region that head and template share, hidden or
not, and for the joints. Prints a JSON line per region: the mean error and the mean sigma in percent of half the crop,
the error relative to that of the face, and the mean error of a Gaussian of that sigma relative to the error.
"""

import json
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jaxface import pretrained
from jaxface.geometry import camera, crop_jitter
from jaxface.heads import canonical, scenes, sources
from jaxface.heads.morphable import MorphableHead
from jaxface.inference import ASSETS
from jaxface.systems.continuous import crop_units, losses, model
from jaxface.systems.continuous.rendering import SCENE_SIZE
from jaxface.systems.continuous.values import REGIONS

from .. import app

WORKDIR = flags.DEFINE_string("workdir", None, "workdir of a continuous run (default: the pretrained model)")
HEAD = flags.DEFINE_enum("head", sources.EMBEDDED, sources.NAMES, "head model that is rendered")
PATH = flags.DEFINE_string("path", "", "file or folder of the head model, where it needs one")
IMAGES = flags.DEFINE_integer("images", 40, "number of images")
SEED = flags.DEFINE_integer("seed", 12345, "seed of the images")

# Vertices of a region that are asked for at most.
MAX_POINTS = 400
# Mean distance of an isotropic 2D Gaussian, in standard deviations.
RAYLEIGH_MEAN = float(np.sqrt(np.pi / 2))


def main(argv: list[str]) -> None:
    """Renders the images, scores each region and prints the lines."""
    del argv
    config, params, model_state = pretrained.load(WORKDIR.value or ASSETS / "continuous")
    net = model.model_from_config(config.model)
    variables = {"params": losses.network_params(params), **model_state}
    head = sources.load_head(HEAD.value, PATH.value)
    queries = dict(region_queries(head))
    errors: dict[str, list] = {name: [] for name in queries}
    sigmas: dict[str, list] = {name: [] for name in queries}
    encode = jax.jit(lambda image: net.apply(variables, image, method="encode"))
    query = jax.jit(lambda features, asked: net.apply(variables, features, asked, method="query"))
    for image, labels in rendered(head, config.model.image_size):
        features = encode(image[None])
        for name, (index, places) in queries.items():
            asked = canonical.in_template(places, config.model.template)
            points, sigma = (np.asarray(array[0]) for array in query(features, asked[None]))
            inside = (np.abs(labels[index]) < crop_units.MAX_COORDINATE).all(-1)
            errors[name].append(np.linalg.norm(points - labels[index], axis=-1)[inside])
            sigmas[name].append(sigma[inside])
    means = {name: (np.concatenate(errors[name]).mean(), np.concatenate(sigmas[name]).mean()) for name in queries}
    for name, (error, sigma) in means.items():
        row = {"region": name, "error": 100 * error, "sigma": 100 * sigma}
        row |= {"of_face": error / means["face"][0], "sigma_of_error": RAYLEIGH_MEAN * sigma / error}
        print(json.dumps({key: value if key == "region" else round(float(value), 3) for key, value in row.items()}))


def region_queries(head: MorphableHead) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """For each region its name, indices (P,) into vertices and joints (V+4), and template points (P,3)."""
    places = canonical.canonical_vertices(head)
    for name in canonical.shared_regions(head, REGIONS):
        index = np.flatnonzero(np.asarray(head.regions[name]))
        index = index[np.unique(np.linspace(0, len(index) - 1, MAX_POINTS).astype(int))]
        yield name, (index, places[index])
    if canonical.has_joints(head):
        yield canonical.JOINTS, (len(places) + np.arange(4), canonical.queries(canonical.JOINTS))


def rendered(head: MorphableHead, size: int) -> Iterator[tuple[jax.Array, np.ndarray]]:
    """Crops (S,S,3), and the places (V+4,2) of vertices and joints in `crop_units`."""
    weights = canonical.joint_weights(head) if canonical.has_joints(head) else np.zeros((0, len(head.template)))
    arrays = jax.device_put((scenes.renderable(head), weights.astype(np.float32)))

    @jax.jit
    def render(head: MorphableHead, weights: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        scene_key, crop_key = jax.random.split(key)
        scene = scenes.sample_scene(head, scene_key, SCENE_SIZE, scenes.WITH_ACCESSORIES)
        crop = crop_jitter.sample_matrix(crop_key, scenes.face_box(head, scenes.project_vertices(head, scene)[1]), size)
        found = scenes.render(head, scene, size, crop)
        joints = camera.project(weights @ found.points, scene.focal_px, scene.center_px) @ crop[:, :2].T + crop[:, 2]
        return found.image, crop_units.from_pixels(jnp.concatenate([found.points_px, joints]), size)

    for key in jax.random.split(jax.random.key(SEED.value), IMAGES.value):
        image, labels = render(*arrays, key)
        yield image, np.asarray(labels)


if __name__ == "__main__":
    app.run(main)
