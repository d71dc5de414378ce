"""Random background, occluders, cast shadow, camera blur and noise of a rendered head.

Images are (S,S,3) float32 in [0,1], S pixels per side; pixel centres are at integers.
"""

import jax
import jax.numpy as jnp

# Number of procedural patterns per image and their shortest period.
WAVES = 8
MIN_PERIOD_PX = 3.0
# Maximum numbers of shapes behind and in front of the head.
BACKGROUND_SHAPES = 5
OCCLUDERS = 2
# Probability of a shadow edge across the image.
SHADOW_SHARE = 0.4
BLUR_TAPS = 7


def pixel_grid(size: int) -> jax.Array:
    """Pixel coordinates (S,S,2), x before y."""
    x = jnp.arange(size, dtype=jnp.float32)
    return jnp.stack(jnp.meshgrid(x, x, indexing="xy"), axis=-1)


def shape_mask(grid: jax.Array, center: jax.Array, radii: jax.Array, angle: jax.Array, square: jax.Array) -> jax.Array:
    """Antialiased mask (S,S) of a rotated ellipse, or of a rectangle if `square` () bool is True.

    `grid` from `pixel_grid`; `center` (2,) px, `radii` (2,) px (half sides of the rectangle), `angle` in radians.
    """
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    offset = grid - center
    u = (offset[..., 0] * cos + offset[..., 1] * sin) / radii[0]
    v = (offset[..., 1] * cos - offset[..., 0] * sin) / radii[1]
    distance = jnp.where(square, jnp.maximum(abs(u), abs(v)), jnp.sqrt(u * u + v * v + 1e-9))
    return jnp.clip((1.0 - distance) * radii.min() + 0.5, 0.0, 1.0)


def _color(key: jax.Array) -> jax.Array:
    """Random sRGB colour (3,) of mostly low saturation, as in rooms and clothes."""
    tint, grey, amount = jax.random.split(key, 3)
    saturation = jax.random.uniform(amount) ** 2
    return jax.random.uniform(grey) * (1 - saturation) + jax.random.uniform(tint, (3,)) * saturation


def _waves(key: jax.Array, grid: jax.Array) -> jax.Array:
    """Patterns (S,S,WAVES) in [-1,1]: products of two sine waves with periods from `MIN_PERIOD_PX` to the image size.

    They dominate the cost of a background, so they are computed once per image and mixed with new colours per surface.
    """
    keys = jax.random.split(key, 3)
    size = grid.shape[0]
    period = size * (MIN_PERIOD_PX / size) ** jax.random.uniform(keys[0], (WAVES, 1))
    direction = jax.random.normal(keys[1], (WAVES, 2))
    direction /= jnp.linalg.norm(direction, axis=-1, keepdims=True)
    waves = jnp.sin(grid @ (6.28 * direction / period).T + jax.random.uniform(keys[2], (WAVES,), maxval=6.28))
    # Products of waves look like patches, single waves like stripes.
    return waves * jnp.roll(waves, 1, axis=-1)


def _surface(key: jax.Array, waves: jax.Array) -> jax.Array:
    """A random colour with a faint pattern: (S,S,3)."""
    plain, tint, strength = jax.random.split(key, 3)
    mix = jax.random.normal(tint, (WAVES, 3)) * 0.3 + jax.random.normal(strength, (WAVES, 1))
    return _color(plain) + waves @ (mix * 0.07)


def _add_shapes(key: jax.Array, image: jax.Array, waves: jax.Array, count: int, scale: float) -> jax.Array:
    """`image` (S,S,3) with up to `count` ellipses and rectangles on top, of radii up to `scale` times its side."""
    size = image.shape[0]
    grid = pixel_grid(size)

    def add(below: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        k = jax.random.split(key, 6)
        radii = size * scale * jax.random.uniform(k[1], (2,), minval=0.15, maxval=1.0)
        center = size * jax.random.uniform(k[0], (2,))
        angle = jax.random.uniform(k[2], maxval=3.14)
        mask = shape_mask(grid, center, radii, angle, jax.random.bernoulli(k[3])) * jax.random.bernoulli(k[4], 0.7)
        return below + mask[..., None] * (_surface(k[5], waves) - below), None

    return jax.lax.scan(add, image, jax.random.split(key, count))[0]


def background(key: jax.Array, size: int, head_px: jax.Array, scale_px: jax.Array) -> jax.Array:
    """Background (S,S,3): pattern and shapes; with probability 0.7 shoulders, with 0.4 hair that surrounds the head.

    `head_px` (2,) px is the centre of the face and `scale_px` () px the length of 100 mm at its depth.
    """
    k = jax.random.split(key, 8)
    grid = pixel_grid(size)
    waves = jax.lax.optimization_barrier(_waves(k[0], grid))
    image = _add_shapes(k[1], _surface(k[2], waves), waves, BACKGROUND_SHAPES, 0.5)
    shoulders = shape_mask(
        grid, head_px + scale_px * jnp.array([0.0, 2.7]), scale_px * jnp.array([2.3, 1.5]), 0.0, False
    )
    cloth = _surface(k[3], waves)
    image += (shoulders * jax.random.bernoulli(k[4], 0.7))[..., None] * (cloth - image)
    radii = scale_px * jax.random.uniform(k[5], (2,), minval=1.0, maxval=1.7)
    hair = shape_mask(grid, head_px - scale_px * jnp.array([0.0, 0.35]), radii, 0.0, False)
    return image + (hair * jax.random.bernoulli(k[6], 0.4))[..., None] * (0.6 * _surface(k[7], waves) - image)


def occlude(key: jax.Array, image: jax.Array, probability: jax.Array) -> jax.Array:
    """`image` (S,S,3), with probability `probability` () partly occluded by random shapes."""
    present, shapes, pattern = jax.random.split(key, 3)
    waves = jax.lax.optimization_barrier(_waves(pattern, pixel_grid(image.shape[0])))
    occluded = _add_shapes(shapes, image, waves, OCCLUDERS, 0.22)
    return jnp.where(jax.random.bernoulli(present, probability), occluded, image)


def _blur(image: jax.Array, sigma_px: jax.Array) -> jax.Array:
    """Separable Gaussian blur of (S,S,3) by `sigma_px` ()."""
    taps = jnp.arange(BLUR_TAPS) - BLUR_TAPS // 2
    weights = jnp.exp(-0.5 * (taps / sigma_px) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        # Without the barrier XLA recomputes everything before the blur for every tap.
        image = jax.lax.optimization_barrier(image)
        pad = [(0, 0)] * 3
        pad[axis] = (BLUR_TAPS // 2, BLUR_TAPS // 2)
        padded = jnp.pad(image, pad, mode="edge")
        windows = (jax.lax.dynamic_slice_in_dim(padded, i, image.shape[axis], axis) for i in range(BLUR_TAPS))
        image = sum(w * window for w, window in zip(weights, windows, strict=True))
    return image


def expose(key: jax.Array, image: jax.Array) -> jax.Array:
    """Random camera: shadow edge (probability SHADOW_SHARE), exposure, gamma, blur, sensor noise; (S,S,3) in [0,1]."""
    k = jax.random.split(key, 9)
    grid = pixel_grid(image.shape[0])
    edge = grid @ jax.random.normal(k[0], (2,)) / image.shape[0] + jax.random.normal(k[1]) * 0.7
    lit = jax.nn.sigmoid(edge * jax.random.uniform(k[2], minval=2.0, maxval=30.0))
    depth = jax.random.uniform(k[3], maxval=0.6) * jax.random.bernoulli(k[4], SHADOW_SHARE)
    image = image * (1.0 - depth * (1.0 - lit[..., None])) * jnp.exp(0.25 * jax.random.normal(k[5]))
    image = jnp.clip(image, 1e-4, 1.0) ** jnp.exp(0.2 * jax.random.normal(k[6]))
    image = _blur(image, jax.random.uniform(k[7], minval=0.3, maxval=1.6))
    # Strength and values of the noise share a key, as in the renderings that the shipped models were trained on.
    strength = 0.04 * jax.random.uniform(k[8]) ** 2
    return jnp.clip(image + strength * jax.random.normal(k[8], image.shape), 0.0, 1.0)
