"""The layout of `show`, byte for byte as Ollama prints it."""

from appliance.cli.show import model_sections

DETAILS = {"family": "test", "parameter_size": "7B", "quantization_level": "FP16"}
MODEL = (
    "  Model\n"
    "    architecture    test    \n"
    "    parameters      7B      \n"
    "    quantization    FP16    \n"
    "\n"
)


def test_details_alone():
    assert model_sections({"details": DETAILS}) == MODEL


def test_model_info_adds_lengths():
    info = {
        "general.architecture": "test",
        "general.parameter_count": 7_000_000_000,
        "test.context_length": 0,
        "test.embedding_length": 0.0,
    }
    assert model_sections({"details": DETAILS, "model_info": info}) == (
        "  Model\n"
        "    architecture        test    \n"
        "    parameters          7B      \n"
        "    context length      0       \n"
        "    embedding length    0       \n"
        "    quantization        FP16    \n"
        "\n"
    )


def test_parameters_keep_values_with_blanks_whole():
    body = {"details": DETAILS, "parameters": 'stop    "### User: "\ntemperature    99'}
    assert model_sections(body) == MODEL + (
        '  Parameters\n    stop           "### User: "    \n    temperature    99              \n\n'
    )


def test_system_and_license_are_cut_after_two_lines():
    body = {
        "details": DETAILS,
        "system": "You are a pirate!\n\nAhoy, matey!\nWeigh anchor!\n   ",
        "license": "MIT License\nCopyright (c) Ollama\n",
    }
    assert model_sections(body) == MODEL + (
        "  System\n"
        "    You are a pirate!    \n"
        "    Ahoy, matey!         \n"
        "    ...                  \n"
        "\n"
        "  License\n"
        "    MIT License             \n"
        "    Copyright (c) Ollama    \n"
        "\n"
    )


def test_capabilities_projector_and_requires():
    body = {
        "details": DETAILS,
        "capabilities": ["vision", "tools"],
        "requires": "0.19.0",
        "projector_info": {
            "general.architecture": "clip",
            "general.parameter_count": 133_700_000,
            "clip.vision.embedding_length": 0,
            "clip.vision.projection_dim": 0,
        },
    }
    assert [line.rstrip() for line in model_sections(body).splitlines()] == [
        "  Model",
        "    architecture    test",
        "    parameters      7B",
        "    quantization    FP16",
        "    requires        0.19.0",
        "",
        "  Capabilities",
        "    vision",
        "    tools",
        "",
        "  Projector",
        "    architecture        clip",
        "    parameters          133.70M",
        "    embedding length    0",
        "    dimensions          0",
        "",
    ]


def test_verbose_adds_metadata_and_tensors():
    body = {
        "details": DETAILS,
        "model_info": {
            "some.true_bool": True,
            "general.architecture": "test",
            "some.list": [1, 2, 3, 4, 5],
            "some.nothing": None,
        },
        "tensors": [{"name": "blk.0.attn_k.weight", "type": "BF16", "shape": [42, 3117]}],
    }
    assert model_sections(body) == MODEL
    assert model_sections(body, verbose=True) == MODEL + (
        "  Metadata\n"
        "    general.architecture    test                     \n"
        "    some.list               [1, 2, 3, ...+2 more]    \n"
        "    some.nothing                                     \n"
        "    some.true_bool          true                     \n"
        "\n"
        "  Tensors\n"
        "    blk.0.attn_k.weight    BF16    [42 3117]    \n"
        "\n"
    )
