"""Parameters of synthetic photographs and their distribution, as pure functions of (head, key)."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import jaxlie
import numpy as np

from jaxface.geometry import camera, lighting
from jaxface.heads import face_units
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.paint import SKIN

# Height of a face, with which the focal length is chosen.
FACE_MM = 170.0
# Largest distance of the camera.
FARTHEST_MM = 6000.0
# Near plane of the rasteriser, nearer than all cameras.
NEAR_MM = 50.0
# Factor on the beard coefficient of heads with a strong beard.
STRONG_BEARD = 3.0
# Share of heads whose features and eyes are faded, like statues, and of heads whose features are faded at all.
UNTEXTURED_SHARE, FADED_SHARE = 0.04, 0.3
# Skin colours in sRGB from the lightest to the darkest (Fitzpatrick types I to VI).
SKIN_TONES = np.array(
    [[0.92, 0.76, 0.67], [0.86, 0.68, 0.57], [0.77, 0.58, 0.46], [0.66, 0.46, 0.34], [0.48, 0.32, 0.23]]
    + [[0.30, 0.20, 0.15]]
)
# Hair colours in sRGB: black, dark brown, brown, blond, red, grey, white; and their relative frequencies.
HAIR_COLORS = np.array(
    [[0.07, 0.06, 0.06], [0.17, 0.12, 0.09], [0.30, 0.20, 0.13], [0.66, 0.52, 0.34], [0.45, 0.20, 0.09]]
    + [[0.50, 0.49, 0.48], [0.85, 0.84, 0.82]]
)
HAIR_FREQUENCIES = np.array([0.26, 0.26, 0.18, 0.12, 0.04, 0.09, 0.05])
# Movements that people show on photographs far more often than independent face units would: the share of people, and
# the weights of the face units of a full movement. The first unit is always there, of the others a random part.
MOVEMENTS = {
    "open smile": (0.2, {"mouthSmile": 1.0, "mouthUpperUp": 0.8, "mouthLowerDown": 0.7, "cheekSquint": 0.7,
                         "eyeSquint": 0.4}),
    "smile": (0.3, {"mouthSmile": 1.0, "cheekSquint": 0.7, "eyeSquint": 0.4, "mouthUpperUp": 0.5, "mouthDimple": 0.5,
                    "mouthStretch": 0.4}),
    "raised brows": (0.25, {"browInnerUp": 1.0, "browOuterUp": 1.0}),
    "lowered brows": (0.25, {"browDown": 1.0}),
    "lids at rest": (0.5, {"eyeBlink": 0.35}),
    "wide eyes": (0.15, {"eyeWide": 1.0}),
}  # fmt: skip
# Probability of a mask over mouth and nose, for a scene with accessories.
MASK_SHARE = 0.08
# Colours of ambient light: daylight in the shade, neutral, incandescent.
AMBIENT_COLORS = np.array([[0.86, 0.97, 1.14], [1.0, 1.0, 1.0], [1.18, 0.98, 0.74]])


@dataclasses.dataclass(frozen=True)
class CaptureConfig:
    """Distribution of capture conditions.

    Attributes:
        yaw_deg: maximum yaw.
        tilt_deg: maximum pitch and roll.
        nearest_mm: minimum camera distance.
        occluded: probability of occluders in front of the head.
        accessories: probability of glasses and hats; half of it is that of a strong beard.
        nose: least and largest share by which noses protrude more than those of the head's identities (`noses`).
    """

    yaw_deg: float = 60.0
    tilt_deg: float = 30.0
    nearest_mm: float = 350.0
    occluded: float = 0.35
    accessories: float = 0.0
    nose: tuple[float, float] = (-0.05, 0.35)


UNCONSTRAINED = CaptureConfig()
WITH_ACCESSORIES = CaptureConfig(accessories=0.6)
# Its people are those of the head's identities, whose coefficients are labels.
PORTRAIT = CaptureConfig(yaw_deg=35.0, tilt_deg=15.0, nearest_mm=700.0, occluded=0.0, nose=(0.0, 0.0))


@flax.struct.dataclass
class Scene:
    """Parameters of a scene; I, E, A are the numbers of modes of the head.

    Attributes:
        identity, expression, albedo: (I,), (E,), (A,) coefficients.
        nose: () share by which the nose protrudes more, see `noses.displacement`.
        gaze: (2,) rad, see `morphable.rotate_eyes`.
        rotation, translation: (3,3) and (3,) mm, head frame to camera space (`camera.to_camera`).
        focal_px, center_px: () and (2,).
        light: (9,3) spherical-harmonics coefficients.
        sun: (2,3) direction and colour of a directional light, in a y-up frame facing the viewer.
        gloss: () strength of its highlight.
        exposure: () mean brightness in [0,1] of a head with skin of medium tone.
        hair: (3,) sRGB colour of the hair.
        tone: (3,) factor on the skin colour.
        fade: (2,) in [0,1], blend weights towards the skin colour: of brows, lips and hair, and of the eyes.
        occluded, accessories: () probabilities of occluders and of accessories.
        mask: () bool, whether a mask covers mouth and nose.
        person_key: random key of hair style and skin pattern.
        key: random key of background, clothes, occluders, accessories and camera noise.
    """

    identity: jax.Array
    expression: jax.Array
    albedo: jax.Array
    nose: jax.Array
    gaze: jax.Array
    rotation: jax.Array
    translation: jax.Array
    focal_px: jax.Array
    center_px: jax.Array
    light: jax.Array
    sun: jax.Array
    gloss: jax.Array
    exposure: jax.Array
    hair: jax.Array
    tone: jax.Array
    fade: jax.Array
    occluded: jax.Array
    accessories: jax.Array
    mask: jax.Array
    person_key: jax.Array
    key: jax.Array


def _movement(key: jax.Array, names: tuple[str, ...], share: float, units: dict[str, float]) -> jax.Array:
    """Weights (E,) of one of MOVEMENTS, with random strength and nearly equal sides; zero unless one of `share`."""
    k = jax.random.split(key, 4)
    strength = jax.random.bernoulli(k[0], share) * jax.random.uniform(k[1], minval=0.2)
    parts = jnp.array(list(units.values())) * jax.random.uniform(k[2], (len(units),)).at[0].set(1.0)
    sides = 1.0 - 0.25 * jax.random.uniform(k[3], (2,))
    weights = jnp.zeros(len(names))
    for index, name in enumerate(names):
        unit, _, side = name.partition("_")
        if unit in units:
            part = list(units).index(unit)
            weights = weights.at[index].set(strength * parts[part] * sides[int(side == "R")])
    return weights


def _expression(key: jax.Array, head: MorphableHead, identity: jax.Array, mask: jax.Array) -> jax.Array:
    """Random expression weights (E,): independent face units, sparse and mostly symmetric, and MOVEMENTS.

    The sum of the independent units is at most 3 before the jaw is opened; those of the mouth are weak in a smile.
    Mouth and jaw rest where `mask` (): a mask is painted on the skin, so that an open mouth would be a hole in it.
    """
    names = head.expression_names
    index = {name: i for i, name in enumerate(names)}
    # Of a left and a right expression the first of the two, for every other expression itself.
    symmetric = np.array([min(i, index.get(name[:-1] + "L", i)) for i, name in enumerate(names)])
    k = jax.random.split(key, 5)
    weights = jax.random.bernoulli(k[0], 0.12, (len(names),)) * jax.random.uniform(k[1], (len(names),))
    weights = jnp.where(jax.random.bernoulli(k[2], 0.7), weights[symmetric], weights)
    weights /= jnp.maximum(1.0, weights.sum() / 3.0)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(MOVEMENTS))
    common = jnp.stack([_movement(k, names, *one) for k, one in zip(keys, MOVEMENTS.values(), strict=True)]).max(0)
    of_mouth = np.array([name.startswith("mouth") for name in names])
    weights = jnp.maximum(weights * (1.0 - of_mouth * common[of_mouth].max()), common)
    jaw = names.index("jawOpen")
    opening = jax.random.bernoulli(k[3], 0.3) * jax.random.uniform(k[4]) ** 1.5
    weights = weights.at[jaw].set(jnp.maximum(weights[jaw], opening))
    hidden = np.array([name.startswith(("mouth", "jaw")) for name in names])
    weights = jnp.where(mask & hidden, 0.0, weights)
    return face_units.compatible(weights, head, identity)


def _pose(key: jax.Array, middle: jax.Array, size: int, capture: CaptureConfig) -> dict[str, jax.Array]:
    """Random pose and camera: the fields rotation, translation, focal_px and center_px of a `Scene`.

    Args:
        key: random key.
        middle: (3,) mm, centre of the face in the head frame; it projects to `center_px`.
        size: side of the image in pixels.
        capture: limits of the angles and of the distance, whose logarithm rises in density up to that of FARTHEST_MM:
            half of the photographs are from farther than 2.6 m, one in seven from nearer than 1 m.
    """
    k = jax.random.split(key, 6)
    spread = jax.random.uniform(k[0], (2, 3), minval=-1.0)
    pitch, roll = jnp.deg2rad(capture.tilt_deg) * spread[0, 1:] * abs(spread[1, 1:])
    yaw = jnp.deg2rad(capture.yaw_deg) * spread[0, 0]
    rotation = jaxlie.SO3.from_rpy_radians(pitch, yaw, roll).as_matrix()
    distance = capture.nearest_mm * (FARTHEST_MM / capture.nearest_mm) ** jnp.sqrt(jax.random.uniform(k[1]))
    face_per_image = jax.random.uniform(k[2], minval=0.42, maxval=0.68)
    center = (size - 1) / 2 + size * 0.08 * jax.random.uniform(k[3], (2,), minval=-1.0)
    face_center = jnp.array([0.0, 0.0, 1.0]) * distance
    return {
        "rotation": rotation,
        "translation": face_center - camera.to_camera(middle, rotation, jnp.zeros(3)),
        "focal_px": face_per_image * size * distance / FACE_MM,
        "center_px": center,
    }


def _along(table: np.ndarray, position: jax.Array) -> jax.Array:
    """Row (3,) of `table` (N,3) at a fractional `position` () in [0,N-1], linearly interpolated."""
    weights = jnp.maximum(1.0 - abs(position - jnp.arange(len(table))), 0.0)
    return weights @ jnp.asarray(table, jnp.float32)


def _light(key: jax.Array) -> dict[str, jax.Array]:
    """Random light in linear intensities: the fields light, sun, gloss and exposure of a `Scene`.

    The ambient light comes rather from above; the sun (lamp, window, flash) rather from the front and from above.
    """
    k = jax.random.split(key, 10)
    ambient_color = _along(AMBIENT_COLORS, 2.0 * jax.random.uniform(k[0]))
    light = 0.10 * jax.random.normal(k[1], (9, 1)) + 0.025 * jax.random.normal(k[2], (9, 3))
    light = light.at[0].add(0.75 / lighting.sh_basis(jnp.array([0.0, 0.0, 1.0]))[0])
    # Coefficient 1 belongs to -y.
    light = light.at[1].add(-0.10 * jax.random.uniform(k[3], minval=-0.3, maxval=1.5))
    azimuth, elevation = jnp.deg2rad(jnp.array([65.0, 24.0])) * jax.random.normal(k[4], (2,))
    elevation += jnp.deg2rad(32.0)
    horizontal = jnp.cos(elevation)
    direction = jnp.stack([horizontal * jnp.sin(azimuth), jnp.sin(elevation), horizontal * jnp.cos(azimuth)])
    sun_color = _along(AMBIENT_COLORS[::-1], 2.0 * jax.random.uniform(k[5]))
    strength = 2.6 * jax.random.uniform(k[6]) ** 1.5
    return {
        "light": light * ambient_color,
        "sun": jnp.stack([direction, strength * sun_color]),
        "gloss": 0.03 + 0.17 * jax.random.uniform(k[7]) ** 2,
        "exposure": jax.random.uniform(k[8], minval=0.32, maxval=0.72),
    }


def _appearance(key: jax.Array) -> dict[str, jax.Array]:
    """Random skin tone and hair colour: the fields hair, tone and fade of a `Scene`.

    A share of UNTEXTURED_SHARE of the heads looks like statues of any colour.
    """
    k = jax.random.split(key, 8)
    fade = jax.random.uniform(k[0], (4,))
    untextured = fade[0] < UNTEXTURED_SHARE
    tint = jnp.where(untextured, jax.random.uniform(k[1], (3,), minval=-0.8, maxval=0.4), 0.0)
    melanin = jax.random.uniform(k[2])
    skin = _along(SKIN_TONES, (len(SKIN_TONES) - 1) * melanin)
    color = jax.random.choice(k[3], jnp.asarray(HAIR_COLORS, jnp.float32), p=jnp.asarray(HAIR_FREQUENCIES))
    # Most people with dark skin have dark hair.
    dark = jax.random.bernoulli(k[4], jnp.clip(1.6 * melanin - 0.3, 0.0, 0.95))
    color = jnp.where(dark, jnp.asarray(HAIR_COLORS[0], jnp.float32), color)
    varied = color * jnp.exp(0.25 * jax.random.normal(k[5]) + 0.06 * jax.random.normal(k[6], (3,)))
    return {
        "hair": jnp.clip(varied, 0.02, 0.95),
        "tone": skin / jnp.asarray(SKIN, jnp.float32) * jnp.exp(tint),
        "fade": jnp.where(untextured, jnp.sqrt(fade[1:3]), jnp.array([0.6 * fade[3] * (fade[0] < FADED_SHARE), 0.0])),
    }


def sample_scene(head: MorphableHead, key: jax.Array, size: int, capture: CaptureConfig = UNCONSTRAINED) -> Scene:
    """Random person, expression, gaze, pose, focal length, light and skin tone, framed for an S = `size` image."""
    k = jax.random.split(key, 10)
    middle = head.landmark_points(head.template, "68").mean(0)
    strength = jax.random.uniform(k[0], minval=0.5, maxval=1.4)
    identity = strength * jax.random.normal(k[1], (len(head.identity_names),))
    albedo = jax.random.normal(k[3], (len(head.albedo_names),))
    if capture.accessories and "beard" in head.albedo_names:
        strong_beard = jax.random.bernoulli(jax.random.fold_in(k[3], 1), capture.accessories / 2)
        albedo = albedo.at[head.albedo_names.index("beard")].multiply(jnp.where(strong_beard, STRONG_BEARD, 1.0))
    mask = jax.random.bernoulli(jax.random.fold_in(k[7], 5), capture.accessories * MASK_SHARE)
    return Scene(
        identity=identity,
        expression=_expression(k[2], head, identity, mask),
        albedo=albedo,
        nose=jax.random.uniform(jax.random.fold_in(k[1], 1), minval=capture.nose[0], maxval=capture.nose[1]),
        gaze=jnp.deg2rad(jnp.array([25.0, 15.0])) * jax.random.uniform(k[4], (2,), minval=-1.0),
        occluded=jnp.float32(capture.occluded),
        accessories=jnp.float32(capture.accessories),
        mask=mask,
        person_key=k[8],
        key=k[7],
        **_pose(k[5], middle, size, capture),
        **_light(k[6]),
        **_appearance(k[9]),
    )
