"""What `launch.bench --system nphm` measures: the identity model of the published size on one head-like code."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import nphm_identity
from jaxface import inference
from jaxface.heads import head_space
from jaxface.heads.procedural import procedural_head
from jaxface.system import Tree
from jaxface.systems.nphm import losses, model
from jaxface.systems.nphm.fitting import inversion
from jaxface.systems.nphm.networks import members
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.surface import extract
from launch.benchmarks.work import Run, Work, training_run

DENSE, GRADIENT, TILED, FITTED, TRAINED = 4096, 2048, 16384, 1000, 2
RESOLUTION = 128
# The original takes minutes for the grid: it is measured on this part of it.
PEER_POINTS = 8192
RADII = np.float32([0.33, 0.45, 0.42])


def works() -> Iterator[Work]:
    """Everything measured, batches being points or people."""
    config = nphm_identity.get_config("reference")
    head = procedural_head()
    anchors = head_space.to_units(np.asarray(head.template)[head_space.anchor_vertices(head)])
    config.model.anchors, config.model.codes = tuple(anchors.ravel().tolist()), TRAINED
    system, net = inference.build(config, "the configuration"), model.identity_model(config)
    params, _ = system.init(jax.random.key(0))
    code = np.zeros(net.code, np.float32)
    params["identity"] = headlike(net, params["identity"], code)
    random = np.random.default_rng(0)
    low, high = np.float32(extract.BOX)

    def points(count: int) -> np.ndarray:
        return random.uniform(low, high, (count, 3)).astype(np.float32)

    peers = functools.partial(functools.partial, _peers, net, params["identity"], code)
    chunked = jax.jit(lambda params, points: jax.lax.map(lambda part: net.sdf(params, code[None], part[None]), points))
    slopes = jax.jit(
        lambda params, points: jax.lax.map(lambda part: net.sdf_and_gradient(params, code[None], part[None]), points)
    )
    for metric, run, count, name in (
        ("sdf_dense", chunked, DENSE, "sdf"),
        ("sdf_gradient", slopes, GRADIENT, "gradient"),
    ):
        where = points(count)
        ours = functools.partial(run, params["identity"], where.reshape(-1, min(2048, count), 3))
        yield Work("nphm", metric, count, lambda ours=ours: jax.block_until_ready(ours()), peers(where, name))
    where = points(TILED)
    folded = members.fold(net, params["identity"], code)
    yield Work("nphm", "sdf_tiled", TILED, lambda: members.distances(folded, where), peers(where, "sdf"))
    run = functools.partial(extract.mesh, net, params["identity"], code, RESOLUTION)
    share = PEER_POINTS / RESOLUTION**3
    yield Work("nphm", "extract", RESOLUTION**3, run, peers(points(PEER_POINTS), "sdf"), share)
    where = points(FITTED) * 0.3
    yield Work("nphm", "fit_step", FITTED, _fit_step(net, params, where), peers(where, "fit"))
    yield Work("nphm", "train_step", TRAINED, *_train_step(system, net, config, params, random))


def headlike(net: Ensemble, params: Tree, code: np.ndarray) -> Tree:
    """Random members whose last layers are solved, under the all-zero `code`, for the distance to an ellipsoid."""
    random, layers = np.random.default_rng(1), params["members"]
    anchors = np.asarray(net.anchors(params, code[None]))[0]
    last, made = f"layer{net.layers}", []
    for network in range(net.members - net.pairs):
        own = jax.tree.map(lambda leaf, network=network: leaf[network], layers)
        index = min(2 * network, network + net.pairs)
        center = np.concatenate([anchors, np.zeros((1, 3), np.float32)])[index]
        local = random.normal(0, 0.3, (2000, 3)).astype(np.float32)
        weights, biases = net.mlp.weights(own)[:-1], net.mlp.biases(own, np.zeros(net.mlp.code, np.float32))[:-1]
        features = np.concatenate([net.mlp.apply(weights, biases, local), np.ones((2000, 1))], 1)
        scaled = np.linalg.norm((local + center) / RADII, axis=1)
        solved = np.linalg.lstsq(features, (scaled - 1) * RADII.mean(), rcond=1e-6)[0]
        made.append(solved.astype(np.float32))
    solved = np.stack(made)
    return {**params, "members": {**layers, last: {"kernel": solved[:, :-1, None], "bias": solved[:, -1:]}}}


def _fit_step(net: Ensemble, params: Tree, points: np.ndarray) -> Run:
    fitter = inversion.Fitter(net, None)
    codes = fitter.start(1)
    state = codes, inversion.ADAM.init(codes)
    weights = inversion.schedule(jnp.zeros(()))
    step = jax.jit(fitter.step)
    valid = np.ones((1, len(points)), bool)
    return lambda: jax.block_until_ready(step(params, state, np.zeros(1, int), points[None], valid, weights))


def _train_step(system: Any, net: Ensemble, config: Any, params: Tree, random: np.random.Generator) -> tuple:
    def draw(count: int) -> np.ndarray:
        return random.normal(0, 0.3, (TRAINED, count, 3)).astype(np.float32)

    face, nonface = config.data.face, config.data.nonface
    batch = {"face_points": draw(face), "face_normals": draw(face), "nonface_points": draw(nonface)}
    batch |= {"nonface_normals": draw(nonface), "anchors": draw(39), "subject": np.arange(TRAINED, dtype=np.int32)}
    train = training_run(system, config, params, {}, batch)

    def peers() -> dict[str, Run]:
        from launch.benchmarks import nphm_torch

        whole = jax.device_get(losses.add_space_points(batch, jax.random.key(0), {}))
        numbers = {name: value for name, value in whole.items() if name != "subject"}
        codes, settings = np.asarray(params["codes"]), dict(config.loss)
        return {"unfolded": nphm_torch.train_step(net, params["identity"], codes, numbers, settings)}

    return train, peers


def _peers(net: Ensemble, params: Tree, code: np.ndarray, points: np.ndarray, name: str) -> dict[str, Run]:
    from launch.benchmarks import nphm_torch

    return {"unfolded": nphm_torch.runs(net, params, code, points)[name]}
