"""Ray Serve: two replicas behind its HTTP proxy."""

import os
import signal
from pathlib import Path

import numpy as np
import ray
import session
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=int(os.environ["WORKERS"]), max_ongoing_requests=100)
class Onnx:
    def __init__(self) -> None:
        self._session = session.create()
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    async def __call__(self, request: Request) -> dict:
        (tensor,) = (await request.json())["inputs"]
        array = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        result = self._session.run([self._output], {self._input: array})[0]
        output = {"name": self._output, "datatype": "FP32", "shape": result.shape, "data": result.ravel().tolist()}
        return {"model_name": os.environ["NAME"], "outputs": [output]}


if __name__ == "__main__":
    environment = {name: os.environ[name] for name in ("MODEL", "NAME")}
    ray.init(
        num_cpus=int(os.environ["WORKERS"]) + 1,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=100_000_000,
        runtime_env={"env_vars": environment | {"PYTHONPATH": str(Path(__file__).resolve().parent)}},
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"]), "access_log": False})
    serve.run(
        Onnx.options(logging_config={"enable_access_log": False}).bind(),
        route_prefix=f"/v2/models/{os.environ['NAME']}/infer",
    )
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if ray.shutdown() is None else None)
    signal.pause()
