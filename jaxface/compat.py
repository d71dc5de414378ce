"""Workdirs and shipped files written by earlier versions of jaxface, read under today's names.

This is the only module that knows the earlier names. Nothing is rewritten on disk.
"""

from collections.abc import Iterable
from typing import Any

# Earlier name of the checkpoint item (and of the array prefix in a shipped file) that holds batch statistics.
_EARLIER_ITEMS = {"model_state": "extra"}
# Earlier names of the folder of a workdir that holds copies of the runs that it depends on.
EARLIER_DEPENDENCIES = ("frozen",)
# Config keys by earlier name, applied in this order: a section comes before the keys inside it.
_RENAMED_KEYS = {
    "data.dense": "data.num_surface_samples",
    "data.near_every": "data.near_surface_stride",
    "loss.rendered": "loss.num_rendered",
    "loss.size": "loss.coefficient_weights",
    "loss.weights.evenness": "loss.weights.reflectance",
    "model.dense": "model.num_dense_points",
    "model.last_is_one": "model.replicate_last_point_bug",
    "model.reader": "model.regressor",
    "untrained": "random_identity",
    "random_identity.last_is_one": "random_identity.replicate_last_point_bug",
}
# Keys that earlier configurations lack, and the values that have the same effect.
_ADDED_KEYS = {"model.dtype": "float32", "model.remat": False, "input_processes": 1}
# Earlier values of config keys (by today's name of the key).
_RENAMED_VALUES = {
    "model.predictor": {"locate": "soft_argmax"},
    "model.regressor": {"reader": "soft_argmax", "mean": "linear", "fit": "map_fit"},
}


def current_config(values: dict[str, Any]) -> dict[str, Any]:
    """The nested `values` of a config.json under today's keys and with today's values; the argument is unchanged."""
    values = _copied(values)
    for earlier, current in _RENAMED_KEYS.items():
        section, name = _section(values, earlier)
        if name in section:
            target, new_name = _section(values, current)
            target[new_name] = section.pop(name)
    for key, renamed in _RENAMED_VALUES.items():
        section, name = _section(values, key)
        if section.get(name) in renamed:
            section[name] = renamed[section[name]]
    if "system" in values:
        for key, value in _ADDED_KEYS.items():
            section, name = _section(values, key)
            section.setdefault(name, value)
    if values.get("system") in ("deep3d", "jvcr", "pipnet") and "model" in values:
        values["model"].setdefault("batch_norm_group", int(values.get("mode") == "reference"))
    if values.get("system") == "deep3d":
        values.get("model", {}).setdefault("metric_size", False)
        values.get("loss", {}).get("weights", {}).setdefault("size", 1.0)
    if values.get("system") == "nphm" and "fit" in values:
        values["fit"].setdefault("face_share", 0.0)
        values["fit"].setdefault("schedule", "official")
    if values.get("system") == "continuous" and "data" in values:
        # Earlier models were trained on the landmarks and the face.
        values["data"] = {"regions": ["face"], "deformer": False} | values["data"]
    if values.get("system") == "continuous" and "head" in values:
        values["head"].setdefault("backgrounds", "")
    if values.get("system") == "continuous" and "loss" in values:
        values["loss"].setdefault("displacement", 0.0)
    if values.get("system") == "continuous" and "model" in values:
        # Converted checkpoints of the unofficial code, the only ones with variances, have a template of their own.
        unofficial = values["model"].get("sigma") == "variance"
        defaults = {"template": "other" if unofficial else "procedural", "mirror": True, "sigma_scale": 1.0}
        defaults |= {"normaliser": False, "output": "image"}
        values["model"] = defaults | values["model"]
    return values


def current_key(key: str) -> str | None:
    """Today's name of the config key or section `key` ("data.dense"), or None if it was not renamed."""
    current = key
    for earlier, renamed in _RENAMED_KEYS.items():
        if f"{current}.".startswith(f"{earlier}."):
            current = renamed + current.removeprefix(earlier)
    return None if current == key else current


def saved_item(name: str, saved: Iterable[str]) -> str:
    """The name under which a checkpoint with the items `saved` stores the item that is now called `name`."""
    earlier = _EARLIER_ITEMS.get(name)
    return earlier if earlier in set(saved) else name


def current_item(saved: str) -> str:
    """Today's name of the checkpoint item `saved`."""
    return next((name for name, earlier in _EARLIER_ITEMS.items() if earlier == saved), saved)


def asset_arrays(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays of a shipped file by path, with today's prefixes."""
    for name, earlier in _EARLIER_ITEMS.items():
        arrays = {_replaced(path, f"{earlier}/", f"{name}/"): value for path, value in arrays.items()}
    return arrays


def _replaced(path: str, earlier: str, prefix: str) -> str:
    return prefix + path.removeprefix(earlier) if path.startswith(earlier) else path


def _copied(values: Any) -> Any:
    return {name: _copied(value) for name, value in values.items()} if isinstance(values, dict) else values


def _section(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The nested dict that holds the dotted `key`, or an empty one, and the key's last part."""
    *sections, name = key.split(".")
    for section in sections:
        inner = values.get(section)
        values = inner if isinstance(inner, dict) else {}
    return values, name
