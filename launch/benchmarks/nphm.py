"""Benchmarks of NPHM: the identity model of the published size, with a code whose SDF is roughly a head.

The batch size of a benchmark is its number of points, that of `train_step` the number of people.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.heads import head_space
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.system import Tree, build
from jaxface.systems.nphm import losses, model
from jaxface.systems.nphm.fitting import inversion
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.surface import extract, sparse_sdf

from .benchmark import Benchmark, Run, load_config, training_run

DENSE_POINTS, GRADIENT_POINTS, TILED_POINTS, FIT_POINTS, TRAIN_BATCH = 4096, 2048, 16384, 1000, 2
CHUNK = 2048
RESOLUTION = 128
# The original takes minutes for the grid of `extract`; it is measured on a subset of this many points.
BASELINE_POINTS = 8192
# Semi-axes of an ellipsoid the size of a head, in NPHM units.
RADII = np.float32([0.33, 0.45, 0.42])


def benchmarks() -> Iterator[Benchmark]:
    """Signed distances (dense, tiled, with gradient), mesh extraction, a fitting step and a training step."""
    config = load_config("nphm_identity", "reference")
    head = makehuman_head()
    anchors = head_space.to_units(np.asarray(head.template)[head_space.anchor_vertices(head)])
    config.model.anchors, config.model.codes = tuple(anchors.ravel().tolist()), TRAIN_BATCH
    system, net = build(config, "the configuration"), model.identity_model(config)
    params, _ = system.init(jax.random.key(0))
    code = np.zeros(net.code_dim, np.float32)
    params["identity"] = headlike(net, params["identity"], code)
    random = np.random.default_rng(0)
    low, high = np.float32(extract.BOX)

    def sample_points(count: int) -> np.ndarray:
        return random.uniform(low, high, (count, 3)).astype(np.float32)

    def baselines(points: np.ndarray, name: str) -> Callable[[], dict[str, Run]]:
        return functools.partial(_baselines, net, params["identity"], code, points, name)

    sdf = jax.jit(lambda params, chunks: jax.lax.map(lambda points: net.sdf(params, code[None], points[None]), chunks))
    sdf_and_gradient = jax.jit(
        lambda params, chunks: jax.lax.map(
            lambda points: net.sdf_and_gradient(params, code[None], points[None]), chunks
        )
    )
    for metric, function, count, name in (
        ("sdf_dense", sdf, DENSE_POINTS, "sdf"),
        ("sdf_gradient", sdf_and_gradient, GRADIENT_POINTS, "gradient"),
    ):
        points = sample_points(count)
        run = functools.partial(_run_chunked, function, params["identity"], points)
        yield Benchmark("nphm", metric, count, run, baselines(points, name))
    points = sample_points(TILED_POINTS)
    members = sparse_sdf.fold_members(net, params["identity"], code)
    tiled = functools.partial(sparse_sdf.evaluate, members, points)
    yield Benchmark("nphm", "sdf_tiled", TILED_POINTS, tiled, baselines(points, "sdf"))
    run = functools.partial(extract.extract_mesh, net, params["identity"], code, RESOLUTION)
    share = BASELINE_POINTS / RESOLUTION**3
    yield Benchmark("nphm", "extract", RESOLUTION**3, run, baselines(sample_points(BASELINE_POINTS), "sdf"), share)
    points = sample_points(FIT_POINTS) * 0.3
    yield Benchmark("nphm", "fit_step", FIT_POINTS, _fit_step(net, params, points), baselines(points, "fit"))
    yield Benchmark("nphm", "train_step", TRAIN_BATCH, *_train_step(system, net, config, params, random))


def _run_chunked(function: Callable, params: Tree, points: np.ndarray) -> None:
    jax.block_until_ready(function(params, points.reshape(-1, min(CHUNK, len(points)), 3)))


def headlike(net: Ensemble, params: Tree, code: np.ndarray) -> Tree:
    """Random members whose last layers are least-squares fits, at the zero `code`, of the distance to an ellipsoid."""
    random, layers = np.random.default_rng(1), params["members"]
    anchors = np.asarray(net.anchors(params, code[None]))[0]
    last, solutions = f"layer{net.layers}", []
    for network in range(net.network_count):
        member = jax.tree.map(lambda leaf, network=network: leaf[network], layers)
        index = min(2 * network, network + net.pairs)
        center = np.concatenate([anchors, np.zeros((1, 3), np.float32)])[index]
        local = random.normal(0, 0.3, (2000, 3)).astype(np.float32)
        weights, biases = (
            net.mlp.weights(member)[:-1],
            net.mlp.biases(member, np.zeros(net.mlp.code_dim, np.float32))[:-1],
        )
        features = np.concatenate([net.mlp.apply(weights, biases, local), np.ones((2000, 1))], 1)
        scaled = np.linalg.norm((local + center) / RADII, axis=1)
        solved = np.linalg.lstsq(features, (scaled - 1) * RADII.mean(), rcond=1e-6)[0]
        solutions.append(solved.astype(np.float32))
    solved = np.stack(solutions)
    return {**params, "members": {**layers, last: {"kernel": solved[:, :-1, None], "bias": solved[:, -1:]}}}


def _fit_step(net: Ensemble, params: Tree, points: np.ndarray) -> Run:
    fitter = inversion.Fitter(net, None)
    variables = fitter.initial_variables(1)
    state = variables, inversion.ADAM.init(variables)
    weights = inversion.schedule(jnp.zeros(()))
    step = jax.jit(fitter.step)
    valid = np.ones((1, len(points)), bool)
    return lambda: jax.block_until_ready(step(params, state, np.zeros(1, int), points[None], valid, weights))


def _train_step(system: Any, net: Ensemble, config: Any, params: Tree, random: np.random.Generator) -> tuple:
    def normal(count: int) -> np.ndarray:
        return random.normal(0, 0.3, (TRAIN_BATCH, count, 3)).astype(np.float32)

    face, nonface = config.data.face, config.data.nonface
    batch = {"face_points": normal(face), "face_normals": normal(face), "nonface_points": normal(nonface)}
    batch |= {
        "nonface_normals": normal(nonface),
        "anchors": normal(39),
        "subject": np.arange(TRAIN_BATCH, dtype=np.int32),
    }
    train = training_run(system, config, params, {}, batch)

    def baselines() -> dict[str, Run]:
        from . import nphm_torch

        full_batch = jax.device_get(losses.add_space_points(batch, jax.random.key(0), {}))
        arrays = {name: value for name, value in full_batch.items() if name != "subject"}
        codes, settings = np.asarray(params["codes"]), dict(config.loss)
        return {"unfolded": nphm_torch.train_step(net, params["identity"], codes, arrays, settings)}

    return train, baselines


def _baselines(net: Ensemble, params: Tree, code: np.ndarray, points: np.ndarray, name: str) -> dict[str, Run]:
    from . import nphm_torch

    return {"unfolded": nphm_torch.runs(net, params, code, points)[name]}
