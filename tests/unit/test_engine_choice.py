"""models/choice.py: which engine runs a model, and that it says why."""

import pytest

from appliance.config import load_settings
from appliance.errors import ConfigError
from appliance.hardware import Gpu
from appliance.library.names import ModelName
from appliance.models.choice import Machine, choose_engine, read_machine, wishes_of
from engine.gguf import GGMLType, Header, TensorInfo

H200 = Gpu("NVIDIA H200", shares_memory=False)
GPU_BOX = Machine(gpus=(H200,))
SHAPE = {
    "block_count": 2,
    "embedding_length": 64,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "context_length": 512,
}


def header_of(architecture="llama", kind=GGMLType.Q4_K, **more):
    facts = {f"{architecture}.{key}": value for key, value in (SHAPE | more).items()}
    return Header(
        version=3,
        metadata={"general.architecture": architecture, **facts},
        tensors=(TensorInfo("token_embd.weight", (256, 320), kind, 0, 1),),
        alignment=32,
        data_offset=0,
        file_size=1,
    )


def choose(machine, header=None, *, has_adapters=False, sees=False, **environ):
    settings = load_settings({}, {f"HEARTH_{k.upper()}": v for k, v in environ.items()})
    name = ModelName.parse("qwen3:4b")
    header = header or header_of()
    return choose_engine(name, header, settings, machine, has_adapters=has_adapters, sees=sees)


def test_auto_takes_the_paged_engine_where_everything_is_there():
    choice = choose(GPU_BOX)
    assert (choice.engine, choice.gpu, choice.obstacle) == ("paged", H200, "")
    assert "GPU present: NVIDIA H200" in choice.reasons
    assert choice.reasons[0] == "engine says auto for qwen3:4b (default)"


def test_a_model_that_sees_runs_on_llama_cpp_and_says_so():
    choice = choose(GPU_BOX, sees=True)
    assert choice.engine == "llama"
    obstacle = "it sees images through a projector, which only llama.cpp runs"
    assert f"the paged engine cannot run it: {obstacle}" in choice.reasons
    assert choose(GPU_BOX, sees=True, engine="paged").obstacle == obstacle
    assert "its projector lets it see images" in choose(GPU_BOX, sees=True, engine="llama").reasons
    echo = choose(GPU_BOX, sees=True, engine="echo")
    assert "it does not see the images that the model could" in echo.reasons


@pytest.mark.parametrize(
    ("machine", "header", "why"),
    [
        (Machine(), header_of(), "no NVIDIA GPU"),
        (Machine((H200,), missing=("triton",)), header_of(), "triton not installed"),
        (GPU_BOX, header_of("mamba"), "'mamba' is not one"),
        (GPU_BOX, header_of(kind=GGMLType.IQ1_S), "IQ1_S"),
        (GPU_BOX, header_of(expert_count=8), "8 experts"),
        (GPU_BOX, header_of(pooling_type=3), "embeddings"),
    ],
)
def test_auto_takes_llama_and_says_what_is_missing(machine, header, why):
    choice = choose(machine, header)
    assert (choice.engine, choice.obstacle) == ("llama", "")
    assert any(why in reason for reason in choice.reasons), choice.reasons


def test_auto_keeps_adapters_with_the_engine_that_applies_them():
    assert choose(GPU_BOX, has_adapters=True).engine == "llama"
    assert "adapters" in choose(GPU_BOX, has_adapters=True, engine="paged").obstacle


def test_a_wish_is_never_overruled_but_tells_what_stands_in_its_way():
    assert choose(GPU_BOX, engine="llama").engine == "llama"
    assert choose(GPU_BOX, engine="echo").engine == "echo"
    on_cpu = choose(Machine(), engine="paged")
    assert (on_cpu.engine, on_cpu.gpu, on_cpu.obstacle) == ("paged", None, "")
    strange = choose(Machine(), header_of("mamba"), engine="paged")
    assert strange.engine == "paged"
    assert "mamba" in strange.obstacle


def test_the_wish_for_one_model_wins_over_the_setting_for_all():
    choice = choose(Machine(), engine="llama", model_engines="other=echo, QWEN3:4B=paged")
    assert choice.engine == "paged"
    assert choice.reasons[0] == (
        "model_engines says paged for qwen3:4b (environment HEARTH_MODEL_ENGINES)"
    )
    assert choose(GPU_BOX, engine="echo", model_engines="qwen3:4b=auto").engine == "paged"
    assert choose(Machine(), model_engines="qwen3:8b=paged").engine == "llama"


def test_a_wish_for_what_is_no_name_is_refused():
    settings = load_settings({}, {"HEARTH_MODEL_ENGINES": "a b=paged"})
    with pytest.raises(ConfigError, match="HEARTH_MODEL_ENGINES"):
        wishes_of(settings)


def card(root, number, text):
    path = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def device(root, name):
    path = root / "dev" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_gpus_are_read_where_the_driver_shows_them(tmp_path):
    card(tmp_path, 1, "Model: \t\t NVIDIA GeForce RTX 4090\nIRQ:   \t\t 120\n")
    card(tmp_path, 2, "Model: \t\t NVIDIA L4\n")
    assert read_machine(tmp_path, {}).gpus == ()  # a container that sees /proc, but has no device
    device(tmp_path, "nvidiactl")
    found = read_machine(tmp_path, {}).gpus
    assert [gpu.model for gpu in found] == ["NVIDIA GeForce RTX 4090", "NVIDIA L4"]
    assert not any(gpu.shares_memory for gpu in found)
    for hidden in ("", "-1"):
        assert read_machine(tmp_path, {"CUDA_VISIBLE_DEVICES": hidden}).gpus == ()


def test_a_jetson_is_a_gpu_that_shares_memory(tmp_path):
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"nvidia,p3768-0000\0nvidia,tegra234\0")
    (tree / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
    assert read_machine(tmp_path, {}).gpus == ()
    device(tmp_path, "nvgpu/igpu0")
    assert read_machine(tmp_path, {}).gpus == (Gpu("NVIDIA Jetson Orin Nano", shares_memory=True),)
