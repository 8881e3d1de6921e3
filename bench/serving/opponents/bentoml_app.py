"""BentoML: a service with two workers."""

import os

import bentoml
import numpy as np
import session


@bentoml.service(workers=int(os.environ["WORKERS"]), logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Onnx:
    def __init__(self) -> None:
        self._session = session.create()
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    @bentoml.api(route=f"/v2/models/{os.environ['NAME']}/infer")
    async def infer(self, inputs: list[dict]) -> dict:
        (tensor,) = inputs
        array = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        result = self._session.run([self._output], {self._input: array})[0]
        output = {
            "name": self._output,
            "datatype": "FP32",
            "shape": list(result.shape),
            "data": result.ravel().tolist(),
        }
        return {"model_name": os.environ["NAME"], "outputs": [output]}
