"""The table of layouts: every published model can be described in the layouts that hold its kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from internvl import zoo
from internvl.errors import ConfigError
from internvl.models.config import ChatConfig, PairConfig
from internvl.weights.checkpoint import empty_model, stored_shapes
from internvl.weights.configs import write_custom, write_hf
from internvl.weights.formats import TABLE, Seen
from internvl.weights.keys import Dialect

CHATS = [name for name, row in zoo.TABLE.items() if isinstance(row.config, ChatConfig) and row.layout != "llava"]


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("format", ["custom", "hf"])
def test_published_configs_are_written_and_read(name, format):
    config = zoo.TABLE[name].config
    assert isinstance(config, ChatConfig)
    if format == "hf" and config.pixel_shuffle == "v1":
        with pytest.raises(ConfigError, match="v1"):
            write_hf(config)
        return
    raw = (write_custom if format == "custom" else write_hf)(config)
    side = b'{"size": {"height": %d, "width": %d}}' % (config.tile_size, config.tile_size)
    read = TABLE[format].read(Seen(name, raw, {}, {"preprocessor_config.json": side}))
    same = config.image_size if config.image_size != config.vision.image_size else None
    assert read == replace(config, image_size=same)


def one_of_each_shape() -> list[str]:
    """The smallest row of each decoder family, tower and layout, so that the test stays quick."""
    seen: dict[object, str] = {}
    for name, row in sorted(zoo.TABLE.items(), key=lambda item: item[1].parameters):
        seen.setdefault((row.layout, row.tower.partition("-")[2][:4], (row.decoder or "")[:9], bool(row.file)), name)
    return sorted(seen.values())


@pytest.mark.parametrize("name", one_of_each_shape())
def test_every_tensor_of_a_published_model_has_a_name(name):
    """In full size, on the meta device: as many numbers under their names as the row counts."""
    row = zoo.TABLE[name]
    raw = {"llm_config": {}, "text_config": {}}
    if isinstance(row.config, ChatConfig):
        family = {"internlm2": "internlm2", "internlm3": "internlm3", "Phi-3-min": "phi3"}.get((row.decoder or "")[:9])
        text = write_custom(replace(row.config, projector="mlp1"))["llm_config"]
        text = {"model_type": family} if family else text
        raw = {"llm_config": text, "text_config": text}
    layout = TABLE[row.layout]
    model = empty_model(row.config, {}, layout)
    shapes = stored_shapes(
        layout.table(row.config, raw, Dialect()).plan(model.state_dict(), "ours"), model.state_dict()
    )
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == sum(p.numel() for p in model.parameters())
    if not isinstance(row.config, PairConfig):
        assert sum(torch.Size(shape).numel() for shape in shapes.values()) == row.parameters
