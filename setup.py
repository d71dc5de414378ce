"""The wheel's packages: `configs/` and `launch/` of the checkout become parts of jaxface. The rest is in setup.cfg."""

from setuptools import find_packages, setup

MOVED = ("configs", "launch")

packages = find_packages(include=["jaxface", "jaxface.*"])
for folder in MOVED:
    packages += [f"jaxface.{name}" for name in (folder, *(f"{folder}.{inner}" for inner in find_packages(folder)))]
setup(packages=packages, package_dir={f"jaxface.{folder}": folder for folder in MOVED})
