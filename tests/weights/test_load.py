"""Every layout loads strictly and is written back bit for bit; what does not fit is named."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from internvl.data.encode import Encoder
from internvl.errors import (
    CheckpointError,
    ConfigError,
    InternVLError,
    KeyMismatch,
    NoSuchName,
    ShapeMismatch,
    UnknownArchitecture,
    UnsafeFile,
    UsageError,
)
from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig
from internvl.models.pair import PairModel
from internvl.models.vit import VisionTransformer
from internvl.weights.load import convert, load, load_encoder, load_tokenizer, save
from tests.models.tiny import TEXTS, chat_model, random_ids
from tests.weights.folders import (
    CHATS,
    ENCODING,
    GOLDEN,
    altered,
    checkpoint,
    read_config,
    same_tensors,
    tensors,
    tiny,
    tree,
    with_tensors,
)

TEXTS_ON_FILE = TEXTS | {"gpt-oss": replace(TEXTS["gpt-oss"], mlp_dim=24)}
"""GPT-OSS has one width for its experts and the MLP that it does not have."""
KINDS = {"internvit": VisionTransformer, "internvl-": PairModel}
each = pytest.mark.parametrize("name", GOLDEN)


# --- golden checkpoints -----------------------------------------------------------------------------------------------


@each
def test_golden_loads(name):
    model = load(checkpoint(name), device="cpu")
    assert isinstance(model, next((kind for start, kind in KINDS.items() if name.startswith(start)), ChatModel))
    assert not model.training
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


@each
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_golden_is_written_back_byte_for_byte(name, dtype, tmp_path):
    """Names of files, sidecars and tensors, whatever the type in memory."""
    save(load(checkpoint(name), device="cpu", dtype=dtype), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(checkpoint(name))


@each
def test_golden_is_rewritten_in_its_own_layout_byte_for_byte(name, tmp_path):
    layout = load(checkpoint(name), device="cpu").origin.format
    convert(checkpoint(name), tmp_path / "out", format=layout)
    assert tree(tmp_path / "out") == tree(checkpoint(name))


@each
def test_golden_survives_other_shards(name, tmp_path):
    """A smaller limit, then back to the files of before: same tensors."""
    layout = load(checkpoint(name), device="cpu").origin.format
    if layout.endswith("pth"):
        return
    model = load(checkpoint(name), device="cpu")
    model.origin = replace(model.origin, shards={})
    save(model, tmp_path / "small", shard_bytes=100_000)
    assert len(list((tmp_path / "small").glob("model-*.safetensors"))) > 3
    assert max(path.stat().st_size for path in (tmp_path / "small").glob("model-*")) < 270_000  # one tensor alone
    assert same_tensors(tmp_path / "small", checkpoint(name))
    save(load(tmp_path / "small", device="cpu"), tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "small")


@pytest.mark.parametrize("name", CHATS)
def test_golden_encoders(name):
    encoder = load_encoder(checkpoint(name))
    config = load(checkpoint(name), device="cpu").config
    raw = read_config(checkpoint(name))
    assert isinstance(encoder, Encoder)
    assert isinstance(config, ChatConfig)
    assert encoder.slot_id == config.image_token == load_tokenizer(checkpoint(name)).special("<IMG_CONTEXT>").id
    assert encoder.config.slots_per_tile == config.slots_per_tile
    assert (encoder.config.template, encoder.config.tile_size) == (raw["template"], raw["force_image_size"])
    assert encoder.config.max_tiles == raw.get("max_dynamic_patch", 6)
    assert encoder.config.thumbnail == raw.get("use_thumbnail", False)


def test_only_a_chat_model_has_an_encoder():
    with pytest.raises(UsageError, match="does not converse"):
        load_encoder(checkpoint("internvl-14b"))
    assert load_tokenizer(checkpoint("internvl-c-pth")).vocab_size >= 900


def test_a_pth_is_loaded_by_its_own_path(tmp_path):
    model = load(checkpoint("internvl-c-pth") / "internvl_c_tiny.pth", device="cpu")
    assert isinstance(model, PairModel)
    save(model, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(checkpoint("internvl-c-pth"))


# --- types and modes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_sixteen_bit_is_computed_in_fp32_and_stored_as_it_was(stored, tmp_path):
    save(chat_model(), tmp_path / "small", dtype=stored)
    model = load(tmp_path / "small", device="cpu")
    assert next(model.parameters()).dtype is torch.float32
    assert read_config(tmp_path / "small")["torch_dtype"] == str(stored).removeprefix("torch.")
    save(model, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "small")


def test_the_dtype_that_is_asked_for_is_the_one_of_the_model(tmp_path):
    save(chat_model(), tmp_path / "small", dtype="bf16")
    assert next(load(tmp_path / "small", device="cpu", dtype="bfloat16").parameters()).dtype is torch.bfloat16
    assert next(load(tmp_path / "small", device="cpu", dtype="float64").parameters()).dtype is torch.float64
    with pytest.raises(InternVLError, match="float31"):
        load(tmp_path / "small", dtype="float31")


def test_compat_chooses_rope_by_the_call(tmp_path):
    tiny(tmp_path / "x", "phi3")
    ours, original = load(tmp_path / "x").config, load(tmp_path / "x", compat="original").config
    assert isinstance(ours, ChatConfig)
    assert isinstance(original, ChatConfig)
    assert (ours.text.rope.per_call, original.text.rope.per_call) == (False, True)
    save(load(tmp_path / "x", compat="original"), tmp_path / "y")
    assert tree(tmp_path / "x") == tree(tmp_path / "y")
    assert load_encoder(checkpoint("phi3-v2"), compat="original").config.compat == "original"


def test_a_loaded_model_can_be_copied_and_trained(tmp_path):
    tiny(tmp_path / "x")
    model = copy.deepcopy(load(tmp_path / "x", device="cpu", dtype="float32"))
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in model.parameters())
    with torch.no_grad():
        model.mlp1[1].weight += 1
    save(model, tmp_path / "y")
    changed = {k for k, v in tensors(tmp_path / "y").items() if not torch.equal(v, tensors(tmp_path / "x")[k])}
    assert changed == {"mlp1.1.weight"}


def test_weights_outlive_their_file(tmp_path):
    """They are mapped, so nothing was copied; the folder may go, or be replaced by the model itself."""
    tiny(tmp_path / "x")
    model = load(tmp_path / "x", device="cpu", dtype="float32")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save(model, tmp_path / "x", replace=True)
    shutil.rmtree(tmp_path / "x")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    save(model, tmp_path / "y")
    again = load(tmp_path / "y", device="cpu").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())


def test_training_changes_no_file_and_no_neighbour(tmp_path):
    """The maps are private, and layers that read the same tensor of the file get memory of their own."""
    shutil.copytree(checkpoint("internlm2-lora"), tmp_path / "x")
    before = tree(tmp_path / "x")
    model = load(tmp_path / "x", device="cpu", dtype="float32")
    assert len({parameter.data_ptr() for parameter in model.parameters()}) == len(list(model.parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert tree(tmp_path / "x") == before
    fresh = load(tmp_path / "x", device="cpu", dtype="float32")
    for parameter, other in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(parameter, other + 1)


# --- models made here -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["custom", "hf"])
@pytest.mark.parametrize("text", TEXTS_ON_FILE)
@pytest.mark.parametrize("vision", ["300m", "6b"])
def test_every_decoder_and_tower_in_both_chat_layouts(text, vision, format, tmp_path):
    model = tiny(tmp_path / "x", text, vision, format=format, text=TEXTS_ON_FILE[text])
    again = load(tmp_path / "x", device="cpu", dtype="float32")
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    save(again, tmp_path / "y")
    assert tree(tmp_path / "y") == tree(tmp_path / "x")


def test_a_model_changed_since_it_was_read_is_described_anew(tmp_path):
    """Here: four more words."""
    tiny(tmp_path / "x")
    model = load(tmp_path / "x", device="cpu")
    text = replace(model.config.text, vocab=100, tied_head=False)
    other = chat_model("qwen2")
    other = type(other)(replace(model.config, text=text))
    other.origin = model.origin
    save(other, tmp_path / "y")
    raw = read_config(tmp_path / "y")
    assert raw["llm_config"]["vocab_size"] == 100
    assert raw["template"] == ENCODING.template
    assert load(tmp_path / "y", device="cpu").config == other.config


@pytest.mark.parametrize("format", ["custom", "hf"])
def test_another_encoding_is_written_over_the_old(format, tmp_path):
    convert(checkpoint("internlm2-v2_5"), tmp_path / "x", format=format)
    other = replace(load_encoder(tmp_path / "x").config, max_tiles=3, system_message="Be kind.", thumbnail=False)
    save(load(tmp_path / "x", device="cpu"), tmp_path / "y", encoding=other)
    assert load_encoder(tmp_path / "y").config == other
    assert same_tensors(tmp_path / "x", tmp_path / "y")
    convert(tmp_path / "y", tmp_path / "z", format="custom")
    assert load_encoder(tmp_path / "z").config == other
    text = " two  spaces <|im_end|>"
    tokens = [load_tokenizer(tmp_path / name).encode(text, specials="all") for name in "xyz"]
    assert tokens[0] == tokens[1] == tokens[2]


def test_towers_and_pairs_without_an_origin(tmp_path):
    tower, pair = load(checkpoint("internvit-6b"), device="cpu"), load(checkpoint("internvl-14b"), device="cpu")
    plain = load(checkpoint("internvl-c-pth"), device="cpu")
    for name, model in {"tower": tower, "pair": pair}.items():
        source, model.origin = model.origin.source, None
        save(model, tmp_path / name)
        assert load(tmp_path / name, device="cpu").config == model.config
        assert same_tensors(tmp_path / name, source)
    plain.origin = None
    with pytest.raises(ConfigError, match="pair-pth"):
        save(plain, tmp_path / "plain")


def test_a_layout_holds_one_kind_of_model(tmp_path):
    with pytest.raises(UsageError, match=r"'vit' holds a vision model, and this is a chat"):
        save(chat_model(), tmp_path / "x", format="vit")
    with pytest.raises(InternVLError, match="Did you mean 'custom'"):
        save(chat_model(), tmp_path / "x", format="custon")
    assert list(tmp_path.iterdir()) == []


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path) -> Path:
    tiny(tmp_path / "good", "llama")
    return tmp_path / "good"


def refusal(kind: type[InternVLError], source: Path) -> str:
    with pytest.raises(kind) as caught:
        load(source, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def test_missing_tensors_are_named(good, tmp_path):
    bad = with_tensors(good, tmp_path / "bad", lambda t: t.pop("language_model.model.layers.1.mlp.up_proj.weight"))
    assert "1 of 82 tensors are missing: language_model.model.layers.1.mlp.up_proj.weight" in refusal(KeyMismatch, bad)


def test_tensors_that_have_no_place_are_named(good, tmp_path):
    def change(held):
        held["language_model.model.layers.3.mlp.up_proj.weight"] = torch.zeros(1)
        held["vision_model.head.weight"] = torch.zeros(1)

    message = refusal(KeyMismatch, with_tensors(good, tmp_path / "bad", change))
    assert "2 tensors" in message
    assert "layers.3.mlp.up_proj.weight" in message
    assert "vision_model.head.weight" in message


def test_misshapen_tensors_are_named_with_both_shapes(good, tmp_path):
    def change(held):
        held["mlp1.1.weight"] = held["mlp1.1.weight"][:-1].contiguous()

    assert "mlp1.1.weight is [31, 128], expected [32, 128]" in refusal(
        ShapeMismatch, with_tensors(good, tmp_path / "bad", change)
    )


def test_thousands_of_wrong_names_stay_one_short_line(good, tmp_path):
    bad = with_tensors(good, tmp_path / "bad", lambda t: t.update({f"x.{i}": torch.zeros(1) for i in range(5000)}))
    assert "and 4994 more" in refusal(KeyMismatch, bad)


def test_a_fused_weight_of_the_wrong_size(tmp_path):
    source = checkpoint("internlm2-v2_5")
    name = "language_model.model.layers.1.attention.wqkv.weight"

    def change(held):
        held[name] = held[name][:-16].contiguous()

    assert f"{name} is [112, 64], expected [128, 64]" in refusal(
        ShapeMismatch, with_tensors(source, tmp_path / "bad", change)
    )


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"architectures": ["LlavaNextForConditionalGeneration"]}, UnknownArchitecture, "LlavaNextForConditional"),
        ({"architectures": None, "model_type": "qwen2_vl"}, UnknownArchitecture, "qwen2_vl"),
        ({"architectures": None, "model_type": None}, CheckpointError, "no config.json that names an architecture"),
        ({"llm_config": {"architectures": ["MambaForCausalLM"]}}, UnknownArchitecture, "MambaForCausalLM"),
        ({"llm_config": {"model_type": ""}}, UnknownArchitecture, "not named"),
        ({"llm_config": None}, ConfigError, "has no llm_config"),
        ({"vision_config": None}, ConfigError, "has no vision_config"),
        ({"ps_version": "v3"}, ConfigError, "'v3'"),
        ({"quantization_config": {"quant_method": "awq"}}, CheckpointError, "awq"),
    ],
)
def test_configs_of_something_else(good, tmp_path, changes, kind, says):
    assert says in refusal(kind, altered(good, tmp_path / "bad", **changes))


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("llm_config", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llm_config", {"rope_scaling": {"type": "mrope", "factor": 2.0}}, "'mrope'"),
        ("llm_config", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llm_config", {"num_key_value_heads": 3}, "multiple of kv_heads"),
        ("vision_config", {"norm_type": "batch_norm"}, "batch_norm"),
        ("vision_config", {"hidden_act": "quick_gelu"}, "quick_gelu"),
        ("vision_config", {"num_channels": 4}, "num_channels is 4"),
    ],
)
def test_values_without_meaning_here(good, tmp_path, part, changes, says):
    raw = read_config(good)
    assert says in refusal(ConfigError, altered(good, tmp_path / "bad", **{part: {**raw[part], **changes}}))


def test_quantised_tensors_are_called_that(good, tmp_path):
    def change(held):
        name = "language_model.model.layers.0.mlp.up_proj"
        held[f"{name}.qweight"] = held.pop(f"{name}.weight").to(torch.int32)

    assert "quantised" in refusal(CheckpointError, with_tensors(good, tmp_path / "bad", change))


def test_a_config_that_is_no_json(good):
    (good / "config.json").write_text("{'single': quotes}")
    assert "not JSON" in refusal(CheckpointError, good)
    (good / "config.json").write_text("[1]")
    assert "list" in refusal(CheckpointError, good)


def test_an_image_token_nobody_names(good):
    raw = read_config(good)
    del raw["image_token_id"]
    (good / "config.json").write_text(json.dumps(raw))
    assert "<IMG_CONTEXT>" in refusal(CheckpointError, good)


def test_remote_code_is_kept_and_never_run(good, tmp_path):
    mark = tmp_path / "executed"
    (good / "modeling_internvl_chat.py").write_text(f"open({str(mark)!r}, 'w')")
    raw = read_config(good) | {"auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"}}
    (good / "config.json").write_text(json.dumps(raw))
    save(load(good, device="cpu"), tmp_path / "out")
    assert tree(tmp_path / "out") == tree(good)
    assert not mark.exists()


def test_a_payload_beside_a_config(good, tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    (good / "model.safetensors").unlink()
    torch.save({"x": Payload()}, good / "pytorch_model.bin")
    assert "more than tensors" in refusal(UnsafeFile, good)
    assert not (tmp_path / "executed").exists()


# --- other ways to store the same -------------------------------------------------------------------------------------


def resharded_as_bin(source: Path, target: Path, parts: int) -> Path:
    """The tensors of a folder as `pytorch_model-*.bin` with an index."""
    held = tensors(source)
    target.mkdir()
    for path in source.iterdir():
        if path.suffix not in (".safetensors", ".bin") and not path.name.endswith("index.json"):
            shutil.copy(path, target / path.name)
    names = list(held)
    places = {name: f"pytorch_model-{i % parts + 1:05}-of-{parts:05}.bin" for i, name in enumerate(names)}
    for file in sorted(set(places.values())):
        torch.save({n: held[n] for n in names if places[n] == file}, target / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (target / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize("name", CHATS)
def test_sharded_pickles(name, tmp_path):
    source = resharded_as_bin(checkpoint(name), tmp_path / "bin", 3)
    model = load(source, device="cpu", dtype="float32")
    expected = load(checkpoint(name), device="cpu", dtype="float32").state_dict()
    assert all(torch.equal(expected[n], tensor) for n, tensor in model.state_dict().items())
    save(model, tmp_path / "again")
    assert same_tensors(tmp_path / "again", source)
    assert sorted(tree(tmp_path / "again")) == sorted(tree(source))


def test_safetensors_win_over_pickles(good):
    torch.save({"never": torch.zeros(1)}, good / "pytorch_model.bin")
    load(good, device="cpu")


@pytest.mark.parametrize("layout", ["custom", "pair"])
def test_legacy_inv_freq_is_carried(layout, tmp_path):
    source = checkpoint("internvl-14b" if layout == "pair" else "yi-v1_2-ps_v1")
    prefix = "qllama" if layout == "pair" else "language_model"
    name = f"{prefix}.model.layers.0.self_attn.rotary_emb.inv_freq"
    old = with_tensors(source, tmp_path / "old", lambda t: t.update({name: torch.rand(8)}))
    save(load(old, device="cpu"), tmp_path / "again")
    assert tree(tmp_path / "again") == tree(old)


def test_both_prefix_forms_of_the_transformers_layout(tmp_path):
    """The older releases keep every part under `model.`, and the head at the root."""
    model = tiny(tmp_path / "new", "qwen3", format="hf")

    def older(held):
        for name in list(held):
            head = name.startswith("language_model.lm_head")
            stack = name.replace("language_model.model.", "language_model.")
            held[name.removeprefix("language_model.") if head else f"model.{stack}"] = held.pop(name)

    old = with_tensors(tmp_path / "new", tmp_path / "old", older)
    again = load(old, device="cpu", dtype="float32")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    save(again, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(old)


def test_fp32_and_bf16_in_one_file(tmp_path):
    """One type in memory, each its own on disk."""
    save(chat_model(), tmp_path / "x")

    def change(held):
        for i, name in enumerate(held):
            held[name] = held[name].bfloat16() if i % 3 else held[name]

    mixed = with_tensors(tmp_path / "x", tmp_path / "mixed", change)
    model = load(mixed, device="cpu", dtype="float32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    save(model, tmp_path / "again")
    assert same_tensors(tmp_path / "again", mixed)


def test_greedy_answers_do_not_change_by_being_saved(tmp_path):
    model = tiny(tmp_path / "x", "gpt-oss")
    again = load(tmp_path / "x", device="cpu", dtype="float32")
    ids = random_ids(1, 12)
    with torch.no_grad():
        assert torch.equal(model(ids), again(ids))


def test_a_damaged_tensor_count_in_shards(tmp_path):
    """A shard of another checkpoint of the same names."""
    source = checkpoint("llama3-6bvit-v2-sharded")
    shutil.copytree(source, tmp_path / "bad")
    file = tmp_path / "bad" / "model-00002-of-00003.safetensors"
    held = load_file(file)
    name = next(iter(held))
    held[name] = held[name][:1].contiguous()
    save_file(held, file, metadata={"format": "pt"})
    assert name in refusal(ShapeMismatch, tmp_path / "bad")


# --- forms of other sizes than the golden ones ------------------------------------------------------------------------


def internlm2_by_hand(state: dict[str, torch.Tensor], heads: int, kv: int, *, bias: bool) -> dict[str, torch.Tensor]:
    """Our tensors as InternLM2 stores them, head by head, without the package's own tables."""
    theirs: dict[str, torch.Tensor] = {}
    names = {"o_proj": "attention.wo", "gate_proj": "feed_forward.w1", "up_proj": "feed_forward.w3",
             "down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
             "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    for name, tensor in state.items():
        parts = name.split(".")
        module, leaf = parts[-2], parts[-1]
        stem = ".".join(parts[:4])
        if not name.startswith("language_model.") or name == "language_model.model.norm.weight":
            theirs[name] = tensor
        elif name == "language_model.model.embed_tokens.weight":
            theirs["language_model.model.tok_embeddings.weight"] = tensor
        elif name == "language_model.lm_head.weight":
            theirs["language_model.output.weight"] = tensor
        elif module == "q_proj":
            q, k, v = (state[name.replace("q_proj", f"{part}_proj")] for part in "qkv")
            size, rows = len(q) // heads, []
            for head in range(kv):
                for query in range(head * heads // kv, (head + 1) * heads // kv):
                    rows.append(q[query * size : (query + 1) * size])
                rows += [k[head * size : (head + 1) * size], v[head * size : (head + 1) * size]]
            theirs[f"{stem}.attention.wqkv.{leaf}"] = torch.cat(rows)
        elif module in names:
            theirs[f"{stem}.{names[module]}.{leaf}"] = tensor
    assert bias == any(name.endswith("wqkv.bias") for name in theirs)
    return theirs


@pytest.mark.parametrize(("heads", "kv", "bias"), [(4, 4, False), (4, 1, True), (6, 2, False), (6, 3, True)])
def test_internlm2_of_other_sizes(heads, kv, bias, tmp_path):
    text = replace(TEXTS["internlm2"], dim=48, heads=heads, kv_heads=kv, head_dim=8, qkv_bias=bias, out_bias=bias)
    text = replace(text, dim=8 * heads)
    model = tiny(tmp_path / "x", "internlm2", text=text)
    theirs = internlm2_by_hand(model.state_dict(), heads, kv, bias=bias)
    save_file(theirs, tmp_path / "x" / "model.safetensors", metadata={"format": "pt"})
    raw = read_config(tmp_path / "x")
    raw["llm_config"] |= {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": bias}
    (tmp_path / "x" / "config.json").write_text(json.dumps(raw))
    again = load(tmp_path / "x", device="cpu", dtype="float32")
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    save(again, tmp_path / "y")
    assert same_tensors(tmp_path / "y", tmp_path / "x")


@pytest.mark.parametrize(("kv", "head"), [(1, 8), (2, 8), (4, 16)])
def test_phi3_of_other_sizes(kv, head, tmp_path):
    text = replace(TEXTS["llama"], kv_heads=kv, head_dim=head)
    model = tiny(tmp_path / "x", "llama", text=text)
    theirs = dict(model.state_dict())
    for layer in range(text.layers):
        stem = f"language_model.model.layers.{layer}"
        fused = [theirs.pop(f"{stem}.self_attn.{part}_proj.weight") for part in "qkv"]
        theirs[f"{stem}.self_attn.qkv_proj.weight"] = torch.cat(fused)
        fused = [theirs.pop(f"{stem}.mlp.{part}_proj.weight") for part in ("gate", "up")]
        theirs[f"{stem}.mlp.gate_up_proj.weight"] = torch.cat(fused)
    save_file(theirs, tmp_path / "x" / "model.safetensors", metadata={"format": "pt"})
    raw = read_config(tmp_path / "x")
    raw["llm_config"] |= {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"}
    (tmp_path / "x" / "config.json").write_text(json.dumps(raw))
    again = load(tmp_path / "x", device="cpu", dtype="float32")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    save(again, tmp_path / "y")
    assert same_tensors(tmp_path / "y", tmp_path / "x")


def test_a_retrieval_fine_tune_has_the_table_of_its_larger_pictures(tmp_path):
    """`force_image_size` 84 beside `vision_config.image_size` 56: the table in the file is that of 84."""

    def change(held):
        held["vision_model.embeddings.position_embedding"] = torch.randn(1, 37, 64)

    larger = with_tensors(checkpoint("internvl-14b"), tmp_path / "larger", change)
    refusal(ShapeMismatch, larger)
    fine = altered(larger, tmp_path / "fine", force_image_size=84)
    model = load(fine, device="cpu")
    assert isinstance(model, PairModel)
    assert model.config.tile_size == 84
    with torch.no_grad():
        assert model.encode_image(torch.randn(1, 3, 84, 84), mode="InternVL-G").shape == (1, 40)
    save(model, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(fine)


def test_stops_are_read_from_the_checkpoint(tmp_path):
    assert load_encoder(checkpoint("internlm2-v2_5")).stop_ids == (1004, 2, 1005)
    assert load_encoder(checkpoint("internlm2-v2_5"), compat="original").stop_ids == (1004,)
    shutil.copytree(checkpoint("qwen2-v2_5-bf16"), tmp_path / "x")
    stops = tmp_path / "x" / "generation_config.json"
    for found, expected in (
        ('{"eos_token_id": 702}', (702,)),
        ("{}", (702,)),
        ('{"eos_token_id": [5]}', (702, 5)),
    ):
        stops.unlink(missing_ok=True)
        stops.write_text(found)
        assert load_encoder(tmp_path / "x").stop_ids == expected
    stops.write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(InternVLError, match="expected a token id or a list of them"):
        load_encoder(tmp_path / "x")


@pytest.mark.parametrize(("device", "says"), [("gpu", "no device; expected cpu"), ("cuda:64", "there is no device")])
def test_a_device_that_is_not_here_is_said_before_anything_is_read(device, says):
    with pytest.raises(InternVLError, match=says):
        load("no/such-model", device=device)


@pytest.mark.parametrize("use", [load, load_encoder])
def test_a_wrong_compat_is_refused(use, tmp_path):
    tiny(tmp_path / "x")
    with pytest.raises(NoSuchName, match="Did you mean 'original'"):
        use(tmp_path / "x", compat="Original")


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_types_that_cannot_hold_weights_are_refused(dtype, tmp_path):
    model = tiny(tmp_path / "x")
    for use in (
        lambda: load(tmp_path / "x", dtype=dtype),
        lambda: save(model, tmp_path / "y", dtype=dtype),
        lambda: convert(tmp_path / "x", tmp_path / "y", format="hf", dtype=dtype),
    ):
        with pytest.raises(UsageError, match="cannot hold weights here; choose float32, bfloat16"):
            use()


def test_weights_of_no_floating_type_are_refused(tmp_path):
    tiny(tmp_path / "x")
    whole = with_tensors(
        tmp_path / "x", tmp_path / "y", lambda held: held.update({k: v.long() for k, v in held.items()})
    )
    with pytest.raises(CheckpointError, match="not the weights of a model"):
        load(whole, device="cpu")


# --- what stands beside the weights -----------------------------------------------------------------------------------


def test_what_training_left_is_not_copied(tmp_path):
    model = tiny(tmp_path / "x")
    kept = tree(tmp_path / "x")
    for name in (
        "trainer_state.json",
        "training_log.txt",
        "all_results.json",
        "run.log",
        "events.out.tfevents.1",
        ".env",
    ):
        (tmp_path / "x" / name).write_text("private")
    (tmp_path / "x" / "README.md").write_text("of the model")
    save(load(tmp_path / "x", device="cpu"), tmp_path / "y")
    assert tree(tmp_path / "y") == {**kept, "README.md": b"of the model"}
    assert model.origin is None


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    tiny(tmp_path / "x")
    (tmp_path / "secret.md").write_text("private")
    (tmp_path / "x" / "README.md").symlink_to(tmp_path / "secret.md")
    with pytest.raises(CheckpointError, match=r"README\.md: a link to .*secret\.md, outside its folder"):
        load(tmp_path / "x", device="cpu")


def test_the_links_of_the_cache_of_the_hub_are_followed(tmp_path):
    home, snapshot = tmp_path / "models--a--b", tmp_path / "models--a--b" / "snapshots" / "abc"
    tiny(home / "blobs")
    kept = tree(home / "blobs")
    snapshot.mkdir(parents=True)
    for name in kept:
        (snapshot / name).symlink_to(Path("..", "..", "blobs", name))
    save(load(snapshot, device="cpu"), tmp_path / "y")
    assert tree(tmp_path / "y") == kept
