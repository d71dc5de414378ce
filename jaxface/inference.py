"""A trained system, called on photographs or arrays. Never loads TensorFlow."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxface import checkpoint, photo, pretrained
from jaxface.errors import UserError
from jaxface.system import System, Tree, build

ASSETS = pathlib.Path(__file__).parent / "assets"

Face = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A system with its parameters: `predictor("photo.jpg")` gives the faces in it.

    config: the configuration it was trained with. params, model_state: see `jaxface.system.System`.
    """

    config: ml_collections.ConfigDict
    system: System
    params: Tree
    model_state: Tree

    @classmethod
    def pretrained(cls, name: str = "continuous") -> "Predictor":
        """The model that ships with the package. UserError names those there are."""
        names = sorted(path.parent.name for path in ASSETS.glob(f"*/{pretrained.PARAMS_FILE}"))
        if name not in names:
            there = f"those that do: {', '.join(names)}" if names else "none does; train one"
            raise UserError(f"no model ships for {name!r} ({there}); give the workdir of a training run")
        return cls._checked(*pretrained.load_asset(ASSETS / name), f"the shipped model {name!r}")

    @classmethod
    def from_workdir(cls, workdir: str | os.PathLike) -> "Predictor":
        """The model of a training run or of a converted checkpoint. UserError: no workdir, nothing saved in it."""
        config = checkpoint.load_config(workdir)
        return cls._checked(config, *checkpoint.load_params(workdir), str(workdir))

    @classmethod
    def _checked(cls, config: ml_collections.ConfigDict, params: Tree, model_state: Tree, where: str) -> "Predictor":
        system = build(config, where)
        expected = _shapes(jax.eval_shape(system.init, jax.random.key(0))[0])
        found = _shapes(params)
        if expected != found:
            differing = sorted(name for name, _ in expected.items() ^ found.items())
            raise UserError(f"the parameters of {where} do not fit its config.json; the first of them: {differing[0]}")
        return cls(config, system, params, model_state)

    def __call__(self, photos: Any, boxes: Any = None, **options: Any) -> Any:
        """The faces of one photo, or for a list of photos the list of theirs, each face as a dict.

        photos: a path, a PIL picture or an array, see `photo.load`; or a list of these.
        boxes: (4,) or (F,4) x0, y0, x1, y1 from hairline to chin and from side to side, used instead of the detector;
        for a list of photos a list of these or of None. `options` go to the system; continuous: layout="68", "98",
        "dense", a region name or template points (N,3).
        A face has at least box [4], layout, points (N,2) and sigma (N,), in pixels of the full picture as displayed
        with pixel centres at integers. UserError says what is wrong with a picture, a box or an option.
        """
        if not isinstance(photos, (list, tuple)):
            return self._faces(photos, boxes, options)
        listed = [None] * len(photos) if boxes is None else boxes
        if not isinstance(listed, Sequence | np.ndarray) or len(listed) != len(photos):
            raise UserError(f"for a list of {len(photos)} photos boxes is a list as long, or None")
        return [self._faces(one, its_boxes, options) for one, its_boxes in zip(photos, listed, strict=True)]

    def person(self, photos: Sequence[Any], boxes: Sequence[Any] | None = None, **options: Any) -> list[list[Face]]:
        """Of each of several `photos` of one person the face, with one identity for all, or nothing: deep3d.

        boxes: a list of (4,) or None, as long. UserError: a system that takes one photo at a time, as in `__call__`.
        """
        if self.system.predict_multiview is None:
            raise UserError(f"the system {self.config.system} takes every photo by itself, not several of one person")
        loaded = [photo.load(source) for source in photos]
        boxes = [None] * len(loaded) if boxes is None else boxes
        if len(boxes) != len(loaded):
            raise UserError(f"for {len(loaded)} photos of a person boxes is a list as long, or None")
        kept = [_kept_boxes(one, box) for one, box in zip(loaded, boxes, strict=True)]
        pixels = [one.pixels for one in loaded]
        options = {"boxes": kept, **self._tools(), **options}
        found = self.system.predict_multiview(self.params, self.model_state, pixels, **options)
        return [[one.face_to_full(face) for face in faces] for one, faces in zip(loaded, found, strict=True)]

    def _faces(self, source: Any, boxes: Any, options: dict[str, Any]) -> list[Face]:
        loaded = photo.load(source)
        options = {"boxes": _kept_boxes(loaded, boxes), **self._tools(), **options}
        faces = self.system.predict(self.params, self.model_state, loaded.pixels, **options)
        return [loaded.face_to_full(face) for face in faces]

    def _tools(self) -> dict[str, Any]:
        """The functions that the system takes from outside; see `System.tools`."""
        return {name: TOOLS[name] for name in self.system.tools}

    def raw(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The network on prepared arrays, every output under its name; nothing is cropped, stretched or clipped.

        GPUs and TPUs multiply in full float32 here, not in their faster, shorter formats.
        """
        with jax.default_matmul_precision("highest"):
            return jax.device_get(self.system.raw(self.params, self.model_state, arrays))


def _kept_boxes(loaded: photo.Photo, boxes: Any) -> np.ndarray | None:
    """Boxes of the full picture in pixels of those that are kept, checked."""
    return None if boxes is None else loaded.to_kept(photo.check_boxes(boxes, loaded.width, loaded.height))


@functools.cache
def detector() -> Predictor:
    """The landmark detector that ships, loaded once."""
    return Predictor.pretrained("continuous")


def _detect(pixels: np.ndarray, boxes: Any = None) -> list[Face]:
    """The faces of a picture (H,W,3) with their 68 points, by the detector that ships; see `System.tools`."""
    own = detector()
    return own.system.predict(own.params, own.model_state, pixels, boxes=boxes)


TOOLS = {"detect": _detect}


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in pretrained.flat(tree).items()}
