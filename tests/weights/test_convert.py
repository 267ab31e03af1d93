"""From layout to layout and back: no tensor changes, prompts and pictures stay what they were."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from internvl.data.prompts import Turn
from internvl.errors import CheckpointError, ConfigError, UsageError
from internvl.models.chat import ChatModel
from internvl.models.config import ChatConfig, VisionConfig
from internvl.models.projector import projector
from internvl.models.vit import VisionTransformer
from internvl.weights.files import Handle, SafetensorsFile, open_weights
from internvl.weights.load import convert, load, load_encoder, load_tokenizer, save
from internvl.weights.sidecars import chat_template
from tests.models.tiny import TEXTS, VISIONS, chat_config, random_ids, shake
from tests.weights.folders import (
    CHATS,
    ENCODING,
    checkpoint,
    read_config,
    same_tensors,
    tensors,
    tiny,
    tree,
)

TO_HF = [name for name in CHATS if not name.startswith(("yi", "llama-v1", "internlm2-lora"))]
"""Those with pixel shuffle v2 and without adapters."""
TEXTS_TO_ENCODE = (
    "Hello, what is in the picture?",
    " two  spaces\nnew line",
    "你好 émoji 🙂",
    "a<ref>bus</ref>",
    "12.5",
)


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The golden chat checkpoints in the transformers layout."""
    folder = tmp_path_factory.mktemp("hf")
    for name in TO_HF:
        convert(checkpoint(name), folder / name, format="hf")
    return {name: folder / name for name in TO_HF}


@pytest.mark.parametrize("name", TO_HF)
def test_custom_to_hf_keeps_the_model(name, hf):
    before, after = (load(folder, device="cpu", dtype="float32") for folder in (checkpoint(name), hf[name]))
    assert before.config == after.config
    assert all(torch.equal(after.state_dict()[key], tensor) for key, tensor in before.state_dict().items())
    assert {t.dtype for t in tensors(hf[name]).values()} == {t.dtype for t in tensors(checkpoint(name)).values()}


@pytest.mark.parametrize("name", TO_HF)
def test_custom_to_hf_keeps_prompts_and_pictures(name, hf):
    before, after = load_encoder(checkpoint(name)), load_encoder(hf[name])
    assert before.config == after.config
    assert (before.slot_id, before.stop_ids) == (after.slot_id, after.stop_ids)
    for text in TEXTS_TO_ENCODE:
        assert before.tokenizer.encode(text) == after.tokenizer.encode(text)
    assert before.tokenizer.adds_bos == after.tokenizer.adds_bos


@pytest.mark.parametrize("name", TO_HF)
def test_custom_to_hf_to_custom(name, hf, tmp_path):
    """InternLM2 comes back under the names of Llama, which it is."""
    convert(hf[name], tmp_path / "back", format="custom")
    before, after = (load(folder, device="cpu", dtype="float32") for folder in (checkpoint(name), tmp_path / "back"))
    assert before.config == after.config
    assert all(torch.equal(after.state_dict()[key], tensor) for key, tensor in before.state_dict().items())
    if not name.startswith("internlm2"):
        assert same_tensors(tmp_path / "back", checkpoint(name))
    assert load_encoder(checkpoint(name)).config == load_encoder(tmp_path / "back").config
    for file in ("vocab.json", "merges.txt", "tokenizer.model", "tokenizer.json"):
        assert tree(tmp_path / "back").get(file) == tree(checkpoint(name)).get(file) or file == "tokenizer.json"
    names = tree(tmp_path / "back").keys() - {"chat_template.jinja"}
    assert names <= {*tree(checkpoint(name)), "model.safetensors"}
    tokens = load_tokenizer(tmp_path / "back"), load_tokenizer(checkpoint(name))
    for text in TEXTS_TO_ENCODE:
        assert tokens[0].encode(text, specials="all") == tokens[1].encode(text, specials="all")


@pytest.mark.parametrize("name", TO_HF)
def test_hf_is_written_back_byte_for_byte(name, hf, tmp_path):
    save(load(hf[name], device="cpu"), tmp_path / "again")
    assert tree(tmp_path / "again") == tree(hf[name])


def test_converting_and_saving_write_the_same(hf, tmp_path):
    for name in TO_HF:
        save(load(checkpoint(name), device="cpu", dtype="float32"), tmp_path / name, format="hf")
        assert tree(tmp_path / name) == tree(hf[name])


def test_no_code_travels_to_hf(tmp_path):
    tiny(tmp_path / "x")
    (tmp_path / "x" / "modeling_internvl_chat.py").write_text("raise SystemExit")
    (tmp_path / "x" / "README.md").write_text("# mine")
    convert(tmp_path / "x", tmp_path / "y", format="hf")
    assert not list((tmp_path / "y").glob("*.py"))
    assert (tmp_path / "y" / "README.md").read_text() == "# mine"
    assert "auto_map" not in read_config(tmp_path / "y")


def test_both_spellings_of_rope_are_written_and_read(tmp_path):
    for name in ("internlm2", "llama3", "linear", "phi3", "gpt-oss"):
        config = replace(TEXTS[name], mlp_dim=24) if name == "gpt-oss" else TEXTS[name]
        model = tiny(tmp_path / name, name, format="hf", text=config)
        raw = read_config(tmp_path / name)
        for drop in ("rope_parameters", "rope_scaling"):
            text = {key: value for key, value in raw["text_config"].items() if key != drop}
            if drop == "rope_scaling":
                text.pop("rope_theta")
            (tmp_path / name / "config.json").write_text(json.dumps({**raw, "text_config": text}))
            assert load(tmp_path / name, device="cpu").config == model.config, (name, drop)


def test_a_bf16_checkpoint_can_be_written_in_another_type(tmp_path):
    source = checkpoint("qwen2-v2_5-bf16")
    convert(source, tmp_path / "x", format="custom", dtype="float32")
    assert {t.dtype for t in tensors(tmp_path / "x").values()} == {torch.float32}
    assert read_config(tmp_path / "x")["torch_dtype"] == "float32"
    convert(tmp_path / "x", tmp_path / "y", format="custom", dtype="bfloat16")
    assert same_tensors(tmp_path / "y", source)


@pytest.mark.parametrize(
    ("name", "format", "says"),
    [
        ("yi-v1_2-ps_v1", "hf", "no pixel shuffle v1"),
        ("internlm2-lora", "hf", "merge them first"),
        ("internvl-14b", "custom", "holds a chat model, and this is a pair"),
        ("internvl-c-pth", "pair", "pair-pth"),
        ("internvl-14b", "pair-pth", "only written back as it was read"),
        ("qwen2-v2_5-bf16", "llava", "only written back as it was read"),
        ("qwen2-v2_5-bf16", "gguf", "There are: custom, hf"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_before_anything_is_written(name, format, says, tmp_path):
    with pytest.raises((ConfigError, UsageError), match=says):
        convert(checkpoint(name), tmp_path / "out", format=format)
    assert list(tmp_path.iterdir()) == []


# --- templates for other engines --------------------------------------------------------------------------------------

CONVERSATION = (("user", "What is it?"), ("assistant", "A {{ cat }}."), ("user", 'And "this"?\n'))


def rendered(template: str, messages: list[dict[str, Any]], *, generate: bool) -> str:
    jinja = pytest.importorskip("jinja2")
    return jinja.Template(template).render(messages=messages, add_generation_prompt=generate)


@pytest.mark.parametrize("name", ["Hermes-2", "internlm2-chat", "phi3-chat", "internvl2_5", "internvl3_5_gpt_oss"])
@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("given", [None, 'Say "yes" {{ only }}'])
def test_the_jinja_template_renders_what_we_render(name, generate, system, given):
    from internvl.data.prompts import TEMPLATES

    turns = CONVERSATION if generate else CONVERSATION[:2]
    messages = [{"role": role, "content": text} for role, text in turns]
    ours = [Turn(role, (text,)) for role, text in turns]
    if given is not None:
        messages.insert(0, {"role": "system", "content": given})
        ours.insert(0, Turn("system", (given,)))
    template = TEMPLATES[name]
    written = template.render(ours, system_message=system, generate=generate)
    expected = template.spell([piece for message in written for piece in message.pieces])
    text = chat_template(replace(ENCODING, template=name, system_message=system), picture="<image>")
    assert rendered(text, messages, generate=generate) == expected


def test_pictures_in_the_jinja_template():
    text = chat_template(ENCODING, picture="<IMG_CONTEXT>")
    parts = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "Hi"}]
    out = rendered(text, [{"role": "user", "content": parts}], generate=True)
    assert out.endswith("user\n<IMG_CONTEXT>\n<video>\nHi<|im_end|>\n<|im_start|>assistant\n")


# --- transformers reads it --------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("name", TO_HF)
def test_transformers_reads_the_files(name, hf):
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="pip install 'internvl[parity]'")
    ours = load_encoder(hf[name])
    theirs = transformers.AutoTokenizer.from_pretrained(hf[name])
    assert theirs.context_image_token_id == ours.slot_id
    assert (theirs.start_image_token, theirs.end_image_token, theirs.video_token) == ("<img>", "</img>", "<video>")
    for text in TEXTS_TO_ENCODE if name != "phi3-v2" else TEXTS_TO_ENCODE[:1]:  # theirs eats Phi-3's leading spaces
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.tokenizer.encode(text)
    prompt = theirs.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert prompt == ours.template.spell(
        [piece for message in ours.template.render(
            [Turn("user", ("Hi",))], system_message=ours.config.system_message, generate=True
        ) for piece in message.pieces]
    )  # fmt: skip
    processor = transformers.AutoImageProcessor.from_pretrained(hf[name], backend="pil")
    assert (processor.size["height"], processor.max_patches) == (ours.config.tile_size, ours.config.max_tiles)
    assert processor.crop_to_patches == ours.config.dynamic


# --- towers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["internvit-6b", "internvit-300m"])
def test_towers_to_pth_and_back(name, tmp_path):
    convert(checkpoint(name), tmp_path / "pth", format="vit-pth")
    content = torch.load(tmp_path / "pth" / "model.pth", weights_only=True)
    assert list(content) == ["module"]
    assert {"cls_token", "pos_embed", "blocks.0.ls1.gamma", "patch_embed.proj.bias"} <= content["module"].keys()
    before, after = (load(folder, device="cpu") for folder in (checkpoint(name), tmp_path / "pth"))
    assert isinstance(after.config, VisionConfig)
    assert replace(after.config, layer_scale=before.config.layer_scale) == before.config
    convert(tmp_path / "pth", tmp_path / "back", format="vit")
    assert same_tensors(tmp_path / "back", checkpoint(name))
    assert load(tmp_path / "back", device="cpu").config == after.config


def test_a_released_pth_with_its_pool(tmp_path):
    """`{'module': ...}` and 14 tensors of a pool; the number of heads of its width is known."""
    config = VisionConfig(
        image_size=28, dim=3200, layers=1, heads=25, mlp_dim=64, norm="rms_norm", qkv_bias=False, qk_norm=True,
        pool_dim=24, pool_heads=16,
    )  # fmt: skip
    tower = shake(VisionTransformer(config))
    save(tower, tmp_path / "made", format="vit-pth")
    (tmp_path / "made" / "build_arguments.json").unlink()
    found = load(tmp_path / "made" / "model.pth", device="cpu")
    assert found.config == config
    save(found, tmp_path / "again")
    assert same_tensors(tmp_path / "again", tmp_path / "made")
    convert(tmp_path / "made", tmp_path / "vit", format="vit")
    assert load(tmp_path / "vit", device="cpu").config == config
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), tower.parameters(), strict=True))


def test_an_unknown_width_asks_for_its_heads(tmp_path):
    convert(checkpoint("internvit-6b"), tmp_path / "x", format="vit-pth")
    arguments = tmp_path / "x" / "build_arguments.json"
    content = json.loads(arguments.read_text())
    arguments.unlink()
    with pytest.raises(ConfigError, match="num_heads"):
        load(tmp_path / "x")
    arguments.write_text(json.dumps({**content, "depth": 9}))
    with pytest.raises(ConfigError, match=r"depth 9 \(tensors: 4\)"):
        load(tmp_path / "x")
    arguments.unlink()
    (tmp_path / "x" / "config.json").write_bytes((checkpoint("internvit-6b") / "config.json").read_bytes())
    assert load(tmp_path / "x", device="cpu").config.heads == 4  # a .pth with the config of its other form beside it


def test_any_pth_that_is_no_tower(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight"):
        load(tmp_path / "resnet.pth")


# --- the LLaVA form ---------------------------------------------------------------------------------------------------


def llava(
    folder: Path, *, inside: bool, tower: str = "./pretrained/intern_vit_6b_448px"
) -> tuple[Path, dict[str, Any]]:
    """A checkpoint as LLaVA's trainer leaves it, and the same model's tensors by our names."""
    config = replace(
        chat_config("llama", "6b"), projector="llava", image_token=-200, select_layer=-2,
        vision=replace(VISIONS["6b"], dim=1024, heads=16, image_size=448, mlp_dim=32),
    )  # fmt: skip
    from internvl.models.chat import ChatModel

    state = shake(ChatModel(config)).state_dict()
    theirs = {}
    for name, tensor in state.items():
        if name.startswith("vision_model."):
            if inside:
                theirs["model.vision_tower.vision_tower." + name.removeprefix("vision_model.")] = tensor
        else:
            theirs[name.replace("mlp1.", "model.mm_projector.").removeprefix("language_model.")] = tensor
    folder.mkdir()
    save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
    text = config.text
    raw = {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "vocab_size": text.vocab,
        "hidden_size": text.dim, "num_hidden_layers": text.layers, "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads, "intermediate_size": text.mlp_dim, "rms_norm_eps": text.eps,
        "max_position_embeddings": text.max_positions, "mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_vision_tower": tower,
        "mm_use_im_start_end": False, "image_aspect_ratio": "pad", "use_mm_proj": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(raw))
    for file in (checkpoint("llama-v1_1-bin")).glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder, state


@pytest.mark.parametrize("inside", [True, False])
def test_the_llava_form(inside, tmp_path):
    folder, state = llava(tmp_path / "chat", inside=inside)
    if not inside:
        with pytest.raises(CheckpointError, match="intern_vit_6b_448px"):
            load(folder)
        config = replace(VISIONS["6b"], dim=1024, heads=16, image_size=448, mlp_dim=32)
        tower = VisionTransformer(config)
        tower.load_state_dict({k.removeprefix("vision_model."): v for k, v in state.items() if "vision_model" in k})
        save(tower, tmp_path / "intern_vit_6b_448px")
    model = load(folder, device="cpu")
    assert isinstance(model.config, ChatConfig)
    assert (model.config.projector, model.config.select_layer, model.config.image_token) == ("llava", -2, -200)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    encoder = load_encoder(folder)
    assert encoder.config.template == "vicuna_v1"
    assert encoder.config.pad_to_square
    assert encoder.slot_id == model.config.image_token
    assert encoder.config.slots_per_tile == model.config.slots_per_tile == 32 * 32
    ids = torch.cat((torch.full((1, 1024), -200), random_ids(1, 5)), dim=1)
    with torch.no_grad():
        assert model(ids, torch.randn(1, 3, 448, 448)).isfinite().all()
    save(model, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(folder)


def test_a_tower_that_was_trained_is_not_left_behind(tmp_path):
    folder, state = llava(tmp_path / "chat", inside=False)
    tower = VisionTransformer(replace(VISIONS["6b"], dim=1024, heads=16, image_size=448, mlp_dim=32))
    tower.load_state_dict({k.removeprefix("vision_model."): v for k, v in state.items() if "vision_model" in k})
    save(tower, folder / "vision_tower")
    model = load(folder, device="cpu")
    with torch.no_grad():
        model.vision_model.encoder.layers[0].ls1 += 1
    save(model, tmp_path / "again")
    assert "model.vision_tower.vision_tower.encoder.layers.0.ls1" in tensors(tmp_path / "again")
    again = load(tmp_path / "again", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"mm_projector_type": "two_mlp"}, "two_mlp"), ({"mm_projector_type": "mlp2x_ln_gelu"}, "mlp2x_ln_gelu"),
     ({"mm_vision_select_feature": "cls_patch"}, "cls_patch"), ({"mm_use_im_start_end": True}, "mm_use_im_start_end")],
)  # fmt: skip
def test_other_llavas_are_refused(changes, says, tmp_path):
    folder, _ = llava(tmp_path / "chat", inside=True)
    (folder / "config.json").write_text(json.dumps(read_config(folder) | changes))
    with pytest.raises(ConfigError, match=says):
        load(folder)


def test_the_projector_of_llava_stays_in_its_layout(tmp_path):
    folder, _ = llava(tmp_path / "chat", inside=True)
    with pytest.raises(ConfigError, match="llava"):
        convert(folder, tmp_path / "x", format="custom")
    assert len(projector(replace(chat_config(), projector="llava"))) == 3


def test_only_the_weights_are_compared(tmp_path):
    """The helper of these tests sees a difference."""
    tiny(tmp_path / "x")
    held = load_file(tmp_path / "x" / "model.safetensors")
    held["mlp1.0.bias"] += 1
    (tmp_path / "y").mkdir()
    save_file(held, tmp_path / "y" / "model.safetensors")
    assert not same_tensors(tmp_path / "x", tmp_path / "y")


# --- how much is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3-moe", "gpt-oss", "llama"])
def test_converting_reads_every_tensor_once(name, tmp_path, monkeypatch):
    """Experts are stored apart and held as one; fused projections the other way round."""
    read: Counter[int] = Counter()
    tensor = SafetensorsFile._tensor

    def counting(self: SafetensorsFile, dtype: torch.dtype, shape: tuple[int, ...], begin: int) -> torch.Tensor:
        read[begin] += 1
        return tensor(self, dtype, shape, begin)

    tiny(tmp_path / "custom", name)
    monkeypatch.setattr(SafetensorsFile, "_tensor", counting)
    for source, target, format in (("custom", "hf", "hf"), ("hf", "again", "custom")):
        read.clear()
        convert(tmp_path / source, tmp_path / target, format=format)
        assert len(read) == len(open_weights(tmp_path / source).handles())
        assert set(read.values()) == {1}
    assert same_tensors(tmp_path / "custom", tmp_path / "again")


def test_saving_stacks_experts_once(tmp_path, monkeypatch):
    model = shake(ChatModel(chat_config("qwen3-moe")))
    read: Counter[int] = Counter()
    of = Handle.of

    def counting(tensor: torch.Tensor) -> Handle:
        handle = of(tensor)
        return replace(handle, read=lambda: read.update([tensor.data_ptr()]) or handle.read())

    monkeypatch.setattr(Handle, "of", counting)
    save(model, tmp_path / "x", dtype="bf16")
    assert len(read) == len(list(model.parameters()))
    assert set(read.values()) == {1}
