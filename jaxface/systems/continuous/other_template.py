"""Prediction of networks whose queries are points of a template that only their user has.

Weights of florisdf/continuous_landmarks were trained on the mean mesh of FaceScape, in millimetres, which may not be
redistributed. Our layouts are points of another head in another unit: such a network would answer them with nonsense.
"""

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxface import array_files, crops, detection
from jaxface.errors import UserError
from jaxface.geometry import alignment
from jaxface.results import FaceLandmarks
from jaxface.systems.continuous import asked_layouts, crop_units


def bind(model: Any, image_size: int) -> Callable[..., list[FaceLandmarks]]:
    """`System.predict` of a model with the methods `encode` and `query`; see `predict`."""
    encode = jax.jit(functools.partial(model.apply, method="encode"))
    query = jax.jit(functools.partial(model.apply, method="query"))
    return functools.partial(predict, encode, query, image_size)


def predict(
    encode: Callable[..., jax.Array],
    query: Callable[..., Any],
    image_size: int,
    params: Any,
    model_state: Any,
    image: np.ndarray,
    boxes: Any = None,
    layout: Any = None,
    min_score: float | None = None,
    max_faces: int | None = None,
) -> list[FaceLandmarks]:
    """`System.predict`: positions of points of the model's own template in the faces of an image.

    Crops are not realigned: that needs landmarks of a known layout. All points are asked at once, because those of a
    transformer attend to each other.

    Args:
        encode: `(variables, image (B,S,S,3)) -> features`.
        query: `(variables, features, queries (B,N,3), valid (B,N)) -> points (B,N,2), sigma (B,N)` in `crop_units`.
        image_size: side S of the crops in pixels.
        params: parameters.
        model_state: batch statistics.
        image: (H,W,3) uint8 RGB.
        boxes: (4,) or (F,4) px, hairline to chin and side to side; None runs the face detector.
        layout: (N,3) points of the model's template, in its unit, or an .npy file of them.
        min_score, max_faces: see `detection.detect_faces`.

    Raises:
        UserError: `layout` is not such an array, malformed boxes, or a network whose output is not finite.
    """
    queries = template_points(layout)
    faces = detection.check_or_detect(boxes, image, min_score, max_faces).boxes
    count = len(queries)
    size = max(16, 2 ** math.ceil(math.log2(count)))
    asked, valid = crops.pad_rows(queries, size)[None], np.arange(size)[None] < count
    variables, found = {"params": params, **model_state}, []
    for box in faces:
        center, side = alignment.square_crop(box)
        crop = crops.cut(image, center, side, 0.0, image_size).astype(np.float32) / 255
        outputs = query(variables, encode(variables, crop[None]), asked, valid)
        points, sigma = (np.asarray(output, np.float64)[0, :count] for output in outputs)
        crops.check_finite(points, sigma)
        to_image = alignment.invert_affine(alignment.crop_matrix(center, side, image_size))
        points_px = alignment.apply_affine(to_image, crop_units.to_pixels(points, image_size))
        found.append(FaceLandmarks(box=box, extent=box, layout="custom", points=points_px, sigma=sigma * side / 2))
    return found


def template_points(layout: Any) -> np.ndarray:
    """The queries (N,3) float32 of `layout`. Raises UserError for layout names, malformed arrays and bad files."""
    if isinstance(layout, os.PathLike) or (isinstance(layout, str) and layout.endswith(asked_layouts.POINTS_FILE)):
        layout = array_files.read_npy(layout)
    if layout is None or isinstance(layout, str):
        raise UserError(
            f"--layout: {layout or '68'} is a layout of jaxface's template; this model was trained on another "
            "template, give an .npy file of points (N,3) of that one, in its unit"
        )
    queries = np.asarray(layout, np.float32)
    if queries.ndim != 2 or queries.shape[1] != 3 or len(queries) == 0 or not np.isfinite(queries).all():
        raise UserError(f"layout: the template points have shape {queries.shape}; they must be finite (N,3)")
    return queries
