"""Albedo of a head and bumps of its surface, evaluated at every pixel as functions of the template position.

Every pixel knows the template position of the surface point that it shows, so that features are as sharp as the image
and do not depend on the density of the mesh. Brows, lips, beard and eyes follow the 68 landmarks of the template; the
left and right half are folded onto one. Colours are sRGB in [0,1], masks are soft (…) in [0,1], lengths millimetres.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxface.heads import bands, noise, paint
from jaxface.heads.capture import Scene
from jaxface.heads.morphable import MorphableHead

# Length of a texel of the noise in the three scales of skin: blotches, unevenness, pores.
BLOTCH_MM, UNEVEN_MM, PORE_MM = 9.0, 3.0, 0.7
# Shares of people who are bald, and of those who are bald or have cropped hair.
BALD_SHARE, CROPPED_SHARE = 0.08, 0.2
# Lips and brows end nearer to their landmarks than this.
REACH_MM = 10.0
GUM = np.array([0.62, 0.30, 0.30])


class Parts(NamedTuple):
    """Masks (S,S) of the parts of a head, interpolated from its regions."""

    eyes: jax.Array
    mouth: jax.Array
    teeth: jax.Array
    scalp: jax.Array
    ears: jax.Array


class Surface(NamedTuple):
    """Albedo (S,S,3) sRGB; bump (S,S,2), slopes sideways and upwards; wet (S,S), share of mirror-like reflection."""

    albedo: jax.Array
    bump: jax.Array
    wet: jax.Array


def part_weights(head: MorphableHead) -> jax.Array:
    """The masks of `Parts` at the vertices: (V,5) float32."""
    regions = head.regions
    eyes = jnp.asarray(regions["eyeball_L"]) | jnp.asarray(regions["eyeball_R"])
    teeth = regions["teeth"] if "teeth" in regions else jnp.zeros(len(head.template), bool)
    masks = (eyes, regions["mouth"], teeth, regions["scalp"], regions["ears"])
    return jnp.stack([jnp.asarray(mask) for mask in masks], -1).astype(jnp.float32)


def smoothstep(value: jax.Array, low: float | jax.Array, high: float | jax.Array) -> jax.Array:
    """Smoothstep: 0 below `low`, 1 above `high`; decreasing if `low` > `high`."""
    t = jnp.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _curve(x: jax.Array, knots: jax.Array) -> jax.Array:
    """Piecewise linear y(x), constant outside the `knots` (K,2), which have increasing x."""
    width = jnp.maximum(knots[1:, 0] - knots[:-1, 0], 1e-3)
    slope = (knots[1:, 1] - knots[:-1, 1]) / width
    y = knots[0, 1]
    for i in range(len(knots) - 1):
        y = y + slope[i] * jnp.clip(x - knots[i, 0], 0.0, width[i])
    return y


def to_polyline(p: jax.Array, line: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(distance, signed height above the nearest segment in y, length along the line) of p (…,3) to `line` (L,3)."""
    best = [jnp.full(p.shape[:-1], 1e6), jnp.zeros(p.shape[:-1]), jnp.zeros(p.shape[:-1])]
    start_length = jnp.zeros(())
    for i in range(len(line) - 1):
        along = line[i + 1] - line[i]
        length = jnp.sqrt((along**2).sum() + 1e-6)
        # Axes as separate arrays, contiguous for vector units.
        x, y, z = (p[..., axis] - line[i, axis] for axis in range(3))
        t = jnp.clip((x * along[0] + y * along[1] + z * along[2]) / length**2, 0.0, 1.0)
        x, y, z = x - t * along[0], y - t * along[1], z - t * along[2]
        distance = jnp.sqrt(x * x + y * y + z * z + 1e-6)
        nearer = distance < best[0]
        values = (distance, y, start_length + t * length)
        best = [jnp.where(nearer, value, old) for value, old in zip(values, best, strict=True)]
        start_length = start_length + length
    # Otherwise XLA repeats the search in every use.
    return lax.optimization_barrier(tuple(best))


def _mix(base: jax.Array, color: jax.Array, mask: jax.Array) -> jax.Array:
    return base + _per_channel(mask) * (color - base)


def _per_channel(mask: jax.Array) -> jax.Array:
    """`mask` (S,S,1); without the barrier XLA computes it once per channel."""
    return lax.optimization_barrier(mask)[..., None]


def _bell(p: jax.Array, center: jax.Array, radii: tuple[float, ...]) -> jax.Array:
    """Gaussian (S,S) of the first axes of p (S,S,3) around `center` (3,), with `radii` mm per axis."""
    squares = [((p[..., axis] - center[axis]) / radius) ** 2 for axis, radius in enumerate(radii)]
    return jnp.exp(-sum(squares))


def is_cropped(scene: Scene) -> jax.Array:
    """() bool, True for heads that are bald or shaved: their hair has no volume."""
    return _hair_length(scene) < CROPPED_SHARE


def _hair_length(scene: Scene) -> jax.Array:
    """Random rank () in [0,1) of the length of a person's hair."""
    return jax.random.uniform(jax.random.fold_in(scene.person_key, 2))


class _Painter:
    """Values that the layers of one image share."""

    def __init__(self, head: MorphableHead, scene: Scene, p: jax.Array):
        self.head, self.scene, self.p = head, scene, p
        self.landmarks = jnp.asarray(head.landmark_points(jnp.asarray(head.template), "68"))
        self.folded = lax.optimization_barrier(jnp.stack([abs(p[..., 0]), p[..., 1], p[..., 2]], -1))
        # One draw compiles much faster than many.
        drawn = jax.random.uniform(scene.person_key, (28,))
        self.random, self.offsets = drawn[:16], drawn[16:].reshape(6, 2)
        # Arc length around the head, so that patterns are not stretched at its sides.
        self.around = lax.optimization_barrier(75.0 * jnp.arctan2(p[..., 0], p[..., 2] + 25.0))
        self.strands = noise.nearest(self.around / 0.9, p[..., 1] / 3.5, self.offsets[3])

    def coefficient(self, name: str) -> jax.Array:
        """The scene's albedo coefficient of that name, 0 if the head has none."""
        names = self.head.albedo_names
        return self.scene.albedo[names.index(name)] if name in names else jnp.zeros(())

    def near(self, numbers: slice, paint: Callable[["_Painter", jax.Array], jax.Array], albedo: jax.Array) -> jax.Array:
        """`paint(self, albedo)` where some of the pixels are near landmarks of these `numbers`, else `albedo`."""
        reached = bands.within(self.folded, self.landmarks[numbers], REACH_MM)
        return bands.where_any(reached, functools.partial(paint, self), albedo)

    def uniform(self, number: int, low: float = 0.0, high: float = 1.0) -> jax.Array:
        return low + (high - low) * self.random[number]


def surface(head: MorphableHead, scene: Scene, p: jax.Array, parts: Parts) -> Surface:
    """Albedo and relief at template positions p (S,S,3) mm."""
    painter = _Painter(head, scene, p)
    skin, bump = lax.optimization_barrier(_bare_skin(painter))
    flesh = 1.0 - jnp.maximum(parts.eyes, parts.mouth)
    albedo = painter.near(slice(48, 68), _lips, skin)
    amount = jnp.clip(0.45 * painter.coefficient("beard") - 0.2, 0.0, 1.0)
    bearded = (amount > 0) & (p[..., 1] < painter.landmarks[33, 1])
    albedo = bands.where_any(
        bearded, lambda albedo: _beard(painter, albedo, skin, flesh * (1.0 - parts.ears), amount), albedo
    )
    albedo = painter.near(slice(22, 27), _brows, albedo)
    albedo = _scalp(painter, albedo, parts)
    albedo = _mix(albedo, skin, jnp.broadcast_to(scene.fade[0], flesh.shape))
    albedo = bands.where_any(
        parts.mouth > 0, lambda albedo: _mix(albedo, _mouth(painter, parts.teeth), parts.mouth), albedo
    )

    def add_eyes(albedo: jax.Array) -> jax.Array:
        eyes = _mix(_eyes(painter), skin, jnp.broadcast_to(scene.fade[1], flesh.shape))
        return _mix(albedo, eyes, parts.eyes)

    albedo = bands.where_any(parts.eyes > 0, add_eyes, albedo)
    wet = parts.eyes * (1.0 - scene.fade[1]) + 0.25 * parts.mouth
    return Surface(jnp.clip(albedo, 0.01, 1.0), bump * flesh[..., None], wet)


def _bare_skin(painter: _Painter) -> tuple[jax.Array, jax.Array]:
    """(albedo (S,S,3) of skin without features, bump (S,S,2)): blotches, freckles, redness, pores, wrinkles."""
    p, landmarks, around = painter.p, painter.landmarks, painter.around
    y = p[..., 1]
    blotch = noise.sample(around / BLOTCH_MM, y / BLOTCH_MM, painter.offsets[0])
    uneven = noise.sample(around / UNEVEN_MM, y / UNEVEN_MM, painter.offsets[1])
    pores = noise.nearest(around / PORE_MM, y / PORE_MM, painter.offsets[2])
    spots = noise.nearest(around / 0.9, y / 0.9, painter.offsets[4])
    rough, age = painter.uniform(1) ** 2, painter.uniform(2)
    value = 1.0 + 0.02 * blotch[..., 0] + (0.01 + 0.03 * rough) * uneven[..., 0] + 0.03 * rough * pores[..., 0]
    freckles = (painter.uniform(3) < 0.12) * smoothstep(spots[..., 1] + 0.4 * uneven[..., 1], 1.0, 2.0)
    base = jnp.asarray(paint.SKIN, jnp.float32) * painter.scene.tone
    base = base * (1.0 + 0.07 * painter.coefficient("skin_lightness"))
    base = base * (1.0 + 0.03 * painter.coefficient("skin_warmth") * jnp.array([1.0, 0.0, -1.3]))
    albedo = base * _per_channel(value) * (1.0 - 0.2 * _per_channel(freckles) * jnp.array([0.6, 1.0, 1.2]))
    cheek = (landmarks[45] + landmarks[54]) / 2
    nose = landmarks[30]
    near = _bell(painter.folded, cheek, (20.0, 20.0))
    near += 0.8 * _bell(p, nose, (11.0, 11.0, 11.0))
    near *= 1.0 + 0.3 * blotch[..., 1]
    redness = jnp.maximum(0.5 + 0.5 * painter.coefficient("cheek_redness"), 0.0) * near
    albedo = albedo * (1.0 + _per_channel(redness) * jnp.array([0.02, -0.10, -0.09]))
    # Dark rings below the eyes.
    below_eye = (landmarks[46] + landmarks[47]) / 2 - jnp.array([0.0, 7.0, 0.0])
    ring = _bell(painter.folded, below_eye, (13.0, 4.5))
    albedo = albedo * (1.0 - 0.25 * painter.uniform(4) * _per_channel(ring) * jnp.array([0.8, 1.0, 0.9]))
    bump = uneven[..., 2:] * (0.04 + 0.16 * rough) + 0.05 * blotch[..., 2:]
    return _wrinkles(painter, albedo, bump, age, blotch)


def _wrinkles(painter, albedo, bump, age, blotch) -> tuple[jax.Array, jax.Array]:
    """Adds folds beside the nose, lines on the forehead and beside the eyes of the old to (albedo, bump)."""
    landmarks, folded = painter.landmarks, painter.folded
    old = smoothstep(age, 0.45, 1.0)
    out = jnp.array([7.0, -2.0, 0.0])
    fold = jnp.stack([landmarks[35] + jnp.array([4.0, 4.0, -4.0]), (landmarks[35] + landmarks[54]) / 2 + out])
    fold = jnp.concatenate([fold, (landmarks[54] + out)[None]])
    distance, _, _ = to_polyline(folded, fold)
    line = jnp.exp(-((distance / 1.8) ** 2)) * (0.10 + 0.45 * old)
    y = folded[..., 1] + 1.2 * blotch[..., 0]
    brow = landmarks[22:27, 1].mean()
    forehead = smoothstep(y, brow + 8.0, brow + 20.0) * smoothstep(y, brow + 55.0, brow + 38.0)
    forehead *= smoothstep(folded[..., 0], 50.0, 30.0)
    phase = jnp.sin(y * 0.75)
    crow = _bell(folded, landmarks[45] + jnp.array([9.0, 0.0, 0.0]), (8.0, 8.0))
    furrow = old * (forehead * jnp.maximum(phase, 0.0) ** 4 + crow * jnp.maximum(jnp.sin(y * 1.9), 0.0) ** 3)
    albedo = albedo * _per_channel(1.0 - 0.35 * jnp.clip(line + 0.5 * furrow, 0.0, 1.0))
    return albedo, bump.at[..., 1].add(0.45 * old * forehead * jnp.cos(y * 0.75))


def _lips(painter: _Painter, albedo: jax.Array) -> jax.Array:
    """Vermilion between the outer lip lines, with a soft border and vertical lines."""
    scene, landmarks, folded = painter.scene, painter.landmarks, painter.folded
    x, y = folded[..., 0], folded[..., 1]
    upper = landmarks[jnp.array([51, 52, 53, 54]), :2]
    lower = landmarks[jnp.array([57, 56, 55, 54]), :2]
    soft = 0.9
    mask = smoothstep(_curve(x, upper) - y, -soft, soft) * smoothstep(y - _curve(x, lower), -soft, soft)
    mask *= smoothstep(landmarks[54, 0] - x, -soft, soft)
    mask *= smoothstep(folded[..., 2], landmarks[54, 2] - 8.0, landmarks[54, 2] - 3.0)
    makeup = painter.uniform(5) < 0.22
    redness = 0.8 * painter.coefficient("lip_redness") + 3.0 * makeup * painter.uniform(6)
    tone = jnp.sqrt(scene.tone)
    color = jnp.asarray(paint.LIP, jnp.float32) * scene.tone / tone.mean() ** 0.6
    color = color + redness * jnp.array([0.03, -0.04, -0.03]) + 0.04 * painter.coefficient("lip_lightness")
    lines = noise.nearest(x / 0.6, y / 5.0, painter.offsets[4])[..., 0]
    return _mix(albedo, color * (1.0 + 0.06 * _per_channel(lines)), mask * jnp.where(makeup, 0.95, 0.75))


def _brows(painter: _Painter, albedo: jax.Array) -> jax.Array:
    """Brows as strips of hairs along the landmarks: thick inside, thin outside."""
    scene, landmarks = painter.scene, painter.landmarks
    line = landmarks[22:27]
    distance, height, along = to_polyline(painter.folded, line)
    length = jnp.sqrt(((line[1:] - line[:-1]) ** 2).sum(-1)).sum()
    fraction = along / length
    half_width = painter.uniform(7, 2.0, 4.6) * (1.0 - 0.62 * fraction * jnp.sqrt(fraction + 1e-6))
    hairs = noise.nearest((along + 1.3 * height) / 0.8, (height - 0.5 * along) / 3.0, painter.offsets[3])[..., 0]
    edge = distance + 0.4 * hairs
    density = smoothstep(edge, half_width + 1.3, half_width - 1.3) * (0.55 + 0.45 * smoothstep(along, 0.0, 9.0))
    strength = jnp.clip(0.86 + 0.14 * painter.coefficient("brow_darkness"), 0.15, 0.97)
    color = jnp.minimum(scene.hair, 0.55) * 0.75 + 0.02
    return _mix(albedo, color * (1.0 + 0.2 * _per_channel(hairs)), density * strength)


def _beard(painter: _Painter, albedo: jax.Array, skin: jax.Array, flesh: jax.Array, amount: jax.Array) -> jax.Array:
    """Stubble, moustache or beard of `amount` () in [0,1] on `flesh` (S,S)."""
    scene, landmarks, folded = painter.scene, painter.landmarks, painter.folded
    y = folded[..., 1]
    jaw, _, _ = to_polyline(folded, landmarks[8:14])
    lip, _, _ = to_polyline(folded, landmarks[51:55])
    wide = painter.uniform(8, 0.4, 1.1)
    on_jaw = smoothstep(jaw, 30.0 * wide, 14.0 * wide) * (painter.uniform(9) < 0.75)
    moustache = smoothstep(lip, 13.0, 7.0) * (painter.uniform(10) < 0.8)
    goatee = smoothstep(folded[..., 0], 24.0, 14.0) * smoothstep(jaw, 28.0, 16.0)
    lips = smoothstep(_curve(folded[..., 0], landmarks[jnp.array([51, 52, 53, 54]), :2]) - y, -1.5, 0.5)
    lips *= smoothstep(y - _curve(folded[..., 0], landmarks[jnp.array([57, 56, 55, 54]), :2]), -1.5, 0.5)
    lips *= smoothstep(landmarks[54, 0] - folded[..., 0], -2.0, 1.0)
    where = jnp.maximum(jnp.maximum(on_jaw, moustache), goatee) * (1.0 - lips) * flesh
    where *= smoothstep(y, landmarks[33, 1] - 1.0, landmarks[33, 1] - 5.0)
    hairs = painter.strands[..., 0]
    mask = jnp.clip(where * amount * (0.85 + 0.35 * hairs), 0.0, 0.96) * smoothstep(where + 0.2 * hairs, 0.1, 0.6)
    # Short stubble looks bluish grey through the skin.
    stubble = skin * jnp.array([0.62, 0.64, 0.70])
    color = jnp.where(amount > 0.35, scene.hair * (0.85 + 0.35 * _per_channel(hairs)), stubble)
    return _mix(albedo, color, mask)


def _scalp(painter: _Painter, albedo: jax.Array, parts: Parts) -> jax.Array:
    """Hair roots on the scalp; a share of the heads is shaved or bald."""
    hairs = painter.strands[..., 0]
    length = _hair_length(painter.scene)
    strength = jnp.where(length < BALD_SHARE, 0.05, jnp.where(length < CROPPED_SHARE, 0.6, 0.95))
    mask = smoothstep(parts.scalp + 0.16 * hairs, 0.35, 0.8) * strength
    return _mix(albedo, painter.scene.hair * (0.75 + 0.3 * _per_channel(hairs)), mask)


def _mouth(painter: _Painter, teeth: jax.Array) -> jax.Array:
    """Inside of the mouth, darker further in, with teeth and gums of random tone."""
    landmarks, p = painter.landmarks, painter.p
    depth = landmarks[54, 2] - p[..., 2]
    light = _per_channel(jnp.exp(-jnp.maximum(depth, 0.0) / 22.0))
    flesh = jnp.asarray(paint.MOUTH, jnp.float32) * (0.2 + 1.0 * light)
    white = jnp.asarray(paint.TEETH, jnp.float32) * painter.uniform(12, 0.72, 1.1) * jnp.array([1.0, 1.0, 0.96])
    bite = (landmarks[62, 1] + landmarks[66, 1]) / 2
    gum = smoothstep(abs(p[..., 1] - bite), 8.5, 11.0)
    gap = jnp.exp(-((jnp.sin(p[..., 0] * 0.42) / 0.22) ** 2))
    tooth = _mix(white * (1.0 - 0.22 * _per_channel(gap)), jnp.asarray(GUM, jnp.float32), gum)
    return _mix(flesh, tooth * (0.35 + 0.75 * light), teeth)


def _eyes(painter: _Painter) -> jax.Array:
    """Sclera, iris with radial fibres and a dark rim, and pupil."""
    head = painter.head
    inside = jnp.asarray(head.regions["eyeball_L"])[:, None]
    low = jnp.where(inside, head.template, jnp.inf).min(0)
    high = jnp.where(inside, head.template, -jnp.inf).max(0)
    offset = painter.folded - (low + high) / 2
    radius = jnp.sqrt(offset[..., 0] ** 2 + offset[..., 1] ** 2 + 1e-6)
    front = offset[..., 2] > 0
    angle = jnp.arctan2(offset[..., 1], offset[..., 0])
    fibres = noise.nearest(angle * 9.0, radius * 0.5, painter.offsets[5])[..., 0]
    lightness, blue = painter.coefficient("iris_lightness"), painter.coefficient("iris_blue")
    # Light eyes are rarer the darker the skin.
    pale = jnp.clip(painter.scene.tone.mean(), 0.2, 1.0) ** 2
    color = jnp.asarray(paint.IRIS, jnp.float32) * 0.8 + pale * jnp.maximum(lightness, -1.0) * 0.10
    color = color + pale * jnp.maximum(blue, -0.5) * jnp.array([-0.08, 0.03, 0.13])
    color = jnp.maximum(color, 0.03)
    iris = color * (1.0 + 0.22 * _per_channel(fibres)) * _per_channel(1.0 - 0.55 * smoothstep(radius, 4.6, 5.9))
    white = jnp.asarray(paint.SCLERA, jnp.float32) * painter.uniform(13, 0.8, 1.05)
    # Redder towards the corners.
    pink = _per_channel(smoothstep(radius, 7.0, 13.0))
    eye = white * (1.0 - pink * jnp.array([0.10, 0.28, 0.28]))
    eye = _mix(eye, iris, smoothstep(radius, paint.IRIS_RADIUS_MM + 0.5, paint.IRIS_RADIUS_MM - 0.3) * front)
    pupil = painter.uniform(14, 1.3, 3.2)
    return _mix(eye, jnp.asarray(paint.PUPIL, jnp.float32), smoothstep(radius, pupil + 0.4, pupil - 0.4) * front)
