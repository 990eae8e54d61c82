"""Settings of the documentation: ``make docs``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sphinx.application import Sphinx

import capgpu

# Pages are executed in kernels that inherit this: the pages show the same on every machine, and the command is found
# although the environment is not activated.
os.environ["CAPGPU_BACKEND"] = "cpu"
os.environ["CAPGPU_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # pages are built side by side
os.environ["COLUMNS"] = "100"
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "capgpu"
author = "the capgpu authors"
copyright = author
version = release = capgpu.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "reference",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# Pages: Markdown, whose code cells are executed. A cell that raises ends the build.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # a hung cell ends the build; the first training of a page may compile kernels
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # what is said about compiling depends on the machine
copybutton_exclude = ".linenos, .gp, .go"

# Docstrings: numpydoc. `name` in single backticks refers to an object of Python.
default_role = "py:obj"
autodoc_typehints = "none"  # docstrings have types together with shapes and dtypes
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
autosummary_generate = False
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"collections\.abc\..*"),  # the documentation of Python is not at hand when building
    ("py:class", r"a set-like object .*"),  # of the docstring that the server's dictionaries inherit
]

html_theme = "pydata_sphinx_theme"
html_title = f"capgpu {release}"
html_static_path = ["_static"]
html_css_files = ["capgpu.css"]
html_theme_options = {
    "logo": {"text": "capgpu"},
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "show_toc_level": 2,
    "header_links_before_dropdown": 8,
    "navigation_with_keys": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {name: [] for name in ("index", "installation", "start", "gallery", "answers", "changelog")}


# Executed first in every kernel. A cell's `!command` writes to a pipe instead of a terminal, so that pages show plain
# text without progress bars; a command that fails ends the build.
KERNEL_STARTUP = """
import os
import subprocess

def system(command):
    os.environ.pop("FORCE_COLOR", None)
    done = subprocess.run(command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout, end="", flush=True)
    done.check_returncode()

get_ipython().system = system
"""


def setup(app: Sphinx) -> None:
    """Write what kernels execute first to where they look for it."""
    startup = Path(app.doctreedir, "ipython", "profile_default", "startup")
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "commands.py").write_text(KERNEL_STARTUP, encoding="utf-8")
    os.environ["IPYTHONDIR"] = str(startup.parents[1])
