"""Reading and encoding mesh files. PLY, OBJ and glTF are read by `mesh_files`, STL and OFF by trimesh."""

import dataclasses
import logging
import os
import pathlib
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from jaxface.errors import UserError
from jaxface.mesh_files import gltf, obj, ply
from jaxface.mesh_files.mesh import Mesh, unit_colors, unit_normals

# Marks PLY files as results, which a later run may overwrite.
WRITTEN_BY = "written by jaxface"
__all__ = ["ENCODED", "MM_PER", "READABLE", "Mesh", "encode", "read", "read_scan"]

READABLE = (".ply", ".obj", ".stl", ".glb", ".gltf", ".off")
ENCODED = (".glb", ".obj", ".ply")
# Millimetres per unit. One unit of NPHM's space is 250 mm.
MM_PER = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4, "nphm": 250.0}
# Vertices of a scan far outside are left out: beyond the 90th percentile of the distances from the median, those behind
# a gap in which the distance doubles, and those more than eight times as far as that percentile.
CORE_PERCENTILE, OUTLIER_GAP, OUTLIER_FACTOR = 90, 2.0, 8.0
# A float32 that moves a vertex by more than this share of the mesh's extent is not enough.
FLOAT32_TOLERANCE = 1e-5

LOGGER = logging.getLogger(__name__)


def read(path: str | os.PathLike) -> Mesh:
    """The mesh in a file, with the vertices (float64) in the order of the file and its numbers unchanged.

    Parts of a scene are joined; textures are ignored. Raises UserError if the file is missing, of an unknown type,
    damaged, compressed or empty, or has vertices that are NaN or infinite.
    """
    mesh = _read(pathlib.Path(path))
    if bad := int((~np.isfinite(mesh.vertices)).any(axis=1).sum()):
        raise UserError(f"{path}: {bad} of {len(mesh.vertices)} vertices are NaN or infinite; remove them")
    return mesh


def read_scan(path: str | os.PathLike) -> Mesh:
    """As `read`, for scans: vertices that are not finite or far outside are left out with their triangles.

    What was left out is logged as a warning. Raises UserError as `read`, and if no vertex is finite.
    """
    mesh = _read(pathlib.Path(path))
    finite = np.isfinite(mesh.vertices).all(axis=1)
    if not finite.any():
        raise UserError(f"{path}: all {len(mesh.vertices)} vertices are NaN or infinite; export the scan again")
    near = finite.copy()
    near[finite] = _near(mesh.vertices[finite])
    for count, what in ((np.sum(~finite), "NaN or infinite"), (np.sum(finite & ~near), "far outside")):
        if count:
            LOGGER.warning("%s: %d of %d vertices are %s and were left out", path, count, len(near), what)
    return mesh if near.all() else _select(mesh, near)


def _near(points: np.ndarray) -> np.ndarray:
    """Mask (N,) of the points (N,3) that are not far outside."""
    distance = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    core = float(np.percentile(distance, CORE_PERCENTILE))
    limit = OUTLIER_FACTOR * core
    outer = np.sort(distance[distance >= core])
    gaps = np.flatnonzero(outer[1:] > OUTLIER_GAP * np.maximum(outer[:-1], np.finfo(float).tiny))
    if len(gaps) and core > 0:
        limit = min(limit, outer[gaps[0]])
    return distance <= limit if core > 0 else np.ones(len(points), bool)


def _select(mesh: Mesh, kept: np.ndarray) -> Mesh:
    """The part of a mesh on the vertices of a mask (V,)."""
    number = np.cumsum(kept) - 1
    triangles = number[mesh.triangles[kept[mesh.triangles].all(axis=1)]]
    attributes = {name: getattr(mesh, name) for name in ("normals", "colors", "uv")}
    selected = {name: None if value is None else value[kept] for name, value in attributes.items()}
    return dataclasses.replace(
        mesh, vertices=mesh.vertices[kept], triangles=triangles.astype(np.int32).reshape(-1, 3), **selected
    )


def _read(path: pathlib.Path) -> Mesh:
    """The mesh in a file; its vertices may be NaN or infinite."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path")
    if path.suffix.lower() not in READABLE:
        raise UserError(f"{path}: not a readable mesh file; give one of {', '.join(READABLE)}")
    try:
        with np.errstate(all="ignore"):  # damaged numbers; the result is checked
            mesh = _decode(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # damaged files raise any exception, in trimesh too
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: damaged or truncated ({reason}); export the mesh again") from error
    if len(mesh.vertices) == 0:
        raise UserError(f"{path}: the file has no vertices; export the mesh again")
    if mesh.triangles.size and not (0 <= mesh.triangles.min() and mesh.triangles.max() < len(mesh.vertices)):
        raise UserError(f"{path}: its triangles have vertex indices out of range; export the mesh again")
    return dataclasses.replace(mesh, triangles=mesh.triangles.astype(np.int32))


def _decode(path: pathlib.Path) -> Mesh:
    ending, data = path.suffix.lower(), path.read_bytes()
    if ending == ".ply":
        return ply.read(data)
    if ending == ".obj":
        return obj.read(data)
    if ending in (".glb", ".gltf"):
        return gltf.read(data, path.parent)
    if ending == ".off":
        _check_off(data)
    loaded = trimesh.load(path, process=False, force="mesh")
    colors = loaded.visual.vertex_colors if loaded.visual.kind == "vertex" else None
    normals = loaded._cache.cache.get("vertex_normals")  # those of the file; the public property would compute them
    return Mesh(
        np.asarray(loaded.vertices, np.float64).reshape(-1, 3),
        np.asarray(loaded.faces, np.int64).reshape(-1, 3),
        None if normals is None else unit_normals(normals),
        None if colors is None else unit_colors(np.asarray(colors)[:, :3]),
    )


def _check_off(data: bytes) -> None:
    """Raises ValueError if an OFF file has other numbers of vertices and faces than its header: trimesh ignores it."""
    lines = [line.split(b"#")[0].split() for line in data.splitlines()]
    lines = [words for words in lines if words]
    if lines[0][0].upper().endswith(b"OFF"):
        lines = lines[1:] if len(lines[0]) == 1 else [lines[0][1:], *lines[1:]]
    vertices, faces = (int(word) for word in lines[0][:2])
    if min(vertices, faces) < 0 or len(lines) - 1 != vertices + faces:
        raise ValueError(f"it has {len(lines) - 1} lines for the {vertices} vertices and {faces} faces of its header")


def encode(mesh: Mesh, ending: str, unit: str | None = None) -> bytes:
    """The content of a mesh file with the ending ".glb", ".obj" or ".ply".

    GLB contains the texture, otherwise vertex colours, and a non-metallic material; OBJ and PLY contain vertex colours,
    OBJ also the texture coordinates. A mesh with `uv_triangles` can be written as OBJ only.
    PLY is in double precision where the vertices need it.

    Args:
        mesh: the mesh.
        ending: the type of the file.
        unit: the unit of the vertices, a key of MM_PER: GLB is written in metres, which glTF prescribes; OBJ and PLY
            keep the numbers and name the unit in a comment. None keeps the numbers everywhere.

    Raises:
        ValueError: another ending, an OBJ without triangles, or `uv_triangles` in another format than OBJ.
    """
    if ending not in ENCODED or (ending == ".obj" and len(mesh.triangles) == 0):
        raise ValueError(f"{len(mesh.triangles)} triangles cannot be written as {ending}")
    if mesh.uv_triangles is not None and ending != ".obj":
        raise ValueError(f"texture seams cannot be written as {ending}; split the vertices along them")
    comment = "" if unit is None else f"unit: {unit}" if unit in ("mm", "cm", "m") else f"unit: {MM_PER[unit]:g} mm"
    if ending == ".ply":
        return _encode_ply(mesh, comment)
    if ending == ".obj":
        return obj.encode(mesh, comment)
    vertices = mesh.vertices if unit is None else mesh.vertices * (MM_PER[unit] / MM_PER["m"])
    rgba = None if mesh.colors is None else _rgba(_to_linear(np.clip(mesh.colors, 0, 1)))
    if len(mesh.triangles):
        exported = trimesh.Trimesh(
            vertices, mesh.triangles, vertex_normals=mesh.normals, vertex_colors=rgba, process=False
        )
    else:
        exported = trimesh.PointCloud(vertices, colors=rgba)
    if mesh.texture is not None:
        exported.visual = trimesh.visual.TextureVisuals(mesh.uv, material=_material(mesh.texture))
    return trimesh.Scene([exported]).export(file_type="glb", tree_postprocessor=_make_matte)


def _encode_ply(mesh: Mesh, comment: str) -> bytes:
    """Binary PLY of vertices, normals, colours and triangles."""
    vertices = np.asarray(mesh.vertices)
    rounding = np.abs(vertices - vertices.astype(np.float32)).max(initial=0)
    double = rounding > FLOAT32_TOLERANCE * np.ptp(vertices, axis=0).max(initial=0)
    columns = [(axis, "<f8" if double else "<f4", vertices[:, number]) for number, axis in enumerate("xyz")]
    if mesh.normals is not None:
        columns += [(name, "<f4", mesh.normals[:, number]) for number, name in enumerate(("nx", "ny", "nz"))]
    if mesh.colors is not None:
        rgba = _rgba(mesh.colors)
        columns += [(name, "u1", rgba[:, number]) for number, name in enumerate(("red", "green", "blue", "alpha"))]
    rows = np.zeros(len(vertices), [(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        rows[name] = values
    kinds = {"<f8": "double", "<f4": "float", "u1": "uchar"}
    comments = [f"comment {text}" for text in (WRITTEN_BY, comment) if text]
    header = ["ply", "format binary_little_endian 1.0", *comments]
    header += [f"element vertex {len(vertices)}", *(f"property {kinds[kind]} {name}" for name, kind, _ in columns)]
    faces = np.zeros(len(mesh.triangles), [("count", "u1"), ("indices", "<i4", 3)])
    faces["count"], faces["indices"] = 3, mesh.triangles
    if len(faces):
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    return "\n".join([*header, "end_header\n"]).encode() + rows.tobytes() + faces.tobytes()


def _rgba(colors: np.ndarray) -> np.ndarray:
    """Opaque RGBA (V,4) uint8 of colours (V,3) in [0,1]."""
    opaque = np.ones((len(colors), 1), np.float32)
    return (255 * np.clip(np.concatenate([colors, opaque], axis=1), 0, 1) + 0.5).astype(np.uint8)


def _to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB to linear: glTF stores vertex colours linearly, all other formats here as sRGB."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _material(texture: np.ndarray) -> Any:
    image = Image.fromarray(texture)
    return trimesh.visual.material.PBRMaterial(baseColorTexture=image, metallicFactor=0.0, roughnessFactor=0.9)


def _make_matte(tree: dict) -> None:
    """Adds a matte material to glTF primitives without one: glTF's default is metallic, nearly black in viewers."""
    for part in (primitive for mesh in tree["meshes"] for primitive in mesh["primitives"]):
        if "material" not in part:
            materials = tree.setdefault("materials", [])
            materials.append({"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}})
            part["material"] = len(materials) - 1
