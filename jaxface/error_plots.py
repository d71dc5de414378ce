"""Figures of an evaluation, drawn with OpenCV: cumulative error curves and contact sheets of examples, as PNG files."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from jaxface import landmark_metrics, overlay
from jaxface.errors import disk_errors

# The colour-blind safe palette of Okabe and Ito (2008), without its yellow, which is too light on white.
CURVE_COLORS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0))
GRID_COLOR, TEXT_COLOR = (220, 220, 220), (40, 40, 40)
WIDTH, HEIGHT = 800, 520
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 60
TICKS = 5
CURVE_SAMPLES = 501
FONT, FONT_SCALE, LINE_PX = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 20
CELL, CELL_GAP, CELL_COLUMNS = 224, 8, 6
CHARACTER_PX = 7.5


def write_ced_plot(
    path: str | os.PathLike, errors: Mapping[str, np.ndarray], limit: float, label: str = "error"
) -> None:
    """Writes cumulative error distributions as a PNG: the share of examples whose error is not above x.

    Args:
        path: the PNG file.
        errors: (E,) errors by name of the curve; the legend also shows the mean of each.
        limit: the largest error shown, in the unit of the errors.
        label: what the horizontal axis shows, with its unit.

    Raises:
        UserError: the file cannot be written.
    """
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    _draw_axes(canvas, limit, label)
    thresholds = np.linspace(0, limit, CURVE_SAMPLES)
    legend_top = HEIGHT - BOTTOM - LINE_PX * len(errors)
    for number, (name, values) in enumerate(errors.items()):
        color = CURVE_COLORS[number % len(CURVE_COLORS)]
        pixels = _pixels(thresholds / limit, landmark_metrics.ced(np.ravel(values), thresholds))
        cv2.polylines(canvas, [pixels], False, color, 2, cv2.LINE_AA)
        y = legend_top + LINE_PX * number
        text = f"{name} (mean {np.mean(values, dtype=np.float64):.3g})"
        left = WIDTH - RIGHT - 40 - _text_width(text)
        cv2.line(canvas, (left - 30, y - 4), (left - 8, y - 4), color, 2, cv2.LINE_AA)
        _put_text(canvas, text, left, y)
    _write_png(path, canvas)


def write_contact_sheet(path: str | os.PathLike, images: Sequence[np.ndarray], titles: Sequence[str]) -> None:
    """Writes images in rows, each with a title below, as one PNG; nothing for an empty list.

    Args:
        path: the PNG file.
        images: (H,W,3) RGB, uint8 or float in [0,1], of any sizes; each is scaled to fit its cell.
        titles: one line for each image, cut to the width of a cell.

    Raises:
        UserError: the file cannot be written.
    """
    if not len(images):
        return
    columns = min(CELL_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    step_x, step_y = CELL + CELL_GAP, CELL + LINE_PX + CELL_GAP
    canvas = np.full((rows * step_y + CELL_GAP, columns * step_x + CELL_GAP, 3), 255, np.uint8)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(number, columns)
        left, top = CELL_GAP + column * step_x, CELL_GAP + row * step_y
        scaled = _fit(image)
        canvas[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
        _put_text(canvas, title[: int(CELL / CHARACTER_PX)], left, top + CELL + LINE_PX - 6)
    _write_png(path, canvas)


def _fit(image: np.ndarray) -> np.ndarray:
    """The image (H,W,3) scaled so that its longer side is that of a cell, as uint8."""
    image = np.asarray(image)
    if np.issubdtype(image.dtype, np.floating):
        image = (255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)
    factor = CELL / max(image.shape[:2])
    size = tuple(max(1, round(factor * side)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def _draw_axes(canvas: np.ndarray, limit: float, label: str) -> None:
    """Grid lines with the shares in percent at the left and the errors below."""
    for tick in np.linspace(0, 1, TICKS + 1):
        for ends in (_pixels([tick, tick], [0, 1]), _pixels([0, 1], [tick, tick])):
            cv2.polylines(canvas, [ends], False, GRID_COLOR, 1)
        x, y = _pixels([tick], [tick])[0]
        below, beside = f"{tick * limit:.3g}", f"{100 * tick:.0f} %"
        _put_text(canvas, below, x - _text_width(below) // 2, HEIGHT - BOTTOM + 20)
        _put_text(canvas, beside, LEFT - 8 - _text_width(beside), y + 5)
    _put_text(canvas, label, (LEFT + WIDTH - RIGHT - _text_width(label)) // 2, HEIGHT - 15)


def _pixels(x: np.ndarray | list, y: np.ndarray | list) -> np.ndarray:
    """Coordinates in [0,1] of the axes as pixels (N,2) int32."""
    columns = LEFT + np.asarray(x) * (WIDTH - LEFT - RIGHT)
    rows = HEIGHT - BOTTOM - np.asarray(y) * (HEIGHT - TOP - BOTTOM)
    return np.rint(np.stack([columns, rows], -1)).astype(np.int32)


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0]


def _put_text(canvas: np.ndarray, text: str, left: int, baseline: int) -> None:
    """OpenCV's fonts have ASCII only; other characters become "?"."""
    ascii_text = text.encode("ascii", "replace").decode()
    cv2.putText(canvas, ascii_text, (int(left), int(baseline)), FONT, FONT_SCALE, TEXT_COLOR, 1, cv2.LINE_AA)


def _write_png(path: str | os.PathLike, canvas: np.ndarray) -> None:
    target = pathlib.Path(path)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(overlay.encode_png(canvas))
