"""MLServer: a custom runtime, as its documentation shows it."""

import json
import os
import sys
import tempfile
from pathlib import Path

import session
from mlserver import MLModel
from mlserver.cli import main
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    async def load(self) -> bool:
        self._session = session.create()
        self._outputs = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        results = self._session.run(self._outputs, inputs)
        outputs = [NumpyCodec.encode_output(name, result) for name, result in zip(self._outputs, results, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "host": "127.0.0.1",
            "http_port": int(os.environ["PORT"]),
            "grpc_port": 0,  # any that is free: nobody calls it
            "metrics_endpoint": None,
            "debug": False,
            "parallel_workers": int(os.environ["PARALLEL_WORKERS"]),
        }
        Path(folder, "settings.json").write_text(json.dumps(settings))
        model = {"name": os.environ["NAME"], "implementation": "mlserver_app.Onnx"}
        Path(folder, "model-settings.json").write_text(json.dumps(model))
        sys.path.insert(0, str(Path(__file__).parent))
        sys.argv = ["mlserver", "start", folder]
        main()
