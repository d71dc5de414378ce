"""Builds a TFDS data set by name, offline, from files that the user has obtained or by rendering.

A data set is a module of `jaxface.data.builders` with `make(data_dir, ...) -> DatasetBuilder`. Further arguments of
`make` are what the builder accepts: `variant`, with the allowed names in the module's VARIANTS ("" for none; None
allows any); options of launch.prepare such as `examples` and `size`; and tools, functions from higher levels.
"""

import importlib
import inspect
import pathlib
import pkgutil
import shutil
import types
from collections.abc import Callable, Mapping, Sequence

import tensorflow  # noqa: F401 - tensorflow_datasets without it fails later, with a message of its own
import tensorflow_datasets as tfds
from absl import logging

from jaxface import lock, prepared_data
from jaxface.data import builders, provenance
from jaxface.errors import UserError, disk_errors, local_path


def modules() -> dict[str, str]:
    """{data set: module of `jaxface.data.builders`}, of all data sets."""
    names = sorted(module.name for module in pkgutil.iter_modules(builders.__path__))
    return {prepared_data.RENAMED.get(name, name): name for name in names}


def required_tools(dataset: str) -> dict[str, str]:
    """Functions of systems that the builder of "NAME[/variant]" takes: {argument of `make`: "module:function"}."""
    return getattr(_module(dataset.partition("/")[0]), "TOOLS", {})


def accepts(dataset: str, argument: str) -> bool:
    """Whether the builder of "NAME[/variant]" takes a tool or an option."""
    return argument in inspect.signature(_module(dataset.partition("/")[0]).make).parameters


def prepare(
    dataset: str,
    data_dir: str,
    manual_dir: str = "",
    tools: Mapping[str, Callable] = types.MappingProxyType({}),
    **options: int | Sequence[str],
) -> tfds.core.DatasetInfo:
    """Builds a data set unless it is prepared already.

    Args:
        dataset: "NAME" or "NAME/variant".
        data_dir: folder of prepared data sets.
        manual_dir: folder of files that the user has obtained; "" for generated data sets.
        tools: functions from higher levels by argument of `make`; the builder gets those that it takes.
        options: further arguments of the builder's `make`.

    Returns:
        TFDS's description of the prepared data set.

    Raises:
        UserError: unknown data set, variant or option; options for a data set that is prepared already, or that was
            prepared from other files, or whose description is damaged; `manual_dir` is missing or empty; or whatever
            the builder rejects.
    """
    local_path(data_dir, "config.data.dir")
    name, _, variant = dataset.partition("/")
    module = _module(name)
    _check_manual_dir(manual_dir)
    accepted = set(inspect.signature(module.make).parameters)
    _check_variant(name, variant, module.VARIANTS if "variant" in accepted else ("",))
    unknown = set(options) - accepted
    if unknown:
        raise UserError(f"data set {name} has no option {', '.join(sorted(unknown))}; leave it out")
    _check_description(dataset, data_dir)
    logging.set_verbosity(logging.ERROR)  # TFDS warns about every configuration that is not declared in advance
    arguments = {"variant": variant, **tools, **options}
    builder = module.make(data_dir, **{key: value for key, value in arguments.items() if key in accepted})
    if options and builder.is_prepared():
        raise UserError(f"{builder.data_path}: already prepared; remove it, or choose another --data_dir")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not manual_dir and not builder.is_prepared():
        raise UserError(f"data set {dataset} needs --manual_dir; give {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    source = provenance.fingerprint(manual_dir, data_dir) if manual_dir else None
    if builder.is_prepared():
        if source is not None:
            provenance.check(dataset, pathlib.Path(builder.data_path), source)
        return builder.info
    if (folder := pathlib.Path(builder.data_path)).exists():  # TFDS would take it for a data set without examples
        raise prepared_data.damaged(folder, f"{prepared_data.INFO_FILE} is missing")
    config = tfds.download.DownloadConfig(manual_dir=manual_dir or None, try_download_gcs=False)
    try:
        _build(builder, config)
    except UserError as error:
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise UserError(f"{error}; expected {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}") from error
        raise
    if source is not None:
        provenance.write(pathlib.Path(builder.data_path), source)
    return builder.info


def _build(builder: tfds.core.DatasetBuilder, config: tfds.download.DownloadConfig) -> None:
    """Builds the data set, after removing what killed processes left of it."""
    folder = pathlib.Path(builder.data_path).parent
    with lock.locked(folder, "prepares this data set"), disk_errors(folder):
        for path in folder.glob("incomplete.*"):
            shutil.rmtree(path, ignore_errors=True)
        builder.download_and_prepare(download_config=config)


def _check_description(dataset: str, data_dir: str) -> None:
    """Raises UserError if the data set is prepared, but TFDS's or the builder's description of it is damaged."""
    if prepared_data.newest_version(dataset, data_dir) is None:
        return
    from jaxface.data import stream  # it limits OpenCV to one thread, which a builder may not be

    stream.open_dataset(dataset, data_dir)
    prepared_data.read_metadata(dataset, data_dir)


def _module(name: str) -> types.ModuleType:
    module_names = modules()
    if name not in module_names:
        raise UserError(f"unknown data set {name!r}; choose one of {', '.join(module_names)}")
    return importlib.import_module(f"jaxface.data.builders.{module_names[name]}")


def _check_manual_dir(manual_dir: str) -> None:
    if manual_dir and not pathlib.Path(manual_dir).is_dir():
        raise UserError(f"--manual_dir {manual_dir}: not a folder; give that of the files that you obtained")
    if manual_dir and not any(pathlib.Path(manual_dir).iterdir()):
        raise UserError(f"--manual_dir {manual_dir}: the folder is empty; put the files of the data set there")


def _check_variant(name: str, variant: str, variants: Sequence[str] | None) -> None:
    if variants is None and variant in ("", pathlib.PurePosixPath(variant).name) and variant != "..":
        return
    if variants is None:
        raise UserError(f"data set {name}: {variant!r} is not a name; leave out '/' and '..'")
    if variant in variants:
        return
    choices = ", ".join(f"{name}/{allowed}" if allowed else name for allowed in variants)
    raise UserError(f"data set {name} has no variant {variant!r}; use {choices}")
