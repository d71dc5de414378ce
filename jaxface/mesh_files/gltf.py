"""Reads glTF 2.0 files (.glb, .gltf): positions, triangles, normals and vertex colours of all nodes of the scene.

Quantized and normalised attributes, sparse accessors, strips, fans and mirrored nodes are read; textures, skins and
morph targets are ignored. Compressed geometry (Draco, meshopt) is refused. Source: Khronos, glTF 2.0, §3.6 and §3.7.
"""

import base64
import binascii
import json
import pathlib
import struct
import urllib.parse
from typing import Any

import numpy as np

from jaxface.errors import UserError
from jaxface.mesh_files.mesh import Mesh, strip_triangles, unit_normals

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
# Primitive modes; points and lines have no triangles.
TRIANGLES, STRIP, FAN, DEFAULT_MODE = 4, 5, 6, 4
# Required extensions that do not change the geometry, by the start of their names, or that are read. Geometry in any
# other one would be missing or misplaced.
READ_EXTENSIONS = ("KHR_mesh_quantization", "KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_xmp")
COMPRESSION = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")
GLB_MAGIC, JSON_CHUNK, BINARY_CHUNK = b"glTF", 0x4E4F534A, 0x004E4942
# Vertices per byte of the file: more come only from scenes that repeat a mesh without end.
MAX_VERTICES_PER_BYTE = 1


def read(data: bytes, folder: pathlib.Path) -> Mesh:
    """The joined meshes of the default scene, in the scene's frame.

    Args:
        data: the file.
        folder: where the buffers of a .gltf file are.

    Raises:
        UserError: the file is compressed, of an old version, or a buffer is missing.
        ValueError, LookupError, TypeError, AttributeError: it is damaged.
    """
    document, binary = _document(data)
    _check_supported(document)
    buffers = [_buffer(entry, binary, folder) for entry in document.get("buffers", ())]
    reader = _Accessors(document, buffers)
    limit = MAX_VERTICES_PER_BYTE * (len(data) + sum(map(len, buffers)))
    parts: list[Mesh] = []
    for number, transform in _placed_meshes(document):
        for primitive in document["meshes"][number]["primitives"]:
            if "POSITION" in primitive.get("attributes", {}):
                parts.append(_part(reader, primitive, transform))
                if sum(len(part.vertices) for part in parts) > limit:
                    raise ValueError("its nodes repeat a mesh too often")
    return _joined(parts)


def _check_supported(document: dict) -> None:
    """Raises UserError for another version of glTF, or a required extension that is not read."""
    version = str(document.get("asset", {}).get("version", "2.0"))
    if not version.startswith("2."):
        raise UserError(f"it is glTF version {version[:20]}; export it as glTF 2.0")
    for name in map(str, document.get("extensionsRequired", ())):
        if name in COMPRESSION:
            raise UserError(f"its geometry is compressed with {name}; export it without compression")
        if not name.startswith(READ_EXTENSIONS):
            raise UserError(f"it needs the extension {name[:60]}, which is not read; export it without")


def _document(data: bytes) -> tuple[dict, bytes]:
    """(the JSON document, the binary chunk)."""
    if not data.startswith(GLB_MAGIC):
        document, binary = json.loads(data.decode("utf-8-sig")), b""
    else:
        version, _ = struct.unpack_from("<II", data, 4)
        if version != 2:
            raise UserError(f"it is glTF version {version}; export it as glTF 2.0")
        size, kind = struct.unpack_from("<II", data, 12)
        if kind != JSON_CHUNK or 20 + size > len(data):
            raise ValueError("it is truncated")
        document, binary = json.loads(data[20 : 20 + size]), b""
        if len(data) >= 28 + size:
            length, kind = struct.unpack_from("<II", data, 20 + size)
            binary = data[28 + size : 28 + size + length] if kind == BINARY_CHUNK else b""
            if kind == BINARY_CHUNK and len(binary) != length:
                raise ValueError("it is truncated")
    if not isinstance(document, dict):
        raise ValueError("it is not a glTF document")
    return document, binary


def _buffer(entry: dict, binary: bytes, folder: pathlib.Path) -> bytes:
    uri = entry.get("uri")
    if uri is None:
        content = binary
    elif uri.startswith("data:"):
        try:
            content = base64.b64decode(uri.partition(",")[2])
        except binascii.Error as error:
            raise ValueError("an embedded buffer is damaged") from error
    else:
        path = folder / urllib.parse.unquote(uri)
        if folder.resolve() not in path.resolve().parents or not path.is_file():
            raise UserError(f"its buffer {uri[:100]} is not beside it; copy it there, or export one .glb")
        content = path.read_bytes()
    if len(content) < entry["byteLength"]:
        raise ValueError("a buffer is truncated")
    return content


class _Accessors:
    """Reads accessors as arrays."""

    def __init__(self, document: dict, buffers: list[bytes]):
        self._document, self._buffers = document, buffers
        self._size = sum(map(len, buffers))

    def has_data(self, index: int) -> bool:
        """Whether the values of an accessor are in the file; otherwise all are zero."""
        accessor = self._document["accessors"][_natural(index)]
        return "bufferView" in accessor or "sparse" in accessor

    def numbers(self, index: int) -> np.ndarray:
        """Values (N,C) of an accessor: integers, or float64 where the type is normalised or floating."""
        accessor = self._document["accessors"][_natural(index)]
        kind, width, count = (
            np.dtype(COMPONENTS[accessor["componentType"]]),
            WIDTHS[accessor["type"]],
            accessor["count"],
        )
        if _natural(count) > self._size:
            raise ValueError("an accessor is larger than the file")
        if "bufferView" in accessor:
            values = self._view(accessor["bufferView"], accessor.get("byteOffset", 0), kind, width, count)
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in accessor:
            values = self._sparse(accessor["sparse"], values)
        if kind.kind == "f":
            return values.astype(np.float64)
        if accessor.get("normalized"):
            return np.maximum(values / np.iinfo(kind).max, -1.0)
        return values

    def _sparse(self, sparse: dict, values: np.ndarray) -> np.ndarray:
        where, what, count = sparse["indices"], sparse["values"], _natural(sparse["count"])
        kind = np.dtype(COMPONENTS[where["componentType"]])
        rows = self._view(where["bufferView"], where.get("byteOffset", 0), kind, 1, count)[:, 0]
        replaced = self._view(what["bufferView"], what.get("byteOffset", 0), values.dtype, values.shape[1], count)
        values = values.copy()
        values[rows] = replaced
        return values

    def _view(self, index: int, offset: int, kind: np.dtype, width: int, count: int) -> np.ndarray:
        """Numbers (count,width) of a buffer view, packed or interleaved."""
        view = self._document["bufferViews"][_natural(index)]
        buffer, size = self._buffers[_natural(view["buffer"])], width * kind.itemsize
        stride = _natural(view.get("byteStride", 0)) or size
        start = _natural(view.get("byteOffset", 0)) + _natural(offset)
        if stride < size or start + (count - 1) * stride + size > len(buffer) and count:
            raise ValueError("an accessor reaches outside its buffer")
        content = np.frombuffer(buffer, np.uint8)[start:]
        rows = np.lib.stride_tricks.as_strided(content, (count, size if count else 0), (stride, 1), writeable=False)
        return np.ascontiguousarray(rows).view(kind).reshape(count, width)


def _natural(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"it has {str(value)[:20]} in place of a number")
    return value


def _placed_meshes(document: dict) -> list[tuple[int, np.ndarray]]:
    """(mesh number, transform (4,4)) of the nodes of the default scene, or of all meshes if there is no scene."""
    scenes, nodes = document.get("scenes", ()), document.get("nodes", ())
    if not scenes:
        return [(number, np.eye(4)) for number in range(len(document.get("meshes", ())))]
    placed, visited = [], set()
    roots = scenes[_natural(document.get("scene", 0))].get("nodes", ())
    pending = [(_natural(node), np.eye(4)) for node in reversed(roots)]
    while pending:
        number, parent = pending.pop()
        if number in visited:
            raise ValueError("its nodes form a circle")
        visited.add(number)
        transform = parent @ _transform(nodes[number])
        if "mesh" in nodes[number]:
            placed.append((_natural(nodes[number]["mesh"]), transform))
        pending += [(_natural(child), transform) for child in reversed(nodes[number].get("children", ()))]
    return placed


def _transform(node: dict) -> np.ndarray:
    """The local transform (4,4) of a node: a matrix by columns, or translation, rotation (x, y, z, w) and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    transform = np.eye(4)
    transform[:3, :3] = np.array(rotation) * np.array(node.get("scale", (1, 1, 1)), np.float64)
    transform[:3, 3] = node.get("translation", (0, 0, 0))
    return transform


def _part(reader: _Accessors, primitive: dict, transform: np.ndarray) -> Mesh:
    """One primitive in the scene's frame. A mirrored node turns its triangles, so that they keep their outside."""
    attributes, linear = primitive["attributes"], transform[:3, :3]
    if not reader.has_data(attributes["POSITION"]):
        raise UserError("its positions have no data, as in compressed files; export it without compression")
    positions = reader.numbers(attributes["POSITION"])
    if positions.shape[1] != 3:
        raise ValueError("its positions are not points")
    vertices = positions @ linear.T + transform[:3, 3]
    triangles = _triangles(reader, primitive, len(vertices))
    mirrored = np.linalg.det(linear) < 0
    if mirrored:
        triangles = triangles[:, ::-1]
    normals = colors = None
    if "NORMAL" in attributes:
        cofactors = np.linalg.det(linear) * np.linalg.pinv(linear).T
        normals = unit_normals(reader.numbers(attributes["NORMAL"]) @ cofactors.T * (-1 if mirrored else 1))
    if "COLOR_0" in attributes:
        colors = _to_srgb(reader.numbers(attributes["COLOR_0"])[:, :3].clip(0, 1)).astype(np.float32)
    for array in (normals, colors):
        if array is not None and array.shape != vertices.shape:
            raise ValueError("an attribute has another length than its positions")
    return Mesh(vertices, triangles, normals, colors)


def _triangles(reader: _Accessors, primitive: dict, vertices: int) -> np.ndarray:
    mode = primitive.get("mode", DEFAULT_MODE)
    if mode not in (TRIANGLES, STRIP, FAN):
        return np.zeros((0, 3), np.int64)
    indices = reader.numbers(primitive["indices"])[:, 0] if "indices" in primitive else np.arange(vertices)
    indices = indices.astype(np.int64)
    if mode == STRIP:
        return strip_triangles(indices)
    if mode == FAN:
        first = np.full(max(len(indices) - 2, 0), indices[0] if len(indices) else 0)
        return np.stack([first, indices[1:-1], indices[2:]], axis=1) if len(first) else np.zeros((0, 3), np.int64)
    return indices[: len(indices) // 3 * 3].reshape(-1, 3)


def _joined(parts: list[Mesh]) -> Mesh:
    """Concatenates meshes; normals and colours are kept only if all meshes have them."""
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])
    triangles = [part.triangles + offset for part, offset in zip(parts, offsets, strict=False)]

    def all_of(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        return None if not values or any(value is None for value in values) else np.concatenate(values)

    return Mesh(
        np.concatenate([np.zeros((0, 3)), *(part.vertices for part in parts)]),
        np.concatenate([np.zeros((0, 3), np.int64), *triangles]),
        all_of("normals"),
        all_of("colors"),
    )


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    """glTF stores vertex colours linearly."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
