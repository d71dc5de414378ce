"""Result types of the public API: frozen dataclasses with a JSON form and an image for notebooks.

Coordinates are pixels of the full image as displayed: x right, y down, pixel centres at integers. Importing this module
loads neither JAX nor OpenCV.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from jaxface.deferred import deferred_field, stored

if TYPE_CHECKING:
    from jaxface.geometry.alignment import Similarity
    from jaxface.meshes import Mesh
    from jaxface.photo import Photo

# Decimals of pixel coordinates in JSON files.
DECIMALS = 3


class LazyFiles(Mapping):
    """File contents by name ending (".glb", "_depth.png"), each encoded on access. Pickling encodes all of them.

    Args:
        encoders: `{ending: () -> bytes}`.
    """

    def __init__(self, encoders: Mapping[str, Callable[[], bytes]]):
        self._encoders = encoders

    def __getitem__(self, ending: str) -> bytes:
        return self._encoders[ending]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoders)

    def __len__(self) -> int:
        return len(self._encoders)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


@dataclasses.dataclass(frozen=True, eq=False)
class LayoutPoints:
    """The points of a face in one layout. N points.

    Attributes:
        points: (N,2) px.
        sigma: (N,) px.
        visible: (N,) bool, None if it was not estimated; may be computed when it is read.
        edges: (E,2) pairs of points that the overlay joins, None for layouts that are not a mesh.
    """

    points: np.ndarray
    sigma: np.ndarray
    visible: np.ndarray | None = deferred_field()
    edges: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry of the layout in the JSON output."""
        values = {"points": self.points, "sigma": self.sigma, "visible": self.visible}
        return {name: _rounded(value) for name, value in values.items() if value is not None}

    def in_full_image(self, photo: "Photo") -> Self:
        """The points in pixels of the full image of `photo`, given in those of `photo.pixels`."""
        sigma = np.asarray(self.sigma) * photo.step
        visible = stored(self, "visible")
        return dataclasses.replace(self, points=photo.to_full(self.points), sigma=sigma, visible=visible)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FaceLandmarks:
    """The landmarks of one face. N points.

    Attributes:
        box: (4,) px, x0, y0, x1, y1: the box that the caller passed, otherwise `extent`.
        extent: (4,) px, from hairline to chin and from side to side, computed from the face's own landmarks.
        layout: name of the landmark layout; "custom" for template points of the caller, the stem of a file of them.
        points: (N,2) px.
        sigma: (N,) px, the uncertainty of each point; each system documents its own definition.
        score: of the face detector, in [0,1]; None if the caller gave the box.
        visible: (N,) in [0,1] or bool, None if the system does not estimate it; may be computed when it is read.
        points_3d: (N,3) px: `points` and the depth towards the viewer, None if the system does not estimate it.
        scores: (N,) raw network scores (pipnet), otherwise None.
        confidence: (N,) in [0,1] (pipnet with `config.model.confidence`), otherwise None.
        edges: (E,2) pairs of points that the overlay joins, None for layouts that are not a mesh.
        layouts: all layouts by name, if several were asked for; `points` are those of the first.
        head: the head fitted to the face (`fit`), otherwise None.
        mask: (h,w) uint8 labels of regions in `photo.pixels`, 0 elsewhere (`masks`), otherwise None.
        mask_labels: {region: label} of `mask`.
        texture: (T,T,4) uint8 RGBA, the photo in the UV map of the embedded head (`texture`), otherwise None.
        paint: the map of the caller on the face, a layer like `layer` (`paint`), otherwise None.
        track: number of the face in a video, None in single images.
        points_drawn: whether the overlay shows the points.
        layer: RGBA image (h,w,4) uint8 that the overlay shows below the points, and the pixel (x, y) of `photo.pixels`
            at which its upper left pixel lies; None without a layer.
        files: `{name ending: bytes}` of further output files, encoded on access.
        photo: the image in which the face was found, decoded and upright.
    """

    box: np.ndarray
    extent: np.ndarray
    layout: str
    points: np.ndarray
    sigma: np.ndarray
    score: float | None = None
    visible: np.ndarray | None = deferred_field()
    points_3d: np.ndarray | None = None
    scores: np.ndarray | None = None
    confidence: np.ndarray | None = None
    edges: np.ndarray | None = None
    layouts: Mapping[str, LayoutPoints] = dataclasses.field(default_factory=dict)
    head: "FittedHead | None" = None
    mask: np.ndarray | None = None
    mask_labels: Mapping[str, int] | None = None
    texture: np.ndarray | None = None
    paint: tuple[np.ndarray, tuple[int, int]] | None = None
    track: int | None = None
    points_drawn: bool = True
    layer: tuple[np.ndarray, tuple[int, int]] | None = None
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    photo: "Photo | None" = None

    def to_json(self) -> dict[str, Any]:
        """The entry of the face in the JSON output; fields that are None are left out.

        Coordinates are rounded to DECIMALS.
        """
        arrays = ("box", "extent", "layout", "points", "sigma", "visible", "points_3d", "scores", "confidence")
        names = ("track", "score", *arrays)
        present = {name: getattr(self, name) for name in names}
        entry = {name: _rounded(value) for name, value in present.items() if value is not None}
        if self.layouts:
            entry["layouts"] = {name: one.to_json() for name, one in self.layouts.items()}
        if self.mask_labels is not None:
            entry["mask_labels"] = dict(self.mask_labels)
        if self.head is not None:
            entry["head"] = self.head.to_json()
        return entry

    def in_full_image(self, photo: "Photo") -> Self:
        """The face in pixels of the full image of `photo`, given in those of `photo.pixels`."""
        points_3d = self.points_3d
        if points_3d is not None:
            plane, depth = np.split(np.asarray(points_3d), [2], axis=-1)
            points_3d = np.concatenate([photo.to_full(plane), depth * photo.step], -1)
        return dataclasses.replace(
            self,
            box=photo.to_full(self.box),
            extent=photo.to_full(self.extent),
            points=photo.to_full(self.points),
            sigma=np.asarray(self.sigma) * photo.step,
            visible=stored(self, "visible"),
            points_3d=points_3d,
            layouts={name: one.in_full_image(photo) for name, one in self.layouts.items()},
            head=None if self.head is None else self.head.in_full_image(photo),
            photo=photo,
        )

    def _repr_png_(self) -> bytes | None:
        """The overlay as PNG: what a notebook shows."""
        if self.photo is None:
            return None
        from jaxface import overlay

        return overlay.encode_png(overlay.draw_overlay(self.photo.pixels, [self], self.photo.step))

    def __repr__(self) -> str:
        box = np.asarray(self.box, np.float64).round(1).tolist()
        return f"{type(self).__name__}(layout={self.layout!r}, box={box}, points={np.shape(self.points)})"

    def __getitem__(self, name: str) -> Any:
        """`face["points"]`, the form of earlier versions; deprecated."""
        _warn_of_mapping_access(name)
        if name not in self:
            raise KeyError(name)
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """`face.get("points")`, the form of earlier versions; deprecated."""
        _warn_of_mapping_access(name)
        return getattr(self, name) if name in self else default

    def __contains__(self, name: str) -> bool:
        """Whether the face has a field `name` that is not None."""
        return name in {field.name for field in dataclasses.fields(self)} and getattr(self, name) is not None

    # Not iterable. Because of `__getitem__`, Python would otherwise try face[0].
    __iter__ = None


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: a mesh vertex v in mm projects to the image from diag(1, -1, -1) @ rotation @ v + translation.

    Attributes:
        focal_px: (2,), focal length along x and y.
        center_px: (2,), principal point.
        rotation: (3,3), of the head.
        translation_mm: (3,), of the head's origin: x right, y down, z away from the camera.
    """

    focal_px: np.ndarray
    center_px: np.ndarray
    rotation: np.ndarray
    translation_mm: np.ndarray

    def opencv(self) -> tuple[np.ndarray, np.ndarray]:
        """OpenCV's camera matrix K (3,3) and [R|t] (3,4): the homogeneous pixel of a vertex v in mm is K (R v + t)."""
        intrinsics = np.eye(3)
        intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2] = self.focal_px, self.center_px
        rotation = np.diag([1.0, -1.0, -1.0]) @ np.asarray(self.rotation, np.float64)
        return intrinsics, np.concatenate([rotation, np.asarray(self.translation_mm, np.float64)[:, None]], 1)

    def to_json(self) -> dict[str, Any]:
        """Full precision lists by field name, and the matrices of `opencv` as `intrinsics` and `extrinsics`."""
        intrinsics, extrinsics = self.opencv()
        values = {**vars(self), "intrinsics": intrinsics, "extrinsics": extrinsics}
        return {name: np.asarray(value).tolist() for name, value in values.items()}

    def in_full_image(self, photo: "Photo") -> Self:
        """The camera of the full image of `photo`, given that of `photo.pixels`."""
        return dataclasses.replace(self, focal_px=self.focal_px * photo.step, center_px=photo.to_full(self.center_px))

    def __getitem__(self, name: str) -> Any:
        """`face["camera"]["focal_px"]`, the form of earlier versions; deprecated."""
        _warn_of_mapping_access(name, "camera")
        if name not in vars(self):
            raise KeyError(name)
        return getattr(self, name)

    # As for `FaceLandmarks`.
    __iter__ = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FittedHead:
    """A morphable head fitted to the points of a face.

    Attributes:
        coefficients: `{"identity": (I,), "expression": (E,)}` float32, of the morphable head.
        blendshapes: expression weights in [0,1] by their ARKit names.
        camera: of the full image.
        mesh: the head in mm before posing.
        draw: returns the shaded head as a layer; see `FaceLandmarks.layer`.
        refit: `(identity (I,)) -> FittedHead`, fitted to the same points with this identity.
    """

    coefficients: Mapping[str, np.ndarray]
    blendshapes: Mapping[str, float]
    camera: Camera
    mesh: "Mesh"
    draw: Callable[[], tuple[np.ndarray, tuple[int, int]]]
    refit: "Callable[[np.ndarray], FittedHead]"

    def to_json(self) -> dict[str, Any]:
        """The entry `head`: coefficients, blendshapes, pose, focal length and principal point in full precision."""
        camera = self.camera
        pose = {"rotation": camera.rotation.tolist(), "translation_mm": camera.translation_mm.tolist()}
        return {
            "coefficients": {name: np.asarray(value).tolist() for name, value in self.coefficients.items()},
            "blendshapes": dict(self.blendshapes),
            "pose": pose,
            "focal_px": float(camera.focal_px[0]),
            "center_px": camera.center_px.tolist(),
        }

    def in_full_image(self, photo: "Photo") -> Self:
        """The head with the camera of the full image of `photo`, given that of `photo.pixels`."""
        return dataclasses.replace(self, camera=self.camera.in_full_image(photo))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FaceReconstruction(FaceLandmarks):
    """A face reconstructed as the mesh of a morphable head; `points` are the landmarks of the projected mesh.

    Attributes:
        coefficients: `{group: (n,) float32}`, coefficients of the morphable model.
        camera: the camera of the full image.
        crop: the crop that the network saw, in `photo.pixels`: the original's `trans_params` (width, height, scale, tx,
            ty), and `size`, `left` and `top` of the crop in the image resized by `scale`.
        mesh: the head in mm before posing, with the model's albedo as vertex colours.
        depth_step_mm: depth in mm of one step of the file `_depth.png`.
        size: true size of the head relative to that of its coefficients, as the model predicts it; mesh, camera and
            depth are in true millimetres then. None if the model does not predict it.
    """

    coefficients: Mapping[str, np.ndarray]
    camera: Camera
    crop: Mapping[str, Any]
    mesh: "Mesh"
    depth_step_mm: float
    size: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As for landmarks, and coefficients, camera and crop in full precision."""
        return {
            **super().to_json(),
            "coefficients": {name: np.asarray(value).tolist() for name, value in self.coefficients.items()},
            "camera": self.camera.to_json(),
            "crop": dict(self.crop),
            "depth_step_mm": self.depth_step_mm,
            **({} if self.size is None else {"size": self.size}),
        }

    def in_full_image(self, photo: "Photo") -> Self:
        """As for landmarks; the camera becomes that of the full image."""
        return dataclasses.replace(super().in_full_image(photo), camera=self.camera.in_full_image(photo))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class HeadFit:
    """A neural head model fitted to one scan. Scans of one person share `identity`.

    Attributes:
        mesh: the fitted head in the frame and unit of the scan.
        identity: (D,), identity code.
        expression: (E,), expression code; (0,) if the model has none.
        similarity: the map from the frame of the scan to that of the model.
        unit: the unit of the scan, "mm", "cm", "m", "in" or "nphm"; None if a file gave the similarity.
        errors_mm: distances from scan points to the fitted surface: `mean`, `median`, `p90`, and the share `counted` of
            points that took part.
        scan: (N,3), the points of the scan.
        draw: returns the comparison of scan and head, (H,W,3) uint8.
    """

    mesh: "Mesh"
    identity: np.ndarray
    expression: np.ndarray
    similarity: "Similarity"
    unit: str | None
    errors_mm: Mapping[str, float]
    scan: np.ndarray
    draw: Callable[[], np.ndarray]

    def to_json(self) -> dict[str, Any]:
        """The entry of the scan in fit.json, without the path of its file."""
        return {
            "points": len(self.scan),
            "units": self.unit,
            "matrix": self.similarity.matrix().tolist(),
            "errors_mm": dict(self.errors_mm),
        }

    def _repr_png_(self) -> bytes:
        """The comparison of scan and head as PNG: what a notebook shows."""
        from jaxface import overlay

        return overlay.encode_png(self.draw())

    def __repr__(self) -> str:
        mean_mm = f"{self.errors_mm['mean']:.2f}"
        return f"HeadFit(vertices={len(self.mesh.vertices)}, scan={len(self.scan)} points, mean error {mean_mm} mm)"


def _rounded(value: Any) -> Any:
    """Arrays as lists rounded to DECIMALS; other values unchanged."""
    if isinstance(value, np.ndarray) and value.dtype == bool:
        return value.tolist()
    if isinstance(value, np.ndarray | np.floating | float):
        return np.asarray(value, np.float64).round(DECIMALS).tolist()
    return value


def _warn_of_mapping_access(name: str, owner: str = "face") -> None:
    message = f'{owner}["{name}"] is deprecated and will be removed in the next release; use {owner}.{name}'
    warnings.warn(message, DeprecationWarning, stacklevel=3)
