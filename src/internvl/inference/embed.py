"""Pictures and texts as vectors: retrieval, zero-shot classification, features for a probe.

model         picture                                     text
InternVL-C    clip_projector of the tower                 last token of the text tower
InternVL-G    the same plus what the queries saw          the same
InternViT     class token, or the mean of the patches     -
chat models   their tower's, at `select_layer`            -
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from internvl.data.image import normalise
from internvl.data.limits import OPEN, Limits
from internvl.data.media import Source, open_image
from internvl.data.pair import CAPTION_PROMPT, Fit, encode_picture, encode_prompt, encode_texts
from internvl.data.tokenizer import Tokenizer
from internvl.errors import UsageError, find
from internvl.inference.answer import GrowingText
from internvl.inference.generate import generate
from internvl.inference.rows import Prompt, new_cache
from internvl.inference.sampling import SamplingConfig
from internvl.models.chat import ChatModel
from internvl.models.config import VisionConfig
from internvl.models.pair import MODES, Mode, PairModel
from internvl.models.vit import VisionTransformer
from internvl.weights.load import load, load_tokenizer, resolve

Pool = Literal["class", "mean"]
POOLS: dict[str, None] = dict.fromkeys(("class", "mean"))
FITS: dict[str, None] = dict.fromkeys(("crop", "stretch"))

CAPTION = SamplingConfig(beams=5, max_new_tokens=30, min_new_tokens=8)
"""How the published captions are drawn."""


class Embedder:
    """Unit vectors of pictures and texts.

    mode: for InternVL-14B, which of its two ways to look at a picture. pool: for a tower, its class token or the mean
    of its patches. fit: `crop` for classification, `stretch` for retrieval, as published. limits: what may be opened,
    and from where.

    >>> embedder = Embedder.load("OpenGVLab/InternVL-14B-224px", mode="InternVL-G")  # doctest: +SKIP
    >>> embedder.images(["bus.jpg"]) @ embedder.texts(["a red bus", "two dogs"]).T  # doctest: +SKIP
    tensor([[0.31, 0.04]])
    """

    def __init__(
        self,
        model: PairModel | ChatModel | VisionTransformer,
        tokenizer: Tokenizer | None = None,
        *,
        mode: Mode = "InternVL-C",
        pool: Pool = "class",
        fit: Fit = "crop",
        limits: Limits = OPEN,
    ) -> None:
        _check(mode, pool, fit)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.mode: Mode = mode
        self.pool: Pool = pool
        self.fit: Fit = fit
        self.limits = limits
        self.device = next(model.parameters()).device

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        mode: Mode = "InternVL-C",
        pool: Pool = "class",
        fit: Fit = "crop",
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        token: str | None = None,
        limits: Limits = OPEN,
    ) -> Embedder:
        """Of any checkpoint that `internvl.load` reads. revision and token: of a model on the hub."""
        _check(mode, pool, fit)  # a wrong name is said before anything is downloaded
        path = resolve(source, revision=revision, token=token)
        model = load(path, device=device, dtype=dtype)
        tokenizer = load_tokenizer(path) if isinstance(model, PairModel) else None
        return cls(model, tokenizer, mode=mode, pool=pool, fit=fit, limits=limits)

    @property
    def tile_size(self) -> int:
        """Side of the picture that the model was trained on, in pixels."""
        config = self.model.config
        return config.image_size if isinstance(config, VisionConfig) else config.tile_size

    @torch.inference_mode()
    def images(self, sources: str | bytes | Iterable[Source | Image.Image], *, batch: int = 16) -> Tensor:
        """(N, dim) fp32 unit vectors of pictures (or of one): paths, addresses, bytes or Pillow images."""
        given = [sources] if isinstance(sources, str | bytes) else list(sources)
        if not given or batch < 1:
            raise UsageError(f"there is nothing to embed: {len(given)} pictures, batch={batch}")
        found = [self._look(given[start : start + batch]) for start in range(0, len(given), batch)]
        return F.normalize(torch.cat(found).float(), dim=-1)

    @torch.inference_mode()
    def frames(self, frames: Sequence[Source | Image.Image]) -> Tensor:
        """(dim,) fp32 unit vector of a video's frames: the mean of theirs, which are not made unit vectors before.

        So the published MSR-VTT program has it.
        """
        if not frames:
            raise UsageError("there is nothing to embed: no frames")
        return F.normalize(self._look(frames).float().mean(dim=0), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: str | Sequence[str], *, batch: int = 64) -> Tensor:
        """(N, dim) fp32 unit vectors of texts (or of one); only InternVL-C and -G have a text side."""
        if not isinstance(self.model, PairModel) or self.tokenizer is None:
            raise UsageError(
                f"this {type(self.model).__name__} has no text side; load an InternVL-14B or InternVL-C checkpoint"
            )
        texts = [texts] if isinstance(texts, str) else texts
        if not texts:
            raise UsageError("there is nothing to embed: no texts")
        ids = torch.from_numpy(encode_texts(self.tokenizer, texts)).to(self.device)
        found = [self.model.encode_text(part).float() for part in ids.split(batch)]
        return F.normalize(torch.cat(found), dim=-1)

    @torch.inference_mode()
    def captions(
        self,
        images: Iterable[Source | Image.Image],
        *,
        prompt: str = CAPTION_PROMPT,
        sampling: SamplingConfig = CAPTION,
        batch: int = 8,
    ) -> list[str]:
        """One caption a picture, as published: the whole picture stretched to one tile. InternVL-14B only.

        >>> embedder.captions(["bus.jpg"])  # doctest: +SKIP
        ['a red bus on a street']
        """
        model, tokenizer = self.model, self.tokenizer
        if not isinstance(model, PairModel) or model.query_tokens is None or tokenizer is None:
            raise UsageError(f"this {type(model).__name__} writes no captions; load an InternVL-14B checkpoint")
        given = list(images)
        if not given or batch < 1:
            raise UsageError(f"there is nothing to caption: {len(given)} pictures, batch={batch}")
        ids, stops = encode_prompt(tokenizer, prompt), (tokenizer.eos_id,) if tokenizer.eos_id is not None else ()
        captions: list[str] = []
        for start in range(0, len(given), batch):
            states = model.vision_model(self._pixels(given[start : start + batch], "stretch"))
            prompts = [Prompt(ids, state, sampling, stops) for state in states.split(1)]
            for done in generate(model, prompts, cache=new_cache(model, prompts)):
                text = GrowingText(tokenizer.stream(), sampling.stop)
                for token in done.answer_ids:
                    text.push(token)
                text.finish()
                captions.append(text.text)
        return captions

    def classifier(self, names: Sequence[str], templates: Sequence[str] = ("a photo of a {c}.",)) -> Tensor:
        """(dim, classes): for each name the mean of its prompts' unit vectors, made a unit vector again.

        `{c}` stands for the name (Radford et al. 2021, arXiv:2103.00020). Scores are 100 * images @ classifier.
        """
        if bad := [template for template in templates if "{c}" not in template]:
            raise UsageError(f"the template {bad[0]!r} has no {{c}}, which stands for the class")
        prompts = [template.replace("{c}", name) for name in names for template in templates]
        vectors = self.texts(prompts).unflatten(0, (len(names), len(templates))).mean(dim=1)
        return F.normalize(vectors, dim=-1).T

    def _pixels(self, sources: Sequence[Source | Image.Image], fit: Fit) -> Tensor:
        """(N, 3, S, S)"""
        pictures = [open_image(source, self.limits) for source in sources]
        tiles = np.stack([encode_picture(picture, size=self.tile_size, fit=fit) for picture in pictures])
        return normalise(torch.from_numpy(tiles).to(self.device))

    def _look(self, sources: Sequence[Source | Image.Image]) -> Tensor:
        pixels = self._pixels(sources, self.fit)
        if isinstance(self.model, PairModel):
            return self.model.encode_image(pixels, mode=self.mode)
        if isinstance(self.model, ChatModel):
            [states] = self.model.vision_model(pixels, collect=(self.model.config.select_layer,))
        else:
            states = self.model(pixels)
        return states[:, 0] if self.pool == "class" else states[:, 1:].mean(dim=1)


def _check(mode: str, pool: str, fit: str) -> None:
    find("mode", mode, MODES)
    find("pool", pool, POOLS)
    find("fit", fit, FITS)
