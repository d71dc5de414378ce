"""Smoke configurations of all systems with random batches: nothing is prepared, and TensorFlow is not loaded."""

import importlib

import ml_collections
import numpy as np

CONFIGS = ("continuous", "pipnet", "jvcr", "deep3d", "nphm_identity", "nphm_expression")
ANCHORS = 39
SUBJECTS = 4


def config(name: str, **model) -> ml_collections.ConfigDict:
    """The smoke variant of configs/`name`.py with `model` keys, and with what it would read from its data set."""
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    config.data.build_examples = 0
    if name.startswith("nphm"):
        anchors = np.random.default_rng(5).uniform(-0.4, 0.4, 3 * ANCHORS)
        identity = config.model if name == "nphm_identity" else config.random_identity
        identity.anchors, identity.codes = tuple(anchors.tolist()), SUBJECTS
        config.model.codes = SUBJECTS
    config.model.update(model)
    return config


def batch(config: ml_collections.ConfigDict, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A training batch of `count` random examples, as `System.train_data` yields it."""
    rng = np.random.default_rng(seed)
    name = config.system if config.system != "nphm" else config.phase
    arrays = {"continuous": _continuous, "pipnet": _pipnet, "jvcr": _jvcr, "deep3d": _deep3d}
    arrays |= {"identity": _identity, "expression": _expression}
    values = arrays[name](config, count, rng)
    return {key: np.float32(value) if value.dtype == np.float64 else value for key, value in values.items()}


def _image(config, count, rng):
    return rng.integers(0, 256, (count, config.model.image_size, config.model.image_size, 3), np.uint8)


def _continuous(config, count, rng):
    queries = 68 + config.data.num_surface_samples
    return {
        "image": _image(config, count, rng),
        "queries": rng.uniform(-1, 1, (count, queries, 3)),
        "points": rng.uniform(-1, 1, (count, queries, 2)),
        "valid": np.ones((count, queries), bool),
        "asked": np.ones((count, queries), bool),
        "dataset": np.zeros(count, np.int32),
        "mirrored": np.zeros(count, bool),
    }


def _pipnet(config, count, rng):
    return {"image": _image(config, count, rng), "points": rng.random((count, config.model.landmarks, 2))}


def _jvcr(config, count, rng):
    points = config.model.points
    return {
        "image": _image(config, count, rng),
        "coordinates": rng.uniform(4, config.model.image_size - 4, (count, points, 3)),
        "valid": np.ones((count, points), bool),
        "in_volume": np.ones((count, points), bool),
    }


def _deep3d(config, count, rng):
    return {
        "image": _image(config, count, rng),
        "landmarks": rng.uniform(60, 160, (count, 68, 2)),
        "dense": rng.uniform(60, 160, (count, config.model.num_dense_points, 2)),
    }


def _unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _identity(config, count, rng):
    normals = _unit(rng, count, config.data.face + config.data.nonface, 3)
    face, nonface = normals[:, : config.data.face], normals[:, config.data.face :]
    return {
        "subject": (np.arange(count) % SUBJECTS).astype(np.int32),
        "anchors": np.broadcast_to(np.reshape(config.model.anchors, (-1, 3)), (count, ANCHORS, 3)).astype(np.float32),
        "face_points": 0.4 * face,
        "face_normals": face,
        "nonface_points": 0.4 * nonface,
        "nonface_normals": nonface,
    }


def _expression(config, count, rng):
    neutral = 0.4 * _unit(rng, count, config.data.pairs, 3)
    return {
        "subject": (np.arange(count) % SUBJECTS).astype(np.int32),
        "scan": (np.arange(count) % SUBJECTS).astype(np.int32),
        "neutral": neutral,
        "posed": neutral + 0.02 * np.sin(5 * neutral),
    }
