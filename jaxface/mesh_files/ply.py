"""Reads PLY files of any byte order: polygons of mixed sizes, triangle strips, normals and vertex colours.

Only what a `Mesh` holds is read; other elements and properties are skipped (wedge texture coordinates, flags, edges).
Source: Turk, "The PLY Polygon File Format", 1994.
"""

import dataclasses

import numpy as np

from jaxface.mesh_files.mesh import Mesh, strip_triangles, text_numbers, triangulate, unit_colors, unit_normals

TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
TYPES |= {"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4"}
TYPES |= {"uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8"}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
MAX_HEADER = 2**20
NORMALS = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"))
COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
INDICES = ("vertex_indices", "vertex_index")


@dataclasses.dataclass
class Element:
    """An element of the header: `properties` are (name, type of the count or None, type)."""

    name: str
    count: int
    properties: list[tuple[str, str | None, str]]


def read(data: bytes) -> Mesh:
    """The mesh of a PLY file, vertices in the order of the file. Raises ValueError if the file is damaged."""
    order, elements, start = _header(data)
    body = _Body(data, start, order)
    found = {}
    for element in elements:
        wanted = {"vertex": None, "face": INDICES, "tristrips": INDICES}.get(element.name, ())
        found.setdefault(element.name, body.element(element, wanted))
    body.check_end()
    vertex = found.get("vertex", {})
    if not all(axis in vertex for axis in "xyz"):
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32))
    vertices = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float64)
    triangles = [triangulate(_lists(found.get("face", {})))]
    for _, strips in _lists(found.get("tristrips", {})):
        triangles += [strip_triangles(strip) for strip in strips]
    normals, colors = _columns(vertex, NORMALS), _columns(vertex, COLORS)
    return Mesh(
        vertices,
        np.concatenate(triangles),
        None if normals is None else unit_normals(normals),
        None if colors is None else unit_colors(colors),
    )


def _columns(vertex: dict, choices: tuple[tuple[str, ...], ...]) -> np.ndarray | None:
    """The first of several names of three properties that the vertices have, (V,3)."""
    for names in choices:
        if all(name in vertex for name in names):
            return np.stack([vertex[name] for name in names], axis=1)
    return None


def _lists(element: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    return next((element[name] for name in INDICES if name in element), [])


def _header(data: bytes) -> tuple[str, list[Element], int]:
    """(byte order, elements, start of the body)."""
    end = data.find(b"end_header", 0, MAX_HEADER)
    if not data.startswith(b"ply") or end < 0:
        raise ValueError("it does not start with a PLY header")
    start = data.find(b"\n", end) + 1
    if start == 0 or (data[end + 10 : end + 11] == b"\r" and data[end + 11 : end + 12] != b"\n"):
        start = data.find(b"\r", end) + 1  # line ends of old Macintosh computers
    if start == 0:
        raise ValueError("it ends within its header")
    order, elements = None, []
    for line in data[:end].decode("latin1").splitlines():
        words = line.split()
        if words[:1] == ["format"] and len(words) > 1:
            order = ORDERS[words[1]]
        elif words[:1] == ["element"] and len(words) == 3:
            elements.append(Element(words[1], int(words[2]), []))
        elif words[:1] == ["property"] and elements:
            elements[-1].properties.append(_property(words))
    if order is None or any(element.count < 0 for element in elements):
        raise ValueError("its header is damaged")
    return order, elements, start


def _property(words: list[str]) -> tuple[str, str | None, str]:
    if words[1] == "list" and len(words) == 5:
        return words[4], TYPES[words[2]], TYPES[words[3]]
    if len(words) != 3:
        raise ValueError(f"its header is damaged ({' '.join(words)[:60]})")
    return words[2], None, TYPES[words[1]]


class _Body:
    """The numbers after the header, read element by element: bytes, or numbers of a text as float64."""

    def __init__(self, data: bytes, start: int, order: str):
        self._order = order
        if order:
            self._data = np.frombuffer(data, np.uint8, offset=start)
        else:
            self._data = text_numbers(data[start:])
        self._position = 0

    def element(self, element: Element, wanted: tuple[str, ...] | None) -> dict:
        """Values of an element by property.

        Args:
            element: the next element of the file.
            wanted: names of properties; None reads all but lists.

        Returns:
            Numbers (N,) of a single property; for a list [(rows (n,), values (n,c))], one pair for each length c.
        """
        properties = element.properties
        names = {name for name, count, _ in properties if (count is None if wanted is None else name in wanted)}
        if not element.count or not properties:
            return {}
        sizes = [self._size(count) + (self._size(kind) if count is None else 0) for _, count, kind in properties]
        if element.count * max(min(sizes), 1) > len(self._data) - self._position:
            raise ValueError(f"it has fewer than the {element.count} elements {element.name} of its header")
        starts, counts = self._rows(element)
        found = {}
        for column, (name, count, kind) in enumerate(properties):
            if name not in names:
                continue
            if count is None:
                found[name] = self._values(starts[column], 1, kind)[:, 0]
            else:
                lengths = counts[column]
                rows = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
                found[name] = [
                    (row, self._values(starts[column][row], int(lengths[row[0]]), kind).astype(np.int64))
                    for row in rows
                ]
        return found

    def check_end(self) -> None:
        """Raises ValueError if a text goes on after its last element: the counts of the header are wrong."""
        rest = len(self._data) - self._position
        if rest and not self._order:
            raise ValueError(f"it has {rest} numbers more than the elements of its header")

    def _size(self, kind: str | None) -> int:
        """Places that a number takes: bytes, or one number of a text."""
        if kind is None:
            return 0
        return np.dtype(kind).itemsize if self._order else 1

    def _values(self, starts: np.ndarray, length: int, kind: str) -> np.ndarray:
        """Numbers (N,length) from each position of `starts` (N,)."""
        size = self._size(kind) * length
        if size == 0 or not len(starts):
            return np.zeros((len(starts), length))
        if starts[-1] + size > len(self._data):
            raise ValueError("it is truncated")
        stride = int(starts[1] - starts[0]) if len(starts) > 1 else size
        if (np.diff(starts) == stride).all():
            window = np.lib.stride_tricks.as_strided(
                self._data[starts[0] :], (len(starts), size), (stride * self._data.itemsize, self._data.itemsize)
            )
        else:
            window = self._data[starts[:, None] + np.arange(size)]
        if not self._order:
            return window.astype(kind) if kind[0] == "f" else window.astype(np.int64).astype(kind)
        return np.ascontiguousarray(window).view(np.dtype(kind).newbyteorder(self._order))

    def _rows(self, element: Element) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Start of the values of each property in every row, and the lengths of its lists (1 if it is no list)."""
        layout = [(self._size(count), self._size(kind), count) for _, count, kind in element.properties]
        uniform = self._uniform_rows(element, layout)
        if uniform is not None:
            return uniform
        starts = np.zeros((len(layout), element.count), np.int64)
        counts = np.ones((len(layout), element.count), np.int64)
        position, end = self._position, len(self._data)
        for row in range(element.count):
            for column, (count_size, size, count) in enumerate(layout):
                length = 1 if count is None else self._count(position, count)
                position += count_size
                starts[column, row], counts[column, row] = position, length
                position += length * size
            if position > end:
                raise ValueError(f"it is truncated in its elements {element.name}")
        self._position = position
        return list(starts), list(counts)

    def _uniform_rows(self, element: Element, layout: list) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
        """As `_rows`, if every row has lists of the lengths of the first row; else None."""
        offset, offsets, lengths, heads = 0, [], [], []
        for count_size, size, count in layout:
            if count is not None:
                heads.append((offset, count))
            length = 1 if count is None else self._count(self._position + offset, count)
            offset += count_size
            offsets.append(offset)
            lengths.append(length)
            offset += length * size
        rows = self._position + offset * np.arange(element.count)
        if rows[-1] + offset > len(self._data):
            if not heads:
                raise ValueError(f"it is truncated in its elements {element.name}")
            return None
        chosen = [length for length, (_, _, count) in zip(lengths, layout, strict=True) if count is not None]
        for (head, count), length in zip(heads, chosen, strict=True):
            if (self._values(rows + head, 1, count)[:, 0] != length).any():
                return None
        self._position += offset * element.count
        return [rows + start for start in offsets], [np.full(element.count, length) for length in lengths]

    def _count(self, position: int, kind: str) -> int:
        """The length of a list."""
        size = self._size(kind)
        if position + size > len(self._data):
            raise ValueError("it is truncated")
        value = self._data[position : position + size]
        count = int(value.view(np.dtype(kind).newbyteorder(self._order))[0]) if self._order else int(value[0])
        if count < 0:
            raise ValueError("a list has a negative length")
        return count
