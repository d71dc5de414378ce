"""Benchmarks of Deep3D: R-Net on ResNet-50 at 224 px and a synthetic face of the size of the Basel front face.

The face is a bulged grid with random modes: 35,721 vertices, 70,688 triangles, 80 + 64 + 80 modes. `train_step` has all
losses except the photometric ones, which need the renderer. `rasterise` renders five faces in different poses;
`rasterise_grad` is the gradient with respect to their colours and vertices.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxface.geometry import mesh
from jaxface.systems.deep3d import losses, model
from jaxface.systems.deep3d.face_model import SKIN, FaceModel, skin_surface_of
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import Coefficients, Sizes

from .benchmark import Benchmark, Run, load_config

SIDE = 189
SIZES = Sizes()
TRAIN_BATCH, DECODE_BATCH = 8, 5


def synthetic_face() -> FaceModel:
    """A face with as many vertices, triangles and modes as the Basel front face."""
    random = np.random.default_rng(0)
    y, x = np.meshgrid(*[np.linspace(0.9, -0.9, SIDE), np.linspace(-0.75, 0.75, SIDE)], indexing="ij")
    depth = 0.9 * np.sqrt(np.maximum(1 - 0.7 * x**2 - 0.5 * y**2, 0.1)) + 0.2 * np.exp(-(x**2 + y**2) / 0.03)
    corner = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    quad = [part.ravel() for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:])]
    triangles = np.concatenate([np.stack([quad[i] for i in k], 1) for k in ((0, 1, 2), (0, 2, 3))]).astype(np.int32)
    vertices = np.stack([x, y, depth - depth.mean()], -1).reshape(-1, 3).astype(np.float32)

    def modes(count: int, scale: float) -> np.ndarray:
        return scale * random.standard_normal((count, len(vertices), 3), np.float32)

    return FaceModel(
        mean=vertices,
        identity=modes(SIZES.identity, 1e-4),
        expression=modes(SIZES.expression, 1e-4),
        albedo_mean=np.full_like(vertices, 0.6),
        albedo=modes(SIZES.albedo, 1e-3),
        triangles=triangles,
        incidence=mesh.incidence(triangles, len(vertices)),
        landmarks=(
            np.repeat(random.integers(0, len(vertices), 68)[:, None], 3, 1),
            np.tile(np.float32([1, 0, 0]), (68, 1)),
        ),
        skin=np.ones(len(vertices), np.float32),
        crop_triangles=None,
        crop_triangle_mask=np.ones(len(triangles), bool),
        face_vertices=np.arange(len(vertices)),
        texture_region=np.full(len(vertices), SKIN, np.int8),
        skin_surface=skin_surface_of(vertices, triangles, np.ones(len(vertices), bool)),
    )


def benchmarks() -> Iterator[Benchmark]:
    """Forward at 1 and 8, training step at 8, decoding and rasterising at 5."""
    config = load_config("deep3d", "reference")
    net = model.model_from_config(config.model)
    params, model_state = model.init(net, image_formation.REFERENCE_SIZE, (), jax.random.key(0))
    random = np.random.default_rng(0)
    images = random.random((TRAIN_BATCH, image_formation.REFERENCE_SIZE, image_formation.REFERENCE_SIZE, 3), np.float32)
    landmarks = random.uniform(60, 160, (TRAIN_BATCH, 68, 2)).astype(np.float32)
    vectors = 0.3 * random.standard_normal((DECODE_BATCH, SIZES.total), np.float32)
    host_face = synthetic_face()
    face = jax.device_put(host_face)

    @functools.cache
    def baselines() -> Any:
        from . import deep3d_torch

        return deep3d_torch.Baselines(host_face)

    for size in (1, TRAIN_BATCH):
        run = functools.partial(model.regress, net, {"params": params, **model_state}, images[:size])
        yield _benchmark("forward", size, run, lambda size=size: baselines().forward(images[:size]))
    run = landmark_training(net, face, params, model_state, images, landmarks, config.loss)
    yield _benchmark("train_step", TRAIN_BATCH, run, lambda: baselines().train_step(images, landmarks))
    run = functools.partial(model.decode, face, SIZES, vectors)
    yield _benchmark("decode", DECODE_BATCH, run, lambda: baselines().decode(vectors))
    decoded = jax.device_get(run())
    mesh_arrays = jax.device_put((decoded.vertices, decoded.colors))
    forward = jax.jit(_render)
    gradient = jax.jit(jax.grad(lambda mesh_arrays, face: (_render(mesh_arrays, face) ** 2).sum()))
    for name, run in (("rasterise", forward), ("rasterise_grad", gradient)):
        torch_runs = lambda name=name: baselines().rasterise(*mesh_arrays, name == "rasterise_grad")  # noqa: E731
        yield _benchmark(name, DECODE_BATCH, functools.partial(run, mesh_arrays, face), torch_runs)


def _benchmark(metric: str, batch: int, run: Callable[[], Any], baselines: Callable[[], dict[str, Run]]) -> Benchmark:
    return Benchmark("deep3d", metric, batch, lambda: jax.block_until_ready(run()), baselines)


def _render(mesh_arrays: tuple[jax.Array, jax.Array], face: FaceModel) -> jax.Array:
    """Images (B,S,S,3) of camera-space vertices and colours, both (B,V,3)."""
    vertices, colors = mesh_arrays
    unused = jnp.zeros(())
    return image_formation.render(face, image_formation.Decoded(vertices, unused, colors, unused, unused)).image


def landmark_training(net, face, params, model_state, images, landmarks, settings) -> Callable[[], None]:
    """A run of one step of Adam on the losses that need no rendered image; each run continues the last."""
    optimizer = optax.adam(1e-4)

    def loss(params, model_state, image, target, face):
        variables = {"params": params, **model_state}
        vector, changed = net.clone(backbone=net.backbone.clone(axis_name=None)).apply(
            variables, image, train=True, mutable=["batch_stats"]
        )
        parts: Coefficients = image_formation.split(vector, net.sizes)
        decoded = image_formation.decode(face, parts)
        terms = {
            "landmarks": losses.landmark_loss(decoded.landmarks, target),
            "coefficients": losses.coefficient_loss(parts, settings.coefficient_weights),
            "light": losses.monochromatic_light_loss(parts.light),
            "reflectance": losses.reflectance_loss(decoded.albedo, face.skin),
        }
        return losses.weighted_sum(terms, settings.weights), changed

    @jax.jit
    def step(state, image, target, face):
        params, model_state, opt_state = state
        (_, changed), gradient = jax.value_and_grad(loss, has_aux=True)(params, model_state, image, target, face)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), changed, opt_state

    arguments = [(params, model_state, optimizer.init(params)), *jax.device_put((images, landmarks)), face]

    def run() -> None:
        arguments[0] = jax.block_until_ready(step(*arguments))

    return run
