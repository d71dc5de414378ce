"""What is told of a reconstructed face: points, coefficients, camera and crop, and the files that go with them."""

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from jaxface import meshes
from jaxface.systems.deep3d.face_model import MM_PER_DM
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, Crop, flip_y
from jaxface.systems.deep3d.rendering import render_overlay, texture
from jaxface.systems.deep3d.rendering.image_formation import CAMERA_DM, Sizes
from jaxface.systems.deep3d.rendering.render_overlay import DEPTH_STEP_MM

# The names of the groups in the original's .mat files (models/facerecon_model.py, save_coeff).
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
    """One face of one picture, all of it numpy. V vertices, T triangles.

    coefficients: by the names of `Sizes.groups`; crop: where the network looked; shape (V,3) dm before posing, with
    expression; vertices (V,3) dm in camera space, normals (V,3) turned with the head, albedo and lit colors (V,3);
    landmarks (68,2) of the crop at 224 px, y up; rotation (3,3); triangles (T,3).
    """

    coefficients: dict[str, np.ndarray]
    crop: Crop
    shape: np.ndarray
    vertices: np.ndarray
    normals: np.ndarray
    albedo: np.ndarray
    colors: np.ndarray
    landmarks: np.ndarray
    rotation: np.ndarray
    triangles: np.ndarray

    @property
    def points_px(self) -> np.ndarray:
        """The 68 points (68,2) in the picture."""
        return self.crop.at(REFERENCE_SIZE).to_image(self.landmarks)


class Files(Mapping):
    """Files by ending, each made when it is asked for: most callers look at points only."""

    def __init__(self, makers: dict[str, Callable[[], bytes]]):
        self._makers = makers

    def __getitem__(self, ending: str) -> bytes:
        return self._makers[ending]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def split_coefficients(vector: np.ndarray, sizes: Sizes) -> dict[str, np.ndarray]:
    """The groups of one vector (sizes.total,) by name, each as long as in the vector."""
    ends = np.cumsum(list(sizes.groups.values()))
    return dict(zip(sizes.groups, np.split(vector, ends[:-1]), strict=True))


def describe(made: Reconstruction, pixels: np.ndarray, atlas: Callable[[], texture.Atlas]) -> dict[str, Any]:
    """What is added to a face's box and points: coefficients, camera, crop, `layer` and `files`.

    camera: pinhole in the picture's pixels, x right, y down, centres at integers; a vertex v of the mesh files, in mm,
    stands at diag(1,-1,-1) (rotation v) + translation_mm before it. crop: the original's trans_params (width, height,
    scale, tx, ty), and side, left and top of the crop in the picture resized by about scale. files: .glb with the
    photograph as texture, .obj with vertex colours, .npz and .mat with the coefficients as the original names them,
    _normals.png and _depth.png as large as the picture (`on_picture`, depth in steps of 0.1 mm).
    """
    height, width = pixels.shape[:2]
    camera = render_overlay.image_camera(made.crop)
    drawn = render_overlay.render_view(camera, width, height, made.vertices, made.colors, made.normals, made.triangles)
    files = {
        ".glb": lambda: meshes.encode(_textured(made, drawn, pixels, atlas()), ".glb"),
        ".obj": lambda: meshes.encode(_colored(made), ".obj"),
        ".npz": lambda: _npz(_original(made)),
        ".mat": lambda: _mat(_original(made)),
        "_normals.png": lambda: _png(render_overlay.normal_map(drawn, width, height)),
        "_depth.png": lambda: _png(render_overlay.depth_map(drawn, width, height)),
    }
    return {
        "coefficients": {name: value.tolist() for name, value in made.coefficients.items()},
        "camera": {
            "focal_px": camera.focal_px.tolist(),
            "center_px": camera.center_px.tolist(),
            "rotation": made.rotation.tolist(),
            "translation_mm": _translation_mm(made).tolist(),
        },
        "crop": {
            "trans_params": made.crop.parameters.tolist(),
            "size": made.crop.size,
            "left": made.crop.corner[0],
            "top": made.crop.corner[1],
        },
        "depth_step_mm": DEPTH_STEP_MM,
        "layer": render_overlay.overlay_layer(drawn),
        "files": Files(files),
    }


def _translation_mm(made: Reconstruction) -> np.ndarray:
    x, y, z = np.asarray(made.coefficients["translation"], np.float64)
    return MM_PER_DM * np.array([x, -y, CAMERA_DM - z])


def _colored(made: Reconstruction) -> meshes.Mesh:
    """The head in mm, before posing, with the albedo as vertex colours."""
    shape = (MM_PER_DM * made.shape).astype(np.float32)
    return meshes.Mesh(shape, made.triangles, colors=np.clip(made.albedo, 0, 1).astype(np.float32))


def _textured(
    made: Reconstruction, drawn: render_overlay.View, pixels: np.ndarray, atlas: texture.Atlas
) -> meshes.Mesh:
    """The head in mm, before posing, with the photograph as texture."""
    painted = texture.bake(atlas, drawn, pixels, made.vertices, made.colors, made.normals)
    shape = (MM_PER_DM * made.shape[atlas.vertex]).astype(np.float32)
    normals = (made.normals @ made.rotation)[atlas.vertex].astype(np.float32)
    return meshes.Mesh(shape, atlas.triangles, normals=normals, uv=atlas.uv, texture=painted)


def _original(made: Reconstruction) -> dict[str, np.ndarray]:
    """The six groups (1,n), lm68 (1,68,2) with y down in the 224 px crop, and trans_params (1,5)."""
    arrays = {ORIGINAL_NAMES[name]: value[None] for name, value in made.coefficients.items()}
    arrays |= {"lm68": flip_y(made.landmarks, REFERENCE_SIZE)[None], "trans_params": _reference_parameters(made)[None]}
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _reference_parameters(made: Reconstruction) -> np.ndarray:
    return made.crop.at(REFERENCE_SIZE).parameters


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _mat(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays)
    return buffer.getvalue()


def _png(values: np.ndarray) -> bytes:
    """8 bits (H,W,3) or 16 bits (H,W)."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png", compress_level=3)
    return buffer.getvalue()
