"""Edits of heads by their codes: expressions of others, named blendshapes, interpolation, random people.

Works alike for every system with a `HeadDecoder`. Code files are the .npz files that inference and fitting write:
`id` and `exp` (1,n) of deep3d; `identity` (I,) and `expressions` (S,E) of nphm, for several people below `PERSON/`.
"""

import dataclasses
import io
import os
from collections.abc import Iterator, Mapping

import numpy as np

from jaxface.errors import UserError
from jaxface.geometry import views
from jaxface.meshes import Mesh
from jaxface.system import HeadDecoder

# Landmarks whose mean is the centre of an eye, of iBUG's 68.
EYES = tuple(range(36, 42)), tuple(range(42, 48))
# Rendered frames: side in pixels, distance of the camera in mm, margin as a share of the head's size, light direction.
FRAME_PX, CAMERA_MM, MARGIN, LIGHT = 512, 1500.0, 0.08, np.array([0.3, 0.4, 0.87])


@dataclasses.dataclass(frozen=True)
class Codes:
    """The codes of one head: identity (I,) and expression (E,), float32."""

    identity: np.ndarray
    expression: np.ndarray


def read(source: str | os.PathLike, head: HeadDecoder) -> Codes:
    """The codes in "FILE.npz[:PERSON][:NUMBER]" for a head.

    Args:
        source: the file, with PERSON where it has several people, and NUMBER of the expression from 0 where it has
            several; the default is the first.
        head: the head that the codes belong to.

    Raises:
        UserError: the file is not such a file, lacks the person or the number, or its codes have other lengths.
    """
    path, person, number = _split(str(source))
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except Exception as error:  # numpy raises any exception for damaged and foreign files
        raise UserError(f"{path}: not a readable .npz file ({error}); give one that infer or fit wrote") from error
    identity, expressions = _arrays(path, person, arrays)
    if not 0 <= number < len(expressions):
        raise UserError(f"{path}: has {len(expressions)} expressions, not number {number}; count from 0")
    codes = Codes(np.float32(identity), np.float32(expressions[number]))
    sizes = (len(codes.identity), len(codes.expression))
    if sizes != (head.identity_size, head.expression_size):
        expected = f"{head.identity_size} and {head.expression_size}"
        raise UserError(f"{path}: codes of length {sizes[0]} and {sizes[1]}, the model's are {expected}; use its model")
    if not (np.isfinite(codes.identity).all() and np.isfinite(codes.expression).all()):
        raise UserError(f"{path}: codes are NaN or infinite; reconstruct the head again")
    return codes


def file_of(source: str) -> str:
    """The path in "FILE.npz[:PERSON][:NUMBER]"."""
    return _split(source)[0]


def _split(source: str) -> tuple[str, str, int]:
    """File, person ("" for none) and number of "FILE.npz[:PERSON][:NUMBER]"."""
    path, ending, rest = source.rpartition(".npz")
    if not ending:
        raise UserError(f"{source}: not an .npz file; give one that infer or fit wrote")
    parts = [part for part in rest.split(":") if part]
    number = int(parts.pop()) if parts and parts[-1].isdigit() else 0
    if len(parts) > 1 or (rest and not rest.startswith(":")):
        raise UserError(
            f"{source}: malformed; give FILE.npz, FILE.npz:PERSON, FILE.npz:NUMBER or FILE.npz:PERSON:NUMBER"
        )
    return path + ending, parts[0] if parts else "", number


def _arrays(path: str, person: str, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Identity (I,) and expressions (S,E) of a person in a file's arrays."""
    if {"id", "exp"} <= set(arrays):
        return arrays["id"].ravel(), arrays["exp"].reshape(1, -1)
    people = [name.removesuffix("identity").rstrip("/") for name in arrays if name.endswith("identity")]
    if not people:
        raise UserError(f"{path}: has neither id and exp nor identity and expressions; give a file of infer or fit")
    chosen = person or people[0]
    if chosen not in people:
        raise UserError(f"{path}: has no person {person!r}; choose one of {', '.join(map(repr, people))}")
    prefix = f"{chosen}/" if chosen else ""
    identity = arrays[f"{prefix}identity"].ravel()
    # A file of an identity model has empty expressions.
    expressions = arrays.get(f"{prefix}expressions", np.zeros((1, 0)))
    return identity, expressions.reshape(max(1, len(expressions)), -1)


def with_blendshapes(codes: Codes, weights: Mapping[str, float], head: HeadDecoder) -> Codes:
    """The codes with named expressions set to weights; others keep theirs.

    Raises UserError for a name that the head does not have, with those that it has.
    """
    expression = codes.expression.copy()
    for name, weight in weights.items():
        if name not in head.blendshapes:
            names = ", ".join(head.blendshapes) or "none; its expressions have no names"
            raise UserError(f"--set {name}: the head has no such expression; it has {names}")
        shape = head.blendshapes[name]
        own = (expression @ shape) / (shape @ shape)
        expression += (weight - own) * shape
    return dataclasses.replace(codes, expression=expression)


def interpolate(first: Codes, last: Codes, frames: int) -> Iterator[Codes]:
    """`frames` codes from `first` to `last`, both included, in equal steps."""
    for share in np.linspace(0, 1, frames, dtype=np.float32):
        yield Codes(
            *((1 - share) * getattr(first, name) + share * getattr(last, name) for name in ("identity", "expression"))
        )


def random_people(head: HeadDecoder, count: int, seed: int, deviations: float) -> Iterator[Codes]:
    """`count` random people, `deviations` standard deviations wide; each depends on the seed and its number only."""
    for number in range(count):
        yield Codes(*head.sample(np.random.default_rng((seed, number)), deviations))


def scale_to_interpupil(mesh: Mesh, head: HeadDecoder, distance_mm: float, neutral: Mesh) -> Mesh:
    """The mesh in true size, from the person's distance between the eye centres.

    Args:
        mesh: the head in mm.
        head: its decoder.
        distance_mm: the true distance.
        neutral: the neutral head of the same person, on which the distance is measured.

    Raises:
        UserError: the head has no landmarks.
    """
    if head.landmarks is None:
        raise UserError("--interpupil_mm: this head has no landmarks to measure; leave it out")
    points = head.landmarks(neutral.vertices)
    left, right = (points[list(eye)].mean(0) for eye in EYES)
    factor = distance_mm / np.linalg.norm(left - right)
    return dataclasses.replace(mesh, vertices=np.float32(factor * mesh.vertices))


@dataclasses.dataclass(frozen=True)
class Stage:
    """A fixed camera in front of a head, so that the frames of a clip do not jump."""

    center: np.ndarray
    focal_px: float

    @classmethod
    def of(cls, mesh: Mesh) -> "Stage":
        """The camera that shows all of a mesh in mm from the front."""
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        extent = (1 + 2 * MARGIN) * (high - low)[:2].max()
        return cls((low + high) / 2, FRAME_PX * CAMERA_MM / extent)

    def render(self, mesh: Mesh) -> np.ndarray:
        """The shaded mesh on white, (FRAME_PX,FRAME_PX,3) uint8."""
        eye = self.center + np.array([0.0, 0.0, CAMERA_MM])
        rotation = views.look_at(eye, self.center)
        view = views.render(mesh.vertices, mesh.triangles, eye, rotation, self.focal_px, (FRAME_PX, FRAME_PX))
        shading = 0.25 + 0.75 * np.clip(view.normals @ LIGHT, 0, 1)
        gray = np.where(view.hit, 230 * shading, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)


def encode(codes: Codes) -> bytes:
    """The content of an .npz file of codes, which `read` reads."""
    buffer = io.BytesIO()
    np.savez(buffer, identity=codes.identity, expressions=codes.expression[None])
    return buffer.getvalue()
