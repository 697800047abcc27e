"""What draws is diffusers': without it these tests are left out."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("diffusers") else ["test_*.py"]
