"""An environment of Python that has what this one has, but for this project."""

import os
import pathlib
import subprocess
import sys

_OURS = ("tl_distributed", "data_prep", "__editable__", "easy-install")


def make_environment(folder: pathlib.Path) -> pathlib.Path:
    """Makes it, of links to the packages of this one; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (target,) = folder.glob("lib/python*/site-packages")
    places = []
    # A folder for each place: parts of one namespace, as google's, may lie in several.
    for number, site in enumerate(pathlib.Path(path) for path in sys.path if path.endswith("site-packages")):
        places.append(folder / f"packages_{number}")
        places[-1].mkdir()
        for package in site.iterdir():
            if not package.name.startswith(_OURS) and package.suffix not in (".pth", ".egg-link"):
                (places[-1] / package.name).symlink_to(package)
    (target / "packages.pth").write_text("".join(f"{place}\n" for place in places))
    return folder / "bin" / "python"


def run_there(python: pathlib.Path, *arguments: object, folder: pathlib.Path) -> subprocess.CompletedProcess:
    """Runs that interpreter in a folder, which is none of this project's."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=180)
