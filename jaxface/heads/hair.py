"""Hair as a volume around the skull: a dome over the scalp that continues in a curtain, cut to a random style.

The volume is a small mesh that is rasterised behind the depth test of the head. Its lower edge is a function of the
angle around the vertical axis, so that one mesh serves for short and long hair, fringes and caps. Lengths are
millimetres in the head frame: x to the subject's left, y up, z out of the face; angles are 0 in front.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.heads import noise
from jaxface.heads.morphable import MorphableHead

# Rows of the dome and of the curtain, and columns around the head.
DOME_ROWS, CURTAIN_ROWS, COLUMNS = 7, 7, 36
CURTAIN_MM = 270.0
# Smallest distance of the volume from the ellipsoid that is fitted to the skull.
CLEARANCE_MM = 2.0
# Shares of styles among heads with hair: long hair, and a fringe over the forehead.
LONG_SHARE, FRINGE_SHARE = 0.45, 0.3
# Share of hoods and headscarves among hats.
HOOD_SHARE = 0.35
# Triangles are kept up to this distance below the edge, where hairs end at random.
RAGGED_MM = 14.0


@flax.struct.dataclass
class Style:
    """A style: heights relative to the brows and angles of the edge, and shape.

    Attributes:
        front, side, back: () heights mm of the lower edge in front, at the ears and behind.
        opening, transition: () rad, half angle of the opening for the face, and half width of its transition.
        parting: () rad, displacement of the opening.
        top, thickness: () mm, thickness above and at the sides.
        taper: () share of the thickness that is lost at the edge.
        ragged: () mm, standard deviation of the ends of the hairs.
        curl: () mm, standard deviation of lumps.
        offset: (2,) offset of the noise.
    """

    front: jax.Array
    side: jax.Array
    back: jax.Array
    opening: jax.Array
    transition: jax.Array
    parting: jax.Array
    top: jax.Array
    thickness: jax.Array
    taper: jax.Array
    ragged: jax.Array
    curl: jax.Array
    offset: jax.Array


@flax.struct.dataclass
class Skull:
    """Ellipsoid fitted to a skull: center (3,), radii (3,), and height () of the brows, mm in the head frame."""

    center: jax.Array
    radii: jax.Array
    brows: jax.Array


def sample_style(key: jax.Array) -> Style:
    """Random hair style: short or long, with or without a fringe, smooth or curly."""
    random = jax.random.uniform(key, (20,))

    def uniform(number: int, low: float, high: float) -> jax.Array:
        return low + (high - low) * random[number]

    is_long = random[0] < LONG_SHARE
    has_fringe = random[1] < FRINGE_SHARE
    side = jnp.where(is_long, -60.0 - 200.0 * random[4] ** 1.5, uniform(5, -22.0, 4.0))
    return Style(
        front=jnp.where(has_fringe, uniform(2, -3.0, 24.0), uniform(3, 30.0, 58.0)),
        side=side,
        back=jnp.where(is_long, side, uniform(6, -105.0, -70.0)),
        opening=jnp.where(is_long, uniform(7, 0.62, 1.25), uniform(7, 0.8, 1.1)),
        transition=uniform(8, 0.1, 0.35),
        parting=jnp.where(is_long, uniform(9, -0.35, 0.35), uniform(9, -0.12, 0.12)),
        top=jnp.where(is_long, uniform(10, 8.0, 30.0), 4.0 + 32.0 * uniform(10, 0.0, 1.0) ** 2),
        thickness=jnp.where(is_long, uniform(11, 8.0, 34.0), 3.0 + 14.0 * uniform(11, 0.0, 1.0) ** 2),
        taper=jnp.where(has_fringe, 0.3, 0.85),
        ragged=uniform(12, 1.0, 6.0),
        curl=6.0 * uniform(13, 0.0, 1.0) ** 2,
        offset=random[14:16],
    )


def sample_hat(key: jax.Array) -> Style:
    """A random woollen hat, hood or scarf around the head."""
    random = jax.random.uniform(key, (8,))
    is_hood = random[0] < HOOD_SHARE
    front = 6.0 + 34.0 * random[1]
    return Style(
        front=front,
        side=jnp.where(is_hood, -170.0, front - 5.0 - 40.0 * random[2]),
        back=jnp.where(is_hood, -170.0, -60.0),
        opening=jnp.where(is_hood, 1.0, 1.3),
        transition=jnp.where(is_hood, 0.25, 0.8),
        parting=jnp.zeros(()),
        top=6.0 + 34.0 * random[3],
        thickness=7.0 + 9.0 * random[4],
        taper=jnp.float32(0.1),
        ragged=jnp.float32(0.2),
        curl=jnp.float32(1.0),
        offset=random[5:7],
    )


def fit_skull(head: MorphableHead, vertices: jax.Array) -> Skull:
    """The skull of a posed head with `vertices` (V,3) in the head frame."""
    inside = jnp.asarray(head.regions["scalp"])[:, None]
    high = jnp.where(inside, vertices, -jnp.inf).max(0)
    low = jnp.where(inside, vertices, jnp.inf).min(0)
    landmarks = head.landmark_points(vertices, "68")
    brows = landmarks[17:27, 1].mean()
    front = 0.9 * landmarks[27, 2]
    center = jnp.stack([(low[0] + high[0]) / 2, brows + 6.0, (front + low[2]) / 2])
    radii = jnp.stack([(high[0] - low[0]) / 2, high[1] - center[1], (front - low[2]) / 2])
    return Skull(center, radii + CLEARANCE_MM, brows)


def edge_height(style: Style, angle: jax.Array) -> jax.Array:
    """Height (…) mm of the lower edge relative to the brows at angles (…) rad around the vertical axis."""

    def step(low: jax.Array, high: jax.Array) -> jax.Array:
        t = jnp.clip((away - low) / (high - low), 0.0, 1.0)
        return t * t * (3.0 - 2.0 * t)

    away = abs(angle - style.parting * jnp.exp(-(angle**2)))
    to_side = step(style.opening - style.transition, style.opening + style.transition)
    to_back = step(1.75, 2.25)
    return style.front + to_side * (style.side - style.front) + to_back * (style.back - style.side)


def angle_around(skull: Skull, position: jax.Array) -> jax.Array:
    """Angle (…) rad of positions (…,3) around the vertical axis of the skull, 0 in front."""
    offset = (position - skull.center) / skull.radii
    return jnp.arctan2(offset[..., 0], offset[..., 2])


def _grid() -> np.ndarray:
    """Triangles (T,3) int32 of the grid of (1 + DOME_ROWS + CURTAIN_ROWS) x COLUMNS vertices, closed around."""
    rows = DOME_ROWS + CURTAIN_ROWS
    row, column = np.meshgrid(np.arange(rows), np.arange(COLUMNS), indexing="ij")
    beside = (column + 1) % COLUMNS
    a, b = row * COLUMNS + column, row * COLUMNS + beside
    c, d = a + COLUMNS, b + COLUMNS
    quads = np.stack([a, c, b, b, c, d], axis=-1)
    return quads.reshape(-1, 3).astype(np.int32)


def mesh(style: Style, skull: Skull) -> tuple[jax.Array, jax.Array]:
    """Vertices (N,3) mm in the head frame and triangles (T,3); triangles far below the edge are degenerate."""
    angle = np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False, dtype=np.float32)[None]
    polar = np.linspace(0.03, np.pi / 2, DOME_ROWS + 1, dtype=np.float32)
    polar = np.concatenate([polar, np.full(CURTAIN_ROWS, np.pi / 2, np.float32)])[:, None]
    drop = np.concatenate([np.zeros(DOME_ROWS + 1), np.linspace(0, 1, CURTAIN_ROWS + 1)[1:] ** 1.4 * CURTAIN_MM])
    drop = drop[:, None].astype(np.float32)
    direction = jnp.stack(
        [np.sin(polar) * np.sin(angle), np.cos(polar) + 0 * angle, np.sin(polar) * np.cos(angle)], axis=-1
    )
    skull_surface = direction * skull.radii
    # The skull narrows towards the neck.
    narrow = 1.0 - 0.16 * jnp.clip(drop / 110.0, 0.0, 1.0)
    skull_surface = skull_surface * jnp.stack([narrow, jnp.ones_like(narrow), narrow], -1)
    height = skull_surface[..., 1] + skull.center[1] - drop - skull.brows
    above = height - edge_height(style, jnp.broadcast_to(angle, height.shape))
    lumps = noise.sample(angle * 12.0 + 0 * drop, polar * 20.0 + drop / 9.0, style.offset)[..., 0]
    thickness = style.thickness + (style.top - style.thickness) * np.cos(polar) + style.curl * lumps
    thickness = jnp.maximum(thickness, 0.5) * (1.0 - style.taper * jnp.exp(-jnp.maximum(above, 0.0) / 22.0))
    vertices = skull.center + skull_surface + direction * thickness[..., None]
    vertices = vertices.at[..., 1].add(-drop).reshape(-1, 3)
    triangles = jnp.asarray(_grid())
    kept = above.reshape(-1)[triangles].max(-1) > -RAGGED_MM
    return vertices, jnp.where(kept[:, None], triangles, 0)


def opacity(style: Style, skull: Skull, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(opacity (S,S), brightness of strands (S,S) of unit variance) at positions (S,S,3) on the mesh."""
    angle = angle_around(skull, position)
    y = position[..., 1] - skull.brows
    wave = 3.0 * style.curl * jnp.sin(y / 14.0 + 2.0 * angle)
    across = angle * 75.0 + wave
    strands = noise.sample(across / 1.6, y / 26.0, style.offset)
    ends = noise.sample(across / 2.5, y / 60.0, style.offset + 0.5)[..., 1]
    above = y - edge_height(style, angle + 0.04 * strands[..., 1]) + style.ragged * ends
    return jnp.clip(0.5 + above / 2.5, 0.0, 1.0), strands[..., 0] + 0.5 * ends
