"""Makes docs/images/head_*.jpg, pictures of the embedded head: python docs/images/heads.py"""

import functools
import pathlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import mesh, raster, views
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.subdivided import subdivided

FOLDER = pathlib.Path(__file__).parent
QUALITY, SEED = 82, 1
DISTANCE_MM, SAMPLES = 1500.0, 2
LIGHT, AMBIENT = np.array([-0.4, 0.5, 0.77]), 0.35
BACKGROUND = 0.93
VIEWS_DEG = (0, 40, 90)
AGES = (5, 12, 20, 35, 50, 65, 75, 85)
HAIR = 0.18
# Scale of random people: a little closer to the mean than the distribution.
STRENGTH = 0.8


def picture(
    head: MorphableHead, vertices: np.ndarray, size: int, yaw_deg: float = 0.0, center=(0, -25, 0), width_mm=330.0
) -> np.ndarray:
    """Smoothly shaded picture (size,size,3) uint8 RGB of vertices (V,3) from `yaw_deg` to the subject's left."""
    yaw, center = np.deg2rad(yaw_deg), np.asarray(center, float)
    eye = center + DISTANCE_MM * np.array([np.sin(yaw), 0.0, np.cos(yaw)])
    rotation = views.look_at(eye, center)
    pixels, depth = views.project(
        vertices, eye, rotation, SAMPLES * size * DISTANCE_MM / width_mm, (SAMPLES * size,) * 2
    )
    triangles = head.opaque_triangles()
    albedo = np.where(head.regions["scalp"][:, None], HAIR * np.array([1.0, 0.8, 0.65]), head.albedo_mean)
    rendered = _render(*map(jnp.float32, (pixels, depth, vertices, albedo)), jnp.asarray(triangles), SAMPLES * size)
    surface, covered = map(np.asarray, rendered)
    normals = surface[..., 3:] / np.maximum(np.linalg.norm(surface[..., 3:], axis=-1, keepdims=True), 1e-6)
    light = LIGHT @ np.stack([rotation[0], -rotation[1], -rotation[2]])
    shading = AMBIENT + (1 - AMBIENT) * np.maximum(normals @ light, 0.0)
    image = np.where(covered[..., None], 1.25 * surface[..., :3] * shading[..., None], BACKGROUND)
    image = np.clip(image, 0, 1).reshape(size, SAMPLES, size, SAMPLES, 3).mean((1, 3))
    return (255 * image).astype(np.uint8)


@functools.partial(jax.jit, static_argnums=5)
def _render(pixels, depth, vertices, albedo, triangles, size: int) -> tuple[jax.Array, jax.Array]:
    """Albedo and normals (size,size,6) of the visible surface, and the mask (size,size) of the head."""
    tiers = (*((window, None) for window in views.WINDOWS), (size, None))
    visible = raster.rasterize(pixels, depth, triangles, size, size, tiers=tiers).triangle_id
    attributes = jnp.concatenate([albedo, mesh.vertex_normals(vertices, triangles)], axis=1)
    return raster.interpolate(attributes, pixels, depth, triangles, visible), visible >= 0


def write(name: str, images: list[np.ndarray], columns: int, labels: list[str] = ()) -> None:
    """Writes a contact sheet of equal images, with labels in their upper left corners."""
    images = [image.copy() for image in images]
    for image, label in zip(images, labels, strict=False):
        cv2.putText(image, label, (3, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (0, 0, 0), 1, cv2.LINE_AA)
    images += [np.full_like(images[0], int(255 * BACKGROUND))] * (-len(images) % columns)
    rows = [np.hstack(images[start : start + columns]) for start in range(0, len(images), columns)]
    path = FOLDER / f"head_{name}.jpg"
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    print(f"{path}: {path.stat().st_size // 1024} KB")


def people(head: MorphableHead, count: int) -> list[np.ndarray]:
    """Vertices (V,3) of random people."""
    codes = STRENGTH * np.random.default_rng(SEED).standard_normal((count, len(head.identity)))
    return [head.template + np.tensordot(code, head.identity, 1) for code in codes]


def found_by_opencv(image: np.ndarray) -> bool:
    """Whether OpenCV's frontal Haar cascade finds a face in a picture (H,W,3)."""
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    return len(cascade.detectMultiScale(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 1.05, 3)) > 0


def aged(head: MorphableHead, years: float) -> np.ndarray:
    """Vertices (V,3) of the mean head at an age; ages under 18 are a quarter of all, the others uniform up to 90."""
    mean, deviation = 0.75 * 54.0 + 0.25 * 10.5, 28.0
    code = head.identity_direction(age=(years - mean) / deviation)
    return head.template + np.tensordot(code, head.identity, 1)


def layout(head: MorphableHead, name: str, size: int) -> np.ndarray:
    """Picture of the mean face with the numbered points of a landmark layout."""
    center, width = np.array([0.0, -5.0, 0.0]), 190.0
    image = picture(head, head.template, size, center=center, width_mm=width)
    eye = center + [0, 0, DISTANCE_MM]
    points = head.landmark_points(head.template, name)
    pixels, _ = views.project(points, eye, views.look_at(eye, center), size * DISTANCE_MM / width, (size, size))
    for number, (x, y) in enumerate(pixels.round().astype(int).tolist()):
        cv2.circle(image, (x, y), 2, (220, 30, 30), -1, cv2.LINE_AA)
        cv2.putText(image, str(number), (x + 3, y - 2), cv2.FONT_HERSHEY_SIMPLEX, 0.3, (20, 20, 140), 1, cv2.LINE_AA)
    return image


if __name__ == "__main__":
    coarse = makehuman_head()
    smooth = subdivided(coarse)
    crowd = people(smooth, 12)
    frontal = [picture(smooth, vertices, 200) for vertices in crowd]
    print(f"OpenCV's frontal cascade finds {sum(map(found_by_opencv, frontal))} of {len(frontal)} people")
    write("people", [picture(smooth, vertices, 150, yaw) for vertices in crowd for yaw in VIEWS_DEG], 6)
    units = [smooth.template + unit for unit in smooth.expression]
    shown = [picture(smooth, vertices, 120, center=(0, -20, 0), width_mm=190.0) for vertices in units]
    write("units", shown, 8, list(smooth.expression_names))
    write("ages", [picture(smooth, aged(smooth, years), 150) for years in AGES], 8, [str(years) for years in AGES])
    write("layouts", [layout(smooth, name, 560) for name in ("68", "98")], 2)
