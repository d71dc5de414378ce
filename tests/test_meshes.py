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
        ("a.off", b"OFF\n-3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", "damaged"),
        ("a.off", b"OFF\n2 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", "4 lines for the 2 vertices and 1 faces"),
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
            b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
            "numbers more than the elements of its header",
        ),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, name, data, message):
    (path := tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as raised:
        meshes.read(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no such file"):
        meshes.read(tmp_path / "missing.ply")


def _ply(header, rows, order="ascii"):
    return f"ply\nformat {order} 1.0\n{header}end_header\n".encode() + rows


XYZ = "property float x\nproperty float y\nproperty float z\n"
FACES = "property list uchar int vertex_indices\n"
SQUARE = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0]])
SQUARE_TEXT = "\n".join(" ".join(map(str, row)) for row in SQUARE.tolist())


def _polygons(*polygons):
    return b"".join(struct.pack(f"<B{len(p)}i", len(p), *p) for p in polygons)


@pytest.mark.parametrize(
    "data, triangles",
    [
        (
            _ply(
                f"element vertex 5\n{XYZ}element face 2\n{FACES}",
                SQUARE.tobytes() + _polygons((0, 1, 2, 3), (1, 4, 2)),
                "binary_little_endian",
            ),
            [[0, 1, 2], [0, 2, 3], [1, 4, 2]],
        ),
        (
            _ply(
                f"element vertex 5\n{XYZ}element face 2\n{FACES}",
                SQUARE.tobytes() + _polygons((1, 4, 2), (0, 1, 2, 3)),
                "binary_little_endian",
            ),
            [[1, 4, 2], [0, 1, 2], [0, 2, 3]],
        ),
        (
            _ply(
                f"element vertex 5\n{XYZ}element tristrips 1\n{FACES.replace('uchar', 'int')}",
                f"{SQUARE_TEXT}\n8 0 1 3 2 -1 1 4 2\n".encode(),
            ),
            [[0, 1, 3], [3, 1, 2], [1, 4, 2]],
        ),
        (
            _ply(
                f"comment TextureFile lost.png\nelement vertex 5\n{XYZ}element face 2\n{FACES}property int flags\n"
                "property list uchar float texcoord\n",
                f"{SQUARE_TEXT}\n3 0 1 2 0 6 0 0 1 0 1 1\n3 0 2 3 0 6 .5 .5 .25 0 1 1\n".encode(),
            ),
            [[0, 1, 2], [0, 2, 3]],
        ),
        (
            _ply(
                f"element vertex 5\n{XYZ}element face 1\n{FACES}element edge 1\nproperty int vertex1\n".replace(
                    "float", "float32"
                ),
                (SQUARE_TEXT + "\n3 0 1 2\n4\n").replace("\n", "\r\n").encode(),
            ),
            [[0, 1, 2]],
        ),
    ],
    ids=["quad then triangle", "triangle then quad", "strips", "wedge texture", "windows line ends"],
)
def test_ply_keeps_vertices_and_polygons(tmp_path, data, triangles):
    (path := tmp_path / "a.PLY").write_bytes(data)
    found = meshes.read(path)
    np.testing.assert_array_equal(found.vertices, SQUARE)
    assert found.triangles.tolist() == triangles


@pytest.mark.parametrize("kind, scale", [("uchar", 255), ("ushort", 65535), ("float", 1), ("float", 255)])
def test_ply_colors_and_zero_normals(tmp_path, kind, scale):
    colors = "".join(f"property {kind} {name}\n" for name in ("red", "green", "blue"))
    normals = "property float nx\nproperty float ny\nproperty float nz\n"
    rows = "\n".join(f"{i} 0 0 {scale} 0 {0.2 * scale:g} 0 0 0" for i in range(3))
    (path := tmp_path / "a.ply").write_bytes(_ply(f"element vertex 3\n{XYZ}{colors}{normals}", rows.encode()))
    found = meshes.read(path)
    np.testing.assert_allclose(found.colors, [[1, 0, 0.2]] * 3, atol=1e-6)
    assert found.normals is None, "exporters write zeros for no normals"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 2 0 0\nf 1 2 3 4\nf 2 5 3\n",
        "v\t0  0 0 \nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 2 0 0\nf\t1 2 \\\n3 4\nf 2 5 3\n",
        "mtllib lost.mtl\no a\nusemtl b\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 2 0 0\nvt 0 0\nvt 1 1\n"
        "f 1/1 2/2 3/1 4/1\nusemtl c\nf 2/1 5/2 3/2\n",
        "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf -4 -3 -2 -1\nv 2 0 0\nvn 0 0 2\nf -4//1 -1//1 -3/7/1\n",
    ],
    ids=["byte order mark", "tabs and continuation", "materials", "relative"],
)
def test_obj_keeps_vertices_and_polygons(tmp_path, text):
    (path := tmp_path / "a.obj").write_text(text, encoding="utf-8")
    found = meshes.read(path)
    np.testing.assert_array_equal(found.vertices, SQUARE)
    assert found.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [1, 4, 2]]


def _glb(arrays, primitive, node, extra):
    """A GLB with one mesh; `arrays` are (array, type, component type, normalised)."""
    blob, views, accessors = b"", [], []
    for array, kind, component, normalised in arrays:
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": array.nbytes})
        accessor = {"bufferView": len(views) - 1, "componentType": component, "count": len(array), "type": kind}
        accessors.append(accessor | ({"normalized": True} if normalised else {}))
        blob += array.tobytes() + b"\0" * (-array.nbytes % 4)
    tree = {"asset": {"version": "2.0"}, "buffers": [{"byteLength": len(blob)}], "bufferViews": views}
    tree |= {"accessors": accessors, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, **node}]}
    text = json.dumps(tree | {"meshes": [{"primitives": [primitive]}]} | extra).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I", len(text)) + b"JSON" + text + struct.pack("<I", len(blob)) + b"BIN\0" + blob
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


INDEXED = {"attributes": {"POSITION": 0}, "indices": 1}
INDICES = (np.uint8([[0], [1], [2]]), "SCALAR", 5121, False)


def test_glb_of_quantised_positions_below_a_mirrored_node(tmp_path):
    positions = np.uint16([[0, 0, 0], [65535, 0, 0], [0, 65535, 0]])
    primitive = {"attributes": {"POSITION": 0, "COLOR_0": 2}, "indices": 1}
    colors = (np.full((3, 4), 65535, np.uint16), "VEC4", 5123, True)
    node = {"scale": [-0.4, 0.4, 0.4], "translation": [0.2, -0.2, -0.2]}
    data = _glb([(positions, "VEC3", 5123, True), INDICES, colors], primitive, node, {})
    (path := tmp_path / "a.glb").write_bytes(data)
    found = meshes.read(path)
    np.testing.assert_allclose(found.vertices, [[0.2, -0.2, -0.2], [-0.2, -0.2, -0.2], [0.2, 0.2, -0.2]], atol=1e-9)
    assert found.triangles.tolist() == [[2, 1, 0]], "mirrored, so that the outside stays outside"
    np.testing.assert_allclose(found.colors, 1)


@pytest.mark.parametrize(
    "extra, message",
    [
        ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "a.glb: .*KHR_draco.*; export it without compression"),
        ({"extensionsRequired": ["EXT_mesh_gpu_instancing"]}, "EXT_mesh_gpu_instancing, which is not read; export"),
        ({"asset": {"version": "1.0"}}, "it is glTF version 1.0; export it as glTF 2.0"),
        ({"accessors": [{"componentType": 5126, "count": 300, "type": "VEC3"}]}, "its positions have no data"),
        ({"nodes": [{"children": [0], "mesh": 0}]}, "circle"),
        ({"nodes": [{"children": list(range(1, 400))}, *[{"mesh": 0}] * 400]}, "repeat a mesh too often"),
        ({"nodes": [{"name": "empty"}]}, "has no vertices"),
    ],
)
def test_a_glb_that_cannot_be_read_says_why(tmp_path, extra, message):
    positions = (np.zeros((300, 3), np.float32), "VEC3", 5126, False)
    (path := tmp_path / "a.glb").write_bytes(_glb([positions, INDICES], INDEXED, {}, extra))
    with pytest.raises(UserError, match=message):
        meshes.read(path)


def test_scans_lose_vertices_that_are_not_finite_or_far_outside(tmp_path, caplog):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(400, 3)), [[np.nan, 0, 0], [900, 0, 0]]])
    triangles = np.int32([[0, 1, 2], [3, 400, 4], [401, 5, 6], [7, 8, 9]])
    mesh = Mesh(points, triangles, colors=np.zeros((402, 3), np.float32))
    (path := tmp_path / "a.ply").write_bytes(meshes.encode(mesh, ".ply"))
    found = meshes.read_scan(path)
    assert len(found.vertices) == len(found.colors) == 400 and found.triangles.tolist() == [[0, 1, 2], [7, 8, 9]]
    with pytest.raises(UserError, match="1 of 402 vertices are NaN"):
        meshes.read(path)


@pytest.mark.parametrize("ending", [".glb", ".obj", ".ply"])
def test_units_of_written_files(tetrahedron, ending, tmp_path):
    (path := tmp_path / f"a{ending}").write_bytes(data := meshes.encode(tetrahedron, ending, "mm"))
    scale = 0.001 if ending == ".glb" else 1
    np.testing.assert_allclose(meshes.read(path).vertices, scale * tetrahedron.vertices, atol=1e-6)
    assert ending == ".glb" or b"unit: mm" in data


def test_far_origins_keep_their_precision(tetrahedron, tmp_path):
    moved = Mesh(0.1 * tetrahedron.vertices + [691234.5, 5334567.25, 512], tetrahedron.triangles)
    (path := tmp_path / "a.ply").write_bytes(meshes.encode(moved, ".ply", "m"))
    np.testing.assert_allclose(meshes.read(path).vertices, moved.vertices, atol=1e-8)
