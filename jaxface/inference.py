"""A trained system applied to photos, scans or arrays. Never loads TensorFlow."""

import dataclasses
import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar, overload

import flax.errors
import jax
import ml_collections
import numpy as np
from PIL import Image

from jaxface import checkpoint, config_file, detection, meshes, photo, pipeline, pretrained
from jaxface.data import landmark_files
from jaxface.errors import UserError
from jaxface.results import FaceLandmarks, HeadFit
from jaxface.system import ClipReconstruction, HeadDecoder, System, Tree, build

# Of the reason why arrays do not fit a network.
MAX_REASON_CHARS = 200
ASSETS = pathlib.Path(__file__).parent / "assets"

# The types that `photo.load` accepts.
Source: TypeAlias = str | os.PathLike | Image.Image | np.ndarray | photo.Photo
AnySource = TypeVar("AnySource", bound=Source)
# (4,) or (F,4) numbers x0, y0, x1, y1 in pixels of the full photo.
Boxes: TypeAlias = np.ndarray | Sequence[float] | Sequence[Sequence[float]]
# A name such as "68", also as a number, template points (N,3) or an .npy file of them; several in a list.
OneLayout: TypeAlias = str | int | os.PathLike | np.ndarray
Layout: TypeAlias = OneLayout | Sequence[OneLayout]
# The names of pretrained models, see `Predictor.pretrained`.
ACCURATE, FAST = MODELS = ("accurate", "fast")
# Photos of a list that are processed together, and that are decoded ahead.
PHOTO_BATCH, LOADED_AHEAD = 8, 4


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predictor:
    """A system with its parameters: `predictor("photo.jpg")` returns the faces in the photo.

    Predictors can be pickled, and called from several threads.

    Attributes:
        config: the configuration that the model was trained with.
        system: see `jaxface.system.System`.
        params: parameters of the model, on the device: copying them there takes as long as a pass of a small network.
        model_state: its non-trained variables, such as batch statistics.
        source: the origin of the model, for messages.
    """

    config: ml_collections.ConfigDict
    system: System
    params: Tree
    model_state: Tree
    source: str = ""

    @classmethod
    def pretrained(cls, name: str = "continuous", model: str = ACCURATE) -> "Predictor":
        """The pretrained model of a system that is part of the package.

        Args:
            name: the system.
            model: "accurate", or "fast": a smaller network if the package has one, and predictions that are not
                averaged with those of a mirrored crop (`config.model.mirror`). Only "continuous" has both.

        Raises:
            UserError: there is no such model.
        """
        available = sorted(path.parent.name for path in ASSETS.glob(f"*/{pretrained.PARAMS_FILE}"))
        if name not in available:
            listed = f"available: {', '.join(available)}" if available else "none is available"
            raise UserError(f"{name}: there is no pretrained model ({listed}); give the workdir of a training run")
        if model not in MODELS:
            raise UserError(f"model: {model!r} is not a pretrained model; use {' or '.join(MODELS)}")
        smaller = ASSETS / name / FAST
        is_smaller = model == FAST and (smaller / pretrained.PARAMS_FILE).is_file()
        config, params, model_state = pretrained.load_asset(smaller if is_smaller else ASSETS / name)
        if model == FAST:
            network: Any = config.get("model", {})
            if "mirror" not in network:
                raise UserError(f"{name}: has only one pretrained model; leave out --model {FAST}")
            network.mirror = False
        return cls._checked(config, params, model_state, f"pretrained model {name}{', fast' * (model == FAST)}")

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
        params, model_state = jax.device_put((params, model_state))
        return cls(config, system, params, model_state, source)

    @overload
    def __call__(
        self,
        photos: list[AnySource] | tuple[AnySource, ...],
        boxes: Sequence[Boxes | None] | None = None,
        *,
        layout: Layout | None = None,
        min_score: float | None = None,
        max_faces: int | None = None,
        fit: bool = False,
        masks: str | Sequence[str] = (),
        texture: bool = False,
        paint: np.ndarray | None = None,
    ) -> list[list[FaceLandmarks]]: ...

    @overload
    def __call__(
        self,
        photos: Source,
        boxes: Boxes | None = None,
        *,
        layout: Layout | None = None,
        min_score: float | None = None,
        max_faces: int | None = None,
        fit: bool = False,
        masks: str | Sequence[str] = (),
        texture: bool = False,
        paint: np.ndarray | None = None,
    ) -> list[FaceLandmarks]: ...

    def __call__(
        self,
        photos: Any,
        boxes: Any = None,
        *,
        layout: Layout | None = None,
        min_score: float | None = None,
        max_faces: int | None = None,
        fit: bool = False,
        masks: str | Sequence[str] = (),
        texture: bool = False,
        paint: np.ndarray | None = None,
    ) -> Any:
        """Detects the faces in one photo, or in each photo of a list.

        Args:
            photos: a path, a PIL image or an array, see `photo.load`; or a list or iterator of these, which are
                processed together.
            boxes: (4,) or (F,4) px, x0, y0, x1, y1 from hairline to chin and from side to side; the detector is not
                run. Or the eyes, nose tip and mouth corners (5,2) px of one face. For a list of photos a list with such
                boxes or points, or None for each.
            layout: name of the landmark layout; None uses the default of the system. The system "continuous" accepts
                "68", "98", "dense", region names, template points (N,3) in units of 100 mm or an .npy file of them, and
                lists of these.
            min_score: faces that the detector gives a lower score, in [0,1], are left out; None means
                `detection.MIN_SCORE`.
            max_faces: only so many detected faces of a photo, the largest, are returned; None returns all.
            fit: whether to fit a morphable head to the face, `face.head` (continuous).
            masks: regions of the label image `face.mask` (continuous).
            texture: whether to paint the photo into the head's UV map, `face.texture` (continuous).
            paint: (N,N,4) uint8 RGBA, such a map, which is painted onto the face: the layer `face.paint` (continuous).

        Returns:
            A list of faces, for a list of photos a list of such lists. A face is a `FaceLandmarks`, or a
            `FaceReconstruction` from systems that reconstruct heads, in pixels of the full photo.

        Raises:
            UserError: a photo cannot be decoded, an argument is invalid, or the system does not take photos. A photo of
                a list that cannot be decoded only gives a warning, and an empty list in its place.
        """
        if not self._takes_photos:
            raise UserError(
                f"{self.config.system}: this system fits scans, not photos; run: python -m launch.fit --scan FILE"
            )
        applications = {"fit": fit, "masks": masks, "texture": texture, "paint": paint}
        options = self._options(layout, min_score, max_faces) | self._applications(applications)
        if not _is_list(photos):
            (faces,) = self._faces([photo.load(photos)], [boxes], options)
            return faces
        photos = list(photos)
        pairs = zip(photos, _boxes_per_photo(photos, boxes), strict=True)
        results = []
        for batch in pipeline.batches(pipeline.ahead(_loaded, pairs, LOADED_AHEAD), PHOTO_BATCH):
            decoded = [(future.result(), photo_boxes) for (_, photo_boxes), future in batch]
            for one, _ in decoded:
                if isinstance(one, UserError):
                    warnings.warn(f"{one}; it has no faces in the result", stacklevel=2)
            readable = [(one, photo_boxes) for one, photo_boxes in decoded if not isinstance(one, UserError)]
            loaded, located = [one for one, _ in readable], [photo_boxes for _, photo_boxes in readable]
            faces = iter(self._faces(loaded, located, options) if readable else [])
            results += [[] if isinstance(one, UserError) else next(faces) for one, _ in decoded]
        return results

    def person(
        self,
        photos: Iterable[Source],
        boxes: Sequence[Boxes | None] | None = None,
        *,
        layout: Layout | None = None,
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
        self,
        scans: Sequence[np.ndarray | meshes.Mesh],
        *,
        units: str | None = None,
        align: str = "auto",
        sequence: bool = False,
    ) -> list[HeadFit]:
        """The head model fitted to scans of one person, each in its own expression.

        Args:
            scans: points (N,3) or meshes.
            units: "mm", "cm", "m", "in" or "nphm"; None derives the unit from the size of each scan.
            align: "auto", "none" if the scans are in the model's frame, or the path of a file with the alignment.
            sequence: the scans are frames in time; each is fitted from the frame before.

        Returns:
            One fit for each scan.

        Raises:
            UserError: the system does not take scans, or a scan cannot be aligned.
        """
        if self._takes_photos:
            raise UserError(f"{self.config.system}: this system takes photos, not scans; scans need nphm")
        if not len(scans):
            return []
        options = {"units": units, "align": align, "sequence": sequence}
        return self.system.predict(self.params, self.model_state, list(scans), **options)

    def head(self) -> HeadDecoder:
        """Meshes from codes: edits, random people, neutral heads. Raises UserError for a system of landmarks only."""
        if self.system.head is None:
            raise UserError(f"{self.config.system}: finds landmarks and has no head; use deep3d or nphm")
        return self.system.head(self.params, self.model_state)

    @property
    def reconstruct_clip(self) -> Callable[..., ClipReconstruction] | None:
        """`(faces, times, smooth) -> ClipReconstruction` of one face in a video; see `System.reconstruct_clip`.

        None if the system has none.
        """
        function = self.system.reconstruct_clip
        return None if function is None else functools.partial(function, self.params, self.model_state)

    def raw(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The network on prepared arrays, every output under its name; no cropping, contrast stretch or clipping.

        Matrix products are float32 on GPUs and TPUs too, instead of their faster formats of lower precision. Raises
        UserError if the arrays do not fit the network.
        """
        with jax.default_matmul_precision("highest"):
            try:
                return jax.device_get(self.system.raw(self.params, self.model_state, arrays))
            except UserError:
                raise
            except (flax.errors.FlaxError, TypeError, ValueError, ZeroDivisionError) as error:
                reason = str(error).strip().partition("\n")[0][:MAX_REASON_CHARS]
                raise UserError(f"arrays: they do not fit the network ({reason}); see docs/outputs.md") from error

    @property
    def _takes_photos(self) -> bool:
        return "image" in self.system.inputs

    def _faces(
        self, photos: Sequence[photo.Photo], boxes: Sequence[Boxes | None], options: dict[str, Any]
    ) -> list[list[FaceLandmarks]]:
        """The faces of each photo, in pixels of the full photo."""
        images = [one.pixels for one in photos]
        located = [_located(one, photo_boxes) for one, photo_boxes in zip(photos, boxes, strict=True)]
        model = self.params, self.model_state
        if self.system.predict_batch is not None:
            results = self.system.predict_batch(*model, images, boxes=[box for box, _ in located], **options)
        else:
            results = []
            for image, (box, five) in zip(images, located, strict=True):
                points = {"five": five} if five is not None and self.system.takes_five else {}
                results.append(self.system.predict(*model, image, boxes=box, **points, **options))
        return [[face.in_full_image(one) for face in faces] for one, faces in zip(photos, results, strict=True)]

    def _options(
        self, layout: Layout | None, min_score: float | None = None, max_faces: int | None = None
    ) -> dict[str, Any]:
        """Keyword arguments of `System.predict`: those that are given, and the functions of `System.tools`."""
        if min_score is not None and not 0 <= min_score <= 1:
            raise UserError(f"min_score: {min_score} is not in [0,1]; give a score such as {detection.MIN_SCORE}")
        if max_faces is not None and max_faces < 1:
            raise UserError(f"max_faces: {max_faces} is not a number of faces; give 1 or more")
        if isinstance(layout, int) and not isinstance(layout, bool):
            layout = str(layout)
        given = {"layout": layout, "min_score": min_score, "max_faces": max_faces}
        given = {name: value for name, value in given.items() if value is not None}
        return given | {name: TOOLS[name] for name in self.system.tools}

    def _applications(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The applications that are asked for. Raises UserError for one that the system does not have."""
        given = {name: value for name, value in asked.items() if _is_asked(value)}
        for name in given:
            if name not in self.system.applications:
                raise UserError(f"{name}: not available with {self.source}; use a model of the system continuous")
        return given

    def __repr__(self) -> str:
        count = sum(int(np.prod(shape)) for shape in _shapes(self.params).values())
        return f"Predictor(system={self.config.system!r}, parameters={_abbreviated(count)}, source={self.source!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the configuration and the parameters; unpickling builds the system from the configuration."""
        trees = jax.device_get((self.params, self.model_state))
        return _unpickled, (self.config.to_dict(), *trees, self.source)


def _is_asked(value: Any) -> bool:
    """Whether an application is asked for: neither None nor False nor an empty list."""
    return value is not None and value is not False and (isinstance(value, bool | str) or len(value) > 0)


def _unpickled(values: dict[str, Any], params: Tree, model_state: Tree, source: str) -> Predictor:
    config = ml_collections.ConfigDict(values)
    params, model_state = jax.device_put((params, model_state))
    return Predictor(config, build(config, source), params, model_state, source)


def _abbreviated(count: int) -> str:
    """A count with one decimal and a suffix: 2.4M, 850.0k, 12."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{name}"
    return str(count)


def _is_list(photos: Any) -> bool:
    """Whether the caller gave several photos. Open files are iterators as well."""
    return isinstance(photos, (list, tuple)) or isinstance(photos, Iterator) and not hasattr(photos, "read")


def _loaded(pair: tuple[Source, Any]) -> photo.Photo | UserError:
    """The photo of a pair of photo and boxes, or why it cannot be decoded."""
    try:
        return photo.load(pair[0])
    except UserError as error:
        return error


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


def _detect(image: np.ndarray, boxes: Any = None, **options: Any) -> list[FaceLandmarks]:
    """The faces in an image (H,W,3) with 68 landmarks from the pretrained detector; see `System.tools`."""
    predictor = detector()
    return predictor.system.predict(predictor.params, predictor.model_state, image, boxes=boxes, **options)


# The functions that `System.tools` names.
TOOLS = {"detect": _detect}


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Shapes of the leaves by path, "encoder/stem/kernel"."""
    return {name: tuple(value.shape) for name, value in pretrained.flat(tree).items()}
