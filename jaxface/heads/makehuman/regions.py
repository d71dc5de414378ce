"""Named regions of MakeHuman's head, from its texture masks, texture islands, targets and heights.

Heights and depths are those of the base mesh in the house's frame, millimetres from a point between the ears.
"""

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from jaxface.heads.makehuman.mesh import HeadSelection
from jaxface.heads.makehuman.source import MakeHumanSource
from jaxface.heads.paint import IRIS_RADIUS_MM

# The point between the ears of the base mesh.
ORIGIN_MM = np.array([0.0, 711.0, 50.0])
# Height of the hairline from the back of the head (z < 0) to the forehead.
HAIRLINE_Z_MM = (-100.0, -45.0, 0.0, 22.0, 45.0, 70.0)
HAIRLINE_Y_MM = (-52.0, -40.0, -4.0, 40.0, 78.0, 96.0)
# Skin below these lines, over z, is neck and shoulders.
NECK_Z_MM, NECK_Y_MM = (-80.0, -20.0, 30.0, 90.0), (-45.0, -30.0, -30.0, -95.0)
SHOULDERS_Z_MM, SHOULDERS_Y_MM = (-80.0, 50.0), (-122.0, -170.0)
# The line rises beside the neck, by this slope from this distance on.
SHOULDERS_SLOPE, NECK_HALF_WIDTH_MM = 0.7, 55.0
# Targets whose displacements mark the nose, and the share of their maximum that counts.
NOSE_TARGETS, NOSE_SHARE = ("nose/nose-scale-horiz-incr", "nose/nose-volume-incr"), 0.4


def regions(source: MakeHumanSource, head: HeadSelection) -> dict[str, np.ndarray]:
    """Regions name -> (V,) bool of the head, without the brows, which follow the landmarks."""
    islands = _islands(source)
    parts = head.parts

    def on_head(values: np.ndarray) -> np.ndarray:
        """Values (V,) for values (19158,) of symmetric masks; 0 on the eyeballs."""
        half = np.concatenate([values[head.source_vertices], np.zeros(len(head.eye_map), values.dtype)])
        return np.concatenate([half, half[head.middle :]])

    x, y, z = (head.whole(source.vertices, source) - ORIGIN_MM).T
    cavity, socket = on_head(islands["mouth"]), on_head(islands["socket"])
    skin = parts["body"] & ~cavity & ~socket
    ears = skin & (on_head(source.mask("ears")) > 0.5)
    lips = skin & (on_head(source.mask("lips")) > 0.5)
    lids = skin & (on_head(source.mask("eyelids")) > 0.5)
    face = skin & ~ears & ((on_head(source.mask("face")) > 0.5) | lips | lids | _within(skin, z, y))
    nose = face & _moved(source, on_head)
    beside = SHOULDERS_SLOPE * np.maximum(np.abs(x) - NECK_HALF_WIDTH_MM, 0.0)
    shoulders = skin & (y < np.interp(z, SHOULDERS_Z_MM, SHOULDERS_Y_MM) + beside) & (y < -60.0)
    neck = skin & ~face & ~ears & ~shoulders & (y < np.interp(z, NECK_Z_MM, NECK_Y_MM))
    scalp = skin & ~face & ~ears & ~neck & ~shoulders & (y > np.interp(z, HAIRLINE_Z_MM, HAIRLINE_Y_MM))
    return {
        "face": face,
        "lips": lips,
        "lids": lids,
        "nose": nose,
        "ears": ears,
        "neck": neck,
        "scalp": scalp,
        "shoulders": shoulders,
        "teeth": parts["teeth"],
        "tongue": parts["tongue"],
        "mouth": cavity | parts["teeth"] | parts["tongue"],
        # With the seam, which lies inside the eyeball: the skin ends at the edge of the lids.
        "socket": socket | on_head(islands["socket_seam"]),
        "eyeball_L": parts["eyeball_L"],
        "eyeball_R": parts["eyeball_R"],
        "iris_L": _iris(head, source, "eyeball_L"),
        "iris_R": _iris(head, source, "eyeball_R"),
        "transparent": parts["lashes"],
    }


def _within(skin: np.ndarray, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Front of the face (V,): closes the gaps of the painted mask between forehead and lips."""
    return skin & (z > 30.0) & (y > -78.0) & (y < 78.0)


def _islands(source: MakeHumanSource) -> dict[str, np.ndarray]:
    """Vertices (19158,) bool inside the oral cavity and the eye sockets: texture islands of the body in the head.

    The seam between an island and the outer skin belongs to the skin; that of the sockets is `socket_seam`.
    """
    quads, uv_quads = source.quads["body"], source.uv_quads["body"]
    size = len(source.uv)
    edges = np.concatenate([uv_quads[:, [i, (i + 1) % 4]] for i in range(4)])
    graph = scipy.sparse.coo_matrix((np.ones(len(edges)), tuple(edges.T)), (size, size))
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    island = labels[uv_quads[:, 0]]
    found = {name: np.zeros(len(source.vertices), bool) for name in ("mouth", "socket", "outer")}
    for label in np.unique(island):
        inside = np.unique(quads[island == label])
        low, high = source.vertices[inside].min(0), source.vertices[inside].max(0)
        small = high[1] - low[1] < 100.0 and low[1] > 550.0
        name = "outer" if not small else "mouth" if low[0] < 0 < high[0] else "socket"
        found[name][inside] = True
    inside = {name: found[name] & ~found["outer"] for name in ("mouth", "socket")}
    return inside | {"socket_seam": found["socket"] & found["outer"]}


def _moved(source: MakeHumanSource, on_head) -> np.ndarray:
    """Vertices (V,) bool that the nose's targets move by a share of their maximum."""
    moved = []
    for name in NOSE_TARGETS:
        distance = on_head(np.linalg.norm(source.target(name), axis=1))
        moved.append(distance > NOSE_SHARE * distance.max())
    return np.logical_or.reduce(moved)


def _iris(head: HeadSelection, source: MakeHumanSource, name: str) -> np.ndarray:
    """Vertices (V,) bool of an eyeball on the iris and the pupil."""
    points = head.whole(source.vertices, source)
    inside = head.parts[name]
    center = (points[inside].max(0) + points[inside].min(0)) / 2
    offset = points - center
    return inside & (offset[:, 2] > 0) & (np.hypot(offset[:, 0], offset[:, 1]) < IRIS_RADIUS_MM)
