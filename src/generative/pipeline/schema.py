"""`generative schema`: what params.yaml may hold, as a JSON Schema, which editors check it by."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, JsonValue, create_model

from generative.core.compute import Compute
from generative.core.config import LAST, Data, Splitting, _Seed
from generative.core.model import Model
from generative.evaluation import EvaluationConfig
from generative.models.registry import REGISTRY

SCHEMA_FILE = Path("params.schema.json")


def schema() -> str:
    """The content of params.schema.json.

    It knows each block by itself: what goes together, and what is there, `generative check` knows.
    """
    blocks: dict[str, Any] = {
        "data": (Data, ...),
        "split": (Splitting, ...),
        "compute": (Compute, ...),
        **{name: (_with_choices(name, model), ...) for name, model in REGISTRY.items()},
        "evaluate": (EvaluationConfig, ...),
    }
    params: type[BaseModel] = create_model("params.yaml", __base__=_Seed, **blocks)
    # The draft that editors know best; nothing of a later one is in use.
    document = {"$schema": "http://json-schema.org/draft-07/schema#", **params.model_json_schema()}
    # A model's block may be left out with its stage.
    document["required"] = [name for name in document["required"] if name not in REGISTRY]
    return json.dumps(document, indent=2) + "\n"


def _with_choices(name: str, model: type[Model[Any]]) -> type[BaseModel]:
    """The model's config, with `keep` as one of the losses that can choose its epoch."""
    config = model.config_class
    choices: list[JsonValue] = [
        LAST,
        *(f"{split}/{loss}" for split in ("Train", "Validation") for loss in model.losses),
    ]
    field = config.model_fields["keep"]
    keep = Field(default=LAST, description=field.description, json_schema_extra={"enum": choices})
    return create_model(name, __base__=config, __doc__=config.__doc__, keep=(str, keep))
