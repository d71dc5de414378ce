"""Wavefront OBJ files: reads vertices in file order, polygons, corner normals, vertex colours; writes meshes.

Groups, objects, materials and texture coordinates are ignored in reading, so that they neither split nor repeat
vertices.
"""

import re

import numpy as np

from jaxface.mesh_files.mesh import Mesh, text_numbers, triangulate, unit_colors, unit_normals

# Faces whose corners all are vertex/texture, or vertex/texture/normal with or without texture; one corner of any kind.
PAIRS = re.compile(rb"(?:\s*-?\d+/-?\d+(?=\s|$))*\s*")
TRIPLES = re.compile(rb"(?:\s*-?\d+/-?\d*/-?\d+(?=\s|$))*\s*")
CORNER = re.compile(rb"-?\d+(?:/-?\d*){0,2}")
KEYWORDS = (b"v", b"vn", b"f")
# Decimals of written coordinates and colours.
DECIMALS = 8


def read(data: bytes) -> Mesh:
    """The mesh of an OBJ file. Raises ValueError if the file is damaged."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    rows: dict[bytes, list[bytes]] = {keyword: [] for keyword in KEYWORDS}
    # Negative indices count back from the vertices and normals that precede the face.
    preceding: list[tuple[int, int]] = []
    for line in text.splitlines():
        keyword, _, rest = line.strip().replace(b"\t", b" ").partition(b" ")
        if keyword in rows:
            rows[keyword].append(rest)
            if keyword == b"f":
                preceding.append((len(rows[b"v"]), len(rows[b"vn"])))
    vertices, colors = _vertices(rows[b"v"])
    stored_normals = _table(rows[b"vn"], 3)
    polygons, corners = _faces(rows[b"f"], preceding)
    normals = _vertex_normals(len(vertices), stored_normals, corners)
    return Mesh(vertices, triangulate(polygons), normals, colors)


def _vertices(rows: list[bytes]) -> tuple[np.ndarray, np.ndarray | None]:
    """(positions (V,3), colours (V,3) or None); a vertex has x y z, x y z w, x y z r g b, or further values."""
    if not rows:
        return np.zeros((0, 3)), None
    colored = min(len(row.split()) for row in rows) >= 6
    table = _table(rows, 6 if colored else 3)
    return table[:, :3], unit_colors(table[:, 3:]) if colored else None


def _table(rows: list[bytes], columns: int) -> np.ndarray:
    """The first numbers (N,columns) of each row."""
    counts = {len(row.split()) for row in rows}
    if counts and min(counts) < columns:
        raise ValueError(f"a vertex or normal has fewer than {columns} numbers")
    if len(counts) > 1:
        rows = [b" ".join(row.split()[:columns]) for row in rows]
    numbers = text_numbers(b" ".join(rows))
    return numbers.reshape(len(rows), -1)[:, :columns] if rows else np.zeros((0, columns))


def _faces(
    rows: list[bytes], preceding: list[tuple[int, int]]
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Polygons for `triangulate`, and (vertex, normal) of each corner that has a normal (N,2)."""
    counts = np.array([len(row.split()) for row in rows], np.int64)
    vertices, normals = _corners(b" ".join(rows))
    if len(vertices) != counts.sum() or (vertices == 0).any():
        raise ValueError("a face is damaged, or has the vertex 0; the first vertex is 1")
    before = np.repeat(np.array(preceding, np.int64).reshape(-1, 2), counts, axis=0)
    vertices = np.where(vertices > 0, vertices - 1, before[:, 0] + vertices)
    has_normal = normals != 0
    normals = np.where(normals > 0, normals - 1, before[:, 1] + normals)
    starts = np.cumsum(counts) - counts
    groups = []
    for count in np.unique(counts[counts >= 3]):
        numbers = np.flatnonzero(counts == count)
        groups.append((numbers, vertices[starts[numbers, None] + np.arange(count)]))
    return groups, np.stack([vertices, normals], axis=1)[has_normal]


def _corners(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(vertices (N,), normals (N,) or 0) as numbered in the file, of corners separated by white space."""
    if b"/" not in text:
        vertices = text_numbers(text).astype(np.int64)
        return vertices, np.zeros_like(vertices)
    if PAIRS.fullmatch(text):
        vertices = text_numbers(text.replace(b"/", b" ")).astype(np.int64)[::2]
        return vertices, np.zeros_like(vertices)
    if TRIPLES.fullmatch(text):
        numbers = text_numbers(text.replace(b"//", b"/0/").replace(b"/", b" ")).astype(np.int64)
        return numbers[::3], numbers[2::3]
    corners = text.split()
    if not all(map(CORNER.fullmatch, corners)):
        raise ValueError("a face is damaged")
    parts = [corner.split(b"/") for corner in corners]
    normals = [part[2] if len(part) > 2 and part[2] else b"0" for part in parts]
    return np.array([int(part[0]) for part in parts], np.int64), np.array(list(map(int, normals)), np.int64)


def _vertex_normals(count: int, normals: np.ndarray, corners: np.ndarray) -> np.ndarray | None:
    """Mean normal (V,3) of the corners of each vertex; None if no corner has one."""
    if not len(corners) or corners.min() < 0 or corners[:, 0].max() >= count or corners[:, 1].max() >= len(normals):
        return None
    total = np.zeros((count, 3))
    pairs = np.unique(corners, axis=0)
    np.add.at(total, pairs[:, 0], normals[pairs[:, 1]])
    return unit_normals(total)


def encode(mesh: Mesh, comment: str = "") -> bytes:
    """The content of an OBJ file: vertices with colours, texture coordinates, normals, triangles, and a comment."""
    columns = [mesh.vertices] if mesh.colors is None else [mesh.vertices, np.clip(mesh.colors, 0, 1)]
    parts = [f"# {comment}\n" if comment else "", _lines("v", np.concatenate(columns, axis=1))]
    corner, indices = "%d", [mesh.triangles]
    if mesh.uv is not None:
        parts.append(_lines("vt", mesh.uv))
        corner, indices = "%d/%d", [*indices, mesh.triangles if mesh.uv_triangles is None else mesh.uv_triangles]
    if mesh.normals is not None:
        parts.append(_lines("vn", mesh.normals))
        corner, indices = corner + ("//%d" if mesh.uv is None else "/%d"), [*indices, mesh.triangles]
    rows = np.stack(indices, axis=-1).reshape(len(mesh.triangles), -1) + 1
    parts.append(_lines("f", rows, f"{corner} {corner} {corner}"))
    return "".join(parts).encode()


def _lines(keyword: str, rows: np.ndarray, form: str = "") -> str:
    """A line of the keyword and the numbers of each row; the numbers have `form`, or DECIMALS decimals."""
    form = form or " ".join([f"%.{DECIMALS}f"] * rows.shape[1])
    line = f"{keyword} {form}\n"
    return "".join(line % tuple(row) for row in rows.tolist())
