"""What every stage agrees on: data sets, pictures, formats, manifests, parity results and errors."""

import os

__version__ = "0.2.0"
"""The release: the service, its API description and the images' labels take it from here. Tests compare the files that
cannot: pyproject.toml, web/package.json and the Kubernetes manifests."""

# Frameworks read these when they are first imported, and every stage imports this package before any framework.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
