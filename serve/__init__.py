"""The service: catalog (artifacts -> runnable models), protocol (bytes <-> requests), data plane, Flask app."""
