"""What every stage agrees on: data sets, pictures, manifests, parity results and errors."""

import os

# Frameworks read these when they are first imported, and every stage imports this package before any framework.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
