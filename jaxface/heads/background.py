"""Random background and occluders of a rendered head.

Images are (S,S,3) float32 sRGB, S pixels per side; pixel centres are at integers.
"""

import jax
import jax.numpy as jnp

from jaxface.heads import noise
from jaxface.heads.clothes import color

# Cells per side of the octaves of smooth noise.
OCTAVES = (3, 9, 28)
AMPLITUDES = (0.22, 0.10, 0.05)
# Maximum numbers of shapes behind and in front of the head, and of parallel lines behind it.
SHAPES, OCCLUDERS = 6, 2
PLAIN_SHARE = 0.25
# Share of images whose background is a photo, where there are any; how much more than the image a photo may show.
PHOTO_SHARE, LARGEST_ZOOM = 0.7, 2.5
# Shares of shapes: long bars, tilted ones, and those that are drawn.
BAR_SHARE, TILTED_SHARE, PRESENT_SHARE = 0.3, 0.4, 0.7


def pixel_grid(size: int) -> jax.Array:
    """Pixel coordinates (S,S,2), x before y."""
    x = jnp.arange(size, dtype=jnp.float32)
    return jnp.stack(jnp.meshgrid(x, x, indexing="xy"), axis=-1)


def shape_mask(
    grid: jax.Array,
    center: jax.Array,
    radii: jax.Array,
    angle: jax.Array,
    square: jax.Array,
    softness: jax.Array | float = 1.0,
) -> jax.Array:
    """Mask (S,S) of a rotated ellipse, or of a rectangle if `square` () bool is True, with an edge of `softness` px.

    `grid` from `pixel_grid`; `center` (2,) px, `radii` (2,) px (half sides of the rectangle), `angle` in radians.
    """
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    offset = grid - center
    u = (offset[..., 0] * cos + offset[..., 1] * sin) / radii[0]
    v = (offset[..., 1] * cos - offset[..., 0] * sin) / radii[1]
    distance = jnp.where(square, jnp.maximum(abs(u), abs(v)), jnp.sqrt(u * u + v * v + 1e-9))
    return jnp.clip((1.0 - distance) * radii.min() / softness + 0.5, 0.0, 1.0)


def _octaves(key: jax.Array, size: int) -> jax.Array:
    """Smooth noise (S,S,octaves,2): two channels of each octave."""
    keys = jax.random.split(key, len(OCTAVES))
    layers = [noise.resized(k, cells, size, 2) for k, cells in zip(keys, OCTAVES, strict=True)]
    return jax.lax.optimization_barrier(jnp.stack(layers, axis=2))


def _surface(key: jax.Array, octaves: jax.Array) -> jax.Array:
    """A random colour with uneven light and texture: (S,S,3)."""
    k = jax.random.split(key, 4)
    amounts = jnp.array(AMPLITUDES)[:, None, None] * jax.random.uniform(k[1], (len(OCTAVES), 1, 1)) ** 2
    tint = jax.random.normal(k[2], (1, 1, 3)) * 0.35 + jax.random.normal(k[3], (1, 2, 1))
    return color(k[0]) + jnp.tensordot(octaves, amounts * tint, 2)


def _add_shapes(key: jax.Array, image: jax.Array, octaves: jax.Array, count: int, scale: float, soft: jax.Array):
    """`image` (S,S,3) with up to `count` shapes of radii up to `scale` of its side, edges of `soft` () px, on top.

    Shapes are ellipses and rectangles; a part of them are long bars, as edges of furniture and windows are.
    """
    size = image.shape[0]
    grid = pixel_grid(size)

    def add(below: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        surface_key, shape_key = jax.random.split(key)
        random = jax.random.uniform(shape_key, (10,))
        radii = size * scale * (0.15 + 0.85 * random[:2])
        is_bar = random[2] < BAR_SHARE
        radii = jnp.where(is_bar, radii * jnp.array([0.12, 4.0]), radii)
        center = size * random[3:5]
        # Most things stand upright.
        angle = 3.14 * random[5] * (random[6] < TILTED_SHARE)

        def draw(below: jax.Array) -> jax.Array:
            mask = shape_mask(grid, center, radii, angle, is_bar | (random[7] < 0.5), soft)
            return below + mask[..., None] * (_surface(surface_key, octaves) - below)

        return jax.lax.cond(random[8] < PRESENT_SHARE, draw, lambda below: below, below), None

    return jax.lax.scan(add, image, jax.random.split(key, count))[0]


def background(key: jax.Array, size: int, photos: jax.Array | None = None) -> jax.Array:
    """Background (S,S,3): a share of PHOTO_SHARE from `photos` (N,P,P,3) uint8, if there are any, the others drawn."""
    if photos is None:
        return _drawn(key, size)
    is_photo = jax.random.bernoulli(jax.random.fold_in(key, 1), PHOTO_SHARE)
    return jax.lax.cond(is_photo, lambda: from_photos(key, photos, size), lambda: _drawn(key, size))


def _drawn(key: jax.Array, size: int) -> jax.Array:
    """Background (S,S,3), more or less out of focus: a wall with uneven light, things, edges; a share is plain."""
    k = jax.random.split(key, 8)
    octaves = _octaves(k[0], size)
    wall = _surface(k[1], octaves)
    gradient = (pixel_grid(size) / size - 0.5) @ jax.random.normal(k[2], (2,))
    wall = wall * (1.0 + 0.5 * gradient[..., None])
    soft = 1.0 + 0.12 * size * jax.random.uniform(k[3]) ** 2
    full = jax.lax.cond(
        jax.random.bernoulli(k[5], PLAIN_SHARE),
        lambda wall: wall,
        lambda wall: _add_shapes(k[4], wall, octaves, SHAPES, 0.45, soft),
        wall,
    )
    return jnp.clip(full, 0.0, 1.0)


def from_photos(key: jax.Array, photos: jax.Array, size: int) -> jax.Array:
    """Background (S,S,3): a random part of one of `photos` (N,P,P,3) uint8, mirrored at random."""
    k = jax.random.split(key, 4)
    photo = photos[jax.random.randint(k[0], (), 0, len(photos))].astype(jnp.float32) / 255
    photo = jnp.where(jax.random.bernoulli(k[1]), photo[:, ::-1], photo)
    scale = size / len(photo) * LARGEST_ZOOM ** jax.random.uniform(k[2])
    hidden = scale * len(photo) - size
    shift = -hidden * jax.random.uniform(k[3], (2,))
    return jax.image.scale_and_translate(photo, (size, size, 3), (0, 1), jnp.stack([scale, scale]), shift, "linear")


def shoulders(key: jax.Array, image: jax.Array, head_px: jax.Array, scale_px: jax.Array) -> jax.Array:
    """`image` (S,S,3) with flat shoulders, for heads that end at the neck.

    `head_px` (2,) px is the centre of the face and `scale_px` () px the length of 100 mm at its depth.
    """
    k = jax.random.split(key, 3)
    size = image.shape[0]
    center, radii = head_px + scale_px * jnp.array([0.0, 2.7]), scale_px * jnp.array([2.3, 1.5])
    mask = shape_mask(pixel_grid(size), center, radii, 0.0, False)
    cloth = color(k[0]) + 0.05 * noise.resized(k[1], 12, size, 1)
    return image + (mask * jax.random.bernoulli(k[2], 0.8))[..., None] * (cloth - image)


def occlude(key: jax.Array, image: jax.Array, probability: jax.Array) -> jax.Array:
    """`image` (S,S,3), with probability `probability` () partly occluded by random shapes."""
    present, shapes, pattern = jax.random.split(key, 3)

    def add(image: jax.Array) -> jax.Array:
        octaves = _octaves(pattern, len(image))
        return _add_shapes(shapes, image, octaves, OCCLUDERS, 0.22, jnp.float32(1.5))

    return jax.lax.cond(jax.random.bernoulli(present, probability), add, lambda image: image, image)
