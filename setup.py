"""Reads settings.ini, the one place where the package is described."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
config = ConfigParser()
config.read(HERE / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

EXTRAS = ["lab", "local", "course", "bench", "dev"]
# outside the package in a checkout and inside it in a wheel: core.data_path knows both places
OUTSIDE = {"alpacafarm_nb.data": "data", "alpacafarm_nb.lessons": "nbs/lessons"}
OUTSIDE = {package: folder for package, folder in OUTSIDE.items() if (HERE / folder).is_dir()}
MINOR = range(11, 14)  # the Python versions that are tested: 3.11 to 3.13

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {cfg['audience']}",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        *[f"Programming Language :: Python :: 3.{minor}" for minor in MINOR],
    ],
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={extra: cfg[f"{extra}_requirements"].split() for extra in EXTRAS},
    entry_points={"console_scripts": cfg["console_scripts"].split("\n")},
    packages=[*find_packages(include=["alpacafarm_nb", "alpacafarm_nb.*"]), *OUTSIDE],
    package_dir={"alpacafarm_nb": "alpacafarm_nb", **OUTSIDE},
    package_data={"alpacafarm_nb": ["**/*.js", "**/*.css", "**/*.pyi", "py.typed"],
                  **{package: ["**/*"] for package in OUTSIDE}},
    include_package_data=False,
    zip_safe=False,
)
