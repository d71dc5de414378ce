"""A trained system applied to photos, scans or arrays. Never loads TensorFlow."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, TypeVar, overload

import jax
import ml_collections
import numpy as np
from PIL import Image

from jaxface import checkpoint, config_file, detection, meshes, photo, pretrained
from jaxface.data import landmark_files
from jaxface.errors import UserError
from jaxface.results import FaceLandmarks, HeadFit
from jaxface.system import HeadDecoder, System, Tree, build

ASSETS = pathlib.Path(__file__).parent / "assets"

# The types that `photo.load` accepts.
Source: TypeAlias = str | os.PathLike | Image.Image | np.ndarray | photo.Photo
AnySource = TypeVar("AnySource", bound=Source)
# (4,) or (F,4) numbers x0, y0, x1, y1 in pixels of the full photo.
Boxes: TypeAlias = np.ndarray | Sequence[float] | Sequence[Sequence[float]]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predictor:
    """A system with its parameters: `predictor("photo.jpg")` returns the faces in the photo.

    Predictors can be pickled, and called from several threads.

    Attributes:
        config: the configuration that the model was trained with.
        system: see `jaxface.system.System`.
        params: parameters of the model.
        model_state: its non-trained variables, such as batch statistics.
        source: the origin of the model, for messages.
    """

    config: ml_collections.ConfigDict
    system: System
    params: Tree
    model_state: Tree
    source: str = ""

    @classmethod
    def pretrained(cls, name: str = "continuous") -> "Predictor":
        """The pretrained model of a system that is part of the package. Raises UserError if there is none."""
        available = sorted(path.parent.name for path in ASSETS.glob(f"*/{pretrained.PARAMS_FILE}"))
        if name not in available:
            listed = f"available: {', '.join(available)}" if available else "none is available"
            raise UserError(f"{name}: there is no pretrained model ({listed}); give the workdir of a training run")
        return cls._checked(*pretrained.load_asset(ASSETS / name), f"pretrained model {name}")

    @classmethod
    def from_workdir(cls, workdir: str | os.PathLike) -> "Predictor":
        """The model of a training run or a converted checkpoint. Raises UserError if the workdir has no checkpoint."""
        config = config_file.load(workdir)
        return cls._checked(config, *checkpoint.load_params(workdir), str(workdir))

    @classmethod
    def _checked(cls, config: ml_collections.ConfigDict, params: Tree, model_state: Tree, source: str) -> "Predictor":
        """Builds the predictor; raises UserError if the parameters do not have the shapes of the configured model."""
        system = build(config, source)
        expected = _shapes(jax.eval_shape(system.init, jax.random.key(0))[0])
        actual = _shapes(params)
        if expected != actual:
            first, *_ = sorted(name for name, _ in expected.items() ^ actual.items())
            raise UserError(f"{source}: the parameters do not fit its config.json, starting with {first}; restore it")
        return cls(config, system, params, model_state, source)

    @overload
    def __call__(
        self,
        photos: list[AnySource] | tuple[AnySource, ...],
        boxes: Sequence[Boxes | None] | None = None,
        *,
        layout: str | np.ndarray | None = None,
    ) -> list[list[FaceLandmarks]]: ...

    @overload
    def __call__(
        self, photos: Source, boxes: Boxes | None = None, *, layout: str | np.ndarray | None = None
    ) -> list[FaceLandmarks]: ...

    def __call__(self, photos: Any, boxes: Any = None, *, layout: str | np.ndarray | None = None) -> Any:
        """Detects the faces in one photo, or in each photo of a list.

        Args:
            photos: a path, a PIL image or an array, see `photo.load`; or a list of these.
            boxes: (4,) or (F,4) px, x0, y0, x1, y1 from hairline to chin and from side to side; the detector is not
                run. Or the eyes, nose tip and mouth corners (5,2) px of one face. For a list of photos a list with such
                boxes or points, or None for each.
            layout: name of the landmark layout; None uses the default of the system. The system "continuous" accepts
                "68", "98", "dense", region names and template points (N,3) in units of 100 mm.

        Returns:
            A list of faces, for a list of photos a list of such lists. A face is a `FaceLandmarks`, or a
            `FaceReconstruction` from systems that reconstruct heads, in pixels of the full photo.

        Raises:
            UserError: a photo cannot be decoded, a box or the layout is invalid, or the system does not take photos.
        """
        if isinstance(photos, (list, tuple)):
            pairs = zip(photos, _boxes_per_photo(photos, boxes), strict=True)
            return [self._faces(source, photo_boxes, layout) for source, photo_boxes in pairs]
        return self._faces(photos, boxes, layout)

    def person(
        self,
        photos: Iterable[Source],
        boxes: Sequence[Boxes | None] | None = None,
        *,
        layout: str | np.ndarray | None = None,
    ) -> list[list[FaceLandmarks]]:
        """The faces of one person in several photos, reconstructed with one identity.

        Args:
            photos: see `__call__`.
            boxes: for each photo (4,), five points (5,2) or None.
            layout: see `__call__`.

        Returns:
            For each photo a list with one face, empty if none was found.

        Raises:
            UserError: as in `__call__`, or if the system takes one photo at a time.
        """
        if self.system.predict_multiview is None:
            raise UserError(f"{self.config.system}: takes one photo at a time; use deep3d for several of one person")
        loaded = [photo.load(source) for source in photos]
        pairs = zip(loaded, _boxes_per_photo(loaded, boxes), strict=True)
        located = [_located(one, photo_boxes) for one, photo_boxes in pairs]
        options = {"boxes": [box for box, _ in located], **self._options(layout)}
        if self.system.takes_five:
            options["five"] = [five for _, five in located]
        images = [one.pixels for one in loaded]
        results = self.system.predict_multiview(self.params, self.model_state, images, **options)
        return [[face.in_full_image(one) for face in faces] for one, faces in zip(loaded, results, strict=True)]

    def fit(
        self, scans: Sequence[np.ndarray | meshes.Mesh], *, units: str | None = None, align: str = "auto"
    ) -> list[HeadFit]:
        """The head model fitted to scans of one person, each in its own expression.

        Args:
            scans: points (N,3) or meshes.
            units: "mm", "cm", "m", "in" or "nphm"; None derives the unit from the size of each scan.
            align: "auto", "none" if the scans are in the model's frame, or the path of a file with the alignment.

        Returns:
            One fit for each scan.

        Raises:
            UserError: the system does not take scans, or a scan cannot be aligned.
        """
        if self._takes_photos:
            raise UserError(f"{self.config.system}: this system takes photos, not scans; scans need nphm")
        if not len(scans):
            return []
        return self.system.predict(self.params, self.model_state, list(scans), units=units, align=align)

    def head(self) -> HeadDecoder:
        """Meshes from codes: edits, random people, neutral heads. Raises UserError for a system of landmarks only."""
        if self.system.head is None:
            raise UserError(f"{self.config.system}: finds landmarks and has no head; use deep3d or nphm")
        return self.system.head(self.params, self.model_state)

    def raw(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The network on prepared arrays, every output under its name; no cropping, contrast stretch or clipping.

        Matrix products are float32 on GPUs and TPUs too, instead of their faster formats of lower precision.
        """
        with jax.default_matmul_precision("highest"):
            return jax.device_get(self.system.raw(self.params, self.model_state, arrays))

    @property
    def _takes_photos(self) -> bool:
        return "image" in self.system.inputs

    def _faces(self, source: Source, boxes: Boxes | None, layout: str | np.ndarray | None) -> list[FaceLandmarks]:
        if not self._takes_photos:
            raise UserError(
                f"{self.config.system}: this system fits scans, not photos; run: python -m launch.fit --scan FILE"
            )
        loaded = photo.load(source)
        located, five = _located(loaded, boxes)
        options = {"boxes": located, **self._options(layout)}
        if five is not None and self.system.takes_five:
            options["five"] = five
        faces = self.system.predict(self.params, self.model_state, loaded.pixels, **options)
        return [face.in_full_image(loaded) for face in faces]

    def _options(self, layout: str | np.ndarray | None) -> dict[str, Any]:
        """Keyword arguments of `System.predict`: the layout if one is given, and the functions of `System.tools`."""
        options = {name: TOOLS[name] for name in self.system.tools}
        return options if layout is None else {"layout": layout, **options}

    def __repr__(self) -> str:
        count = sum(int(np.prod(shape)) for shape in _shapes(self.params).values())
        return f"Predictor(system={self.config.system!r}, parameters={_abbreviated(count)}, source={self.source!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the configuration and the parameters; unpickling builds the system from the configuration."""
        trees = jax.device_get((self.params, self.model_state))
        return _unpickled, (self.config.to_dict(), *trees, self.source)


def _unpickled(values: dict[str, Any], params: Tree, model_state: Tree, source: str) -> Predictor:
    config = ml_collections.ConfigDict(values)
    return Predictor(config, build(config, source), params, model_state, source)


def _abbreviated(count: int) -> str:
    """A count with one decimal and a suffix: 2.4M, 850.0k, 12."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{name}"
    return str(count)


def _boxes_per_photo(photos: Sequence[Any], boxes: Any) -> list[Any]:
    """The boxes of each photo, or None. Raises UserError if `boxes` is not a list of the length of `photos`."""
    if boxes is None:
        return [None] * len(photos)
    if not isinstance(boxes, Sequence | np.ndarray) or len(boxes) != len(photos):
        raise UserError(
            f"boxes: not a list with one entry per photo; for {len(photos)} photos give {len(photos)} entries, or None"
        )
    return list(boxes)


def _located(loaded: photo.Photo, boxes: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Boxes and five points in `loaded.pixels`, which may be reduced, of boxes or five points in the full photo.

    The box of five points (5,2) is that of the template face aligned to them.
    """
    if boxes is None:
        return None, None
    five = None
    if np.shape(boxes) == (5, 2):
        five = np.asarray(boxes, np.float64)
        boxes = landmark_files.face_box(five)
    checked = loaded.to_pixels(detection.check_boxes(boxes, loaded.width, loaded.height))
    return checked, None if five is None else loaded.to_pixels(five)


@functools.cache
def detector() -> Predictor:
    """The pretrained landmark detector, loaded once and shared."""
    return Predictor.pretrained("continuous")


def _detect(image: np.ndarray, boxes: Any = None) -> list[FaceLandmarks]:
    """The faces in an image (H,W,3) with 68 landmarks from the pretrained detector; see `System.tools`."""
    predictor = detector()
    return predictor.system.predict(predictor.params, predictor.model_state, image, boxes=boxes)


# The functions that `System.tools` names.
TOOLS = {"detect": _detect}


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Shapes of the leaves by path, "encoder/stem/kernel"."""
    return {name: tuple(value.shape) for name, value in pretrained.flat(tree).items()}
