"""/hearth/v1/plan and `hearth show --why`; the plan's figures are the engine's own."""

import subprocess
import sys

import pytest

from appliance.config import load_settings
from appliance.hardware import Gpu, read_memory
from appliance.models.planner import MIB, shrink_kv
from appliance.models.spec import memory_need, with_budget
from engine import abilities
from engine.api import LoadSpec
from engine.errors import ModelFormatError
from engine.gguf import GGMLType, read_header
from engine.paged.model import PagedModel
from engine.paged.weights.dequant import check_supported
from tests.fakes.gguf_builder import tiny_embedding_gguf, tiny_llama_gguf
from tests.integration.cli_process import Command
from tests.integration.raw_http import assert_error, send

PLAN = "/hearth/v1/plan"


@pytest.fixture(scope="module")
def served(module_service, tiny_gguf):
    """A service that chooses for itself, but for the model `many`."""
    service = module_service(engine="auto", model_engines="many=paged,vectors=paged", threads=1)
    service.create("one", tiny_gguf, parameters={"num_ctx": 256})
    service.create("many", tiny_gguf)
    return service


def plan_of(service, name):
    return send(service, "GET", f"{PLAN}?model={name}").json


def test_a_plan_tells_engine_reasons_and_arithmetic(served):
    plan = plan_of(served, "many")
    assert (plan["model"], plan["engine"]) == ("many:latest", "paged")
    assert plan["reasons"][0].startswith("model_engines says paged for many:latest")
    assert plan["context_length"] == 512
    need = plan["need"]
    parts = ("weights", "kv_cache", "compute", "process")
    assert need["total"] == sum(need[part] for part in parts) == need["of_main_memory"]
    assert plan["memory"]["kept_free"] == 64 << 20
    assert (plan["fits"], plan["refusal"], plan["unloads"]) == (True, None, [])


def test_a_plan_knows_the_models_own_parameters_and_loads_nothing(served):
    assert plan_of(served, "one")["context_length"] == 256
    assert plan_of(served, "one")["loaded"] is False
    assert served.call("GET", "/api/ps")[1] == {"models": []}


def test_a_model_runs_on_the_engine_of_its_plan(served):
    body = {"model": "many", "prompt": "hi", "stream": False, "options": {"num_predict": 2}}
    assert served.call("POST", "/api/generate", body)[0] == 200
    (loaded,) = served.call("GET", "/hearth/v1/status")[1]["models"]
    assert loaded["engine"] == "paged"
    plan = plan_of(served, "many")
    assert plan["loaded"] is True
    assert loaded["size"] == plan["need"]["total"]
    served.call("POST", "/api/generate", {"model": "many", "keep_alive": 0})


def test_a_wish_that_cannot_be_fulfilled_is_told_before_and_refused_after(served, tmp_path):
    served.create("vectors", tiny_embedding_gguf(tmp_path / "e.gguf"))
    plan = plan_of(served, "vectors")
    assert plan["fits"] is False
    assert "makes embeddings" in plan["refusal"]
    reply = send(served, "POST", "/v1/embeddings", body={"model": "vectors", "input": "x"})
    assert "model_engines" in assert_error(reply, 400, "/v1/embeddings")


def test_what_does_not_fit_is_told_with_the_arithmetic(start_service, tiny_gguf):
    service = start_service(engine="paged", memory_reserve_mib=2**20)
    service.create("tiny", tiny_gguf)
    plan = plan_of(service, "tiny")
    assert plan["fits"] is False
    assert "weights" in plan["refusal"]
    assert "kept free" in plan["refusal"]
    screen = Command(service.url)("show", "--why", "tiny").stdout
    assert plan["refusal"].partition(";")[0] in screen  # what follows is free memory, which moves


@pytest.mark.parametrize("query", ["model=nobody", "model=a%20b"])
def test_a_plan_for_an_unknown_model_is_not_found(served, query):
    reply = send(served, "GET", f"{PLAN}?{query}")
    assert "not found" in assert_error(reply, 404, PLAN)
    assert reply.json["code"] == "model_not_found"


def test_a_plan_needs_a_name(served):
    assert "model=NAME" in assert_error(send(served, "GET", PLAN), 400, PLAN)


def test_show_why_prints_the_plan(served):
    hearth = Command(served.url)
    screen = hearth("show", "--why", "many").stdout
    for part in ("many:latest", "paged", "model_engines says paged", "+ KV cache", "It fits."):
        assert part in screen
    assert '"kv_cache"' in hearth("show", "--why", "many", "--json").stdout
    assert "not found" in hearth.fails(1, "show", "--why", "nobody")
    assert "--why" in hearth.fails(2, "show", "--why", "--system", "many")


def test_a_bad_name_in_model_engines_ends_the_start_with_a_word(tmp_path):
    command = Command("http://127.0.0.1:9")
    environ = {"HEARTH_MODEL_ENGINES": "a b=paged", "HEARTH_STATE": str(tmp_path)}
    error = command.run("serve", "--host", "127.0.0.1:0", **environ).stderr
    assert "model_engines (environment HEARTH_MODEL_ENGINES) names no model" in error
    path = tmp_path / "hearth.toml"
    path.write_text('[model_engines]\n"qwen3:4b" = "paged"\n')
    assert "is valid" in command("config", "check", path).stdout
    assert load_settings({}, {}, path).model_engines == {"qwen3:4b": "paged"}
    path.write_text('[model_engines]\n"a b" = "paged"\n')
    assert "names no model" in command.fails(1, "config", "check", path)


# -- the figures are those of engine/paged ---------------------------------------------------------


def test_need_is_what_the_engine_takes_on_the_cpu(tmp_path):
    path = tiny_llama_gguf(tmp_path / "m.gguf", context=512)
    header = read_header(path)
    spec = LoadSpec(engine="paged", model_path=str(path), context_length=512, threads=1)
    model = PagedModel.open(spec)
    need = memory_need(spec, header)
    assert need.kv_bytes == model.budget.total_bytes
    assert 0.8 * need.weight_bytes < model.decoder.nbytes <= need.weight_bytes
    assert need.least_kv_bytes < need.kv_bytes


def test_the_cache_keeps_to_the_control_group_and_the_reserve(tmp_path):
    path = tiny_llama_gguf(tmp_path / "m.gguf", context=512)
    spec = LoadSpec(engine="paged", model_path=str(path), context_length=512, threads=1)
    need = memory_need(spec, read_header(path))
    reserve, used, cached = 100 * MIB, 700 * MIB, 50 * MIB
    limit = used - cached + reserve + need.total_bytes - need.kv_bytes // 2
    group = tmp_path / "cgroup/hearth"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(str(limit))
    (group / "memory.current").write_text(str(used))
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
    own = tmp_path / "self"
    own.write_text("0::/hearth\n")
    memory = read_memory(cgroup=tmp_path / "cgroup", self_cgroup=own)
    granted = shrink_kv(need, memory, reserve, [])
    model = PagedModel.open(with_budget(spec, granted))
    assert need.kv_bytes // 2 - 2**16 < model.budget.total_bytes <= need.kv_bytes // 2
    assert f"weights and {need.kv_bytes // 2 // MIB} planned)" in model.description
    assert model.limits.max_context == 512


def test_only_a_shared_cache_in_main_memory_is_given_a_size(tmp_path):
    header = read_header(tiny_llama_gguf(tmp_path / "m.gguf"))
    paged, llama = LoadSpec(engine="paged"), LoadSpec(engine="llama")
    card = Gpu("NVIDIA H200", shares_memory=False)
    assert with_budget(paged, memory_need(paged, header, card)) == paged
    assert with_budget(llama, memory_need(llama, header)) == llama
    assert with_budget(paged, memory_need(paged, header)).kv_bytes > 0


@pytest.mark.parametrize("kind", list(GGMLType))
def test_types_that_are_kept_twice_are_the_same(kind):
    try:
        check_supported(kind, "any")
    except ModelFormatError:
        assert kind not in abilities.PAGED_TYPES
    else:
        assert kind in abilities.PAGED_TYPES


def test_on_a_gpu_of_its_own_only_the_process_counts_in_main_memory(tmp_path):
    header = read_header(tiny_llama_gguf(tmp_path / "m.gguf"))
    spec = LoadSpec(engine="paged", context_length=512)
    need = memory_need(spec, header, Gpu("NVIDIA H200", shares_memory=False))
    assert need.host_bytes == need.process_bytes
    assert "on the GPU" in str(need)
    jetson = memory_need(spec, header, Gpu("Orin", shares_memory=True))
    assert jetson.host_bytes == jetson.total_bytes


def test_choosing_loads_no_engine_library():
    """A Raspberry Pi never pays for torch, though the choice asks the paged engine's own rules."""
    heavy = ("torch", "triton", "llama_cpp", "onnxruntime", "numpy")
    code = f"import sys, appliance.service; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
