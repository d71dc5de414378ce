"""Mesh files in and out: OBJ, PLY, GLB and STL through trimesh. Pictures are in `photo`, clips in `video`."""

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
    """A surface, or a cloud of points where there are no triangles.

    vertices (V,3) float32; triangles (T,3) int32, T may be 0; normals (V,3) float32; colors (V,3) float32 sRGB in
    [0,1]; uv (V,2) float32, v upwards, into texture (H,W,3) uint8. What a file does not have is None.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray | None = None
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None


def read(path: str | os.PathLike) -> Mesh:
    """The mesh in a file, its vertices in the order of the file; parts of a scene are joined, textures left out.

    UserError in one line: no such file, an unknown ending, damaged, no vertices, NaN or infinite vertices.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if path.suffix.lower() not in READABLE:
        raise UserError(f"{path.name}: not a mesh that can be read ({', '.join(READABLE)})")
    linear = path.suffix.lower() in (".glb", ".gltf")
    options = {"skip_materials": True, "maintain_order": True} if path.suffix.lower() == ".obj" else {}
    try:
        loaded = trimesh.load(path, process=False, **options)
        mesh = _joined([_part(geometry, transform, linear) for geometry, transform in _placed(loaded)])
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise UserError(f"{path.name}: damaged or cut short ({str(error) or type(error).__name__})") from error
    if len(mesh.vertices) == 0:
        raise UserError(f"{path.name}: there are no vertices in it")
    if bad := int((~np.isfinite(mesh.vertices)).any(axis=1).sum()):
        raise UserError(f"{path.name}: {bad} of {len(mesh.vertices)} vertices are NaN or infinite; remove them")
    if mesh.triangles.size and not (0 <= mesh.triangles.min() and mesh.triangles.max() < len(mesh.vertices)):
        raise UserError(f"{path.name}: its faces name vertices that are not in it")
    return mesh


def encode(mesh: Mesh, ending: str) -> bytes:
    """The bytes of a ".glb", ".obj" or ".ply" file. ValueError: another ending, or an OBJ without triangles.

    GLB holds the texture where there is one, else the vertex colours, and a material that is not metallic; OBJ and PLY
    hold vertex colours.
    """
    if ending not in ENCODED or (ending == ".obj" and len(mesh.triangles) == 0):
        raise ValueError(f"{len(mesh.triangles)} triangles cannot be written as {ending}")
    colors = mesh.colors
    if ending == ".glb" and colors is not None:
        colors = _to_linear(np.clip(colors, 0, 1))
    rgba = None if colors is None else _rgba(colors)
    if len(mesh.triangles):
        made = trimesh.Trimesh(
            mesh.vertices, mesh.triangles, vertex_normals=mesh.normals, vertex_colors=rgba, process=False
        )
    else:
        made = trimesh.PointCloud(mesh.vertices, colors=rgba)
    if ending == ".glb":
        if mesh.texture is not None:
            made.visual = trimesh.visual.TextureVisuals(mesh.uv, material=_material(mesh.texture))
        return trimesh.Scene([made]).export(file_type="glb", tree_postprocessor=_matt)
    data = made.export(file_type=ending[1:])
    return data.encode() if isinstance(data, str) else data


def _placed(loaded: Any) -> list[tuple[Any, np.ndarray]]:
    """The parts of what trimesh loaded, each with the 4x4 transform that puts it in place."""
    if not isinstance(loaded, trimesh.Scene):
        return [(loaded, np.eye(4))]
    nodes = [loaded.graph[node] for node in loaded.graph.nodes_geometry]
    return [(loaded.geometry[name], transform) for transform, name in nodes]


def _part(geometry: Any, transform: np.ndarray, linear: bool) -> Mesh:
    """`linear`: whether its colours are linear light."""
    vertices = np.asarray(geometry.vertices, np.float64).reshape(-1, 3) @ transform[:3, :3].T + transform[:3, 3]
    triangles = np.asarray(getattr(geometry, "faces", ()), np.int32).reshape(-1, 3)
    normals = geometry._cache.cache.get("vertex_normals")  # the file's own; the property would compute others
    if normals is not None:
        normals = normals @ np.linalg.inv(transform[:3, :3])
        normals = (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    colors = _stored_colors(geometry)
    if linear and colors is not None:
        colors = _from_linear(colors)
    return Mesh(vertices.astype(np.float32), triangles, normals, colors)


def _stored_colors(geometry: Any) -> np.ndarray | None:
    """Vertex colours (V,3) in [0,1] as the file has them."""
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
    """One mesh of several; normals and colours only where all have them."""
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
    opaque = np.ones((len(colors), 1), np.float32)
    return (255 * np.clip(np.concatenate([colors, opaque], axis=1), 0, 1) + 0.5).astype(np.uint8)


def _to_linear(srgb: np.ndarray) -> np.ndarray:
    """glTF takes vertex colours as linear light; everything else here is sRGB."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _from_linear(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def _material(texture: np.ndarray) -> Any:
    image = Image.fromarray(texture)
    return trimesh.visual.material.PBRMaterial(baseColorTexture=image, metallicFactor=0.0, roughnessFactor=0.9)


def _matt(tree: dict) -> None:
    """Gives primitives without a material a matt one: glTF's own default is a metal, nearly black in viewers."""
    for part in (primitive for mesh in tree["meshes"] for primitive in mesh["primitives"]):
        if "material" not in part:
            materials = tree.setdefault("materials", [])
            materials.append({"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}})
            part["material"] = len(materials) - 1
