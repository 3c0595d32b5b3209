"""A family is found by the name in config.json, and by nothing else."""

import subprocess
import sys

import pytest

from workers.families import FAMILIES, UnknownFamilyError, family_of


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"architectures": ["OPTForCausalLM"]}, "opt"),
        ({"architectures": ["MistralForCausalLM"], "architecture": "vit_x"}, "mistral"),
        ({"architectures": ["RobertaForMaskedLM"]}, "roberta"),
        ({"architectures": ["ViTForImageClassification"]}, "vit"),
        ({"architecture": "vit_base_patch16_224"}, "timm-vit"),
        ({"architecture": "deit3_small_patch16_224"}, "timm-vit"),
        ({"architecture": "deit_base_patch16_384"}, "timm-vit"),
        ({"architecture": "eva_giant_patch14_224"}, "timm-eva"),
        ({"architecture": "eva02_large_patch14_448"}, "timm-eva-split"),
        ({"architectures": ["GPT2LMHeadModel"]}, "gpt2"),
        ({"architectures": ["GPTNeoXForCausalLM"]}, "gpt-neox"),
        ({"architectures": ["GPTJForCausalLM"]}, "gpt-j"),
        ({"architectures": ["LlamaForCausalLM"]}, "llama"),
        ({"architectures": ["GemmaForCausalLM"]}, "gemma"),
        ({"architectures": ["Gemma2ForCausalLM"]}, "gemma2"),
        ({"architectures": ["Gemma3ForCausalLM"]}, "gemma3"),
        ({"architectures": ["Qwen2ForCausalLM"], "num_experts": 0}, "qwen2"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "qwen3"),
        ({"architectures": ["Olmo2ForCausalLM"]}, "olmo2"),
        ({"architectures": ["PhiForCausalLM"]}, "phi"),
        ({"architectures": ["Phi3ForCausalLM"]}, "phi3"),
        ({"architectures": ["BertForMaskedLM"]}, "bert"),
        ({"architectures": ["DistilBertForMaskedLM"]}, "distilbert"),
        ({"architectures": ["DeiTForImageClassification"]}, "deit"),
    ],
)
def test_each_architecture_has_its_row(config: dict[str, object], name: str) -> None:
    assert family_of(config).name == name


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["RobertaModel"]},  # no head
        {"architectures": ["OPTForSequenceClassification"]},
        {"architectures": ["vit_base_patch16_224"]},  # a name of timm's is none of transformers'
        {"architecture": "ViTForImageClassification"},
        {"architecture": "resnet50"},
        {"architectures": ["DeiTForImageClassificationWithTeacher"]},  # two heads
        {"architecture": "deit_base_distilled_patch16_224"},
        {"architectures": ["Gemma3ForConditionalGeneration"]},  # sees, too
    ],
)
def test_an_unknown_architecture_is_named_with_what_is_known(config: dict[str, object]) -> None:
    with pytest.raises(UnknownFamilyError) as refused:
        family_of(config)
    found = config.get("architecture") or config["architectures"][0]  # type: ignore[index]
    assert f"`{found}`" in str(refused.value)
    for family in FAMILIES:
        assert family.architectures[0] in str(refused.value)
    assert "add a row" in str(refused.value)
    assert "docs/families.md" in str(refused.value)


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("MixtralForCausalLM", "num_local_experts"),
        ("Qwen3MoeForCausalLM", "num_experts"),
        ("DeepseekV3ForCausalLM", "n_routed_experts"),
    ],
)
def test_a_mixture_of_experts_is_refused_as_one(architecture: str, key: str) -> None:
    with pytest.raises(UnknownFamilyError) as refused:
        family_of({"architectures": [architecture], key: 8})
    said = f"`{architecture}`, a mixture of experts (`{key}` is 8)"
    assert said in str(refused.value)
    assert "Use a dense model" in str(refused.value)
    assert "docs/families.md" in str(refused.value)


@pytest.mark.parametrize("config", [{}, {"architectures": None}, {"architectures": []}])
def test_a_configuration_without_an_architecture_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(UnknownFamilyError, match="names no architecture"):
        family_of(config)


def test_every_row_says_where_values_are_made() -> None:
    for family in FAMILIES:
        inside, _, own = family.values.rpartition(".")
        assert inside, family.name  # something must hold it, to be looked through for a norm
        assert own not in family.harmless


def test_no_two_rows_claim_one_name() -> None:
    names = [family.name for family in FAMILIES]
    architectures = [name for family in FAMILIES for name in family.architectures]
    assert len(set(names)) == len(names)
    assert len(set(architectures)) == len(architectures)


def test_a_family_is_known_without_torch() -> None:
    code = "import workers.families, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
