"""A checkpoint is read as its library reads it, or refused with the reason and the cure."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.layers.config import set_fused_attn, use_fused_attn
from tokenizers import Tokenizer, models
from torch import nn

from orchestrator.inspection import KNOWN
from tests.workers import tiny
from workers.actor import Replica
from workers.building import attention, build
from workers.checkpoint import inspect, weight_digest
from workers.families import UnknownFamilyError
from workers.loading import CheckpointError, facts, imagined, load, main, sites
from workers.messages import ModelFacts, ModelRef

families = pytest.mark.parametrize("name", tiny.NAMES)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    for name in tiny.NAMES:
        tiny.folder(name, path)
    return path


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """A folder of copies of the tiny models, to be spoilt."""
    return shutil.copytree(home, tmp_path / "copy")


def configured(folder: Path, file: str = "config.json", **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def plain(name: str, folder: Path) -> nn.Module:
    """Return what the library alone makes of a folder."""
    if name == "timm-vit":
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    module: nn.Module = getattr(transformers, architecture).from_pretrained(folder)
    return module


@pytest.mark.parametrize("name", ["gpt-neox", "gpt-j"])
def test_masks_that_older_versions_wrote_as_numbers_are_spare(name: str, tmp_path: Path) -> None:
    folder = tiny.folder(name, tmp_path)
    bare = facts(folder)
    inside = "gpt_neox.layers.0.attention" if name == "gpt-neox" else "transformer.h.0.attn"
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{inside}.masked_bias"] = torch.tensor(-1e9)
    tensors[f"{inside}.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert replace(facts(folder), digest="", bytes=0) == replace(bare, digest="", bytes=0)
    assert load(tiny.ref(folder)).family.name == name


def test_a_cap_that_a_class_has_and_a_file_does_not_say_is_kept(tmp_path: Path) -> None:
    folder = tiny.folder("gemma2", tmp_path)
    said = json.loads((folder / "config.json").read_text())
    said.pop("attn_logit_softcapping", None)
    (folder / "config.json").write_text(json.dumps(said))
    assert attention(load(tiny.ref(folder)).module) == "eager"


def test_an_mlp_that_multiplies_two_branches_is_told_as_gated(home: Path, tmp_path: Path) -> None:
    gated = {"mistral", "gemma", "phi3"}
    for name in ("mistral", "gemma", "phi3", "phi", "gpt2", "opt", "roberta", "vit", "timm-vit"):
        folder = home / name if (home / name).is_dir() else tiny.folder(name, tmp_path)
        assert facts(folder).gated is (name in gated), name


def test_weights_that_are_stored_quantised_are_refused_with_the_cure(copy: Path) -> None:
    configured(copy / "opt", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(CheckpointError, match=r"stored quantised \(gptq\).*packed"):
        facts(copy / "opt")


@pytest.mark.parametrize(("name", "key"), [("gpt2", "n_layer"), ("distilbert", "n_layers")])
def test_more_layers_than_there_are_tensors_are_refused(
    name: str, key: str, tmp_path: Path
) -> None:
    folder = tiny.folder(name, tmp_path)
    configured(folder, **{key: 100_000})
    with pytest.raises(CheckpointError, match="says 100000 layers"):
        facts(folder)


@families
def test_the_facts_are_those_of_the_module(name: str, home: Path) -> None:
    found = facts(home / name)
    module = plain(name, home / name)
    assert found.family == name
    assert found.parameters == sum(p.numel() for p in module.parameters())
    file = home / name / "model.safetensors"
    assert 0 < file.stat().st_size - found.bytes < 10_000  # the header takes the rest
    assert (found.layers, found.heads, found.d_model) == (3, 4, 32)
    assert found.d_head == (12 if name == "mistral" else 8)
    assert found.kv_heads == (2 if name == "mistral" else 4)
    assert found.d_mlp == (128 if name == "timm-vit" else 48)
    assert found.activation == {"opt": "relu", "mistral": "silu"}.get(name, "gelu")
    image = name in {"vit", "timm-vit"}
    assert found.vocabulary == (tiny.CLASSES if image else tiny.VOCABULARY)
    assert found.window == (17 if image else tiny.WINDOW)
    assert found.image == ((16, 16, 3) if image else None)
    assert found.modality == ("image" if image else "masked" if name == "roberta" else "causal")


@families
def test_the_facts_cost_no_memory_however_large_the_weights(name: str, home: Path) -> None:
    module = build(inspect(home / name), torch.float32, hollow=True)
    held = {p.untyped_storage() for p in module.parameters() if not p.is_meta}
    assert sum(storage.nbytes() for storage in held) < facts(home / name).bytes / 50


@families
def test_the_weights_are_the_librarys_and_frozen(name: str, home: Path) -> None:
    model = load(tiny.ref(home / name))
    expected = plain(name, home / name).state_dict()
    found = model.module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert model.facts == facts(home / name)
    assert torch.get_num_threads() == 1


@families
def test_weights_come_in_the_dtype_asked_for(name: str, home: Path) -> None:
    model = load(tiny.ref(home / name, "bfloat16"))
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}


@families
def test_each_layer_has_its_projections(name: str, home: Path) -> None:
    model = load(tiny.ref(home / name))
    attention = sites(model.module, model.family, "attn_pre_out")
    mlp = sites(model.module, model.family, "mlp_mid")
    assert [p.in_features for p in attention] == [model.facts.neurons] * 3
    assert {p.in_features for p in mlp} == {128 if name == "timm-vit" else 48}
    assert {p.out_features for p in attention + mlp} == {32}
    assert len({id(p) for p in attention + mlp}) == 6


def test_the_threads_are_those_of_the_reference(home: Path) -> None:
    load(replace(tiny.ref(home / "opt"), threads=2))
    assert torch.get_num_threads() == 2
    load(tiny.ref(home / "opt"))
    assert torch.get_num_threads() == 1


def mapped_file(address: int) -> str:
    """Return the file that an address of this process's memory is a page of."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        first, end = (int(part, 16) for part in span.split("-"))
        if first <= address < end:
            return name
    return ""


@pytest.mark.parametrize("name", tiny.NAMES)
def test_parameters_of_the_files_dtype_are_the_files_own_pages(name: str, home: Path) -> None:
    file = str(home / name / "model.safetensors")
    model = load(tiny.ref(home / name))
    matrices = [p for p in model.module.parameters() if p.dim() > 1]
    assert {mapped_file(p.data_ptr()) for p in matrices} == {file}
    other = load(tiny.ref(home / name, "bfloat16"))
    assert file not in {mapped_file(p.data_ptr()) for p in other.module.parameters()}


@pytest.mark.parametrize("name", ["opt", "timm-vit"])
def test_what_is_written_to_a_parameter_is_not_written_to_the_file(name: str, home: Path) -> None:
    file = home / name / "model.safetensors"
    before = file.read_bytes()
    one, other = (load(tiny.ref(home / name)) for _ in range(2))
    for projection in sites(one.module, one.family, "mlp_mid"):
        projection.weight.zero_()
    assert file.read_bytes() == before
    assert all(p.weight.any() for p in sites(other.module, other.family, "mlp_mid"))


@pytest.mark.parametrize("name", ["opt", "timm-vit"])
def test_attention_is_computed_in_one_way_whatever_the_environment_says(
    name: str, home: Path
) -> None:
    set_fused_attn(False)
    try:
        replica = Replica()
        replica.load(tiny.ref(home / name))
        assert not use_fused_attn()
    finally:
        set_fused_attn(True)
    assert replica.describe()["attention"] == attention(replica.model.module) == "sdpa"


def test_attention_with_capped_scores_is_computed_plainly(tmp_path: Path) -> None:
    model = tiny.model("gemma2", tmp_path)
    assert model.module.config.attn_logit_softcapping is not None  # type: ignore[union-attr]
    assert attention(model.module) == "eager"


def test_names_in_the_file_may_differ_from_those_of_the_module(home: Path) -> None:
    stored = set(inspect(home / "vit").tensors)
    live = set(load(tiny.ref(home / "vit")).module.state_dict())
    assert "vit.encoder.layer.0.attention.output.dense.weight" in stored - live


@pytest.mark.parametrize("name", ["opt", "roberta"])
def test_a_head_tied_to_the_embedding_need_not_be_in_the_file(name: str, home: Path) -> None:
    stored = inspect(home / name).tensors
    assert not any(key.endswith(("lm_head.weight", "decoder.weight")) for key in stored)
    model = load(tiny.ref(home / name))
    head, embedding = model.module.get_output_embeddings(), model.module.get_input_embeddings()  # type: ignore[operator]
    assert head.weight is embedding.weight


def test_a_pooler_that_no_head_uses_is_let_pass(copy: Path) -> None:
    file = copy / "roberta" / "model.safetensors"
    tensors = load_file(file) | {"roberta.pooler.dense.weight": torch.zeros(32, 32)}
    save_file(tensors, file, {"format": "pt"})
    load(tiny.ref(copy / "roberta"))


def test_a_checkpoint_in_shards_is_one_checkpoint(home: Path, tmp_path: Path) -> None:
    transformers.OPTForCausalLM.from_pretrained(home / "opt").save_pretrained(
        tmp_path / "opt", max_shard_size="30KB"
    )
    shards = inspect(tmp_path / "opt").files
    assert len(shards) > 1
    whole, parts = facts(home / "opt"), facts(tmp_path / "opt")
    assert replace(parts, digest=whole.digest) == whole
    found = load(tiny.ref(tmp_path / "opt")).module.state_dict()
    expected = load(tiny.ref(home / "opt")).module.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    shards[-1].unlink()
    with pytest.raises(CheckpointError, match=f"lacks {shards[-1].name}"):
        facts(tmp_path / "opt")


# Digests


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_digest_follows_the_weights_and_the_configuration_and_nothing_else(copy: Path) -> None:
    folder = copy / "opt"
    digests = [facts(folder).digest]
    (folder / "README.md").write_text("words")
    assert facts(folder).digest == digests[0]
    flip(folder / "model.safetensors")
    digests.append(facts(folder).digest)
    configured(folder, dropout=0.25)
    digests.append(facts(folder).digest)
    assert len(set(digests)) == 3


def test_the_digest_follows_how_pixels_are_scaled(copy: Path) -> None:
    before = facts(copy / "vit").digest
    configured(copy / "vit", "preprocessor_config.json", image_std=[0.5] * 3)
    assert facts(copy / "vit").digest != before


def test_weights_that_changed_since_they_were_planned_with_are_refused(copy: Path) -> None:
    planned = tiny.ref(copy / "mistral")
    flip(copy / "mistral" / "model.safetensors")
    with pytest.raises(CheckpointError, match="planned with"):
        load(planned)


def test_the_tokenizer_gives_the_special_tokens_and_a_digest_of_its_own(copy: Path) -> None:
    folder = copy / "roberta"
    without = facts(folder)
    assert without.tokenizer is None
    assert without.specials == {"bos": tiny.BOS, "eos": tiny.EOS, "pad": tiny.PAD}

    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<mask>": 3, "<unk>": 4, "word": 5}
    transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        bos_token="<s>",
        pad_token="<pad>",
        mask_token="<mask>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    given = facts(folder)
    assert given.specials == {"bos": 0, "pad": 1, "mask": 3, "unk": 4}
    assert given.digest == without.digest
    configured(folder, "tokenizer_config.json", model_max_length=7)
    assert facts(folder).tokenizer not in {None, given.tokenizer}

    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer in .* cannot be read"):
        facts(folder)


# Without weights


@pytest.mark.parametrize("name", ["opt", "mistral", "roberta", "vit"])
def test_a_configuration_alone_gives_the_facts_of_the_whole_checkpoint(
    name: str, home: Path, tmp_path: Path
) -> None:
    whole = facts(home / name)
    config = json.loads((home / name / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
    file = tmp_path / "known.json"
    file.write_text(json.dumps({"id": name, "config": config, "specials": {"bos": 0, "mask": 3}}))
    found = imagined(file)
    assert found == replace(
        whole,
        bytes=2 * whole.parameters,
        digest=found.digest,
        tokenizer=None if name == "vit" else found.digest,
        specials={"bos": 0, "mask": 3},
    )
    assert found.digest.startswith("provisional ")
    file.write_text(json.dumps({"id": name, "config": config, "specials": {}}))
    assert imagined(file).digest != found.digest


@pytest.mark.parametrize(
    ("file", "parameters", "heads", "window"),
    [  # as their publishers count them
        ("facebook--opt-1.3b", 1_315_758_080, (24, 32, 32, 64), 2048),
        ("mistralai--Mistral-7B-v0.1", 7_241_732_096, (32, 32, 8, 128), 32768),
        ("FacebookAI--roberta-large", 355_412_057, (24, 16, 16, 64), 512),
        ("google--vit-base-patch16-224", 86_567_656, (12, 12, 12, 64), 197),
    ],
)
def test_the_known_models_are_those_that_were_published(
    file: str, parameters: int, heads: tuple[int, ...], window: int
) -> None:
    found = imagined(KNOWN / f"{file}.json")
    assert found.parameters == parameters
    assert (found.layers, found.heads, found.kv_heads, found.d_head) == heads
    assert found.window == window


def test_a_configuration_that_cannot_be_built_is_refused_by_its_file(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((home / "opt" / "config.json").read_text())
    files = [tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "unknown.json"]
    changes: list[dict[str, object]] = [
        {},
        {"num_attention_heads": 5},
        {"architectures": ["OPTModel"]},
    ]
    for file, change in zip(files, changes, strict=True):
        file.write_text(json.dumps({"config": config | change, "specials": {}}))
    main(["--without-weights", *map(str, files)])
    good, bad, unknown = json.loads(capsys.readouterr().out)
    assert ModelFacts(**good) == imagined(files[0])
    assert f"cannot build a model from {files[1]}" in bad["error"]
    assert "`OPTModel`" in unknown["error"]


# Refusals


PLANNED = ModelFacts(
    family="opt",
    modality="causal",
    layers=3,
    heads=4,
    d_head=8,
    kv_heads=4,
    d_model=32,
    d_mlp=48,
    activation="relu",
    vocabulary=tiny.VOCABULARY,
    window=tiny.WINDOW,
    image=None,
    parameters=1,
    bytes=1,
    digest="",
    tokenizer=None,
    specials={},
)


def refused(folder: Path) -> str:
    """Return the sentence with which a folder is refused, for planning and for loading alike."""
    with pytest.raises((CheckpointError, UnknownFamilyError)) as planning:
        facts(folder)
    try:
        digest = weight_digest(inspect(folder))
    except (CheckpointError, UnknownFamilyError):
        digest = ""
    with pytest.raises((CheckpointError, UnknownFamilyError)) as loading:
        load(
            ModelRef(
                name="spoilt",
                folder=str(folder),
                dtype="float32",
                device="cpu",
                threads=1,
                facts=replace(PLANNED, digest=digest),
            )
        )
    assert str(planning.value) == str(loading.value)
    assert str(folder) in str(planning.value)
    return str(planning.value)


def test_a_folder_that_is_not_there_is_refused(copy: Path) -> None:
    assert "is not a folder" in refused(copy / "nothing")


def test_a_folder_without_a_usable_configuration_is_refused(copy: Path) -> None:
    (copy / "opt" / "config.json").write_text("{")
    assert "is not JSON" in refused(copy / "opt")
    (copy / "opt" / "config.json").write_text("[]")
    assert "holds a list where a mapping was expected" in refused(copy / "opt")
    (copy / "opt" / "config.json").unlink()
    assert "has no config.json" in refused(copy / "opt")


def test_an_architecture_without_a_row_is_refused(copy: Path) -> None:
    configured(copy / "opt", architectures=["OPTModel"])
    assert "`OPTModel`" in refused(copy / "opt")


def test_a_model_that_needs_code_of_its_own_is_refused(copy: Path) -> None:
    configured(copy / "opt", architectures=["Own"], auto_map={"AutoModel": "modeling.Own"})
    assert "needs code of its own" in refused(copy / "opt")


def test_code_that_comes_along_with_a_known_architecture_is_not_run(copy: Path) -> None:
    configured(copy / "opt", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
    (copy / "opt" / "own.py").write_text("raise SystemExit('this was run')")
    load(tiny.ref(copy / "opt"))


@pytest.mark.parametrize("name", ["opt", "timm-vit"])
def test_weights_as_pickle_only_are_refused(name: str, copy: Path) -> None:
    file = copy / name / "model.safetensors"
    torch.save(load_file(file), copy / name / "pytorch_model.bin")
    facts(copy / name)  # beside safetensors a pickle is not looked at
    file.unlink()
    assert "pickle only (pytorch_model.bin)" in refused(copy / name)
    (copy / name / "pytorch_model.bin").unlink()
    assert "has no weights" in refused(copy / name)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(keep: int, copy: Path) -> None:
    file = copy / "roberta" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert "is not a whole safetensors file" in refused(copy / "roberta")


def test_an_index_that_lists_no_weights_is_refused(copy: Path) -> None:
    (copy / "opt" / "model.safetensors").unlink()
    (copy / "opt" / "model.safetensors.index.json").write_text("{}")
    assert "has no `weight_map`" in refused(copy / "opt")


def test_a_checkpoint_without_its_head_is_refused(copy: Path) -> None:
    body = transformers.RobertaForMaskedLM.from_pretrained(copy / "roberta").roberta
    body.save_pretrained(copy / "roberta")
    configured(copy / "roberta", architectures=["RobertaForMaskedLM"])
    said = refused(copy / "roberta")
    assert "missing (lm_head." in said
    assert "head included" in said


def spoil(folder: Path, **tensors: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    changed = load_file(file) | {name.replace("__", "."): t for name, t in tensors.items()}
    save_file({n: t for n, t in changed.items() if t is not None}, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("opt", "model__decoder__layers__1__fc1__bias"),
        ("mistral", "model__norm__weight"),
        ("mistral", "lm_head__weight"),  # this one is not tied
        ("roberta", "lm_head__dense__weight"),
        ("vit", "classifier__weight"),
        ("timm-vit", "head__weight"),
        ("timm-vit", "blocks__1__attn__proj__bias"),
    ],
)
def test_missing_unexpected_and_misshapen_tensors_are_refused_by_name(
    name: str, tensor: str, copy: Path
) -> None:
    said = tensor.replace("__", ".")
    original = load_file(copy / name / "model.safetensors")[said]
    spoil(copy / name, **{tensor: None})
    assert f"1 missing ({said})" in refused(copy / name)
    spoil(copy / name, **{tensor: torch.zeros(3, *original.shape[1:])})
    assert f"1 of another shape ({said})" in refused(copy / name)
    spoil(copy / name, **{tensor: original, "extra__weight": torch.zeros(2)})
    assert "1 unexpected (extra.weight)" in refused(copy / name)


def test_a_timm_head_for_other_classes_is_not_dropped_quietly(copy: Path) -> None:
    configured(copy / "timm-vit", num_classes=tiny.CLASSES + 1)
    assert "of another shape (head.bias, head.weight)" in refused(copy / "timm-vit")


def test_a_model_with_no_classes_to_score_is_refused(copy: Path) -> None:
    configured(copy / "timm-vit", num_classes=0)
    spoil(copy / "timm-vit", head__weight=None, head__bias=None)
    with pytest.raises(CheckpointError, match="has no head: `head` scores 0"):
        facts(copy / "timm-vit")


def test_pixels_that_were_scaled_nobody_knows_how_are_refused(copy: Path) -> None:
    configured(copy / "vit", "preprocessor_config.json", image_mean=[0.5, 0.5])
    assert "says the mean of 2 channels, and the model's images have 3" in refused(copy / "vit")
    (copy / "vit" / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json says the mean of 0 channels" in refused(copy / "vit")
    configured(copy / "timm-vit", pretrained_cfg={})
    assert "says the mean of 0 channels" in refused(copy / "timm-vit")


def test_a_configuration_that_the_library_cannot_build_is_refused(copy: Path) -> None:
    configured(copy / "opt", num_attention_heads=5)
    assert "transformers cannot build a model" in refused(copy / "opt")
    configured(copy / "timm-vit", architecture="vit_of_nobody")
    assert "timm cannot build a model" in refused(copy / "timm-vit")


def test_a_projection_that_is_not_plainly_linear_is_refused(home: Path) -> None:
    class Quantised(nn.Linear):
        pass

    model = load(tiny.ref(home / "opt"))
    model.module.model.decoder.layers[1].self_attn.out_proj = Quantised(32, 32)  # type: ignore[union-attr, index]
    with pytest.raises(CheckpointError, match=r"`self_attn.out_proj` .* is a Quantised"):
        sites(model.module, model.family, "attn_pre_out")


def test_a_row_that_does_not_fit_the_module_says_which_name_is_missing(home: Path) -> None:
    model = load(tiny.ref(home / "opt"))
    family = replace(model.family, attention_out="self_attn.projection")
    with pytest.raises(CheckpointError, match="OPTAttention has no `projection`"):
        sites(model.module, family, "attn_pre_out")


# Around


def test_loading_says_nothing_and_leaves_the_libraries_as_talkative_as_before(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    for name in tiny.NAMES:
        facts(home / name)
        load(tiny.ref(home / name))
    after = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")
    assert after == before


def test_the_command_prints_facts_and_refusals_in_the_order_asked(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(home / "opt"), str(home / "nothing"), str(home / "vit")])
    one, none, other = json.loads(capsys.readouterr().out)
    assert ModelFacts(**one) == facts(home / "opt")
    assert none == {
        "error": f"{home / 'nothing'} is not a folder. Give the folder that holds config.json."
    }
    assert ModelFacts(**(other | {"image": tuple(other["image"])})) == facts(home / "vit")


@pytest.mark.slow
def test_the_command_runs_in_a_process_of_its_own(home: Path) -> None:
    command = [sys.executable, "-m", "workers.loading", str(home / "opt"), str(home / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, error = json.loads(done.stdout)
    assert found == asdict(facts(home / "opt"))
    assert list(error) == ["error"]
    lines = done.stderr.splitlines()  # torch warns of torchao, where that is installed
    assert [line for line in lines if "torch/utils/_pytree.py" not in line] == []
