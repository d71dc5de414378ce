import json
import struct

import numpy as np
import pytest

from jaxface import meshes
from jaxface.errors import UserError
from jaxface.meshes import Mesh


@pytest.fixture
def tetrahedron():
    vertices = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    triangles = np.int32([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    colors = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.25, 0.75]])
    normals = np.float32([[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0.6, 0.8]])
    return Mesh(vertices, triangles, normals, colors)


@pytest.mark.parametrize("ending", meshes.ENCODED)
def test_written_meshes_are_read_back(tetrahedron, ending, tmp_path):
    (path := tmp_path / f"mesh{ending}").write_bytes(meshes.encode(tetrahedron, ending))
    found = meshes.read(path)
    np.testing.assert_allclose(found.vertices, tetrahedron.vertices, atol=1e-6)
    np.testing.assert_array_equal(found.triangles, tetrahedron.triangles)
    np.testing.assert_allclose(found.normals, tetrahedron.normals, atol=1e-5)
    np.testing.assert_allclose(found.colors, tetrahedron.colors, atol=0.012)


@pytest.mark.parametrize("ending", [".glb", ".ply"])
def test_points_without_triangles(tetrahedron, ending, tmp_path):
    points = Mesh(tetrahedron.vertices, np.zeros((0, 3), np.int32), colors=tetrahedron.colors)
    (path := tmp_path / f"points{ending}").write_bytes(meshes.encode(points, ending))
    found = meshes.read(path)
    np.testing.assert_allclose(found.vertices, points.vertices, atol=1e-6)
    assert found.triangles.shape == (0, 3) and found.normals is None
    with pytest.raises(ValueError, match="0 triangles"):
        meshes.encode(points, ".obj")


@pytest.mark.parametrize("textured", [False, True])
def test_a_glb_is_not_of_metal(tetrahedron, textured):
    uv, texture = np.float32([[0, 0], [1, 0], [0, 1], [1, 1]]), np.full((4, 4, 3), 200, np.uint8)
    mesh = Mesh(tetrahedron.vertices, tetrahedron.triangles, uv=uv, texture=texture) if textured else tetrahedron
    data = meshes.encode(mesh, ".glb")
    tree = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])
    (part,) = (primitive for one in tree["meshes"] for primitive in one["primitives"])
    look = tree["materials"][part["material"]]["pbrMetallicRoughness"]
    assert look["metallicFactor"] == 0 and ("baseColorTexture" in look) == textured


def _obj(*lines):
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.ply", b"", "damaged|has no vertices"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 3\n", "damaged|has no vertices"),
        ("a.obj", _obj("v 0 0 nan", "v 1 0 0", "v 0 1 0", "f 1 2 3"), "1 of 3 vertices are NaN"),
        ("a.obj", _obj("# nothing"), "damaged|has no vertices"),
        ("a.obj", _obj("v 0 0 0", "v 1 0 0", "v 0 1 0", "f 1 2 9"), "damaged|out of range"),
        ("a.txt", b"0 0 0", "not a readable mesh"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, name, data, message):
    (path := tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as raised:
        meshes.read(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no such file"):
        meshes.read(tmp_path / "missing.ply")
