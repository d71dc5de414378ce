"""Deep3D in stock eager PyTorch, the baseline of `launch.bench`: torchvision's ResNet-50 with seven heads, the
morphable face as the original decodes it, and a z-buffer in place of nvdiffrast, which needs a GPU. Needs torch."""

import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxface.systems.deep3d import losses
from jaxface.systems.deep3d.face_model import FaceModel
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE as SIZE
from jaxface.systems.deep3d.rendering.image_formation import AMBIENT, CAMERA_DM, CENTER_PX, FOCAL_PX

from .benchmark import Run
from .torch_runs import both_formats, forwards

COUNTS = (80, 64, 80, 3, 27, 2, 1)
WINDOW = 6

Runs = dict[str, Run]


class _Bottleneck(nn.Module):
    """torchvision's, with the stride in the 3x3."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        layers = []
        for number, (a, b, size, step) in enumerate(
            ((inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        ):
            layers += [nn.Conv2d(a, b, size, step, size // 2, bias=False), nn.BatchNorm2d(b)]
            layers += [nn.ReLU(inplace=True)] if number < 2 else []
        self.body, self.shortcut = nn.Sequential(*layers), nn.Identity()
        if inputs != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.shortcut(x), inplace=True)


class RNet(nn.Module):
    """Image (B,3,224,224) to coefficients (B,257)."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(3, 2, 1))
        inputs = 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            for index in range(depth):
                layers.append(_Bottleneck(inputs, 64 * 2**stage, 2 if stage and not index else 1))
                inputs = 256 * 2**stage
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.heads = nn.ModuleList(nn.Conv2d(inputs, count, 1) for count in COUNTS)
        for head in self.heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.backbone(image)
        return torch.cat([head(x).flatten(1) for head in self.heads], 1)


class _Face:
    """The original's morphable face: einsum with bases (3V,K), unit normals summed around every vertex, harmonics."""

    def __init__(self, face: FaceModel):
        def basis(modes: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(modes.reshape(len(modes), -1).T.copy())

        self.mean, self.albedo_mean = (
            torch.from_numpy(np.array(a)).reshape(1, -1) for a in (face.mean, face.albedo_mean)
        )
        self.identity, self.expression, self.albedo = map(basis, (face.identity, face.expression, face.albedo))
        self.triangles = torch.from_numpy(face.triangles.astype(np.int64))
        padding = ((0, 0), (0, 8 - face.incidence.shape[1]))
        around = np.pad(face.incidence, padding, constant_values=len(face.triangles))
        self.around = torch.from_numpy(around.astype(np.int64))
        self.keypoints = torch.from_numpy(face.landmarks[0][:, 0].astype(np.int64))

    def decode(self, vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Vertices in camera space, albedo, colours (B,V,3) and landmarks (B,68,2) of coefficients (B,257)."""
        identity, expression, albedo, angle, light, place = vector.split((80, 64, 80, 3, 27, 3), 1)
        batch = len(vector)
        shape = torch.einsum("ij,aj->ai", self.identity, identity) + torch.einsum(
            "ij,aj->ai", self.expression, expression
        )
        shape = (shape + self.mean).reshape(batch, -1, 3)
        color = (torch.einsum("ij,aj->ai", self.albedo, albedo) + self.albedo_mean).reshape(batch, -1, 3)
        turn = _rotation(angle)
        normals = self._normals(shape) @ turn
        gamma = light.reshape(batch, 3, 9) + torch.tensor([AMBIENT] + [0.0] * 8)
        lit = (_harmonics(normals) @ gamma.transpose(1, 2)) * color
        world = shape @ turn + place[:, None]
        vertices = torch.stack([world[..., 0], world[..., 1], CAMERA_DM - world[..., 2]], -1)
        points = vertices[:, self.keypoints]
        return vertices, color, lit, CENTER_PX + FOCAL_PX * points[..., :2] / points[..., 2:]

    def _normals(self, shape: torch.Tensor) -> torch.Tensor:
        a, b, c = (shape[:, self.triangles[:, corner]] for corner in range(3))
        normals = functional.normalize(torch.cross(a - b, b - c, dim=-1), dim=-1)
        normals = torch.cat([normals, torch.zeros(len(shape), 1, 3)], 1)
        return functional.normalize(normals[:, self.around].sum(2), dim=-1)


def _rotation(angle: torch.Tensor) -> torch.Tensor:
    """Transposed rotations (B,3,3), for rows."""
    one, zero = torch.ones(len(angle)), torch.zeros(len(angle))
    (cx, cy, cz), (sx, sy, sz) = torch.cos(angle).T, torch.sin(angle).T

    def matrix(*rows: torch.Tensor) -> torch.Tensor:
        return torch.stack(rows, -1).reshape(-1, 3, 3)

    about_x = matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    about_y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_z = matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    return (about_z @ about_y @ about_x).transpose(1, 2)


def _harmonics(normals: torch.Tensor) -> torch.Tensor:
    x, y, z = normals.unbind(-1)
    k0, k1, k2 = 0.886226925, 1.772453851, 2.427032391
    terms = [k0 * torch.ones_like(x), -k1 * y, k1 * z, -k1 * x, k2 * x * y, -k2 * y * z]
    terms += [k2 / (2 * 3**0.5) * (3 * z * z - 1), -k2 * x * z, k2 / 2 * (x * x - y * y)]
    return torch.stack(terms, -1)


def _rasterise(vertices: torch.Tensor, colors: torch.Tensor, triangles: torch.Tensor) -> torch.Tensor:
    """Z-buffer image (S,S,3): a triangle covers at most `WINDOW`² pixels, the nearest wins; colours have gradients."""
    points = vertices[:, :2] * torch.tensor([1.0, -1.0]) * FOCAL_PX / vertices[:, 2:] + CENTER_PX - 0.5
    with torch.no_grad():
        corners, depth = points[triangles], vertices[triangles, 2]
        offset = torch.arange(WINDOW)
        first = corners.amin(1).ceil().long()
        x = (first[:, 0, None, None] + offset[None, None]).expand(-1, WINDOW, WINDOW)
        y = (first[:, 1, None, None] + offset[None, :, None]).expand(-1, WINDOW, WINDOW)
        weights = _areas(corners[:, :, None, None], torch.stack([x, y], -1).float())
        inside = ((weights >= 0).all(1) | (weights <= 0).all(1)) & (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
        which = inside.nonzero()
        barycentric = weights.permute(0, 2, 3, 1)[inside]
        nearness = (barycentric / barycentric.sum(-1, keepdim=True) / depth[which[:, 0]]).sum(-1)
        pixel = y[inside] * SIZE + x[inside]
        best = torch.zeros(SIZE * SIZE).scatter_reduce_(0, pixel, nearness, "amax")
        wins = nearness == best[pixel]
        winner = torch.full((SIZE * SIZE,), -1).scatter_reduce_(0, pixel[wins], which[wins, 0], "amax")
    shown = winner >= 0
    corner = triangles[winner[shown]]
    at = torch.stack([torch.arange(SIZE * SIZE) % SIZE, torch.arange(SIZE * SIZE) // SIZE], -1)[shown].float()
    barycentric = _areas(points[corner], at) / vertices[corner, 2]
    blended = (barycentric / barycentric.sum(1, keepdim=True))[..., None] * colors[corner]
    return torch.zeros(SIZE * SIZE, 3).index_put((shown.nonzero()[:, 0],), blended.sum(1)).reshape(SIZE, SIZE, 3)


def _areas(corners: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Twice the signed areas (T,3,…) of the triangles that points (T,…,2) form with two corners of (T,3,…,2)."""
    away = corners - at[:, None]
    b, c = away[:, [1, 2, 0]], away[:, [2, 0, 1]]
    return b[..., 0] * c[..., 1] - b[..., 1] * c[..., 0]


class Baselines:
    """The baselines on one face."""

    def __init__(self, face: FaceModel):
        self._face = _Face(face)

    def forward(self, image: np.ndarray) -> Runs:
        """R-Net on image (B,224,224,3), evaluated, in both memory formats."""
        return forwards(RNet, image)

    def train_step(self, image: np.ndarray, landmarks: np.ndarray) -> Runs:
        """Forward, the losses that need no rendered image, backward, Adam."""
        target, weights = torch.from_numpy(landmarks), torch.from_numpy(losses.landmark_weights())

        def step(net: nn.Module, optimizer: torch.optim.Optimizer, pixels: torch.Tensor) -> None:
            optimizer.zero_grad()
            vector = net(pixels)
            _, albedo, _, points = self._face.decode(vector)
            light = vector[:, 227:254].reshape(-1, 3, 9)
            size = vector[:, :80].square().sum() + 0.8 * vector[:, 80:144].square().sum()
            size = (size + 1.7e-2 * vector[:, 144:224].square().sum()) / len(vector)
            loss = 1.6e-3 * ((points - target).square().sum(-1) * weights).mean() + 3e-4 * size
            loss = loss + 10 * (light - light.mean(1, keepdim=True)).square().mean()
            loss = loss + 5 * (albedo - albedo.mean(1, keepdim=True)).square().sum(-1).mean()
            loss.backward()
            optimizer.step()

        def bind(net: nn.Module, pixels: torch.Tensor) -> Run:
            return functools.partial(step, net.train(), torch.optim.Adam(net.parameters(), 1e-4), pixels)

        return both_formats(RNet, image, bind)

    def decode(self, vectors: np.ndarray) -> Runs:
        """Coefficients (B,257) to vertices, colours and landmarks."""
        vector = torch.from_numpy(vectors)

        def run() -> None:
            with torch.inference_mode():
                self._face.decode(vector)

        return {"contiguous": run}

    def rasterise(self, vertices: np.ndarray, colors: np.ndarray, gradient: bool) -> Runs:
        """Images of B faces, vertices and colors (B,V,3), one after another; with `gradient` also their gradients."""
        tensors = [torch.from_numpy(np.array(array)).requires_grad_(gradient) for array in (vertices, colors)]

        def run() -> None:
            for face_vertices, face_colors in zip(*tensors, strict=True):
                image = _rasterise(face_vertices, face_colors, self._face.triangles)
                if gradient:
                    image.square().sum().backward()

        return {"plain z-buffer": run}
