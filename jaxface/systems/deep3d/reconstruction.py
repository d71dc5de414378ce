"""Converts a decoded face to the public result: mesh, camera and crop, and the encoders of its output files."""

import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from jaxface import meshes
from jaxface.results import Camera, FaceLandmarks, FaceReconstruction, LazyFiles
from jaxface.systems.deep3d.face_model import MM_PER_DM
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, Crop, flip_y
from jaxface.systems.deep3d.rendering import render_overlay, texture
from jaxface.systems.deep3d.rendering.image_formation import CAMERA_DM
from jaxface.systems.deep3d.rendering.render_overlay import DEPTH_STEP_MM

LAYOUT = "68"
# Names of the coefficient groups in the original's .mat files (models/facerecon_model.py, save_coeff).
ORIGINAL_NAMES = {
    "identity": "id",
    "expression": "exp",
    "albedo": "tex",
    "angles": "angle",
    "light": "gamma",
    "translation": "trans",
}


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """One face of one image, decoded to numpy arrays. V vertices, T triangles.

    Attributes:
        coefficients: {group: (n,)}, names of `Sizes.groups`.
        crop: the crop that the network saw.
        shape: (V,3) dm, with expression, before posing.
        neutral: (V,3) dm, without expression, before posing.
        vertices: (V,3) dm, in camera space.
        normals: (V,3) unit normals, rotated with the head.
        albedo: (V,3) RGB, unclipped, 1 = white.
        colors: (V,3), albedo under the estimated lighting, unclipped.
        landmarks: (68,2) px of the crop at 224 px, y up.
        rotation: (3,3), of the angles.
        triangles: (T,3).
        shown: (T,) bool, the triangles of the face, without scalp, ears and neck.
    """

    coefficients: dict[str, np.ndarray]
    crop: Crop
    shape: np.ndarray
    neutral: np.ndarray
    vertices: np.ndarray
    normals: np.ndarray
    albedo: np.ndarray
    colors: np.ndarray
    landmarks: np.ndarray
    rotation: np.ndarray
    triangles: np.ndarray
    shown: np.ndarray

    @property
    def points_px(self) -> np.ndarray:
        """The 68 points (68,2) in the image."""
        return self.crop.with_size(REFERENCE_SIZE).to_image(self.landmarks)


def to_result(
    head: Reconstruction,
    face: FaceLandmarks,
    image: np.ndarray,
    atlas: Callable[[], texture.Atlas],
    size: float | None = None,
) -> FaceReconstruction:
    """The public result of a decoded face.

    Its `sigma` (px) is the distance between projected and detected landmarks and the detector's sigma, root sum square.
    `files`: .glb with the photo as texture; .obj with the albedo as vertex colours and the UV of _texture.png, the
    completed texture; _neutral.obj, the same person without expression; _render.png, the face alone (RGBA); .npz and
    .mat with the coefficients under the original's names; _normals.png and _depth.png of the size of the image
    (`render_overlay`, 0.1 mm a step).

    Args:
        head: the decoded face.
        face: the detected face from which its crop was made.
        image: (H,W,3) uint8 RGB.
        atlas: returns the texture atlas of the head; called when a texture is needed.
        size: true size of the head relative to that of the reconstruction, None if it is not known: meshes, camera and
            depth are then in the millimetres of the face model.
    """
    mm_per_dm = MM_PER_DM * (1.0 if size is None else size)
    height, width = image.shape[:2]
    camera = render_overlay.image_camera(head.crop)
    surface = head.vertices, head.colors, head.normals, head.triangles, head.shown
    view = render_overlay.render_view(camera, width, height, *surface)

    @functools.cache
    def texels() -> np.ndarray:
        return texture.bake(atlas(), view, image, head.vertices, head.colors, head.normals)

    encoders = {
        ".glb": lambda: meshes.encode(_textured_mesh(head, mm_per_dm, texels(), atlas()), ".glb", "mm"),
        ".obj": lambda: meshes.encode(_colored_mesh(head, mm_per_dm * head.shape, atlas()), ".obj", "mm"),
        "_neutral.obj": lambda: meshes.encode(_colored_mesh(head, mm_per_dm * head.neutral, atlas()), ".obj", "mm"),
        "_texture.png": lambda: _png(texels()),
        "_render.png": lambda: _png(render_overlay.clean_render(view, width, height)),
        ".npz": lambda: _npz(_original_arrays(head)),
        ".mat": lambda: _mat(_original_arrays(head)),
        "_normals.png": lambda: _png(render_overlay.normal_map(view, width, height)),
        "_depth.png": lambda: _png(render_overlay.depth_map(view, width, height)),
    }
    points = head.points_px
    return FaceReconstruction(
        box=face.box,
        extent=face.extent,
        layout=LAYOUT,
        score=face.score,
        points=points,
        sigma=np.hypot(np.linalg.norm(points - face.points, axis=1), face.sigma),
        coefficients=head.coefficients,
        camera=Camera(camera.focal_px, camera.center_px, head.rotation, _translation_mm(head, mm_per_dm)),
        crop=_crop_entry(head.crop),
        mesh=_colored_mesh(head, mm_per_dm * head.shape),
        depth_step_mm=DEPTH_STEP_MM * mm_per_dm / MM_PER_DM,
        size=size,
        layer=render_overlay.overlay_layer(view),
        files=LazyFiles(encoders),
    )


def _crop_entry(crop: Crop) -> dict[str, Any]:
    left, top = crop.corner
    return {"trans_params": crop.parameters.tolist(), "size": crop.size, "left": left, "top": top}


def _translation_mm(head: Reconstruction, mm_per_dm: float) -> np.ndarray:
    x, y, z = np.asarray(head.coefficients["translation"], np.float64)
    return mm_per_dm * np.array([x, -y, CAMERA_DM - z])


def _colored_mesh(head: Reconstruction, shape: np.ndarray, atlas: texture.Atlas | None = None) -> meshes.Mesh:
    """A shape (V,3) mm of the head with the albedo as vertex colours, and the UV of an atlas."""
    mesh = meshes.Mesh(
        shape.astype(np.float32),
        head.triangles,
        colors=np.clip(head.albedo, 0, 1).astype(np.float32),
    )
    return mesh if atlas is None else dataclasses.replace(mesh, uv=atlas.uv, uv_triangles=atlas.triangles)


def _textured_mesh(head: Reconstruction, mm_per_dm: float, texels: np.ndarray, atlas: texture.Atlas) -> meshes.Mesh:
    """The head in mm, before posing, with its texture."""
    shape = (mm_per_dm * head.shape[atlas.vertex]).astype(np.float32)
    normals = (head.normals @ head.rotation)[atlas.vertex].astype(np.float32)
    return meshes.Mesh(shape, atlas.triangles, normals=normals, uv=atlas.uv, texture=texels)


def _original_arrays(head: Reconstruction) -> dict[str, np.ndarray]:
    """The six groups (1,n), lm68 (1,68,2) with y down in the 224 px crop, and trans_params (1,5)."""
    arrays = {ORIGINAL_NAMES[name]: value[None] for name, value in head.coefficients.items()}
    arrays["lm68"] = flip_y(head.landmarks, REFERENCE_SIZE)[None]
    arrays["trans_params"] = head.crop.with_size(REFERENCE_SIZE).parameters[None]
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _mat(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays)
    return buffer.getvalue()


def _png(values: np.ndarray) -> bytes:
    """8 bits (H,W,3) or (H,W,4), or 16 bits (H,W)."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png", compress_level=3)
    return buffer.getvalue()
