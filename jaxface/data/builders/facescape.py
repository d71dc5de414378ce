"""FaceScape (Yang et al., CVPR 2020): multi-view photos with registered meshes, whose vertices are dense labels.

A record has 68 landmarks and VERTICES random vertices of the topologically uniform mesh, in the photo (`dense`) and on
the template (`dense_queries`). The template coordinates of the vertices come from the mean over all people of the
expression with the mouth open, warped to the canonical template by its 68 landmarks. Photos are undistorted and reduced
so that the face is FACE_PX high; views from behind and those marked as invalid are left out. Every twentieth person is
for testing. The indices of the 68 landmarks are those of florisdf/continuous_landmarks; the projection is that of the
data set's toolkit.
"""

import functools
import json
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np
import scipy.interpolate
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.data.entries import Entry, leave_out, unusable
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.heads import canonical

LANDMARKS = (
    "23404 4607 4615 4655 20356 4643 5022 5013 1681 1692 11470 10441 1336 1343 1303 1295 2372 6143 6141 6126 6113 6109 "
    "2844 2762 2765 2774 2789 6053 6041 1870 1855 4728 4870 1807 1551 1419 3434 3414 3447 3457 3309 3373 3179 151 127 "
    "143 3236 47 21018 4985 4898 6571 1575 1663 1599 1899 12138 5231 21978 5101 21067 21239 11378 11369 11553 12048 "
    "5212 21892"
)
MESH_VERTICES = 26317
VERTICES = 512
SCALE, FACE_PX = 1.2, 400
TEST_EVERY = 20
PHOTOS, MESHES, POSES = "fsmview_trainset", "facescape_trainset", "Rt_scale_dict.json"
OPEN_MOUTH = "mouth_stretch"
# Smoothing of the warp to the template (`scipy.interpolate.RBFInterpolator`), in template units.
SMOOTHING = 1e-3
TREE = (
    f"{PHOTOS}/SUBJECT/K_EXPRESSION/ with VIEW.jpg and params.json, {MESHES}/SUBJECT/models_reg/K_EXPRESSION.obj (also "
    f"of {OPEN_MOUTH}), and {POSES}"
)


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "facescape"."""
    return Facescape(data_dir=data_dir)


class Facescape(tfds.core.GeneratorBasedBuilder):
    """FaceScape: 68 landmarks, dense vertices, several views."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        dense = {"dense": faces.float_tensor(VERTICES, 2), "dense_queries": faces.float_tensor(VERTICES, 3)}
        return faces.info(self, "68", 68, dense)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = faces.find_root(dl_manager.manual_dir, PHOTOS)
        people = sorted((path for path in (root / PHOTOS).iterdir() if path.is_dir()), key=_by_number)
        if len(people) < 2:
            raise UserError(f"{root / PHOTOS}: has {len(people)} people; at least 2 are needed")
        template, problems = template_points(root)
        leave_out(self.info, problems)
        poses = _read_json(root / POSES)
        train = [path for number, path in enumerate(people) if number % TEST_EVERY]
        splits = {"train": train, "test": people[::TEST_EVERY]}
        return {
            split: self._generate_examples(root, split, chosen, template, poses) for split, chosen in splits.items()
        }

    def _generate_examples(
        self, root: pathlib.Path, split: str, people: list[pathlib.Path], template: np.ndarray, poses: dict
    ) -> Iterator:
        entries = (entry for person in people for entry in _views(root, person, template, poses))
        return faces.records(entries, self.info, 68, meanface=split == "train")


def template_points(root: pathlib.Path) -> tuple[np.ndarray, dict[str, str]]:
    """Template coordinates (V,3) float32, units of 100 mm, of the vertices, and the reasons by mesh left out.

    The mean open-mouthed mesh is aligned by a similarity and warped so that its 68 landmarks are the canonical ones.
    Raises UserError if no person has the expression.
    """
    meshes, problems = [], {}
    for path in sorted((root / MESHES).glob(f"*/models_reg/*_{OPEN_MOUTH}.obj")):
        try:
            meshes.append(_vertices(path))
        except UserError as error:
            problems[path.relative_to(root).as_posix()] = str(error)
    if not meshes:
        reasons = "".join(f"; {reason}" for reason in list(problems.values())[:1])
        raise UserError(f"{root / MESHES}: no person has models_reg/K_{OPEN_MOUTH}.obj{reasons}")
    mean = sum(meshes) / len(meshes)
    landmarks, target = mean[_landmarks()], canonical.queries("68")
    scale, rotation, translation = alignment.similarity(landmarks, target)
    aligned = scale * mean @ rotation.T + translation
    # The spline interpolates displacements: far from the landmarks it then keeps the shape of the mesh.
    anchors = aligned[_landmarks()]
    displacement = scipy.interpolate.RBFInterpolator(anchors, target - anchors, kernel="linear", smoothing=SMOOTHING)
    return (aligned + displacement(aligned)).astype(np.float32), problems


def project(
    vertices: np.ndarray, pose: tuple[float, np.ndarray], intrinsics: np.ndarray, extrinsics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of a registered mesh in an undistorted photo.

    Args:
        vertices: (V,3) of the mesh file.
        pose: scale and rotation with translation (3,4) of the mesh; the cameras' space is R^T (v - t) / scale.
        intrinsics: (3,3) of the camera.
        extrinsics: (3,4) of the camera.

    Returns:
        pixels (V,2) and camera-space points (V,3), z forward.
    """
    scale, transform = pose
    world = (vertices - transform[:, 3]) @ transform[:, :3] / scale
    points = world @ extrinsics[:, :3].T + extrinsics[:, 3]
    projected = points @ intrinsics.T
    return projected[:, :2] / projected[:, 2:], points


def _views(
    root: pathlib.Path, person: pathlib.Path, template: np.ndarray, poses: dict
) -> Iterator[Entry[faces.AnnotatedFace]]:
    """The photos of a person; an expression whose mesh, cameras or pose cannot be read is one entry."""
    for folder in sorted((path for path in person.iterdir() if path.is_dir()), key=_by_number):
        name, number = f"{person.name}/{folder.name}", folder.name.partition("_")[0]
        try:
            params = _read_json(folder / "params.json")
            vertices = _vertices(root / MESHES / person.name / "models_reg" / f"{folder.name}.obj")
            pose = _pose(root, poses, person.name, number)
        except UserError as error:
            yield unusable(name, str(error))
            continue
        for path in sorted(folder.glob("*.jpg"), key=_by_number):
            read = functools.partial(_view, path, name, params, vertices, pose, template)
            yield Entry(f"{name}/{path.name}", read)


def _pose(root: pathlib.Path, poses: dict, person: str, number: str) -> tuple[float, np.ndarray]:
    """Scale, and rotation with translation (3,4), of a registered mesh."""
    try:
        scale, transform = poses[person][number]
        return float(scale), np.array(transform, np.float64)[:3].reshape(3, 4)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{root / POSES}: has no scale and pose of {person}, {number} ({error})") from error


def _view(
    path: pathlib.Path,
    folder: str,
    params: dict,
    vertices: np.ndarray,
    pose: tuple[float, np.ndarray],
    template: np.ndarray,
) -> faces.AnnotatedFace | None:
    """The record of a photo; None if it is invalid or shows the face from behind."""
    view = path.stem
    if not params.get(f"{view}_valid", False):
        return None
    try:
        intrinsics, extrinsics, distortion = (
            np.array(params[f"{view}_{key}"], np.float64) for key in ("K", "Rt", "distortion")
        )
        intrinsics, extrinsics = intrinsics.reshape(3, 3), extrinsics.reshape(3, 4)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path.parent / 'params.json'}: view {view} is incomplete ({error}); copy it again") from error
    pixels, points = project(vertices, pose, intrinsics, extrinsics)
    if points[:, 2].min() <= 0 or not _faces_camera(points[_landmarks()]):
        return None
    image = cv2.undistort(faces.read_image(path), intrinsics, distortion)
    shrink = min(1.0, FACE_PX / np.ptp(pixels[_landmarks()][:, 1]))
    image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    pixels = (pixels + 0.5) * shrink - 0.5
    landmarks = pixels[_landmarks()]
    if not ((landmarks > 0) & (landmarks < image.shape[1::-1])).all():
        return None
    crop = faces.landmark_crop(landmarks, SCALE, image)
    name = f"{folder}/{path.name}"
    chosen = np.random.default_rng(list(name.encode())).choice(len(vertices), VERTICES, replace=False)
    dense = {"dense": np.float32(pixels[chosen] - crop.origin()), "dense_queries": template[chosen]}
    box = np.concatenate([landmarks.min(0), landmarks.max(0)])
    return faces.AnnotatedFace(name, image, crop, box, landmarks, crop.normalise(landmarks), dense)


def _faces_camera(landmarks: np.ndarray) -> bool:
    """Whether the plane through eyes and mouth (68,3), camera space, is seen from its front."""
    right_eye, left_eye = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    mouth = landmarks[48:60].mean(0)
    # x right, y down: the normal of a face that looks at the camera points to -z.
    normal = np.cross(mouth - right_eye, left_eye - right_eye)
    return bool(normal @ (landmarks.mean(0)) < 0)


def _landmarks() -> np.ndarray:
    return np.array(LANDMARKS.split(), int)


def _vertices(path: pathlib.Path) -> np.ndarray:
    """The vertices (V,3) of a registered mesh, in the order of the file."""
    if not path.is_file():
        raise UserError(f"{path}: missing")
    lines = annotations.read_text(path).splitlines()
    rows = [line.split()[1:4] for line in lines if line.startswith("v ")]
    if len(rows) != MESH_VERTICES:
        raise UserError(f"{path}: {len(rows)} vertices; expected {MESH_VERTICES}, a mesh of models_reg")
    try:
        return np.array(rows, np.float64).reshape(-1, 3)
    except ValueError as error:
        raise UserError(f"{path}: its vertices are not three numbers ({error}); copy it again") from error


def _read_json(path: pathlib.Path) -> dict:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; copy it again")
    return content


def _by_number(path: pathlib.Path) -> tuple[int, str]:
    head = path.stem.partition("_")[0]
    return int(head) if head.isdigit() else -1, path.name
