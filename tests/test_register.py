"""Whatever is imported first, the Auto classes of transformers load a TreLM model after `import trelm`."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM
from transformers.models.auto import modeling_auto

from trelm import _register
from trelm.model.configuration import TrelmConfig
from trelm.model.encoder import TrelmForMaskedLM, TrelmModel
from trelm.model.source import load_source, transferred_model, trelm_config

AUTO = "from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM"
ORDERS = {
    "trelm-first": f"import trelm; {AUTO}",
    "trelm-last": f"{AUTO}; import trelm",
    "between-transformers-and-its-auto-classes": f"import transformers; import trelm; {AUTO}",
    "between-configuration-and-models": f"from transformers import AutoConfig; import trelm; {AUTO}",
    "our-encoder-first": f"import trelm.model.encoder; {AUTO}",
}

# One process an order, forked from one that has what they need but neither transformers nor trelm: it takes seconds.
DRIVER = """
import json, os, sys, traceback
import accelerate, huggingface_hub, jinja2, pydantic, safetensors.torch, scipy.optimize, tokenizers
import torch, torch._dynamo, torch.distributed.checkpoint, torch.distributed.tensor

def answer(order, folder):
    assert not {"transformers", "trelm"} & set(sys.modules)
    names = {}
    exec(order, names)
    kinds = [names[kind].from_pretrained(folder) for kind in ("AutoConfig", "AutoModel", "AutoModelForMaskedLM")]
    _, body, model = kinds
    ids = torch.tensor([[2, 60, 90, 3]])
    head, table = model.head.cls.predictions, model.get_input_embeddings().weight
    with torch.no_grad():
        return {
            "kinds": [type(one).__module__ + "." + type(one).__name__ for one in kinds],
            "states": body.eval()(ids).last_hidden_state.tolist(),
            "logits": model.eval()(ids).logits.tolist(),
            "tied": [head.decoder.weight.data_ptr() == table.data_ptr(), head.decoder.bias is head.bias],
            "finders": sum(type(finder).__module__ == "trelm._register" for finder in sys.meta_path),
        }

torch.set_num_threads(1)
orders, folder = json.loads(sys.argv[1]), sys.argv[2]
for name, order in orders.items():
    inlet, outlet = os.pipe()
    if os.fork() == 0:
        try:
            told = answer(order, folder)
        except BaseException:
            told = {"error": traceback.format_exc()}
        with os.fdopen(outlet, "w") as pipe:
            json.dump(told, pipe)
        os._exit(0)
    os.close(outlet)
    with os.fdopen(inlet) as pipe:
        print(json.dumps([name, json.load(pipe)]))
    os.wait()
"""


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> Any:
    source = load_source(str(tiny_bert))
    config = trelm_config(source.config, vocabulary_size=200, special_ids={"pad": 0}, languages=("en", "id"))
    model: Any = transferred_model(config, source, source.table, seed=1)
    model.eval()
    return model


@pytest.fixture(scope="module")
def saved(model: TrelmForMaskedLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def answers(saved: Path) -> dict[str, dict[str, Any]]:
    """What each order's process found."""
    command = [sys.executable, "-c", DRIVER, json.dumps(ORDERS), str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=saved)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_every_order_loads_the_model(
    answers: dict[str, dict[str, Any]], model: TrelmForMaskedLM, saved: Path, order: str
) -> None:
    answer, ids = answers[order], torch.tensor([[2, 60, 90, 3]])
    assert "error" not in answer, answer["error"]
    assert answer["kinds"] == [
        "trelm.model.configuration.TrelmConfig",
        "trelm.model.encoder.TrelmModel",
        "trelm.model.encoder.TrelmForMaskedLM",
    ]
    assert torch.allclose(torch.tensor(answer["logits"]), model(ids).logits, atol=1e-6)
    assert torch.allclose(torch.tensor(answer["states"]), model.trelm(ids).last_hidden_state, atol=1e-6)
    assert answer["tied"] == [True, True]
    assert answer["finders"] == 1


def test_importing_trelm_alone_loads_neither_torch_nor_transformers() -> None:
    told = "import sys, trelm; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_modules_that_are_waited_for_exist() -> None:
    for theirs, ours in _register.REGISTERS.items():
        assert importlib.util.find_spec(theirs) is not None
        assert importlib.util.find_spec(ours) is not None


def test_other_modules_are_none_of_its_business() -> None:
    finder = _register._Finder()
    assert finder.find_spec("json", None) is None
    assert finder.find_spec("transformers", None) is None


def test_a_module_that_is_missing_stays_missing(tmp_path: Path) -> None:
    assert _register._Finder().find_spec("transformers.models.auto.modeling_auto", [str(tmp_path)]) is None


def test_the_finder_is_put_up_once() -> None:
    for _ in range(2):
        _register.when_transformers_is_used()
    assert sum(isinstance(finder, _register._Finder) for finder in sys.meta_path) == 1


def test_the_module_found_is_whole() -> None:
    """Tools read the source and the file of a module through its loader."""
    assert "class AutoModel" in inspect.getsource(modeling_auto)
    spec = _register._Finder().find_spec(modeling_auto.__name__, list(sys.modules["transformers.models.auto"].__path__))
    assert spec is not None
    assert spec.origin == modeling_auto.__file__
    assert isinstance(spec.loader, _register._Then)
    assert spec.loader.create_module(spec) is None  # as Python would make it


def test_registered_in_this_process_too(saved: Path) -> None:
    assert type(AutoConfig.from_pretrained(saved)) is TrelmConfig
    assert type(AutoModel.from_pretrained(saved)) is TrelmModel
    assert type(AutoModelForMaskedLM.from_pretrained(saved)) is TrelmForMaskedLM
