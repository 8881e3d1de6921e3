"""The model configuration extension."""

from .wire import Model, Server

EXTENSION = "model_configuration"


def test_a_configuration_has_the_models_name_and_tensors(server: Server, models: list[Model]) -> None:
    """The JSON form of ModelConfig: name, input, output; a data_type is the datatype with TYPE_ before it."""
    for model in models:
        answer = server.get(f"{model.path}/config")
        assert answer.status == 200, answer
        assert answer.json["name"] == model.name
        for tensors, described in ((answer.json["input"], model.inputs), (answer.json["output"], model.outputs)):
            found = {tensor["name"]: tensor["data_type"] for tensor in tensors}
            kinds = {tensor.name: tensor.datatype.replace("BYTES", "STRING") for tensor in described}
            assert found == {name: f"TYPE_{kind}" for name, kind in kinds.items()}


def test_dims_are_the_metadatas_without_the_batch(server: Server, models: list[Model]) -> None:
    """ModelConfig, max_batch_size: where it is above 0, the batch stands before the dims."""
    for model in models:
        config = server.get(f"{model.path}/config").json
        skip = 1 if config.get("max_batch_size", 0) > 0 else 0
        dims = {tensor["name"]: [int(size) for size in tensor["dims"]] for tensor in config["input"]}
        assert dims == {tensor.name: list(tensor.shape[skip:]) for tensor in model.inputs}


def test_the_configuration_of_a_version_is_there_too(server: Server, model: Model) -> None:
    """GET v2/models/NAME[/versions/VERSION]/config."""
    for version in model.versions:
        assert server.get(f"{model.path}/versions/{version}/config").json["name"] == model.name


def test_the_configuration_of_an_unknown_model_is_refused(server: Server) -> None:
    """A failed request has an error status and {"error"}."""
    answer = server.get("/v2/models/no_model_has_this_name/config")
    assert answer.is_refusal, answer
