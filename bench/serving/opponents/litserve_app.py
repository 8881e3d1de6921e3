"""LitServe: two workers and two HTTP servers, and its queue for high throughput."""

import os

import litserve
import numpy as np
import session


class Onnx(litserve.LitAPI):
    def setup(self, device):
        self._session = session.create()
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def decode_request(self, request):
        (tensor,) = request["inputs"]
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])

    def predict(self, array):
        return self._session.run([self._output], {self._input: array})[0]

    def encode_response(self, result):
        output = {"name": self._output, "datatype": "FP32", "shape": result.shape, "data": result.ravel().tolist()}
        return {"model_name": os.environ["NAME"], "outputs": [output]}


if __name__ == "__main__":
    workers = int(os.environ["WORKERS"])
    api = Onnx(api_path=f"/v2/models/{os.environ['NAME']}/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=workers,
        generate_client_file=False,
        log_level="warning",
    )
