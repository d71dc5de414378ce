"""NPHM's identity model as the original runs it in PyTorch: 40 members, codes joined to every point. Needs torch."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxface.systems.nphm.networks.ensemble import (
    BACKGROUND_SQUARED_DISTANCE,
    BLEND_VARIANCE,
    DISTANCE_EPSILON,
    WEIGHT_SUM_EPSILON,
    Ensemble,
)


class Unfolded(nn.Module):
    """Our ensemble in the original's form: every member reads [local coordinates | global code | local code]."""

    def __init__(self, model: Ensemble, params: dict):
        super().__init__()
        self.model = model
        tensor = lambda value: nn.Parameter(torch.tensor(np.asarray(value)))  # noqa: E731
        members, positions = params["members"], params["positions"]
        self.kernels = nn.ParameterList([tensor(members[f"layer{i}"]["kernel"]) for i in range(model.layers + 1)])
        self.biases = nn.ParameterList([tensor(members[f"layer{i}"]["bias"]) for i in range(model.layers + 1)])
        self.position_kernels = nn.ParameterList([tensor(positions[f"layer{i}"]["kernel"]) for i in range(3)])
        self.position_biases = nn.ParameterList([tensor(positions[f"layer{i}"]["bias"]) for i in range(3)])
        self.register_buffer("mean", torch.tensor(model.mean_anchors).reshape(-1, 3))
        self.register_buffer("signs", torch.tensor(model.mirror_signs()))
        self.repeats = [2] * model.pairs + [1] * (model.member_count - model.pairs * 2)

    def anchors(self, shared: torch.Tensor) -> torch.Tensor:
        """Anchors (B,A,3) of global codes (B,G)."""
        for index, (kernel, bias) in enumerate(zip(self.position_kernels, self.position_biases, strict=True)):
            shared = shared @ kernel + bias
            shared = functional.relu(shared) if index < 2 else shared
        return shared.reshape(len(shared), -1, 3) + self.mean

    def forward(self, points: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Signed distances (B,N) at points (B,N,3) of codes (B,C)."""
        model, (batch, count) = self.model, points.shape[:2]
        anchors = self.anchors(codes[:, : model.global_dim])
        centers = torch.cat([anchors, torch.zeros_like(anchors[:, :1])], 1)
        local = self.signs * (points[:, :, None] - centers[:, None])
        repeated = codes[:, None].repeat(1, count, 1)
        shared = repeated[..., None, : model.global_dim].expand(-1, -1, model.member_count, -1)
        own = repeated[..., model.global_dim :].reshape(batch, count, model.member_count, model.local_dim)
        inputs = torch.cat([local, shared, own], -1).permute(2, 0, 1, 3).reshape(model.member_count, batch * count, -1)
        repeats, hidden = torch.tensor(self.repeats, device=points.device), inputs
        for index, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            if index == model.mlp.skip:
                hidden = torch.cat([hidden, inputs], -1) / math.sqrt(2)
            weight, offset = (value.repeat_interleave(repeats, 0) for value in (kernel, bias))
            hidden = torch.baddbmm(offset[:, None], hidden, weight)
            hidden = functional.softplus(hidden, beta=100) if index < model.layers else hidden
        values = hidden.reshape(model.member_count, batch, count)
        squared = ((points[:, None] - anchors[:, :, None]).norm(dim=-1) + DISTANCE_EPSILON) ** 2
        background = torch.full_like(squared[:, :1], BACKGROUND_SQUARED_DISTANCE)
        weights = torch.exp(-torch.cat([squared, background], 1) / BLEND_VARIANCE)
        weights = (weights / (weights.sum(1, keepdim=True) + WEIGHT_SUM_EPSILON)).transpose(0, 1)
        return (weights * values).sum(0)


def runs(model: Ensemble, params: dict, code: np.ndarray, points: np.ndarray) -> dict[str, Callable[[], object]]:
    """Runs `sdf`, `gradient` and `fit` for one identity code (C,) and points (N,3); on a GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = Unfolded(model, params).to(device)
    points, codes = torch.tensor(points, device=device)[None], torch.tensor(code, device=device)[None]

    def sdf() -> torch.Tensor:
        with torch.inference_mode():
            return net(points, codes).cpu()

    def gradient() -> torch.Tensor:
        where = points.clone().requires_grad_()
        return torch.autograd.grad(net(where, codes).sum(), where)[0].cpu()

    fitted_code = codes.clone().requires_grad_()
    adam = torch.optim.Adam([fitted_code], 1e-4)

    def fit() -> None:
        adam.zero_grad()
        net.requires_grad_(False)
        (2 * net(points, fitted_code).abs().mean() + 0.05 * fitted_code.square().sum()).backward()
        adam.step()
        net.requires_grad_(True)

    return {"sdf": sdf, "gradient": gradient, "fit": fit}


def train_step(model: Ensemble, params: dict, codes: np.ndarray, batch: dict, weights: dict) -> Callable[[], None]:
    """A training step of the identity model: forward and gradient for each of the original's four point sets."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net, codes = Unfolded(model, params).to(device), nn.Parameter(torch.tensor(codes, device=device))
    data = {name: torch.tensor(value, device=device) for name, value in batch.items()}
    adams = [torch.optim.AdamW(net.parameters(), 5e-4, weight_decay=0.01), torch.optim.Adam([codes], 1e-3)]

    def field(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points = points.clone().requires_grad_()
        values = net(points, codes)
        return values, torch.autograd.grad(values.sum(), points, create_graph=True)[0]

    def step() -> None:
        for adam in adams:
            adam.zero_grad()
        face, others, far, near = (field(data[n]) for n in ("face_points", "nonface_points", "far", "near"))
        normal_errors = [(face[1] - data["face_normals"]).norm(dim=-1)]
        normal_errors.append((others[1] - data["nonface_normals"]).norm(dim=-1).clamp(max=0.75) / 2)
        gradient_norms = torch.cat([one[1].norm(dim=-1) for one in (face, others, far, near)], 1)
        loss = weights["surface"] * torch.cat([face[0], others[0]], 1).abs().mean()
        loss = loss + weights["normals"] * torch.cat(normal_errors, 1).mean()
        loss = loss + weights["space"] * torch.exp(-10 * far[0].abs()).mean()
        loss = (
            loss
            + weights["eikonal"] * (gradient_norms - 1).abs().mean()
            + weights["code"] * codes.square().sum(-1).mean()
        )
        anchors = net.anchors(codes[:, : model.global_dim])
        loss = loss + weights["anchors"] * (anchors - data["anchors"]).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        nn.utils.clip_grad_norm_([codes], 0.1)
        for adam in adams:
            adam.step()

    return step
