"""Accuracy of `launch.fit` on unseen ICT-FaceKit heads, in mm: python -m launch.benchmarks.fit_accuracy --ict DIR

Generates people that no training split contains, samples points evenly over the surface of a neutral head and of an
expression of each, fits every person by `launch.fit` and measures point-to-triangle distances on the face in both
directions. The baseline is the mean head, aligned to each true scan by the least-squares similarity of corresponding
vertices. Prints a JSON line per kind of scan.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import scipy.spatial
import trimesh
from absl import flags

from jaxface import meshes
from jaxface.geometry import alignment, sampling
from jaxface.geometry.surface import SurfaceQuery
from jaxface.heads import head_space, sources
from jaxface.heads.closed import ClosedHead, close

from .. import app

ICT = flags.DEFINE_string("ict", None, "ICT-FaceKit: its FaceXModel folder, or an .npz file of its arrays")
WORKDIR = flags.DEFINE_string("workdir", None, "workdir of an nphm run (default: the pretrained model)")
PEOPLE = flags.DEFINE_integer("people", 4, "number of people")
POINTS = flags.DEFINE_integer("points", 2500, "points of a scan, over the whole head")
SEED = flags.DEFINE_integer("seed", 1, "seed of people and points; 20230618 is that of the training data")

SCANS = ("neutral", "expression")
# Surface points at which distances are measured.
MEASURED = 20_000
# Longer edges are split before distances are measured: closest-point queries are fast if all triangles are small.
LONGEST_EDGE_MM = 4.0


def main(argv: list[str]) -> None:
    """Writes the scans to a temporary folder, fits them and prints the mean distances."""
    del argv
    closed = close(sources.load_head("ict", app.required(ICT)))
    heads = {
        f"person{person}": dict(zip(SCANS, scans_mm(closed, SEED.value, person), strict=True))
        for person in range(PEOPLE.value)
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for person, scans in heads.items():
            write_clouds(root / "scans" / person, closed, scans)
        fit(root / "scans", root / "fits")
        errors = {
            (person, name): distances(closed, vertices, meshes.read(root / "fits" / person / f"{name}.ply"))
            for person, scans in heads.items()
            for name, vertices in scans.items()
        }
    for name in SCANS:
        rows = [values for (_, scan), values in errors.items() if scan == name]
        print(json.dumps({"scan": name, **{key: float(np.mean([row[key] for row in rows])) for key in rows[0]}}))


def scans_mm(closed: ClosedHead, seed: int, person: int) -> list[np.ndarray]:
    """Vertices (W,3) mm of a person's closed surface: neutral, and one random expression."""
    return [head_space.to_mm(vertices) for vertices in head_space.scans(closed, seed, person, (0, 1))]


def write_clouds(folder: pathlib.Path, closed: ClosedHead, scans: dict[str, np.ndarray]) -> None:
    """Writes FOLDER/<name>.ply, a cloud of surface points, for every scan (vertices (W,3) mm)."""
    folder.mkdir(parents=True)
    for name, vertices in scans.items():
        rng = np.random.default_rng((SEED.value, POINTS.value))
        points = surface_points(vertices, closed.triangles, POINTS.value, rng)
        cloud = meshes.Mesh(points.astype(np.float32), np.zeros((0, 3), np.int32))
        (folder / f"{name}.ply").write_bytes(meshes.encode(cloud, ".ply"))


def fit(scans: pathlib.Path, output: pathlib.Path) -> None:
    """Runs `launch.fit` on a folder of people, in a separate process."""
    command = [sys.executable, "-m", f"{app.__package__}.fit"]
    command += ["--scan", str(scans), "--units", "mm", "--output", str(output)]
    subprocess.run(command + (["--workdir", WORKDIR.value] if WORKDIR.value else []), check=True, stdout=sys.stderr)


def distances(closed: ClosedHead, true: np.ndarray, fitted: meshes.Mesh) -> dict[str, float]:
    """Mean point-to-triangle distances on the face, mm, of a fit and of the aligned mean head to a true scan (W,3)."""
    mean = closed.surface(np.asarray(closed.head.template))
    scale, rotation, translation = alignment.similarity(mean.astype(np.float64), true.astype(np.float64))
    aligned = alignment.Similarity(scale, rotation, translation)(mean)
    fit_to, fit_from = both_ways(closed, true, fitted.vertices, fitted.triangles)
    mean_to, mean_from = both_ways(closed, true, aligned, closed.triangles)
    return {"true_to_fit": fit_to, "fit_to_true": fit_from, "true_to_mean": mean_to, "mean_to_true": mean_from}


def both_ways(closed: ClosedHead, true: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> tuple[float, float]:
    """(mean distance true face -> surface, mean distance surface -> true surface), both over points of the face."""
    rng = np.random.default_rng(0)
    face = surface_points(true, closed.triangles[closed.face], MEASURED, rng)
    rest = surface_points(true, closed.triangles[~closed.face], MEASURED, rng)
    forward = np.linalg.norm(surface(vertices, triangles).closest(face)[0] - face, axis=1)
    points = surface_points(np.asarray(vertices), np.asarray(triangles), 2 * MEASURED, rng)
    near_face = scipy.spatial.cKDTree(face).query(points)[0] < scipy.spatial.cKDTree(rest).query(points)[0]
    points = points[near_face]
    backward = np.linalg.norm(surface(true, closed.triangles).closest(points)[0] - points, axis=1)
    return float(forward.mean()), float(backward.mean())


def surface(vertices: np.ndarray, triangles: np.ndarray) -> SurfaceQuery:
    """Closest-point queries on the mesh (V,3) mm, (T,3), after splitting long edges."""
    return SurfaceQuery(*trimesh.remesh.subdivide_to_size(vertices, triangles, LONGEST_EDGE_MM, max_iter=20))


def surface_points(vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` points (N,3) mm, uniform over the area of the triangles."""
    return sampling.sample(vertices, triangles, count, rng).on(vertices, triangles)


if __name__ == "__main__":
    app.run(main)
