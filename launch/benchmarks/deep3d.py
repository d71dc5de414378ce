"""What `launch.bench` measures of Deep3D: R-Net on ResNet-50 at 224 px and a face of the Basel front face's size.

The face is made up, a bulged grid with random modes: 35,721 vertices, 70,688 triangles, 80 + 64 + 80 modes. A training
step has all of the loss but the renderer. What is rasterised are five turned faces; `rasterise_grad` is the gradient of
their colours and places.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import deep3d as deep3d_config
from jaxface.geometry import mesh
from jaxface.systems.deep3d import losses, model
from jaxface.systems.deep3d.face_model import FaceModel, skin_surface_of
from jaxface.systems.deep3d.rendering import image_formation
from jaxface.systems.deep3d.rendering.image_formation import Coefficients, Sizes
from launch.benchmarks.work import Run, Work

SIDE = 189
SIZES = Sizes()
TRAIN_BATCH, DECODE_BATCH = 8, 5


def made_up_face() -> FaceModel:
    """A face of the Basel front face's size."""
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
        skin_surface=skin_surface_of(vertices, triangles, np.ones(len(vertices), bool)),
    )


def works() -> Iterator[Work]:
    """Everything measured."""
    config = deep3d_config.get_config("reference")
    net = model.model_from_config(config.model)
    params, model_state = model.init(net, image_formation.REFERENCE_SIZE, False, jax.random.key(0))
    random = np.random.default_rng(0)
    images = random.random((TRAIN_BATCH, image_formation.REFERENCE_SIZE, image_formation.REFERENCE_SIZE, 3), np.float32)
    landmarks = random.uniform(60, 160, (TRAIN_BATCH, 68, 2)).astype(np.float32)
    vectors = 0.3 * random.standard_normal((DECODE_BATCH, SIZES.total), np.float32)
    host = made_up_face()
    face = jax.device_put(host)

    @functools.cache
    def peers() -> Any:
        from launch.benchmarks import deep3d_torch

        return deep3d_torch.Peers(host)

    for size in (1, TRAIN_BATCH):
        run = functools.partial(model.regress, net, {"params": params, **model_state}, images[:size])
        yield _work("forward", size, run, lambda size=size: peers().forward(images[:size]))
    run = landmark_training(net, face, params, model_state, images, landmarks, config.loss)
    yield _work("train_step", TRAIN_BATCH, run, lambda: peers().train_step(images, landmarks))
    run = functools.partial(model.decode, face, SIZES, vectors)
    yield _work("decode", DECODE_BATCH, run, lambda: peers().decode(vectors))
    decoded = jax.device_get(run())
    drawn = jax.device_put((decoded.vertices, decoded.colors))
    draw = jax.jit(_drawn)
    slope = jax.jit(jax.grad(lambda drawn, face: (_drawn(drawn, face) ** 2).sum()))
    for name, run in (("rasterise", draw), ("rasterise_grad", slope)):
        peer = lambda name=name: peers().rasterise(*drawn, name == "rasterise_grad")  # noqa: E731
        yield _work(name, DECODE_BATCH, functools.partial(run, drawn, face), peer)


def _work(metric: str, batch: int, run: Callable[[], Any], peers: Callable[[], dict[str, Run]]) -> Work:
    return Work("deep3d", metric, batch, lambda: jax.block_until_ready(run()), peers)


def _drawn(drawn: tuple[jax.Array, jax.Array], face: FaceModel) -> jax.Array:
    vertices, colors = drawn
    nothing = jnp.zeros(())
    return image_formation.render(face, image_formation.Decoded(vertices, nothing, colors, nothing, nothing)).image


def landmark_training(net, face, params, model_state, images, landmarks, settings) -> Callable[[], None]:
    """A step with the losses that need no picture, then Adam; kept going by itself."""
    optimizer = optax.adam(1e-4)

    def loss(params, model_state, image, target, face):
        variables = {"params": params, **model_state}
        vector, changed = net.clone(backbone=net.backbone.clone(axis_name=None)).apply(
            variables, image, train=True, mutable=["batch_stats"]
        )
        parts: Coefficients = image_formation.split(vector, net.sizes)
        decoded = image_formation.decode(face, parts)
        measured = {
            "landmarks": losses.landmark_loss(decoded.landmarks, target),
            "coefficients": losses.coefficient_loss(parts, settings.size),
            "light": losses.monochromatic_light_loss(parts.light),
            "evenness": losses.reflectance_loss(decoded.albedo, face.skin),
        }
        return losses.weighted_sum(measured, settings.weights), changed

    @jax.jit
    def step(state, image, target, face):
        params, model_state, moments = state
        (_, changed), gradient = jax.value_and_grad(loss, has_aux=True)(params, model_state, image, target, face)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), changed, moments

    held = [(params, model_state, optimizer.init(params)), *jax.device_put((images, landmarks)), face]

    def run() -> None:
        held[0] = jax.block_until_ready(step(*held))

    return run
