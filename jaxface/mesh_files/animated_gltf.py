"""Writes a binary glTF with one moving head: morph targets and a pose whose weights and motion are animated.

Source: Khronos, glTF 2.0 specification: meshes with morph targets, animations, cameras.
"""

import dataclasses
import io
import json
import struct
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxface.mesh_files.mesh import Mesh

FLOAT, UNSIGNED_INT = 5126, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
GLB_MAGIC, GLB_VERSION, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
MM_PER_M = 1000.0
MATERIAL = {"metallicFactor": 0.0, "roughnessFactor": 0.9}


@dataclasses.dataclass(frozen=True)
class AnimatedHead:
    """A head that moves before a fixed camera. V vertices, M morph targets, F frames.

    Attributes:
        mesh: the head at rest in mm, with uv and texture, or without.
        targets: (M,V,3) mm, displacements at weight 1.
        names: M names of the targets.
        times: (F,) s, increasing.
        weights: (F,M).
        rotations: (F,3,3) of the head; axes of the camera: x right, y up, z to the viewer.
        translations_mm: (F,3) of its origin, in the camera's frame.
        focal_px: focal length.
        size_px: width and height of the image.
    """

    mesh: Mesh
    targets: np.ndarray
    names: tuple[str, ...]
    times: np.ndarray
    weights: np.ndarray
    rotations: np.ndarray
    translations_mm: np.ndarray
    focal_px: float
    size_px: tuple[int, int]


class _Buffer:
    """The binary chunk of a file and the entries that describe its parts."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, data: bytes, target: int | None = None) -> int:
        """Appends bytes, aligned to 4, and returns the number of their view."""
        self.data += b"\0" * (-len(self.data) % 4)
        entry = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(entry if target is None else {**entry, "target": target})
        self.data += data
        return len(self.views) - 1

    def accessor(self, array: np.ndarray, kind: str, target: int | None = None) -> int:
        """Appends an array (n,) or (n,c) of float32 or uint32 and returns the number of its accessor."""
        bounds = {"min": np.atleast_1d(array.min(0)).tolist(), "max": np.atleast_1d(array.max(0)).tolist()}
        component = UNSIGNED_INT if array.dtype == np.uint32 else FLOAT
        entry = {"bufferView": self.view(array.tobytes(), target), "componentType": component}
        self.accessors.append({**entry, "count": len(array), "type": kind, **bounds})
        return len(self.accessors) - 1


def encode(head: AnimatedHead) -> bytes:
    """The content of a .glb file in metres: a camera at the origin, the head, and the animation `clip`."""
    buffer = _Buffer()
    width, height = head.size_px
    camera = {"yfov": float(2 * np.arctan(height / 2 / head.focal_px)), "aspectRatio": width / height, "znear": 0.01}
    primitive, materials = _primitive(buffer, head)
    tree = {
        "asset": {"version": "2.0", "generator": "jaxface"},
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": [{"name": "camera", "camera": 0}, {"name": "head", "mesh": 0}],
        "cameras": [{"type": "perspective", "perspective": camera}],
        "meshes": [
            {
                "primitives": [primitive],
                "weights": head.weights[0].astype(float).tolist(),
                "extras": {"targetNames": list(head.names)},
            }
        ],
        **materials,
        "animations": [_animation(buffer, head)],
    }
    tree |= {"accessors": buffer.accessors, "bufferViews": buffer.views, "buffers": [{"byteLength": len(buffer.data)}]}
    return _glb(tree, bytes(buffer.data))


def _primitive(buffer: _Buffer, head: AnimatedHead) -> tuple[dict[str, Any], dict[str, Any]]:
    """The primitive of the mesh with its targets, and the entries of its material."""

    def vertices(array: np.ndarray, kind: str = "VEC3") -> int:
        return buffer.accessor(np.ascontiguousarray(array, np.float32), kind, ARRAY_BUFFER)

    mesh = head.mesh
    attributes = {"POSITION": vertices(mesh.vertices / MM_PER_M)}
    if mesh.normals is not None:
        attributes["NORMAL"] = vertices(mesh.normals)
    material: dict[str, Any] = dict(MATERIAL)
    entries: dict[str, Any] = {}
    if mesh.texture is not None:
        attributes["TEXCOORD_0"] = vertices(mesh.uv * [1, -1] + [0, 1], "VEC2")  # glTF's v runs down
        file = io.BytesIO()
        Image.fromarray(mesh.texture).save(file, "png", compress_level=3)
        entries["images"] = [{"mimeType": "image/png", "bufferView": buffer.view(file.getvalue())}]
        entries["textures"], material["baseColorTexture"] = [{"source": 0}], {"index": 0}
    indices = np.ascontiguousarray(mesh.triangles.ravel(), np.uint32)
    primitive = {
        "attributes": attributes,
        "indices": buffer.accessor(indices, "SCALAR", ELEMENT_ARRAY_BUFFER),
        "material": 0,
        "targets": [{"POSITION": vertices(target / MM_PER_M)} for target in head.targets],
    }
    return primitive, {"materials": [{"pbrMetallicRoughness": material}], **entries}


def _animation(buffer: _Buffer, head: AnimatedHead) -> dict[str, Any]:
    """Linear channels of the weights, the rotation and the translation of the head."""
    quaternions = Rotation.from_matrix(head.rotations).as_quat()
    # The shorter way between frames: a quaternion and its negative are the same rotation.
    signs = np.cumprod(np.where((quaternions[1:] * quaternions[:-1]).sum(1) < 0, -1, 1))
    quaternions[1:] *= signs[:, None]
    paths = {
        "weights": (head.weights.ravel(), "SCALAR"),
        "rotation": (quaternions, "VEC4"),
        "translation": (head.translations_mm / MM_PER_M, "VEC3"),
    }
    times = buffer.accessor(np.asarray(head.times, np.float32), "SCALAR")
    samplers, channels = [], []
    for path, (values, kind) in paths.items():
        output = buffer.accessor(np.ascontiguousarray(values, np.float32), kind)
        channels.append({"sampler": len(samplers), "target": {"node": 1, "path": path}})
        samplers.append({"input": times, "output": output, "interpolation": "LINEAR"})
    return {"name": "clip", "samplers": samplers, "channels": channels}


def _glb(tree: dict[str, Any], data: bytes) -> bytes:
    """The container: header, JSON chunk padded with spaces, binary chunk padded with zeros."""
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text + struct.pack("<II", len(data), BINARY_CHUNK) + data
    return struct.pack("<III", GLB_MAGIC, GLB_VERSION, 12 + len(chunks)) + chunks
