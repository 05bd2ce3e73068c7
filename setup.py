"""The folders at the top install as packages below ``iqarena``; all else about the project is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("bench", "attacks", "defenses", "models")

setup(
    package_dir={"iqarena": "iqarena"} | {f"iqarena.{folder}": folder for folder in FOLDERS},
    packages=["iqarena"]
    + [f"iqarena.{folder}" for folder in FOLDERS]
    + [f"iqarena.{folder}.{package}" for folder in FOLDERS for package in find_packages(folder)],
)
