"""Every configuration key has a rule, and values of no sense are refused by the name of their key."""

import importlib

import ml_collections
import pytest

from jaxface import config_values, system
from jaxface.errors import UserError

CONFIGS = ("continuous", "pipnet", "jvcr", "deep3d", "nphm_identity", "nphm_expression")
SYSTEM_KEY = "system"


def flat(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict) and len(value):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def table(name):
    return importlib.import_module(f"jaxface.systems.{name}.values").VALUES


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_has_a_rule_and_every_variant_passes(name):
    module = importlib.import_module(f"configs.{name}")
    for variant in module.VARIANTS:
        config = module.get_config(variant)
        rules = config_values.rules(table(config.system))
        for key, _ in flat(config):
            parents = [key.rsplit(".", count)[0] for count in range(key.count(".") + 1)]
            assert key in (SYSTEM_KEY, "random_identity") or any(parent in rules for parent in parents), key
        config_values.check(config, table(config.system))


@pytest.mark.parametrize("name", CONFIGS)
def test_values_of_no_sense_are_refused_by_name(name):
    """Every key refuses some of these values, and none ends in another error."""
    nonsense = (-1, 0, float("nan"), "nowhere", None, (), ("a",), (1, 2, 3, 4, 5, 6), {"a": 1}, 10**12, True, [[1]])
    module = importlib.import_module(f"configs.{name}")
    for key, _ in list(flat(module.get_config("smoke"))):
        refused = 0
        for value in nonsense:
            config = ml_collections.ConfigDict(module.get_config("smoke").to_dict(), type_safe=False)
            *sections, last = key.split(".")
            section = config
            for part in sections:
                section = section[part]
            section[last] = value
            try:
                config_values.check(config, table(name.partition("_")[0]))
            except UserError as error:
                refused += 1
                assert str(error).startswith("config.") and key.partition(".")[0] in str(error)
                assert "\n" not in str(error)
        assert refused or key == SYSTEM_KEY, key


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": -5}, "config.steps: -5 cannot be used; give an integer of at least 0"),
        ({"model.depths": ("a",)}, r"config.model.depths: \('a',\) cannot be used; give a sequence of 0 or 4 values"),
        ({"model.dtype": "float17"}, "config.model.dtype: 'float17' cannot be used; give one of float32, bfloat16"),
        ({"model.image_size": 0}, "config.model.image_size: 0 .* from 16 to 4096"),
        ({"model": 3}, "config.model: 3 is not a section of keys"),
        ({"optim.lr": 10**400}, "config.optim.lr: 10{70,}… cannot be used; give a number above 0"),
        ({"init": "\ud800"}, r"config.init: .* cannot be used; give a path"),
    ],
)
def test_messages(changes, message):
    values = importlib.import_module("configs.continuous").get_config("smoke").to_dict()
    for key, value in changes.items():
        *sections, name = key.split(".")
        (values[sections[0]] if sections else values)[name] = value
    config = ml_collections.ConfigDict(values, type_safe=False)
    for function in (system.resolve, system.build):
        with pytest.raises(UserError, match=message):
            function(config, "the test")
