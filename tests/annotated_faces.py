"""Rendered heads written as annotated data sets in their original trees: real faces in every layout for tests."""

import functools
import pathlib

import cv2
import h5py
import jax
import numpy as np

from jaxface.heads import scenes
from jaxface.heads.morphable import MorphableHead
from jaxface.heads.sources import EMBEDDED, load_head
from jaxface.layouts import LAYOUTS, SKIN

SIZE = 128
# Layouts whose points follow from those of 68 and 98.
KNOWN = tuple(name for name, layout in LAYOUTS.items() if not layout.template)


@functools.partial(jax.jit, static_argnames="size")
def _render(head: MorphableHead, key: jax.Array, size: int) -> tuple:
    scene = scenes.sample_scene(head, key, size, scenes.PORTRAIT)
    rendering = scenes.render(head, scene, size)
    points = [head.landmark_points(rendering.points_px, name) for name in ("68", "98")]
    return rendering.image, *points


def faces(count: int, seed: int = 0, size: int = SIZE, head: MorphableHead | None = None) -> list[tuple]:
    """`count` pairs of an image (S,S,3) uint8 RGB and its points {layout: (K,2) px}, 0-based."""
    renderable = jax.device_put(scenes.renderable(load_head(EMBEDDED) if head is None else head))
    found = []
    for number in range(count):
        image, *points = jax.device_get(_render(renderable, jax.random.key(1000 * seed + number), size))
        references = dict(zip(("68", "98"), points, strict=True))
        found.append(((255 * image + 0.5).astype(np.uint8), {name: points_of(name, references) for name in KNOWN}))
    return found


def points_of(layout: str, references: dict[str, np.ndarray]) -> np.ndarray:
    """Points (K,2) px of a layout from those of 68 and 98."""
    if layout in references:
        return np.float64(references[layout])
    rows = []
    for recipe in LAYOUTS[layout].recipe:
        parts = [(key.split(":"), weight) for key, weight in recipe.items() if key != SKIN]
        rows.append(sum(weight * np.float64(references[name][int(index)]) for (name, index), weight in parts))
    return np.stack(rows)


def write_image(path: pathlib.Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


def write_300w(root: pathlib.Path, found: list[tuple]) -> None:
    """Every fifth face is for testing; the last of these is iBUG's."""
    for number, (image, points) in enumerate(found):
        folder = "afw" if number % 5 else "ibug" if number == 0 else "lfpw/testset"
        write_image(root / folder / f"{number}.png", image)
        rows = "".join(f"{x} {y}\n" for x, y in points["68"] + 1)
        (root / folder / f"{number}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}}}\n")
    for folder in ("helen/trainset", "helen/testset", "lfpw/trainset", "lfpw/testset"):
        (root / folder).mkdir(parents=True, exist_ok=True)


def write_wflw(root: pathlib.Path, found: list[tuple]) -> None:
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number, (image, points) in enumerate(found):
        write_image(root / "WFLW_images" / f"{number}.png", image)
        low, high = points["98"].min(0), points["98"].max(0)
        flags = [int(number % 10 == 0), 0, 0, 0, 0, 0]
        row = [*points["98"].round(3).ravel(), *low.round(), *high.round(), *flags, f"{number}.png"]
        lines["train" if number % 5 else "test"].append(" ".join(map(str, row)))
    folders = [root / "WFLW_annotations" / f"list_98pt_{name}" for name in ("rect_attr_train_test", "test")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for split, rows in lines.items():
        (folders[0] / f"list_98pt_rect_attr_{split}.txt").write_text("\n".join(rows))
    for subset in ("largepose", "expression", "illumination", "makeup", "occlusion", "blur"):
        (folders[1] / f"list_98pt_test_{subset}.txt").write_text(lines["test"][0] + "\n")


def write_lapa(root: pathlib.Path, found: list[tuple]) -> None:
    for number, (image, points) in enumerate(found):
        split = "train" if number % 5 else "test"
        for name in (split, "val") if number == 0 else (split,):
            write_image(root / name / "images" / f"{number}.jpg", image)
            (root / name / "landmarks").mkdir(parents=True, exist_ok=True)
            rows = "".join(f"{x} {y}\n" for x, y in points["106"])
            (root / name / "landmarks" / f"{number}.txt").write_text(f"106\n{rows}")


def write_cofw(root: pathlib.Path, found: list[tuple]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split, suffix in (("train", "Tr"), ("test", "T")):
        chosen = [face for number, face in enumerate(found) if (number % 5 == 0) == (split == "test")]
        with h5py.File(root / f"COFW_{split}_color.mat", "w") as file:
            cells = file.create_dataset(f"Is{suffix}", (1, len(chosen)), h5py.ref_dtype)
            boxes, shapes = np.zeros((len(chosen), 4)), np.zeros((len(chosen), 87))
            for number, (image, points) in enumerate(chosen):
                cells[0, number] = file.create_dataset(f"#refs#/{number}", data=image.T).ref
                low, high = points["29"].min(0), points["29"].max(0)
                boxes[number] = [*low, *(high - low + 1)]
                shapes[number, :58] = (points["29"] + 1).T.ravel()
            file[f"bboxes{suffix}"], file[f"phis{suffix}"] = boxes.T, shapes.T


def write_folder(root: pathlib.Path, found: list[tuple], labels: list[np.ndarray]) -> None:
    """A `landmark_folder` with the given points (K,2) px of each face; every tenth is for testing."""
    lines = []
    for number, ((image, _), points) in enumerate(zip(found, labels, strict=True)):
        write_image(root / f"{number:03d}.png", image)
        lines.append(f"{number:03d}.png " + " ".join(f"{value:.3f}" for value in points.ravel()))
    (root / "landmarks.txt").write_text("\n".join(lines))
