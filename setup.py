"""Packaging for kpnb: everything is read from settings.ini, so that nothing is said twice."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
extras = {
    name: cfg[f"{name}_requirements"].split() for name in ("lab", "dev", "bench", "pretrained", "sweep")
}


class BuildWithLessons(build_py):
    "The wheel carries the notebooks as `kpnb/lessons`; an editable installation reads them in `nbs`."

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for kind in ("*.ipynb", "images/*.*"):
            for path in sorted((here / "nbs").rglob(kind)):
                inside = path.relative_to(here / "nbs")
                if not any(part.startswith(".") for part in inside.parts):
                    target = Path(self.build_lib, "kpnb", "lessons", inside)
                    self.mkpath(str(target.parent))
                    self.copy_file(str(path), str(target))


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Natural Language :: English",
        "Programming Language :: Python :: 3",
    ],
    packages=find_packages(include=["kpnb", "kpnb.*"]),
    package_data={"kpnb": ["py.typed", "*.js", "*.css", "manifests/*.csv", "evidence/*.csv"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    zip_safe=False,
    # nbdev finds the modules of an installed package through this entry point.
    entry_points={
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
        "console_scripts": ["kpnb=kpnb.course:main"],
    },
    cmdclass={"build_py": BuildWithLessons},
)
