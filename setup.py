"""Only what pyproject.toml cannot say: folders app/ and workflows/ are installed under names of
their own.

`app` and `workflows` would be far too common as top-level names in site-packages.
"""

from setuptools import find_packages, setup

FOLDERS = {"compose": "compose", "compose_app": "app", "compose_workflows": "workflows"}

setup(
    package_dir=FOLDERS,
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in (name, *(f"{name}.{inner}" for inner in find_packages(folder)))
    ],
)
