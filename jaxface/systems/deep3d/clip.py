"""A face in a video (ours): one identity for the clip, smooth pose and expression, and one animated head.

Each frame is reconstructed alone first, in a crop of its own. Crops differ from frame to frame, so the pose is smoothed
as what the image shows: rotation, position of the head's origin in pixels, and pixels per millimetre.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxface.mesh_files import animated_gltf
from jaxface.meshes import Mesh
from jaxface.results import FaceReconstruction
from jaxface.system import ClipReconstruction
from jaxface.systems.deep3d import predict, reconstruction
from jaxface.systems.deep3d.face_model import MM_PER_DM, FaceModel
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, Crop
from jaxface.systems.deep3d.rendering import render_overlay, texture
from jaxface.systems.deep3d.rendering.image_formation import CAMERA_DM

# Standard deviation of the Gaussian kernel over time, in seconds.
SMOOTHING_S = 0.06
# Camera frames have y down and z away, heads have y up and z to the viewer.
FLIP = np.diag([1.0, -1.0, -1.0])
ENDING = ".glb"


@dataclasses.dataclass(frozen=True)
class _Motion:
    """The pose of a head in F frames, as the image shows it.

    Attributes:
        origin_px: (F,2) projection of the head's origin.
        log_scale: (F,) log of pixels per millimetre at the origin.
        rotation: (F,3,3).
    """

    origin_px: np.ndarray
    log_scale: np.ndarray
    rotation: np.ndarray

    def smoothed(self, kernel: np.ndarray) -> "_Motion":
        """The motion averaged by the weights (F,F) of each frame's neighbours; rotations by polar decomposition."""
        u, _, vt = np.linalg.svd(np.einsum("fg,gij->fij", kernel, self.rotation))
        sign = np.linalg.det(u @ vt)
        u[..., -1] *= sign[:, None]
        return _Motion(kernel @ self.origin_px, kernel @ self.log_scale, u @ vt)


def reconstruct_clip(
    network: predict.Network,
    names: Callable[[], Mapping[str, float]],
    params: object,
    model_state: object,
    faces: Sequence[FaceReconstruction],
    times: Sequence[float],
    smooth: bool,
) -> ClipReconstruction:
    """`System.reconstruct_clip`: the faces of one track with one identity, and the animated head.

    Args:
        network: the model.
        names: returns names of the expression modes and the coefficient of each at weight 1.
        params: not used, as `faces` are predictions already.
        model_state: not used.
        faces: predictions of the frames in which the face was found, in order; layers are not needed.
        times: (F,) s, of these frames.
        smooth: whether pose, expression and light are smoothed over time.
    """
    del params, model_state
    kernel = _kernel(np.asarray(times, np.float64), smooth)
    groups = {name: np.stack([face.coefficients[name] for face in faces]) for name in network.sizes.groups}
    trust = 1 / np.array([np.median(face.sigma) for face in faces]).clip(1e-3)
    for name in ("identity", "albedo"):
        groups[name] = np.broadcast_to(np.average(groups[name], axis=0, weights=trust), groups[name].shape)
    for name in ("expression", "light"):
        groups[name] = kernel @ groups[name]
    motion = _motion(faces).smoothed(kernel)
    sizes = [face.size for face in faces if face.size is not None]
    size = float(np.exp(np.average(np.log(sizes), weights=trust))) if sizes else None
    crops = [_crop(face) for face in faces]
    vectors = [
        _vector(network, {name: values[index] for name, values in groups.items()}, motion, index, crop)
        for index, crop in enumerate(crops)
    ]

    def frame(index: int, image: np.ndarray) -> FaceReconstruction:
        head = network.head()
        decoded = predict.reconstruct(head.face, network.sizes, vectors[index], crops[index])
        result = reconstruction.to_result(decoded, faces[index], image, head.atlas, size)
        kept = {name: getattr(faces[index], name) for name in ("sigma", "track", "points_drawn")}
        return dataclasses.replace(result, **kept)

    def files(image: np.ndarray) -> dict[str, bytes]:
        head = network.head()
        decoded = predict.reconstruct(head.face, network.sizes, vectors[reference], crops[reference])
        mesh = _textured(decoded, image, head.atlas())
        animated = _animated(head.face, mesh, head.atlas(), names(), groups["expression"], np.asarray(times))
        placed = _placed(animated, motion, faces, image)
        return {ENDING: animated_gltf.encode(placed if size is None else _scaled(placed, size))}

    reference = int(np.argmax(motion.rotation[:, 2, 2] * trust))
    return ClipReconstruction(frame, reference, files)


def _kernel(times: np.ndarray, smooth: bool) -> np.ndarray:
    """Weights (F,F) of the frames for each frame; rows have the sum 1."""
    if not smooth:
        return np.eye(len(times))
    weights = np.exp(-0.5 * ((times[:, None] - times) / SMOOTHING_S) ** 2)
    return weights / weights.sum(1, keepdims=True)


def _motion(faces: Sequence[FaceReconstruction]) -> _Motion:
    cameras = [face.camera for face in faces]
    focal = np.stack([camera.focal_px for camera in cameras])
    center = np.stack([camera.center_px for camera in cameras])
    # In the millimetres of the face model, without the predicted size.
    translation = np.stack([face.camera.translation_mm / (face.size or 1.0) for face in faces])
    origin = focal * translation[:, :2] / translation[:, 2:] + center
    log_scale = np.log(focal.mean(1) / translation[:, 2])
    return _Motion(origin, log_scale, np.stack([np.asarray(camera.rotation, np.float64) for camera in cameras]))


def _crop(face: FaceReconstruction) -> Crop:
    width, height, scale, x, y = face.crop["trans_params"]
    size = face.crop["size"]
    return Crop(round(width), round(height), scale, x, y, size, exact=size != REFERENCE_SIZE)


def _vector(
    network: predict.Network, groups: dict[str, np.ndarray], motion: _Motion, index: int, crop: Crop
) -> np.ndarray:
    """The coefficients (sizes.total,) with the pose of the motion in the frame `index`, for its crop."""
    camera = render_overlay.image_camera(crop)
    depth = camera.focal_px.mean() / np.exp(motion.log_scale[index])
    x, y = (motion.origin_px[index] - camera.center_px) * depth / camera.focal_px / MM_PER_DM
    pose = {"angles": _angles(motion.rotation[index]), "translation": [x, -y, CAMERA_DM - depth / MM_PER_DM]}
    return np.concatenate([np.float32({**groups, **pose}[name]) for name in network.sizes.groups])


def _angles(rotation: np.ndarray) -> np.ndarray:
    """The angles (3,) of a rotation; the inverse of `image_formation.rotation`."""
    pitch = np.arctan2(rotation[2, 1], rotation[2, 2])
    yaw = np.arcsin(np.clip(-rotation[2, 0], -1, 1))
    return np.array([pitch, yaw, np.arctan2(rotation[1, 0], rotation[0, 0])])


def _textured(head: reconstruction.Reconstruction, image: np.ndarray, atlas: texture.Atlas) -> Mesh:
    """The neutral head in mm with the texture of an image."""
    surface = head.vertices, head.colors, head.normals, head.triangles, head.shown
    view = render_overlay.render_view(render_overlay.image_camera(head.crop), image.shape[1], image.shape[0], *surface)
    texels = texture.bake(atlas, view, image, head.vertices, head.colors, head.normals)
    normals = (head.normals @ head.rotation)[atlas.vertex].astype(np.float32)
    vertices = (MM_PER_DM * head.neutral[atlas.vertex]).astype(np.float32)
    return Mesh(vertices, atlas.triangles, normals=normals, uv=atlas.uv, texture=texels)


def _animated(
    face: FaceModel,
    mesh: Mesh,
    atlas: texture.Atlas,
    names: Mapping[str, float],
    expression: np.ndarray,
    times: np.ndarray,
) -> animated_gltf.AnimatedHead:
    """The head with its expressions over time, not placed yet; expression (F,E)."""
    scale = np.array(list(names.values()))
    modes = MM_PER_DM * np.asarray(face.expression)[:, atlas.vertex]
    still = np.tile(np.eye(3), (len(times), 1, 1)), np.zeros((len(times), 3))
    targets, weights = modes * scale[:, None, None], expression / scale
    return animated_gltf.AnimatedHead(mesh, targets, tuple(names), times, weights, *still, 1.0, (1, 1))


def _placed(
    head: animated_gltf.AnimatedHead, motion: _Motion, faces: Sequence[FaceReconstruction], image: np.ndarray
) -> animated_gltf.AnimatedHead:
    """The head before one camera, whose focal length is the median of the frames', as it appears in the clip."""
    height, width = image.shape[:2]
    focal = float(np.median([face.camera.focal_px.mean() for face in faces]))
    depth = focal / np.exp(motion.log_scale)
    rays = np.concatenate(
        [(motion.origin_px - [(width - 1) / 2, (height - 1) / 2]) / focal, np.ones((len(faces), 1))], 1
    )
    own = [(motion.origin_px[i] - face.camera.center_px) / face.camera.focal_px for i, face in enumerate(faces)]
    own_rays = np.concatenate([np.stack(own), np.ones((len(faces), 1))], axis=1)
    turned = [FLIP @ _between(a, b) @ FLIP @ r for a, b, r in zip(own_rays, rays, motion.rotation, strict=True)]
    return dataclasses.replace(
        head,
        rotations=np.stack(turned),
        translations_mm=rays * depth[:, None] @ FLIP,
        focal_px=focal,
        size_px=(width, height),
    )


def _scaled(head: animated_gltf.AnimatedHead, size: float) -> animated_gltf.AnimatedHead:
    """The head in its true size, as far away as it then is."""
    mesh = dataclasses.replace(head.mesh, vertices=size * head.mesh.vertices)
    return dataclasses.replace(
        head, mesh=mesh, targets=size * head.targets, translations_mm=size * head.translations_mm
    )


def _between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smallest rotation (3,3) that turns the direction of `first` (3,) into that of `second` (Rodrigues)."""
    a, b = first / np.linalg.norm(first), second / np.linalg.norm(second)
    x, y, z = np.cross(a, b)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + a @ b)
