"""Reading and encoding mesh files (OBJ, PLY, GLB, STL, OFF) with trimesh."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from jaxface.errors import UserError

READABLE = (".ply", ".obj", ".stl", ".glb", ".gltf", ".off")
ENCODED = (".glb", ".obj", ".ply")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A triangle mesh, or a point cloud if it has no triangles.

    Attributes:
        vertices: (V,3) float32.
        triangles: (T,3) int32, T may be 0.
        normals: (V,3) float32 or None.
        colors: (V,3) float32 sRGB in [0,1] or None.
        uv: (V,2) float32 with v upwards, or None.
        texture: (H,W,3) uint8 or None.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None


def read(path: str | os.PathLike) -> Mesh:
    """The mesh in a file, with the vertices in the order of the file.

    Parts of a scene are joined; textures are ignored. Raises UserError if the file is missing, of an unknown type,
    damaged or empty, or has vertices that are NaN or infinite.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix.lower() not in READABLE:
        raise UserError(f"{path.name}: not a readable mesh file ({', '.join(READABLE)})")
    linear = path.suffix.lower() in (".glb", ".gltf")
    options = {"skip_materials": True, "maintain_order": True} if path.suffix.lower() == ".obj" else {}
    try:
        loaded = trimesh.load(path, process=False, **options)
        mesh = _joined([_part(geometry, transform, linear) for geometry, transform in _placed(loaded)])
    except Exception as error:  # readers raise any exception for damaged files
        raise UserError(f"{path.name}: damaged or truncated ({str(error) or type(error).__name__})") from error
    if len(mesh.vertices) == 0:
        raise UserError(f"{path.name}: the file has no vertices; export the mesh again")
    if bad := int((~np.isfinite(mesh.vertices)).any(axis=1).sum()):
        raise UserError(f"{path.name}: {bad} of {len(mesh.vertices)} vertices are NaN or infinite; remove them")
    if mesh.triangles.size and not (0 <= mesh.triangles.min() and mesh.triangles.max() < len(mesh.vertices)):
        raise UserError(f"{path.name}: its triangles have vertex indices out of range; export the mesh again")
    return mesh


def encode(mesh: Mesh, ending: str) -> bytes:
    """The content of a mesh file with the ending ".glb", ".obj" or ".ply".

    GLB contains the texture, otherwise vertex colours, and a non-metallic material; OBJ and PLY contain vertex colours.
    Raises ValueError for another ending, or for an OBJ without triangles.
    """
    if ending not in ENCODED or (ending == ".obj" and len(mesh.triangles) == 0):
        raise ValueError(f"{len(mesh.triangles)} triangles cannot be written as {ending}")
    colors = mesh.colors
    if ending == ".glb" and colors is not None:
        colors = _to_linear(np.clip(colors, 0, 1))
    rgba = None if colors is None else _rgba(colors)
    if len(mesh.triangles):
        exported = trimesh.Trimesh(
            mesh.vertices, mesh.triangles, vertex_normals=mesh.normals, vertex_colors=rgba, process=False
        )
    else:
        exported = trimesh.PointCloud(mesh.vertices, colors=rgba)
    if ending == ".glb":
        if mesh.texture is not None:
            exported.visual = trimesh.visual.TextureVisuals(mesh.uv, material=_material(mesh.texture))
        return trimesh.Scene([exported]).export(file_type="glb", tree_postprocessor=_make_matte)
    data = exported.export(file_type=ending[1:])
    return data.encode() if isinstance(data, str) else data


def _placed(loaded: Any) -> list[tuple[Any, np.ndarray]]:
    """The geometries that trimesh loaded, each with its (4,4) transform."""
    if not isinstance(loaded, trimesh.Scene):
        return [(loaded, np.eye(4))]
    nodes = [loaded.graph[node] for node in loaded.graph.nodes_geometry]
    return [(loaded.geometry[name], transform) for transform, name in nodes]


def _part(geometry: Any, transform: np.ndarray, linear: bool) -> Mesh:
    """One geometry, transformed. `linear`: its colours are linear and become sRGB."""
    vertices = np.asarray(geometry.vertices, np.float64).reshape(-1, 3) @ transform[:3, :3].T + transform[:3, 3]
    triangles = np.asarray(getattr(geometry, "faces", ()), np.int32).reshape(-1, 3)
    normals = geometry._cache.cache.get("vertex_normals")  # those of the file; the public property would compute them
    if normals is not None:
        normals = normals @ np.linalg.inv(transform[:3, :3])
        normals = (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    colors = _stored_colors(geometry)
    if linear and colors is not None:
        colors = _from_linear(colors)
    return Mesh(vertices.astype(np.float32), triangles, normals, colors)


def _stored_colors(geometry: Any) -> np.ndarray | None:
    """Vertex colours (V,3) in [0,1] as stored in the file."""
    if isinstance(geometry, trimesh.PointCloud):
        stored = geometry.colors if len(geometry.colors) else None
    elif geometry.visual.kind == "texture":
        stored = geometry.visual.vertex_attributes.data.get("color")
    else:
        stored = geometry.visual.vertex_colors if geometry.visual.kind == "vertex" else None
    if stored is None:
        return None
    scale = 1.0 if np.issubdtype(stored.dtype, np.floating) else np.iinfo(stored.dtype).max
    return np.asarray(stored)[:, :3].astype(np.float32) / np.float32(scale)


def _joined(parts: list[Mesh]) -> Mesh:
    """Concatenates meshes; normals and colours are kept only if all meshes have them."""
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])

    def all_of(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) or not values else np.concatenate(values)

    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    triangles = [part.triangles + offset for part, offset in zip(parts, offsets, strict=False)]
    vertices = np.concatenate([empty.vertices, *(part.vertices for part in parts)])
    return Mesh(
        vertices, np.concatenate([empty.triangles, *triangles]).astype(np.int32), all_of("normals"), all_of("colors")
    )


def _rgba(colors: np.ndarray) -> np.ndarray:
    """Opaque RGBA (V,4) uint8 of colours (V,3) in [0,1]."""
    opaque = np.ones((len(colors), 1), np.float32)
    return (255 * np.clip(np.concatenate([colors, opaque], axis=1), 0, 1) + 0.5).astype(np.uint8)


def _to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB to linear: glTF stores vertex colours linearly, all other formats here as sRGB."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _from_linear(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


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
